"""Random hex digits by the block: a request's ids cost a slice instead of a system call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython

if TYPE_CHECKING:
    from collections.abc import Callable

#: Random octets drawn at a time.
BLOCK = 4096
_BLOCK = cython.declare(cython.Py_ssize_t, BLOCK)


@cython.final
@cython.cclass
class RandomHex:
    """Hands out hex digits of a cryptographic source, each digit once."""

    _at: cython.Py_ssize_t
    _digits: bytes
    _random: Callable[[int], bytes]

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._digits = b""
        self._at = 0

    @cython.ccall
    def take(self, count: cython.Py_ssize_t) -> bytes:
        """Return ``count`` fresh hex digits, 1 to twice BLOCK. Raises ValueError for others."""
        if not 0 < count <= 2 * _BLOCK:
            raise ValueError(f"{count} digits; 1 to {2 * BLOCK} can be taken at a time")
        at: cython.Py_ssize_t = self._at
        end: cython.Py_ssize_t = at + count
        if end > len(self._digits):
            self._digits = self._random(BLOCK).hex().encode()
            at = 0
            end = count
        self._at = end
        if cython.compiled:
            # Without the slice object that this would make first; both ends are checked above.
            octets: cython.p_char = self._digits
            return octets[at:end]
        else:  # noqa: RET505 - the compiler leaves one of the two out
            return self._digits[at:end]
