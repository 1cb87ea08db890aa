"""YAML as the configuration understands it: plain data, and where each value stands.

YAML 1.2's core schema over PyYAML's composer (libyaml's where it is there): ``on`` and ``yes`` are
text, ``0123`` is refused because two versions of YAML read two numbers, keys are text and stand
once, tags are refused, so nothing but data comes out. What a document can cost is bounded: its
size, its depth (libyaml's composer recurses in C), and the values that aliases unfold to.

Every error that can be told apart is told at once; an error of syntax is the only one of its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from gateway.config.keys import Place

#: Octets of a file. Ten thousand routes are about 1 MiB.
MAX_FILE = 16 * 1024 * 1024
MAX_DEPTH = 64
#: Values of a document, with those that aliases repeat.
MAX_VALUES = 1_000_000

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {word: word.lower() == "true" for word in ("true", "True", "TRUE")} | dict.fromkeys(
    ("false", "False", "FALSE"), False
)
# YAML 1.2.2 section 10.3.2.
_INT = re.compile(r"[-+]?[0-9]+")
_RADIX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9][0-9.]*")
_MAX_DIGITS = 30

# YAML 1.2.2 section 5.1: what a stream cannot hold.
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Our own marks in place of tags, so that any other tag was written in the file.
_PLAIN, _TEXT, _LIST, _MAP = "plain", "text", "list", "map"


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something stands: line and column, both from 1."""

    line: int
    column: int


START = Mark(1, 1)


@dataclass(frozen=True, slots=True)
class YamlFault:
    """One thing that is wrong with a document as YAML."""

    mark: Mark
    place: Place
    message: str


class _TooDeepError(Exception):
    """A document's nesting passed ``MAX_DEPTH`` at this node."""


class _Resolver:
    """Marks nodes by their kind and style, and counts how deep they are."""

    depth = 0

    def resolve(self, kind: type[yaml.Node], _value: object, implicit: object) -> str:
        if kind is yaml.ScalarNode:
            assert isinstance(implicit, tuple)
            return _PLAIN if implicit[0] else _TEXT
        return _LIST if kind is yaml.SequenceNode else _MAP

    def descend_resolver(self, current_node: yaml.Node | None, _index: object) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooDeepError(current_node)

    def ascend_resolver(self) -> None:
        self.depth -= 1


class _PlainComposer(
    _Resolver,
    yaml.reader.Reader,
    yaml.scanner.Scanner,
    yaml.parser.Parser,
    yaml.composer.Composer,
):
    """The composer for an installation of PyYAML without libyaml."""

    def __init__(self, stream: str) -> None:
        yaml.reader.Reader.__init__(self, stream)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)


if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]  # the stubs leave it out

    class _FastComposer(_Resolver, CParser):
        """libyaml's composer: ten times as fast."""

        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)

    COMPOSERS: tuple[Any, ...] = (_FastComposer, _PlainComposer)
else:
    COMPOSERS = (_PlainComposer,)


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _mark_of(text: str, at: int) -> Mark:
    """Return the place of a position in text."""
    return Mark(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


@dataclass(slots=True)
class Document:
    """A document's data, what is wrong with it, and where its values stand."""

    data: object = None
    faults: list[YamlFault] = field(default_factory=list)
    root: Any = None

    def mark(self, place: Place, *, at_key: bool = False) -> Mark:
        """Return where the value at ``place`` stands, or its key; the nearest that is there."""
        node, found = self.root, START if self.root is None else _mark(self.root.start_mark)
        for depth, step in enumerate(place):
            if isinstance(step, int) and isinstance(node, yaml.SequenceNode):
                if step >= len(node.value):
                    break
                node = node.value[step]
                found = _mark(node.start_mark)
            elif isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if pair[0].value == step), None)
                if pair is None:
                    break
                node = pair[1]
                wanted = pair[0] if at_key and depth == len(place) - 1 else node
                found = _mark(wanted.start_mark)
            else:
                break
        return found


class _TooManyError(Exception):
    """A document's aliases unfold to more than ``MAX_VALUES`` values."""

    def __init__(self, node: Any, place: Place) -> None:
        super().__init__(node)
        self.mark = _mark(node.start_mark)
        self.place = place


class _Builder:
    """Makes plain data of nodes and collects what is wrong with them."""

    def __init__(self) -> None:
        self.faults: list[YamlFault] = []
        self._left = MAX_VALUES
        self._open: set[int] = set()

    def fault(self, node: Any, place: Place, message: str) -> None:
        self.faults.append(YamlFault(_mark(node.start_mark), place, message))

    def build(self, node: Any, place: Place) -> object:
        """Return a node's data. Raises _TooManyError where aliases unfold to too much."""
        self._left -= 1
        if self._left < 0:
            raise _TooManyError(node, place)
        tag = node.tag
        if tag == _PLAIN:
            return self._plain(node, place)
        if tag == _TEXT:
            return node.value
        if tag not in {_LIST, _MAP}:
            self.fault(node, place, "tags (!…) are not supported, expected plain values")
            return None
        if id(node) in self._open:
            self.fault(node, place, "an alias (*…) stands within what it stands for")
            return None
        self._open.add(id(node))
        try:
            if tag == _LIST:
                return tuple(
                    self.build(item, (*place, index)) for index, item in enumerate(node.value)
                )
            return self._map(node, place)
        finally:
            self._open.discard(id(node))

    def _map(self, node: Any, place: Place) -> dict[str, object]:
        data: dict[str, object] = {}
        first: dict[str, Mark] = {}
        for key, value in node.value:
            name = self._key(key, place)
            if name is None:
                continue
            if name in data:
                earlier = first[name]
                self.fault(
                    key,
                    (*place, name),
                    f"duplicate key, it stands at line {earlier.line} already "
                    f"(column {earlier.column})",
                )
                continue
            first[name] = _mark(key.start_mark)
            data[name] = self.build(value, (*place, name))
        return data

    def _key(self, node: Any, place: Place) -> str | None:
        """Return a key's text, None (and a fault) where it is none."""
        if node.tag == _TEXT:
            if not node.value.isprintable():  # by escapes, "\0": it would garble what is told
                self.fault(node, place, "a key has control characters, expected a name")
                return None
            return str(node.value)
        if node.tag != _PLAIN:
            self.fault(node, place, "a key is not text, expected a name")
            return None
        if node.value == "<<":
            self.fault(
                node,
                place,
                "merge keys (<<) are no part of YAML 1.2, expected the keys themselves "
                "(a whole value can be repeated with &name and *name)",
            )
            return None
        value = self._plain(node, place, key=True)
        if value is not None and not isinstance(value, str):
            self.fault(
                node, place, f'the key {node.value} is not text, expected quotes: "{node.value}"'
            )
            return None
        if value is None:
            self.fault(node, place, "a key is empty, expected a name")
        return value

    def _plain(self, node: Any, place: Place, *, key: bool = False) -> object:
        """Return what a plain scalar stands for by the core schema."""
        text: str = node.value
        if text in _NULL:
            return None
        if text[0].isalpha():
            return _BOOLS.get(text, text)
        if _NOT_FINITE.fullmatch(text):
            self.fault(node, place, f"{text} is not a finite number")
            return 0.0
        if _LEADING_ZERO.fullmatch(text) and not key:
            decimal = text.lstrip("+-0") or "0"
            self.fault(
                node,
                place,
                f"{text[:40]} is read as octal or as decimal, expected {decimal[:40]}, "
                f'or "{text[:40]}" in quotes for text',
            )
            return text
        return self._number(node, place)

    def _number(self, node: Any, place: Place) -> object:
        """Return the number that a plain scalar is, else its text."""
        text: str = node.value
        integer, radix = _INT.fullmatch(text), _RADIX.fullmatch(text)
        if not integer and not radix and not _FLOAT.fullmatch(text):
            return text
        if len(text) > _MAX_DIGITS:
            self.fault(node, place, "a number of too many digits")
            return 0
        if integer:
            return int(text)
        return int(text, 0) if radix else float(text)


def _compose(text: str, composer: Any) -> Document:
    """Return a document with its nodes, or with the one error that keeps it from having any."""
    loader = composer(text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = START if mark is None else _mark(mark)
        what = error.problem or "cannot be read"
        if "nesting depth" in what:  # libyaml has a bound of its own from 0.2.6 on
            return _too_deep(place)
        context = f" ({error.context})" if error.context else ""
        if "'\\t'" in what:
            context = " (indent with spaces)"
        return Document(faults=[YamlFault(place, (), f"not YAML: {what}{context}")])
    except _TooDeepError as error:
        node = error.args[0]
        return _too_deep(START if node is None else _mark(node.start_mark))
    return Document(root=root)


def _too_deep(place: Mark) -> Document:
    what = f"nested too deep, expected at most {MAX_DEPTH} levels"
    return Document(faults=[YamlFault(place, (), what)])


def parse(octets: bytes, composer: Any = None) -> Document:
    """Return a file's document. Never raises for what the file holds.

    ``composer`` is one of ``COMPOSERS``, the fastest one by default.
    """
    if len(octets) > MAX_FILE:
        message = f"the file is too large, expected at most {MAX_FILE // 1024**2} MiB"
        return Document(faults=[YamlFault(START, (), message)])
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = octets[: error.start].decode("utf-8-sig")
        message = f"not UTF-8 (octet 0x{octets[error.start]:02x})"
        return Document(faults=[YamlFault(_mark_of(before, len(before)), (), message)])
    odd = _NOT_PRINTABLE.search(text)
    if odd is not None:
        message = f"the character U+{ord(odd[0]):04X} cannot stand in YAML"
        return Document(faults=[YamlFault(_mark_of(text, odd.start()), (), message)])
    document = _compose(text, composer or COMPOSERS[0])
    if document.root is None:
        return document
    builder = _Builder()
    try:
        document.data = builder.build(document.root, ())
    except _TooManyError as error:
        message = f"aliases unfold to too much, expected at most {MAX_VALUES} values"
        builder.faults.append(YamlFault(error.mark, error.place, message))
    document.faults = builder.faults
    return document
