"""A backend for clients of every kind: ``python -m loadtests.mixed.backend PORT NAME``.

It answers plain requests, uploads, event streams and WebSockets, under any prefix of one segment.
``Backend`` is the same within a test's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from loadtests.mixed.thread import InThread

#: Any first segment, or none: services of one gateway share a backend.
PREFIX = r"/{prefix:(?:[a-z]+/)?}"


class Kinds:
    """The handlers. ``beat`` is the seconds between two events of a stream."""

    def __init__(self, name: str, beat: float) -> None:
        self.name = name
        self.beat = beat

    def runner(self) -> web.AppRunner:
        """Return a runner of an application with all of them."""
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.get(f"{PREFIX}events", self.events),
                web.get(f"{PREFIX}ws", self.socket),
                web.post(f"{PREFIX}upload", self.upload),
                web.get(f"{PREFIX}slow", self.slow),
                web.route("*", "/{rest:.*}", self.plain),
            ]
        )
        app.on_response_prepare.append(self.sign)
        return web.AppRunner(app, shutdown_timeout=0.1, access_log=None)

    async def sign(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Say who answers."""
        del request
        answer.headers["X-Backend"] = self.name

    async def plain(self, request: web.Request) -> web.Response:
        """Answer with a few octets."""
        del request
        return web.Response(text="plain", headers={"X-Whole": "5"})

    async def slow(self, request: web.Request) -> web.Response:
        """Answer after ``for`` seconds."""
        await asyncio.sleep(float(request.query.get("for", "1")))
        return web.Response(text="slow")

    async def upload(self, request: web.Request) -> web.Response:
        """Answer with the body's length."""
        return web.Response(text=str(len(await request.read())))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send numbered events until nobody listens."""
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        at = 0
        with contextlib.suppress(ConnectionError):
            while True:
                # In two halves: a cut in the middle is to be possible.
                await answer.write(f"id: {at}\nda".encode())
                await answer.write(f"ta: {at}\n\n".encode())
                at += 1
                await asyncio.sleep(self.beat)
        return answer

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """Echo texts."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket


class Backend(InThread):
    """Serves on a port of its own while its ``with`` block lasts."""

    def __init__(self, *, beat: float = 0.05) -> None:
        super().__init__()
        self._runner = Kinds("thread", beat).runner()
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
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"


async def serve(port: int, name: str) -> None:
    """Serve until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    runner = Kinds(name, 0.2).runner()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await over.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
