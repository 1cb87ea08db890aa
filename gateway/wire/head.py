"""A message's head as one bytes object plus offsets: parsed once, rendered in one pass.

No object is made per field. Policies ask for the few fields that they need (``get``), and the
outgoing head is built by copying runs of kept lines between what is left out and what is added.

The grammar is RFC 9112's without its leniencies: CRLF only, no obs-fold, no blank before a colon,
no control octet anywhere, one ``Host``, digits only in ``Content-Length``, no other transfer coding
than ``chunked``. Whatever two parsers could read in two ways is refused with ``WireError``.

A field named like one that the gateway looks at, but with ``_`` for ``-`` (``X_Forwarded_For``), is
that field to every backend that hands fields on as CGI variables (RFC 3875 section 4.1.18). It is
not that field here, and is left out of what is rendered.

Compiled or plain, the behaviour is the same (see docs/adr/0002). The arrays below are C arrays when
compiled and are never bounds-checked there: the number of fields is checked against MAX_FIELDS
before a store, and what has 256 places is indexed by an octet.
"""

from __future__ import annotations

import cython
from gateway.wire.errors import WireError
from gateway.wire.fields import CLASSES, FOLD, MULTIPLIERS, NAMES, TABLE

MAX_FIELDS = 100
MAX_METHOD = 32
#: Content-Length has at most this many digits, so that it never wraps a 64-bit number.
MAX_LENGTH_DIGITS = 18
MAX_CONNECTION_TOKENS = 32
#: Offsets are C ints.
MAX_DATA = 2**31 - 1

# How the message's body is framed (RFC 9112 section 6.3).
BODY_NONE = 0
BODY_LENGTH = 1
BODY_CHUNKED = 2
BODY_UNTIL_CLOSE = 3

_BODY_NONE = cython.declare(cython.int, BODY_NONE)
_BODY_LENGTH = cython.declare(cython.int, BODY_LENGTH)
_BODY_CHUNKED = cython.declare(cython.int, BODY_CHUNKED)
_BODY_UNTIL_CLOSE = cython.declare(cython.int, BODY_UNTIL_CLOSE)

# What an octet may stand in, and what it is folded to: C arrays of 256 places, indexed by an octet.
_CLASS = cython.declare(cython.uchar[256])  # type: ignore[misc, valid-type]  # no C arrays in mypy
_FOLD = cython.declare(cython.uchar[256])  # type: ignore[misc, valid-type]
_octet = cython.declare(cython.int, 0)
for _octet in range(256):
    _CLASS[_octet] = CLASSES[_octet]
    _FOLD[_octet] = FOLD[_octet]
if not cython.compiled:
    _CLASS = CLASSES
    _FOLD = FOLD

# C's copies of what the parser uses for every field.
_A = cython.declare(cython.int, MULTIPLIERS[0])
_B = cython.declare(cython.int, MULTIPLIERS[1])
_C = cython.declare(cython.int, MULTIPLIERS[2])
_TABLE = cython.declare(bytes, TABLE)
_NAMES = cython.declare(tuple, NAMES)
_MAX_FIELDS = cython.declare(cython.int, MAX_FIELDS)
_MAX_DATA = cython.declare(cython.Py_ssize_t, MAX_DATA)

_HOST = cython.declare(cython.int, 1)
_CONNECTION = cython.declare(cython.int, 2)
_CONTENT_LENGTH = cython.declare(cython.int, 3)
_TRANSFER_ENCODING = cython.declare(cython.int, 4)
_EXPECT = cython.declare(cython.int, 5)
_UPGRADE = cython.declare(cython.int, 6)


@cython.cfunc
def _cut(data: bytes, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> bytes:
    """Return ``data[start:end]``; compiled without the slice object that this would make first.

    The check keeps what the pointer does not: places are non-negative and in order here.
    """
    if cython.compiled:
        octets: cython.p_char = data
        if start < 0 or end < start or end > len(data):
            raise IndexError(f"{start} to {end} of {len(data)} octets")
        return octets[start:end]
    else:  # noqa: RET505 - the compiler leaves one of the two out
        return data[start:end]


@cython.freelist(16)  # 2 KiB each: cheaper kept than asked for again
@cython.final
@cython.cclass
class Head:
    """One parsed head. Offsets are into ``data``, which may go on behind the head's ``end``.

    ``minor`` is the HTTP/1 minor version; ``status`` is 0 for a request. ``seen`` and ``repeated``
    are masks of ``fields`` numbers. ``body`` is a BODY_*, ``length`` its octets where known (-1
    where not). ``persistent`` says whether the sender keeps the connection after this message;
    ``upgrade`` whether it asks (or agrees) to change the protocol.
    """

    data: bytes = cython.declare(bytes, visibility="readonly")
    start: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="readonly")
    end: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="readonly")
    count: cython.int = cython.declare(cython.int, visibility="readonly")
    minor: cython.int = cython.declare(cython.int, visibility="readonly")
    status: cython.int = cython.declare(cython.int, visibility="readonly")
    seen: cython.ulonglong = cython.declare(cython.ulonglong, visibility="readonly")
    repeated: cython.ulonglong = cython.declare(cython.ulonglong, visibility="readonly")
    body: cython.int = cython.declare(cython.int, visibility="readonly")
    length: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    persistent: cython.bint = cython.declare(cython.bint, visibility="readonly")
    upgrade: cython.bint = cython.declare(cython.bint, visibility="readonly")
    expect_continue: cython.bint = cython.declare(cython.bint, visibility="readonly")
    _method_end: cython.Py_ssize_t
    _target_at: cython.Py_ssize_t
    _target_end: cython.Py_ssize_t
    _line_end: cython.Py_ssize_t
    # C arrays, of which mypy knows nothing.
    _name_at = cython.declare(cython.int[100])  # type: ignore[misc, valid-type]
    _name_end = cython.declare(cython.int[100])  # type: ignore[misc, valid-type]
    _value_at = cython.declare(cython.int[100])  # type: ignore[misc, valid-type]
    _value_end = cython.declare(cython.int[100])  # type: ignore[misc, valid-type]
    _id = cython.declare(cython.uchar[100])  # type: ignore[misc, valid-type]
    _named = cython.declare(cython.uchar[100])  # type: ignore[misc, valid-type]
    _first = cython.declare(cython.uchar[64])  # type: ignore[misc, valid-type]

    def __init__(self, data: bytes, start: cython.Py_ssize_t) -> None:
        if start < 0 or start > len(data):
            raise ValueError(f"a head cannot start at {start} of {len(data)} octets")
        if not cython.compiled:
            self._name_at = [0] * 100
            self._name_end = [0] * 100
            self._value_at = [0] * 100
            self._value_end = [0] * 100
            self._id = [0] * 100
            self._named = [0] * 100
            self._first = [0] * 64
        self.data = data
        self.start = start
        self.end = 0
        self.count = 0
        self.minor = 1
        self.status = 0
        self.seen = 0
        self.repeated = 0
        self.body = 0
        self.length = 0
        self.persistent = True
        self.upgrade = False
        self.expect_continue = False
        self._method_end = start
        self._target_at = start
        self._target_end = start
        self._line_end = start

    # --- what policies ask ----------------------------------------------------------------------

    @property
    def method(self) -> bytes:
        """The request's method, as sent (methods are case-sensitive)."""
        return _cut(self.data, self.start, self._method_end)

    @property
    def target(self) -> bytes:
        """The request-target, byte for byte."""
        return _cut(self.data, self._target_at, self._target_end)

    @property
    def reason(self) -> bytes:
        """The answer's reason phrase, possibly empty."""
        return _cut(self.data, self._target_at, self._target_end)

    @property
    def line(self) -> bytes:
        """The request line or status line, byte for byte, its CRLF included."""
        return _cut(self.data, self.start, self._line_end)

    @cython.ccall
    def cut_method(self) -> bytes:
        """Return ``method``: as a call, which compiled code makes without Python."""
        return _cut(self.data, self.start, self._method_end)

    @cython.ccall
    def cut_target(self) -> bytes:
        """Return ``target``."""
        return _cut(self.data, self._target_at, self._target_end)

    @cython.ccall
    def cut_line(self) -> bytes:
        """Return ``line``."""
        return _cut(self.data, self.start, self._line_end)

    @cython.ccall
    def get(self, field: cython.int) -> bytes | None:
        """Return the first value of a known field, trimmed; None where it is absent.

        Raises ValueError for what is no field's number.
        """
        i: cython.int
        if field < 0 or field > 63:
            raise ValueError(f"no field has the number {field}")
        if not (self.seen >> field) & 1:
            return None
        i = self._first[field]
        return _cut(self.data, self._value_at[i], self._value_end[i])

    def get_all(self, field: cython.int) -> list[bytes]:
        """Return every value of a known field, in order."""
        data: bytes = self.data
        return [
            data[self._value_at[i] : self._value_end[i]]
            for i in range(self.count)
            if self._id[i] == field
        ]

    @cython.ccall
    def find(self, name: bytes) -> bytes | None:
        """Return the first value of the field with this lower-case name, known or not."""
        i: cython.int
        for i in range(self.count):
            if self._name_end[i] - self._name_at[i] == len(name) and self._same(i, name):
                return _cut(self.data, self._value_at[i], self._value_end[i])
        return None

    def find_all(self, name: bytes) -> list[bytes]:
        """Return every value of the field with this lower-case name, in order."""
        return [
            _cut(self.data, self._value_at[i], self._value_end[i])
            for i in range(self.count)
            if self._name_end[i] - self._name_at[i] == len(name) and self._same(i, name)
        ]

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return (name in lower case, value) of every field: for tests and cold paths."""
        data: bytes = self.data
        return [
            (
                data[self._name_at[i] : self._name_end[i]].lower(),
                data[self._value_at[i] : self._value_end[i]],
            )
            for i in range(self.count)
        ]

    # --- leaving out ----------------------------------------------------------------------------

    @cython.ccall
    def sift(
        self, drop: cython.ulonglong, lengths: cython.ulonglong, names: dict[bytes, int]
    ) -> int:
        """Have fields left out of every rendering from now on; return which others are there.

        ``drop`` is a mask of known fields to leave out. ``names`` has lower-case names without a
        number: those below 0 are left out, of the others each stands for a bit of what is returned.
        ``lengths`` has a bit for each length of a name in ``names`` (1 << length, up to 63).
        """
        i: cython.int
        known: cython.int
        bit: cython.int
        size: cython.Py_ssize_t
        found: cython.ulonglong = 0
        data: bytes = self.data
        for i in range(self.count):
            known = self._id[i]
            if known:
                if (drop >> known) & 1:
                    self._named[i] = 1
                continue
            size = self._name_end[i] - self._name_at[i]
            if size > 63 or not (lengths >> size) & 1:
                continue
            name = data[self._name_at[i] : self._name_end[i]].lower()
            if name in names:
                bit = names[name]
                if bit < 0:
                    self._named[i] = 1
                else:
                    found |= cython.cast(cython.ulonglong, 1) << bit
        return found

    # --- rendering ------------------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(-1)
    def leave_out(self, names: tuple[bytes, ...]) -> cython.bint:
        """Have ``render`` leave out the fields with these names (lower case), for good.

        ``_`` counts as ``-``: backends that hand fields on as variables (CGI, WSGI, PHP) make the
        same of both, so ``X_User_Id`` would be taken for ``X-User-Id``. True where any was there.
        """
        i: cython.int
        j: cython.Py_ssize_t
        at: cython.Py_ssize_t
        size: cython.Py_ssize_t
        data: bytes = self.data
        name: bytes
        c: cython.uchar
        d: cython.uchar
        found: cython.bint = False
        for name in names:
            size = len(name)
            for i in range(self.count):
                at = self._name_at[i]
                if self._name_end[i] - at != size:
                    continue
                for j in range(size):
                    c = data[at + j]
                    d = name[j]
                    if _FOLD[c] != _FOLD[d]:
                        break
                else:
                    self._named[i] = 1
                    found = True
        return found

    @cython.ccall
    def render(self, first: bytes, drop: cython.ulonglong, extra: bytes) -> bytes:
        """Return a head: ``first`` (its CRLF included), the kept lines byte for byte, ``extra``
        (complete lines, CRLFs included) and the blank line.

        Left out are the fields of the mask ``drop``, those that ``Connection`` named and those
        given to ``leave_out``.
        """
        i: cython.int
        run: cython.Py_ssize_t = -1
        data: bytes = self.data
        parts: list[bytes] = [first]
        for i in range(self.count):
            if self._named[i] or (drop >> self._id[i]) & 1:
                if run >= 0:
                    parts.append(_cut(data, run, self._name_at[i]))
                    run = -1
            elif run < 0:
                run = self._name_at[i]
        if run >= 0:
            parts.append(_cut(data, run, self.end - 2))
        parts.append(extra)
        parts.append(b"\r\n")
        return b"".join(parts)

    # --- parsing --------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _same(self, i: cython.int, name: bytes) -> cython.bint:
        """Tell whether field ``i`` has this lower-case name; lengths are equal already."""
        j: cython.Py_ssize_t
        at: cython.Py_ssize_t = self._name_at[i]
        data: bytes = self.data
        c: cython.uchar
        d: cython.uchar
        for j in range(len(name)):
            c = data[at + j]
            d = name[j]
            # Folding makes `_` a `-`, which it is not.
            if c != d and (_FOLD[c] != d or c == 95):
                return False
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _identify(self, i: cython.int) -> cython.int:
        """Return the known number of field ``i``'s name, 0 where it has none.

        One that would be known but for ``_`` in the place of ``-`` (or the other way round) is
        marked to be left out, in all but answers.
        """
        at: cython.Py_ssize_t = self._name_at[i]
        size: cython.Py_ssize_t = self._name_end[i] - at
        data: cython.p_uchar = self.data
        name: bytes
        known: cython.int
        j: cython.Py_ssize_t
        c: cython.uchar
        d: cython.uchar
        h: cython.longlong
        impostor: cython.bint = False
        if size < 2:
            return 0
        c = data[at]
        h = size * _A + _FOLD[c] * _B
        c = data[at + (size >> 1)]
        h += _FOLD[c] * _C
        c = data[at + size - 1]
        h += _FOLD[c] * 37
        c = data[at + size - 2]
        h += _FOLD[c] * 131
        known = _TABLE[h & 1023]
        if known == 0:
            return 0
        name = _NAMES[known]
        if len(name) != size:
            return 0
        for j in range(size):
            c = data[at + j]
            d = name[j]
            if c != d:
                if _FOLD[c] != _FOLD[d]:
                    return 0
                # Equal when folded: two cases of a letter, or `-` and `_`.
                if c in {45, 95}:
                    impostor = True
        if impostor:
            self._named[i] = self.status == 0
            return 0
        return known

    @cython.cfunc
    @cython.exceptval(check=True)
    def _fields(self, at: cython.Py_ssize_t) -> cython.bint:  # noqa: PLR0912, PLR0915 - one scan
        """Read field lines from ``at`` to the blank line. False: incomplete so far."""
        # Every place is checked before it is read: a pointer asks nothing.
        data: cython.p_uchar = self.data
        size: cython.Py_ssize_t = len(self.data)
        i: cython.Py_ssize_t = at
        begin: cython.Py_ssize_t
        last: cython.Py_ssize_t
        n: cython.int = 0
        c: cython.uchar = 0
        c1: cython.uchar
        c2: cython.uchar
        c3: cython.uchar
        known: cython.int
        seen: cython.ulonglong = 0
        repeated: cython.ulonglong = 0
        bit: cython.ulonglong
        while True:
            if i >= size:
                return False
            if data[i] == 13:
                if i + 1 >= size:
                    return False
                if data[i + 1] != 10:
                    raise WireError("bare-cr", "a carriage return without a line feed")
                self.end = i + 2
                self.count = n
                self.seen = seen
                self.repeated = repeated
                return True
            if n >= _MAX_FIELDS:
                raise WireError("too-many-fields", f"more than {MAX_FIELDS} fields", 431)
            begin = i
            while i < size:
                c = data[i]
                if not _CLASS[c] & 1:
                    break
                i += 1
            if i >= size:
                return False
            if c != 58:
                raise WireError("bad-field-name", _describe_name_octet(c, i == begin))
            if i == begin:
                raise WireError("bad-field-name", "an empty field name")
            self._name_at[n] = begin
            self._name_end[n] = i
            i += 1
            while i < size:
                c = data[i]
                if c not in {32, 9}:
                    break
                i += 1
            begin = i
            # Four at a time, where a head's octets are: a fifth of the whole parse.
            while i + 4 <= size:
                c = data[i]
                c1 = data[i + 1]
                c2 = data[i + 2]
                c3 = data[i + 3]
                if not _CLASS[c] & _CLASS[c1] & _CLASS[c2] & _CLASS[c3] & 4:
                    break
                i += 4
            while i < size:
                c = data[i]
                if not _CLASS[c] & 4:
                    break
                i += 1
            if i >= size:
                return False
            if c != 13:
                raise WireError("bad-field-value", _describe_value_octet(c))
            if i + 1 >= size:
                return False
            if data[i + 1] != 10:
                raise WireError("bare-cr", "a carriage return without a line feed")
            last = i
            while last > begin:
                c = data[last - 1]
                if c not in {32, 9}:
                    break
                last -= 1
            self._value_at[n] = begin
            self._value_end[n] = last
            self._named[n] = 0
            i += 2
            known = self._identify(n)
            self._id[n] = known
            if known:
                bit = cython.cast(cython.ulonglong, 1) << known
                if seen & bit:
                    repeated |= bit
                else:
                    seen |= bit
                    self._first[known] = n
            n += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _request_line(self) -> cython.bint:
        """Read ``method SP request-target SP HTTP-version CRLF``. False: incomplete so far.

        One empty line before it is skipped (RFC 9112 section 2.2), and ``start`` moved behind it.
        """
        # Every place is checked before it is read: a pointer asks nothing.
        data: cython.p_uchar = self.data
        size: cython.Py_ssize_t = len(self.data)
        i: cython.Py_ssize_t = self.start
        c: cython.uchar = 0
        if i < size and data[i] == 13:
            if i + 1 >= size:
                return False
            if data[i + 1] != 10:
                raise WireError("bare-cr", "a carriage return without a line feed")
            i += 2
            self.start = i
        while i < size:
            c = data[i]
            if not _CLASS[c] & 1:
                break
            i += 1
        if i - self.start > MAX_METHOD:
            raise WireError("bad-method", f"a method longer than {MAX_METHOD} octets", 501)
        if i >= size:
            return False
        if c != 32 or i == self.start:
            raise WireError("bad-request-line", "expected a method and one space")
        self._method_end = i
        i += 1
        self._target_at = i
        while i < size:
            c = data[i]
            if not _CLASS[c] & 2:
                break
            i += 1
        if i >= size:
            return False
        if c != 32 or i == self._target_at:
            raise WireError("bad-target", f"octet 0x{c:02x} in the request-target")
        self._target_end = i
        return self._version(i + 1, 13)

    @cython.cfunc
    @cython.exceptval(-1)
    def _version(self, i: cython.Py_ssize_t, after: cython.int) -> cython.bint:
        """Read ``HTTP/1.x`` and the octet after it; set where the next thing begins."""
        # Every place is checked before it is read: a pointer asks nothing.
        data: cython.p_uchar = self.data
        size: cython.Py_ssize_t = len(self.data)
        j: cython.int
        prefix: bytes = b"HTTP/"
        for j in range(5):
            if i + j >= size:
                return False
            if data[i + j] != prefix[j]:
                raise WireError("bad-version", "expected HTTP/1.1 or HTTP/1.0")
        if i + 9 > size:
            return False
        if not (
            48 <= data[i + 5] <= 57
            and data[i + 6] == 46
            and 48 <= data[i + 7] <= 57
            and data[i + 8] == after
        ):
            raise WireError("bad-version", "expected HTTP/1.1 or HTTP/1.0")
        if data[i + 5] != 49 or data[i + 7] > 49:
            raise WireError("unsupported-version", "only HTTP/1.1 and HTTP/1.0 are spoken", 505)
        self.minor = data[i + 7] - 48
        self._line_end = i + 9
        if after == 13:
            if i + 9 >= size:
                return False
            if data[i + 9] != 10:
                raise WireError("bare-cr", "a carriage return without a line feed")
            self._line_end = i + 10
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _status_line(self) -> cython.bint:  # noqa: PLR0912 - one scan
        """Read ``HTTP-version SP status-code SP [reason] CRLF``. False: incomplete so far.

        The second space may be missing: servers that leave it out are common (RFC 9112 section 4).
        """
        # Every place is checked before it is read: a pointer asks nothing.
        data: cython.p_uchar = self.data
        size: cython.Py_ssize_t = len(self.data)
        i: cython.Py_ssize_t
        j: cython.int
        c: cython.uchar = 0
        status: cython.int = 0
        if not self._version(self.start, 32):
            return False
        i = self._line_end
        for j in range(3):
            if i + j >= size:
                return False
            c = data[i + j]
            if not 48 <= c <= 57:
                raise WireError("bad-status", "expected a status of three digits")
            status = status * 10 + (c - 48)
        if status < 100:
            raise WireError("bad-status", "a status below 100")
        self.status = status
        i += 3
        if i >= size:
            return False
        if data[i] == 32:
            i += 1
        elif data[i] != 13:
            raise WireError("bad-status", "expected a space or the line's end after the status")
        self._target_at = i
        while i < size:
            c = data[i]
            if not _CLASS[c] & 4:
                break
            i += 1
        if i >= size:
            return False
        if c != 13:
            raise WireError("bad-status", f"octet 0x{c:02x} in the reason phrase")
        self._target_end = i
        if i + 1 >= size:
            return False
        if data[i + 1] != 10:
            raise WireError("bare-cr", "a carriage return without a line feed")
        self._line_end = i + 2
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _value_is(self, field: cython.int, wanted: bytes) -> cython.bint:
        """Tell whether a known field that is here once has this value, in any letter case."""
        j: cython.Py_ssize_t
        i: cython.int = self._first[field]
        at: cython.Py_ssize_t = self._value_at[i]
        data: bytes = self.data
        c: cython.uchar
        d: cython.uchar
        if self._value_end[i] - at != len(wanted) or (self.repeated >> field) & 1:
            return False
        for j in range(len(wanted)):
            c = data[at + j]
            d = wanted[j]
            if c != d and (_FOLD[c] != d or c == 95):
                return False
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _length(self) -> cython.longlong:
        """Return the one Content-Length. Refused: several, lists, signs, blanks, 19 digits."""
        i: cython.int = self._first[_CONTENT_LENGTH]
        at: cython.Py_ssize_t = self._value_at[i]
        end: cython.Py_ssize_t = self._value_end[i]
        data: bytes = self.data
        value: cython.longlong = 0
        c: cython.uchar
        if (self.repeated >> _CONTENT_LENGTH) & 1:
            raise WireError("bad-content-length", "more than one Content-Length")
        if end == at or end - at > MAX_LENGTH_DIGITS:
            raise WireError("bad-content-length", f"expected 1 to {MAX_LENGTH_DIGITS} digits")
        while at < end:
            c = data[at]
            if not 48 <= c <= 57:
                raise WireError("bad-content-length", "expected digits only")
            value = value * 10 + (c - 48)
            at += 1
        return value

    @cython.cfunc
    @cython.exceptval(check=True)
    def _chunked(self) -> cython.bint:
        """Refuse every transfer coding but one ``chunked``, and that where it means nothing.

        501 is for a coding unknown here under a final ``chunked``; where ``chunked`` is not the
        last, or not once, the length is anybody's guess: 400 (RFC 9112 section 6.3, rule 4).
        """
        if not self._value_is(_TRANSFER_ENCODING, b"chunked"):
            before: list[bytes] = _members(self.get_all(_TRANSFER_ENCODING))
            last: bytes = before.pop()
            unknown = last == b"chunked" and not {b"chunked", b""}.intersection(before)
            raise WireError(
                "bad-transfer-encoding", "only one 'chunked' is understood", 501 if unknown else 400
            )
        if self.minor == 0:
            raise WireError("bad-transfer-encoding", "Transfer-Encoding in HTTP/1.0")
        if (self.seen >> _CONTENT_LENGTH) & 1:
            raise WireError("ambiguous-length", "Content-Length with Transfer-Encoding")
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _connection(self) -> cython.bint:
        """Read the Connection fields: persistence, upgrade, and which fields they name."""
        closes: cython.bint = False
        keeps: cython.bint = self.minor == 1
        self.persistent = keeps
        if not (self.seen >> _CONNECTION) & 1:
            return True
        if self._value_is(_CONNECTION, b"keep-alive"):  # what nearly everybody sends
            self.persistent = True
            return True
        tokens: list[bytes] = _members(self.get_all(_CONNECTION))
        if len(tokens) > MAX_CONNECTION_TOKENS:
            raise WireError("bad-connection", f"more than {MAX_CONNECTION_TOKENS} options")
        token: bytes
        for token in tokens:
            if token == b"close":
                closes = True
            elif token == b"keep-alive":
                keeps = True
            elif token == b"upgrade":
                # RFC 9110 section 7.8: of no meaning in HTTP/1.0.
                self.upgrade = self.minor == 1 and (self.seen >> _UPGRADE) & 1 != 0
            elif token:
                self._name_field(token)
        self.persistent = keeps and not closes
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _name_field(self, token: bytes) -> cython.bint:
        """Leave out the fields that Connection names; never the ones that frame or route."""
        i: cython.int
        known: cython.int
        for i in range(self.count):
            if self._name_end[i] - self._name_at[i] != len(token) or not self._same(i, token):
                continue
            known = self._id[i]
            if known not in (_HOST, _CONTENT_LENGTH, _TRANSFER_ENCODING):
                self._named[i] = 1
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _begin(self) -> cython.bint:
        """Forget what an earlier reading found."""
        if len(self.data) > _MAX_DATA:
            raise WireError("head-too-large", f"more than {MAX_DATA} octets", 431)
        self.count = 0
        self.end = 0
        self.status = 0
        self.seen = 0
        self.repeated = 0
        self.body = _BODY_NONE
        self.length = 0
        self.upgrade = False
        self.expect_continue = False
        return True

    @cython.ccall
    @cython.exceptval(-1)
    def read_request(self) -> cython.bint:
        """Parse a request's head and frame its body. False: incomplete so far.

        Raises WireError.
        """
        self._begin()
        if not self._request_line() or not self._fields(self._line_end):
            return False
        if (self.repeated >> _HOST) & 1:
            raise WireError("bad-host", "more than one Host")
        if self.minor == 1 and not (self.seen >> _HOST) & 1:
            raise WireError("bad-host", "a request of HTTP/1.1 without Host")
        self._connection()
        if (self.seen >> _TRANSFER_ENCODING) & 1:
            self._chunked()
            self.body = _BODY_CHUNKED
            self.length = -1
        elif (self.seen >> _CONTENT_LENGTH) & 1:
            self.length = self._length()
            self.body = _BODY_LENGTH if self.length else _BODY_NONE
        if (self.seen >> _EXPECT) & 1:
            if not self._value_is(_EXPECT, b"100-continue"):
                raise WireError("bad-expect", "only 100-continue can be expected", 417)
            # RFC 9110 section 10.1.1: ignored in HTTP/1.0, and of no meaning without content.
            self.expect_continue = self.minor == 1 and self.body != _BODY_NONE
        return True

    @cython.ccall
    @cython.exceptval(-1)
    def read_response(self, to_head: cython.bint) -> cython.bint:
        """Parse an answer's head and frame its body; ``to_head``: it answers a HEAD request.

        False: incomplete so far. Raises WireError.
        """
        self._begin()
        if not self._status_line() or not self._fields(self._line_end):
            return False
        self._connection()
        if (self.seen >> _TRANSFER_ENCODING) & 1:
            self._chunked()
        if (self.seen >> _CONTENT_LENGTH) & 1:
            self.length = self._length()
        if to_head or self.status < 200 or self.status in {204, 304}:
            self.body = _BODY_NONE
        elif (self.seen >> _TRANSFER_ENCODING) & 1:
            self.body = _BODY_CHUNKED
            self.length = -1
        elif (self.seen >> _CONTENT_LENGTH) & 1:
            self.body = _BODY_LENGTH if self.length else _BODY_NONE
        else:
            self.body = _BODY_UNTIL_CLOSE
            self.length = -1
            self.persistent = False
        return True

    @cython.ccall
    @cython.exceptval(-1)
    def read_trailers(self) -> cython.bint:
        """Parse a trailer section that begins at ``start``. False: incomplete so far.

        Raises WireError.
        """
        self._begin()
        return self._fields(self.start)


def _members(values: list[bytes]) -> list[bytes]:
    """Return the members, in lower case, of a list field's values (RFC 9110 section 5.6.1)."""
    return [member.strip(b" \t") for member in b",".join(values).lower().split(b",")]


def _describe_name_octet(c: int, at_begin: bool) -> str:
    if c in {9, 32}:
        return "a folded line" if at_begin else "a blank before the colon"
    if c == 10:
        return "a bare line feed"
    return f"octet 0x{c:02x} in a field name"


def _describe_value_octet(c: int) -> str:
    return "a bare line feed" if c == 10 else f"octet 0x{c:02x} in a field value"


def parse_request(data: bytes, start: int = 0) -> Head | None:
    """Parse the request head that begins at ``start``; None while it is incomplete.

    Raises WireError.
    """
    head = Head(data, start)
    return head if head.read_request() else None


def parse_response(data: bytes, to_head: bool = False, start: int = 0) -> Head | None:
    """Parse the answer's head that begins at ``start``; None while it is incomplete.

    Raises WireError.
    """
    head = Head(data, start)
    return head if head.read_response(to_head) else None
