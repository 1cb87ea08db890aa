"""What a worker tells control of requests: at once, by and by, and after control was away."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

import msgspec
import pytest

from gateway.board import layout
from gateway.channel import snapshotfile
from gateway.channel.messages import Apply, BreakerMoved, Drain, Failures, Tally
from gateway.worker.control_link import MAX_UNREAD
from tests.support.worker import WorkerRig, backend, endpoint, snapshot


@pytest.fixture
def rig() -> WorkerRig:
    # A short path: a Unix socket's has at most 107 octets.
    return WorkerRig(Path(tempfile.mkdtemp(prefix="gw")))


def nobody() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def split(number: int, blue: int, green: int) -> Apply:
    """Return a snapshot that has everybody on green."""
    made = snapshot(number, endpoint("blue", blue), endpoint("green", green), 10_000)
    assert made.traffic is not None
    return Apply(
        number=number,
        topology=made.topology,
        traffic=msgspec.structs.replace(made.traffic, release="r-1"),
    )


async def test_a_failure_is_told_in_its_turn_and_counts_follow(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(split(1, blue, nobody()))
        await rig.control.ack()
        assert b" 502 " in await rig.get()
        message = await rig.control.failures()
        (told,) = message.failures
        assert (message.release, message.dropped) == ("r-1", 0)
        assert (told.service, told.color, told.candidate) == ("web", "green", True)
        assert (told.weight, told.metric, told.kind) == (10_000, "error", "connect")
        tally = await rig.control.tally()
        (row,) = tally.rows
        assert tally.release == "r-1"
        assert (row.requests, row.failed, row.judged, row.keys) == (1, 1, 1, (told.key,))


async def test_without_a_split_requests_are_counted_too(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue)))
        await rig.control.ack()
        await rig.get()
        tally = await rig.control.tally()
        (row,) = tally.rows
        assert (tally.release, row.color, row.requests, row.timed) == ("", "blue", 1, 1)
        assert sum(count for _, count in row.histogram) == 1


async def test_what_happened_while_control_was_away_is_told_when_it_is_back(
    rig: WorkerRig,
) -> None:
    async with backend(b"blue") as blue, rig.running(control=False):
        # It starts from the file: control is dead.
        snapshotfile.write(rig.spec.snapshot_file, split(5, blue, nobody()))
        await rig.until(layout.S_STATE, layout.STATE_READY)
        for _ in range(3):
            assert b" 502 " in await rig.get()
        server = await asyncio.start_unix_server(rig.control.accept, rig.spec.control_socket)
        try:
            await rig.control.hello()
            first = await asyncio.wait_for(rig.control.heard.get(), 10)
            assert isinstance(first, Failures)
            assert [told.kind for told in first.failures] == ["connect"]  # one key, told once
            second = await asyncio.wait_for(rig.control.heard.get(), 10)
            assert isinstance(second, Tally)
            (row,) = second.rows
            assert (row.requests, row.failed, row.judged) == (3, 3, 1)
        finally:
            rig.control.writers[-1].close()
            server.close()


async def test_a_key_that_was_told_is_not_told_again_to_the_next_control(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(split(1, blue, nobody()))
        await rig.control.ack()
        await rig.get()
        await rig.control.failures()
        await rig.control.tally()
        rig.control.writers[-1].close()
        await rig.control.hello()
        await rig.get()
        message = await asyncio.wait_for(rig.control.heard.get(), 10)
        assert isinstance(message, Tally)
        assert (message.rows[0].failed, message.rows[0].judged) == (1, 0)


async def test_a_drain_tells_what_is_left(rig: WorkerRig) -> None:
    async with backend(b"blue") as blue, rig.running() as task:
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue)))
        await rig.control.ack()
        await rig.get()
        await rig.control.tally()
        # The next one would be due in half a second, when it is gone.
        await rig.get()
        rig.control.say(Drain(timeout=1))
        assert await asyncio.wait_for(task, 10) == 0
        assert (await rig.control.tally()).rows[0].requests == 1


async def test_a_control_that_does_not_read_is_told_nothing_more(rig: WorkerRig) -> None:
    enough = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await enough.wait()
        writer.transport.abort()

    async with rig.running(control=False):
        server = await asyncio.start_unix_server(deaf, rig.spec.control_socket)
        link = rig.worker._link
        message = BreakerMoved(endpoint="x" * 65_536, was="closed", now="open")
        async with asyncio.timeout(10):
            while not link.tell(message):  # until it is connected
                await asyncio.sleep(0.01)
        told = 1
        while link.tell(message):
            told += 1
            assert told < 1000, "it never stops"
        assert told * 65_536 >= MAX_UNREAD
        server.close()
        enough.set()
