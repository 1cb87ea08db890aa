"""A control process in this process: real store, board, sockets; fake workers and probes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel.childspec import ChildSpec
from gateway.channel.framing import Decoder, encode
from gateway.channel.messages import (
    PROTOCOL,
    Ack,
    Addresses,
    Apply,
    Failures,
    FromControl,
    Hello,
    Tally,
)
from gateway.channel.unix import bind_unix
from gateway.config.snapshot import Color, Endpoint, Service, Topology, Traffic
from gateway.control.app import Control, Outside
from gateway.control.settings import ServiceSettings, Settings, SettingsError, Token
from gateway.control.store import SqliteStore, Store
from gateway.health.answers import Request
from gateway.health.door import Door
from gateway.health.policy import HealthPolicy, HttpCheck, IntegrationCheck
from gateway.health.probes import Result

VIEWER, OPERATOR, ADMIN = "viewer-secret", "operator-secret", "admin-secret"


def token(name: str, role: str, secret: str) -> Token:
    digest = hashlib.sha256(secret.encode()).digest()
    return msgspec.convert({"name": name, "role": role}, _TokenShape).token(digest)


class _TokenShape(msgspec.Struct):
    name: str
    role: str

    def token(self, digest: bytes) -> Token:
        return Token(name=self.name, role=self.role, digest=digest)  # type: ignore[arg-type]


TOKENS = (
    token("eye", "viewer", VIEWER),
    token("pipeline", "operator", OPERATOR),
    token("boss", "admin", ADMIN),
)

POLICY = HealthPolicy(
    interval=0.05, interval_down=0.01, timeout=1.0, http=HttpCheck(path="/health")
)


def settings(
    path: Path, *names: str, health: HealthPolicy = POLICY, tokens: tuple[Token, ...] = TOKENS
) -> Settings:
    """Services by name, each with one blue endpoint and one green."""
    services = tuple(
        ServiceSettings(
            name=name,
            initial_stable="blue",
            blue=(f"http://127.0.0.1:{3000 + place}",),
            green=(f"http://127.0.0.1:{4000 + place}",),
            health=health,
        )
        for place, name in enumerate(sorted(names))
    )
    return Settings(
        template=Topology(
            number=0, services=tuple(Service(name=name, row=0) for name in sorted(names))
        ),
        services=services,
        tokens=tokens,
        state_path=path / "gateway.db",
    )


@dataclass
class FakeProbes:
    """Answers from a table: URLs in ``down`` fail, ``bodies`` are their health answers.

    ``broken`` fail L3; L4 fails for (service, color) in ``apart``, the service being its first
    request's first segment.
    """

    down: set[str] = field(default_factory=set)
    bodies: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    apart: set[tuple[str, Color]] = field(default_factory=set)
    through: list[tuple[str, Color]] = field(default_factory=list)

    async def tcp(self, endpoint: Endpoint, timeout: float) -> Result:
        self.asked.append(endpoint.url)
        await asyncio.sleep(0)
        good = endpoint.url not in self.down
        return Result(level="L1", good=good, detail="" if good else "connection refused")

    async def http(
        self, endpoint: Endpoint, check: object, timeout: float, tls_ca: str | None
    ) -> Result:
        body = self.bodies.get(endpoint.url, b'{"version": "1"}')
        return Result(level="L2", good=True, status=200, body=body)

    async def business(
        self, endpoint: Endpoint, request: Request, timeout: float, tls_ca: str | None
    ) -> Result:
        good = endpoint.url not in self.broken
        return Result(level="L3", good=good, status=200, detail="" if good else "broken")

    async def integration(self, door: Door, check: IntegrationCheck, color: Color) -> Result:
        await asyncio.sleep(0)
        service = check.requests[0].path.split("/")[1]
        self.through.append((service, color))
        good = (service, color) not in self.apart
        detail = "" if good else "(GET /): answered 500, expected 200"
        return Result(level="L4", good=good, status=200 if good else 500, detail=detail, body=b"no")


class FakeWorker:
    """Speaks the channel as a worker does: greets, takes snapshots, acknowledges."""

    def __init__(self, board: Board, path: str, slab: int, *, pid: int) -> None:
        self.board, self.path, self.slab, self.pid = board, path, slab, pid
        self.topology: Topology | None = None
        self.traffic: Traffic | None = None
        self.names: dict[str, tuple[str, ...]] = {}
        self.numbers: list[int] = []
        self.answers = True
        self.error = ""
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.changed = asyncio.Event()

    async def start(self) -> FakeWorker:
        words = self.board.slab(self.slab)
        words[layout.S_PID] = self.pid
        words[layout.S_SLOT] = self.slab
        words[layout.S_STATE] = layout.STATE_READY
        reader, self._writer = await asyncio.open_unix_connection(self.path)
        self._writer.write(
            encode(
                Hello(
                    protocol=PROTOCOL,
                    version="test",
                    slot=self.slab,
                    slab=self.slab,
                    pid=self.pid,
                    topology=self.topology.number if self.topology else 0,
                    traffic=self.traffic.revision if self.traffic else 0,
                )
            )
        )
        self._task = asyncio.get_running_loop().create_task(self._read(reader))
        return self

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder: Decoder[FromControl] = Decoder.from_control()
        while data := await reader.read(65536):
            for message in decoder.feed(data):
                self._take(message)
            self.changed.set()

    def _take(self, message: FromControl) -> None:
        if isinstance(message, Addresses):
            self.names.update(message.names)
        if not isinstance(message, Apply):
            return
        self.topology = message.topology or self.topology
        self.traffic = message.traffic or self.traffic
        self.numbers.append(message.number)
        if self.answers:
            self.acknowledge(message.number)

    def acknowledge(self, number: int) -> None:
        assert self._writer is not None
        self.board.slab(self.slab)[layout.S_NUMBER] = number
        if self.topology is not None:
            self.board.slab(self.slab)[layout.S_TOPOLOGY] = self.topology.number
        if self.traffic is not None:
            self.board.slab(self.slab)[layout.S_TRAFFIC] = self.traffic.revision
        self._writer.write(encode(Ack(number=number, error=self.error)))

    def tell(self, message: Failures | Tally) -> None:
        """Tell what was seen of requests."""
        assert self._writer is not None
        self._writer.write(encode(message))

    async def until(self, number: int) -> None:
        """Wait until a snapshot of at least that number has come."""
        async with asyncio.timeout(5):
            while not self.numbers or self.numbers[-1] < number:
                self.changed.clear()
                await self.changed.wait()

    @property
    def state(self) -> int:
        found: int = self.board.slab(self.slab)[layout.S_STATE]
        return found

    async def stop(self, state: int = layout.STATE_GONE) -> None:
        """Hang up; with the state that it has, control alone is gone."""
        self.board.slab(self.slab)[layout.S_STATE] = state
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await self._task


class World:
    """One board and run folder; control can be started and stopped on it again and again."""

    def __init__(self, path: Path, *names: str, base: Settings | None = None) -> None:
        self.path = path
        self.settings = base or settings(path, *(names or ("events", "ivor")))
        self.faults: tuple[tuple[str, str], ...] = ()
        self.board = Board.create(4)
        self.probes = FakeProbes()
        self.workers: list[FakeWorker] = []
        self.control: Control | None = None
        self.store: Store | None = None
        #: Clock, wall, sleep and fetch for ``Outside``, where a test has its own.
        self.time: dict[str, Any] = {}
        self.url = ""
        self._channel = -1

    def load(self) -> Settings:
        if self.faults:
            raise SettingsError(self.faults)
        return self.settings

    async def start(self, store: Store | None = None) -> Control:
        """Start control as a supervisor would: the channel and the admin socket stay open."""
        run = self.path / "run"
        run.mkdir(exist_ok=True)
        if self._channel < 0:
            self._channel = bind_unix(run / "control.sock").detach()
            self._admin = socket.create_server(("127.0.0.1", 0))
            self._admin_unix = bind_unix(run / "admin.sock")
            self.url = f"http://127.0.0.1:{self._admin.getsockname()[1]}"
        spec = ChildSpec(
            role="control",
            slabs=4,
            board=self.board.fd,
            boot="b00t",
            run_dir=str(run),
            config="gateway.yaml",
            channel=os.dup(self._channel),
            admin=(os.dup(self._admin.fileno()), os.dup(self._admin_unix.fileno())),
            addresses=("127.0.0.1:9090", "unix:admin.sock"),
        )
        self.store = store or await SqliteStore.open(self.settings.state_path)
        outside = Outside(
            board=self.board, store=self.store, probes=self.probes, load=self.load, **self.time
        )
        self.control = Control(spec, self.settings, outside)
        # Tests that walk over every call with a wrong token are no attack.
        self.control.logins.burst = 10**6
        await self.control.start()
        return self.control

    async def worker(self, slab: int = 0) -> FakeWorker:
        worker = FakeWorker(
            self.board, str(self.path / "run" / "control.sock"), slab, pid=1000 + slab
        )
        self.workers.append(worker)
        await worker.start()
        await worker.until(1)
        return worker

    async def until_up(self, color: Color, *names: str) -> None:
        """Wait until control has seen a color healthy."""
        assert self.control is not None
        facts = self.control.switchboard.parts.facts
        wanted = names or tuple(each.name for each in self.settings.services)
        async with asyncio.timeout(5):
            while not all(facts.proven(name, color) for name in wanted):
                await asyncio.sleep(0.005)

    async def until_down(self, color: Color, *names: str) -> None:
        """Wait until control has seen a color's probes fail."""
        assert self.control is not None
        facts = self.control.switchboard.parts.facts
        async with asyncio.timeout(5):
            while any(facts.able(name, color) for name in names):
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        if self.control is not None:
            await self.control.close()
            self.control = None

    async def kill(self) -> None:
        """Let control end as by SIGKILL: what it would do on its way out is not done."""
        control = self.control
        assert control is not None
        self.control = None
        await control.tasks.close()
        control.events.close()
        await control.switchboard.parts.hub.close()
        if control._handover is not None:
            control._handover.close()
        if control._server is not None:
            await control._server.close()

    async def close(self) -> None:
        for worker in self.workers:
            await worker.stop()
        await self.stop()
        if self._channel >= 0:
            os.close(self._channel)
            self._channel = -1
            self._admin.close()
            self._admin_unix.close()
        self.board.close()


@asynccontextmanager
async def running(path: Path, *names: str, workers: int = 2) -> AsyncIterator[World]:
    """A world with control and workers, all endpoints seen healthy."""
    world = World(path, *names)
    try:
        await world.start()
        for slab in range(workers):
            await world.worker(slab)
        await world.until_up("blue")
        await world.until_up("green")
        yield world
    finally:
        await world.close()


def client(world: World, secret: str = ADMIN) -> aiohttp.ClientSession:
    """A session with a token."""
    return aiohttp.ClientSession(world.url, headers={"Authorization": f"Bearer {secret}"})
