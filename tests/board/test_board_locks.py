"""Locks on cells: one holder on the machine, and none that outlives its process."""

from __future__ import annotations

import os
import signal

from gateway.board.board import Board
from gateway.board.locks import FileLocks, OwnLocks


def _child(locks: FileLocks, cell: int) -> tuple[int, int]:
    """Have another process try for a probe's lock and live on; return its pid and whether it
    has it.
    """
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, bytes([locks.try_probe(cell)]))
        signal.pause()
        os._exit(0)
    os.close(tell)
    got = os.read(told, 1)
    os.close(told)
    return pid, got[0]


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_one_process_has_the_probe_until_it_dies() -> None:
    board = Board.create(1)
    locks = FileLocks(board.fd)
    try:
        first, got = _child(locks, 7)
        assert got == 1
        second, got = _child(locks, 7)
        assert got == 0
        assert not locks.try_probe(7)
        other, got = _child(locks, 8)
        assert got == 1  # another endpoint's is another lock
        for pid in (second, other):
            _end(pid)
        assert not locks.try_probe(7)
        _end(first)  # killed while it holds the lock: the kernel takes it back
        assert locks.try_probe(7)
        locks.end_probe(7)
        third, got = _child(locks, 7)
        assert got == 1
        _end(third)
    finally:
        board.close()


def test_the_short_lock_is_another_place_and_hangs_nobody() -> None:
    board = Board.create(1)
    locks = FileLocks(board.fd)
    try:
        with locks.counting(7):
            pid, got = _child(locks, 7)
            assert got == 1
        _end(pid)
        told, tell = os.pipe()
        holder = os.fork()
        if holder == 0:
            with locks.counting(7):
                os.write(tell, b"x")
                signal.pause()
        os.read(told, 1)
        with locks.counting(7):  # its holder stopped within: it is not waited for for long
            pass
        _end(holder)
    finally:
        board.close()


def test_locks_of_one_process() -> None:
    locks = OwnLocks()
    assert locks.try_probe(1)
    assert not locks.try_probe(1)
    locks.end_probe(1)
    assert locks.try_probe(1)
    with locks.counting(1):
        pass
