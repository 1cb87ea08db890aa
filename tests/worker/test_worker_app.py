"""A worker against a control that is a few lines long: what it serves, acknowledges, survives."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from gateway.board import layout
from gateway.channel import handover, snapshotfile
from gateway.channel.messages import Ack, Addresses, Apply, Drain
from gateway.config.snapshot import (
    OnControlLost,
    ServiceTraffic,
    Topology,
    Traffic,
)
from gateway.proxy.serving import Builder
from tests.support.worker import WorkerRig, backend, endpoint, snapshot


@pytest.fixture
def rig() -> WorkerRig:
    # A short path: a Unix socket's has at most 107 octets.
    return WorkerRig(Path(tempfile.mkdtemp(prefix="gw")))


async def test_it_serves_what_it_acknowledges(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, rig.running():
        assert (await rig.control.hello()).topology == 0
        assert rig.word(layout.S_STATE) == layout.STATE_STARTING
        rig.control.say(snapshot(7, endpoint("blue", blue)))
        assert await rig.control.ack() == Ack(number=7)
        assert rig.word(layout.S_STATE) == layout.STATE_READY
        assert rig.word(layout.S_NUMBER) == 7
        assert (await rig.get()).endswith(b"blue")


async def test_a_move_of_traffic_alone_keeps_the_topology(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, backend(b"green") as green, rig.running():
        await rig.control.hello()
        first = snapshot(1, endpoint("blue", blue), endpoint("green", green))
        rig.control.say(first)
        await rig.control.ack()
        moved = Traffic(
            revision=2, services=(ServiceTraffic(service="web", stable="blue", weight=10_000),)
        )
        rig.control.say(Apply(number=2, traffic=moved))
        await rig.control.ack()
        assert (await rig.get()).endswith(b"green")
        assert rig.word(layout.S_TOPOLOGY) == 1
        assert rig.word(layout.S_TRAFFIC) == 2


async def test_a_snapshot_that_cannot_be_served_leaves_the_one_before(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue)))
        await rig.control.ack()
        secure = endpoint("blue", blue, scheme="https")
        rig.control.say(snapshot(2, secure, authorities="/nowhere.pem"))
        refused = await rig.control.ack()
        assert refused.number == 2
        assert "/nowhere.pem" in refused.error
        assert rig.word(layout.S_NUMBER) == 1
        assert (await rig.get()).endswith(b"blue")


async def test_it_serves_on_without_control_and_says_where_it_is_when_it_is_back(
    rig: WorkerRig,
) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(3, endpoint("blue", blue)))
        await rig.control.ack()
        rig.control.writers[-1].close()
        assert (await rig.get()).endswith(b"blue")
        again = await rig.control.hello()
        assert (again.topology, again.traffic) == (3, 3)


async def test_it_starts_from_the_file_that_control_left(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue:
        left = snapshot(5, endpoint("blue", blue, host="backend.test"))
        snapshotfile.write(
            rig.spec.snapshot_file,
            Apply(
                number=5,
                topology=left.topology,
                traffic=left.traffic,
                names={"backend.test": ("127.0.0.1",)},
            ),
        )
        async with rig.running(control=False):
            await rig.until(layout.S_STATE, layout.STATE_READY)
            assert (await rig.get()).endswith(b"blue")


async def test_a_spoiled_file_is_passed_over(rig: WorkerRig) -> None:
    Path(rig.spec.snapshot_file).write_bytes(b"\x00 no snapshot")
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue)))
        await rig.control.ack()
        assert (await rig.get()).endswith(b"blue")


def broken(build: Builder, topology: Topology, traffic: Traffic) -> NoReturn:
    raise OverflowError("value too large")


async def test_a_snapshot_that_breaks_the_builder_is_refused_and_followed_by_the_next(
    rig: WorkerRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        with monkeypatch.context() as patch:
            patch.setattr(Builder, "build", broken)
            rig.control.say(snapshot(1, endpoint("blue", blue)))
            ack = await rig.control.ack()
        assert ack == Ack(number=1, error="OverflowError: value too large")
        assert "snapshot 1 cannot be served" in caplog.text
        rig.control.say(snapshot(2, endpoint("blue", blue)))
        assert await rig.control.ack() == Ack(number=2)
        assert (await rig.get()).endswith(b"blue")


async def test_a_stored_snapshot_that_breaks_the_builder_is_passed_over(
    rig: WorkerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backend(b"blue") as blue:
        left = snapshot(5, endpoint("blue", blue))
        snapshotfile.write(rig.spec.snapshot_file, left)
        with monkeypatch.context() as patch:
            patch.setattr(Builder, "build", broken)
            async with rig.running():
                await rig.control.hello()
                patch.undo()
                rig.control.say(snapshot(6, endpoint("blue", blue)))
                assert await rig.control.ack() == Ack(number=6)
                assert (await rig.get()).endswith(b"blue")


async def test_names_are_connected_to_where_control_says(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue, host="backend.test")))
        await rig.control.ack()
        assert b"502" in (await rig.get()).splitlines()[0]
        rig.control.say(Addresses(names={"backend.test": ("127.0.0.1",)}))
        rig.control.say(Apply(number=2))
        await rig.control.ack()
        assert (await rig.get()).endswith(b"blue")


async def test_the_flag_file_outranks_the_weight(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, backend(b"green") as green, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue), endpoint("green", green), 10_000))
        await rig.control.ack()
        assert (await rig.get()).endswith(b"green")
        flag = Path(rig.spec.rollback_flag)
        flag.touch()
        await rig.until(layout.S_FORCED_STABLE, 1)
        assert (await rig.get()).endswith(b"blue")
        flag.unlink()
        await rig.until(layout.S_FORCED_STABLE, 0)
        assert (await rig.get()).endswith(b"green")


async def test_on_control_lost_stable_goes_back(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, backend(b"green") as green, rig.running():
        await rig.control.hello()
        # No heartbeat of control was ever written to this board: it is lost from the start.
        lost = OnControlLost(after=0.5, do="stable")
        blue_, green_ = endpoint("blue", blue), endpoint("green", green)
        rig.control.say(snapshot(1, blue_, green_, 10_000, lost))
        await rig.control.ack()
        await rig.until(layout.S_FORCED_STABLE, 1)
        assert (await rig.get()).endswith(b"blue")


async def test_a_drain_finishes_what_is_under_way(rig: WorkerRig) -> None:
    gate = asyncio.Event()
    async with backend(b"blue", gate) as blue, rig.running() as task:
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue)))
        await rig.control.ack()
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", rig.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await rig.until(layout.S_IN_FLIGHT, 1)
        rig.control.say(Drain(timeout=10))
        await rig.until(layout.S_STATE, layout.STATE_DRAINING)
        # The next request on an idle connection may be on its way: it is answered, then closed.
        idle_writer.write(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
        gate.set()
        answer = await asyncio.wait_for(idle_reader.read(), 5)
        assert b"Connection: close\r\n" in answer
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", rig.port)
        gate.set()
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close\r\n" in answer
        assert await asyncio.wait_for(task, 10) == 0
        assert rig.word(layout.S_STATE) == layout.STATE_GONE
        assert rig.word(layout.S_CONNECTIONS) == 0
        writer.close()
        idle_writer.close()


async def test_it_tells_its_state_to_whoever_asks_locally(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(4, endpoint("blue", blue)))
        await rig.control.ack()
        state = await asyncio.to_thread(handover.ask_state, rig.spec.worker_socket)
        assert (state.role, state.pid, state.topology) == ("worker", os.getpid(), 4)
        reader, writer = await asyncio.open_unix_connection(str(rig.spec.worker_socket))
        writer.write(b'{"ask": "state"}\n')
        vitals = json.loads(await reader.readline())["vitals"]
        assert vitals["upstream"] == {"busy": 0, "idle": 0}
        assert (vitals["connections"], vitals["tunnels"], vitals["in_flight"]) == (0, 0, 0)
        assert vitals["tasks"] >= 2, "the worker's own and its link to control"
        assert vitals["memory"] > 1 << 20
        assert vitals["descriptors"] > 3
        writer.close()
        handed = await asyncio.to_thread(handover.take_over, rig.spec.worker_socket)
        assert [address for address, _ in handed.sockets] == ["127.0.0.1:0"]
        handed.close()
