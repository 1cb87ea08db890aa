"""The release desk: what a call, a passed step or a trigger makes of a release and its traffic.

Pure decisions, like ``desk``: state and facts in, a new state or ``Refused`` out. All services of a
release move as one unit; only where going back would put one onto a pool that cannot serve does
that one stay behind, and the release is held.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from gateway.config.snapshot import BUCKETS
from gateway.control import desk
from gateway.control.desk import Outcome, Refused, RefusedPart, settled, swapped, weighted
from gateway.release import machine
from gateway.release.plan import PlanError, Wish, plan_of
from gateway.release.record import STAYS, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gateway.config.schema.releases import Releases
    from gateway.control.desk import Facts
    from gateway.control.state import ServiceState, State
    from gateway.release.machine import Event
    from gateway.release.record import Part

replace = msgspec.structs.replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a call to start a release says. ``generations``: expected candidates, by service."""

    services: tuple[str, ...] | None = None
    version: str = ""
    generations: Mapping[str, int] = field(default_factory=dict)
    wish: Wish = field(default_factory=Wish)
    force: bool = False
    reason: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a new release stands on besides the state. ``now`` is seconds since the epoch."""

    releases: Releases
    part: Callable[[ServiceState], Part]
    #: (service, generation) of candidates that a release was rolled back for.
    condemned: Collection[tuple[str, int]]
    now: float
    fresh: Callable[[], bytes]


# --- the start ------------------------------------------------------------------------------------


def start(state: State, ask: Ask, ground: Ground) -> Outcome:
    """Begin a release: it validates, nobody is exposed. Raises Refused."""
    services = desk.named(state, ask.services)
    desk.check_no_release(state)
    _check_nothing_split(state)
    _check_generations(state, services, ask)
    _check_candidates(services, ask, ground)
    try:
        plan = plan_of(ground.releases, ask.wish)
    except PlanError as error:
        raise Refused("invalid-plan", error.detail, status=422, field=error.field) from error
    chance = ground.fresh()
    parts = tuple(ground.part(each) for each in services)
    regression = ground.releases.triggers.regression
    release = Release(
        id=chance[16:22].hex(),
        number=state.run.number + 1 if state.run is not None else 1,
        version=ask.version,
        actor=ask.actor,
        reason=ask.reason,
        plan=plan,
        parts=parts,
        began=ground.now,
        moved=ground.now,
        horizon=max(_LEAST_HORIZON, sum(part.rate for part in parts) * plan.seconds),
        alpha=regression.alpha,
        beta=ground.releases.early.beta,
        worse=ground.releases.early.worse,
    )
    # A drained candidate is opened: its probes go through the gateway, and then its users do.
    opened = [
        replace(each, drained=tuple(c for c in each.drained if c != each.candidate))
        for each in services
    ]
    after = replace(state.replaced(*opened), run=release)
    return Outcome(settled(state, after, lambda: chance), release.names)


#: Requests: below this, evidence would begin to count at once, and cash mean nothing.
_LEAST_HORIZON = 1000.0


def _check_nothing_split(state: State) -> None:
    split = [each for each in state.services if each.weight > 0]
    if split:
        raise desk.refused_at(
            split,
            "split-in-force",
            "traffic is split by hand",
            hint="PUT /v1/traffic to 0, finalize it, or roll back first",
        )


def _check_generations(state: State, services: list[ServiceState], ask: Ask) -> None:
    for name, wanted in ask.generations.items():
        service = state.of(name)
        if service is None or service not in services:
            known = ", ".join(each.name for each in services) or "none"
            raise Refused(
                "unknown-service",
                f"{name!r} is not in this release; in it: {known}",
                status=422,
                field=f"pools.{name}",
            )
        found = service.pool(service.candidate).generation
        if found != wanted:
            raise Refused(
                "stale-generation",
                f"{service.candidate} of {name} is generation {found}, expected {wanted}",
                status=412,
                field=f"pools.{name}",
                hint="`gateway status` shows generations; a build put there since has its own",
            )


def _check_candidates(services: list[ServiceState], ask: Ask, ground: Ground) -> None:
    missing, isolated, condemned = [], [], []
    for service in services:
        color = service.candidate
        pool = service.pool(color)
        if not pool.endpoints:
            missing.append(RefusedPart(service.name, "no-candidate", f"{color} has no endpoints"))
        elif color in service.isolated:
            isolated.append(RefusedPart(service.name, "isolated", f"{color} is isolated"))
        elif service.stable in service.isolated:
            # Everybody is on the candidate: nothing to compare it with, nothing to go back to.
            detail = f"{service.stable}, the stable one, is isolated"
            isolated.append(RefusedPart(service.name, "isolated", detail))
        elif (service.name, pool.generation) in ground.condemned and not ask.force:
            condemned.append(
                RefusedPart(
                    service.name,
                    "rolled-back-before",
                    f"{color} is generation {pool.generation}, which was rolled back before",
                )
            )
    _refuse(missing, "no-candidate", "services without a candidate pool", "PUT the new build first")
    lift = "`gateway isolate SERVICE COLOR --lift` lifts it"
    _refuse(isolated, "isolated", "isolated pools", lift)
    _refuse(
        condemned,
        "rolled-back-before",
        "builds that were rolled back before",
        '"force": true releases them all the same',
    )


def _refuse(parts: list[RefusedPart], kind: str, what: str, hint: str) -> None:
    if parts:
        raise Refused(
            kind,
            f"{what}: " + "; ".join(f"{part.service}: {part.detail}" for part in parts),
            hint=hint,
            parts=parts,
        )


# --- on its way -----------------------------------------------------------------------------------


def found(state: State, name: str) -> Release:
    """Return the release of that id, ``current`` for the last. Raises Refused (404)."""
    run = state.run
    if run is None or name not in {run.id, "current"}:
        raise Refused("unknown-release", f"there is no release {name!r}", status=404)
    return run


def moved(release: Release, event: Event, now: float, **changes: object) -> Release:
    """Return a release after an event, with what else changes. Raises IllegalMoveError."""
    state, where = machine.after(release.state, event, release.where)
    looked = release.looked + (release.state == "held" and state in machine.PHASES)
    return replace(release, state=state, where=where, moved=now, looked=looked, **changes)


def put(state: State, release: Release, fresh: Callable[[], bytes]) -> Outcome:
    """Put a release into the state, with the weights that it asks for now."""
    services = [weighted(each, release.weight) for each in state.within(release)]
    after = settled(state, replace(state.replaced(*services), run=release), fresh)
    return Outcome(after, tuple(e.name for e in after.services if e != state.of(e.name)))


def advance(
    state: State, step: int, now: float, fresh: Callable[[], bytes], cold_until: float = 0.0
) -> Outcome:
    """Go on to a step of the running release."""
    run = _running(state)
    weight = run.plan.steps[step].weight
    after = moved(
        run,
        "arrive" if weight == BUCKETS else "advance",
        now,
        step=step,
        because="",
        trigger="",
        wants_back=False,
        cold_until=cold_until or run.cold_until,
    )
    return put(state, after, fresh)


def plainly(
    state: State, event: Event, now: float, fresh: Callable[[], bytes], **changes: object
) -> Outcome:
    """Pause, resume, hold or end the running release; its weights follow."""
    run = state.run
    assert run is not None
    after = moved(run, event, now, **changes)
    if event in {"hold", "pause"}:
        # What some services were taken back from stays so until somebody decides.
        return Outcome(settled(state, replace(state, run=after), fresh))
    return put(state, after, fresh)


def undone(state: State, event: Event, now: float, fresh: Callable[[], bytes]) -> Outcome:
    """End a rollback: nothing is left on the candidates."""
    run = state.run
    assert run is not None
    services = [replace(each, tunnels_until=0.0) for each in state.within(run)]
    after = replace(state.replaced(*services), run=moved(run, event, now))
    return Outcome(settled(state, after, fresh), ())


def finalize(state: State, now: float, fresh: Callable[[], bytes]) -> Outcome:
    """Swap the roles of a release's services: the candidate is stable from now on."""
    run = _running(state)
    after = moved(run, "finalize", now, because="", trigger="")
    services = [swapped(each) for each in state.within(run)]
    done = settled(state, replace(state.replaced(*services), run=after), fresh)
    return Outcome(done, run.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a release is taken back or held, in words, by which trigger, by a person or not."""

    because: str
    trigger: str
    by_hand: bool = False

    @property
    def changes(self) -> dict[str, object]:
        """The release's fields."""
        return {"because": self.because, "trigger": self.trigger, "by_hand": self.by_hand}


def roll_back(
    state: State,
    facts: Facts,
    why: Why,
    *,
    now: float,
    fresh: Callable[[], bytes],
    force: bool = False,
    tunnels_until: Callable[[str], float] = lambda service: 0.0,
) -> Outcome:
    """Take every service of a release back to stable.

    Where stable of one cannot serve while its candidate can, that one stays and the release is
    held, to be taken back as soon as it can be (``refused`` says which). ``tunnels_until`` gives
    the time at which a service's tunnels to the candidate are closed.
    """
    run = state.run
    assert run is not None
    if run.wants_back and run.by_hand and not why.by_hand:
        # A part of it had to wait: it is still the person's doing, and condemns no build.
        why = Why(because=run.because, trigger=run.trigger, by_hand=True)
    going, refused = [], []
    for service in state.within(run):
        if service.weight == 0:
            continue
        part = None if force else desk.unavailable(service, service.stable, facts)
        if part is not None:
            refused.append(part)
        else:
            back = desk.opened(weighted(service, 0), service.stable, lift=force)
            going.append(replace(back, tunnels_until=tunnels_until(service.name)))
    # Of a part that waited, what it was taken back for, and what stays now.
    changes = why.changes | {"because": why.because.partition(STAYS)[0]}
    if refused:
        stays = "; ".join(f"{part.service}: {part.detail}" for part in refused)
        changes["because"] = f"{changes['because']}{STAYS}{stays}"
    if not refused:
        after = moved(run, "roll_back", now, wants_back=False, **changes)
    elif run.state == "held":
        after = replace(run, moved=now if going else run.moved, wants_back=True, **changes)
    else:
        after = moved(run, "hold", now, wants_back=True, **changes)
    done = settled(state, replace(state.replaced(*going), run=after), fresh)
    return Outcome(done, tuple(each.name for each in going), tuple(refused))


def isolated_candidates(state: State, run: Release) -> list[str]:
    """Return the candidates of a release that nothing is sent to until lifted, in words."""
    return [
        f"{service.candidate} of {service.name}"
        for service in state.within(run)
        if service.candidate in service.isolated
    ]


def held_for(state: State, why: Why, besides: str, now: float) -> Outcome:
    """Give a held release another reason; beside its own where it is to go back for that one."""
    run = _running(state)
    if run.wants_back:
        own = run.because.partition(besides)[0]
        run = replace(run, moved=now, because=f"{own}{besides}{why.because}")
    else:
        run = replace(run, moved=now, because=why.because, trigger=why.trigger)
    return Outcome(replace(state, run=run))


def _running(state: State) -> Release:
    run = state.running
    assert run is not None
    return run
