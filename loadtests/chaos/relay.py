"""A bad network between two programs of one machine: ``python -m loadtests.chaos.relay ORDER``.

ORDER is JSON, the fields of ``Order``. What TCP makes of a slow network that loses packets is bytes
that come late and in order, and now and then a stall until what was lost is sent again. So each
piece is passed on after ``delay``, and a share of ``loss`` of them, with all behind it, after
``stall`` more (the least time that Linux waits before it sends again is 0.2 s).
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """``listen`` and ``target`` are ports of 127.0.0.1; times are in seconds."""

    listen: int
    target: int
    delay: float
    loss: float
    stall: float = 0.2


async def pass_on(
    order: Order, chance: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry one direction of one connection, to its end."""
    loop = asyncio.get_running_loop()
    # Each piece has about the size of a packet; what waits is bounded, as a network's queue is.
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

    async def send() -> None:
        at = 0.0
        while True:
            due, piece = await waiting.get()
            at = max(at, due)  # nothing overtakes what was lost
            await asyncio.sleep(at - loop.time())
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    async def read() -> None:
        while True:
            piece = await reader.read(1448)
            lost = order.stall if chance.random() < order.loss else 0.0
            await waiting.put((loop.time() + order.delay + lost, piece))
            if not piece:
                return

    await asyncio.gather(read(), send())


async def serve(order: Order) -> None:
    """Relay until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    chance = random.Random(order.listen)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", order.target)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(
                pass_on(order, chance, reader, there[1]), pass_on(order, chance, there[0], writer)
            )
        except OSError:
            writer.transport.abort()
            there[1].transport.abort()
        finally:
            writer.close()
            there[1].close()

    server = await asyncio.start_server(connected, "127.0.0.1", order.listen, backlog=1024)
    async with server:
        await over.wait()


def main(arguments: list[str]) -> None:
    """Run."""
    asyncio.run(serve(Order(**json.loads(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
