"""The access log's thread, on real pipes and files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gateway.proxy import logwriter
from gateway.proxy.logwriter import BATCH, LogWriter, open_log


class Lost:
    def __init__(self) -> None:
        self.lines = 0
        self.threads: set[int] = set()

    def __call__(self, lines: int) -> None:
        self.lines += lines
        self.threads.add(threading.get_ident())


def _line(number: int, length: int = 100) -> bytes:
    return (b"%d " % number).ljust(length - 1, b"x") + b"\n"


def test_a_file_gets_every_line_in_order(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "access.log"
    fd = open_log(str(path))
    assert fd is not None
    lost = Lost()
    writer = LogWriter(fd, lost)
    lines = [_line(i) for i in range(5 * BATCH + 7)]
    for line in lines:
        writer.write(line)
    writer.close()
    assert path.read_bytes() == b"".join(lines)
    assert lost.lines == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_existing_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for number in range(2):
        fd = open_log(str(path))
        assert fd is not None
        writer = LogWriter(fd, Lost())
        writer.write(_line(number))
        writer.close()
    assert path.read_bytes() == _line(0) + _line(1)


def test_off_and_standard_output(tmp_path: Path) -> None:
    assert open_log("off") is None
    fd = open_log("-")
    assert fd is not None
    assert fd > 2
    os.close(fd)
    with pytest.raises(OSError, match="directory"):
        open_log(str(tmp_path))


def test_a_pipe_gets_whole_lines_of_at_most_a_page_at_once() -> None:
    read, write = os.pipe()
    writer = LogWriter(os.dup(write), Lost())
    lines = [_line(i, 50 + 37 * (i % 60)) for i in range(300)]
    got = bytearray()

    def reader() -> None:
        while data := os.read(read, 65536):
            got.extend(data)

    thread = threading.Thread(target=reader)
    thread.start()
    for line in lines:
        writer.write(line)
    writer.close()
    os.close(write)
    thread.join(10)
    os.close(read)
    assert bytes(got) == b"".join(lines)


def test_pieces_for_a_pipe_end_at_lines_and_stay_within_a_page() -> None:
    read, write = os.pipe()
    writer = LogWriter(write, Lost())
    batch = [_line(i, 1000) for i in range(20)] + [_line(99, 4096)] + [_line(1, 10)]
    pieces = list(writer._writes(b"".join(batch), len(batch)))
    writer.close()
    os.close(read)
    assert b"".join(data for data, _ in pieces) == b"".join(batch)
    assert sum(lines for _, lines in pieces) == len(batch)
    assert all(len(data) <= 4096 and data.endswith(b"\n") for data, _ in pieces)


def test_several_writers_to_one_pipe_never_mix_their_lines() -> None:
    read, write = os.pipe()
    writers = [LogWriter(os.dup(write), Lost()) for _ in range(3)]
    got = bytearray()

    def reader() -> None:
        while data := os.read(read, 4096):
            got.extend(data)

    thread = threading.Thread(target=reader)
    thread.start()
    expected = set()
    for number in range(1500):
        line = (b"%d:" % number).ljust(200 + number % 700, b"abc"[number % 3 : number % 3 + 1])
        expected.add(line)
        writers[number % 3].write(line + b"\n")
        if number % 50 == 0:
            for writer in writers:
                writer.flush()
    for writer in writers:
        writer.close()
    os.close(write)
    thread.join(10)
    os.close(read)
    assert set(bytes(got).splitlines()) == expected


def test_what_does_not_fit_into_the_queue_is_lost_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logwriter, "QUEUE", 4)
    read, write = os.pipe()
    lost = Lost()
    writer = LogWriter(write, lost)
    # Nobody reads: the pipe fills, then the queue; nothing of it blocks.
    for number in range(40 * BATCH):
        writer.write(_line(number))
    assert lost.lines > 30 * BATCH
    received = bytearray()

    def reader() -> None:
        while data := os.read(read, 65536):
            received.extend(data)

    thread = threading.Thread(target=reader)
    thread.start()
    writer.close()
    thread.join(10)
    os.close(read)
    assert received.count(b"\n") + lost.lines == 40 * BATCH


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    lost = Lost()
    writer = LogWriter(fd, lost)
    for number in range(BATCH + 3):
        writer.write(_line(number))
    writer.close()
    assert lost.lines == BATCH + 3
    # Told where it is safe: the counter belongs to the loop's thread.
    assert lost.threads == {threading.get_ident()}


def test_a_reader_that_went_away_loses_lines_and_nothing_else() -> None:
    read, write = os.pipe()
    os.close(read)
    lost = Lost()
    writer = LogWriter(write, lost)
    writer.write(_line(1))
    writer.close()
    assert lost.lines == 1


def test_a_pipe_that_someone_made_non_blocking() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    lost = Lost()
    writer = LogWriter(write, lost)
    got = bytearray()
    for number in range(2000):
        writer.write(_line(number))
    writer.flush()

    def reader() -> None:
        while data := os.read(read, 65536):
            got.extend(data)

    thread = threading.Thread(target=reader)
    thread.start()
    writer.close()
    thread.join(10)
    os.close(read)
    assert bytes(got) == b"".join(_line(i) for i in range(2000))
    assert lost.lines == 0


def test_a_torn_line_does_not_spoil_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    lost = Lost()
    writer = LogWriter(os.dup(write), lost)
    real = os.write
    calls = 0

    def sometimes(fd: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real(fd, data[:5])
        if calls == 2:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", sometimes)
    writer.write(b"first line\n")
    writer.flush()
    writer.write(b"second line\n")
    writer.close()
    os.close(write)
    assert os.read(read, 100) == b"first\nsecond line\n"
    os.close(read)
    assert lost.lines == 1


def test_a_fifo_is_opened_once_somebody_reads_it_and_written_to_by_waiting(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        open_log(str(path))
    read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fd = open_log(str(path))
    assert fd is not None
    assert os.get_blocking(fd)
    os.close(fd)
    os.close(read)
