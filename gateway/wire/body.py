"""Message bodies: the chunked coding, read strictly and written exactly (RFC 9112 section 7).

A chunk's size is one to fifteen hex digits: no sign, no blank, no ``0x``. Extensions are checked
for control octets, bounded for the whole body, and dropped. Trailers are kept.
"""

from __future__ import annotations

import cython

from gateway.wire.errors import WireError
from gateway.wire.head import Head

#: Fifteen hex digits stay below 2**60, so that a size never wraps a 64-bit number.
MAX_SIZE_DIGITS = 15
#: Octets of chunk extensions that one body may carry, all chunks together.
MAX_EXTENSIONS = 16 * 1024
MAX_TRAILERS = 16 * 1024

_SIZE = 0
_EXTENSION = 1
_SIZE_LF = 2
_DATA = 3
_DATA_CR = 4
_DATA_LF = 5
_TRAILERS = 6
_DONE = 7

_MAX_SIZE_DIGITS = cython.declare(cython.int, MAX_SIZE_DIGITS)
_MAX_EXTENSIONS = cython.declare(cython.int, MAX_EXTENSIONS)


@cython.cfunc
@cython.exceptval(-2, check=False)
def _hex(c: cython.int) -> cython.int:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    if 65 <= c <= 70:
        return c - 55
    return -1


@cython.final
@cython.cclass
class ChunkedDecoder:
    """Decodes one chunked body, however it is cut into reads.

    After ``feed``: ``used`` is where in the data the body's octets ended (all of it unless
    ``done``), ``trailers`` the trailer section's head once done, None where it is empty.
    """

    used: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="readonly")
    done: cython.bint = cython.declare(cython.bint, visibility="readonly")
    trailers: Head | None = cython.declare(object, visibility="readonly")
    _state: cython.int
    _digits: cython.int
    _extensions: cython.int
    _left: cython.longlong
    _tail: bytes

    def __init__(self) -> None:
        self.used = 0
        self.done = False
        self.trailers = None
        self._state = _SIZE
        self._digits = 0
        self._extensions = 0
        self._left = 0
        self._tail = b""

    def feed(self, data: bytes, at: cython.Py_ssize_t) -> bytes:
        """Decode from ``at``; return the payload found. Raises WireError."""
        size: cython.Py_ssize_t = len(data)
        i: cython.Py_ssize_t = at
        take: cython.Py_ssize_t
        first: bytes | None = None
        more: list[bytes] | None = None
        piece: bytes
        while i < size and self._state != _DONE:
            if self._state == _DATA:
                take = size - i
                if take > self._left:
                    take = cython.cast(cython.Py_ssize_t, self._left)
                piece = data[i : i + take]
                if first is None:
                    first = piece
                elif more is None:
                    more = [first, piece]
                else:
                    more.append(piece)
                i += take
                self._left -= take
                if self._left == 0:
                    self._state = _DATA_CR
            elif self._state == _TRAILERS:
                i = self._read_trailers(data, i)
            else:
                self._octet(data[i])
                i += 1
        self.used = i
        if more is not None:
            return b"".join(more)
        return first if first is not None else b""

    @cython.cfunc
    @cython.exceptval(check=True)
    def _octet(self, c: cython.int) -> cython.bint:
        """Take one octet of a chunk's frame."""
        digit: cython.int
        state: cython.int = self._state
        if state == _SIZE:
            digit = _hex(c)
            if digit >= 0:
                if self._digits >= _MAX_SIZE_DIGITS:
                    raise WireError("bad-chunk-size", f"more than {MAX_SIZE_DIGITS} hex digits")
                self._digits += 1
                self._left = self._left * 16 + digit
            elif self._digits == 0:
                raise WireError("bad-chunk-size", f"octet 0x{c:02x} where a hex digit belongs")
            elif c == 13:
                self._state = _SIZE_LF
            elif c == 59:
                self._state = _EXTENSION
            else:
                raise WireError("bad-chunk-size", f"octet 0x{c:02x} after a chunk's size")
        elif state == _EXTENSION:
            self._extensions += 1
            if c == 13:
                self._state = _SIZE_LF
            elif (c < 32 and c != 9) or c == 127:
                raise WireError("bad-chunk-extension", f"octet 0x{c:02x} in a chunk extension")
            elif self._extensions > _MAX_EXTENSIONS:
                raise WireError("bad-chunk-extension", f"more than {MAX_EXTENSIONS} octets of them")
        elif state == _SIZE_LF:
            self._expect(c, 10)
            self._digits = 0
            self._state = _DATA if self._left else _TRAILERS
        elif state == _DATA_CR:
            self._expect(c, 13)
            self._state = _DATA_LF
        else:
            self._expect(c, 10)
            self._state = _SIZE
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _expect(self, c: cython.int, wanted: cython.int) -> cython.bint:
        if c != wanted:
            raise WireError("bad-chunk", f"octet 0x{c:02x} where 0x{wanted:02x} belongs")
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _read_trailers(self, data: bytes, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Read the trailer section; return where the data behind it begins."""
        before: cython.Py_ssize_t = len(self._tail)
        size: cython.Py_ssize_t = len(data)
        if before == 0 and at + 1 < size and data[at] == 13 and data[at + 1] == 10:
            self._finish()
            return at + 2
        tail: bytes = self._tail + data[at:]
        # Parsed again only when a line has ended: octet by octet it would be quadratic.
        if b"\n" in data[at:]:
            head = Head(tail, 0)
            if head.read_trailers():
                if head.count:
                    self.trailers = head
                self._finish()
                return at + (head.end - before)
        if len(tail) > MAX_TRAILERS:
            raise WireError("too-many-trailers", f"more than {MAX_TRAILERS} octets", 431)
        self._tail = tail
        return size

    @cython.cfunc
    @cython.exceptval(check=True)
    def _finish(self) -> cython.bint:
        self._tail = b""
        self._state = _DONE
        self.done = True
        return True


#: Ends a chunked body that has no trailers.
LAST_CHUNK = b"0\r\n\r\n"


def encode_chunk(payload: bytes) -> bytes:
    """Return one chunk. The payload must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


#: Trailer fields that may not be told after the body (RFC 9110 section 6.5.1): those that frame,
#: route, authenticate or modify the request.
FORBIDDEN_TRAILERS = frozenset(
    (
        b"transfer-encoding",
        b"content-length",
        b"host",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
        b"authorization",
        b"proxy-authorization",
        b"cookie",
        b"set-cookie",
        b"content-encoding",
        b"content-type",
        b"content-range",
        b"cache-control",
        b"expect",
        b"max-forwards",
        b"range",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    )
)


def encode_last_chunk(trailers: Head | None) -> bytes:
    """Return the end of a chunked body, with the trailers that may be passed on."""
    if trailers is None:
        return LAST_CHUNK
    lines = [
        name + b": " + value + b"\r\n"
        for name, value in trailers.items()
        if name not in FORBIDDEN_TRAILERS and not name.startswith(b"x-release-")
    ]
    return b"0\r\n" + b"".join(lines) + b"\r\n"
