"""Serve a WebSocket echo on a port of 127.0.0.1: ``python serve_echo.py PORT NAME``.

PyPI's ``websockets``. A text message ``who`` is answered with NAME, the color that it plays.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from websockets.asyncio.server import ServerConnection, serve


async def main(port: int, name: str) -> None:
    """Echo until SIGTERM."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(name if message == "who" else message)

    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with serve(echo, "127.0.0.1", port, max_size=None, ping_interval=None):
        await over.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
