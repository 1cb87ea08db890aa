"""What a rate limit's keys say about each other. Pure; works like ``cross``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.faults import Fault
from gateway.config.scalars import parse_rate
from gateway.config.snapshot import LONGEST_OWED, seconds_owed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import Place

_DAY = 86_400


def limit_faults(data: Mapping[str, object]) -> Iterator[Fault]:
    """Yield what is wrong with the rate limits of all routes and of each."""
    limits = data.get("limits")
    if isinstance(limits, dict):
        yield from _rates(("limits", "rate"), limits.get("rate"))
    routes = data.get("routes")
    if isinstance(routes, (tuple, list)):
        for at, route in enumerate(routes):
            if isinstance(route, dict):
                yield from _rates(("routes", at, "rate_limit"), route.get("rate_limit"))


def _rates(place: Place, found: object) -> Iterator[Fault]:
    if isinstance(found, dict):
        yield from _rate(place, found)
    elif isinstance(found, (tuple, list)):
        for at, each in enumerate(found):
            if isinstance(each, dict):
                yield from _rate((*place, at), each)


def _rate(place: Place, limit: Mapping[str, object]) -> Iterator[Fault]:
    """A burst is owed: at its rate it has to be paid off while somebody is there to see it."""
    burst = limit.get("burst", 0)
    try:
        rate = parse_rate(limit.get("rate"))
    except ValueError:
        return  # the types have said so
    if not isinstance(burst, int) or isinstance(burst, bool) or burst < 0:
        return
    owed = seconds_owed(rate.count, rate.period, burst)
    if owed > LONGEST_OWED:
        most = int(LONGEST_OWED * rate.count / rate.period) - 2
        yield Fault(
            (*place, "burst"),
            f"at {limit['rate']} a burst of {burst} takes {owed // _DAY:.0f} days to be there "
            f"again, expected at most {LONGEST_OWED // _DAY} days: a burst of {most}",
        )
