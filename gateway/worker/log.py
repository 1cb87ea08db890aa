"""A worker's access log: where its lines go, and what becomes of them when its file is moved.

Whoever rotates logs renames the file; no signal is needed. Each worker looks once a second whether
the path still names the file that it writes to, and opens it anew where it does not. What it had in
hand goes to the file that it had: no line is lost, none is written twice. A thread looks and opens,
never the loop: where the path is on a file system that hangs, requests go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.proxy.logwriter import LogWriter, open_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.proxy.record import Recorder

logger = logging.getLogger(__name__)

#: Seconds between two looks at the file's path.
LOOK_EVERY = 1.0
#: Seconds that a new path is waited for. Lines come to it later where that is not enough.
OPEN_WITHIN = 0.2
#: Seconds that the end waits for lines to be written: the supervisor waits for a worker for five
#: beyond its drain, and connections had up to three of them.
CLOSE_WITHIN = 1.5


@dataclass(frozen=True)
class _Found:
    """What became of a look at ``where``: a writer to a new file, an error, or neither."""

    where: str
    writer: LogWriter | None = None
    error: Exception | None = None


class _Looker:
    """A thread that looks at paths and opens files; one look at a time."""

    def __init__(self, lost: Callable[[int], None]) -> None:
        self._lost = lost
        self._asked: queue.SimpleQueue[tuple[str, tuple[int, int] | None] | None]
        self._asked = queue.SimpleQueue()
        self._found: queue.SimpleQueue[_Found] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False

    def ask(self, where: str, identity: tuple[int, int] | None) -> None:
        """Have ``where`` opened, unless it is the file ``identity`` (device, inode)."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access log path", daemon=True)
            self._thread.start()
        self.busy = True
        self._asked.put((where, identity))

    def found(self, within: float = 0.0) -> _Found | None:
        """Return what became of the look, waiting for it ``within`` seconds; None: not yet."""
        if not self.busy:
            return None
        try:
            found = self._found.get(timeout=within) if within else self._found.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        return found

    def close(self) -> None:
        """Have no more looks. One that hangs ends with the process."""
        self._asked.put(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._found.put(self._look(*asked))

    def _look(self, where: str, identity: tuple[int, int] | None) -> _Found:
        try:
            if identity is not None and not _moved(where, identity):
                return _Found(where)
            fd = open_log(where)
            if fd is None:
                return _Found(where)
            try:
                return _Found(where, LogWriter(fd, self._lost))
            except BaseException:
                os.close(fd)
                raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look is to come
            return _Found(where, error=error)


def _moved(where: str, identity: tuple[int, int]) -> bool:
    """Tell whether the path names another file by now, or none."""
    try:
        there = Path(where).stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # a folder that cannot be entered just now: the file may well be there
    return identity != (there.st_dev, there.st_ino)


class AccessLog:
    """The log of one worker; ``lost`` is told how many lines could not be written."""

    def __init__(self, recorder: Recorder, lost: Callable[[int], None]) -> None:
        self._recorder = recorder
        self._lost = lost
        self._looker = _Looker(lost)
        #: Where lines are to go, and where they go.
        self._wanted = "off"
        self._where = "off"
        self._writer: LogWriter | None = None
        #: Of files that were moved or given up, with lines in hand yet.
        self._leaving: list[LogWriter] = []
        self._look_at = 0.0
        self._said = False

    @property
    def looking(self) -> bool:
        """Whether a look at the path is on its way."""
        return self._looker.busy

    def open(self, where: str) -> None:
        """Write to ``where`` from now on (``open_log``). As long as it cannot be opened, lines go
        where they went before, or are lost and counted; it is tried again once a second.
        """
        if where == self._wanted:
            return
        self._wanted = where
        if where == "off":
            self._switch(where, None)
            return
        self._take(OPEN_WITHIN)  # a look that began before
        if where != self._where and not self.looking:
            self._ask()
            self._take(OPEN_WITHIN)
        if self._writer is None:
            self._recorder.log_to(self._lose)

    def turn(self, now: float) -> None:
        """Pass on what has come; ``now`` is monotonic seconds."""
        if self._leaving:
            self._some_leave()
        if self._writer is not None:
            self._writer.flush()
        self._take()
        if now >= self._look_at and not self.looking:
            self._look_at = now + LOOK_EVERY
            if self._where != self._wanted or self._where not in {"-", "off"}:
                self._ask()

    async def close(self, within: float = CLOSE_WITHIN) -> None:
        """Have everything written, ``within`` seconds; what is not is lost and counted."""
        until = time.monotonic() + within
        self._take()
        self._wanted = "off"
        self._switch("off", None)
        self._looker.close()
        while self._some_leave() and time.monotonic() < until:  # noqa: ASYNC110 - told by none
            await asyncio.sleep(0.005)
        leaving, self._leaving = self._leaving, []
        for writer in leaving:
            writer.give_up()

    def _some_leave(self) -> bool:
        self._leaving = [writer for writer in self._leaving if not writer.ended()]
        return bool(self._leaving)

    def _lose(self, _: bytes) -> None:
        self._lost(1)

    def _ask(self) -> None:
        same = self._writer is not None and self._where == self._wanted
        self._looker.ask(self._wanted, self._writer.identity if same and self._writer else None)

    def _take(self, within: float = 0.0) -> None:
        """Go on with what a look has found, if it is over (waited for ``within`` seconds)."""
        found = self._looker.found(within)
        if found is None:
            return
        if found.error is not None:
            if not self._said:  # it is tried every second
                logger.warning("the access log %s cannot be opened: %s", found.where, found.error)
            self._said = True
        elif found.writer is not None:
            if found.where == self._wanted:
                self._said = False
                self._switch(found.where, found.writer)
            else:  # the configuration has changed meanwhile
                found.writer.close(within=0.0)

    def _switch(self, where: str, writer: LogWriter | None) -> None:
        old, self._writer = self._writer, writer
        self._where = where
        self._recorder.log_to(None if writer is None else writer.write)
        if old is not None:
            old.close(within=0.0)  # its thread goes on; a stuck pipe must not hold the loop
            self._leaving.append(old)
