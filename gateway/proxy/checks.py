"""Which checks a route's guard has. Their order, and why it is that, is in ``guard``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.policy.cors import CorsRules
from gateway.proxy.auth import AddressLists, AuthCounts, auth_check, build_schemes
from gateway.proxy.crossorigin import CorsFields, CorsPreflight
from gateway.proxy.guard import RouteGuard
from gateway.proxy.limiting import buckets_of, limit_checks, limiter_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.config.snapshot import AuthScheme, RateLimit, Route, Topology
    from gateway.policy.limit import LimiterTable
    from gateway.proxy.auth import KeyRing, Scheme
    from gateway.proxy.guard import Check
    from gateway.proxy.limiting import LimitCheck


class Limiters:
    """Makes routes' limits; ``rates`` are those that all routes share."""

    def __init__(self, table: LimiterTable, slab: int, rates: Sequence[RateLimit]) -> None:
        self._table = table
        self._slab = slab
        self._common = buckets_of(table, "", rates)

    def of(self, route: Route, row: int) -> tuple[LimitCheck | None, LimitCheck | None]:
        """Return what is asked before and after authentication. ``row`` is where it is counted."""
        where = f"{route.host}{route.path}"
        return limit_checks(self._table, self._slab, row, self._common, where, route.rate_limits)


class Guards:
    """What the guards of one snapshot's routes are made of."""

    def __init__(
        self,
        cors: Mapping[str, CorsRules],
        limiters: Limiters,
        schemes: dict[str, Scheme],
        counts: AuthCounts,
    ) -> None:
        self.schemes = schemes
        self._cors = cors
        self._limiters = limiters
        self._counts = counts
        self._addresses = AddressLists(counts)

    def of(self, route: Route, row: int) -> RouteGuard | None:
        """Return a route's guard; None where nothing is asked.

        ``row`` is its service's. Raises ValueError for names of what is not there.
        """
        if route.cors and route.cors not in self._cors:
            where = f"{route.host}{route.path}"
            raise ValueError(f"route {where}: no CORS profile is called {route.cors}")
        rules = self._cors[route.cors] if route.cors else None
        addresses, subjects = self._limiters.of(route, row)
        found: tuple[Check | None, ...] = (
            None if rules is None else CorsFields(rules),
            self._addresses.check(route),
            addresses,
            None if rules is None else CorsPreflight(rules),
            auth_check(route, self.schemes, self._counts),
            subjects,
        )
        checks = tuple(each for each in found if each is not None)
        return RouteGuard(checks) if checks else None


class GuardBuilder:
    """Makes ``Guards``. Schemes that did not change keep the tokens that they have verified."""

    def __init__(self, words: memoryview, slab: int, ring: KeyRing) -> None:
        self._ring = ring
        self._table = limiter_table(words)
        self._slab = slab
        self._counts = AuthCounts(words, slab)
        self._schemes: dict[str, Scheme] = {}
        self._schemes_of: tuple[AuthScheme, ...] = ()

    def begin(self, topology: Topology) -> Guards:
        """Return the guards' parts; ``keep`` them once they are served. Raises ValueError."""
        kept = {each.name: each for each in self._schemes_of}
        changed = [each for each in topology.auth if kept.get(each.name) != each]
        built = build_schemes(changed, self._ring)
        return Guards(
            {each.name: CorsRules(each) for each in topology.cors},
            Limiters(self._table, self._slab, topology.limits.rates),
            {
                each.name: built[each.name] if each.name in built else self._schemes[each.name]
                for each in topology.auth
            },
            self._counts,
        )

    def keep(self, topology: Topology, guards: Guards) -> None:
        """Go on with these schemes."""
        self._schemes, self._schemes_of = guards.schemes, topology.auth
