"""A worker's servers where descriptors are short, and where it is closed while it opens them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Coroutine, Iterator
from typing import cast

import pytest
import uvloop

from gateway.board import layout
from gateway.channel.vitals import open_files
from gateway.proxy.core import Core
from gateway.worker.accepting import SPARE, Accepting


class FakeCore:
    """What ``Accepting`` uses of a core."""

    def __init__(self) -> None:
        self.connections: set[object] = set()
        self.crowded = False
        self.tasks: list[asyncio.Task[None]] = []

    def clock(self) -> float:
        return 0.0

    def spawn(self, name: str, work: Coroutine[object, object, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work, name=name))


class FakeBackends:
    def __init__(self) -> None:
        self.busy = self.idle = 0

    def upstreams(self) -> tuple[int, int]:
        return self.busy, self.idle

    def close_idle(self, count: int) -> None:
        self.idle -= count


class Rig:
    """Two listeners of 20 clients at most."""

    def __init__(self) -> None:
        self.core = FakeCore()
        self.backends = FakeBackends()
        self.words = memoryview(bytearray(8 * 4096)).cast("Q")
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.accepting = Accepting(
            cast("Core", self.core),
            self.backends,
            [(index, sock.fileno()) for index, sock in enumerate(self.sockets)],
            self.words,
            lambda _: asyncio.Protocol(),
            used=lambda: 10,
            limit=lambda: 10 + SPARE + 40,
        )

    async def turn(self) -> None:
        self.accepting.turn(0.0)
        await asyncio.gather(*self.core.tasks)

    def open_files(self) -> int:
        return open_files()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.accepting.close()
    for sock in rig.sockets:
        sock.close()


@pytest.mark.parametrize("at", [1, 2])
async def test_one_that_could_not_listen_tries_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    real, calls = os.dup, 0

    def dup(fd: int) -> int:
        nonlocal calls
        calls += 1
        if calls >= at:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(fd)

    before = rig.open_files()
    monkeypatch.setattr(os, "dup", dup)
    await rig.accepting.open()
    await rig.turn()
    await asyncio.sleep(0)
    assert rig.open_files() == before, "no server of one socket alone is left"
    assert rig.words[layout.S_NOT_ACCEPTING] == 1
    assert len(caplog.messages) == 1, "said once"
    monkeypatch.setattr(os, "dup", real)
    await rig.turn()
    assert rig.open_files() == before + 2
    assert (rig.words[layout.S_NOT_ACCEPTING], rig.core.crowded) == (0, False)


async def test_a_socket_that_nobody_can_serve_is_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def create_server(*_: object, **__: object) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    before = rig.open_files()
    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", create_server)
    await rig.accepting.open()
    assert rig.open_files() == before
    assert rig.accepting.begun


def test_a_socket_that_cannot_listen_is_noticed_under_uvloop() -> None:
    """uvloop's ``create_server`` returns a server all the same."""
    rig = Rig()
    [other, listening] = rig.sockets
    connected = socket.create_connection(listening.getsockname())
    os.dup2(connected.fileno(), other.fileno())
    uvloop.run(rig.accepting.open())
    assert rig.words[layout.S_NOT_ACCEPTING] == 1
    for sock in (connected, *rig.sockets):
        sock.close()


async def test_closed_between_two_listeners_none_is_left(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    real = loop.create_server

    async def create_server(*args: object, **options: object) -> object:
        server = await real(*args, **options)  # type: ignore[call-overload]
        rig.accepting.close()
        return server

    real_dup, taken = os.dup, []

    def dup(fd: int) -> int:
        taken.append(fd)
        return real_dup(fd)

    before = rig.open_files()
    monkeypatch.setattr(loop, "create_server", create_server)
    monkeypatch.setattr(os, "dup", dup)
    await rig.accepting.open()
    await asyncio.sleep(0)
    assert taken == [rig.sockets[0].fileno()], "the other may be closed by then"
    assert not rig.accepting.begun
    assert rig.open_files() == before


async def test_closed_before_it_accepts_again_it_stays_closed(rig: Rig) -> None:
    await rig.accepting.open()
    rig.core.connections = {object() for _ in range(20)}
    await rig.turn()
    assert rig.words[layout.S_NOT_ACCEPTING] == 1
    rig.core.connections = set()
    before = rig.open_files()
    rig.accepting.turn(0.0)
    rig.accepting.close()
    await asyncio.gather(*rig.core.tasks)
    assert not rig.accepting.begun
    assert rig.open_files() == before


async def test_idle_connections_to_backends_make_room_for_clients(rig: Rig) -> None:
    """Twelve clients that moved to another color hold three descriptors each."""
    await rig.accepting.open()
    rig.core.connections = {object() for _ in range(12)}
    rig.backends.busy, rig.backends.idle = 12, 24
    await rig.turn()
    assert rig.words[layout.S_NOT_ACCEPTING] == 0
    assert 2 * 12 + rig.backends.idle <= 40
    assert rig.backends.idle > 0, "no more are closed than it takes"


async def test_where_there_is_room_none_is_closed(rig: Rig) -> None:
    await rig.accepting.open()
    rig.core.connections = {object() for _ in range(5)}
    rig.backends.busy, rig.backends.idle = 5, 20
    await rig.turn()
    assert rig.backends.idle == 20


async def test_more_busy_backends_than_clients_leave_less_room(rig: Rig) -> None:
    await rig.accepting.open()
    rig.core.connections = {object() for _ in range(15)}
    rig.backends.busy = 25
    await rig.turn()
    assert rig.words[layout.S_NOT_ACCEPTING] == 1
