"""Releases: steps, and the triggers that take one back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from gateway.config.schema.types import (
    Duration,
    Flag,
    Positive,
    Seconds,
    Section,
    Share,
    Weight,
    key,
)

Quantile = Annotated[float, Strict(), Field(gt=0, lt=1)]


class Step(Section):
    """One weight and how long it is held."""

    weight: Weight = Field(description="The candidate's share in percent, by 0.01.")
    hold: Duration = key("5m", description="How long it is judged before the next step.")
    early: Flag = key(
        default=False,
        description="The next step may come before the hold is over, once the candidate is proven "
        "not to be `early.worse` times worse.",
    )


class ErrorRateTrigger(Section):
    """Too many of the candidate's answers are errors."""

    above: Share = key("5%", description="Share of failed requests.")
    for_: Duration = key("2m", alias="for", description="How long it must last.")


class LatencyTrigger(Section):
    """The candidate answers too slowly."""

    above: Duration = key("2000ms", description="Time to an answer.")
    quantile: Quantile = key(0.95, description="The share of requests that must be faster.")
    for_: Duration = key("2m", alias="for", description="How long it must last.")


class UnhealthyTrigger(Section):
    """Probes of the candidate fail."""

    for_: Duration = key("30s", alias="for", description="Time from the first failed probe.")


class BreakersOpenTrigger(Section):
    """The breakers of a whole candidate pool are open. It has no keys."""


class CriticalDownTrigger(Section):
    """A critical service has no endpoint left. It has no keys."""


class RegressionTrigger(Section):
    """The candidate is worse than stable, beyond chance."""

    alpha: Quantile = key(0.01, description="Chance of taking back a release that is healthy.")
    tolerance: Annotated[float, Strict(), Field(ge=0, le=1000, allow_inf_nan=False)] = key(
        1.0, description="How many times stable's rate the candidate may fail."
    )


class CspViolationsTrigger(Section):
    """Browsers report more violations of content policies on the candidate than on stable."""

    alpha: Quantile = key(0.01, description="Chance of taking back a release that is healthy.")
    tolerance: Annotated[float, Strict(), Field(ge=0, le=1000, allow_inf_nan=False)] = key(
        1.0, description="How many times stable's clients with a violation it may have."
    )


class Triggers(Section):
    """What takes a release back."""

    error_rate: ErrorRateTrigger = key({}, description="Too many errors.")
    latency: LatencyTrigger = key({}, description="Answers too slowly.")
    unhealthy: UnhealthyTrigger = key({}, description="Failing probes.")
    breakers_open: BreakersOpenTrigger = key(
        {},
        description="Every endpoint of a candidate pool has an open breaker.",
    )
    critical_down: CriticalDownTrigger = key({}, description="A critical service has nothing left.")
    regression: RegressionTrigger = key({}, description="Worse than stable, beyond chance.")
    csp_violations: CspViolationsTrigger | None = key(
        None,
        description="More clients with reported violations of content policies than stable, beyond "
        "chance; needs security.csp_reports. null: not judged.",
    )


class ServiceTriggers(Section):
    """What a service has of its own; absent: as under ``releases.triggers``."""

    error_rate: ErrorRateTrigger | None = key(None, description="Too many errors.")
    latency: LatencyTrigger | None = key(None, description="Answers too slowly.")
    unhealthy: UnhealthyTrigger | None = key(None, description="Failing probes.")
    breakers_open: BreakersOpenTrigger | None = key(
        None, description="Every endpoint of a candidate pool has an open breaker."
    )
    critical_down: CriticalDownTrigger | None = key(
        None, description="A critical service has nothing left."
    )
    regression: RegressionTrigger | None = key(
        None, description="Worse than stable, beyond chance."
    )
    csp_violations: CspViolationsTrigger | None = key(
        None, description="More clients with reported violations than stable, beyond chance."
    )


_STEPS = (
    {"weight": 5, "hold": "5m"},
    {"weight": 20, "hold": "5m"},
    {"weight": 50, "hold": "10m"},
    {"weight": 100, "hold": "15m"},
)


class Early(Section):
    """What a step with ``early: true`` needs to pass before its hold is over."""

    beta: Quantile = key(
        0.05, description="Chance of letting a candidate pass that is `worse` times worse."
    )
    worse: Annotated[float, Strict(), Field(gt=1, le=1000, allow_inf_nan=False)] = key(
        2.0, description="How many times stable's failures it is proven not to have."
    )


class Releases(Section):
    """How a release goes from stable to candidate."""

    steps: tuple[Step, ...] = key(
        _STEPS, min_length=1, description="Weights in rising order, each with its hold."
    )
    min_requests: Positive = key(
        100, description="Requests of the candidate that a step is judged on, at least."
    )
    min_keys: Annotated[Positive, Field(le=1024)] = key(
        5, description="Different clients among them, at least."
    )
    validate_within: Seconds = key(
        "2m", description="How long candidates may take to be healthy on all levels."
    )
    max_hold: Seconds = key("1h", description="How long a step waits for enough requests.")
    on_inconclusive: Literal["hold", "promote", "rollback"] = key(
        "hold", description="What happens after max_hold."
    )
    finalize: Literal["auto", "manual"] = key(
        "auto", description="Whether the roles swap by themselves after the last hold."
    )
    forward_only: Flag = key(
        default=False, description="The release cannot go back: hold and alert instead."
    )
    lease: Seconds | None = key(
        None, description="How often the pipeline must renew its release; null: never."
    )
    on_lease_lost: Literal["rollback", "hold"] = key(
        "rollback", description="What happens when it has not."
    )
    early: Early = key({}, description="What passes a step early, where a step allows it.")
    triggers: Triggers = key({}, description="What takes a release back.")
