"""The desk's second half: what pool calls (replace, drain, isolate) and maintenance make of it.

Pure decisions, like ``desk``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.config.snapshot import BUCKETS, COLORS, Color, other
from gateway.control.desk import (
    ColorOrRole,
    Facts,
    Outcome,
    Refused,
    check_no_release,
    color_of,
    one,
    settled,
)
from gateway.control.merge import endpoint_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.control.state import ServiceState, State

replace = msgspec.structs.replace


def check_pool_write(state: State, facts: Facts, name: str, which: ColorOrRole) -> Color:
    """Return the slot that may be replaced now. Raises Refused for stable or one in use."""
    service = one(state, name)
    color = color_of(service, which)
    check_no_release(state, name)
    if color == service.stable:
        raise Refused(
            "pool-is-stable",
            f"{color} is stable of {name}; a new build goes into {service.candidate}",
            hint=f"PUT /v1/services/{name}/pools/candidate",
        )
    if service.carries(color):
        raise Refused(
            "pool-carries-traffic",
            f"{color} of {name} carries {service.weight / 100:g} % of the traffic",
            hint="set it to 0 or roll back first",
        )
    if (tunnels := facts.tunnels(name, color)) > 0:
        raise Refused(
            "pool-has-tunnels",
            f"{color} of {name} has {tunnels} open tunnels",
            hint=f"POST /v1/services/{name}/pools/{color}/drain",
        )
    return color


def put_pool(
    state: State,
    facts: Facts,
    name: str,
    color: Color,
    endpoints: tuple[str, ...],
    fresh: Callable[[], bytes],
) -> Outcome:
    """Put a new generation set by API into the candidate's slot."""
    check_pool_write(state, facts, name, color)
    after = state.replaced(one(state, name).new_pool(color, endpoints, "api"))
    return Outcome(settled(state, after, fresh), (name,))


def put_back(
    state: State,
    name: str,
    color: Color,
    failed: int,
    former: ServiceState,
    from_file: tuple[str, ...],
    fresh: Callable[[], bytes],
) -> Outcome:
    """Put back what a new build replaced that did not stand its trial in place.

    ``failed`` is the build's generation, ``former`` the service as it was before, ``from_file``
    what the file says now: a pool of the file's follows it. Else the endpoints are what they were,
    under a generation of their own, and breakers that were opened by hand are open again. Left
    alone where the slot has moved on: another build, traffic that was forced there, other roles, a
    release that has taken it up.
    """
    service = one(state, name)
    if service.pool(color).generation != failed or service.carries(color) or state.busy(name):
        return Outcome(state)
    pool = former.pool(color)
    endpoints = from_file if pool.source == "file" else pool.endpoints
    after = service.new_pool(color, endpoints, pool.source)
    after = replace(after, forced=tuple(sorted({*after.forced, *_forced(former, after, color)})))
    if service.stable == former.stable and endpoints == pool.endpoints:
        after = replace(after, previous=former.previous)
    if color in former.drained:
        after = replace(after, drained=tuple(c for c in COLORS if c in {*after.drained, color}))
    return Outcome(settled(state, state.replaced(after), fresh), (name,))


def _forced(former: ServiceState, after: ServiceState, color: Color) -> Iterator[str]:
    """Yield ids of endpoints that are there again and whose breakers had been opened by hand."""
    old, new = former.pool(color), after.pool(color)
    for position, (before, now) in enumerate(zip(old.endpoints, new.endpoints, strict=False)):
        known = endpoint_id(former.name, color, old.generation, position)
        if before == now and known in former.forced:
            yield endpoint_id(after.name, color, new.generation, position)


def reset_pool(
    state: State,
    facts: Facts,
    name: str,
    which: ColorOrRole,
    from_file: tuple[str, ...],
    fresh: Callable[[], bytes],
) -> Outcome:
    """Return a slot to the file's endpoints: a new generation, unless it has them already."""
    service = one(state, name)
    color = color_of(service, which)
    pool = service.pool(color)
    if pool.source == "file":
        return Outcome(state)
    if pool.endpoints == from_file:
        # The same endpoints: the pool stays as it is and only changes owner.
        kept = replace(pool, source="file")
        changed = replace(service, blue=kept) if color == "blue" else replace(service, green=kept)
        return Outcome(state.replaced(changed), (name,))
    check_pool_write(state, facts, name, color)
    after = state.replaced(service.new_pool(color, from_file, "file"))
    return Outcome(settled(state, after, fresh), (name,))


def drain(
    state: State,
    name: str,
    which: ColorOrRole,
    fresh: Callable[[], bytes],
    tunnels_until: float = 0.0,
) -> Outcome:
    """Close a slot to new requests. A candidate's share goes back to stable with it.

    From ``tunnels_until`` on (CLOCK_MONOTONIC, seconds; 0: never) a candidate's WebSockets and
    event streams are ended: nothing else would get them off what is about to be stopped.
    """
    service = one(state, name)
    color = color_of(service, which)
    check_no_release(state, name)
    if color == service.stable and service.weight < BUCKETS:
        raise Refused(
            "pool-is-stable",
            f"{color} is stable of {name} and carries {100 - service.weight / 100:g} %",
            hint="move its traffic to the candidate first",
        )
    if color == service.candidate and tunnels_until:
        known = service.tunnels_until or tunnels_until
        service = replace(service, tunnels_until=min(known, tunnels_until))
    if color in service.drained and not service.carries(color):
        after = state.replaced(service)
        return Outcome(after, (name,) if after != state else ())
    weight = 0 if color == service.candidate else service.weight
    drained = tuple(each for each in COLORS if each in service.drained or each == color)
    after = state.replaced(replace(service, weight=weight, drained=drained))
    return Outcome(settled(state, after, fresh), (name,))


def isolate(
    state: State,
    facts: Facts,
    name: str,
    which: ColorOrRole,
    *,
    force: bool,
    fresh: Callable[[], bytes],
) -> Outcome:
    """Take a color out until lifted, refused where the other one cannot take over.

    Refused, too, for stable of a release under way: everybody would be on its candidate.
    """
    service = one(state, name)
    color = color_of(service, which)
    if color in service.isolated:
        return Outcome(state)
    across = other(color)
    run = state.busy(name)
    if not force and run is not None and color == service.stable:
        raise Refused(
            "release-running",
            f"{color} is stable of {name}: without it everybody would be on the candidate of "
            f"release {run.id}, which is {run.words}",
            field="color",
            hint=f"POST /v1/releases/{run.id}/abort or POST /v1/releases/{run.id}/finalize first; "
            '"force": true isolates it all the same',
            release=run.id,
        )
    if not force and (across in service.closed or not facts.able(name, across)):
        raise Refused(
            "other-unavailable",
            f"{across} of {name} cannot take over from {color}",
            field="color",
            hint='"force": true isolates it all the same',
        )
    isolated = tuple(each for each in COLORS if each in service.isolated or each == color)
    after = state.replaced(replace(service, isolated=isolated))
    return Outcome(settled(state, after, fresh), (name,))


def lift(state: State, name: str, which: ColorOrRole | None, fresh: Callable[[], bytes]) -> Outcome:
    """Lift the isolation of one color, or of both for None."""
    service = one(state, name)
    keep: tuple[Color, ...] = ()
    if which is not None:
        color = color_of(service, which)
        keep = tuple(each for each in service.isolated if each != color)
    if keep == service.isolated:
        return Outcome(state)
    after = state.replaced(replace(service, isolated=keep))
    return Outcome(settled(state, after, fresh), (name,))


def maintain(state: State, name: str, retry_after: float, fresh: Callable[[], bytes]) -> Outcome:
    """Put a service into maintenance: its visitors are told to come back in so many seconds."""
    return _maintenance(state, name, retry_after, fresh)


def end_maintenance(state: State, name: str, fresh: Callable[[], bytes]) -> Outcome:
    """Let a service serve again."""
    return _maintenance(state, name, None, fresh)


def _maintenance(
    state: State, name: str, retry_after: float | None, fresh: Callable[[], bytes]
) -> Outcome:
    service = one(state, name)
    if service.maintenance == retry_after:
        return Outcome(state)
    after = state.replaced(replace(service, maintenance=retry_after))
    return Outcome(settled(state, after, fresh), (name,))
