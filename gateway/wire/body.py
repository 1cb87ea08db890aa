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
_BROKEN = 8

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

    def feed(self, data: bytes, at: cython.Py_ssize_t) -> bytes:  # noqa: PLR0912 - one scan
        """Decode from ``at``; return the payload found. Raises WireError, and then for ever."""
        size: cython.Py_ssize_t = len(data)
        i: cython.Py_ssize_t = at
        take: cython.Py_ssize_t
        state: cython.int = self._state
        first: bytes | None = None
        more: list[bytes] | None = None
        piece: bytes
        if at < 0 or at > size:
            raise ValueError(f"cannot decode from {at} of {size} octets")
        if state == _BROKEN:
            raise WireError("bad-chunk", "octets behind a broken frame")
        # Until the octets here are understood: whatever is raised below leaves it so.
        self._state = _BROKEN
        while i < size and state != _DONE:
            if state == _DATA:
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
                    state = _DATA_CR
            elif state == _TRAILERS:
                i = self._read_trailers(data, i)
                if self.done:
                    state = _DONE
            else:
                state = self._octet(state, data[i])
                i += 1
        self._state = state
        self.used = i
        if more is not None:
            return b"".join(more)
        return first if first is not None else b""

    @cython.cfunc
    @cython.exceptval(check=True)
    def _octet(self, state: cython.int, c: cython.int) -> cython.int:  # noqa: PLR0911 - a state each
        """Take one octet of a chunk's frame; return the state behind it."""
        digit: cython.int
        if state == _SIZE:
            digit = _hex(c)
            if digit >= 0:
                if self._digits >= _MAX_SIZE_DIGITS:
                    raise WireError("bad-chunk-size", f"more than {MAX_SIZE_DIGITS} hex digits")
                self._digits += 1
                self._left = self._left * 16 + digit
                return _SIZE
            if self._digits == 0:
                raise WireError("bad-chunk-size", f"octet 0x{c:02x} where a hex digit belongs")
            if c == 13:
                return _SIZE_LF
            if c == 59:
                return _EXTENSION
            raise WireError("bad-chunk-size", f"octet 0x{c:02x} after a chunk's size")
        if state == _EXTENSION:
            if c == 13:
                return _SIZE_LF
            self._extensions += 1
            if (c < 32 and c != 9) or c == 127:
                raise WireError("bad-chunk-extension", f"octet 0x{c:02x} in a chunk extension")
            if self._extensions > _MAX_EXTENSIONS:
                raise WireError("bad-chunk-extension", f"more than {MAX_EXTENSIONS} octets of them")
            return _EXTENSION
        if state == _SIZE_LF:
            self._expect(c, 10)
            self._digits = 0
            return _DATA if self._left else _TRAILERS
        if state == _DATA_CR:
            self._expect(c, 13)
            return _DATA_LF
        self._expect(c, 10)
        return _SIZE

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
        tail: bytes = self._tail + data[at : at + MAX_TRAILERS + 1 - before]
        # Parsed again only when a line has ended: octet by octet it would be quadratic. Never more
        # of it than is allowed, so that the cut of the reads makes no difference.
        if len(tail) > MAX_TRAILERS or data.find(b"\n", at) >= 0:
            head = Head(tail[:MAX_TRAILERS], 0)
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
        self.done = True
        return True


#: Ends a chunked body that has no trailers.
LAST_CHUNK = b"0\r\n\r\n"


def encode_chunk(payload: bytes) -> bytes:
    """Return one chunk; nothing for an empty payload, whose chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


#: Trailer fields that are not passed on (RFC 9110 section 6.5.1): those that frame, route,
#: authenticate or modify the message, control its caching, or say how its content is read; and what
#: only the gateway says.
FORBIDDEN_TRAILERS = frozenset(
    b"transfer-encoding content-length host connection keep-alive proxy-connection te trailer "
    b"upgrade authorization proxy-authorization proxy-authenticate www-authenticate cookie "
    b"set-cookie content-encoding content-type content-range cache-control cdn-cache-control "
    b"pragma expires age vary date location retry-after warning expect max-forwards range if-match "
    b"if-none-match if-modified-since if-unmodified-since if-range forwarded via x-real-ip "
    b"x-request-id traceparent tracestate gw-override".split()
)
FORBIDDEN_TRAILER_PREFIXES = (b"x-release-", b"x-forwarded-", b"x-gateway-")


def encode_last_chunk(trailers: Head | None, private: frozenset[bytes] = frozenset()) -> bytes:
    """Return the end of a chunked body, with the trailers that may be passed on.

    ``private`` are more names that are not: lower case, with ``-`` for ``_``.
    """
    if trailers is None:
        return LAST_CHUNK
    lines: list[bytes] = []
    for name, value in trailers.items():
        # `X_Forwarded_For` is `X-Forwarded-For` to a backend that makes CGI variables of fields.
        folded = name.replace(b"_", b"-")
        if (
            folded not in FORBIDDEN_TRAILERS
            and folded not in private
            and not folded.startswith(FORBIDDEN_TRAILER_PREFIXES)
        ):
            lines.append(name + b": " + value + b"\r\n")
    return b"0\r\n" + b"".join(lines) + b"\r\n"
