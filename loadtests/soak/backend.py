"""A backend for all kinds of clients: ``python -m loadtests.soak.backend PORT CONTROL NAME``.

It answers pages, copies that may be cached, uploads, event streams and WebSockets on PORT. CONTROL
takes one line of JSON, what is to change of its manner (as ``loadtests.chaos.backend`` does):
``errors``, the share of pages answered with 503. A fourth argument is its manner at the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from typing import Any

from aiohttp import WSMsgType, web

PAGE = b"0123456789abcdef" * 64
LARGE = b"x" * (1 << 20)
#: Events of a stream that ends by itself, and seconds between two.
EVENTS = 10
BEAT = 0.1


class Backend:
    """Answers; ``errors`` is the share that it answers with 503."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.errors = 0.0
        self._chance = random.Random(name)

    def app(self) -> web.Application:
        """Return what it serves."""
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/{service}/events", self._events),
                web.get("/{service}/ws", self._socket),
                web.post("/{service}/upload", self._upload),
                web.get("/{service}/slow", self._slow),
                web.get("/{service}/large", self._large),
                web.get("/{service}/known", self._known),
                web.get("/{service}/copy/{name}", self._copy),
                web.get("/{service}/page", self._page),
            ]
        )
        app.on_response_prepare.append(self._sign)
        return app

    async def _sign(self, request: web.Request, answer: web.StreamResponse) -> None:
        del request
        answer.headers["X-Backend"] = self.name

    async def _health(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok")

    async def _page(self, request: web.Request) -> web.Response:
        del request
        if self._chance.random() < self.errors:
            return web.Response(status=503, text="by chance")
        return web.Response(body=PAGE)

    async def _copy(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=PAGE, headers={"Cache-Control": "max-age=3"})

    async def _known(self, request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == '"1"':
            return web.Response(status=304, headers={"ETag": '"1"'})
        return web.Response(body=PAGE, headers={"ETag": '"1"'})

    async def _large(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=LARGE)

    async def _slow(self, request: web.Request) -> web.Response:
        del request
        await asyncio.sleep(1.0)
        return web.Response(body=PAGE)

    async def _upload(self, request: web.Request) -> web.Response:
        octets = 0
        async for piece in request.content.iter_any():
            octets += len(piece)
        return web.Response(text=str(octets))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            for at in range(EVENTS if "ends" in request.query else 10_000):
                await answer.write(f"data: {at}\n\n".encode())
                await asyncio.sleep(BEAT)
        return answer

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket


async def serve(port: int, control: int, backend: Backend) -> None:
    """Serve until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)

    async def orders(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            change: dict[str, Any] = json.loads(line)
            backend.errors = float(change.get("errors", backend.errors))
            writer.write(json.dumps({"name": backend.name}).encode() + b"\n")
            await writer.drain()
        writer.close()

    runner = web.AppRunner(
        backend.app(), access_log=None, shutdown_timeout=0.1, handle_signals=False
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    desk = await asyncio.start_server(orders, "127.0.0.1", control)
    async with desk:
        await over.wait()
    await runner.cleanup()


def main(arguments: list[str]) -> None:
    """Start; the fourth argument, if any, is its manner as JSON."""
    backend = Backend(arguments[2])
    if len(arguments) > 3:
        backend.errors = float(json.loads(arguments[3]).get("errors", 0.0))
    asyncio.run(serve(int(arguments[0]), int(arguments[1]), backend))


if __name__ == "__main__":
    main(sys.argv[1:])
