"""A backend that misbehaves on demand: ``python -m loadtests.chaos.backend PORT CONTROL NAME``.

It serves HTTP/1.1 on PORT and takes orders on CONTROL, a port of its own, so that an order arrives
whatever state the service is in. An order is one line of JSON with what is to change of ``Manner``;
the answer is one line of JSON with ``Seen``. Times are ``time.monotonic()``, which processes of one
machine share.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

#: The probes' path; it is counted apart from requests, and fails with them.
HEALTH = b"/health"
BODY = b"0123456789abcdef" * 64
#: A bound of what is kept of one run.
MOST_TIMES = 100_000


@dataclass(slots=True)
class Manner:
    """How it behaves.

    ``mode``: ``ok`` answers, ``hang`` reads and never answers, ``refuse`` resets each connection as
    it accepts it; ``cut-length``, ``cut-chunked`` and ``cut-close`` answer with half a body, framed
    in these three ways, and reset. ``vanish`` is a host that is gone, for good: nobody hears
    from it, and connections do not stand.

    ``errors`` is the share of 503 by chance, ``delay`` in seconds, ``fields`` are whole lines of
    the answer's head. ``size``: octets of its body in place of a short one.
    """

    mode: str = "ok"
    errors: float = 0.0
    delay: float = 0.0
    fields: str = ""
    size: int = 0


@dataclass(slots=True)
class Seen:
    """What it has seen since it started."""

    name: str
    accepts: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    probes: int = 0
    errors: int = 0
    #: The peers' ports of requests that are being kept waiting.
    waiting: list[int] = field(default_factory=list)
    paths: dict[str, int] = field(default_factory=dict)


class Backend:
    """The state that all connections share."""

    def __init__(self, name: str) -> None:
        self.manner = Manner()
        self.seen = Seen(name)
        self.chance = random.Random(name)  # each run draws alike

    def order(self, changes: dict[str, Any]) -> bytes:
        """Change the manner; tell what was seen."""
        for key, value in changes.items():
            if not hasattr(self.manner, key):
                raise ValueError(f"no such order: {key}")
            setattr(self.manner, key, value)
        return json.dumps(asdict(self.seen)).encode() + b"\n"

    def note(self, times: list[float]) -> None:
        """Keep the time, within bounds."""
        if len(times) < MOST_TIMES:
            times.append(time.monotonic())


class Connection(asyncio.Protocol):
    """One of the service's connections."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.pending = b""
        self.body_left = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it; refuse it where that is the manner."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.backend.note(self.backend.seen.accepts)
        if self.backend.manner.mode == "refuse":
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget that anybody waits."""
        port = self.port
        if port in self.backend.seen.waiting:
            self.backend.seen.waiting.remove(port)

    @property
    def port(self) -> int:
        """The peer's port."""
        peer = self.transport.get_extra_info("peername")
        return int(peer[1]) if peer else 0

    def reset(self) -> None:
        """Close with a TCP reset, after what was written has left."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Take requests, one after the other."""
        self.pending += data
        while True:
            if self.body_left:
                taken = min(self.body_left, len(self.pending))
                self.pending = self.pending[taken:]
                self.body_left -= taken
                if self.body_left:
                    return
            head, mark, rest = self.pending.partition(b"\r\n\r\n")
            if not mark:
                return
            self.pending = rest
            lower = head.lower()
            if (at := lower.find(b"\r\ncontent-length:")) >= 0:
                self.body_left = int(lower[at + 17 :].split(b"\r\n")[0])
            self.answer(head)

    def answer(self, head: bytes) -> None:
        """Answer one request in the present manner."""
        method, path, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
        backend, manner = self.backend, self.backend.manner
        if path == HEALTH:
            backend.seen.probes += 1
        else:
            backend.note(backend.seen.requests)
            if len(backend.seen.paths) < MOST_TIMES:
                name = path.decode()
                backend.seen.paths[name] = backend.seen.paths.get(name, 0) + 1
        if manner.mode in {"hang", "vanish"}:
            backend.seen.waiting.append(self.port)
        elif manner.mode.startswith("cut") and path != HEALTH:
            self.cut(manner.mode)
        elif path != HEALTH and backend.chance.random() < manner.errors:
            backend.seen.errors += 1
            self.say("503 Service Unavailable", b"by chance", head=method == b"HEAD")
        else:
            body = BODY if not manner.size else b"x" * manner.size
            say = partial(self.say, "200 OK", body, head=method == b"HEAD")
            if manner.delay:
                asyncio.get_running_loop().call_later(manner.delay, say)
            else:
                say()

    def say(self, status: str, body: bytes, *, head: bool) -> None:
        """Send a whole answer."""
        if self.transport.is_closing():
            return
        name, fields = self.backend.seen.name, self.backend.manner.fields
        lines = f"HTTP/1.1 {status}\r\nX-Backend: {name}\r\nX-Whole: {len(body)}\r\n{fields}"
        lines += f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(lines.encode() + (b"" if head else body))

    def cut(self, mode: str) -> None:
        """Send half of an answer and, a moment later, a reset."""
        half = BODY[: len(BODY) // 2]
        name, fields = self.backend.seen.name, self.backend.manner.fields
        lines = f"HTTP/1.1 200 OK\r\nX-Backend: {name}\r\nX-Whole: {len(BODY)}\r\n{fields}"
        if mode == "cut-length":
            lines += f"Content-Length: {len(BODY)}\r\n\r\n"
        elif mode == "cut-chunked":
            lines += f"Transfer-Encoding: chunked\r\n\r\n{len(half):x}\r\n"
            half += b"\r\n"
        else:
            lines += "Connection: close\r\n\r\n"
        self.transport.write(lines.encode() + half)
        # A reset drops what the peer's kernel still holds: let the half arrive first.
        asyncio.get_running_loop().call_later(0.02, self.reset)


def vanish(listener: socket.socket) -> list[socket.socket]:
    """Accept no more and fill the backlog: Linux drops what else comes, as if the host was gone."""
    asyncio.get_running_loop().remove_reader(listener)
    listener.listen(0)
    held = []
    for _ in range(4):
        held.append(socket.socket())
        held[-1].settimeout(0)
        held[-1].connect_ex(listener.getsockname())
    return held


async def serve(port: int, control: int, backend: Backend) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)

    async def orders(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            seen = backend.order(json.loads(line))
            if backend.manner.mode == "vanish" and not filling:
                filling.extend(vanish(listener))
            writer.write(seen)  # last: an order that is answered is in force
            await writer.drain()
        writer.close()

    listener = socket.create_server(("127.0.0.1", port))
    service = await loop.create_server(lambda: Connection(backend), sock=listener, backlog=1024)
    filling: list[socket.socket] = []
    # The service first: whoever waits for the orders' port finds it open, too.
    desk = await asyncio.start_server(orders, "127.0.0.1", control, limit=2**20)
    async with desk:
        await over.wait()
    service.close()
    for each in filling:
        each.close()


def main(arguments: list[str]) -> None:
    """Start in the manner that the fourth argument, if any, gives as JSON."""
    backend = Backend(arguments[2])
    backend.order(json.loads(arguments[3]) if len(arguments) > 3 else {})
    asyncio.run(serve(int(arguments[0]), int(arguments[1]), backend))


if __name__ == "__main__":
    main(sys.argv[1:])
