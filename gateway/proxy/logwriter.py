"""The access log's way out of a worker: one thread, a bounded queue, whole lines.

The loop joins a few lines at a time, while they are still in the processor's cache and so that the
memory of each is free again for the next (freed by the thread instead, it cost several microseconds
a line); it wakes the thread for a batch of them (for every 64 lines, through Python's
``queue.Queue``, that cost as much as a third of the request). A pipe gets at most 4 KiB a write
(PIPE_BUF: lines of several workers never mix); a file gets a joined piece a write. What does not
fit in the queue, or what a full disk refuses, is lost and counted, never waited for.
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

#: Lines that are joined at a time, and joined pieces that the thread is woken for.
JOINED = 64
PIECES = 8
#: Lines per batch: what the thread is given at once.
BATCH = JOINED * PIECES
#: Batches that wait for the thread.
QUEUE = 256
#: Octets of one write to a pipe that is never torn (PIPE_BUF on Linux).
PIPE_WRITE = 4096
NEWLINE = 0x0A


class LogWriter:
    """Writes lines to ``fd``, which it owns; ``lost`` is told how many could not be written.

    ``lost`` is called by ``flush``, ``close``, ``ended`` and ``give_up``, never from the thread.
    """

    def __init__(self, fd: int, lost: Callable[[int], None]) -> None:
        self._fd = fd
        self._lost = lost
        self._lines: list[bytes] = []
        self._pieces: list[tuple[bytes, int]] = []
        # Written by the thread alone, and only growing: nothing is lost between it and the loop.
        self._failed = 0
        self._told = 0
        # Lines that the thread was given, and those that it is done with.
        self._given = 0
        self._done = 0
        self._torn = False
        self._queue: queue.SimpleQueue[list[tuple[bytes, int]] | None] = queue.SimpleQueue()
        file = os.fstat(fd)
        mode = file.st_mode
        #: Device and inode of the file that it writes to.
        self.identity = (file.st_dev, file.st_ino)
        self._limit = PIPE_WRITE if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else 0
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take one line (its newline included); never blocks."""
        self._lines.append(line)
        if len(self._lines) >= JOINED:
            self._join()
            if len(self._pieces) >= PIECES:
                self.flush()

    def _join(self) -> None:
        self._pieces.append((b"".join(self._lines), len(self._lines)))
        self._lines.clear()

    def flush(self) -> None:
        """Hand over what has come so far: called every turn of the timer wheel."""
        self._tell()
        if self._lines:
            self._join()
        if not self._pieces:
            return
        batch, self._pieces = self._pieces, []
        count = sum(lines for _, lines in batch)
        if self._queue.qsize() < QUEUE:
            self._given += count
            self._queue.put(batch)
        else:
            self._lost(count)

    def close(self, within: float = 5.0) -> None:
        """Have what is left written, wait for it ``within`` seconds, and close the file then."""
        self.flush()
        self._queue.put(None)
        self._thread.join(timeout=within)
        self._tell()

    def ended(self) -> bool:
        """Tell what was lost until now, and whether there is no more to come after ``close``."""
        over = not self._thread.is_alive()
        self._tell()
        return over

    def give_up(self) -> None:
        """Count as lost what the thread has not written: the process ends, and it with it."""
        self._lost(self._given - self._done)

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
            count = sum(lines for _, lines in batch)
            if self._limit or self._torn or not self._put_all(batch):
                self._put_each(batch)
            self._done += count

    def _put_each(self, batch: list[tuple[bytes, int]]) -> None:
        for joined, count in batch:
            for data, lines in self._writes(joined, count):
                try:
                    self._put(data)
                except OSError:
                    self._failed += lines

    def _put_all(self, batch: list[tuple[bytes, int]]) -> bool:
        """Write a whole batch to a file at once; False where it is to be written piece by piece.

        One call that lets go of the interpreter instead of one a piece.
        """
        try:
            written = os.writev(self._fd, [joined for joined, _ in batch])
        except OSError:
            return False
        if written == sum(len(joined) for joined, _ in batch):
            return True
        # The disk is full, or nearly: what is left goes the way that counts what is lost.
        rest = b"".join(joined for joined, _ in batch)[written:]
        batch[:] = [(rest, rest.count(b"\n"))]
        self._torn = False
        return False

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

    def _writes(self, joined: bytes, count: int) -> Iterator[tuple[bytes, int]]:
        """Yield what goes out in one write each, with its number of lines."""
        if not self._limit or len(joined) <= self._limit:
            yield joined, count
            return
        at = 0
        while at < len(joined):
            # As many whole lines as fit; one that is longer alone goes out whole.
            end = joined.rfind(b"\n", at, at + self._limit) + 1
            if not end:
                end = joined.find(b"\n", at) + 1 or len(joined)
            piece = joined[at:end]
            yield piece, piece.count(b"\n")
            at = end


def open_log(where: str) -> int | None:
    """Open the access log: ``-`` is standard output, ``off`` none, else a file to append to.

    Raises OSError where it cannot be opened: ENXIO for a FIFO that nobody reads, which would
    otherwise be waited for.
    """
    if where == "off":
        return None
    if where == "-":
        return os.dup(1)
    path = Path(where)
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(path, flags, 0o640)
    try:
        os.set_blocking(fd, True)  # whoever writes is a thread, and may wait
    except OSError:
        os.close(fd)
        raise
    return fd
