"""Locks on cells of the board, that the kernel takes back when their holder dies.

Record locks (``fcntl``) on the board's own file belong to a process: whoever is killed lets go.
Two places a cell: one is held for as long as a breaker's probe is under way, the other for the few
microseconds in which a cell's counts are changed. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Far behind all words: locking needs no octet to be there.
_LOCKS_AT = 1 << 40
#: Tries for the short lock. Its holder may have been stopped within: then better a count that is
#: one off than a worker that hangs.
_TRIES = 200


class CellLocks(Protocol):
    """What a breaker needs of locks."""

    def try_probe(self, cell: int) -> bool:
        """Take the probe's lock; False where another process holds it."""

    def end_probe(self, cell: int) -> None:
        """Let it go."""

    def counting(self, cell: int) -> contextlib.AbstractContextManager[None]:
        """Hold the short lock while a cell's counts are changed."""


class FileLocks:
    """Record locks on the board behind ``fd``, which stays open as long as the process lives: to
    close any descriptor of the file would let go of all of them.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def try_probe(self, cell: int) -> bool:
        """Take the probe's lock; False where another process holds it."""
        return self._try(_LOCKS_AT + 2 * cell)

    def end_probe(self, cell: int) -> None:
        """Let it go."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _LOCKS_AT + 2 * cell)

    @contextlib.contextmanager
    def counting(self, cell: int) -> Iterator[None]:
        """Hold the short lock while a cell's counts are changed."""
        place = _LOCKS_AT + 2 * cell + 1
        held = self._try(place)
        for _ in range(_TRIES):
            if held:
                break
            os.sched_yield()
            held = self._try(place)
        try:
            yield
        finally:
            if held:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, place)

    def _try(self, place: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                raise
            return False
        return True


class OwnLocks:
    """The same within one process, for a board that no other maps."""

    def __init__(self) -> None:
        self._held: set[int] = set()

    def try_probe(self, cell: int) -> bool:
        """Take the probe's lock; False where it is taken."""
        if cell in self._held:
            return False
        self._held.add(cell)
        return True

    def end_probe(self, cell: int) -> None:
        """Let it go."""
        self._held.discard(cell)

    def counting(self, cell: int) -> contextlib.AbstractContextManager[None]:
        """Nobody else counts."""
        return contextlib.nullcontext()
