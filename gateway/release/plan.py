"""What a release is to do, frozen at its start: a reload changes no release under way. Pure.

Weights are hundredths of a percent, durations seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.config.snapshot import BUCKETS

if TYPE_CHECKING:
    from gateway.config.schema.releases import Releases


#: Seconds that a pipeline has to renew its release in, at least.
LEAST_LEASE = 1.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One weight and how long it is held; ``early``: less long, where that much is proven."""

    weight: int
    hold: float
    early: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a release goes, and when it passes. ``lease`` None: nobody has to renew it."""

    steps: tuple[Step, ...]
    min_requests: int = 100
    min_keys: int = 5
    max_hold: float = 3600.0
    validate_within: float = 120.0
    on_inconclusive: Literal["hold", "promote", "rollback"] = "hold"
    finalize: Literal["auto", "manual"] = "auto"
    forward_only: bool = False
    lease: float | None = None
    on_lease_lost: Literal["rollback", "hold"] = "rollback"

    @property
    def last(self) -> int:
        """The last step's index."""
        return len(self.steps) - 1

    @property
    def seconds(self) -> float:
        """How long it takes where every hold is as long as it says."""
        return sum(step.hold for step in self.steps)


class PlanError(Exception):
    """A plan that cannot be: ``field`` is the part of the request at fault."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a call asks for in place of the configuration; None: as that says."""

    steps: tuple[Step, ...] | None = None
    lease: float | None = None
    on_lease_lost: Literal["rollback", "hold"] | None = None
    finalize: Literal["auto", "manual"] | None = None
    forward_only: bool | None = None


def plan_of(releases: Releases, wish: Wish) -> Plan:
    """Return the plan of the configuration with what a call asks for. Raises PlanError."""
    steps = wish.steps
    if steps is None:
        steps = tuple(
            Step(weight=each.weight, hold=each.hold, early=each.early) for each in releases.steps
        )
    check_steps(steps)
    lease = releases.lease if wish.lease is None else wish.lease
    if lease is not None and lease < LEAST_LEASE:
        raise PlanError(
            "lease", f"{lease:g} s is no time to renew in, expected at least {LEAST_LEASE:g} s"
        )
    return Plan(
        steps=steps,
        min_requests=releases.min_requests,
        min_keys=releases.min_keys,
        max_hold=releases.max_hold,
        validate_within=releases.validate_within,
        on_inconclusive=releases.on_inconclusive,
        finalize=wish.finalize or releases.finalize,
        forward_only=(releases.forward_only if wish.forward_only is None else wish.forward_only),
        lease=lease,
        on_lease_lost=wish.on_lease_lost or releases.on_lease_lost,
    )


def check_steps(steps: tuple[Step, ...]) -> None:
    """Refuse steps that lead nowhere. Raises PlanError with the first fault."""
    if not steps:
        raise PlanError("steps", "there are none, expected at least one, the last at 100")
    before = 0
    for position, step in enumerate(steps):
        if step.weight <= before:
            raise PlanError(
                f"steps.{position}.weight",
                f"{step.weight / 100:g} follows {before / 100:g}, expected rising weights above 0",
            )
        before = step.weight
    if before != BUCKETS:
        raise PlanError(
            f"steps.{len(steps) - 1}.weight",
            f"the last step is {before / 100:g}, expected 100: roles swap where the candidate "
            "carries everything",
        )
