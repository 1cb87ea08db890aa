"""The access log's file is the one that its path names, whatever was done to it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.worker.accesslog import LOOK_AGAIN, LOOK_EVERY, AccessLog


class Recorder:
    def __init__(self) -> None:
        self.write: Callable[[bytes], None] | None = None

    def log_to(self, write: Callable[[bytes], None] | None) -> None:
        self.write = write


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def log(recorder: Recorder) -> AccessLog:
    return AccessLog(recorder, lambda lines: None)  # type: ignore[arg-type]


def write(recorder: Recorder, line: bytes) -> None:
    assert recorder.write is not None
    recorder.write(line)


def test_a_renamed_file_is_opened_anew_and_no_line_is_lost(
    tmp_path: Path, recorder: Recorder, log: AccessLog
) -> None:
    path = tmp_path / "access.log"
    log.open(str(path))
    write(recorder, b"one\n")
    log.turn(0.0)
    path.rename(tmp_path / "access.log.1")
    write(recorder, b"two\n")  # before the next look: it goes where the file went
    log.turn(LOOK_EVERY / 2)
    log.turn(LOOK_EVERY)
    write(recorder, b"three\n")
    log.close()
    assert path.read_bytes() == b"three\n"
    assert (tmp_path / "access.log.1").read_bytes() == b"one\ntwo\n"


def test_a_file_that_was_made_anew_by_somebody_is_taken(
    tmp_path: Path, recorder: Recorder, log: AccessLog
) -> None:
    path = tmp_path / "access.log"
    log.open(str(path))
    log.turn(0.0)
    path.rename(tmp_path / "access.log.1")
    path.write_bytes(b"theirs\n")
    log.turn(LOOK_EVERY)
    write(recorder, b"ours\n")
    log.close()
    assert path.read_bytes() == b"theirs\nours\n"


def test_where_it_cannot_be_opened_anew_the_old_one_is_gone_on_with(
    tmp_path: Path, recorder: Recorder, log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "logs" / "access.log"
    log.open(str(path))
    log.turn(0.0)
    (tmp_path / "logs").rename(tmp_path / "gone")
    (tmp_path / "logs").write_bytes(b"a file in the folder's place")
    with caplog.at_level(logging.WARNING):
        log.turn(LOOK_EVERY)
        log.turn(LOOK_EVERY * 3)
    assert len(caplog.records) == 1, "said once, not each second"
    write(recorder, b"kept\n")
    log.turn(LOOK_EVERY * 4)
    (tmp_path / "logs").unlink()
    log.turn(LOOK_EVERY + LOOK_AGAIN)
    write(recorder, b"back\n")
    log.close()
    assert (tmp_path / "gone" / "access.log").read_bytes() == b"kept\n"
    assert path.read_bytes() == b"back\n"


def test_standard_output_and_none_are_not_looked_after(recorder: Recorder, log: AccessLog) -> None:
    log.open("off")
    log.turn(0.0)
    assert recorder.write is None
    log.open("-")
    log.turn(LOOK_EVERY)
    log.close()
    assert recorder.write is None
