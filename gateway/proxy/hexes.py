"""Random hex digits by the block: a request's ids cost a slice instead of a system call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = 4096


class RandomHex:
    """Hands out hex digits of a cryptographic source, each digit once."""

    __slots__ = ("_at", "_digits", "_random")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._digits = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return ``count`` fresh hex digits."""
        at = self._at
        end = at + count
        if end > len(self._digits):
            self._digits = self._random(_BLOCK).hex().encode()
            at, end = 0, count
        self._at = end
        return self._digits[at:end]
