"""Clients of every kind, good and bad: ``python -m loadtests.soak.clients ORDER``.

ORDER is JSON, the fields of ``Order``. Each request that has a head bears a number of its own, in
``User-Agent``, by which the access log's line is found again; what cannot have one (half a head, a
head that is refused) is counted by status. Every request leaves a ``Row``. Nothing is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path

from loadtests.soak.peer import Order, Peer, Row

#: Seconds after which an answer is taken for lost.
PATIENCE = 20.0
#: Kept connections, and seconds that one may be idle before it is closed by us.
KEPT = 32
FRESH_FOR = 20.0
#: Tasks at once: with more than that, what is due is left out.
MOST = 400
COPIES = 50
MASK = b"\x01\x02\x03\x04"


class Clients:
    """All of them."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.rows: list[Row] = []
        self.skipped = 0
        self._next = order.first
        self._chance = random.Random(order.seed)
        self._kept: list[Peer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False

    # --- requests -------------------------------------------------------------------------------

    def row(self, kind: str, *, numbered: bool = True) -> Row:
        """Begin a request."""
        row = Row(kind, -1)
        if numbered:
            row.number = self._next
            self._next += 1
        self.rows.append(row)
        _MINE.get().append(row)
        return row

    def request(self, row: Row, target: str, method: str = "GET", fields: str = "") -> bytes:
        """Return a head."""
        return (
            f"{method} {target} HTTP/1.1\r\nHost: soak.example\r\n"
            f"User-Agent: soak/{row.number}\r\n{fields}\r\n"
        ).encode()

    async def _on_kept(self, kind: str, target: str, method: str = "GET", fields: str = "") -> None:
        """Ask on a connection that has been used before, if there is one."""
        now = time.monotonic()
        peer = None
        while self._kept and peer is None:
            peer = self._kept.pop()
            if now - peer.used > FRESH_FOR:
                peer.close()
                peer = None
        peer = peer or await Peer.dial(self.order.port)
        row = self.row(kind)
        try:
            await peer.send(self.request(row, target, method, fields))
            answered = await peer.answer(row, to_head=method == "HEAD")
        except BaseException:
            peer.close()
            raise
        if answered.get("connection") == "close" or len(self._kept) >= KEPT or self._over:
            peer.close()
        else:
            self._kept.append(peer)

    async def kept(self) -> None:
        """A page, on a kept connection."""
        await self._on_kept("kept", "/web/page")

    async def cached(self) -> None:
        """One of a few pages that a cache may answer."""
        await self._on_kept("cached", f"/web/copy/{self._chance.randrange(COPIES)}")

    async def missing(self) -> None:
        """What is not there."""
        await self._on_kept("missing", self._chance.choice(("/web/none", "/nowhere")))

    async def head_only(self) -> None:
        """HEAD."""
        await self._on_kept("head", "/web/page", "HEAD")

    async def known(self) -> None:
        """What the client has already."""
        await self._on_kept("known", "/web/known", "GET", 'If-None-Match: "1"\r\n')

    async def fresh(self) -> None:
        """A page, on a connection of its own."""
        peer = await Peer.dial(self.order.port)
        row = self.row("fresh")
        try:
            await peer.send(self.request(row, "/web/page", "GET", "Connection: close\r\n"))
            await peer.answer(row)
        finally:
            peer.close()

    async def pipelined(self) -> None:
        """Five at once."""
        peer = await Peer.dial(self.order.port)
        rows = [self.row("pipelined") for _ in range(5)]
        try:
            await peer.send(b"".join(self.request(row, "/web/page") for row in rows))
            for row in rows:
                await peer.answer(row)
        finally:
            peer.close()

    async def upload(self) -> None:
        """64 KiB, by length, by chunks, or once they are asked for."""
        peer = await Peer.dial(self.order.port)
        row = self.row("upload")
        content = b"u" * 65536
        how = self._chance.randrange(3)
        try:
            if how == 0:
                await peer.send(self._posts(row, f"Content-Length: {len(content)}\r\n"))
                await peer.send(content)
            elif how == 1:
                await peer.send(self._posts(row, "Transfer-Encoding: chunked\r\n"))
                for at in range(0, len(content), 16384):
                    await peer.send(b"4000\r\n" + content[at : at + 16384] + b"\r\n")
                    await asyncio.sleep(0.02)
                await peer.send(b"0\r\n\r\n")
            else:
                fields = f"Content-Length: {len(content)}\r\nExpect: 100-continue\r\n"
                await peer.send(self._posts(row, fields))
                await asyncio.sleep(0.05)
                await peer.send(content)
            await peer.answer(row)
        finally:
            peer.close()

    def _posts(self, row: Row, fields: str) -> bytes:
        return self.request(row, "/web/upload", "POST", fields)

    async def too_much(self) -> None:
        """More than is allowed: refused before it is sent."""
        peer = await Peer.dial(self.order.port)
        row = self.row("too-much")
        try:
            await peer.send(self._posts(row, "Content-Length: 99999999\r\n"))
            await peer.answer(row)
        finally:
            peer.close()

    async def malformed(self) -> None:
        """What no parser should take, on a connection of its own."""
        peer = await Peer.dial(self.order.port)
        row = self.row("malformed", numbered=False)
        said = self._chance.choice(
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
                b"GET / HTTP/1.1\nHost: a\n\n",
                b"\x16\x03\x01\x00\x05hello\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
            )
        )
        try:
            await peer.send(said)
            await peer.answer(row)
        finally:
            peer.close()

    async def slow_head(self) -> None:
        """A head that comes drop by drop."""
        peer = await Peer.dial(self.order.port)
        row = self.row("slow-head")
        said = self.request(row, "/web/page")
        try:
            for at in range(0, len(said), 8):
                await peer.send(said[at : at + 8])
                await asyncio.sleep(0.1)
            await peer.answer(row)
        finally:
            peer.close()

    async def slow_reader(self) -> None:
        """A mebibyte, read slowly."""
        peer = await Peer.dial(self.order.port)
        row = self.row("slow-reader")
        try:
            await peer.send(self.request(row, "/web/large"))
            row.status, fields = await peer.head()
            left = int(fields.get("content-length", "0"))
            while left > 0 and (piece := await peer.reader.read(65536)):
                left -= len(piece)
                await asyncio.sleep(0.05)
            row.whole = left == 0
        finally:
            peer.close()

    # --- who goes away ----------------------------------------------------------------------------

    async def says_nothing(self) -> None:
        """Come and go: no request."""
        peer = await Peer.dial(self.order.port)
        await asyncio.sleep(0.05)
        self._gone(peer)

    def _gone(self, peer: Peer) -> None:
        if self._chance.random() < 0.5:
            peer.reset()
        else:
            peer.close()

    async def half_a_head(self) -> None:
        """Go away in the middle of a head: counted, though it has no number."""
        peer = await Peer.dial(self.order.port)
        row = self.row("half-head", numbered=False)
        row.left = True
        await peer.send(b"GET /web/page HTTP/1.1\r\nHost: so")
        await asyncio.sleep(0.3)
        self._gone(peer)

    async def leaves_waiting(self) -> None:
        """Go away before the answer."""
        peer = await Peer.dial(self.order.port)
        row = self.row("leaves-waiting")
        row.left = True
        await peer.send(self.request(row, "/web/slow"))
        await asyncio.sleep(0.3)
        self._gone(peer)

    async def leaves_uploading(self) -> None:
        """Go away in the middle of an upload."""
        peer = await Peer.dial(self.order.port)
        row = self.row("leaves-uploading")
        row.left = True
        await peer.send(self._posts(row, "Content-Length: 65536\r\n") + b"u" * 1000)
        await asyncio.sleep(0.3)
        self._gone(peer)

    async def leaves_reading(self) -> None:
        """Go away in the middle of an answer."""
        peer = await Peer.dial(self.order.port)
        row = self.row("leaves-reading")
        row.left = True
        await peer.send(self.request(row, "/web/large"))
        row.status, _ = await peer.head()
        await peer.reader.read(1000)
        self._gone(peer)

    async def events(self) -> None:
        """An event stream, to its end or not."""
        peer = await Peer.dial(self.order.port)
        row = self.row("events")
        ends = self._chance.random() < 0.5
        try:
            await peer.send(self.request(row, "/web/events?ends" if ends else "/web/events"))
            row.status, fields = await peer.head()
            if ends or row.status != 200:
                await peer.body(row.status, fields)
                row.whole = True
            else:
                row.left = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._chance.uniform(1.0, 5.0)):
                        while await peer.reader.read(1000):
                            pass
        finally:
            self._gone(peer)

    async def websocket(self) -> None:
        """A WebSocket with a few messages, closed in order or not."""
        peer = await Peer.dial(self.order.port)
        row = self.row("websocket")
        fields = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        try:
            await peer.send(self.request(row, "/web/ws", "GET", fields))
            row.status, got = await peer.head()
            if row.status != 101:
                await peer.body(row.status, got)
                row.whole = True
                return
            for _ in range(self._chance.randrange(2, 10)):
                await peer.send(b"\x81\x85" + MASK + _masked(b"hello"))
                if await peer.reader.readexactly(7) != b"\x81\x05hello":
                    row.lost = "another message came back"
                await asyncio.sleep(0.3)
            if self._chance.random() < 0.5:
                await peer.send(b"\x88\x82" + MASK + _masked(struct.pack("!H", 1000)))
                await peer.reader.read(-1)
                row.whole = True
            else:
                row.left = True
        finally:
            self._gone(peer)

    # --- all of it ------------------------------------------------------------------------------

    def kinds(self) -> dict[Callable[[], Awaitable[None]], int]:
        """Return what there is, and how often of a thousand."""
        return {
            self.kept: 350,
            self.cached: 250,
            self.fresh: 60,
            self.missing: 50,
            self.head_only: 30,
            self.known: 30,
            self.pipelined: 20,
            self.upload: 50,
            self.too_much: 10,
            self.malformed: 30,
            self.slow_head: 5,
            self.slow_reader: 10,
            self.says_nothing: 20,
            self.half_a_head: 10,
            self.leaves_waiting: 15,
            self.leaves_uploading: 15,
            self.leaves_reading: 15,
            self.events: 15,
            self.websocket: 15,
        }

    async def _one(self, kind: Callable[[], Awaitable[None]]) -> None:
        mine: list[Row] = []
        _MINE.set(mine)
        why = "its end did not come"
        try:
            async with asyncio.timeout(PATIENCE):
                await kind()
        except (OSError, EOFError, ValueError, IndexError) as error:
            why = repr(error)
        for row in mine:
            if not row.whole and not row.left:
                row.lost = row.lost or why

    async def run(self) -> None:
        """Send for as long as was asked for, wait for what is under way, write the rows."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        kinds = self.kinds()
        began = time.monotonic()
        self._tell_begun()
        sent = 0
        while not self._over and (passed := time.monotonic() - began) < self.order.seconds:
            while sent < passed * self.order.rate:
                sent += 1
                if len(self._tasks) >= MOST:
                    self.skipped += 1
                    continue
                (kind,) = self._chance.choices(list(kinds), list(kinds.values()))
                task = asyncio.create_task(self._one(kind))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0.005)
        self._over = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE + 5)
        for peer in self._kept:
            peer.close()
        await asyncio.sleep(0.1)
        self._write()

    def _tell_begun(self) -> None:
        Path(f"{self.order.output}.began").touch()

    def _stop(self) -> None:
        self._over = True

    def _write(self) -> None:
        output = Path(self.order.output)
        said = {"skipped": self.skipped, "rows": [asdict(row) for row in self.rows]}
        partial = output.with_suffix(".partial")
        partial.write_text(json.dumps(said))
        partial.replace(output)


def _masked(data: bytes) -> bytes:
    return bytes(octet ^ MASK[at % 4] for at, octet in enumerate(data))


#: The rows of the task that asks.
_MINE: ContextVar[list[Row]] = ContextVar("rows")


if __name__ == "__main__":
    asyncio.run(Clients(Order(**json.loads(sys.argv[1]))).run())
