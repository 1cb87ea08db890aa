"""A message's head as one bytes object plus offsets: parsed once, rendered in one pass.

No object is made per field. Policies ask for the few fields that they need (``get``), and the
outgoing head is built by copying runs of kept lines between what is left out and what is added.

The grammar is RFC 9112's without its leniencies: CRLF only, no obs-fold, no blank before a colon,
no control octet anywhere, one ``Host``, digits only in ``Content-Length``, no other transfer coding
than ``chunked``. Whatever two parsers could read in two ways is refused with ``WireError``.

Compiled or plain, the behaviour is the same (see docs/adr/0002). The arrays below are C arrays when
compiled and are never bounds-checked there: ``count`` is checked against MAX_FIELDS before a store.
"""

from __future__ import annotations

import cython

from gateway.wire.errors import WireError
from gateway.wire.fields import CLASSES, LOWER, MULTIPLIERS, NAMES, TABLE

MAX_FIELDS = 100
MAX_METHOD = 32
#: Content-Length has at most this many digits, so that it never wraps a 64-bit number.
MAX_LENGTH_DIGITS = 18
MAX_CONNECTION_TOKENS = 32

# How the message's body is framed (RFC 9112 section 6.3).
BODY_NONE = 0
BODY_LENGTH = 1
BODY_CHUNKED = 2
BODY_UNTIL_CLOSE = 3


_CLASSES: bytes = CLASSES
_LOWER: bytes = LOWER

# C's copies of what the parser uses for every field.
_A = cython.declare(cython.int, MULTIPLIERS[0])
_B = cython.declare(cython.int, MULTIPLIERS[1])
_C = cython.declare(cython.int, MULTIPLIERS[2])
_TABLE = cython.declare(bytes, TABLE)
_NAMES = cython.declare(tuple, NAMES)
_MAX_FIELDS = cython.declare(cython.int, MAX_FIELDS)

_HOST = cython.declare(cython.int, 1)
_CONNECTION = cython.declare(cython.int, 2)
_CONTENT_LENGTH = cython.declare(cython.int, 3)
_TRANSFER_ENCODING = cython.declare(cython.int, 4)
_EXPECT = cython.declare(cython.int, 5)
_UPGRADE = cython.declare(cython.int, 6)


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
    # mypy has no C arrays.
    _name_at: cython.int[100]  # type: ignore[valid-type]
    _name_end: cython.int[100]  # type: ignore[valid-type]
    _value_at: cython.int[100]  # type: ignore[valid-type]
    _value_end: cython.int[100]  # type: ignore[valid-type]
    _id: cython.uchar[100]  # type: ignore[valid-type]
    _named: cython.uchar[100]  # type: ignore[valid-type]
    _first: cython.uchar[64]  # type: ignore[valid-type]

    def __init__(self, data: bytes, start: cython.Py_ssize_t) -> None:
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
        return self.data[self.start : self._method_end]

    @property
    def target(self) -> bytes:
        """The request-target, byte for byte."""
        return self.data[self._target_at : self._target_end]

    @property
    def reason(self) -> bytes:
        """The answer's reason phrase, possibly empty."""
        return self.data[self._target_at : self._target_end]

    @property
    def line(self) -> bytes:
        """The request line or status line, byte for byte, its CRLF included."""
        return self.data[self.start : self._line_end]

    def get(self, field: cython.int) -> bytes | None:
        """Return the first value of a known field, trimmed; None where it is absent."""
        i: cython.int
        if not (self.seen >> field) & 1:
            return None
        i = self._first[field]
        return self.data[self._value_at[i] : self._value_end[i]]

    def get_all(self, field: cython.int) -> list[bytes]:
        """Return every value of a known field, in order."""
        i: cython.int
        values: list[bytes] = []
        for i in range(self.count):
            if self._id[i] == field:
                values.append(self.data[self._value_at[i] : self._value_end[i]])
        return values

    def find(self, name: bytes) -> bytes | None:
        """Return the first value of the field with this lower-case name, known or not."""
        i: cython.int
        for i in range(self.count):
            if self._name_end[i] - self._name_at[i] == len(name) and self._same(i, name):
                return self.data[self._value_at[i] : self._value_end[i]]
        return None

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return (name in lower case, value) of every field: for tests and cold paths."""
        i: cython.int
        data: bytes = self.data
        return [
            (
                data[self._name_at[i] : self._name_end[i]].lower(),
                data[self._value_at[i] : self._value_end[i]],
            )
            for i in range(self.count)
        ]

    # --- rendering ------------------------------------------------------------------------------

    def render(self, first: bytes, drop: cython.ulonglong, extra: bytes) -> bytes:
        """Return a head: ``first`` (its CRLF included), the kept lines byte for byte, ``extra``
        (complete lines, CRLFs included) and the blank line.

        Left out are the fields of the mask ``drop`` and those that ``Connection`` named.
        """
        i: cython.int
        run: cython.Py_ssize_t = -1
        data: bytes = self.data
        parts: list[bytes] = [first]
        for i in range(self.count):
            if self._named[i] or (drop >> self._id[i]) & 1:
                if run >= 0:
                    parts.append(data[run : self._name_at[i]])
                    run = -1
            elif run < 0:
                run = self._name_at[i]
        if run >= 0:
            parts.append(data[run : self.end - 2])
        parts.append(extra)
        parts.append(b"\r\n")
        return b"".join(parts)

    # --- parsing --------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _same(self, i: cython.int, name: bytes) -> cython.bint:
        """Tell whether field ``i`` has this lower-case name; lengths are equal already."""
        j: cython.Py_ssize_t
        at: cython.Py_ssize_t = self._name_at[i]
        data: bytes = self.data
        lower: bytes = _LOWER
        c: cython.int
        d: cython.int
        for j in range(len(name)):
            c = data[at + j]
            d = name[j]
            c = lower[c]
            if c != d:
                return False
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _identify(self, i: cython.int) -> cython.int:
        """Return the known number of field ``i``'s name, 0 where it has none."""
        at: cython.Py_ssize_t = self._name_at[i]
        size: cython.Py_ssize_t = self._name_end[i] - at
        data: bytes = self.data
        lower: bytes = _LOWER
        table: bytes = _TABLE
        name: bytes
        known: cython.int
        c: cython.int
        h: cython.longlong
        if size < 2:
            return 0
        c = data[at]
        c = lower[c]
        h = size * _A + c * _B
        c = data[at + (size >> 1)]
        c = lower[c]
        h += c * _C
        c = data[at + size - 1]
        c = lower[c]
        h += c * 37
        c = data[at + size - 2]
        c = lower[c]
        h += c * 131
        known = table[h & 1023]
        if known == 0:
            return 0
        name = _NAMES[known]
        if len(name) != size or not self._same(i, name):
            return 0
        return known

    @cython.cfunc
    @cython.exceptval(check=True)
    def _fields(self, at: cython.Py_ssize_t) -> cython.bint:
        """Read field lines from ``at`` to the blank line. False: incomplete so far."""
        data: bytes = self.data
        classes: bytes = _CLASSES
        size: cython.Py_ssize_t = len(data)
        i: cython.Py_ssize_t = at
        begin: cython.Py_ssize_t
        last: cython.Py_ssize_t
        n: cython.int = 0
        c: cython.int = 0
        known: cython.int
        bit: cython.ulonglong
        while True:
            if i >= size:
                return False
            c = data[i]
            if c == 13:
                if i + 1 >= size:
                    return False
                if data[i + 1] != 10:
                    raise WireError("bare-cr", "a carriage return without a line feed")
                self.end = i + 2
                self.count = n
                return True
            if n >= _MAX_FIELDS:
                raise WireError("too-many-fields", f"more than {MAX_FIELDS} fields", 431)
            begin = i
            while i < size:
                c = data[i]
                if not classes[c] & 1:
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
            while i < size and (data[i] == 32 or data[i] == 9):
                i += 1
            self._value_at[n] = i
            last = i
            while i < size:
                c = data[i]
                if not classes[c] & 4:
                    break
                i += 1
                if c != 32 and c != 9:
                    last = i
            if i >= size:
                return False
            if c != 13:
                raise WireError("bad-field-value", _describe_value_octet(c))
            if i + 1 >= size:
                return False
            if data[i + 1] != 10:
                raise WireError("bare-cr", "a carriage return without a line feed")
            self._value_end[n] = last
            i += 2
            known = self._identify(n)
            self._id[n] = known
            self._named[n] = 0
            if known:
                bit = cython.cast(cython.ulonglong, 1) << known
                if self.seen & bit:
                    self.repeated |= bit
                else:
                    self.seen |= bit
                    self._first[known] = n
            n += 1

    @cython.cfunc
    @cython.exceptval(check=True)
    def _request_line(self) -> cython.bint:
        """Read ``method SP request-target SP HTTP-version CRLF``. False: incomplete so far."""
        data: bytes = self.data
        classes: bytes = _CLASSES
        size: cython.Py_ssize_t = len(data)
        i: cython.Py_ssize_t = self.start
        c: cython.int = 0
        while i < size:
            c = data[i]
            if not classes[c] & 1:
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
            if not classes[c] & 2:
                break
            i += 1
        if i >= size:
            return False
        if c != 32 or i == self._target_at:
            raise WireError("bad-target", f"octet 0x{c:02x} in the request-target")
        self._target_end = i
        return self._version(i + 1, 13)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _version(self, i: cython.Py_ssize_t, after: cython.int) -> cython.bint:
        """Read ``HTTP/1.x`` and the octet after it; set where the next thing begins."""
        data: bytes = self.data
        size: cython.Py_ssize_t = len(data)
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
            and (data[i + 8] == after if i + 8 < size else True)
        ):
            raise WireError("bad-version", "expected HTTP/1.1 or HTTP/1.0")
        if data[i + 5] != 49 or data[i + 7] > 49:
            raise WireError("unsupported-version", "only HTTP/1.1 and HTTP/1.0 are spoken", 505)
        self.minor = data[i + 7] - 48
        if i + 9 >= size and after == 13:
            return False
        if after == 13 and data[i + 9] != 10:
            raise WireError("bare-cr", "a carriage return without a line feed")
        self._line_end = i + (10 if after == 13 else 9)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _status_line(self) -> cython.bint:
        """Read ``HTTP-version SP status-code SP [reason] CRLF``. False: incomplete so far."""
        data: bytes = self.data
        classes: bytes = _CLASSES
        size: cython.Py_ssize_t = len(data)
        i: cython.Py_ssize_t
        j: cython.int
        c: cython.int = 0
        if not self._version(self.start, 32):
            return False
        i = self._line_end
        for j in range(3):
            if i + j >= size:
                return False
            c = data[i + j]
            if not 48 <= c <= 57:
                raise WireError("bad-status", "expected a status of three digits")
            self.status = self.status * 10 + (c - 48)
        if self.status < 100:
            raise WireError("bad-status", "a status below 100")
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
            if not classes[c] & 4:
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
    @cython.exceptval(check=True)
    def _length(self) -> cython.longlong:
        """Return the one Content-Length. Refused: several, lists, signs, blanks, 19 digits."""
        i: cython.int = self._first[_CONTENT_LENGTH]
        at: cython.Py_ssize_t = self._value_at[i]
        end: cython.Py_ssize_t = self._value_end[i]
        data: bytes = self.data
        value: cython.longlong = 0
        c: cython.int
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
        """Tell whether the transfer coding is exactly one ``chunked``; raise for any other."""
        i: cython.int = self._first[_TRANSFER_ENCODING]
        value: bytes = self.data[self._value_at[i] : self._value_end[i]]
        if (self.repeated >> _TRANSFER_ENCODING) & 1 or value.lower() != b"chunked":
            raise WireError("bad-transfer-encoding", "only one 'chunked' is understood", 501)
        if self.minor == 0:
            raise WireError("bad-transfer-encoding", "Transfer-Encoding in HTTP/1.0")
        if (self.seen >> _CONTENT_LENGTH) & 1:
            raise WireError("ambiguous-length", "Content-Length with Transfer-Encoding")
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _connection(self) -> cython.bint:
        """Read the Connection fields: persistence, upgrade, and which fields they name."""
        self.persistent = self.minor == 1
        if not (self.seen >> _CONNECTION) & 1:
            return True
        value: bytes = (
            b",".join(self.get_all(_CONNECTION))
            if (self.repeated >> _CONNECTION) & 1
            else self.data[
                self._value_at[self._first[_CONNECTION]] : self._value_end[self._first[_CONNECTION]]
            ]
        )
        if value == b"keep-alive":  # what nearly everybody sends
            self.persistent = True
            return True
        tokens: list[bytes] = value.lower().split(b",")
        if len(tokens) > MAX_CONNECTION_TOKENS:
            raise WireError("bad-connection", f"more than {MAX_CONNECTION_TOKENS} options")
        token: bytes
        for token in tokens:
            token = token.strip(b" \t")
            if token == b"close":
                self.persistent = False
            elif token == b"keep-alive":
                if b"close" not in value:
                    self.persistent = True
            elif token == b"upgrade":
                self.upgrade = bool((self.seen >> _UPGRADE) & 1)
            elif token:
                self._name_field(token)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
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

    @cython.ccall
    @cython.exceptval(check=True)
    def read_request(self) -> cython.bint:
        """Parse a request's head and frame its body. False: incomplete so far.

        Raises WireError.
        """
        if not self._request_line() or not self._fields(self._line_end):
            return False
        if (self.repeated >> _HOST) & 1:
            raise WireError("bad-host", "more than one Host")
        if self.minor == 1 and not (self.seen >> _HOST) & 1:
            raise WireError("bad-host", "a request of HTTP/1.1 without Host")
        self._connection()
        if (self.seen >> _TRANSFER_ENCODING) & 1:
            self._chunked()
            self.body = BODY_CHUNKED
            self.length = -1
        elif (self.seen >> _CONTENT_LENGTH) & 1:
            self.length = self._length()
            self.body = BODY_LENGTH if self.length else BODY_NONE
        if (self.seen >> _EXPECT) & 1:
            expected = self.get_all(_EXPECT)
            if len(expected) != 1 or expected[0].lower() != b"100-continue":
                raise WireError("bad-expect", "only 100-continue can be expected", 417)
            self.expect_continue = self.minor == 1 and self.body != BODY_NONE
        return True

    @cython.ccall
    @cython.exceptval(check=True)
    def read_response(self, to_head: cython.bint) -> cython.bint:
        """Parse an answer's head and frame its body; ``to_head``: it answers a HEAD request.

        False: incomplete so far. Raises WireError.
        """
        if not self._status_line() or not self._fields(self._line_end):
            return False
        self._connection()
        if (self.seen >> _TRANSFER_ENCODING) & 1:
            self._chunked()
        if (self.seen >> _CONTENT_LENGTH) & 1:
            self.length = self._length()
        if to_head or self.status < 200 or self.status == 204 or self.status == 304:
            self.body = BODY_NONE
        elif (self.seen >> _TRANSFER_ENCODING) & 1:
            self.body = BODY_CHUNKED
            self.length = -1
        elif (self.seen >> _CONTENT_LENGTH) & 1:
            self.body = BODY_LENGTH if self.length else BODY_NONE
        else:
            self.body = BODY_UNTIL_CLOSE
            self.length = -1
            self.persistent = False
        return True

    @cython.ccall
    @cython.exceptval(check=True)
    def read_trailers(self) -> cython.bint:
        """Parse a trailer section that begins at ``start``. False: incomplete so far."""
        return self._fields(self.start)


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


def valid_host_octets(value: bytes) -> bool:
    """Tell whether every octet may stand in a Host (RFC 3986 section 3.2.2, no userinfo)."""
    i: cython.Py_ssize_t
    classes: bytes = _CLASSES
    c: cython.int
    for i in range(len(value)):
        c = value[i]
        if not classes[c] & 8:
            return False
    return True
