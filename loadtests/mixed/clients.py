"""A backend and clients of every kind, for tests of what must not be noticed.

``Backend`` answers plain requests, uploads, event streams and WebSockets. ``Clients`` use it by
way of a gateway until told to stop: connections that are kept and fresh ones, uploads that take a
second, event streams and WebSockets that come back when they were ended in order. Whatever was not
in order is in ``lost``. Nothing is tried again: a failure is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

PATIENCE = 20.0


class InThread:
    """A loop of its own, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Any], timeout: float = 60.0) -> Any:
        """Run it there and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def close(self) -> None:
        """End the loop and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Backend(InThread):
    """Serves on a port of its own while its ``with`` block lasts."""

    def __init__(self, *, beat: float = 0.05) -> None:
        super().__init__()
        self._beat = beat
        self._runner: web.AppRunner
        self.url = ""

    def __enter__(self) -> Self:
        self.call(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.call(self._runner.cleanup())
        self.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/events", self._events),
                web.get("/ws", self._socket),
                web.post("/upload", self._upload),
                web.get("/slow", self._slow),
                web.route("*", "/{rest:.*}", self._plain),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _plain(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text="plain")

    async def _slow(self, request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query.get("for", "1")))
        return web.Response(text="slow")

    async def _upload(self, request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        at = 0
        with contextlib.suppress(ConnectionError):
            while True:
                # In two halves: a cut in the middle is to be possible.
                await answer.write(f"id: {at}\nda".encode())
                await answer.write(f"ta: {at}\n\n".encode())
                at += 1
                await asyncio.sleep(self._beat)
        return answer

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket


class Clients(InThread):
    """Use what is behind ``port`` until ``stop``; ``done`` counts by kind, ``lost`` says what."""

    def __init__(
        self, port: int, *, kept: int = 4, fresh: int = 2, others: int = 2, pause: float = 0.01
    ) -> None:
        super().__init__()
        self.port = port
        self.done: Counter[str] = Counter()
        self.lost: list[str] = []
        self.closes: Counter[str] = Counter()
        self._pause = pause
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []
        self.call(self._start(kept, fresh, others))

    async def _start(self, kept: int, fresh: int, others: int) -> None:
        works = [self._kept() for _ in range(kept)] + [self._fresh() for _ in range(fresh)]
        for _ in range(others):
            works += [self._upload(), self._events(), self._websocket()]
        self._tasks = [asyncio.create_task(self._again(work)) for work in works]

    def stop(self) -> None:
        """Let everything that is under way end, and check nothing more."""
        self.call(self._stop())
        self.close()

    async def _stop(self) -> None:
        self._over = True
        await asyncio.wait(self._tasks, timeout=PATIENCE)
        for task in self._tasks:
            task.cancel()

    async def _again(self, work: AsyncIterator[str]) -> None:
        """Take steps of one client; an error is noted and not the end of it."""
        try:
            async for kind in work:
                self.done[kind] += 1
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what a client met
            self.lost.append(f"{work.__name__}: {error!r}")  # type: ignore[attr-defined]

    async def _kept(self) -> AsyncIterator[str]:
        while not self._over:
            async with self._connection() as (reader, writer):
                goes_on = True
                while goes_on and not self._over:
                    writer.write(b"GET /kept HTTP/1.1\r\nHost: x.example\r\n\r\n")
                    goes_on = await self._answer(reader, b"plain")
                    yield "kept"
                    await asyncio.sleep(self._pause)

    async def _fresh(self) -> AsyncIterator[str]:
        while not self._over:
            async with self._connection() as (reader, writer):
                writer.write(b"GET /fresh HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n")
                await self._answer(reader, b"plain")
            yield "fresh"
            await asyncio.sleep(self._pause)

    async def _upload(self) -> AsyncIterator[str]:
        size, parts = 4096, 20
        while not self._over:
            async with self._connection() as (reader, writer):
                head = f"POST /upload HTTP/1.1\r\nHost: x.example\r\nContent-Length: {size * parts}"
                writer.write(head.encode() + b"\r\n\r\n")
                for _ in range(parts):
                    writer.write(b"x" * size)
                    await asyncio.sleep(0.05)
                await self._answer(reader, str(size * parts).encode())
            yield "upload"

    async def _events(self) -> AsyncIterator[str]:
        """An event stream may end, in order and after a whole event; then it is asked for again."""
        while not self._over:
            async with self._connection() as (reader, writer):
                writer.write(b"GET /events HTTP/1.1\r\nHost: x.example\r\n\r\n")
                await self._head(reader)
                text = b""
                while not self._over:
                    chunk = await self._chunk(reader)
                    if not chunk:
                        assert text == b"", f"the stream ended within an event: {text!r}"
                        self.closes["event stream"] += 1
                        break
                    text += chunk
                    whole, separator, text = text.rpartition(b"\n\n")
                    if separator:
                        yield "event"
                        assert b"data: " in whole

    async def _websocket(self) -> AsyncIterator[str]:
        """A WebSocket may be closed with 1001; then it is opened again."""
        async with aiohttp.ClientSession() as session:
            while not self._over:
                async with session.ws_connect(f"http://127.0.0.1:{self.port}/ws") as socket:
                    while not self._over:
                        await socket.send_str("hello")
                        message = await socket.receive(PATIENCE)
                        if message.type is not aiohttp.WSMsgType.TEXT:
                            assert message.type is aiohttp.WSMsgType.CLOSE, message
                            assert message.data == 1001, message
                            self.closes["websocket"] += 1
                            break
                        yield "message"
                        await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
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
