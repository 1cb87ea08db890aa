"""The traffic desk: what each call makes of the state, and what it is refused for.

Pure decisions: state and facts in, a new state or ``Refused`` out. No I/O, no clock; chance comes
in as bytes. The revision grows exactly when what workers serve as traffic changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from gateway.config.snapshot import BUCKETS, Color, other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gateway.control.state import ServiceState, State

replace = msgspec.structs.replace

ColorOrRole = Literal["blue", "green", "stable", "candidate"]


@dataclass(frozen=True, slots=True)
class RefusedPart:
    """Why one service stays as it is."""

    service: str
    type: str
    detail: str


class Refused(Exception):  # noqa: N818  a decision of the desk, not a fault
    """A call that the desk does not carry out. ``kind`` is the stable name of the reason."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        status: int = 409,
        field: str | None = None,
        hint: str | None = None,
        parts: Sequence[RefusedPart] = (),
        release: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.release = release
        self.kind = kind
        self.detail = detail
        self.status = status
        self.field = field
        self.hint = hint
        self.parts = tuple(parts)


class Facts(Protocol):
    """What is observed, as the desk needs it."""

    def proven(self, service: str, color: Color) -> bool:
        """Whether an endpoint of that pool was seen healthy."""

    def able(self, service: str, color: Color) -> bool:
        """Whether that pool may be able to serve: an endpoint not known to be down, or broken."""

    def tunnels(self, service: str, color: Color) -> int:
        """How many tunnels are open to that pool."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call made of the state. ``refused`` are the parts that a rollback left alone."""

    state: State
    touched: tuple[str, ...] = ()
    refused: tuple[RefusedPart, ...] = field(default=())


def color_of(service: ServiceState, which: ColorOrRole) -> Color:
    """Return the color that a color or role names now."""
    if which == "stable":
        return service.stable
    if which == "candidate":
        return service.candidate
    return which


def named(state: State, names: Iterable[str] | None) -> list[ServiceState]:
    """Return the services that a call names, all for None. Raises Refused for one unknown."""
    if names is None:
        return list(state.services)
    found = []
    for position, name in enumerate(dict.fromkeys(names)):
        service = state.of(name)
        if service is None:
            known = ", ".join(each.name for each in state.services) or "none"
            raise Refused(
                "unknown-service",
                f"there is no service {name!r}; configured: {known}",
                status=422,
                field=f"services.{position}",
            )
        found.append(service)
    return found


def one(state: State, name: str) -> ServiceState:
    """Return one service that a path names. Raises Refused (404) where there is none."""
    service = state.of(name)
    if service is None:
        raise Refused("unknown-service", f"there is no service {name!r}", status=404)
    return service


def check_no_release(state: State, service: str | None = None) -> None:
    """Refuse what would get in a release's way: anything (None), or a change to one service."""
    run = state.run
    if run is None or run.over or (service is not None and run.part(service) is None):
        return
    what = "moves the traffic" if service is None else f"has {service} in its hands"
    raise Refused(
        "release-running",
        f"release {run.id} is {run.words} and {what}",
        hint=f"promote, abort or finalize release {run.id}; POST /v1/rollback ends it at once",
        release=run.id,
    )


def settled(before: State, after: State, fresh: Callable[[], bytes]) -> State:
    """Return ``after`` with salt, release and revision as the change demands.

    A split that begins from all-zero gets a new salt and release id and keeps them until every
    weight is back at 0, so that a client stays where it is while one split lasts and the next one
    has other guinea pigs.
    """
    run = after.running
    if run is not None:
        if after.release != run.id:
            after = replace(after, salt=fresh()[:16], release=run.id)
    elif before.zero and not after.zero:
        chance = fresh()
        after = replace(after, salt=chance[:16], release=chance[16:22].hex())
    elif after.zero:
        after = replace(after, release="")
    after = after.replaced(*_swapped_tunnels(before, after))
    if after.traffic() != before.traffic():
        after = replace(after, revision=before.revision + 1)
    return after


def _swapped_tunnels(before: State, after: State) -> Iterator[ServiceState]:
    """Yield services without the time at which their candidate's tunnels end, where another color
    is the candidate now: nobody has told that one's clients to go.
    """
    for service in after.services:
        former = before.of(service.name)
        if service.tunnels_until and former is not None and former.stable != service.stable:
            yield replace(service, tunnels_until=0.0)


# --- traffic --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A percentage set by hand: whose, and how much in hundredths of a percent."""

    side: Literal["candidate", "blue", "green"]
    weight: int
    services: tuple[str, ...] | None = None
    force: bool = False


def set_traffic(state: State, facts: Facts, share: Share, fresh: Callable[[], bytes]) -> Outcome:
    """Set the candidate's share. Raises Refused where it cannot serve or is not that color."""
    services = named(state, share.services)
    check_no_release(state)
    _check_side(services, share.side)
    if share.weight > 0 and not share.force:
        check_able(services, facts)
    changed = [weighted(service, share.weight) for service in services]
    after = settled(state, state.replaced(*changed), fresh)
    return Outcome(after, _touched(state, after))


def _check_side(services: list[ServiceState], side: str) -> None:
    if side == "candidate":
        return
    wrong = [service for service in services if service.candidate != side]
    if not wrong:
        return
    names = ", ".join(service.name for service in wrong)
    raise Refused(
        "not-the-candidate",
        f"{side} is stable, not the candidate, of {names}",
        field=side,
        hint="name the share by role: candidate",
        parts=[
            RefusedPart(each.name, "not-the-candidate", f"its candidate is {each.candidate}")
            for each in wrong
        ],
    )


def check_able(services: list[ServiceState], facts: Facts) -> None:
    """Raise Refused where the candidate of a service cannot serve."""
    parts = []
    for service in services:
        color = service.candidate
        if color in service.isolated:
            parts.append(RefusedPart(service.name, "isolated", f"{color} is isolated until lifted"))
        elif not facts.proven(service.name, color):
            empty = not service.pool(color).endpoints
            why = "has no endpoints" if empty else "has no endpoint that was seen healthy"
            parts.append(RefusedPart(service.name, "candidate-unavailable", f"{color} {why}"))
    if parts:
        raise Refused(
            "candidate-unavailable",
            "the candidate cannot serve: "
            + "; ".join(f"{part.service}: {part.detail}" for part in parts),
            hint='"force": true sets it all the same',
            parts=parts,
        )


def weighted(service: ServiceState, weight: int) -> ServiceState:
    """Return a service with another share: what carries traffic is open again."""
    drained, previous, until = service.drained, service.previous, service.tunnels_until
    if weight > 0:
        until = 0.0
        drained = tuple(color for color in drained if color != service.candidate)
        previous = "none" if previous == "taken" else previous
    if weight < BUCKETS:
        drained = tuple(color for color in drained if color != service.stable)
    return replace(service, weight=weight, drained=drained, previous=previous, tunnels_until=until)


def finalize(state: State, names: Iterable[str] | None, fresh: Callable[[], bytes]) -> Outcome:
    """Swap the roles where the candidate carries everything. Services at 0 are done already."""
    services = named(state, names)
    check_no_release(state)
    partly = [service for service in services if 0 < service.weight < BUCKETS]
    if partly:
        raise refused_at(
            partly, "not-at-100", "roles swap at 100 %", hint="PUT /v1/traffic to 100 first"
        )
    changed = [swapped(service) for service in services if service.weight == BUCKETS]
    after = settled(state, state.replaced(*changed), fresh)
    return Outcome(after, _touched(state, after))


def refused_at(services: list[ServiceState], kind: str, what: str, *, hint: str) -> Refused:
    """Return a refusal for the weights that services are at."""
    return Refused(
        kind,
        f"{what}: " + ", ".join(f"{each.name} is at {each.weight / 100:g} %" for each in services),
        hint=hint,
        parts=[RefusedPart(each.name, kind, f"at {each.weight / 100:g} %") for each in services],
    )


def swapped(service: ServiceState) -> ServiceState:
    """Return a service with its candidate as stable; the way back is open."""
    return replace(service, stable=service.candidate, weight=0, previous="open")


def adopt(
    state: State, color: Color, names: Iterable[str] | None, fresh: Callable[[], bytes]
) -> Outcome:
    """Declare that ``color`` is production: stable, with nothing split."""
    changed = []
    services = named(state, names)
    check_no_release(state)
    for service in services:
        if service.stable == color and service.weight == 0:
            continue
        previous = service.previous if service.stable == color else "none"
        drained = tuple(each for each in service.drained if each != color)
        changed.append(replace(service, stable=color, weight=0, previous=previous, drained=drained))
    after = settled(state, state.replaced(*changed), fresh)
    return Outcome(after, _touched(state, after))


# --- rollback -------------------------------------------------------------------------------------


def rollback(
    state: State,
    facts: Facts,
    *,
    to: Literal["stable", "previous"],
    names: Iterable[str] | None,
    force: bool,
    fresh: Callable[[], bytes],
) -> Outcome:
    """Snap back per service. Raises Refused where nothing of it can be done."""
    services = named(state, names)
    if to == "previous":
        check_no_release(state)
    back = _to_stable if to == "stable" else _to_previous
    moved, parts = back(services, facts, everything=names is None, force=force)
    if parts and not moved:
        kind = parts[0].type
        raise Refused(
            kind,
            "; ".join(f"{part.service}: {part.detail}" for part in parts),
            hint='"force": true overrides',
            parts=parts,
        )
    after = settled(state, state.replaced(*moved), fresh)
    return Outcome(after, _touched(state, after), tuple(parts))


_Back = tuple[list["ServiceState"], list[RefusedPart]]


def _to_stable(
    services: list[ServiceState], facts: Facts, *, everything: bool, force: bool
) -> _Back:
    del everything
    split = [service for service in services if service.weight > 0]
    if not split:
        _name_previous(services)
        return [], []
    moved, parts = [], []
    for service in split:
        if not force and (part := unavailable(service, service.stable, facts)):
            parts.append(part)
            continue
        moved.append(opened(replace(service, weight=0), service.stable, lift=force))
    return moved, parts


def _name_previous(services: list[ServiceState]) -> None:
    """Refuse to do nothing where the caller may mean the roles before the last finalize."""
    undoable = [service.name for service in services if service.previous == "open"]
    if undoable:
        raise Refused(
            "already-stable",
            "nothing is split; the last finalize can be undone for " + ", ".join(undoable),
            field="to",
            hint='{"to": "previous"}',
        )


def _to_previous(
    services: list[ServiceState], facts: Facts, *, everything: bool, force: bool
) -> _Back:
    split = [service.name for service in services if service.weight > 0]
    if split:
        raise Refused(
            "split-in-force",
            f"{', '.join(split)} is split; roll back to stable first",
            field="to",
            hint='{"to": "stable"}',
        )
    undoable = [service for service in services if service.previous == "open"]
    done = [service for service in services if service.previous == "taken"]
    lost = [service.name for service in services if service.previous == "none"]
    if (lost and not everything) or not (undoable or done):
        raise Refused(
            "no-previous",
            f"there is no finalize to undo for {', '.join(lost)}: the former pool was replaced, "
            "or roles were never swapped",
            field="to",
        )
    moved, parts = [], []
    for service in undoable:
        if not force and (part := unavailable(service, service.candidate, facts)):
            parts.append(part)
            continue
        after = replace(service, stable=service.candidate, previous="taken")
        moved.append(opened(after, after.stable, lift=force))
    return moved, parts


def unavailable(service: ServiceState, target: Color, facts: Facts) -> RefusedPart | None:
    """Say why ``target`` cannot take over, where the color across from it can serve."""
    across = other(target)
    target_can = target not in service.isolated and facts.able(service.name, target)
    across_can = across not in service.closed and facts.proven(service.name, across)
    if target_can or not across_can:
        return None
    why = "is isolated" if target in service.isolated else "has no endpoint that could serve"
    return RefusedPart(service.name, "stable-unavailable", f"{target} {why}, while {across} serves")


def opened(service: ServiceState, color: Color, *, lift: bool) -> ServiceState:
    """Return a service with a color not drained; ``lift``: not isolated either."""
    drained = tuple(each for each in service.drained if each != color)
    isolated = tuple(each for each in service.isolated if not lift or each != color)
    return replace(service, drained=drained, isolated=isolated)


def _touched(before: State, after: State) -> tuple[str, ...]:
    return tuple(service.name for service in after.services if service != before.of(service.name))
