"""The floor: a TCP pass-through on uvloop that reads nothing of what it carries.

``python -m loadtests.tcp_floor PORT BACKEND_PORT`` serves until SIGTERM. Each connection of a
client has one of its own to the backend. What a proxy on this loop costs beyond this is its own
work.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Half(asyncio.Protocol):
    """One side of a pair: what it receives is written to the other."""

    __slots__ = ("other", "transport")

    def __init__(self, other: Half | None = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Front(Half):
    """A client's side: opens the backend's, and keeps what comes before that is there."""

    __slots__ = ("backend", "early", "opening")

    def __init__(self, backend: int) -> None:
        super().__init__()
        self.backend = backend
        self.early = b""
        self.opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.opening = asyncio.get_running_loop().create_task(self.open(), name="open backend")

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        assert self.transport is not None
        try:
            _, back = await loop.create_connection(lambda: Half(self), "127.0.0.1", self.backend)
        except OSError:
            self.transport.abort()
            return
        self.other = back
        if self.early:
            super().data_received(self.early)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            super().data_received(data)


async def serve(port: int, backend: int) -> None:
    """Pass connections on ``port`` through to ``backend`` until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Front(backend), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
