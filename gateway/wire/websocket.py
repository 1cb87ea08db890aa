"""Where one WebSocket frame ends and the next begins (RFC 6455 section 5.2), without any I/O.

Enough to say something between two frames of a stream that is carried as plain octets. Payloads
are passed over by their length; nothing of them is kept or looked at.
"""

from __future__ import annotations

import cython

#: A close frame from a server, status 1001: it goes away (RFC 6455 section 7.4.1).
GOING_AWAY = b"\x88\x02\x03\xe9"

_CLOSE = cython.declare(cython.int, 0x8)
_LONGEST_HEAD = cython.declare(cython.Py_ssize_t, 14)
_TOO_LONG = cython.declare(cython.ulonglong, 1 << 63)


@cython.final
@cython.cclass
class Frames:
    """Follows one direction of a WebSocket.

    ``between``: what was fed so far ends where a frame ends. ``closing``: a close frame has begun,
    after which nothing may be said. ``broken``: this is no WebSocket.
    """

    closing: cython.bint = cython.declare(cython.bint, visibility="readonly")
    broken: cython.bint = cython.declare(cython.bint, visibility="readonly")
    _left: cython.ulonglong
    _begun: bytes

    def __init__(self) -> None:
        self.closing = False
        self.broken = False
        self._left = 0
        self._begun = b""

    @property
    def between(self) -> bool:
        """Whether a frame has just ended, or none has begun."""
        return not self.broken and self._left == 0 and not self._begun

    def feed(self, data: bytes) -> int:
        """Follow some more octets; return the offset where the first frame ends in them, or -1."""
        at: cython.Py_ssize_t = 0
        first: cython.Py_ssize_t = -1
        size: cython.Py_ssize_t = len(data)
        here: cython.Py_ssize_t
        while at < size and not self.broken:
            if self._left:
                here = size - at
                if cython.cast(cython.ulonglong, here) < self._left:
                    self._left -= cython.cast(cython.ulonglong, here)
                    return first
                at += cython.cast(cython.Py_ssize_t, self._left)
                self._left = 0
            else:
                at = self._head(data, at, size)
            if first < 0 and self._left == 0 and not self._begun and not self.broken:
                first = at
        return first

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def _head(
        self, data: bytes, at: cython.Py_ssize_t, size: cython.Py_ssize_t
    ) -> cython.Py_ssize_t:
        """Read a frame's head that begins at ``at`` or before; return where it ends."""
        before: cython.Py_ssize_t = len(self._begun)
        head: bytes = self._begun + data[at : at + _LONGEST_HEAD]
        have: cython.Py_ssize_t = len(head)
        need: cython.Py_ssize_t = 2
        code: cython.int
        length: cython.ulonglong
        index: cython.Py_ssize_t
        extended: cython.Py_ssize_t = 0
        if have >= 2:
            code = head[1] & 0x7F
            extended = 2 if code == 126 else 8 if code == 127 else 0
            need = 2 + extended + (4 if head[1] & 0x80 else 0)
        if have < need:
            self._begun = head
            return size
        length = head[1] & 0x7F
        if extended:
            length = 0
            for index in range(2, 2 + extended):
                length = (length << 8) | cython.cast(cython.ulonglong, head[index])
        if length >= _TOO_LONG:
            self.broken = True
            return size
        if head[0] & 0x0F == _CLOSE:
            self.closing = True
        self._begun = b""
        self._left = length
        return at + need - before
