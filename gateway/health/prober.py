"""The prober: keeps every endpoint's health on the board, at a jittered interval.

One task an endpoint, so that at most one probe of it is under way, level after level: a level is
asked only while the one below holds. What is known is keyed by the endpoint's id: a new snapshot
changes nothing for endpoints that are still in it. The level above all, L4, is a pool's
(``gateway.health.integration``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.health.integration import Integration
from gateway.health.machine import Health
from gateway.health.monitor import Monitor, Target, change_of
from gateway.health.seams import Nobody

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable

    from gateway.health.monitor import PoolCheck
    from gateway.health.probes import Probes, Result
    from gateway.health.seams import HealthCells, Listener, Starter

__all__ = ["JITTER", "TRIAL_INTERVAL", "Monitor", "Prober", "Target", "evidence", "probe_once"]

#: An interval is drawn from this share of it, so that endpoints are not asked in step.
JITTER = (0.8, 1.2)

#: Seconds between two probes of an endpoint on trial at most: somebody waits for it.
TRIAL_INTERVAL = 0.5

#: Seconds that are no time at all: what is left of an interval that has passed.
_NOTHING = 1e-6


async def probe_once(
    monitor: Monitor, probes: Probes, due: Callable[[str], bool] = lambda level: True
) -> list[Result]:
    """Ask each level of one endpoint that is due, while those below held when last asked."""
    found = []
    for level in monitor.target.policy.levels:
        if due(level):
            result = await _ask(monitor, probes, level)
            monitor.took(result)
            found.append(result)
        last = monitor.last.get(level)
        if last is None or not last.good:
            break
    return found


async def _ask(monitor: Monitor, probes: Probes, level: str) -> Result:
    policy, endpoint = monitor.target.policy, monitor.target.endpoint
    seconds = policy.timeout_of(level)
    if level == "L1":
        return await probes.tcp(endpoint, seconds)
    if level == "L2":
        assert policy.http is not None
        return await probes.http(endpoint, policy.http, seconds, policy.tls_ca)
    assert policy.business is not None
    return await probes.business(endpoint, policy.business.request, seconds, policy.tls_ca)


class Prober:
    """Watches the endpoints that it is told of and writes their health to the board.

    ``now`` is CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(
        self,
        probes: Probes,
        board: HealthCells,
        tasks: Starter,
        *,
        random: random.Random,
        now: Callable[[], int],
        listener: Listener | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._probes = probes
        self._board = board
        self._tasks = tasks
        self._random = random
        self._now = now
        self._listener = listener or Nobody()
        self._sleep = sleep
        self._monitors: dict[str, Monitor] = {}
        self.integration = Integration(
            probes,
            board,
            tasks,
            jittered=self._jittered,
            sleep=sleep,
            moved=self._pool_moved,
            heard=self._listener.heard,
        )

    def watch(self, targets: Iterable[Target], seeds: Iterable[Monitor] = ()) -> None:
        """Watch exactly these endpoints from now on.

        ``seeds`` are monitors of trials (see ``trial``) whose endpoints have become targets: what
        they know is kept, and is on the board when this returns. An endpoint that the board knows
        the health of (control was restarted) begins with that.
        """
        wanted = {target.endpoint.id: target for target in targets}
        known = {monitor.target.endpoint.id: monitor for monitor in seeds}
        for gone in self._monitors.keys() - wanted.keys():
            self._stop(self._monitors.pop(gone))
        begin, former = [], {}
        for name, target in wanted.items():
            monitor = self._monitors.get(name)
            if monitor is None:
                monitor = known.get(name) or self._inherited(target)
                self._monitors[name] = monitor
                begin.append(monitor)
            elif (monitor.target.endpoint, monitor.target.policy) != (
                target.endpoint,
                target.policy,
            ):
                begin.append(monitor)
                former[name] = monitor.health
            monitor.retarget(target)
        self.integration.watch(self._monitors)
        for monitor in begin:
            name = monitor.target.endpoint.id
            monitor.settle()
            self._write(monitor)
            self._settled(monitor, former.get(name, monitor.health))
            self._stop(monitor)
            monitor.task = self._tasks.start(self._keep(monitor), name=f"probe {name}")
        self.integration.reconsider()

    def _inherited(self, target: Target) -> Monitor:
        monitor = Monitor(target)
        monitor.inherit(Health(self._board.health(target.endpoint.cell)))
        return monitor

    @staticmethod
    def _stop(monitor: Monitor) -> None:
        if monitor.task is not None:
            monitor.task.cancel()
            monitor.task = None

    def hasten(self, endpoint: str) -> None:
        """Ask an endpoint now: its breaker has opened, and passes could close it early."""
        monitor = self._monitors.get(endpoint)
        if monitor is not None and monitor.task is not None:
            self._stop(monitor)
            monitor.task = self._tasks.start(self._keep(monitor), name=f"probe {endpoint}")

    # --- one endpoint -----------------------------------------------------------------------------

    async def _keep(self, monitor: Monitor) -> None:
        left = dict.fromkeys(monitor.target.policy.levels, 0.0)
        while left:
            await self._round(monitor, left)
            pause = min(left.values())
            await self._sleep(self._jittered(pause))
            # By the interval, not by its jitter: levels of one interval stay in step.
            for level in left:
                left[level] -= pause

    async def _round(self, monitor: Monitor, left: dict[str, float]) -> None:
        """Ask the levels that are due; leave in ``left`` the seconds until each is again."""
        before, own, passes = monitor.health, monitor.own, monitor.passes
        policy = monitor.target.policy
        found = await probe_once(monitor, self._probes, lambda level: left[level] <= _NOTHING)
        for result in found:
            left[result.level] = policy.interval_of(result.level)
            self._listener.heard(monitor.target.service, monitor.target.color, result)
        if monitor.own is not Health.UP or not self._board.serves(monitor.target.endpoint.cell):
            # An open breaker waits for passes, too: its endpoint may be back before it was down.
            # All levels in each round: coming back takes ``rise`` rounds, not that for each level.
            left.update(dict.fromkeys(left, policy.interval_down))
        for level, under in zip(policy.levels[1:], policy.levels, strict=False):
            if left[level] <= _NOTHING:  # the one below failed: due when that is asked again
                left[level] = left[under]
        if monitor.passes != passes:
            self._board.set_passes(monitor.target.endpoint.cell, monitor.passes)
        self._settled(monitor, before)
        if (monitor.health, monitor.own) != (before, own):
            self.integration.reconsider()

    def _settled(self, monitor: Monitor, before: Health) -> None:
        if monitor.health is not before:
            self._write(monitor)
            self._listener.changed(change_of(monitor))

    def _pool_moved(self, check: PoolCheck) -> None:
        """Bring a pool's level to its endpoints."""
        for monitor in check.members:
            before = monitor.health
            monitor.settle()
            self._settled(monitor, before)
        if check.told != check.waiting:
            check.told = check.waiting
            self._listener.waits(check)

    def _jittered(self, interval: float) -> float:
        return interval * self._random.uniform(*JITTER)

    def _write(self, monitor: Monitor) -> None:
        cell = monitor.target.endpoint.cell
        self._board.set_health(cell, monitor.health.value, self._now())
        self._board.set_passes(cell, monitor.passes)

    # --- what is known ----------------------------------------------------------------------------

    def monitor(self, endpoint: str) -> Monitor | None:
        """Return what is known of an endpoint, None for one that is not watched."""
        return self._monitors.get(endpoint)

    def health(self, endpoint: str) -> Health:
        """Return an endpoint's health, unknown for one that is not watched."""
        monitor = self._monitors.get(endpoint)
        return monitor.health if monitor is not None else Health.UNKNOWN

    def last(self, endpoint: str) -> list[Result]:
        """Return an endpoint's last result on each level, shallow first."""
        monitor = self._monitors.get(endpoint)
        return evidence(monitor) if monitor is not None else []

    # --- trials -----------------------------------------------------------------------------------

    async def trial(
        self,
        targets: Iterable[Target],
        *,
        seconds: float,
        accept: Callable[[Monitor], str] = lambda monitor: "",
    ) -> tuple[list[Monitor], bool]:
        """Probe endpoints that serve nothing yet until all are up, for at most ``seconds``.

        ``accept`` says what is wrong with an endpoint that is up otherwise (``""``: nothing).
        Returns what is known of each and whether all were up and accepted. Nothing of it is on the
        board. L4 is not asked: the gateway does not know the way to them yet.
        """
        monitors = [Monitor(target) for target in targets]
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self._try(monitor, accept) for monitor in monitors))
        except TimeoutError:
            return monitors, False
        return monitors, True

    async def _try(self, monitor: Monitor, accept: Callable[[Monitor], str]) -> None:
        while True:
            await probe_once(monitor, self._probes)
            if monitor.health is Health.UP and not accept(monitor):
                return
            interval = min(monitor.target.policy.interval_down, TRIAL_INTERVAL)
            await self._sleep(self._jittered(interval))


def evidence(monitor: Monitor) -> list[Result]:
    """Return a monitor's last results, shallow first."""
    return monitor.results()
