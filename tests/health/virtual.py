"""A prober in virtual time: nothing sleeps, and what takes seconds is told by the second."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.board import layout
from gateway.config.snapshot import Color, Endpoint
from gateway.control.tasks import Tasks
from gateway.health.answers import Request
from gateway.health.door import Door
from gateway.health.monitor import Change, PoolCheck
from gateway.health.policy import HealthPolicy, HttpCheck, IntegrationCheck
from gateway.health.prober import Prober, Target
from gateway.health.probes import Result

#: Turns of the loop in which everything that can go on goes on.
TURNS = 30


class VirtualTime:
    """Sleeps end in their order as ``run`` lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self._asleep: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._asleep, (self.now + seconds, self._count, future))
        await future

    async def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        await self.settle()
        while self._asleep and self._asleep[0][0] <= end:
            self.now, _, future = heapq.heappop(self._asleep)
            if not future.done():
                future.set_result(None)
                await self.settle()
        self.now = end

    @staticmethod
    async def settle() -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)


class Cells:
    """The board's cells."""

    def __init__(self) -> None:
        self.healths: dict[int, int] = {}
        self.passes: dict[int, int] = {}
        #: Cells whose breakers are open.
        self.open: set[int] = set()
        #: Cells whose breakers are half open.
        self.trial: set[int] = set()

    def health(self, cell: int) -> int:
        return self.healths.get(cell, layout.UNKNOWN)

    def set_health(self, cell: int, health: int, now: int) -> bool:
        changed = self.health(cell) != health
        self.healths[cell] = health
        return changed

    def set_passes(self, cell: int, passes: int) -> None:
        self.passes[cell] = passes

    def breaker(self, cell: int) -> int:
        if cell in self.open:
            return layout.BREAKER_OPEN
        return layout.BREAKER_HALF_OPEN if cell in self.trial else layout.BREAKER_CLOSED

    def serves(self, cell: int) -> bool:
        return cell not in self.open


class World:
    """A prober whose probes go as ``bad`` says: ``L2``, ``L2 ivor-blue-1-0``, ``L4 ivor-blue``."""

    def __init__(self, seed: int = 7) -> None:
        self.time, self.cells, self.tasks = VirtualTime(), Cells(), Tasks()
        self.bad: set[str] = set()
        #: Probes that take this long, in virtual seconds.
        self.slow: dict[str, float] = {}
        self.own_fault: set[str] = set()
        self.asked: list[tuple[float, str]] = []
        self.under_way: dict[str, int] = {}
        self.most = 0
        self.changes: list[Change] = []
        self.waits_told: list[tuple[str, tuple[str, ...]]] = []
        self.heard_results: list[str] = []
        self.carried: dict[str, frozenset[Color]] = {}
        self.shut: set[tuple[str, Color]] = set()
        self.prober = Prober(
            self,
            self.cells,
            self.tasks,
            random=random.Random(seed),
            now=lambda: int(self.time.now * 1e9),
            listener=self,
            sleep=self.time.sleep,
        )
        self.prober.integration.door = Door("http://gateway", b"s" * 22, lambda: 0.0)
        self.prober.integration.sides = self

    # --- the probes ---

    async def tcp(self, endpoint: Endpoint, timeout: float) -> Result:
        return await self._ask("L1", endpoint.id)

    async def http(
        self, endpoint: Endpoint, check: HttpCheck, timeout: float, tls_ca: str | None
    ) -> Result:
        return await self._ask("L2", endpoint.id)

    async def business(
        self, endpoint: Endpoint, request: Request, timeout: float, tls_ca: str | None
    ) -> Result:
        return await self._ask("L3", endpoint.id)

    async def integration(self, door: Door, check: IntegrationCheck, color: Color) -> Result:
        return await self._ask("L4", f"{check.requests[0].path.strip('/')}-{color}")

    async def _ask(self, level: str, name: str) -> Result:
        what = f"{level} {name}"
        self.asked.append((self.time.now, what))
        self.under_way[what] = self.under_way.get(what, 0) + 1
        self.most = max(self.most, self.under_way[what])
        try:
            seconds = self.slow.get(what) or self.slow.get(level) or 0.0
            await (self.time.sleep(seconds) if seconds else asyncio.sleep(0))
        finally:
            self.under_way[what] -= 1
        bad = bool({level, what} & self.bad) or any(
            each.endswith("*") and what.startswith(each[:-1]) for each in self.bad
        )
        return Result(
            level=level,
            good=not bad,
            status=500 if bad else 200,
            detail="bad" if bad else "",
            counts=not bad or what not in self.own_fault,
        )

    # --- the listener ---

    def changed(self, change: Change) -> None:
        self.changes.append(change)

    def waits(self, check: PoolCheck) -> None:
        self.waits_told.append((f"{check.service}-{check.color}", check.waiting))

    def heard(self, service: str, color: Color, result: Result) -> None:
        self.heard_results.append(f"{service} {color} {result.level}")

    # --- the sides ---

    def carrying(self, service: str) -> frozenset[Color]:
        return self.carried.get(service, frozenset({"blue"}))

    def closed(self, service: str, color: Color) -> bool:
        return (service, color) in self.shut

    # --- what a test asks ---

    def times(self, what: str) -> list[float]:
        """When something was asked."""
        return [time for time, asked in self.asked if asked == what]

    def word(self, endpoint: str) -> str:
        """An endpoint's health."""
        return self.prober.health(endpoint).word

    @contextmanager
    def failing(self, *what: str) -> Iterator[None]:
        """Have these probes fail for a while."""
        self.bad |= set(what)
        yield
        self.bad -= set(what)


def targets(
    service: str,
    policy: HealthPolicy,
    color: Color = "blue",
    *,
    count: int = 1,
    generation: int = 1,
    first_cell: int = 0,
) -> list[Target]:
    """Endpoints of one pool."""
    return [
        Target(
            Endpoint(
                id=f"{service}-{color}-{generation}-{at}",
                cell=first_cell + at,
                url=f"http://{service}-{at}",
                scheme="http",
                host=service,
                port=80,
            ),
            policy,
            service=service,
            color=color,
            generation=generation,
        )
        for at in range(count)
    ]
