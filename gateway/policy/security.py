"""Security fields: what a profile adds to an answer, replaces in it and takes off it.

A field is added where the backend has not said it itself; one that the profile overrides takes the
place of the backend's. ``{nonce}`` in a value stands for a number that each answer has another of
(Content Security Policy Level 3, section 7.1): the caller puts it in.

Compiled where a compiler is there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import cython
from gateway.wire.fields import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config.snapshot import SecurityProfile
    from gateway.wire.head import Head

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
#: Blocks kept: every combination of six fields.
MEMO_SIZE = 64
#: Names without a number that are told apart by a bit.
_MAX_UNNUMBERED = 64
NONCE = b"{nonce}"
#: 128 bits, as the standard asks for at least.
NONCE_DIGITS = 32
#: Tells the backend the number, for the page must say it, too.
NONCE_FIELD = b"X-CSP-Nonce"
#: A client's own copies of it, however they are spelled: to a CGI hyphen and underscore are one.
NONCE_NAMES = dict.fromkeys((b"x-csp-nonce", b"x_csp-nonce", b"x-csp_nonce", b"x_csp_nonce"), -1)
NONCE_LENGTHS = 1 << len(NONCE_FIELD)

_NOT_MODIFIED = cython.declare(cython.int, 304)


@cython.final
@cython.cclass
class SecurityFields:
    """One profile's fields for one kind of connection, ready as bytes.

    ``names`` are lower case, in the profile's order. The fields that ``wire.fields`` numbers are
    recognised by the mask that a parsed head has; ``unnumbered`` are the others, by their bits in
    what ``Head.sift`` finds. ``removed`` are names that are taken off besides the profile's own.
    ``nonce``: some value has a place for one. Raises ValueError for what is no field.
    """

    names: tuple[bytes, ...] = cython.declare(tuple, visibility="readonly")
    unnumbered: tuple[bytes, ...] = cython.declare(tuple, visibility="readonly")
    nonce: cython.bint = cython.declare(cython.bint, visibility="readonly")
    _numbers: tuple[int, ...]
    _bits: tuple[int, ...]
    _lines: tuple[bytes, ...]
    _relevant: cython.ulonglong
    _drop: cython.ulonglong
    _lengths: cython.ulonglong
    _sifted: dict[bytes, int]
    _blocks: dict[int, bytes]

    def __init__(self, profile: SecurityProfile, tls: bool, removed: Iterable[str] = ()) -> None:
        fields = profile.fields + (profile.tls_fields if tls else ())
        override = frozenset(name.lower().encode() for name in profile.override)
        names = []
        lines = []
        for name, value in fields:
            if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
                raise ValueError(f"profile {profile.name}: {name!r}: {value!r} is no field")
            names.append(name.lower().encode())
            lines.append(b"%s: %s\r\n" % (name.encode(), value.encode("latin-1")))
        gone = {name.lower().encode() for name in (*profile.remove, *removed)}
        gone.update(name for name in names if name in override)
        if len(names) > _MAX_UNNUMBERED:
            raise ValueError(f"profile {profile.name}: more than {_MAX_UNNUMBERED} fields")
        self.names = tuple(names)
        self.unnumbered = tuple(name for name in names if name not in BY_NAME and name not in gone)
        self.nonce = any(NONCE in line for line in lines)
        # Number and bit of a field that stands where the backend has set it.
        self._numbers = tuple(0 if name in gone else BY_NAME.get(name, 0) for name in names)
        self._bits = tuple(
            1 << self.unnumbered.index(name) if name in self.unnumbered else 0 for name in names
        )
        self._lines = tuple(lines)
        self._relevant = _mask(number for number in self._numbers if number)
        self._drop = _mask(BY_NAME[name] for name in gone if name in BY_NAME)
        sifted = {name: bit for bit, name in enumerate(self.unnumbered)}
        sifted.update((name, -1) for name in gone if name not in BY_NAME)
        self._sifted = sifted
        self._lengths = _mask(len(name) for name in sifted if len(name) < 64)
        self._blocks = {}

    @cython.ccall
    def dress(self, head: Head) -> bytes:
        """Take off an answer's head what is not to be there; return the lines to add.

        What is taken off stays off: every later rendering goes without it.
        """
        found: cython.ulonglong = 0
        if self._drop or self._lengths:
            found = head.sift(self._drop, self._lengths, self._sifted)
        lines = self._known(head.seen, found)
        # The stored page that the client is told to use has its own number, and its policy's.
        if self.nonce and head.status == _NOT_MODIFIED:
            return b"".join([line for line in lines.splitlines(True) if NONCE not in line])  # noqa: FBT003
        return lines

    @cython.ccall
    def block(self, seen: cython.ulonglong, found: cython.ulonglong = 0) -> bytes:
        """Return the lines to add, CRLFs included.

        ``seen`` is the mask of ``wire.fields`` numbers that the answer has (``Head.seen``),
        ``found`` which of ``unnumbered`` it has too, a bit for each in their order.
        """
        return self._known(seen, found)

    @cython.cfunc
    def _known(self, seen: cython.ulonglong, found: cython.ulonglong) -> bytes:
        if found:
            return self._build(seen, found)
        present: cython.ulonglong = seen & self._relevant
        known = self._blocks.get(present)
        if known is not None:
            return known
        built = self._build(present, 0)
        if len(self._blocks) < MEMO_SIZE:
            self._blocks[present] = built
        return built

    @cython.cfunc
    def _build(self, seen: cython.ulonglong, found: cython.ulonglong) -> bytes:
        number: cython.int
        bit: cython.ulonglong
        lines = []
        for number, bit, line in zip(self._numbers, self._bits, self._lines, strict=True):
            if (number and (seen >> number) & 1) or bit & found:
                continue
            lines.append(line)
        return b"".join(lines)


def _mask(places: Iterable[int]) -> int:
    value = 0
    for place in places:
        value |= 1 << place
    return value
