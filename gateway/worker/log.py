"""A worker's access log: where its lines go, and what becomes of them when its file is moved.

Whoever rotates logs renames the file; no signal is needed. Each worker looks once a second whether
the path still names the file that it writes to, and opens it anew where it does not. What it had in
hand goes to the file that it had: no line is lost, none is written twice.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.proxy.logwriter import LogWriter, open_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.proxy.record import Recorder

logger = logging.getLogger(__name__)

#: Seconds between two looks at the file's path.
LOOK_EVERY = 1.0


class AccessLog:
    """The log of one worker; ``lost`` is told how many lines could not be written."""

    def __init__(self, recorder: Recorder, lost: Callable[[int], None]) -> None:
        self._recorder = recorder
        self._lost = lost
        self._where = "off"
        self._writer: LogWriter | None = None
        #: Of files that were moved or given up, with lines in hand yet.
        self._leaving: list[LogWriter] = []
        self._look_at = 0.0
        self._said = False

    def open(self, where: str) -> None:
        """Write to ``where`` from now on (``open_log``); on as before where it cannot be opened."""
        if where != self._where:
            self._open(where)

    def turn(self, now: float) -> None:
        """Pass on what has come; ``now`` is monotonic seconds."""
        if self._leaving:
            self._leaving = [writer for writer in self._leaving if not writer.ended()]
        if self._writer is None:
            return
        self._writer.flush()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            if self._where != "-" and self._moved(self._writer):
                self._open(self._where)

    def close(self) -> None:
        """Have everything written, within a few seconds."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._recorder.log_to(None)
            writer.close()

    def _moved(self, writer: LogWriter) -> bool:
        """Tell whether the path names another file by now, or none."""
        try:
            there = Path(self._where).stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False  # a folder that cannot be entered just now: the file may well be there
        return writer.identity != (there.st_dev, there.st_ino)

    def _open(self, where: str) -> None:
        try:
            fd = open_log(where)
        except OSError as error:
            if not self._said:  # it is tried every second where a file has been moved
                logger.warning("the access log %s cannot be opened: %s", where, error)
            self._said = True
            return
        self._said = False
        old, self._writer = self._writer, None if fd is None else LogWriter(fd, self._lost)
        self._where = where
        self._recorder.log_to(None if self._writer is None else self._writer.write)
        if old is not None:
            old.close(within=0.0)  # its thread goes on; a stuck pipe must not hold the loop
            self._leaving.append(old)
