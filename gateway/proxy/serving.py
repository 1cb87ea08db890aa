"""The snapshot as a worker serves it: one frozen object, swapped by one reference.

Built from ``Topology`` and ``Traffic`` a slice at a time. What has an identity of its own
(endpoints with their connections and counts, the router over unchanged routes) is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.config.snapshot import (
    COLORS,
    Breaker,
    Cohort,
    Color,
    Limits,
    Rescue,
    Retry,
    Route,
    SecurityProfile,
    Service,
    ServiceTraffic,
    Timeouts,
    Topology,
    Traffic,
    unpack_routes,
)
from gateway.policy.assets import AssetPaths
from gateway.policy.cohort import OVERRIDE_COOKIE, Splitter
from gateway.policy.cors import ANSWER_FIELDS
from gateway.policy.fallback import ErrorPages
from gateway.policy.forwarded import ProxyTrust
from gateway.policy.retry import Budget, Verdicts
from gateway.policy.route import Router
from gateway.policy.security import NONCE_FIELD, SecurityFields
from gateway.proxy.auth import KeyRing, credential_fields, said_fields
from gateway.proxy.breaker import Breakers, Guard
from gateway.proxy.checks import GuardBuilder
from gateway.proxy.degraded import Degraded, DegradedBuilder
from gateway.proxy.endpoint import HASH, LEAST_REQUEST, ROUND_ROBIN, Endpoint, Pool
from gateway.proxy.queue import ServiceQueue
from gateway.proxy.releaselines import release_lines
from gateway.proxy.storefile import SCOPE_OCTETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config.snapshot import AuthScheme, CspReports
    from gateway.config.snapshot import Endpoint as EndpointConfig
    from gateway.config.snapshot import Pool as PoolConfig
    from gateway.proxy.checks import Guards
    from gateway.proxy.guard import RouteGuard
    from gateway.proxy.tally import ServiceTally, Tallies

_BALANCE = {"least_request": LEAST_REQUEST, "round_robin": ROUND_ROBIN, "hash": HASH}

#: Routes added to a router between two turns of the loop: well under a millisecond.
SLICE = 50


@dataclass(frozen=True, slots=True)
class SecondTries:
    """What failures call for on a route: the attempts that may follow the first, and for what.

    ``replay``: octets of a request's content that are kept to be sent again; 0: none are.
    ``reuses``: whether a connection that was idle may carry the request: it may have to be sent
    again then, because the backend was closing it.
    """

    verdicts: Verdicts
    retries: int
    retry_methods: frozenset[bytes]
    rescue_methods: frozenset[bytes]
    replay: int
    reuses: bool


@lru_cache(maxsize=1024)
def second_tries(retry: Retry, rescue: Rescue, breaker: Breaker) -> SecondTries:
    """Return what routes with these settings have in common: thousands share one."""
    return SecondTries(
        verdicts=Verdicts(
            retry.on if retry.attempts else (),
            rescue.on if rescue.methods else (),
            breaker.on,
            fallback=True,
        ),
        retries=retry.attempts,
        retry_methods=frozenset(method.encode() for method in retry.methods),
        rescue_methods=frozenset(method.encode() for method in rescue.methods),
        replay=retry.body if retry.attempts or rescue.methods else 0,
        reuses=not retry.never,
    )


@dataclass(frozen=True, slots=True)
class RouteRun:
    """A route with everything decided that can be before a request comes."""

    service: int
    service_name: str
    strip: int
    body_limit: int
    timeouts: Timeouts
    #: For plain connections and for TLS.
    security: tuple[SecurityFields, SecurityFields] | None
    again: SecondTries
    cache: bool
    #: What is asked of its requests; None: nothing.
    guard: RouteGuard | None = None


@dataclass(frozen=True, slots=True)
class ServiceRun:
    """A service with its two pools (blue, green), its roles and its weight (0-10,000).

    ``release_lines`` by side index: what upstreams are told of the side.
    """

    name: str
    row: int
    pools: tuple[Pool, Pool]
    stable_green: bool
    weight: int
    max_in_flight: int
    #: Where requests beyond these wait.
    queue: ServiceQueue
    rewrite_host: bool
    release_lines: tuple[bytes, bytes, bytes, bytes]
    budget: Budget
    degraded: Degraded
    #: Retry-After in seconds while it is in maintenance, else below 0.
    maintenance: float
    #: What stands for service, color and generation in the cache's keys (blue, green).
    scopes: tuple[bytes, bytes]
    #: Whether stable answers nobody in the candidate's place: its release cannot go back.
    forward_only: bool = False
    #: Where its requests are counted; None: nowhere.
    tally: ServiceTally | None = None


@dataclass(frozen=True, slots=True)
class CohortRun:
    """The cohort's settings as octets. The secrets are never shown."""

    cookie: bytes
    header: bytes | None
    max_age: int
    domain: bytes | None
    secret: bytes | None
    probe_secret: bytes | None = None

    def __repr__(self) -> str:
        return f"CohortRun(cookie={self.cookie!r}, header={self.header!r})"


@dataclass(frozen=True, slots=True)
class Serving:
    """Everything that a request needs, under one reference. ``topology`` 0: nothing yet."""

    topology: int
    traffic: int
    router: Router
    services: tuple[ServiceRun, ...]
    limits: Limits
    trust: ProxyTrust
    internal: ProxyTrust
    cohort: CohortRun
    splitter: Splitter
    own_cookies: tuple[bytes, ...]
    split: bool
    release: str
    release_bytes: bytes
    overridable: bool
    assets: AssetPaths | None
    behind_cdn: bool
    #: For requests that no service was found for.
    pages: ErrorPages
    #: Whether any route's answers are stored.
    caches: bool
    #: How reports of violations are taken; None: they are not.
    reports: CspReports | None = None
    #: Lower-case names of the fields that the gateway tells backends by who asks; those less the
    #: one that trusted proxies vouch by; those with it.
    said: tuple[bytes, ...] = ()
    said_here: tuple[bytes, ...] = ()
    unwanted: tuple[bytes, ...] = ()
    #: Names that no trailer of a request may have, whoever sends it: those, what credentials come
    #: in, and the number of a page. Backends may take a trailer for a field of the head.
    private: frozenset[bytes] = frozenset()
    #: Where an ACME client leaves its challenges; empty: nowhere.
    acme_folder: str = ""


def nothing() -> Serving:
    """Return what is served before the first snapshot: no route at all."""
    return Serving(
        topology=0,
        traffic=0,
        router=Router(),
        services=(),
        limits=Limits(),
        trust=ProxyTrust(()),
        internal=ProxyTrust(()),
        cohort=_cohort(Cohort()),
        splitter=Splitter(b""),
        own_cookies=(),
        split=False,
        release="",
        release_bytes=b"",
        overridable=False,
        assets=None,
        behind_cdn=False,
        pages=ErrorPages(),
        caches=False,
    )


class Builder:
    """Turns snapshots into ``Serving``; keeps the endpoints by id, the router by its routes."""

    def __init__(
        self,
        words: memoryview,
        slab: int,
        slabs: int,
        breakers: Breakers | None = None,
        tallies: Tallies | None = None,
        ring: KeyRing | None = None,
    ) -> None:
        self._guards = GuardBuilder(words, slab, KeyRing() if ring is None else ring)
        self._tallies = tallies
        self._words = words
        self._slab = slab
        self._slabs = slabs
        self._breakers = breakers
        self._budgets: dict[str, Budget] = {}
        self._queues: dict[int, ServiceQueue] = {}
        self._degraded = DegradedBuilder()
        self._endpoints: dict[str, Endpoint] = {}
        #: Named no more, with connections that are busy yet.
        self._leaving: list[Endpoint] = []
        self._topology = Topology(number=0)
        self._router = Router()
        self._router_key: tuple[object, ...] = ()
        self._caches = False
        self._trust = ProxyTrust(())
        self._internal = ProxyTrust(())
        self._splitter = Splitter(b"")
        self._contexts: dict[str | None, ssl.SSLContext] = {}

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The endpoints that the last snapshot names, by id."""
        return self._endpoints

    def upstreams(self) -> tuple[int, int]:
        """Return how many connections to backends are busy, and how many are idle."""
        self._leaving = [endpoint for endpoint in self._leaving if endpoint.connections]
        every = [*self._endpoints.values(), *self._leaving]
        idle = sum(endpoint.idle_count() for endpoint in every)
        return sum(len(endpoint.connections) for endpoint in every) - idle, idle

    def close_idle(self, count: int) -> None:
        """Close as many idle connections to backends, of the endpoints that have most of them."""
        for endpoint in sorted(self._endpoints.values(), key=Endpoint.idle_count, reverse=True):
            while count > 0 and (connection := endpoint.take_idle()) is not None:
                connection.abort()
                endpoint.connections.discard(connection)
                count -= 1

    async def build(self, topology: Topology, traffic: Traffic) -> Serving:
        """Return the snapshot to serve. Raises ValueError where it cannot be served."""
        services = [service.name for service in topology.services]
        index = {name: at for at, name in enumerate(services)}
        router = await self._build_router(topology, index)
        endpoints = self._build_endpoints(topology)
        degraded = self._degraded.build(topology)
        if topology.trusted_proxies != self._topology.trusted_proxies or not self._topology.number:
            self._trust = ProxyTrust(topology.trusted_proxies)
        if topology.internal_callers != self._topology.internal_callers:
            self._internal = ProxyTrust(topology.internal_callers)
        if traffic.salt != self._splitter.salt:
            self._splitter = Splitter(traffic.salt)
        cohort = _cohort(topology.cohort)
        said = said_fields(topology.auth)
        # Nothing fails or waits from here on: tallies go on with what is served next.
        tallies = (
            {}
            if self._tallies is None
            else self._tallies.serve(traffic.release, services, traffic.watch)
        )
        only = {watch.service for watch in traffic.watch} if traffic.forward_only else set()
        pools = {(pool.service, pool.color): pool for pool in topology.pools}
        moved = {each.service: each for each in traffic.services}
        serving = Serving(
            topology=topology.number,
            traffic=traffic.revision,
            router=router,
            services=tuple(
                self._service(
                    service,
                    pools,
                    moved.get(service.name),
                    traffic.release,
                    endpoints,
                    degraded[service.name],
                    tallies.get(service.name),
                    service.name in only,
                )
                for service in topology.services
            ),
            limits=topology.limits,
            trust=self._trust,
            internal=self._internal,
            cohort=cohort,
            splitter=self._splitter,
            own_cookies=(cohort.cookie, OVERRIDE_COOKIE),
            split=traffic.split,
            release=traffic.release,
            release_bytes=traffic.release.encode(),
            overridable=cohort.secret is not None,
            assets=AssetPaths(topology.assets) if topology.assets else None,
            behind_cdn=topology.behind_cdn,
            pages=self._degraded.common,
            caches=self._caches,
            reports=topology.csp_reports,
            said=said,
            said_here=tuple(name for name in said if name != cohort.header),
            unwanted=_unwanted(said, cohort.header),
            private=_private(_unwanted(said, cohort.header), topology.auth),
            acme_folder=topology.acme_folder,
        )
        self._topology = topology
        for name, endpoint in self._endpoints.items():
            if endpoints.get(name) is not endpoint:
                endpoint.retire()
                self._leaving.append(endpoint)
        self._endpoints = endpoints
        return serving

    async def _build_router(self, topology: Topology, index: Mapping[str, int]) -> Router:
        key = (
            topology.routes,
            topology.profiles,
            topology.cors,
            topology.removed,
            topology.auth,
            topology.limits.body,
            topology.limits.rates,
            tuple(
                (each.name, each.row, each.timeouts, each.retry, each.rescue, each.breaker)
                for each in topology.services
            ),
        )
        if key == self._router_key:
            return self._router
        dresses = _Dresses(topology)
        services = {service.name: service for service in topology.services}
        guards = self._guards.begin(topology)
        router = Router()
        caches = False
        for chunk in topology.routes:
            for at, route in enumerate(unpack_routes(chunk)):
                if at % SLICE == 0:
                    await asyncio.sleep(0)
                caches = caches or route.cache
                router.add(
                    route.host.encode("ascii"),
                    route.path.encode("ascii"),
                    _route(route, topology, index, dresses, services, guards),
                )
        # Both at once: what fails later in this build must not leave them apart.
        self._router_key = key
        self._guards.keep(topology, guards)
        self._router = router
        self._caches = caches
        return router

    def _build_endpoints(self, topology: Topology) -> dict[str, Endpoint]:
        endpoints: dict[str, Endpoint] = {}
        authorities = {service.name: service.tls_ca for service in topology.services}
        for pool in topology.pools:
            for config in pool.endpoints:
                authority = authorities.get(pool.service)
                tls = self._context(authority) if config.scheme == "https" else None
                kept = self._endpoints.get(config.id)
                if kept is None or (kept.cell, kept.host, kept.port, kept.tls) != (
                    config.cell,
                    config.host,
                    config.port,
                    tls,
                ):
                    kept = self._endpoint(config, tls)
                endpoints[config.id] = kept
        return endpoints

    def _endpoint(self, config: EndpointConfig, tls: ssl.SSLContext | None) -> Endpoint:
        return Endpoint(
            id=config.id,
            host=config.host,
            port=config.port,
            authority=config.authority,
            tls=tls,
            cell=config.cell,
            words=self._words,
            slab=self._slab,
            slabs=self._slabs,
        )

    def _service(
        self,
        service: Service,
        configs: Mapping[tuple[str, Color], PoolConfig],
        moved: ServiceTraffic | None,
        release: str,
        endpoints: Mapping[str, Endpoint],
        degraded: Degraded,
        tally: ServiceTally | None,
        forward_only: bool,
    ) -> ServiceRun:
        closed = moved.closed if moved is not None else ()
        pools = []
        for color in COLORS:
            config = configs.get((service.name, color))
            members = [] if config is None else [endpoints[e.id] for e in config.endpoints]
            self._guard(service, members)
            pools.append(
                Pool(
                    members,
                    generation=0 if config is None else config.generation,
                    balance=_BALANCE[service.balance],
                    closed=color in closed,
                    slow_start=service.slow_start,
                    max_in_flight=service.max_in_flight,
                )
            )
        stable_green = moved is not None and moved.stable == "green"
        if tally is not None:
            tally.follow(pools[1 if stable_green else 0])
        return ServiceRun(
            name=service.name,
            row=service.row,
            pools=(pools[0], pools[1]),
            stable_green=stable_green,
            weight=0 if moved is None else moved.weight,
            max_in_flight=service.max_in_flight,
            queue=self._queue(service),
            rewrite_host=service.host == "rewrite",
            release_lines=release_lines(release),
            budget=self._budget(service),
            degraded=degraded,
            maintenance=-1.0 if moved is None or moved.maintenance is None else moved.maintenance,
            scopes=(
                _scope(service.name, "blue", pools[0]),
                _scope(service.name, "green", pools[1]),
            ),
            forward_only=forward_only,
            tally=tally,
        )

    def _guard(self, service: Service, members: list[Endpoint]) -> None:
        """Give a pool's endpoints their breakers, as the service has them now."""
        if self._breakers is None:
            return
        peers = tuple(member.cell for member in members)
        for member in members:
            if member.guard is None:
                member.guard = Guard(self._breakers, member.id, member.cell)
            member.guard.policy = service.breaker
            member.guard.outlier = service.outlier
            member.guard.peers = peers

    def _budget(self, service: Service) -> Budget:
        """Return a service's budget of retries: what it has saved outlives a snapshot."""
        share, floor = service.retry.budget, service.retry.floor / self._workers()
        budget = self._budgets.setdefault(service.name, Budget(share, floor))
        budget.change(share, floor)
        return budget

    def _queue(self, service: Service) -> ServiceQueue:
        """Return a service's queue: who waits in it outlives a snapshot."""
        queue = self._queues.get(service.row)
        if queue is None:
            queue = ServiceQueue(self._words, self._slab, self._slabs, service.row)
            self._queues[service.row] = queue
        queue.change(service.max_in_flight, service.queue_length, service.queue_wait)
        return queue

    def _workers(self) -> int:
        """Return how many workers share the machine's numbers."""
        return max(1, self._words[layout.H_SLOTS])

    def _context(self, authorities: str | None) -> ssl.SSLContext:
        context = self._contexts.get(authorities)
        if context is None:
            try:
                context = ssl.create_default_context(cafile=authorities)
            except OSError as error:
                raise ValueError(f"authorities {authorities}: {error}") from error
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            self._contexts[authorities] = context
        return context


class _Dresses:
    """What routes do to their answers' heads, each combination made once."""

    def __init__(self, topology: Topology) -> None:
        self._profiles = {each.name: each for each in topology.profiles}
        self._removed = topology.removed
        self._made: dict[tuple[str, bool], tuple[SecurityFields, SecurityFields] | None] = {}

    def fields(self, route: Route) -> tuple[SecurityFields, SecurityFields] | None:
        """Return a route's fields, for plain connections and for TLS. Raises ValueError."""
        if route.security and route.security not in self._profiles:
            where = f"{route.host}{route.path}"
            raise ValueError(f"route {where}: no profile is called {route.security}")
        key = (route.security, bool(route.cors))
        if key not in self._made:
            profile = self._profiles[route.security] if route.security else SecurityProfile(name="")
            removed = self._removed + (ANSWER_FIELDS if route.cors else ())
            self._made[key] = (
                (
                    SecurityFields(profile, tls=False, removed=removed),
                    SecurityFields(profile, tls=True, removed=removed),
                )
                if route.security or removed
                else None
            )
        return self._made[key]


def _unwanted(said: tuple[bytes, ...], header: bytes | None) -> tuple[bytes, ...]:
    """Return the fields of identity that clients may not send: the gateway's and proxies'."""
    return said if header is None or header in said else (*said, header)


def _private(names: tuple[bytes, ...], schemes: tuple[AuthScheme, ...]) -> frozenset[bytes]:
    """Return what requests' trailers may not be called; ``_`` counts as ``-``."""
    return frozenset(
        name.replace(b"_", b"-")
        for name in (*names, *credential_fields(schemes), NONCE_FIELD.lower())
    )


def _route(
    route: Route,
    topology: Topology,
    index: Mapping[str, int],
    dresses: _Dresses,
    services: Mapping[str, Service],
    guards: Guards,
) -> RouteRun:
    if route.service not in index:
        raise ValueError(f"route {route.host}{route.path}: no service is called {route.service}")
    service = services[route.service]
    return RouteRun(
        service=index[route.service],
        service_name=route.service,
        strip=len([part for part in route.path.split("/") if part]) if route.strip else 0,
        body_limit=topology.limits.body if route.body_limit is None else route.body_limit,
        timeouts=route.timeouts or service.timeouts,
        security=dresses.fields(route),
        again=second_tries(
            route.retry or service.retry, route.rescue or service.rescue, service.breaker
        ),
        cache=route.cache,
        guard=guards.of(route, service.row),
    )


def _scope(service: str, color: Color, pool: Pool) -> bytes:
    """Return what begins the cache's keys of one generation: 8 octets."""
    name = f"{service} {color} {pool.generation}".encode()
    return hashlib.blake2b(name, digest_size=SCOPE_OCTETS).digest()


def _cohort(cohort: Cohort) -> CohortRun:
    return CohortRun(
        cookie=cohort.cookie.encode("ascii"),
        header=None if cohort.header is None else cohort.header.lower().encode("ascii"),
        max_age=cohort.max_age,
        domain=None if cohort.domain is None else cohort.domain.encode("ascii"),
        secret=cohort.secret,
        probe_secret=cohort.probe_secret,
    )
