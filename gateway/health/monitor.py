"""What is known of one endpoint, and of the integration check that its pool shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.health.machine import UNSEEN, Health, Level, combined

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from gateway.config.snapshot import Color, Endpoint
    from gateway.health.policy import HealthPolicy
    from gateway.health.probes import Result


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint to keep watch on, and the pool that it is in."""

    endpoint: Endpoint
    policy: HealthPolicy
    service: str = ""
    color: Color = "blue"
    generation: int = 0


@dataclass(slots=True)
class PoolCheck:
    """The integration check (L4) of one pool: what is known, and what it waits for."""

    service: str
    color: Color
    generation: int
    policy: HealthPolicy
    members: list[Monitor] = field(default_factory=list)
    level: Level = UNSEEN
    last: Result | None = None
    #: Services below that are down; none of what a check would show is this pool's own then.
    waiting: tuple[str, ...] = ()
    #: Drained or isolated: no request gets there, so the check neither runs nor counts.
    closed: bool = False
    #: What was last told of ``waiting``.
    told: tuple[str, ...] = ()
    task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """How the pool is called: service, color, generation."""
        return f"{self.service}-{self.color}-{self.generation}"

    @property
    def ready(self) -> bool:
        """Whether the levels below hold at one endpoint at least."""
        return any(member.own is Health.UP for member in self.members)

    def took(self, result: Result) -> None:
        """Take the result of one run in; ``counts`` tells whether it moves the level."""
        self.last = result
        if result.counts:
            policy = self.policy
            self.level = self.level.after(result.good, rise=policy.rise, fall=policy.fall)

    def held_back(self) -> None:
        """Note that it cannot be run: what it said against the pool no longer stands."""
        if self.level.health is Health.DOWN:
            self.level = UNSEEN
        else:
            self.level = Level(self.level.health)


@dataclass(slots=True)
class Monitor:
    """What is known of one endpoint."""

    target: Target
    levels: dict[str, Level] = field(default_factory=dict)
    last: dict[str, Result] = field(default_factory=dict)
    #: Passes in a row of the level that a breaker listens to (``HealthPolicy.counted``).
    passes: int = 0
    pool: PoolCheck | None = None
    health: Health = Health.UNKNOWN
    task: asyncio.Task[None] | None = None

    @property
    def own(self) -> Health:
        """The endpoint's health over the levels that are asked of itself."""
        return combined([self.level(name) for name in self.target.policy.levels])

    def level(self, name: str) -> Level:
        """Return one level's state."""
        if name == "L4" and self.pool is not None:
            return self.pool.level
        return self.levels.get(name, UNSEEN)

    @property
    def level_names(self) -> tuple[str, ...]:
        """All levels that count for it, shallow first."""
        deepest = ("L4",) if self.pool is not None and not self.pool.closed else ()
        return (*self.target.policy.levels, *deepest)

    def took(self, result: Result) -> None:
        """Take the result of one probe in."""
        policy = self.target.policy
        level = self.level(result.level).after(result.good, rise=policy.rise, fall=policy.fall)
        self.levels[result.level] = level
        self.last[result.level] = result
        if level.health is Health.DOWN:
            # Not asked while this one fails; what they said before means nothing after.
            for deeper in policy.levels[policy.levels.index(result.level) + 1 :]:
                self.levels[deeper] = UNSEEN
        if result.level == policy.counted:
            self.passes = self.passes + 1 if result.good else 0
        elif result.level < policy.counted and not result.good:
            self.passes = 0
        self.settle()

    def retarget(self, target: Target) -> None:
        """Take another policy: what a level that is gone, or is another check now, said is void."""
        old, new = self.target.policy, target.policy
        self.target = target
        for level in old.levels:
            if old.check_of(level) != new.check_of(level):
                self.levels.pop(level, None)
                self.last.pop(level, None)
        if old.counted != new.counted or old.check_of(new.counted) != new.check_of(new.counted):
            self.passes = 0

    def settle(self) -> None:
        """Work the endpoint's health out anew.

        Once down, it is down until all levels are up: a level that begins again as unknown makes
        nobody healthier. Where its pool waits for a dependency, though, it is not failing itself.
        """
        health = combined([self.level(name) for name in self.level_names])
        if health is Health.UNKNOWN and self.health is Health.DOWN and not self._excused:
            return
        self.health = health

    @property
    def _excused(self) -> bool:
        return self.pool is not None and bool(self.pool.waiting) and self.own is Health.UP

    def inherit(self, health: Health) -> None:
        """Begin with what the board knows: control was restarted."""
        self.levels = {name: Level(health) for name in self.target.policy.levels}
        self.health = health

    @property
    def doubtful(self) -> bool:
        """Whether it is not down, but a level's last results speak against it."""
        return self.health is not Health.DOWN and any(
            self.level(name).streak for name in self.level_names
        )

    def results(self) -> list[Result]:
        """Return the last result on each level, shallow first."""
        found = [self.last[name] for name in sorted(self.last)]
        if self.pool is not None and self.pool.last is not None:
            found.append(self.pool.last)
        return found


@dataclass(frozen=True, slots=True)
class Change:
    """An endpoint whose health is another than before, and why."""

    target: Target
    health: Health
    #: The level that failed (down) or that was passed last (up); empty where none has a say.
    level: str = ""
    result: Result | None = None
    #: Services below that are down.
    waiting: tuple[str, ...] = ()


def change_of(monitor: Monitor) -> Change:
    """Say what made an endpoint's health what it is."""
    waiting = monitor.pool.waiting if monitor.pool is not None else ()
    names = monitor.level_names
    if monitor.health is Health.DOWN:
        names = tuple(name for name in names if monitor.level(name).health is Health.DOWN)[:1]
    level = names[-1] if names else ""
    result = next((each for each in monitor.results() if each.level == level), None)
    return Change(monitor.target, monitor.health, level, result, waiting)


def grouped(monitors: dict[str, Monitor]) -> Iterator[tuple[tuple[str, Color], list[Monitor]]]:
    """Yield each pool's monitors."""
    pools: dict[tuple[str, Color], list[Monitor]] = {}
    for monitor in monitors.values():
        target = monitor.target
        pools.setdefault((target.service, target.color), []).append(monitor)
    yield from pools.items()
