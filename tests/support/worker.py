"""A worker in the test's own process, with a control that is a few lines long."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from gateway.board.board import Board
from gateway.channel.childspec import ChildSpec
from gateway.channel.framing import Decoder, encode
from gateway.channel.messages import (
    Ack,
    Addresses,
    Apply,
    Asked,
    Drain,
    Failures,
    FromWorker,
    Hello,
    Tally,
)
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

M = TypeVar("M")


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
        return await self._next(Hello)

    async def ack(self) -> Ack:
        return await self._next(Ack)

    async def failures(self) -> Failures:
        return await self._next(Failures)

    async def tally(self) -> Tally:
        return await self._next(Tally)

    async def _next(self, kind: type[M]) -> M:
        """Take the next message of this kind; what workers tell of requests may come between."""
        while True:
            message = await asyncio.wait_for(self.heard.get(), 10)
            if isinstance(message, kind):
                return message
            assert isinstance(message, Asked | Failures | Tally), message

    def say(self, message: Apply | Addresses | Drain) -> None:
        self.writers[-1].write(encode(message))


class WorkerRig:
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
