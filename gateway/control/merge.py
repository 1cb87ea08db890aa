"""Who wins: the state store over the file, and a snapshot that workers serve over a store behind.

Pure. The file's endpoints and ``initial_stable`` are initial values; what was set by API stays
until it is given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from gateway.config.addresses import parse_endpoint
from gateway.config.snapshot import COLORS, Color, Endpoint, Pool, Topology
from gateway.control.desk import settled
from gateway.control.state import PoolState, ServiceState, State
from gateway.release import machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.channel.messages import Apply
    from gateway.config.snapshot import Traffic
    from gateway.control.settings import ServiceSettings, Settings
    from gateway.release.record import Release

replace = msgspec.structs.replace


class Places(Protocol):
    """Where services and endpoints stand on the board (``gateway.control.allocation``)."""

    def row(self, service: str) -> int:
        """Return a service's row."""

    def cell(self, endpoint: str) -> int:
        """Return an endpoint's cell."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where the store outranks the file."""

    service: str
    field: str
    file: str
    store: str


def merged(settings: Settings, kept: State | None, fresh: Callable[[], bytes]) -> State:
    """Return the state for the services of ``settings``: what was kept, else initial values.

    A pool whose source is the file follows it: other endpoints are a new generation. Services that
    the file no longer has are left out here and stay in the store.
    """
    base = kept or State()
    services = tuple(_service(each, base.of(each.name)) for each in settings.services)
    after = settled(base, replace(base, services=services), fresh)
    # The first state ever is a revision too: 0 is "none yet" in a worker's greeting.
    return after if after.revision else replace(after, revision=1)


#: Seconds ahead in which a pool may still be cold: what is later is of another boot's clock.
_COLD_AT_MOST = 60.0


def taken_up(
    settings: Settings, kept: State | None, fresh: Callable[[], bytes], now: float
) -> State:
    """Return what a control process begins with: as ``merged``, and a release goes on as it was.

    A file that was edited meanwhile takes no pool away from a release under way, for a reload would
    have been refused; the next reload brings it. Where a service of the release is gone from the
    file the release is held. ``now`` is CLOCK_MONOTONIC in seconds.
    """
    run = kept.run if kept is not None else None
    state = merged(settings, kept, fresh)
    if kept is None or run is None or run.over:
        return state
    ours = [kept.of(part.service) for part in run.parts if state.of(part.service) is not None]
    state = state.replaced(*[each for each in ours if each is not None])
    if run.cold_until > now + _COLD_AT_MOST:
        run = replace(run, cold_until=0.0)
    gone = [part.service for part in run.parts if state.of(part.service) is None]
    if gone and machine.knows(run.state, "hold"):
        held, where = machine.after(run.state, "hold", run.where)
        because = f"{', '.join(gone)}: no longer configured since control was started again"
        run = replace(run, state=held, where=where, because=because, trigger="configuration")
    return settled(kept, replace(state, run=run), fresh)


def _service(settings: ServiceSettings, kept: ServiceState | None) -> ServiceState:
    service = kept or ServiceState(name=settings.name, stable=settings.initial_stable)
    for color in COLORS:
        pool = service.pool(color)
        from_file = settings.endpoints(color)
        if pool.source == "file" and pool.endpoints != from_file:
            service = service.new_pool(color, from_file, "file")
    return service


def recovered(kept: State | None, snapshot: Apply | None) -> State | None:
    """Return what to start from: the store, unless workers serve something later.

    A rollback is applied before it is stored; where control died in between, or the store was
    lost, the snapshot file of this boot knows better.
    """
    if snapshot is None or snapshot.traffic is None or snapshot.topology is None:
        return kept
    traffic, topology = snapshot.traffic, snapshot.topology
    if kept is not None and kept.revision >= traffic.revision:
        return kept
    base = kept or State()
    services = {service.name: service for service in base.services}
    for each in traffic.services:
        service = services.get(each.service) or ServiceState(name=each.service, stable=each.stable)
        service = _with_pools(service, topology)
        isolated = tuple(
            color for color in each.closed if color in service.isolated or color in each.isolated
        )
        undone = service.stable != each.stable and service.previous == "open"
        services[each.service] = replace(
            service,
            stable=each.stable,
            weight=each.weight,
            # Roles change before they are stored only where a finalize is undone.
            previous="taken" if undone else service.previous,
            isolated=isolated,
            drained=tuple(color for color in each.closed if color not in isolated),
            maintenance=each.maintenance,
        )
    return State(
        revision=traffic.revision,
        salt=traffic.salt,
        release=traffic.release,
        services=tuple(services.values()),
        run=_run(base.run, traffic),
    )


def _run(run: Release | None, traffic: Traffic) -> Release | None:
    """Return a stored release as workers serve it: only the way back is applied before it is
    stored, so a release that they go on without, or go back with in part, was being taken back.
    """
    if run is None or not run.running:
        return run
    because = "it was being taken back when control ended; why, was not stored"
    if traffic.release != run.id:
        state, where = machine.after(run.state, "roll_back", run.where)
        # Whose doing it was is not known unless it was on its way back; no build is condemned for
        # what nobody knows.
        if run.wants_back:
            return replace(run, state=state, where=where, wants_back=False)
        return replace(run, state=state, where=where, because=because, trigger="", by_hand=True)
    weights = {each.service: each.weight for each in traffic.services}
    partly = any(weights.get(part.service, 0) < run.weight for part in run.parts)
    if partly and run.state != "held":
        state, where = machine.after(run.state, "hold", run.where)
        return replace(
            run, state=state, where=where, because=because, wants_back=True, by_hand=True
        )
    return run


def _with_pools(service: ServiceState, topology: Topology) -> ServiceState:
    for color in COLORS:
        pool = topology.pool(service.name, color)
        if pool is None or pool.generation <= service.pool(color).generation:
            continue
        kept = PoolState(
            generation=pool.generation,
            source=pool.source,
            endpoints=tuple(endpoint.url for endpoint in pool.endpoints),
        )
        service = service.with_pool(color, kept)
    return service


def drift(settings: Settings, state: State) -> list[Difference]:
    """List where the store outranks the file and the two differ."""
    found = []
    for service in state.services:
        from_file = settings.of(service.name)
        if from_file is None:
            continue
        if service.stable != from_file.initial_stable:
            found.append(
                Difference(service.name, "stable", from_file.initial_stable, service.stable)
            )
        for color in COLORS:
            pool = service.pool(color)
            if pool.source == "api" and pool.endpoints != from_file.endpoints(color):
                field = f"{color}.endpoints"
                file = ", ".join(from_file.endpoints(color))
                found.append(Difference(service.name, field, file, ", ".join(pool.endpoints)))
    return found


def endpoint_id(service: str, color: Color, generation: int, position: int) -> str:
    """Return an endpoint's name, unique for the life of the state store."""
    return f"{service}-{color}-{generation}-{position}"


def endpoints_of(
    service: str, color: Color, pool: PoolState, cell: Callable[[str], int]
) -> tuple[Endpoint, ...]:
    """Return a pool's endpoints with their ids and cells."""
    made = []
    for position, url in enumerate(pool.endpoints):
        address = parse_endpoint(url)
        name = endpoint_id(service, color, pool.generation, position)
        made.append(
            Endpoint(
                id=name,
                cell=cell(name),
                url=address.url,
                scheme=address.scheme,
                host=address.host,
                port=address.port,
            )
        )
    return tuple(made)


def topology(
    settings: Settings, state: State, places: Places, number: int, probe_secret: bytes = b""
) -> Topology:
    """Return the topology part of the snapshot.

    ``probe_secret`` signs what integration checks say to workers. Raises AllocationError where the
    board has no place left.
    """
    pools = []
    for service in state.services:
        for color in COLORS:
            pool = service.pool(color)
            if not pool.endpoints:
                continue
            pools.append(
                Pool(
                    service=service.name,
                    color=color,
                    generation=pool.generation,
                    source=pool.source,
                    endpoints=endpoints_of(service.name, color, pool, places.cell),
                )
            )
    services = tuple(
        replace(service, row=places.row(service.name)) for service in settings.template.services
    )
    return replace(
        settings.template,
        number=number,
        services=services,
        pools=tuple(pools),
        cohort=replace(settings.template.cohort, probe_secret=probe_secret or None),
    )
