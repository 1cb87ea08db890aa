"""Platform mode: from facts about services to their states and one word for all of them. Pure.

A service is ``down`` where no endpoint of the pools that carry its traffic can serve, or while it
is in maintenance; ``degraded`` where it can serve, but a service that it depends on is down, or it
was answered for by a fallback lately; else ``up``. The platform is ``read_only`` when every
critical service is down (without critical ones: when all are), ``full`` when all are up, else
``degraded``.

Each worker computes this for itself from the board, so that it holds with control dead, and
control computes it for whoever watches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gateway.config.snapshot import BUCKETS, COLORS, Color, other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gateway.config.snapshot import ServiceTraffic, Topology, Traffic

State = Literal["up", "degraded", "down"]
Mode = Literal["full", "degraded", "read_only"]

#: In the order of their numbers in metrics.
STATES: tuple[State, ...] = ("up", "degraded", "down")
MODES: tuple[Mode, ...] = ("full", "degraded", "read_only")

#: Seconds that a fallback's answer makes its service degraded for. With what probes need to see a
#: backend's return it must stay under the ten seconds in which the mode is ``full`` again.
LATELY = 3.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one service now. ``serves``: an endpoint that carries traffic can."""

    name: str
    critical: bool
    depends_on: tuple[str, ...]
    serves: bool
    maintenance: bool = False
    fell_back: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """The mode and each service's state, in the order of the services."""

    mode: Mode
    states: Mapping[str, State]


def states(facts: Iterable[Facts]) -> dict[str, State]:
    """Return each service's state; dependencies count through others, circles end."""
    services = list(facts)
    down = {each.name for each in services if each.maintenance or not each.serves}
    limited = _dependents(services, down) if down else set()
    found: dict[str, State] = {}
    for each in services:
        if each.name in down:
            found[each.name] = "down"
        else:
            degraded = each.fell_back or each.name in limited
            found[each.name] = "degraded" if degraded else "up"
    return found


def _dependents(services: Iterable[Facts], down: Iterable[str]) -> set[str]:
    """Return the services that depend on one that is down, each looked at once."""
    callers: dict[str, list[str]] = {}
    for each in services:
        for dependency in each.depends_on:
            callers.setdefault(dependency, []).append(each.name)
    found: set[str] = set()
    ahead = list(down)
    while ahead:
        for caller in callers.get(ahead.pop(), ()):
            if caller not in found:
                found.add(caller)
                ahead.append(caller)
    return found


def mode(facts: Iterable[Facts], found: Mapping[str, State]) -> Mode:
    """Return the platform's mode from the services' states."""
    services = list(facts)
    counting = [each for each in services if each.critical] or services
    if counting and all(found[each.name] == "down" for each in counting):
        return "read_only"
    return "full" if all(state == "up" for state in found.values()) else "degraded"


def picture(facts: Iterable[Facts]) -> Picture:
    """Return mode and states."""
    services = list(facts)
    found = states(services)
    return Picture(mode(services, found), found)


def carrying(
    traffic: ServiceTraffic, filled: frozenset[Color], *, forced: bool
) -> tuple[Color, ...]:
    """Return the colors that serve a service: those with a share of it that are open and filled.

    Where none of them is, the other one stands in, as in the data plane. ``forced``: everything
    goes to stable.
    """
    weight = 0 if forced else traffic.weight
    open_ = [color for color in COLORS if color in filled and color not in traffic.closed]
    shares = {traffic.stable: weight < BUCKETS, other(traffic.stable): weight > 0}
    return tuple(color for color in open_ if shares[color]) or tuple(open_)


@dataclass(frozen=True, slots=True)
class Watched:
    """One service as it is looked at: its row on the board, the cells that carry its traffic."""

    name: str
    row: int
    critical: bool
    depends_on: tuple[str, ...]
    maintenance: bool
    cells: tuple[int, ...]


def watched(topology: Topology, traffic: Traffic, *, forced: bool) -> tuple[Watched, ...]:
    """Return what to look at for a snapshot."""
    cells: dict[tuple[str, Color], tuple[int, ...]] = {
        (pool.service, pool.color): tuple(endpoint.cell for endpoint in pool.endpoints)
        for pool in topology.pools
    }
    moved = {each.service: each for each in traffic.services}
    found = []
    for service in topology.services:
        name, own = service.name, moved.get(service.name)
        filled = frozenset(color for color in COLORS if cells.get((name, color)))
        colors = tuple(filled) if own is None else carrying(own, filled, forced=forced)
        found.append(
            Watched(
                name=name,
                row=service.row,
                critical=service.critical,
                depends_on=service.depends_on,
                maintenance=own is not None and own.maintenance is not None,
                cells=tuple(cell for color in colors for cell in cells[name, color]),
            )
        )
    return tuple(found)


class Lately:
    """Which rows have counted a fallback within ``LATELY`` seconds, from counters that grow."""

    __slots__ = ("_counts", "_times")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._times: dict[int, float] = {}

    def look(self, row: int, count: int, now: float) -> bool:
        """Take a row's counter; tell whether it has grown lately. The first look is the base."""
        before = self._counts.get(row, count)
        self._counts[row] = count
        if count > before:
            self._times[row] = now
        return now - self._times.get(row, -math.inf) < LATELY


class Platform:
    """Looks at a snapshot's services from time to time; keeps what must be remembered."""

    __slots__ = ("_lately", "_watched")

    def __init__(self) -> None:
        self._watched: tuple[Watched, ...] = ()
        self._lately = Lately()

    def serve(self, topology: Topology, traffic: Traffic, *, forced: bool) -> None:
        """Look at this snapshot from now on."""
        self._watched = watched(topology, traffic, forced=forced)

    def look(
        self, can_serve: Callable[[int], bool], fallbacks: Callable[[int], int], now: float
    ) -> Picture:
        """Return the picture of now.

        ``can_serve`` tells whether a cell's endpoint may serve, ``fallbacks`` how many answers of a
        row's service were fallbacks so far; ``now`` is monotonic seconds.
        """
        return picture(
            Facts(
                name=each.name,
                critical=each.critical,
                depends_on=each.depends_on,
                serves=any(map(can_serve, each.cells)),
                maintenance=each.maintenance,
                fell_back=self._lately.look(each.row, fallbacks(each.row), now),
            )
            for each in self._watched
        )
