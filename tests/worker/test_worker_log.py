"""The access log's file may be moved at any time: no line is lost, none is written twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel.vitals import open_files
from gateway.proxy.record import Outcome, Recorder
from gateway.worker.log import LOOK_EVERY, AccessLog


class Logging:
    """A recorder on a board of its own, and its log."""

    def __init__(self) -> None:
        self.board = Board.create(1)
        self.recorder = Recorder(
            self.board.words, 0, 1, lambda: 0.0, lambda _: "1970-01-01T00:00:00", None
        )
        self.lost = 0
        self.log = AccessLog(self.recorder, self._lost)
        self.asked = 0

    def _lost(self, lines: int) -> None:
        self.lost += lines

    def ask(self, count: int) -> None:
        for _ in range(count):
            self.asked += 1
            outcome = Outcome()
            outcome.fill(
                None, b"GET", b"x", b"/%d" % self.asked, "", 200, 0, 0, 0.0, 0.0, 0.0, 0.0, "", 0,
                -1, "", b"", b"", 0, b"", False, None, "", "", False,
            )  # fmt: skip
            self.recorder.record(outcome)

    def look(self, now: float) -> None:
        """A turn that looks at the path, and those until it has taken what was found."""
        self.log.turn(now)
        deadline = time.monotonic() + 10
        while self.log.looking:
            assert time.monotonic() < deadline, "the look does not end"
            time.sleep(0.002)
            self.log.turn(now)

    def close(self) -> None:
        asyncio.run(self.log.close())
        os.close(self.board.fd)  # the recorder's view holds the rest


def numbers(path: Path) -> list[int]:
    lines = path.read_text().splitlines()
    return [int(line.split('"target":"/')[1].split('"')[0]) for line in lines]


def until_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(path.read_bytes().splitlines()) < count:
        assert time.monotonic() < deadline, "its thread has not written them"
        time.sleep(0.005)


def test_a_file_that_was_moved_is_opened_anew(tmp_path: Path) -> None:
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    logging = Logging()
    logging.log.open(str(path))
    logging.ask(700)
    logging.look(0.0)
    path.rename(moved)
    logging.ask(5)
    logging.look(LOOK_EVERY / 2)
    assert not path.exists(), "it is looked for once a second"
    logging.ask(5)
    logging.look(LOOK_EVERY)
    logging.ask(5)
    until_lines(moved, 710)
    logging.close()
    assert numbers(moved) == list(range(1, 711))
    assert numbers(path) == list(range(711, 716))
    assert logging.lost == 0


def test_one_that_another_has_taken_the_place_of_is_left_to_whoever_moved_it(
    tmp_path: Path,
) -> None:
    """As logrotate does with ``create``."""
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    logging = Logging()
    logging.log.open(str(path))
    path.rename(moved)
    path.touch(0o600)
    logging.look(0.0)
    logging.ask(1)
    logging.close()
    assert (numbers(moved), numbers(path)) == ([], [1])
    assert path.stat().st_mode & 0o777 == 0o600


def test_where_none_can_be_opened_the_moved_one_is_written_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    logging = Logging()
    logging.log.open(str(path))
    path.rename(moved)
    path.symlink_to(tmp_path / "loop")
    (tmp_path / "loop").symlink_to(path)
    for turn in range(3):
        logging.ask(1)
        logging.look(turn * LOOK_EVERY)
    path.unlink()
    logging.look(3 * LOOK_EVERY)
    logging.ask(1)
    logging.close()
    assert (numbers(moved), numbers(path)) == ([1, 2, 3], [4])


def test_what_is_no_file_is_left_alone() -> None:
    logging = Logging()
    logging.log.open("/dev/null")
    before = open_files()
    for turn in range(3):
        logging.ask(1)
        logging.look(turn * LOOK_EVERY)
    assert open_files() == before
    logging.close()


def test_lines_count_with_their_requests(tmp_path: Path) -> None:
    logging = Logging()
    logging.log.open(str(tmp_path / "access.log"))
    logging.ask(3)
    row = logging.board.row(0, 0)
    assert row[layout.METHODS.index("GET") * len(layout.CODE_CLASSES) + 1] == 3
    logging.close()
    assert numbers(tmp_path / "access.log") == [1, 2, 3]


def reader_of(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def until_read(fd: int, count: int) -> list[bytes]:
    deadline, data = time.monotonic() + 10, b""
    while data.count(b"\n") < count:
        assert time.monotonic() < deadline, data
        with contextlib.suppress(BlockingIOError):
            data += os.read(fd, 65536)
        time.sleep(0.005)
    return data.splitlines()


def test_a_fifo_made_anew_is_written_to_once_somebody_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "access.fifo"
    os.mkfifo(path)
    old = reader_of(path)
    logging = Logging()
    logging.log.open(str(path))
    path.unlink()
    os.mkfifo(path)
    logging.look(0.0)
    logging.ask(2)
    logging.look(LOOK_EVERY)
    assert len(until_read(old, 2)) == 2, "as long as nobody reads the new one, the old one has all"
    new = reader_of(path)
    logging.look(2 * LOOK_EVERY)
    logging.ask(3)
    logging.look(2 * LOOK_EVERY)
    assert len(until_read(new, 3)) == 3
    logging.close()
    assert logging.lost == 0
    os.close(old)
    os.close(new)


def test_without_a_reader_at_the_start_lines_are_counted_as_lost_until_there_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "access.fifo"
    os.mkfifo(path)
    logging = Logging()
    logging.log.open(str(path))
    logging.ask(2)
    logging.look(0.0)
    assert logging.lost == 2
    said = [each for each in caplog.messages if "cannot be opened" in each]
    assert len(said) == 1, "once, not at every look"
    read = reader_of(path)
    logging.look(LOOK_EVERY)
    logging.ask(1)
    logging.close()
    assert len(until_read(read, 1)) == 1
    assert logging.lost == 2
    os.close(read)


@pytest.mark.parametrize("first", [True, False], ids=["the first opening", "a look"])
def test_a_file_system_that_hangs_holds_no_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, first: bool
) -> None:
    path = tmp_path / "access.log"
    back = threading.Event()
    real_stat, real_open = Path.stat, os.open

    def stat(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if self == path:
            assert back.wait(20)
        return real_stat(self, follow_symlinks=follow_symlinks)

    def open_file(where: Path, flags: int, mode: int = 0o777) -> int:
        assert back.wait(20)
        return real_open(where, flags, mode)

    logging = Logging()
    if not first:
        logging.log.open(str(path))
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "open", open_file)
    began = time.monotonic()
    logging.log.open(str(path))
    for turn in range(5):
        logging.log.turn(turn * LOOK_EVERY)
        logging.ask(1)
    assert time.monotonic() - began < 5
    assert logging.log.looking
    back.set()
    logging.look(5 * LOOK_EVERY)
    logging.ask(1)
    logging.close()
    assert numbers(path) == ([6] if first else [1, 2, 3, 4, 5, 6])
    assert logging.lost == (5 if first else 0)


def test_a_configuration_that_changes_during_a_look_has_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()
    real_open = os.open

    def open_file(where: Path, flags: int, mode: int = 0o777) -> int:
        if where.name == "one":
            assert back.wait(20)
        return real_open(where, flags, mode)

    monkeypatch.setattr(os, "open", open_file)
    logging = Logging()
    logging.log.open(str(tmp_path / "one"))
    logging.log.open(str(tmp_path / "two"))
    back.set()
    logging.look(0.0)
    logging.look(LOOK_EVERY)
    logging.ask(1)
    logging.close()
    assert numbers(tmp_path / "one") == []
    assert numbers(tmp_path / "two") == [1]


def test_the_end_waits_for_moved_files_and_counts_what_stuck_ones_lose(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    reads = []
    logging = Logging()
    for path in paths:
        os.mkfifo(path)
        reads.append(reader_of(path))
        logging.log.open(str(path))
        logging.ask(2000)  # more than a pipe takes
    began = time.monotonic()
    asyncio.run(logging.log.close(0.3))
    assert time.monotonic() - began < 2
    assert logging.lost > 2000, "of both files"
    for read in reads:
        os.close(read)
    os.close(logging.board.fd)
