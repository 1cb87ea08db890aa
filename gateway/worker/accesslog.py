"""The file that a worker's access log goes to: opened, and opened anew once it was renamed."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from gateway.proxy.logwriter import LogWriter, open_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.proxy.record import Recorder

logger = logging.getLogger(__name__)

#: Seconds between two looks at whether the file is still the one that its path names, and to the
#: next after one that could not be opened anew.
LOOK_EVERY: Final = 1.0
LOOK_AGAIN: Final = 30.0


class AccessLog:
    """Where lines go. ``lost`` is told how many could not be written.

    logrotate and its like rename a file and make another: no signal is needed for that here.
    """

    def __init__(self, recorder: Recorder, lost: Callable[[int], None]) -> None:
        self._recorder = recorder
        self._lost = lost
        self._where = "off"
        self._writer: LogWriter | None = None
        self._file: tuple[int, int] | None = None
        self._look_at = 0.0

    def open(self, where: str) -> None:
        """Write to ``where`` (``-``, ``off``, a path) from now on; one that cannot be is not."""
        if where != self._where:
            self._open(where)

    def turn(self, now: float) -> None:
        """Every turn of the wheel, at ``now`` (CLOCK_MONOTONIC, seconds)."""
        if self._writer is None:
            return
        self._writer.flush()
        if self._file is not None and now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            if _identity(self._where) != self._file and not self._open(self._where):
                self._look_at = now + LOOK_AGAIN

    def close(self) -> None:
        """Have what is left written and close the file."""
        if self._writer is not None:
            self._recorder.log_to(None)
            self._writer.close()
            self._writer = None

    def _open(self, where: str) -> bool:
        try:
            fd = open_log(where)
        except OSError as error:
            logger.warning("the access log %s cannot be opened: %s", where, error)
            return False
        old, self._writer = self._writer, None
        self._file = None
        if fd is not None:
            if where != "-":
                found = os.fstat(fd)
                self._file = (found.st_dev, found.st_ino)
            self._writer = LogWriter(fd, self._lost)
        self._where = where
        self._recorder.log_to(None if self._writer is None else self._writer.write)
        if old is not None:
            old.close(within=0.0)  # its thread goes on; a stuck pipe must not hold the loop
        return True


def _identity(path: str) -> tuple[int, int] | None:
    """Return what file a path names; None for none."""
    try:
        found = os.stat(path)  # noqa: PTH116  no object a second for it
    except OSError:
        return None
    return found.st_dev, found.st_ino
