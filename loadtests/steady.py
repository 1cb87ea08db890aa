"""A constant offered load over keep-alive HTTP/1.1, timed from when each request was *due*.

``python -m loadtests.steady PORT RATE SECONDS`` prints one JSON object. Requests are due evenly
spaced, whatever the answers do; a request that finds every connection busy waits, and its wait
counts, so a stall of the server is charged to every request that it held up (no coordinated
omission). ``lag`` is how late this program itself was with requests that had a free connection: a
percentile below it says nothing about the server.

One epoll set on one thread; ``select`` on the epoll descriptor gives the wait its microseconds
(epoll's own time-out has milliseconds only). At 15,000 requests a second it takes about a third
of a core.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

#: request.lua's fields, for one client.
BROWSER_FIELDS = (
    "Host: bench.example",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: http://bench.example/news/",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-User: ?1",
    "Cache-Control: max-age=0",
    "Cookie: theme=dark; gw_cohort={key}",
)
CLIENTS = 256
CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Steady:
    """Latency at a constant offered load, in milliseconds; rates in requests a second."""

    offered: float
    served: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    lag_p99_ms: float
    errors: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the ordered values do not exceed."""
    at = -(-len(ordered) * share // 1) - 1
    return ordered[min(max(0, int(at)), len(ordered) - 1)]


def browser_requests(count: int) -> list[bytes]:
    """Return one request's octets for each of ``count`` clients."""
    head = "GET /api/news/latest?page=1 HTTP/1.1\r\n" + "\r\n".join(BROWSER_FIELDS) + "\r\n\r\n"
    step = 0x9E3779B97F4A7C15F39CC0605CEDC835  # spreads the keys over all their bits
    keys = (number * step % 2**128 for number in range(1, count + 1))
    return [head.format(key=cookie(key.to_bytes(16, "big"))).encode() for key in keys]


def cookie(octets: bytes) -> str:
    """Return a cohort cookie's value as the gateway makes it: unpadded URL-safe base64."""
    return urlsafe_b64encode(octets).decode().rstrip("=")


class Connection:
    """One connection and the request in its hands; ``due`` is in seconds, 0 while it is free."""

    __slots__ = ("due", "left", "seen", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0.0)
        self.due = 0.0
        self.left = -1
        self.seen = b""

    def send(self, request: bytes, due: float) -> None:
        """Send one request (it fits the socket's buffer: the connection was free)."""
        self.due = due
        self.left = -1
        self.seen = b""
        self.socket.send(request)

    def receive(self) -> int:
        """Read what came. The status once the answer is whole, 0 before, -1 if it was cut off."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return 0
        except OSError:
            return -1
        if not data:
            return -1
        if self.left < 0:
            self.seen += data
            at = self.seen.find(b"\r\n\r\n")
            if at < 0:
                return 0
            head = self.seen[:at].lower()
            start = head.find(b"\r\ncontent-length:")
            if start < 0:
                return -1
            length = int(head[start + 17 :].split(b"\r\n", 1)[0])
            self.left = length - (len(self.seen) - at - 4)
        else:
            self.left -= len(data)
        return 0 if self.left > 0 else int(self.seen[9:12])


class Load:
    """One run: what is due, what is in hand, what came of it."""

    def __init__(self, port: int, rate: float, seconds: float) -> None:
        self.port = port
        self.rate = rate
        self.seconds = seconds
        self.total = int(rate * seconds)
        self.requests = browser_requests(CLIENTS)
        self.poll = select.epoll()
        self.by_descriptor: dict[int, Connection] = {}
        self.free: list[Connection] = []
        self.waiting: deque[float] = deque()
        self.times: list[tuple[float, float]] = []  # due, latency
        self.lags: list[float] = []
        self.errors = 0
        self.sent = 0
        for _ in range(CONNECTIONS):
            self.open()

    def open(self) -> None:
        """Add a free connection."""
        connection = Connection(self.port)
        self.by_descriptor[connection.socket.fileno()] = connection
        self.poll.register(connection.socket.fileno(), select.EPOLLIN)
        self.free.append(connection)

    def replace(self, descriptor: int) -> None:
        """Count an error for a connection that was cut off, and open another in its place."""
        connection = self.by_descriptor.pop(descriptor)
        self.errors += connection.due > 0
        if connection.due == 0:
            self.free.remove(connection)
        self.poll.unregister(descriptor)
        connection.socket.close()
        self.open()

    def send(self, due: float) -> None:
        """Send the next client's request on a free connection."""
        self.free.pop().send(self.requests[self.sent % CLIENTS], due)
        self.sent += 1

    def gather(self) -> None:
        """Take in what has arrived and pass waiting requests on."""
        for descriptor, _ in self.poll.poll(0):
            connection = self.by_descriptor[descriptor]
            status = connection.receive()
            if status == 0:
                continue
            if status < 0:
                self.replace(descriptor)
            else:
                self.take(connection, status)
            if self.waiting and self.free:
                self.send(self.waiting.popleft())

    def take(self, connection: Connection, status: int) -> None:
        """Note an answer; its connection is free again."""
        self.times.append((connection.due, time.perf_counter() - connection.due))
        self.errors += status != 200
        connection.due = 0.0
        self.free.append(connection)

    def after(self, number: int) -> float:
        """Return when a request is due, in seconds after the begin."""
        return number / self.rate

    def offer(self, due: float, now: float) -> None:
        """Send what is due now, or let it wait its turn."""
        if self.free and not self.waiting:
            self.lags.append(now - due)
            self.send(due)
        else:
            self.waiting.append(due)

    def run(self) -> Steady:
        """Offer the load, wait at most two seconds for what is left, sum up; once."""
        return self.sum_up(self.drive())

    def drive(self) -> float:
        """Offer the load, wait for what is left; return when it began."""
        try:
            return self.offer_all()
        finally:
            for connection in self.by_descriptor.values():
                connection.socket.close()
            self.poll.close()

    def offer_all(self) -> float:
        """Do the work of ``drive``."""
        begin = time.perf_counter()
        total = self.total
        number = 0
        end = begin + self.seconds + 2.0
        while True:
            now = time.perf_counter()
            while number < total and begin + self.after(number) <= now:
                self.offer(begin + self.after(number), now)
                number += 1
            busy = len(self.free) < len(self.by_descriptor) or bool(self.waiting)
            if now > end or (number >= total and not busy):
                break
            wait = begin + self.after(number) - now if number < total else 0.05
            select.select([self.poll], [], [], max(0.0, wait))
            self.gather()
        self.errors += total - len(self.times) - self.errors if len(self.times) < total else 0
        return begin

    def sum_up(self, begin: float) -> Steady:
        """Leave the first half second out (connections warm up); order the rest."""
        skip = begin + min(0.5, self.seconds / 4)
        kept = [(due, took) for due, took in self.times if due >= skip]
        if not kept:
            raise SystemExit(f"steady: no answer from port {self.port}")
        times = sorted(took for _, took in kept)
        last = max(due + took for due, took in kept)
        lags = sorted(self.lags)
        return Steady(
            offered=self.rate,
            served=len(kept) / max(last - skip, 1e-9),
            p50_ms=percentile(times, 0.50) * 1e3,
            p99_ms=percentile(times, 0.99) * 1e3,
            worst_ms=times[-1] * 1e3,
            lag_p99_ms=percentile(lags, 0.99) * 1e3 if lags else 0.0,
            errors=self.errors,
        )


def main(arguments: Sequence[str]) -> int:
    """Run once and print the sums."""
    port, rate, seconds = int(arguments[0]), float(arguments[1]), float(arguments[2])
    gc.disable()  # one run, one process: a collection would be a stall of ours
    print(json.dumps(asdict(Load(port, rate, seconds).run())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
