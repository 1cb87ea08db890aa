"""The prober on a clock that only the test moves, and the probes against real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.board import layout
from gateway.config.snapshot import Color, Endpoint
from gateway.control.tasks import Tasks
from gateway.health.answers import Request
from gateway.health.door import Door
from gateway.health.machine import Health
from gateway.health.monitor import Change
from gateway.health.policy import HealthPolicy, HttpCheck, IntegrationCheck
from gateway.health.prober import JITTER, Monitor, Prober, Target
from gateway.health.probes import KEPT_BODY, NetworkProbes, Result
from gateway.health.seams import Nobody
from tests.health.virtual import Cells


class FakeProbes:
    """Good unless told otherwise; counts what is under way."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.asked: list[str] = []
        self.under_way: dict[str, int] = {}
        self.most = 0

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
        return await self._ask("L4", f"{check.requests[0].path}-{color}")

    async def _ask(self, level: str, name: str) -> Result:
        asked = f"{level} {name}"
        self.under_way[asked] = self.under_way.get(asked, 0) + 1
        self.most = max(self.most, self.under_way[asked])
        self.asked.append(asked)
        await asyncio.sleep(0)
        self.under_way[asked] -= 1
        good = level not in self.bad and asked not in self.bad
        return Result(level=level, good=good, detail="" if good else "bad")


class Clock:
    """Sleeps end when the test says so."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._sleeping: list[asyncio.Future[None]] = []
        self._asleep = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleeping.append(future)
        self._asleep.set()
        await future

    async def asleep(self, count: int = 1) -> None:
        async with asyncio.timeout(5):
            while len(self._sleeping) < count:
                self._asleep.clear()
                await self._asleep.wait()

    async def tick(self) -> None:
        """Let everybody's interval pass once."""
        await self.asleep()
        sleeping, self._sleeping = self._sleeping, []
        for future in sleeping:
            if not future.done():
                future.set_result(None)
        await self.asleep(sum(not future.cancelled() for future in sleeping))


class World(Nobody):
    def __init__(self) -> None:
        self.board, self.probes, self.clock, self.tasks = (
            Cells(),
            FakeProbes(),
            Clock(),
            Tasks(),
        )
        self.changes: list[tuple[str, str]] = []
        self.prober = Prober(
            self.probes,
            self.board,
            self.tasks,
            random=random.Random(7),
            now=lambda: 1,
            listener=self,
            sleep=self.clock.sleep,
        )

    def changed(self, change: Change) -> None:
        self.changes.append((change.target.endpoint.id, change.health.word))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.tasks.close()


POLICY = HealthPolicy(interval=5.0, interval_down=1.0, http=HttpCheck(path="/health"))


def target(name: str = "a", cell: int = 0, policy: HealthPolicy = POLICY, port: int = 1) -> Target:
    return Target(
        Endpoint(
            id=name,
            cell=cell,
            url=f"http://127.0.0.1:{port}",
            scheme="http",
            host="127.0.0.1",
            port=port,
        ),
        policy,
    )


async def test_the_first_good_probe_makes_an_endpoint_up(world: World) -> None:
    world.prober.watch([target()])
    assert world.prober.health("a") is Health.UNKNOWN
    await world.clock.asleep()
    assert world.board.healths == {0: layout.UP}
    assert world.changes == [("a", "up")]
    assert world.probes.asked == ["L1 a", "L2 a"]


async def test_l2_is_asked_only_while_l1_holds(world: World) -> None:
    world.probes.bad.add("L1")
    world.prober.watch([target()])
    for _ in range(2):
        await world.clock.tick()
    assert world.probes.asked == ["L1 a"] * 3
    assert world.changes == [("a", "down")]
    world.probes.bad.clear()
    await world.clock.tick()
    assert world.prober.health("a") is Health.DOWN  # rise: 2
    await world.clock.tick()
    assert world.prober.health("a") is Health.UP
    assert world.probes.asked[3:] == ["L1 a", "L2 a", "L1 a", "L2 a"]


async def test_one_failed_probe_ejects_nobody_and_asks_no_sooner(world: World) -> None:
    world.prober.watch([target()])
    await world.clock.asleep()
    world.probes.bad.add("L2")
    await world.clock.tick()
    assert world.board.healths == {0: layout.UP}
    assert world.clock.slept[-1] > 2
    await world.clock.tick()
    await world.clock.tick()
    assert world.board.healths == {0: layout.DOWN}
    assert [each.level for each in world.prober.last("a")] == ["L1", "L2"]


async def test_intervals_are_jittered_and_shorter_while_down(world: World) -> None:
    world.prober.watch([target("a"), target("b", 1)])
    await world.clock.asleep(2)
    for _ in range(10):
        await world.clock.tick()
    up = world.clock.slept[:]
    assert len(set(up)) == len(up)
    assert all(5.0 * JITTER[0] <= each <= 5.0 * JITTER[1] for each in up)
    world.probes.bad.add("L1")
    for _ in range(3):
        await world.clock.tick()
    assert all(1.0 * JITTER[0] <= each <= 1.0 * JITTER[1] for each in world.clock.slept[-2:])


async def test_a_new_snapshot_changes_nothing_for_who_is_still_in_it(world: World) -> None:
    world.prober.watch([target()])
    await world.clock.asleep()
    asked = list(world.probes.asked)
    world.prober.watch([target(), target("b", 1)])
    await world.clock.asleep(2)
    assert world.probes.asked == [*asked, "L1 b", "L2 b"]
    world.prober.watch([target("b", 1)])
    await asyncio.sleep(0)
    assert world.prober.health("a") is Health.UNKNOWN
    await world.clock.tick()
    assert world.probes.asked[-2:] == ["L1 b", "L2 b"]


async def test_another_policy_is_in_force_at_once_and_health_stays(world: World) -> None:
    world.prober.watch([target()])
    await world.clock.asleep()
    world.probes.asked.clear()
    world.prober.watch([target(policy=HealthPolicy())])
    assert world.prober.health("a") is Health.UP
    await world.clock.asleep(2)
    assert world.probes.asked == ["L1 a"]


async def test_what_the_board_knows_is_where_a_new_prober_begins(world: World) -> None:
    world.board.healths[0] = layout.UP
    world.probes.bad.add("L1")
    world.prober.watch([target()])
    await world.clock.asleep()
    assert world.prober.health("a") is Health.UP
    assert world.changes == []


async def test_at_most_one_probe_of_an_endpoint_is_under_way(world: World) -> None:
    world.prober.watch([target()])
    for _ in range(5):
        await world.clock.tick()
    assert world.probes.most == 1


async def test_a_trial_ends_when_all_are_up_and_accepted(world: World) -> None:
    refused = iter(["not yet", ""])

    def accept(monitor: Monitor) -> str:
        return next(refused, "")

    trial = asyncio.ensure_future(world.prober.trial([target(cell=-1)], seconds=60, accept=accept))
    await world.clock.asleep()
    assert not trial.done()
    world.clock._sleeping[0].set_result(None)
    monitors, good = await trial
    assert good
    assert world.board.healths == {}
    # It becomes a target: what the trial found is on the board at once.
    monitors[0].target = target("a", 4)
    world.prober.watch([target("a", 4)], monitors)
    assert world.board.healths == {4: layout.UP}


async def test_a_trial_that_runs_out_of_time_gives_its_evidence(world: World) -> None:
    world.probes.bad.add("L1")
    monitors, good = await world.prober.trial([target(cell=-1)], seconds=0.02)
    assert not good
    assert monitors[0].last["L1"].good is False
    assert world.board.healths == {}


# --- the probes themselves ------------------------------------------------------------------------


@pytest.fixture
async def served() -> AsyncIterator[int]:
    """A small application's port."""

    async def health(request: web.Request) -> web.Response:
        if request.path == "/long":
            return web.Response(body=b"x" * 200_000)
        if request.path == "/gone":
            return web.Response(status=503, text="déjà vu " * 100)
        if request.path == "/elsewhere":
            raise web.HTTPFound("/health")
        if request.path == "/stalls":
            await asyncio.sleep(60)
        return web.Response(text=request.headers["Host"])

    application = web.Application()
    application.router.add_get("/{tail:.*}", health)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    yield int(listener.getsockname()[1])
    await runner.cleanup()


@pytest.fixture
async def probes() -> AsyncIterator[NetworkProbes]:
    probes = NetworkProbes(time.monotonic)
    yield probes
    await probes.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def test_l1_connects(served: int, probes: NetworkProbes) -> None:
    good = await probes.tcp(target(port=served).endpoint, 5)
    assert good.good
    assert good.seconds >= 0
    bad = await probes.tcp(target(port=closed_port()).endpoint, 5)
    assert not bad.good
    assert bad.detail


async def test_l2_wants_its_status(served: int, probes: NetworkProbes) -> None:
    endpoint = target(port=served).endpoint

    async def ask(path: str, status: int = 200, seconds: float = 5.0) -> Result:
        return await probes.http(endpoint, HttpCheck(path=path, status=status), seconds, None)

    assert (await ask("/health")).body == f"127.0.0.1:{served}".encode()
    gone = await ask("/gone")
    assert (gone.good, gone.status, gone.detail) == (False, 503, "answered 503, expected 200")
    assert len(gone.excerpt.encode()) <= KEPT_BODY + 3
    assert (await ask("/gone", 503)).good
    assert (await ask("/elsewhere")).status == 302
    assert len((await ask("/long")).body) == 64 * 1024
    stalled = await ask("/stalls", seconds=0.05)
    assert (stalled.good, stalled.status) == (False, None)
    assert "no answer" in stalled.detail


async def test_whatever_answers_a_probe_never_raises(probes: NetworkProbes) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x00\xffnonsense\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    result = await probes.http(target(port=port).endpoint, HttpCheck(path="/"), 5, None)
    assert not result.good
    server.close()
    await server.wait_closed()
