"""Reading the files that a configuration is made of, bounded in size and time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def reason(error: OSError) -> str:
    """Return why a file cannot be read, without its name."""
    return error.strerror or "not readable"


def read_bounded(path: Path, limit: int) -> bytes:
    """Return a file's octets, one more than ``limit`` where it has more than that.

    Raises OSError, for what is no plain file too.
    """
    # Opened without waiting: a FIFO without a writer would hold the process for good.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _read(descriptor, limit)
    finally:
        os.close(descriptor)


def _read(descriptor: int, limit: int) -> bytes:
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(kind):
        raise OSError(0, "not a plain file")
    # The descriptor stays ours: of one that it does not like, fdopen would leave it open.
    with os.fdopen(descriptor, "rb", closefd=False) as stream:
        return stream.read(limit + 1)


class OwnFolder:
    """A folder whose files this process believes because nobody else can have written them.

    The folder and each file belong to this process' user, and no one else may write there; links
    are not followed. Use it as a context: it is open within. With ``make`` it is made, or made the
    owner's alone. Raises OSError, PermissionError where others could write.
    """

    def __init__(self, path: Path, *, make: bool = False) -> None:
        if make:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._folder = os.open(path, flags)
        try:
            if make and os.fstat(self._folder).st_uid == os.geteuid():
                os.fchmod(self._folder, 0o700)  # was another's way of making it
            _check_own(self._folder)
        except OSError:
            os.close(self._folder)
            raise

    def __enter__(self) -> OwnFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._folder)

    def read(self, name: str, limit: int) -> tuple[bytes, float]:
        """Return as ``read_bounded``, with when it was last written (the epoch's seconds)."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=self._folder)
        try:
            _check_own(descriptor)
            return _read(descriptor, limit), os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)

    def write(self, name: str, octets: bytes) -> None:
        """Put a file (0600) in place, whole or not at all."""
        temporary = f"{name}.{os.getpid()}.tmp"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._folder)  # of one with this number that was killed
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=self._folder)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(octets)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def touch(self, name: str) -> None:
        """Have a file be written last just now."""
        os.utime(name, dir_fd=self._folder, follow_symlinks=False)


def _check_own(descriptor: int) -> None:
    """Raise PermissionError where others than this process' user may have written what is open."""
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"belongs to user {found.st_uid}, not to this one")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "others can write it, expected chmod go-w")
