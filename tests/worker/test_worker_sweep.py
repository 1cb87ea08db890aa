"""Tunnels to a candidate that was rolled back: closed when their time is over, the others not."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.board import layout
from gateway.channel.messages import Apply
from gateway.config.snapshot import ServiceTraffic, Traffic
from gateway.worker.sweep import EVERY, LEAVE_GRACE, PER_TURN, STREAMS, TunnelSweep
from tests.support.worker import WorkerRig, endpoint, snapshot

ASK = b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


# --- the rule -----------------------------------------------------------------------------------


@dataclass
class Tunnel:
    """A tunnel that only knows where it goes."""

    service: str = "web"
    green: bool = True
    override: bool = False
    opened: float = 0.0
    websocket: bool = False
    leaving: bool = False
    closings: list[bool] = field(default_factory=list)

    def leave(self) -> None:
        if self.websocket:
            self.leaving = True
        else:
            self.close()

    def close(self) -> None:
        self.closings.append(True)


def swept(until: float, stable: str = "blue") -> TunnelSweep:
    sweep = TunnelSweep()
    each = ServiceTraffic(service="web", stable=cast("Any", stable), tunnels_until=until)
    sweep.serve(Traffic(revision=1, services=(each, ServiceTraffic(service="shop", stable="blue"))))
    return sweep


def closed(sweep: TunnelSweep, now: float, *tunnels: Tunnel) -> list[bool]:
    sweep.turn(now, cast("Any", tunnels))
    return [bool(tunnel.closings) for tunnel in tunnels]


def test_those_to_the_candidate_are_closed_when_their_time_has_come() -> None:
    sweep = swept(100.0)
    tunnels = (Tunnel(), Tunnel(green=False), Tunnel(service="shop"))
    assert closed(sweep, 99.9, *tunnels) == [False, False, False]
    assert closed(sweep, 100.0, *tunnels) == [True, False, False]


def test_the_candidate_is_whatever_stable_is_not() -> None:
    assert closed(swept(100.0, "green"), 100.0, Tunnel(), Tunnel(green=False)) == [False, True]


def test_without_a_time_they_stay() -> None:
    assert closed(swept(0.0), 1e9, Tunnel()) == [False]


def test_one_that_was_under_way_is_closed_a_little_later() -> None:
    sweep = swept(100.0)
    assert closed(sweep, 100.0, Tunnel()) == [True]
    late = Tunnel(opened=100.05)
    assert closed(sweep, 100.1, late) == [False]
    assert closed(sweep, 100.0 + EVERY, late) == [True]


def test_a_testers_is_closed_once_but_who_comes_back_may_stay() -> None:
    sweep = swept(100.0)
    assert closed(sweep, 100.0, Tunnel(override=True, opened=99.0)) == [True]
    assert closed(sweep, 100.0 + EVERY, Tunnel(override=True, opened=100.5)) == [False]


def test_many_take_several_turns() -> None:
    sweep = swept(100.0)
    tunnels = [Tunnel() for _ in range(PER_TURN + 1)]
    assert sum(closed(sweep, 100.0, *tunnels)) == PER_TURN
    left = [tunnel for tunnel in tunnels if not tunnel.closings]
    assert closed(sweep, 100.1, *left) == [True]


def test_websockets_are_told_and_closed_a_little_later() -> None:
    sweep = swept(100.0)
    tunnels = (Tunnel(websocket=True), Tunnel(websocket=True, green=False))
    assert closed(sweep, 100.0, *tunnels) == [False, False]
    assert [tunnel.leaving for tunnel in tunnels] == [True, False]
    assert closed(sweep, 100.0 + EVERY, *tunnels) == [False, False]
    assert closed(sweep, 100.0 + LEAVE_GRACE, *tunnels) == [True, False]


def test_who_was_told_keeps_no_place_of_a_turn() -> None:
    sweep = swept(100.0)
    tunnels = [Tunnel(websocket=True) for _ in range(PER_TURN + 1)]
    closed(sweep, 100.0, *tunnels)
    assert sum(tunnel.leaving for tunnel in tunnels) == PER_TURN
    closed(sweep, 100.1, *tunnels)
    assert all(tunnel.leaving for tunnel in tunnels)


class Connection:
    """A connection with an event stream of green; it notes when it is asked."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool, float]] = []

    def leave_color(self, service: str, green: bool, until: float) -> bool:
        self.told.append((service, green, until))
        return len(self.told) == 1


def test_event_streams_are_looked_for_when_the_time_has_come_and_not_forever() -> None:
    sweep = swept(100.0)
    connection = Connection()
    for now in (99.0, 100.0, 100.0 + EVERY, 100.0 + STREAMS, 200.0):
        sweep.turn(now, (), cast("Any", [connection]))
    assert connection.told == [("web", True, 100.0)] * 2


def test_many_event_streams_take_several_turns() -> None:
    sweep = swept(100.0)
    connections = [Connection() for _ in range(PER_TURN + 1)]
    sweep.turn(100.0, (), cast("Any", connections))
    assert sum(bool(each.told) for each in connections) == PER_TURN
    sweep.turn(100.1, (), cast("Any", connections))
    assert all(each.told for each in connections)


def test_another_traffic_lets_them_be() -> None:
    sweep = swept(100.0)
    sweep.serve(Traffic(revision=2, services=(ServiceTraffic(service="web", stable="blue"),)))
    assert closed(sweep, 100.0, Tunnel()) == [False]


# --- over sockets -------------------------------------------------------------------------------


@pytest.fixture
def rig() -> WorkerRig:
    # A short path: a Unix socket's has at most 107 octets.
    return WorkerRig(Path(tempfile.mkdtemp(prefix="gw")))


@asynccontextmanager
async def echo(name: bytes) -> AsyncIterator[int]:
    """Run a backend that switches protocols, says its name, and sends back what it is sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH + name)
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Chat:
    """A client's end of a tunnel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, name: bytes) -> Chat:
        chat = cls(*await asyncio.open_connection("127.0.0.1", port))
        chat.writer.write(ASK)
        head = await asyncio.wait_for(chat.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert await asyncio.wait_for(chat.reader.readexactly(len(name)), 10) == name
        return chat

    async def says(self, what: bytes) -> bytes:
        self.writer.write(what)
        return await asyncio.wait_for(self.reader.readexactly(len(what)), 10)


def moved(number: int, weight: int, until: float = 0.0) -> Apply:
    each = ServiceTraffic(service="web", stable="blue", weight=weight, tunnels_until=until)
    return Apply(number=number, traffic=Traffic(revision=number, services=(each,)))


async def test_a_rollback_closes_the_candidates_and_leaves_stables(rig: WorkerRig) -> None:
    async with echo(b"blue") as blue, echo(b"green") as green, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue), endpoint("green", green), 10_000))
        await rig.control.ack()
        candidate = await Chat.open(rig.port, b"green")
        rig.control.say(moved(2, 0))
        await rig.control.ack()
        stable = await Chat.open(rig.port, b"blue")
        # No time is set: it stays, whatever was rolled back.
        beats = rig.word(layout.S_HEARTBEAT)
        while rig.word(layout.S_HEARTBEAT) == beats:
            await asyncio.sleep(0.02)
        assert await candidate.says(b"still here") == b"still here"
        rig.control.say(moved(3, 0, time.monotonic() + 0.3))
        await rig.control.ack()
        assert await candidate.says(b"a moment") == b"a moment"
        assert await asyncio.wait_for(candidate.reader.read(), 10) == b""
        assert await stable.says(b"stable") == b"stable"
        await rig.until(layout.S_TUNNELS, 1)
        stable.writer.close()
        candidate.writer.close()
        await rig.until(layout.S_TUNNELS, 0)


@pytest.mark.parametrize("color", ["blue", "green"])
def test_an_isolated_colors_are_closed_at_once_a_testers_too(color: str) -> None:
    sweep = TunnelSweep()
    each = ServiceTraffic(
        service="web", stable="blue", closed=cast("Any", (color,)), isolated=cast("Any", (color,))
    )
    sweep.serve(Traffic(revision=1, services=(each,)))
    green = color == "green"
    tunnels = [Tunnel(green=green), Tunnel(green=green, override=True, opened=50.0)]
    others = [Tunnel(green=not green), Tunnel(service="shop", green=green)]
    assert closed(sweep, 10.0, *tunnels, *others) == [True, True, False, False]
