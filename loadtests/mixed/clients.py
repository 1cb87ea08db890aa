"""Clients of every kind: ``python -m loadtests.mixed.clients ORDER``, or ``Clients`` in a test.

Connections that are kept and fresh ones, uploads that take a second, event streams, and WebSockets.
Event streams and WebSockets come back when they were ended in order. Whatever was not in order is
in ``lost``, with its moment (monotonic). Nothing is tried again: a failure is a failure.

ORDER is JSON, the fields of ``Order``; the program works until SIGTERM and writes ``Told``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp

from loadtests.mixed.thread import InThread

PATIENCE = 20.0
#: A bound of what is kept of one run.
MOST = 10_000


@dataclass(frozen=True, slots=True)
class Order:
    """How many of which kind, and how fast; ``prefix`` comes before each path."""

    port: int
    output: str = ""
    prefix: str = ""
    kept: int = 0
    fresh: int = 0
    uploads: int = 0
    streams: int = 0
    sockets: int = 0
    #: Seconds between a client's requests, and between a WebSocket's messages.
    pause: float = 0.01
    message_pause: float = 0.05


class Loss(NamedTuple):
    """What went wrong, and when (monotonic seconds)."""

    at: float
    kind: str
    what: str


@dataclass(slots=True)
class Told:
    """What came of it: ``done`` counts by kind, ``closes`` are ends in order, by their moments."""

    done: dict[str, int] = field(default_factory=dict)
    lost: list[Loss] = field(default_factory=list)
    closes: dict[str, list[float]] = field(default_factory=dict)


class Work:
    """All the clients of one order, within a running loop."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.done: Counter[str] = Counter()
        self.lost: list[Loss] = []
        self.closes: dict[str, list[float]] = {"event stream": [], "websocket": []}
        self.over = False
        #: How many WebSockets and event streams are open now.
        self.open: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Have every client begin."""
        order = self.order
        kinds: list[tuple[int, Callable[[], AsyncIterator[str]]]] = [
            (order.kept, self._kept),
            (order.fresh, self._fresh),
            (order.uploads, self._upload),
            (order.streams, self._events),
            (order.sockets, self._websocket),
        ]
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._again(work)) for many, work in kinds for _ in range(many)
        ]

    async def stop(self) -> None:
        """Let everything that is under way end, and check nothing more."""
        self.over = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)
        for task in self._tasks:
            task.cancel()

    def told(self) -> Told:
        """Sum up."""
        return Told(dict(self.done), self.lost, self.closes)

    async def _again(self, work: Callable[[], AsyncIterator[str]]) -> None:
        """Take steps of one client; after an error, which is noted, it begins anew."""
        while not self.over:
            try:
                async with contextlib.aclosing(work()) as steps:  # type: ignore[type-var]
                    async for kind in steps:
                        self.done[kind] += 1
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is what a client met
                if len(self.lost) < MOST:
                    name = work.__name__.strip("_")
                    self.lost.append(Loss(time.monotonic(), name, repr(error)))
                await asyncio.sleep(0.05)

    def _closed(self, kind: str) -> None:
        if len(self.closes[kind]) < MOST:
            self.closes[kind].append(time.monotonic())

    def _request(self, method: str, path: str, *fields: str) -> bytes:
        lines = [f"{method} {self.order.prefix}{path} HTTP/1.1", "Host: x.example", *fields, "", ""]
        return "\r\n".join(lines).encode()

    async def _kept(self) -> AsyncIterator[str]:
        while not self.over:
            async with self._connection() as (reader, writer):
                goes_on = True
                while goes_on and not self.over:
                    writer.write(self._request("GET", "/kept"))
                    goes_on = await self._answer(reader, b"plain")
                    yield "kept"
                    await asyncio.sleep(self.order.pause)

    async def _fresh(self) -> AsyncIterator[str]:
        while not self.over:
            async with self._connection() as (reader, writer):
                writer.write(self._request("GET", "/fresh", "Connection: close"))
                await self._answer(reader, b"plain")
            yield "fresh"
            await asyncio.sleep(self.order.pause)

    async def _upload(self) -> AsyncIterator[str]:
        size, parts = 4096, 20
        while not self.over:
            async with self._connection() as (reader, writer):
                writer.write(self._request("POST", "/upload", f"Content-Length: {size * parts}"))
                for _ in range(parts):
                    writer.write(b"x" * size)
                    await writer.drain()  # so that an end is noticed when it comes
                    await asyncio.sleep(0.05)
                await self._answer(reader, str(size * parts).encode())
            yield "upload"

    async def _events(self) -> AsyncIterator[str]:
        """An event stream may end, in order and after a whole event; then it is asked for again."""
        while not self.over:
            async with self._connection() as (reader, writer):
                writer.write(self._request("GET", "/events"))
                await self._head(reader)
                with self._opened("event stream"):
                    async for _ in self._whole_events(reader):
                        yield "event"

    async def _whole_events(self, reader: asyncio.StreamReader) -> AsyncIterator[None]:
        text = b""
        while not self.over:
            chunk = await self._chunk(reader)
            if not chunk:
                assert text == b"", f"the stream ended within an event: {text!r}"
                self._closed("event stream")
                return
            text += chunk
            whole, separator, text = text.rpartition(b"\n\n")
            if separator:
                assert b"data: " in whole, f"no event: {whole!r}"
                yield

    async def _websocket(self) -> AsyncIterator[str]:
        """A WebSocket may be closed with 1001; then it is opened again."""
        url = f"http://127.0.0.1:{self.order.port}{self.order.prefix}/ws"
        async with aiohttp.ClientSession() as session:
            while not self.over:
                async with session.ws_connect(url) as socket:
                    with self._opened("websocket"):
                        while not self.over:
                            await socket.send_str("hello")
                            message = await socket.receive(PATIENCE)
                            if message.type is not aiohttp.WSMsgType.TEXT:
                                assert message.type is aiohttp.WSMsgType.CLOSE, message
                                assert message.data == 1001, message
                                self._closed("websocket")
                                break
                            yield "message"
                            await asyncio.sleep(self.order.message_pause)

    @contextlib.contextmanager
    def _opened(self, kind: str) -> Iterator[None]:
        self.open[kind] += 1
        try:
            yield
        finally:
            self.open[kind] -= 1

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.order.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 200 "), head
        return head.lower()

    async def _answer(self, reader: asyncio.StreamReader, wanted: bytes) -> bool:
        """Read an answer with a length; returns whether its connection goes on."""
        head = await self._head(reader)
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        body = await asyncio.wait_for(reader.readexactly(length), PATIENCE)
        assert body == wanted, body
        return b"connection: close" not in head

    async def _chunk(self, reader: asyncio.StreamReader) -> bytes:
        size = int(await asyncio.wait_for(reader.readuntil(b"\r\n"), PATIENCE), 16)
        return (await asyncio.wait_for(reader.readexactly(size + 2), PATIENCE))[:-2]


class Clients(InThread):
    """Use what is behind ``port`` until ``stop``, in a thread of this process."""

    def __init__(
        self, port: int, *, kept: int = 4, fresh: int = 2, others: int = 2, pause: float = 0.01
    ) -> None:
        super().__init__()
        self.work = Work(
            Order(
                port,
                kept=kept,
                fresh=fresh,
                uploads=others,
                streams=others,
                sockets=others,
                pause=pause,
            )
        )
        self.call(self._start())

    async def _start(self) -> None:
        self.work.start()

    @property
    def done(self) -> Counter[str]:
        """How often which kind was done."""
        return self.work.done

    @property
    def lost(self) -> list[Loss]:
        """What was not in order."""
        return self.work.lost

    @property
    def closes(self) -> Counter[str]:
        """How many of which kind were ended in order."""
        return Counter({kind: len(moments) for kind, moments in self.work.closes.items()})

    def give_up(self) -> None:
        """Come back no more: whatever ends now has ended."""
        self.work.over = True

    def stop(self) -> None:
        """Let everything that is under way end, and check nothing more."""
        self.call(self.work.stop())
        self.close()


async def play(order: Order) -> None:
    """Work until SIGTERM; then write what came of it. The file with ``.began`` says it runs."""
    work = Work(order)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    work.start()
    while work.open["websocket"] < order.sockets or work.open["event stream"] < order.streams:
        if work.lost or over.is_set():
            break
        await asyncio.sleep(0.02)
    output = Path(order.output)
    output.with_suffix(".began").write_text("yes")
    await over.wait()
    await work.stop()
    output.with_suffix(".tmp").write_text(json.dumps(asdict(work.told())))
    output.with_suffix(".tmp").rename(output)


if __name__ == "__main__":
    asyncio.run(play(Order(**json.loads(sys.argv[1]))))
