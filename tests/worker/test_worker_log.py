"""The access log's file may be moved at any time: no line is lost, none is written twice."""

from __future__ import annotations

import os
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

    def close(self) -> None:
        self.log.close()
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
    logging.log.turn(0.0)
    path.rename(moved)
    logging.ask(5)
    logging.log.turn(LOOK_EVERY / 2)
    assert not path.exists(), "it is looked for once a second"
    logging.ask(5)
    logging.log.turn(LOOK_EVERY)
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
    logging.log.turn(0.0)
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
        logging.log.turn(turn * LOOK_EVERY)
    path.unlink()
    logging.log.turn(3 * LOOK_EVERY)
    logging.ask(1)
    logging.close()
    assert (numbers(moved), numbers(path)) == ([1, 2, 3], [4])


def test_what_is_no_file_is_left_alone() -> None:
    logging = Logging()
    logging.log.open("/dev/null")
    before = open_files()
    for turn in range(3):
        logging.ask(1)
        logging.log.turn(turn * LOOK_EVERY)
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
