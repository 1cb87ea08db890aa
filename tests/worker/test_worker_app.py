"""A worker against a control that is a few lines long: what it serves, acknowledges, survives."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel import handover, snapshotfile
from gateway.channel.childspec import ChildSpec
from gateway.channel.framing import Decoder, encode
from gateway.channel.messages import Ack, Addresses, Apply, Drain, FromWorker, Hello
from gateway.config.snapshot import (
    Endpoint,
    OnControlLost,
    Pool,
    Route,
    Service,
    ServiceTraffic,
    Topology,
    Traffic,
    pack_routes,
)
from gateway.worker.app import Worker


class Control:
    """The other end of the channel: keeps what workers say, says what the test wants."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[FromWorker] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        decoder = Decoder.from_worker()
        while data := await reader.read(65536):
            for message in decoder.feed(data):
                self.heard.put_nowait(message)
        writer.close()

    async def hello(self) -> Hello:
        message = await asyncio.wait_for(self.heard.get(), 10)
        assert isinstance(message, Hello)
        return message

    async def ack(self) -> Ack:
        message = await asyncio.wait_for(self.heard.get(), 10)
        assert isinstance(message, Ack)
        return message

    def say(self, message: Apply | Addresses | Drain) -> None:
        self.writers[-1].write(encode(message))


class Rig:
    """A worker in this process, with its board, its listening socket and its control."""

    def __init__(self, folder: Path) -> None:
        self.board = Board.create(2)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.spec = ChildSpec(
            role="worker",
            slot=0,
            slab=0,
            slabs=2,
            board=os.dup(self.board.fd),
            boot="b1",
            run_dir=str(folder),
            config="none",
            sockets=((0, listener.detach()),),  # the worker's own, to close
            addresses=("127.0.0.1:0",),
            drain_timeout=5.0,
        )
        self.board.claim(0, 0, 1)
        self.control = Control()
        self.worker = Worker(self.spec)

    @asynccontextmanager
    async def running(self, *, control: bool = True) -> AsyncIterator[asyncio.Task[int]]:
        server = None
        if control:
            server = await asyncio.start_unix_server(self.control.accept, self.spec.control_socket)
        task = asyncio.get_running_loop().create_task(self.worker.run())
        try:
            yield task
        finally:
            if not task.done():
                os.kill(os.getpid(), signal.SIGTERM)
                assert await asyncio.wait_for(task, 15) == 0
            if server is not None:
                for writer in self.control.writers:
                    writer.close()
                server.close()
            self.board.close()

    def word(self, word: int) -> int:
        return self.board.slab(0)[word]

    async def until(self, word: int, value: int) -> None:
        async with asyncio.timeout(10):
            while self.word(word) != value:
                await asyncio.sleep(0.01)

    async def get(self) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()


@pytest.fixture
def rig() -> Rig:
    # A short path: a Unix socket's has at most 107 octets.
    return Rig(Path(tempfile.mkdtemp(prefix="gw")))


@asynccontextmanager
async def backend(body: bytes, gate: asyncio.Event | None = None) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            if gate is not None:
                await gate.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def endpoint(color: str, port: int, host: str = "127.0.0.1", scheme: str = "http") -> Endpoint:
    return Endpoint(
        id=f"web-{color}-1-0",
        cell=0 if color == "blue" else 1,
        url=f"{scheme}://{host}:{port}",
        scheme="https" if scheme == "https" else "http",
        host=host,
        port=port,
    )


def snapshot(
    number: int,
    blue: Endpoint,
    green: Endpoint | None = None,
    weight: int = 0,
    lost: OnControlLost | None = None,
    authorities: str | None = None,
) -> Apply:
    pools = [Pool(service="web", color="blue", generation=1, source="file", endpoints=(blue,))]
    if green is not None:
        pools.append(
            Pool(service="web", color="green", generation=2, source="file", endpoints=(green,))
        )
    return Apply(
        number=number,
        topology=Topology(
            number=number,
            services=(Service(name="web", row=1, tls_ca=authorities),),
            pools=tuple(pools),
            routes=pack_routes([Route(path="/", service="web")]),
            on_control_lost=lost or OnControlLost(),
            access_log="off",
        ),
        traffic=Traffic(
            revision=number,
            services=(ServiceTraffic(service="web", stable="blue", weight=weight),),
        ),
    )


async def test_it_serves_what_it_acknowledges(rig: Rig) -> None:
    async with backend(b"blue") as blue, rig.running():
        assert (await rig.control.hello()).topology == 0
        assert rig.word(layout.S_STATE) == layout.STATE_STARTING
        rig.control.say(snapshot(7, endpoint("blue", blue)))
        assert await rig.control.ack() == Ack(number=7)
        assert rig.word(layout.S_STATE) == layout.STATE_READY
        assert rig.word(layout.S_NUMBER) == 7
        assert (await rig.get()).endswith(b"blue")


async def test_a_move_of_traffic_alone_keeps_the_topology(rig: Rig) -> None:
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


async def test_a_snapshot_that_cannot_be_served_leaves_the_one_before(rig: Rig) -> None:
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


async def test_it_serves_on_without_control_and_says_where_it_is_when_it_is_back(rig: Rig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(3, endpoint("blue", blue)))
        await rig.control.ack()
        rig.control.writers[-1].close()
        assert (await rig.get()).endswith(b"blue")
        again = await rig.control.hello()
        assert (again.topology, again.traffic) == (3, 3)


async def test_it_starts_from_the_file_that_control_left(rig: Rig) -> None:
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


async def test_a_spoiled_file_is_passed_over(rig: Rig) -> None:
    Path(rig.spec.snapshot_file).write_bytes(b"\x00 no snapshot")
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue)))
        await rig.control.ack()
        assert (await rig.get()).endswith(b"blue")


async def test_names_are_connected_to_where_control_says(rig: Rig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(1, endpoint("blue", blue, host="backend.test")))
        await rig.control.ack()
        assert b"502" in (await rig.get()).splitlines()[0]
        rig.control.say(Addresses(names={"backend.test": ("127.0.0.1",)}))
        rig.control.say(Apply(number=2))
        await rig.control.ack()
        assert (await rig.get()).endswith(b"blue")


async def test_the_flag_file_outranks_the_weight(rig: Rig) -> None:
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


async def test_on_control_lost_stable_goes_back(rig: Rig) -> None:
    async with backend(b"blue") as blue, backend(b"green") as green, rig.running():
        await rig.control.hello()
        # No heartbeat of control was ever written to this board: it is lost from the start.
        lost = OnControlLost(after=0.5, do="stable")
        blue_, green_ = endpoint("blue", blue), endpoint("green", green)
        rig.control.say(snapshot(1, blue_, green_, 10_000, lost))
        await rig.control.ack()
        await rig.until(layout.S_FORCED_STABLE, 1)
        assert (await rig.get()).endswith(b"blue")


async def test_a_drain_finishes_what_is_under_way(rig: Rig) -> None:
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


async def test_it_tells_its_state_to_whoever_asks_locally(rig: Rig) -> None:
    async with backend(b"blue") as blue, rig.running():
        await rig.control.hello()
        rig.control.say(snapshot(4, endpoint("blue", blue)))
        await rig.control.ack()
        state = await asyncio.to_thread(handover.ask_state, rig.spec.worker_socket)
        assert (state.role, state.pid, state.topology) == ("worker", os.getpid(), 4)
        handed = await asyncio.to_thread(handover.take_over, rig.spec.worker_socket)
        assert [address for address, _ in handed.sockets] == ["127.0.0.1:0"]
        handed.close()
