"""Requests at a constant rate, whatever comes back: ``python -m loadtests.chaos.load ORDER``.

ORDER is JSON, the fields of ``Order``. Requests are due evenly spaced (an open loop: a stall is
charged to every request that it held up) and each is judged as a careful client would judge it: h11
reads the answers, so a body that ends before its framing says so is an error and never a short one.
Every request leaves a row; ``Offered`` is how the program that ordered it reads them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import h11


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be sent. ``{n}`` in the path stands for the request's number.

    With ``users`` each request is one of theirs, in turn, with the cohort cookie of their own;
    ``paths``, where there are any, are asked in turn in place of ``path``.
    """

    port: int
    rate: float
    seconds: float
    output: str
    path: str = "/"
    method: str = "GET"
    body: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    #: A request that takes longer has failed.
    patience: float = 10.0
    connections: int = 256
    numbers: int = 1_000_000_000
    users: int = 0
    paths: tuple[str, ...] = ()
    #: Of this share of requests each has a connection of its own (0 to 1).
    fresh: float = 0.0

    def alone(self, number: int) -> bool:
        """Tell whether a request has a connection of its own: evenly spread."""
        return int((number + 1) * self.fresh) > int(number * self.fresh)

    def target(self, number: int) -> str:
        """Return what a request asks for; a user's next request asks for another path."""
        path = self.path
        if self.paths:
            rounds = number // self.users if self.users else 0
            path = self.paths[(number + rounds) % len(self.paths)]
        return path.replace("{n}", str(number % self.numbers))


@cache
def cookie(user: int) -> str:
    """Return a user's cohort cookie: as the gateway makes them, but the same in each run."""
    octets = blake2b(f"user {user}".encode(), digest_size=16).digest()
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


@dataclass(slots=True)
class Row:
    """What came of one request: times in seconds, status 0 where there was no whole answer."""

    due: float
    took: float = 0.0
    status: int = 0
    #: ``X-Backend`` (or the demo's name for it): who answered, where it was a backend.
    backend: str = ""
    #: Whose request it was; -1: nobody's.
    user: int = -1
    #: ``X-Gateway-Served-By`` of an answer that hides a failure, ``X-Gateway-Error`` of one that
    #: tells it.
    served_by: str = ""
    error: str = ""
    #: Octets of content, and how many the backend meant to send (``X-Whole``; -1: not told).
    octets: int = 0
    meant: int = -1
    #: What went wrong where the status is 0.
    failure: str = ""
    lag: float = 0.0
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long the answer took; what this program itself was late is not the gateway's."""
        return self.took - self.lag

    @property
    def good(self) -> bool:
        """Tell whether a client got what it asked for."""
        return self.status == 200 and self.meant in {-1, self.octets}


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.row: Row | None = None
        self.transport: asyncio.Transport | None = None
        self.parser = h11.Connection(h11.CLIENT)
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.load.clients.add(self)

    def ask(self, row: Row, number: int) -> None:
        """Send a request."""
        assert self.transport is not None
        order = self.load.order
        self.row = row
        body = order.body.encode()
        fields = [("Host", "chaos.example"), *order.fields.items()]
        if body:
            fields.append(("Content-Length", str(len(body))))
        if order.alone(number):
            fields.append(("Connection", "close"))
        if row.user >= 0:
            fields.append(("Cookie", f"gw_cohort={cookie(row.user)}"))
        request = h11.Request(method=order.method, target=order.target(number), headers=fields)
        sent = self.parser.send(request) or b""
        if body:
            sent += self.parser.send(h11.Data(data=body)) or b""
        sent += self.parser.send(h11.EndOfMessage()) or b""
        self.transport.write(sent)
        left = row.due + order.patience - time.monotonic()
        self.timer = asyncio.get_running_loop().call_later(max(0.0, left), self.too_late)

    def too_late(self) -> None:
        """Give up."""
        self.end("client-timeout")
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self.row is None:
            return
        self.read(data)

    def eof_received(self) -> None:
        """Tell the parser: some answers end so."""
        if self.row is not None:
            self.read(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note what that was."""
        self.end("reset" if exc is not None else "closed")
        self.load.lost(self)

    def read(self, data: bytes) -> None:
        """Feed the parser."""
        try:
            self.parser.receive_data(data)
            while True:
                event = self.parser.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                if isinstance(event, h11.Response):
                    self.on_head(event)
                elif isinstance(event, h11.Data):
                    assert self.row is not None
                    self.row.octets += len(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.on_whole()
                    return
                elif isinstance(event, h11.ConnectionClosed):
                    return
        except h11.RemoteProtocolError as error:
            self.end(f"cut: {error}")
            if self.transport is not None:
                self.transport.abort()

    def on_head(self, head: h11.Response) -> None:
        """Keep what is judged by."""
        assert self.row is not None
        fields = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        self.row.status = head.status_code
        self.row.backend = fields.get("x-backend") or fields.get("x-demo-instance", "")
        self.row.served_by = fields.get("x-gateway-served-by", "")
        self.row.error = fields.get("x-gateway-error", "")
        self.row.meant = int(fields.get("x-whole", "-1"))
        for name in ("retry-after", "content-type", "cache-status", "age"):
            if name in fields:
                self.row.fields[name] = fields[name]

    def on_whole(self) -> None:
        """Take the next, on this connection where it allows that."""
        assert self.transport is not None
        self.end("")
        try:
            self.parser.start_next_cycle()
        except h11.LocalProtocolError:
            self.transport.close()
            return
        self.load.free_again(self)

    def end(self, failure: str) -> None:
        """Close the row."""
        row, self.row = self.row, None
        if self.timer is not None:
            self.timer.cancel()
        if row is None:
            return
        if failure and row.status:
            # A whole answer has a status; a head alone is not one.
            failure += f" (after the head of {row.status})"
            row.status = 0
        self.load.finish(row, failure)


class Load:
    """One run."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.rows: list[Row] = []
        self.free: list[Client] = []
        self.clients: set[Client] = set()
        self.waiting: deque[tuple[Row, int]] = deque()
        self.open = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.left = int(order.rate * order.seconds)
        self.stopped = False
        self.all_done = asyncio.Event()

    def finish(self, row: Row, failure: str) -> None:
        """Close a row."""
        row.took = time.monotonic() - row.due
        row.failure = failure
        self.left -= 1
        if self.left <= 0:
            self.all_done.set()

    def free_again(self, client: Client) -> None:
        """Give a free connection its next request."""
        if self.waiting:
            client.ask(*self.waiting.popleft())
        else:
            self.free.append(client)

    def lost(self, client: Client) -> None:
        """Forget a connection."""
        self.open -= 1
        self.clients.discard(client)
        if client in self.free:
            self.free.remove(client)
        if self.waiting:
            self.connect(*self.waiting.popleft())

    def offer(self, row: Row, number: int) -> None:
        """Send on a free connection, or a new one, or wait."""
        row.lag = max(0.0, time.monotonic() - row.due)
        self.rows.append(row)
        if self.free and not self.order.alone(number):
            self.free.pop().ask(row, number)
        elif self.open < self.order.connections:
            self.connect(row, number)
        else:
            self.waiting.append((row, number))

    def connect(self, row: Row, number: int) -> None:
        """Open another connection for a request."""
        self.open += 1
        task = asyncio.get_running_loop().create_task(self.dial(row, number))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def dial(self, row: Row, number: int) -> None:
        """Connect and ask."""
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_connection(
                lambda: Client(self), "127.0.0.1", self.order.port
            )
        except OSError as error:
            self.open -= 1
            self.finish(row, f"connect: {error}")
            return
        client.ask(row, number)

    def broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End at an error of this program's own: what it measured would not be true."""
        loop.default_exception_handler(context)
        sys.stderr.flush()
        os._exit(3)

    def stop(self) -> None:
        """Offer no more."""
        self.stopped = True
        self.left -= int(self.order.rate * self.order.seconds) - len(self.rows)
        if self.left <= 0:
            self.all_done.set()

    async def run(self) -> None:
        """Offer everything, then wait for what is left."""
        order = self.order
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self.broken)
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        begin = time.monotonic() + 0.05
        await asyncio.to_thread(Path(order.output + ".began").write_text, str(begin))
        for number in range(self.left):
            due = begin + number / order.rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if self.stopped:
                break
            user = number % order.users if order.users else -1
            self.offer(Row(due, user=user), number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(order.patience + 1):
                await self.all_done.wait()
        for row in self.rows:
            if not row.took:
                row.took, row.failure = order.patience, "never sent"
        self.waiting.clear()
        for client in list(self.clients):
            if client.transport is not None:
                client.transport.abort()
        await asyncio.sleep(0)  # the turn in which they close


def main(order: Order) -> None:
    """Run, and leave the rows in the output file."""
    load = Load(order)
    asyncio.run(load.run())
    path = Path(order.output)
    path.with_suffix(".tmp").write_text(json.dumps([asdict(row) for row in load.rows]))
    path.with_suffix(".tmp").rename(path)


if __name__ == "__main__":
    main(Order(**json.loads(sys.argv[1])))
