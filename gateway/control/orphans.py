"""A release that workers serve and nobody knows any more: its store is lost, and the copy with it.

Pure. What is left of it is in the snapshot: its id, its services and their shares. Nobody could go
on with it, for its plan is gone, and nobody judges a candidate without rules: it goes back to
stable. It is made a release again for that, with the plan that it takes: so it goes the way of
every rollback (not onto a pool that cannot serve, with tunnels that end, an event and an alert),
and whoever waits for it by its id is told how it ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.config.schema.releases import ServiceTriggers
from gateway.config.snapshot import BUCKETS
from gateway.release import machine
from gateway.release.bounds import effective
from gateway.release.plan import Plan, Step
from gateway.release.record import STATE_LOST, Part, Release

if TYPE_CHECKING:
    from gateway.config.snapshot import Traffic
    from gateway.control.settings import Settings
    from gateway.control.state import ServiceState, State

replace = msgspec.structs.replace

BECAUSE: Final = "the state store was lost during this release, and with it its plan and evidence"
#: Requests; nothing of it is judged by it, and a judgement has one.
_HORIZON: Final = 1000.0
FORWARD_ONLY: Final = "; not rolled back: it is forward only"


def of_nobody(state: State | None, traffic: Traffic) -> bool:
    """Tell whether workers serve a release that ``state`` does not know."""
    run = state.run if state is not None else None
    return bool(traffic.watch) and (run is None or run.id != traffic.release)


def taken_in(state: State, traffic: Traffic, settings: Settings, wall: float) -> State:
    """Return the state with the release that workers serve, on its way back.

    One that is forward only is held: going back is what it must not do by itself. ``wall`` is
    seconds since the epoch.
    """
    watched = [state.of(each.service) for each in traffic.watch]
    services = [each for each in watched if each is not None]
    weight = max((each.weight for each in services), default=0)
    steps = [Step(weight=each, hold=0.0) for each in sorted({weight, BUCKETS} - {0})]
    run = Release(
        id=traffic.release,
        number=state.run.number + 1 if state.run is not None else 1,
        version="",
        actor="",
        reason="",
        plan=Plan(steps=tuple(steps), finalize="manual", forward_only=traffic.forward_only),
        parts=tuple(_part(each, settings) for each in services),
        began=wall,
        moved=wall,
        where="validating" if weight == 0 else "baking" if weight == BUCKETS else "stepping",
        state="paused",  # which never goes on by itself
        step=0 if weight else -1,
        because=BECAUSE,
        trigger=STATE_LOST,
        horizon=_HORIZON,
    )
    if weight == 0:
        back, where = machine.after(run.state, "roll_back", run.where)
        run = replace(run, state=back, where=where)
    elif traffic.forward_only:
        run = replace(run, state="held", because=BECAUSE + FORWARD_ONLY)
    else:
        run = replace(run, wants_back=True)
    return replace(state, run=run)


def _part(service: ServiceState, settings: Settings) -> Part:
    general, own = settings.releases.triggers, settings.of(service.name)
    return Part(
        service=service.name,
        candidate=service.candidate,
        generation=service.pool(service.candidate).generation,
        stable_generation=service.pool(service.stable).generation,
        rules=effective(general, own.triggers if own is not None else ServiceTriggers()),
        alpha=general.regression.alpha,
        tolerance=general.regression.tolerance,
    )
