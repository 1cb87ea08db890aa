"""The data plane without a loop: conversations played through it in memory.

    rig.client.send(b"GET / HTTP/1.1\\r\\nHost: a.example\\r\\n\\r\\n")
    assert rig.backend().request.startswith(b"GET / HTTP/1.1\\r\\n")
    rig.backend().answers(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
    assert rig.client.answer().status == 204
    rig.over([204])

Everything in it is synchronous: a dial is captured and waits for ``rig.backend()`` (which accepts
it) or ``rig.refuses``; ``rig.advance`` turns the timer wheel. ``rig.over`` ends the conversation
and asserts that nothing of it is left: no count, no connection, no timer, no cycle.
"""

from __future__ import annotations

import asyncio
import gc
import random
from array import array
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import h11
import orjson

from gateway.board import layout
from gateway.board.locks import OwnLocks
from gateway.channel.messages import Failures, Tally
from gateway.config.snapshot import (
    Cohort,
    Endpoint,
    Limits,
    OnControlLost,
    Pool,
    Route,
    SecurityProfile,
    Service,
    ServiceTraffic,
    Topology,
    Traffic,
    pack_routes,
)
from gateway.proxy.auth import KeyRing
from gateway.proxy.breaker import Breakers
from gateway.proxy.cache import Cache
from gateway.proxy.copies import Copies
from gateway.proxy.core import Core
from gateway.proxy.dial import made
from gateway.proxy.downstream import DownstreamConnection
from gateway.proxy.endpoint import Endpoint as RunEndpoint
from gateway.proxy.errors import Failure
from gateway.proxy.exchange import Attempt
from gateway.proxy.links import Answered
from gateway.proxy.record import Recorder
from gateway.proxy.serving import Builder
from gateway.proxy.tally import Tallies
from gateway.proxy.upstream import UpstreamConnection
from gateway.proxy.wheel import TICK
from tests.support.faketransport import FakeTransport, Soon

T = TypeVar("T")

SLABS = 2
START = 1000.0
#: 2030-01-01: a date of the tests' own.
EPOCH = 1_893_456_000.0
WATCHED = frozenset(
    {
        "Exchange",
        "Attempt",
        "Tunnel",
        "DownstreamConnection",
        "UpstreamConnection",
        "Visit",
        "QuietStream",
    }
)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing but ``asyncio.sleep(0)``."""
    while True:
        try:
            assert work.send(None) is None
        except StopIteration as stop:
            return cast("T", stop.value)


def board() -> memoryview:
    """Return a board of zeros."""
    words = array("Q", bytes(layout.board_bytes(SLABS)))
    return memoryview(words)


def service(name: str = "web", row: int = 1, **more: Any) -> Service:
    """Return a service. What it has no place for does not wait, unless a test says so."""
    more.setdefault("queue_length", 0)
    return Service(name=name, row=row, **more)


def pool(name: str, color: str, *endpoints: Endpoint, generation: int = 1) -> Pool:
    """Return a pool of a service."""
    return Pool(
        service=name,
        color=cast("Any", color),
        generation=generation,
        source="file",
        endpoints=endpoints,
    )


def endpoint(cell: int, *, color: str = "blue", name: str = "web", **more: Any) -> Endpoint:
    """Return an endpoint whose number is its cell."""
    values: dict[str, Any] = {
        "id": f"{name}-{color}-1-{cell}",
        "cell": cell,
        "scheme": "http",
        "host": f"10.0.0.{cell + 1}",
        "port": 8000,
        "url": f"http://10.0.0.{cell + 1}:8000",
    }
    values.update(more)
    return Endpoint(**values)


def topology(  # a test names what it needs, the rest is usual
    *,
    services: Sequence[Service] | None = None,
    pools: Sequence[Pool] | None = None,
    routes: Sequence[Route] | None = None,
    limits: Limits | None = None,
    cohort: Cohort | None = None,
    profiles: Sequence[SecurityProfile] = (),
    number: int = 1,
    **more: Any,
) -> Topology:
    """Return a topology of one service, ``web``: blue at cell 0, green at cell 1."""
    return Topology(
        number=number,
        services=tuple(services or (service(),)),
        pools=tuple(
            pools
            if pools is not None
            else (
                pool("web", "blue", endpoint(0)),
                pool("web", "green", endpoint(1, color="green")),
            )
        ),
        routes=pack_routes(list(routes or (Route(path="/", service="web"),))),
        # Conversations whose bodies stream and may take their time, unless a test says otherwise.
        limits=limits or Limits(min_rate=0, await_body=0),
        cohort=cohort or Cohort(),
        profiles=tuple(profiles),
        on_control_lost=OnControlLost(),
        **more,
    )


def traffic(*weights: ServiceTraffic, salt: bytes = b"salt", release: str = "") -> Traffic:
    """Return traffic; without weights ``web`` is all blue's."""
    return Traffic(
        revision=1,
        services=weights or (ServiceTraffic(service="web", stable="blue"),),
        salt=salt,
        release=release,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a client reads it. ``fields`` in order, names in lower case."""

    minor: int
    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def field(self, name: bytes) -> bytes | None:
        """Return a field's first value."""
        return next((value for key, value in self.fields if key == name.lower()), None)

    def all(self, name: bytes) -> list[bytes]:
        """Return a field's values."""
        return [value for key, value in self.fields if key == name.lower()]


def _fields(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    pairs = (line.partition(b":") for line in block.split(b"\r\n") if line)
    return tuple((name.lower(), value.strip()) for name, _, value in pairs)


def read_answer(data: bytes, *, to_head: bool = False, ended: bool = False) -> tuple[Answer, bytes]:
    """Read one whole answer off ``data``; return it and what is behind it."""
    head, mark, rest = data.partition(b"\r\n\r\n")
    assert mark, f"no whole head in {data!r}"
    line, _, block = head.partition(b"\r\n")
    version, _, tail = line.partition(b" ")
    assert version in {b"HTTP/1.1", b"HTTP/1.0"}, line
    status = int(tail[:3])
    fields = _fields(block)
    known = dict(fields)
    minor = int(version[-1:])
    if to_head or status < 200 or status in {204, 304}:
        return Answer(minor, status, fields, b""), rest
    if b"transfer-encoding" in known:
        assert b"content-length" not in known
        body, trailers, rest = _read_chunks(rest)
        return Answer(minor, status, fields, body, trailers), rest
    if b"content-length" in known:
        length = int(known[b"content-length"])
        assert len(rest) >= length, f"{len(rest)} of {length} octets: {data!r}"
        return Answer(minor, status, fields, rest[:length]), rest[length:]
    assert ended, "a body until close, and the connection is open"
    return Answer(minor, status, fields, rest), b""


def _read_chunks(data: bytes) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]:
    body = b""
    while True:
        line, mark, data = data.partition(b"\r\n")
        assert mark, "a chunk's size is missing"
        size = int(line, 16)
        if size == 0:
            break
        body += data[:size]
        assert data[size : size + 2] == b"\r\n", "a chunk ended early"
        data = data[size + 2 :]
    block = b""
    while True:
        line, mark, data = data.partition(b"\r\n")
        assert mark, "the last chunk is not whole"
        if not line:
            return body, _fields(block), data
        block += line + b"\r\n"


def h11_reads(data: bytes) -> None:
    """Have another parser read what a backend was sent; it raises where it does not agree.

    The last request may be a part; octets behind an upgrade are nobody's.
    """
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=10**6)
    if data:  # to h11 no octets are the end of them
        server.receive_data(data[:100_000])
    while True:
        event = server.next_event()
        if event is h11.NEED_DATA:
            return
        if event is h11.PAUSED:
            if server.their_state not in {h11.DONE, h11.MUST_CLOSE}:
                return
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is h11.MUST_CLOSE:
                return
            server.start_next_cycle()


class Client:
    """One client's connection."""

    def __init__(self, rig: Rig, peer: str, tls: bool) -> None:
        self.transport = FakeTransport(rig.soon, peer=(peer, 50000), octets=rig.octets)
        self.connection = DownstreamConnection(rig.core, 0, tls)
        self._read = 0
        self.transport.attach(self.connection)
        rig.soon.run()

    @property
    def received(self) -> bytes:
        """What has come and was not taken as an answer."""
        return bytes(self.transport.sent[self._read :])

    @property
    def closed(self) -> bool:
        """Whether the gateway has closed (or cut) the connection."""
        return self.transport.lost

    @property
    def open(self) -> bool:
        """Whether it has not."""
        return not self.transport.lost

    @property
    def cut(self) -> bool:
        """Whether it was cut, not closed."""
        return self.transport.aborted

    def send(self, data: bytes) -> Client:
        """Send octets."""
        self.transport.feed(data)
        return self

    def get(self, target: str = "/", fields: str = "", host: str = "a.example") -> Client:
        """Send one GET; ``fields`` are whole lines."""
        return self.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())

    def ends(self) -> None:
        """End our sending."""
        self.transport.feed_eof()

    def leaves(self) -> None:
        """Be gone."""
        self.transport.reset()

    def answer(self, *, to_head: bool = False) -> Answer:
        """Take the next answer (an interim one too)."""
        ended = self.transport.lost or self.transport.eof_sent
        answer, rest = read_answer(self.received, to_head=to_head, ended=ended)
        self._read = len(self.transport.sent) - len(rest)
        return answer

    def answers(self) -> list[Answer]:
        """Take all answers that are here, each of them whole."""
        found = []
        while self.received:
            found.append(self.answer())
        return found


class Backend:
    """One accepted connection of the gateway's to an endpoint."""

    def __init__(self, rig: Rig, dial: Dial) -> None:
        self.rig = rig
        self.endpoint = dial.endpoint
        self.transport = FakeTransport(rig.soon, octets=rig.octets)
        self.connection = UpstreamConnection(rig.core, dial.endpoint)
        self._read = 0
        self.transport.attach(self.connection)

    @property
    def sent(self) -> bytes:
        """All that the gateway has sent and that was not taken by ``request``."""
        return bytes(self.transport.sent[self._read :])

    @property
    def closed(self) -> bool:
        return self.transport.lost

    @property
    def open(self) -> bool:
        return not self.transport.lost

    @property
    def cut(self) -> bool:
        return self.transport.aborted

    def take(self) -> bytes:
        """Take what the gateway has sent since."""
        taken = self.sent
        self._read = len(self.transport.sent)
        return taken

    @property
    def request(self) -> bytes:
        """Take a whole head."""
        head, mark, _ = self.sent.partition(b"\r\n\r\n")
        assert mark, f"no whole head: {self.sent!r}"
        self._read += len(head) + 4
        return head + mark

    @property
    def fields(self) -> dict[bytes, bytes]:
        """Take a whole head and return its fields; a repeated one is an error."""
        pairs = _fields(self.request.partition(b"\r\n")[2])
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    def answers(self, data: bytes) -> Backend:
        """Send octets."""
        self.transport.feed(data)
        return self

    def ok(self, body: bytes = b"ok", fields: str = "", *, status: int = 200) -> Backend:
        """Send a whole answer."""
        head = f"HTTP/1.1 {status} Said\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        return self.answers(head.encode() + body)

    def ends(self) -> None:
        """End our sending: what most servers' close looks like."""
        self.transport.feed_eof()

    def resets(self) -> None:
        """Be gone."""
        self.transport.reset()


@dataclass(slots=True)
class Dial:
    """A connection that the gateway wants."""

    endpoint: RunEndpoint
    attempt: Attempt
    timeout: float


class RigCore(Core):
    """A core that captures what would be dialled."""

    __slots__ = ("dials",)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.dials: list[Dial] = []

    def dial(self, endpoint: RunEndpoint, attempt: Answered, timeout: float) -> None:
        self.dials.append(Dial(endpoint, cast("Attempt", attempt), timeout))


class Rig:
    """One worker's data plane and the peers around it."""

    def __init__(self, *, octets: bool = False) -> None:
        self.octets = octets
        self.now = START
        self.wall = EPOCH
        self.words = board()
        self.soon = Soon()
        self.lines: list[bytes] = []
        self.draws: list[int] = []
        self._chance = random.Random(7)
        recorder = Recorder(
            self.words,
            0,
            SLABS,
            lambda: self.wall,
            lambda second: f"2030-01-01T00:00:{second % 60:02d}",
            self.lines.append,
        )
        self.core = RigCore(
            loop=cast("asyncio.AbstractEventLoop", None),
            clock=lambda: self.now,
            wall=lambda: self.wall,
            random=self._chance.randbytes,
            draw=lambda bits: self.draws.pop(0) if self.draws else 0,
            recorder=recorder,
            words=self.words,
            slab=0,
            slabs=SLABS,
            soon=self.soon.call,
        )
        self.moves: list[tuple[str, str, str]] = []
        self.locks = OwnLocks()
        breakers = Breakers(
            self.words,
            SLABS,
            self.locks,
            lambda: int(self.now * 1e9),
            lambda *move: self.moves.append(move),
        )
        #: What control was told; ``away``: nobody is there to be told.
        self.told: list[Failures | Tally] = []
        self.away = False
        self.tallies = Tallies(lambda: self.wall, self.soon.call, self._tell)
        #: URLs of issuers of whom a key was missing.
        self.unknown: list[str] = []
        self.ring = KeyRing(self.unknown.append)
        self.builder = Builder(self.words, 0, SLABS, breakers, self.tallies, self.ring)
        self.clients: list[Client] = []
        self.backends: list[Backend] = []
        self.topology = topology()
        self.traffic = traffic()
        self.serve()
        gc.disable()
        gc.collect(0)

    def _tell(self, message: Failures | Tally) -> bool:
        if not self.away:
            self.told.append(message)
        return not self.away

    def serve(self, what: Topology | None = None, moved: Traffic | None = None) -> None:
        """Serve a snapshot from now on."""
        self.topology = what or self.topology
        self.traffic = moved or self.traffic
        self.core.serving = run(self.builder.build(self.topology, self.traffic))
        self.core.platform.serve(self.topology, self.traffic, self.now)

    def caches(self, folder: Path, *, size: int = 8 << 20, entry: int = 1 << 20) -> Copies:
        """Have the cache on, and the only route use it."""
        place = layout.slab_at(0) + layout.S_CACHE_WRITES
        store = Copies(folder, size, entry, lambda: self.wall, self.words, place)
        self.core.cache = Cache(store, lambda: self.wall, self.core.wheel, self.words, 0, SLABS)
        self.serve(topology(routes=[Route(path="/", service="web", cache=True)]))
        return store

    # --- peers ----------------------------------------------------------------------------------

    def connect(self, peer: str = "192.0.2.1", *, tls: bool = False) -> Client:
        """Have another client connect; ``client`` is the last one."""
        self.clients.append(Client(self, peer, tls))
        return self.clients[-1]

    @property
    def client(self) -> Client:
        """The last client to connect; the first one does now."""
        return self.clients[-1] if self.clients else self.connect()

    def accept(self) -> Backend:
        """Accept the oldest dial."""
        assert self.core.dials, "the gateway dials nobody"
        dial = self.core.dials[0]
        backend = self.meet(dial)
        self.introduce(dial, backend)
        return backend

    def meet(self, dial: Dial) -> Backend:
        """Make a dial's connection, of which the attempt has not heard yet."""
        backend = Backend(self, dial)
        self.backends.append(backend)
        return backend

    def introduce(self, dial: Dial, backend: Backend) -> None:
        """Tell the attempt that its connection is made."""
        self.core.dials.remove(dial)
        made(dial.endpoint, dial.attempt, backend.connection)
        self.soon.run()

    def backend(self) -> Backend:
        """Return the connection last written to; one that is being dialled is made now."""
        if self.core.dials:
            return self.accept()
        assert self.backends, "the gateway dials nobody"
        return max(self.backends, key=lambda backend: backend.transport.written_at)

    def refuses(self, failure: Failure | None = None) -> None:
        """Have the oldest dial fail."""
        dial = self.core.dials.pop(0)
        dial.attempt.on_dial_failed(failure or Failure("connect", "refused"))
        self.soon.run()

    @property
    def dialling(self) -> int:
        """How many dials are waiting."""
        return len(self.core.dials)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.wall += TICK
            self.core.wheel.advance(self.now)
            self.core.turn_queues(self.now)
            self.core.platform.turn(self.now, forced=self.core.forced_stable)
            self.tallies.turn(self.now)
            self.soon.run()

    # --- what is counted ------------------------------------------------------------------------

    def slab(self, word: int) -> int:
        """Return a word of the worker's slab's head."""
        return self.words[layout.slab_at(0) + word]

    def row(self, word: int, row: int = 1) -> int:
        """Return a word of a service's row."""
        return self.words[layout.slab_at(0) + layout.ROWS_AT + row * layout.ROW_WORDS + word]

    def cell(self, cell: int, word: int) -> int:
        """Return a word of an endpoint's in the slab."""
        at = layout.slab_at(0) + layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS
        return self.words[at + word]

    def in_flight(self, cell: int = 0) -> int:
        """Return an endpoint's requests in flight."""
        return self.cell(cell, layout.ENDPOINT_IN_FLIGHT)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return [orjson.loads(line) for line in self.lines]

    def requests(self) -> int:
        """Return the sum of all request counters."""
        total = 0
        for row in range(3):
            for side in range(layout.SIDES):
                at = layout.slab_at(0) + layout.ROWS_AT + row * layout.ROW_WORDS
                at += side * layout.SIDE_WORDS + layout.SIDE_REQUESTS
                total += sum(self.words[at : at + layout.SIDE_REQUEST_SECONDS])
        return total

    # --- the end --------------------------------------------------------------------------------

    def over(self, statuses: Sequence[int] | None = None) -> None:
        """End the conversation; assert that it left nothing, and which requests were recorded."""
        for client in self.clients:
            if not client.closed:
                client.leaves()
        while self.core.dials:
            self.refuses()
        self.at_rest()
        for backend in self.backends:
            if not backend.closed:
                backend.transport.reset()
        self.soon.run()
        self.advance(6.0)
        for client in self.clients:
            assert client.closed, f"never closed: {client.connection!r}"
        for backend in self.backends:
            assert backend.closed, f"never closed: {backend.connection!r}"
            h11_reads(bytes(backend.transport.sent))
        assert len(self.core.wheel) == 0, "something is left in the wheel"
        for known in self.builder.endpoints.values():
            assert not known.connections, f"{known!r} remembers a closed connection"
            assert known.idle_count() == 0
        log = self.log
        if statuses is not None:
            assert [line["status"] for line in log] == list(statuses)
        ids = [line["request_id"] for line in log if line["request_id"]]
        assert len(ids) == len(set(ids)), "a request was recorded twice"
        assert self.requests() == len(log)
        self.no_cycles()

    def at_rest(self) -> None:
        """Assert that every gauge is at 0."""
        for name in ("S_CONNECTIONS", "S_IN_FLIGHT", "S_TUNNELS"):
            assert self.slab(getattr(layout, name)) == 0, name
        for row in range(4):
            assert self.row(layout.ROW_IN_FLIGHT, row) == 0, f"in flight of row {row}"
            assert self.row(layout.ROW_WAITING, row) == 0, f"waiting of row {row}"
        for cell in range(8):
            assert self.in_flight(cell) == 0, f"in flight of cell {cell}"
            assert self.cell(cell, layout.ENDPOINT_TUNNELS) == 0
        assert not self.core.connections
        assert not self.core.tunnels

    def no_cycles(self) -> None:
        """Assert that only the collector's absence was needed: what is over is freed at once."""
        self.clients.clear()
        self.backends.clear()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect(0)
            left = [repr(o) for o in gc.garbage if type(o).__name__ in WATCHED]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not left, left

    def close(self) -> None:
        """Give the collector back, whatever became of the test; close the cache."""
        gc.enable()
        if self.core.cache is not None:
            self.core.cache.store.close()


Play = Callable[[Rig], None]
