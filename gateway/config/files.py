"""Reading the files that a configuration is made of, bounded in size and time."""

from __future__ import annotations

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
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(kind):
            raise OSError(0, "not a plain file")
        # The descriptor stays ours: of one that it does not like, fdopen would leave it open.
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(limit + 1)
    finally:
        os.close(descriptor)
