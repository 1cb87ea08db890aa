from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.channel import childspec, spare
from gateway.channel.childspec import ChildSpec


def place(folder: Path, count: int) -> ChildSpec:
    """Return a worker's place whose descriptors are open files, one to each name."""
    fds = [os.open(folder / str(each), os.O_CREAT | os.O_RDWR) for each in range(count + 1)]
    return ChildSpec(
        role="worker",
        slot=1,
        slab=3,
        slabs=6,
        board=fds[0],
        boot="b",
        run_dir=str(folder),
        config="c",
        sockets=tuple(enumerate(fds[1:])),
        addresses=tuple(f"127.0.0.1:{each}" for each in range(count)),
    )


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Return the supervisor's end, while this process is the spare at the other one."""
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(spare.VARIABLE, str(theirs.detach()))
    return ours


@pytest.mark.parametrize("count", [1, spare.MAX_DESCRIPTORS - 1])
def test_a_place_arrives_with_its_descriptors(
    ours: socket.socket, tmp_path: Path, count: int
) -> None:
    told = place(tmp_path, count)
    assert spare.fits(told)
    assert spare.hand(ours, told)
    taken = spare.inherited()
    assert taken is not None
    assert replace(taken, board=0, sockets=()) == replace(told, board=0, sockets=())
    assert ours.recv(10) == spare.READY
    pairs = [(told.board, taken.board)]
    for (index, was), (same, now) in zip(told.sockets, taken.sockets, strict=True):
        assert index == same
        pairs.append((was, now))
    for was, now in pairs:
        assert was != now
        assert os.path.sameopenfile(was, now)
        os.close(was)
        os.close(now)
    ours.close()


def test_the_end_of_the_stream_means_that_there_is_no_place(ours: socket.socket) -> None:
    ours.close()
    assert spare.inherited() is None


def test_who_was_told_by_one_that_has_ended_since_takes_no_place(
    ours: socket.socket, tmp_path: Path
) -> None:
    """A supervisor that came after it has filled the place, and does not know of this one."""
    told = place(tmp_path, 1)
    assert spare.hand(ours, told)
    ours.close()
    assert spare.inherited() is None
    for fd in (told.board, *(fd for _, fd in told.sockets)):
        os.close(fd)


def test_nobody_takes_a_place_where_the_other_end_is_closed(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    told = place(tmp_path, 1)
    assert not spare.hand(ours, told)
    ours.close()
    for fd in (told.board, *(fd for _, fd in told.sockets)):
        os.close(fd)


def test_too_many_descriptors_do_not_fit(tmp_path: Path) -> None:
    pairs = tuple((each, 0) for each in range(spare.MAX_DESCRIPTORS))
    assert not spare.fits(replace(spare.nobody("r"), sockets=pairs))


def test_others_have_their_place_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spare.nobody("r")
    monkeypatch.delenv(spare.VARIABLE, raising=False)
    monkeypatch.setenv(childspec.VARIABLE, spec.encode())
    assert spare.inherited() == spec
