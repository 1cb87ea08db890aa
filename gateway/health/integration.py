"""Integration checks (L4): one sequence of requests a pool, through the gateway, in order.

A pool's check runs only while an endpoint of it holds the levels below, and only while the services
that it depends on are up: below first, so that a failure is shown where it is. What a run shows
while something below is down, or about to be, counts against nobody.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.health.machine import UNSEEN, Health, Level
from gateway.health.monitor import PoolCheck, grouped
from gateway.health.order import CLEAR, Below, PoolSeen, ServiceSeen, below, names_below
from gateway.health.seams import AllOpen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.config.snapshot import Color
    from gateway.health.answers import Request
    from gateway.health.door import Door
    from gateway.health.monitor import Monitor
    from gateway.health.policy import HealthPolicy, IntegrationCheck
    from gateway.health.probes import Probes, Result
    from gateway.health.seams import HealthCells, Sides, Starter

#: Seconds between two looks at whether a check may be run, at most.
LOOK = 0.25


class Integration:
    """Runs pools' checks. ``moved`` is called with a pool whose level or waiting is another."""

    def __init__(
        self,
        probes: Probes,
        board: HealthCells,
        tasks: Starter,
        *,
        jittered: Callable[[float], float],
        sleep: Callable[[float], Awaitable[None]],
        moved: Callable[[PoolCheck], None],
        heard: Callable[[str, Color, Result], None],
    ) -> None:
        self._probes = probes
        self._board = board
        self._tasks = tasks
        self._jittered = jittered
        self._sleep = sleep
        self._moved = moved
        self._heard = heard
        self._checks: dict[tuple[str, Color], PoolCheck] = {}
        self._pools: dict[str, dict[Color, list[Monitor]]] = {}
        self._depends: dict[str, tuple[str, ...]] = {}
        #: Where requests go in; None: there is no way in, and nothing is run.
        self.door: Door | None = None
        self.sides: Sides = AllOpen()

    def watch(self, monitors: dict[str, Monitor]) -> None:
        """Check exactly the pools of these endpoints from now on.

        A pool is another one with another generation: nothing is known of it then.
        """
        wanted = dict(grouped(monitors))
        self._pools, self._depends = {}, {}
        for (service, color), members in wanted.items():
            self._pools.setdefault(service, {})[color] = members
            self._depends[service] = members[0].target.policy.depends_on
        for key in list(self._checks):
            if key not in wanted or wanted[key][0].target.policy.integration is None:
                self._stop(self._checks.pop(key))
        for members in wanted.values():
            check = self._check_of(members)
            if check is not None:
                check.closed = self.sides.closed(check.service, check.color)
            for member in members:
                member.pool = check

    def _check_of(self, members: list[Monitor]) -> PoolCheck | None:
        """Return a pool's check, begun anew where it is another one than before."""
        target = members[0].target
        if target.policy.integration is None:
            return None
        key = target.service, target.color
        check = self._checks.get(key)
        if check is None or check.generation != target.generation:
            if check is not None:
                self._stop(check)
            check = PoolCheck(*key, target.generation, target.policy, level=_inherited(members))
            self._checks[key] = check
        check.members = members
        if check.task is None or check.policy != target.policy:
            if _asked(check.policy) != _asked(target.policy):
                check.level, check.last = UNSEEN, None
            check.policy = target.policy
            self._stop(check)
            check.task = self._tasks.start(self._keep(check), name=f"probe {check.name}")
        return check

    @staticmethod
    def _stop(check: PoolCheck) -> None:
        if check.task is not None:
            check.task.cancel()
            check.task = None

    # --- one pool ---------------------------------------------------------------------------------

    async def _keep(self, check: PoolCheck) -> None:
        while True:
            ran = await self._round(check)
            await self._pause(check, ran=ran)

    async def _pause(self, check: PoolCheck, *, ran: bool) -> None:
        """Wait for the next run; no longer, once what the last one had shown is void."""
        policy, integration = check.policy, check.policy.integration
        assert integration is not None
        up = check.level.health is Health.UP
        if not ran:
            left = min(policy.interval_down, LOOK)
        else:
            left = integration.interval if up else policy.interval_down
        left = self._jittered(left)
        while left > 0 and (not (ran and up) or check.level.health is Health.UP):
            step = min(left, policy.interval_down)
            await self._sleep(step)
            left -= step

    async def _round(self, check: PoolCheck) -> bool:
        """Run a pool's check where it may be run; tell whether it was."""
        if self._look(check):
            self.reconsider()
        integration = check.policy.integration
        if self.door is None or integration is None or not check.ready or check.closed:
            return False
        if not self.below(check.service, check.color).clear:
            return False
        result = await self._run(check, integration, self.door)
        check.took(result)
        self._heard(check.service, check.color, result)
        self._moved(check)
        self.reconsider()
        return True

    async def _run(self, check: PoolCheck, integration: IntegrationCheck, door: Door) -> Result:
        result = await self._probes.integration(
            replace(door, service=check.service), integration, check.color
        )
        if result.good or not result.counts:
            return result
        under = self.below(check.service, check.color)
        suspects = under.down or under.doubtful
        if suspects or not check.ready:
            # Something below is failing too and not yet known to be down: that will be found where
            # it is, or it will not be there the next time.
            why = f" (not counted: {', '.join(suspects) or 'a level below'} is failing)"
            return _uncounted(result, why)
        return result

    def reconsider(self) -> None:
        """Look at every pool again: an endpoint's health, a breaker or a side has moved.

        What one pool comes to may concern the ones above it; there are no circles.
        """
        for _ in range(len(self._checks) + 1):
            moved = [check for check in self._checks.values() if self._look(check)]
            if not moved:
                return

    def _look(self, check: PoolCheck) -> bool:
        """Note whether a pool is closed, what it waits for and what its level still says; tell
        whether any of that moved.
        """
        before = check.closed, check.waiting, check.level
        check.closed = self.sides.closed(check.service, check.color)
        check.waiting = self.below(check.service, check.color).down
        if not check.ready:
            # As with every level: what it said before means nothing after one below has failed.
            check.level = UNSEEN
        elif check.waiting:
            check.held_back()
        if (check.closed, check.waiting, check.level) == before:
            return False
        self._moved(check)
        return True

    # --- order ------------------------------------------------------------------------------------

    def below(self, service: str, color: Color) -> Below:
        """Return what is the matter with the services that one depends on."""
        if not self._depends.get(service):
            return CLEAR
        names = names_below(service, self._depends)
        return below(color, [(name, self._seen(name)) for name in names if name in self._pools])

    def _seen(self, service: str) -> ServiceSeen:
        pools = {
            color: PoolSeen(
                tuple(self._answers(member) for member in members),
                doubtful=any(self._doubtful(member) for member in members),
                probed=bool(members[0].target.policy.levels),
            )
            for color, members in self._pools[service].items()
            if not self.sides.closed(service, color)
        }
        return ServiceSeen(pools, self.sides.carrying(service))

    def _answers(self, member: Monitor) -> Health:
        """Return an endpoint's health as requests find it: none gets past an open breaker."""
        serves = self._board.serves(member.target.endpoint.cell)
        return member.health if serves else Health.DOWN

    def _doubtful(self, member: Monitor) -> bool:
        cell = member.target.endpoint.cell
        return member.doubtful or self._board.breaker(cell) != layout.BREAKER_CLOSED

    def check(self, service: str, color: Color) -> PoolCheck | None:
        """Return what is known of a pool's check, None where it has none."""
        return self._checks.get((service, color))


def _asked(policy: HealthPolicy) -> tuple[Request, ...]:
    return policy.integration.requests if policy.integration is not None else ()


def _inherited(members: list[Monitor]) -> Level:
    """Return the level of a check whose endpoints the board knew (control was restarted)."""
    known = any(member.health is Health.UP and not member.last for member in members)
    return Level(Health.UP) if known else UNSEEN


def _uncounted(result: Result, why: str) -> Result:
    return replace(result, counts=False, detail=result.detail + why)
