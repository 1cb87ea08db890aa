"""A world with a release on it: time by hand, workers that tell of requests, a store that dies."""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec

from gateway.channel.histogram import bucket_of
from gateway.channel.messages import Counted, Failures, RequestFailed, Tally
from gateway.config.schema.releases import Releases
from gateway.control.releasedesk import Ask
from gateway.control.state import State
from gateway.control.store import SqliteStore, Store, StoreError
from gateway.control.switchboard import Caller
from gateway.release.record import Decision
from tests.control.world import World, client, settings

Json = dict[str, Any]

SHORT: dict[str, Any] = {
    "steps": [{"weight": weight, "hold": "3s"} for weight in (5, 20, 50, 100)],
    "min_requests": 10,
    "min_keys": 2,
    "max_hold": "10s",
    "validate_within": "5s",
}
PERSON = Caller(actor="person", address="::1", reason="because")
#: Tasks that sleep between two looks.
LOOKING = frozenset({"walk releases on", "keep what was seen"})
#: Tasks that are over once what they began is.
DOING = frozenset({"roll back", "hold", "store what overtook"})


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 50_000.0
        self._waiting: list[tuple[float, int, str, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_800_000_000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        task = asyncio.current_task()
        name = task.get_name() if task is not None else ""
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self.now + seconds, next(self._order), name, future))
        await future

    @property
    def asleep(self) -> set[str]:
        """Name the tasks that wait for time to pass."""
        return {name for _, _, name, future in self._waiting if not future.done()}

    def passes(self, seconds: float) -> None:
        self.now += seconds
        while self._waiting and self._waiting[0][0] <= self.now + 1e-9:
            future = heapq.heappop(self._waiting)[-1]
            if not future.done():
                future.set_result(None)


class FailingStore:
    """A store that fails while ``full``, and dies at the ``at``-th save: ``before`` or after it.

    What is asked of it once it is dead never ends, as of a process that is no more.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.full = False
        self.at: int | None = None
        self.before = True
        self.saves = 0
        self.saved: list[State] = []
        self.dead = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.asked: State | None = None

    @property
    def fallback(self) -> str:
        return self.inner.fallback

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def _alive(self) -> None:
        if self.dead.is_set():
            await asyncio.Event().wait()
        if self.full:
            raise StoreError("disk full")

    async def save(self, state: State, audit: Any, decisions: Sequence[Decision] = ()) -> None:
        await self._alive()
        if self.gate is not None:
            await self.gate.wait()
        place, self.saves = self.saves, self.saves + 1
        self.asked = state
        if place == self.at and self.before:
            await self._die()
        await self.inner.save(state, audit, decisions)
        self.saved.append(state)
        if place == self.at:
            await self._die()

    async def keep_progress(self, progress: Any) -> None:
        await self._alive()
        await self.inner.keep_progress(progress)

    async def keep_baselines(self, documents: Any) -> None:
        await self._alive()
        await self.inner.keep_baselines(documents)

    async def _die(self) -> None:
        self.dead.set()
        await asyncio.Event().wait()


class Stage:
    """One world, its clock, its store."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        world.time = {"clock": self.clock, "wall": self.clock.wall, "sleep": self.clock.sleep}
        self.store: FailingStore
        self._heard = 0
        self._keys = itertools.count(1)

    # --- control ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start control, or another one where the last was killed."""
        self.store = FailingStore(await SqliteStore.open(self.world.settings.state_path))
        control = await self.world.start(cast("Store", self.store))
        hub = control.switchboard.parts.hub
        take = hub.seen

        def heard(message: Failures | Tally) -> None:
            take(message)
            self._heard += 1

        hub.seen = heard

    async def restarted(self) -> None:
        """Kill control as by -9, and have another one on what is left."""
        assert self.world.control is not None
        await self.world.kill()
        await self.store.inner.close()
        await self.start()
        for worker in self.world.workers:
            await worker.stop(worker.state)
            await worker.start()
        await self.really(self.control.switchboard.parts.hub.current)
        await self.settled()

    @property
    def control(self) -> Any:
        assert self.world.control is not None
        return self.world.control

    @property
    def state(self) -> State:
        found: State = self.control.switchboard.state
        return found

    @property
    def run(self) -> Any:  # it moves while mypy believes in what was asserted of it last
        """The release under way, or the last."""
        assert self.state.run is not None
        return self.state.run

    @property
    def judgement(self) -> Any:
        return self.control.releases.judgement

    @property
    def weights(self) -> set[int]:
        """What workers serve."""
        served = set()
        for worker in self.world.workers:
            assert worker.traffic is not None
            served |= {each.weight for each in worker.traffic.services}
        return served

    # --- time -------------------------------------------------------------------------------------

    async def passes(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass, and all that comes of it."""
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-9:
            self.clock.passes(min(step, end - self.clock.now))
            self.control.releases.look()
            await self.settled()

    async def settled(self) -> None:
        """Wait until nothing is under way any more, or the store is dead."""
        async with asyncio.timeout(10):
            while not self.store.dead.is_set():
                names = {task.get_name() for task in self.control.tasks._running}
                if not names & DOING and self.clock.asleep >= LOOKING:
                    return
                await asyncio.sleep(0.0005)

    async def until(self, true: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let time pass until something is true."""
        end = self.clock.now + seconds
        while not true():
            assert self.clock.now < end, f"not within {seconds} s: {self.state.run}"
            if self.store.dead.is_set():
                return
            await self.passes(0.5)

    async def really(self, true: Callable[[], bool]) -> None:
        """Wait for something that other tasks do, without any time passing."""
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.001)

    # --- requests ---------------------------------------------------------------------------------

    async def tell(self, *messages: Failures | Tally, worker: int = 0) -> None:
        """Have a worker tell control something; returns once it was heard."""
        before = self._heard
        for message in messages:
            self.world.workers[worker].tell(message)
        await self.really(lambda: self._heard >= before + len(messages))

    async def fails(
        self,
        *keys: int,
        service: str = "ivor",
        candidate: bool = True,
        weight: int | None = None,
        release: str | None = None,
        **more: Any,
    ) -> None:
        """Have requests of these keys fail, one by one."""
        given: Any = {"metric": "error", "kind": "500", "at": 0.0} | more
        for key in keys:
            failed = RequestFailed(
                service=service,
                color="green" if candidate else "blue",
                candidate=candidate,
                weight=self.run.weight if weight is None else weight,
                key=key,
                **given,
            )
            await self.tell(
                Failures(release=self.run.id if release is None else release, failures=(failed,))
            )

    async def counts(
        self,
        requests: int = 20,
        *,
        keys: int = 4,
        service: str = "ivor",
        candidate: bool = True,
        failed: int = 0,
        seconds: float = 0.1,
        release: str | None = None,
        slow: int = 0,
        weight: int | None = None,
    ) -> None:
        """Have a worker count requests, as many of their keys as asked being new."""
        row = Counted(
            service=service,
            color="green" if candidate else "blue",
            candidate=candidate,
            weight=self.run.weight if weight is None else weight,
            requests=requests,
            failed=failed,
            timed=requests,
            slow=slow,
            judged=requests,
            spoiled=failed,
            keys=tuple(next(self._keys) + 10**6 for _ in range(keys)) if candidate else (),
            histogram=((bucket_of(seconds), requests),),
        )
        await self.tell(Tally(release=self.run.id if release is None else release, rows=(row,)))

    # --- releases ---------------------------------------------------------------------------------

    async def begins(self, **ask: Any) -> Any:
        """Start a release."""
        await self.control.release_calls.start(PERSON, Ask(**({"actor": "person"} | ask)))
        return self.run

    async def at(self, weight: int, **ask: Any) -> Any:
        """Start a release and bring it to a weight by its own steps, all of them well."""
        await self.begins(**ask)
        await self.until(lambda: self.run.weight > 0)
        while self.run.weight < weight * 100:
            step = self.run.step
            await self.counts()
            await self.until(lambda step=step: self.run.step > step)  # type: ignore[misc]
        return self.run

    async def is_over(self) -> Any:
        """Go on until the release is over, all being well."""
        while not self.run.over:
            step = self.run.step
            if self.run.running and self.run.weight > 0:
                await self.counts()
            await self.until(lambda step=step: self.run.step > step or self.run.over)  # type: ignore[misc]
        return self.run

    async def decisions(self) -> list[Decision]:
        """Return the ledger."""
        found: list[Decision] = await self.store.inner.decisions(self.run.id)
        return found

    def loses(self, color: str, *names: str) -> None:
        """Have every endpoint of a color fail its probes."""
        for each in self.world.settings.services:
            if not names or each.name in names:
                self.world.probes.down |= set(each.blue if color == "blue" else each.green)

    def recovers(self) -> None:
        """Have every probe pass again."""
        self.world.probes.down.clear()

    async def lost(self, color: str, *names: str) -> None:
        """As ``loses``, and wait until control has seen it."""
        self.loses(color, *names)
        facts = self.control.switchboard.parts.facts
        wanted = names or tuple(each.name for each in self.world.settings.services)
        await self.really(lambda: not any(facts.able(name, color) for name in wanted))


@asynccontextmanager
async def staged(
    path: Path,
    *names: str,
    critical: Sequence[str] = (),
    workers: int = 2,
    **releases: Any,
) -> AsyncIterator[Stage]:
    """A stage with control and workers, all endpoints seen healthy, short steps."""
    base = settings(path, *(names or ("events", "ivor")))
    services = tuple(
        msgspec.structs.replace(each, critical=each.name in critical, drain_timeout=5.0)
        for each in base.template.services
    )
    base = dataclasses.replace(
        base,
        releases=Releases.model_validate(SHORT | releases),
        template=msgspec.structs.replace(base.template, services=services),
    )
    stage = Stage(World(path, base=base))
    world = stage.world
    try:
        await stage.start()
        for slab in range(workers):
            await world.worker(slab)
        await world.until_up("blue")
        await world.until_up("green")
        await stage.settled()
        yield stage
    finally:
        stage.store.dead = asyncio.Event()
        stage.store.full = False
        await world.close()


async def ask(
    api: aiohttp.ClientSession, method: str, path: str, body: Json | None = None, **fields: str
) -> tuple[int, Json]:
    """Call; return the status and the body."""
    async with api.request(method, path, json=body, headers=fields) as answer:
        return answer.status, await answer.json(content_type=None)


async def post(api: aiohttp.ClientSession, path: str, body: Json | None = None) -> tuple[int, Json]:
    return await ask(api, "POST", path, body if body is not None else {})


def alerts(stage: Stage) -> list[Json]:
    return [each for kind, each in events(stage) if kind == "alert"]


def events(stage: Stage) -> list[tuple[str, Json]]:
    return [(each.kind, json.loads(each.data)) for each in stage.control.events._ring]


__all__ = ["PERSON", "FailingStore", "Json", "Stage", "alerts", "ask", "client", "post", "staged"]
