"""The prober: keeps every endpoint's health on the board, at a jittered interval.

One task an endpoint, so that at most one probe of it is under way, level after level: L2 is asked
only while L1 holds, and deeper levels take their place behind it. What is known is keyed by the
endpoint's id: a new snapshot changes nothing for endpoints that are still in it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from gateway.health.machine import UNSEEN, Health, Level, combined

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from gateway.config.snapshot import Endpoint
    from gateway.health.policy import HealthPolicy
    from gateway.health.probes import Probes, Result

#: An interval is drawn from this share of it, so that endpoints are not asked in step.
JITTER = (0.8, 1.2)

#: Seconds between two probes of an endpoint on trial at most: somebody waits for it.
TRIAL_INTERVAL = 0.5


class Starter(Protocol):
    """Starts named tasks and keeps them referenced (``gateway.control.tasks.Tasks``)."""

    def start(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run ``coroutine`` in the background."""


class HealthCells(Protocol):
    """The board's side (``gateway.board.board.Board``)."""

    def health(self, cell: int) -> int:
        """Return an endpoint's health word."""

    def set_health(self, cell: int, health: int, now: int) -> bool:
        """Set an endpoint's health word; tells whether it changed."""


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint to keep watch on."""

    endpoint: Endpoint
    policy: HealthPolicy


@dataclass(slots=True)
class Monitor:
    """What is known of one endpoint."""

    target: Target
    l1: Level = UNSEEN
    l2: Level = UNSEEN
    last: dict[str, Result] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    @property
    def health(self) -> Health:
        """The endpoint's health over all levels that its policy asks for."""
        policy = self.target.policy
        levels = [self.l1] if policy.tcp else []
        if policy.http is not None:
            levels.append(self.l2)
        return combined(levels)

    def took(self, result: Result) -> None:
        """Take one result in."""
        policy = self.target.policy
        if result.level == "L1":
            self.l1 = self.l1.after(result.good, rise=policy.rise, fall=policy.fall)
            if self.l1.health is Health.DOWN:
                # Not asked while L1 fails; what it said before means nothing after.
                self.l2 = UNSEEN
        else:
            self.l2 = self.l2.after(result.good, rise=policy.rise, fall=policy.fall)
        self.last[result.level] = result


async def probe_once(monitor: Monitor, probes: Probes) -> None:
    """Ask each level of one endpoint once, the next only where the one before held."""
    policy, endpoint = monitor.target.policy, monitor.target.endpoint
    if policy.tcp:
        result = await probes.tcp(endpoint, policy.timeout)
        monitor.took(result)
        if not result.good:
            return
    if policy.http is not None:
        monitor.took(await probes.http(endpoint, policy.http, policy.timeout, policy.tls_ca))


class Prober:
    """Watches the endpoints that it is told of and writes their health to the board.

    ``changed`` is called with an endpoint's id and its new health. ``now`` is CLOCK_MONOTONIC in
    nanoseconds.
    """

    def __init__(
        self,
        probes: Probes,
        board: HealthCells,
        tasks: Starter,
        *,
        random: random.Random,
        now: Callable[[], int],
        changed: Callable[[Endpoint, Health], None] = lambda endpoint, health: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._probes = probes
        self._board = board
        self._tasks = tasks
        self._random = random
        self._now = now
        self._changed = changed
        self._sleep = sleep
        self._monitors: dict[str, Monitor] = {}

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
        for name, target in wanted.items():
            monitor = self._monitors.get(name)
            if monitor is None:
                monitor = known.get(name) or self._inherited(target)
                self._monitors[name] = monitor
            elif monitor.target == target:
                continue
            monitor.target = target
            self._write(monitor)
            self._stop(monitor)
            monitor.task = self._tasks.start(self._keep(monitor), name=f"probe {name}")

    def _inherited(self, target: Target) -> Monitor:
        level = Level(Health(self._board.health(target.endpoint.cell)))
        return Monitor(target, level, level)

    @staticmethod
    def _stop(monitor: Monitor) -> None:
        if monitor.task is not None:
            monitor.task.cancel()
            monitor.task = None

    async def _keep(self, monitor: Monitor) -> None:
        while True:
            before = monitor.health
            await probe_once(monitor, self._probes)
            if monitor.health is not before:
                self._write(monitor)
                self._changed(monitor.target.endpoint, monitor.health)
            policy = monitor.target.policy
            up = monitor.health is Health.UP
            await self._sleep(self._jittered(policy.interval if up else policy.interval_down))

    def _jittered(self, interval: float) -> float:
        return interval * self._random.uniform(*JITTER)

    def _write(self, monitor: Monitor) -> None:
        cell = monitor.target.endpoint.cell
        self._board.set_health(cell, monitor.health.value, self._now())

    # --- what is known --------------------------------------------------------------------------

    def health(self, endpoint: str) -> Health:
        """Return an endpoint's health, unknown for one that is not watched."""
        monitor = self._monitors.get(endpoint)
        return monitor.health if monitor is not None else Health.UNKNOWN

    def last(self, endpoint: str) -> list[Result]:
        """Return an endpoint's last result on each level, shallow first."""
        monitor = self._monitors.get(endpoint)
        return evidence(monitor) if monitor is not None else []

    # --- trials ---------------------------------------------------------------------------------

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
        board.
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
    return [monitor.last[level] for level in sorted(monitor.last)]
