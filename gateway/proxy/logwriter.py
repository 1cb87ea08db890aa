"""The access log's way out of a worker: one thread, a bounded queue, whole lines.

The loop hands over batches, not too large (thousands of lines at once would hold the interpreter
for milliseconds) and not too small: a thread that was woken for every 64 lines, through Python's
``queue.Queue``, cost as much as a third of the request. A pipe gets at most 4 KiB a write
(PIPE_BUF: lines of several workers never mix); a file gets a batch a write. What does not fit in
the queue, or what a full disk refuses, is lost and counted, never waited for.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Lines per batch: what one turn of the loop gives at once.
BATCH = 512
#: Batches that wait for the thread.
QUEUE = 256
#: Octets of one write to a pipe that is never torn (PIPE_BUF on Linux).
PIPE_WRITE = 4096
NEWLINE = 0x0A


class LogWriter:
    """Writes lines to ``fd``, which it owns; ``lost`` is told how many could not be written.

    ``lost`` is called where ``flush`` and ``close`` are, never from the thread.
    """

    def __init__(self, fd: int, lost: Callable[[int], None]) -> None:
        self._fd = fd
        self._lost = lost
        self._lines: list[bytes] = []
        # Written by the thread alone, and only growing: nothing is lost between it and the loop.
        self._failed = 0
        self._told = 0
        self._torn = False
        self._queue: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        mode = os.fstat(fd).st_mode
        self._limit = PIPE_WRITE if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else 0
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take one line (its newline included); never blocks."""
        self._lines.append(line)
        if len(self._lines) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand over what has come so far: called every turn of the timer wheel."""
        self._tell()
        if not self._lines:
            return
        batch, self._lines = self._lines, []
        if self._queue.qsize() < QUEUE:
            self._queue.put(batch)
        else:
            self._lost(len(batch))

    def close(self, within: float = 5.0) -> None:
        """Have what is left written, wait for it ``within`` seconds, and close the file then."""
        self.flush()
        self._queue.put(None)
        self._thread.join(timeout=within)
        self._tell()

    def _tell(self) -> None:
        failed = self._failed
        if failed != self._told:
            self._lost(failed - self._told)
            self._told = failed

    def _run(self) -> None:
        while True:
            batch = self._queue.get()
            if batch is None:
                os.close(self._fd)
                return
            for data, lines in self._pieces(batch):
                try:
                    self._put(data)
                except OSError:
                    self._failed += lines

    def _put(self, data: bytes) -> None:
        """Write whole lines. Behind one that could not be finished a new line is begun."""
        if self._torn:
            data = b"\n" + data
        written = 0
        view = memoryview(data)
        try:
            while written < len(data):
                try:
                    written += os.write(self._fd, view[written:])
                except BlockingIOError:
                    # Somebody else has made it so: it is a pipe shared with its other writers.
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll()
        finally:
            if written:
                self._torn = data[written - 1] != NEWLINE

    def _pieces(self, batch: list[bytes]) -> Iterator[tuple[bytes, int]]:
        """Yield what goes out in one write each, with its number of lines."""
        if not self._limit:
            yield b"".join(batch), len(batch)
            return
        piece: list[bytes] = []
        size = 0
        for line in batch:
            if piece and size + len(line) > self._limit:
                yield b"".join(piece), len(piece)
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        yield b"".join(piece), len(piece)


def open_log(where: str) -> int | None:
    """Open the access log: ``-`` is standard output, ``off`` none, else a file to append to.

    Raises OSError where it cannot be opened.
    """
    if where == "off":
        return None
    if where == "-":
        return os.dup(1)
    path = Path(where)
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
