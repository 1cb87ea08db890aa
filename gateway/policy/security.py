"""Security fields: what a profile adds to an answer where the backend has not said it itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import cython
from gateway.wire.fields import BY_NAME

if TYPE_CHECKING:
    from gateway.config.snapshot import SecurityProfile

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
#: Blocks kept: every combination of six fields.
MEMO_SIZE = 64


@cython.final
@cython.cclass
class SecurityFields:
    """One profile's fields for one kind of connection, ready as bytes.

    ``names`` are lower case, in the profile's order. The fields that ``wire.fields`` numbers are
    recognised by the mask that a parsed head has; ``unnumbered`` are the others, which the caller
    looks for by name (usually there are none). Raises ValueError for what is no field.
    """

    names: tuple[bytes, ...] = cython.declare(tuple, visibility="readonly")
    unnumbered: tuple[bytes, ...] = cython.declare(tuple, visibility="readonly")
    _numbers: tuple[int, ...]
    _lines: tuple[bytes, ...]
    _relevant: cython.ulonglong
    _blocks: dict[int, bytes]

    def __init__(self, profile: SecurityProfile, tls: bool) -> None:
        fields = profile.fields + (profile.tls_fields if tls else ())
        relevant = 0
        names = []
        lines = []
        for name, value in fields:
            if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
                raise ValueError(f"profile {profile.name}: {name!r}: {value!r} is no field")
            lowered = name.lower().encode()
            names.append(lowered)
            lines.append(b"%s: %s\r\n" % (name.encode(), value.encode("latin-1")))
            if lowered in BY_NAME:
                relevant |= 1 << BY_NAME[lowered]
        self.names = tuple(names)
        self.unnumbered = tuple(name for name in names if name not in BY_NAME)
        self._numbers = tuple(BY_NAME.get(name, 0) for name in names)
        self._lines = tuple(lines)
        self._relevant = relevant
        self._blocks = {}

    def block(self, seen: cython.ulonglong, others: frozenset[bytes] = frozenset()) -> bytes:
        """Return the lines to add, CRLFs included.

        ``seen`` is the mask of ``wire.fields`` numbers that the answer has (``Head.seen``),
        ``others`` which of ``unnumbered`` it has too.
        """
        if others:
            return self._build(seen, others)
        present: cython.ulonglong = seen & self._relevant
        known = self._blocks.get(present)
        if known is not None:
            return known
        built = self._build(present, others)
        if len(self._blocks) < MEMO_SIZE:
            self._blocks[present] = built
        return built

    @cython.cfunc
    def _build(self, seen: cython.ulonglong, others: frozenset[bytes]) -> bytes:
        number: cython.int
        lines = []
        for name, number, line in zip(self.names, self._numbers, self._lines, strict=True):
            if (number and (seen >> number) & 1) or name in others:
                continue
            lines.append(line)
        return b"".join(lines)
