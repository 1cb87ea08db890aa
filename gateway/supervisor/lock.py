"""One owner per state folder: an advisory lock that the kernel gives back when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


class HeldError(Exception):
    """Another process owns the state; the text names it."""


class OwnerLock:
    """The lock on a run folder, held from construction to ``close`` or the process's end.

    Two supervisors over one state would bind side by side without a word (``SO_REUSEPORT``) and
    write one database. The descriptor is not inherited: children that outlive the supervisor do
    not hold its lock. Only a new supervisor in the same process does (an upgrade).
    """

    def __init__(self, path: Path) -> None:
        """Take it. Raises HeldError, or OSError where the file cannot be opened."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            # Our own number is another's only where numbers are counted anew: mostly 1.
            where = " of another container" if holder == str(os.getpid()) else ""
            raise HeldError(
                f"another gateway (process {holder}{where}) runs on this state: {path.parent}"
            ) from None
        # A full disk costs the next one to be refused our number, nothing else.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    @classmethod
    def kept(cls, fd: int, path: Path) -> Self:
        """Go on with the lock that this process held before an exec; its descriptor is ours now.

        Where the file was replaced meanwhile, the one that is there is locked. Raises as making
        one does.
        """
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)  # noqa: FBT003 -- positional-only in os
            # Locking what this open file has locked already does nothing; there is no gap.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.stat()):
                lock = cls.__new__(cls)
                lock._fd = fd
                return lock
        return cls(path)

    @property
    def fd(self) -> int:
        """The descriptor that holds it."""
        return self._fd

    def close(self) -> None:
        """Give it back. The file stays: removing it would let two processes lock two files."""
        os.close(self._fd)
