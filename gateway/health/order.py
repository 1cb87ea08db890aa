"""Who waits for whom: a service's dependencies, and which of them are down. Pure.

For a color of a service, a dependency is what would answer it: the colors that carry traffic, and
the same color where it could serve, which a check then forces all along its way. It is down where
every endpoint of one of these pools is, unsettled where none has been seen up yet, doubtful where a
last probe failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.health.machine import Health

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gateway.config.snapshot import Color


@dataclass(frozen=True, slots=True)
class PoolSeen:
    """One pool's endpoints: their health as requests find it, and whether one is in doubt.

    One behind an open breaker is down. In doubt is one that is not down and failed its last probe,
    or whose breaker is not closed.
    ``probed``: anything is asked of them at all.
    """

    health: tuple[Health, ...]
    doubtful: bool = False
    probed: bool = True

    @property
    def down(self) -> bool:
        """No endpoint is left."""
        return bool(self.health) and all(each is Health.DOWN for each in self.health)

    @property
    def unsettled(self) -> bool:
        """None has been seen up, and one may still be."""
        return self.probed and not self.down and not any(each is Health.UP for each in self.health)


@dataclass(frozen=True, slots=True)
class ServiceSeen:
    """One service: its pools, and the colors that carry traffic."""

    pools: Mapping[Color, PoolSeen] = field(default_factory=dict)
    carrying: frozenset[Color] = frozenset()


@dataclass(frozen=True, slots=True)
class Below:
    """What is the matter with the services below one, near ones first."""

    down: tuple[str, ...] = ()
    unsettled: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()

    @property
    def clear(self) -> bool:
        """Whether a check can show anything about the service itself."""
        return not self.down and not self.unsettled


CLEAR = Below()


def names_below(service: str, depends: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield every service that one depends on, itself or through others, once, near ones first."""
    seen = {service}
    level = [service]
    while level:
        following: list[str] = []
        for name in level:
            for other in depends.get(name, ()):
                if other not in seen:
                    seen.add(other)
                    following.append(other)
                    yield other
        level = following


def below(color: Color, services: Iterable[tuple[str, ServiceSeen]]) -> Below:
    """Return what is the matter with the services below one color of another."""
    down, unsettled, doubtful = [], [], []
    for name, seen in services:
        pools = [
            pool
            for its, pool in seen.pools.items()
            if pool.health and (its in seen.carrying or (its == color and not pool.down))
        ]
        if any(pool.down for pool in pools):
            down.append(name)
        elif any(pool.unsettled for pool in pools):
            unsettled.append(name)
        if any(pool.doubtful for pool in pools):
            doubtful.append(name)
    return Below(tuple(down), tuple(unsettled), tuple(doubtful))
