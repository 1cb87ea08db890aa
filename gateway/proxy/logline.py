"""One line of the access log under way: JSON, made without a dict.

It is fixed text around values whose octets are looked at once and copied when nothing in them needs
an escape, which is nearly always. Compiled where a compiler is there.
"""

from __future__ import annotations

import cython

if cython.compiled:
    from cython.cimports.libc.string import memcpy

#: Octets of a line at most: it must fit one write to a pipe.
MAX_LINE = 4096


def _safe_table() -> bytes:
    """Build the table of octets that stand for themselves in a JSON string."""
    table = bytearray(256)
    for octet in range(0x20, 0x7F):
        table[octet] = 1
    table[0x22] = table[0x5C] = 0
    return bytes(table)


_SAFE = cython.declare(bytes, _safe_table())
_SHORT = {
    0x22: '\\"',
    0x5C: "\\\\",
    0x08: "\\b",
    0x0C: "\\f",
    0x0A: "\\n",
    0x0D: "\\r",
    0x09: "\\t",
}

#: 10 ** place: how many digits a number has.
_POWERS = cython.declare(cython.longlong[19])  # type: ignore[misc, valid-type]
_place = cython.declare(cython.int, 0)
_power = cython.declare(cython.longlong, 1)
if not cython.compiled:
    _POWERS = [0] * 19
for _place in range(19):
    _POWERS[_place] = _power
    if _place < 18:
        _power *= 10


@cython.ccall
def escaped(value: bytes) -> str:
    """Return the inside of a JSON string for these octets (RFC 8259 section 7).

    They are read as UTF-8; what is not UTF-8 becomes U+FFFD. What is not printable is written as
    ``\\u``: no terminal that shows the log is moved by it, no reader of it sees another line.
    """
    i: cython.Py_ssize_t
    safe: bytes = _SAFE
    for i in range(len(value)):
        if not safe[value[i]]:
            return _escape(value)
    return value.decode("ascii")


def _escape(value: bytes) -> str:
    pieces: list[str] = []
    for letter in value.decode("utf-8", "replace"):
        code = ord(letter)
        if code in _SHORT:
            pieces.append(_SHORT[code])
        elif letter.isprintable():
            pieces.append(letter)
        elif code < 0x10000:
            pieces.append(f"\\u{code:04x}")
        else:
            code -= 0x10000
            pieces.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
    return "".join(pieces)


@cython.final
@cython.cclass
class Line:
    """A line under way: octets in a buffer that the next line uses again.

    What needs an escape, which is rare, goes by way of a text.
    """

    size: cython.Py_ssize_t
    _octets: bytearray
    _room: cython.Py_ssize_t

    def __init__(self) -> None:
        self.size = 0
        self._room = 2 * MAX_LINE
        self._octets = bytearray(self._room)

    @cython.cfunc
    @cython.exceptval(-1)
    def _grow(self, more: cython.Py_ssize_t) -> cython.bint:
        self._room += self.size + more
        self._octets.extend(bytes(self.size + more))
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def put(self, text: bytes) -> cython.bint:
        """Add octets as they are."""
        at: cython.Py_ssize_t = self.size
        more: cython.Py_ssize_t = len(text)
        if self.size + more > self._room:
            self._grow(more)
        if cython.compiled:
            target = cython.declare(cython.pointer(cython.char), self._octets)
            memcpy(target + at, cython.cast(cython.p_char, text), more)
        else:
            self._octets[at : at + more] = text
        self.size = at + more
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def shown(self, value: bytes, room: cython.Py_ssize_t) -> cython.bint:
        """Add the inside of a JSON string for the first ``room`` octets of a value."""
        more: cython.Py_ssize_t = min(len(value), room)
        if cython.compiled:
            i: cython.Py_ssize_t
            at: cython.Py_ssize_t = self.size
            source: cython.p_uchar = value
            safe: cython.p_uchar = _SAFE
            if at + more > self._room:
                self._grow(more)
            target = cython.declare(cython.pointer(cython.uchar), self._octets)
            target += at
            for i in range(more):
                target[i] = source[i]
                if not safe[source[i]]:
                    break
            else:
                self.size = at + more
                return True
        return self.put(escaped(value[:more]).encode())

    @cython.cfunc
    @cython.exceptval(-1)
    def number(self, value: cython.longlong, digits: cython.int) -> cython.bint:
        """Add a number of 0 or more, of so many digits at least."""
        rest: cython.longlong = value
        if cython.compiled:
            at: cython.Py_ssize_t
            if self.size + 20 > self._room:
                self._grow(20)
            target = cython.declare(cython.pointer(cython.uchar), self._octets)
            while digits < 19 and rest >= _POWERS[digits]:
                digits += 1
            at = self.size + digits
            self.size = at
            while digits > 0:
                at -= 1
                digits -= 1
                target[at] = cython.cast(cython.uchar, 48 + rest % 10)
                rest //= 10
            return True
        else:  # noqa: RET505 - the compiler leaves one of the two out
            return self.put(b"%0*d" % (digits, value))

    @cython.cfunc
    @cython.exceptval(-1)
    def millis(self, micros: cython.longlong) -> cython.bint:
        """Add microseconds as milliseconds with three decimals."""
        self.number(micros // 1000, 1)
        self.put(b".")
        return self.number(micros % 1000, 3)

    @cython.cfunc
    def take(self) -> bytes:
        """Return the line; the next one is begun."""
        size: cython.Py_ssize_t = self.size
        self.size = 0
        if cython.compiled:
            octets = cython.declare(cython.pointer(cython.char), self._octets)
            return cython.cast(bytes, octets[:size])
        else:  # noqa: RET505
            return bytes(self._octets[:size])
