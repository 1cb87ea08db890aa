"""What the calls about releases take and give; see ``models``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, StringConstraints, model_validator

from gateway.admin.models import (
    Answer,
    Color,
    EndpointEvidence,
    Health,
    Percent,
    Reason,
    Request,
    ServiceName,
    hundredths,
)
from gateway.release.machine import State

ReleaseState = State
Verdict = Literal["pass", "fail", "inconclusive"]
Version = Annotated[str, StringConstraints(max_length=200)]


def whole(value: object) -> object:
    """Return 3.0 as 3: JSON has one kind of number, and JSON Schema takes it for an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Generation = Annotated[int, BeforeValidator(whole), Field(ge=1, le=2**53, strict=True)]
Pools = Annotated[
    dict[ServiceName, Generation], Field(json_schema_extra={"additionalProperties": False})
]
#: A hold may be longer than a caller waits: up to days.
Hold = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{1,6}(ms|s|m|h|d)$"),
    Field(examples=["5m", "30s", "2h"]),
]
#: A second at least: no pipeline renews more often.
Lease = Annotated[
    str,
    StringConstraints(pattern=r"^([1-9][0-9]{3,5}ms|[1-9][0-9]{0,2}s|[1-9][0-9]?m)$"),
    Field(examples=["30s", "2m"]),
]

# --- requests -----------------------------------------------------------------------------------


class ReleaseStep(Request):
    """One weight in percent, how long it is held, whether it may pass early."""

    weight: Percent
    hold: Hold = "5m"
    early: bool = False

    @model_validator(mode="after")
    def _not_too_fine(self) -> ReleaseStep:
        hundredths(self.weight)
        return self


class ReleaseStart(Request):
    """Start a release. What is null is as the configuration says."""

    services: list[ServiceName] | None = Field(
        default=None, description="null: every service", min_length=1, max_length=255
    )
    version: Version = Field(default="", description="what people know the build by")
    pools: Pools | None = Field(
        default=None, description="the candidate's generation by service; 412 where it is another"
    )
    steps: list[ReleaseStep] | None = Field(default=None, min_length=1, max_length=100)
    lease: Lease | None = Field(default=None, description="how often the release must be renewed")
    on_lease_lost: Literal["rollback", "hold"] | None = None
    finalize: Literal["auto", "manual"] | None = None
    forward_only: bool | None = None
    force: bool = Field(default=False, description="even a generation that was rolled back before")
    reason: Reason = ""


class ReleaseVerb(Request):
    """Pause, resume, abort, finalize: why, and whether it is done against advice."""

    reason: Reason = ""
    force: bool = False


class ReleasePromote(Request):
    """On to the next step, or to the first that is at least ``to`` percent."""

    to: Percent | None = None
    reason: Reason = ""
    force: bool = Field(default=False, description="even where the candidate cannot serve")


class ReleaseRenew(Request):
    """Renew the lease."""


# --- answers ------------------------------------------------------------------------------------


class ReleaseSummary(Answer):
    """One release in a list. Times are seconds since the epoch, UTC."""

    id: str
    version: str = ""
    state: ReleaseState
    step: int = Field(description="the step in force, from 1; 0 before the first")
    steps: int
    weight: float = Field(description="the candidate's share in percent that it asks for now")
    services: list[str]
    began: float
    moved: float = Field(description="when its state or step last changed")
    actor: str
    reason: str = ""
    because: str = Field(default="", description="why it is held or has ended")
    trigger: str = Field(default="", description="what made it so")


class StepStatus(Answer):
    """One step of the plan."""

    weight: float
    hold: float = Field(description="seconds")
    early: bool = False
    state: Literal["done", "current", "ahead"]


class SideFigures(Answer):
    """What one side of a scope was seen to do since the release began."""

    requests: int = Field(description="that a backend was asked for; no overrides, no probes")
    failed: int
    error_rate: float | None = Field(default=None, description="share, 0-1; null: no requests")
    refused: int = Field(
        default=0, description="first 401, 403, 404 or 422 of a client, one a client"
    )
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


class TestStatus(Answer):
    """One test or rule: whether it can speak at this traffic, and what it says."""

    __test__ = False  # no test of pytest's

    name: str = Field(description="regression, error_rate, latency, unhealthy, ...")
    speaks: bool
    verdict: Verdict
    text: str = Field(default="", description="its numbers, or why it cannot speak")


class ScopeStatus(Answer):
    """The evidence in one scope: a service, or all of the release (``*``)."""

    scope: str
    candidate: SideFigures
    stable: SideFigures
    evidence: float = Field(description="that the candidate is worse; 1 at the start")
    threshold: float = Field(description="evidence at which it is rolled back")
    progress: float = Field(description="log evidence by log threshold, 0-1")
    leading: str = Field(default="", description="the metric that carries most of it")
    verdict: Verdict
    tests: list[TestStatus] = Field(default=[])
    cold: bool = Field(default=False, description="stable has no history of latencies")
    thresholds_ms: dict[str, float] = Field(default={}, description="latencies watched")


class GateStatus(Answer):
    """What the step in force still waits for."""

    held: float = Field(description="seconds of its hold that have run")
    hold: float
    requests: int = Field(description="of the candidate, in this step")
    min_requests: int
    keys: int = Field(description="different clients among them; bounded at 1,024")
    min_keys: int
    probes: bool = Field(description="every candidate endpoint passes all its probes")
    waits: list[str] = Field(description="what keeps the step from passing, in words")


class Outlook(Answer):
    """When a verdict can be expected, at the current rate; null: not at this rate."""

    pass_in: float | None = Field(default=None, description="seconds")
    fail_in: float | None = Field(default=None, description="seconds")
    text: str = ""


class LeaseStatus(Answer):
    """The lease, where there is one."""

    seconds: float
    left: float
    on_lost: Literal["rollback", "hold"]
    rests: bool = Field(description="paused, held or over: it does not run out")


class ReleasePool(Answer):
    """One service's candidate pool."""

    service: str
    color: Color
    generation: int
    stable_generation: int
    health: Health
    endpoints: list[EndpointEvidence] = Field(
        default=[], description="endpoints that do not pass their probes, with the last of each"
    )


class ReleaseStatus(ReleaseSummary):
    """One release with everything that is known of it now."""

    plan: list[StepStatus]
    pools: list[ReleasePool]
    gate: GateStatus | None = Field(default=None, description="null: it is over")
    lease: LeaseStatus | None = None
    scopes: list[ScopeStatus] = Field(default=[])
    outlook: Outlook | None = None
    verdict: Verdict = "inconclusive"
    forward_only: bool = False
    finalize: Literal["auto", "manual"] = "auto"
    alpha: float = Field(description="the chance of taking back a healthy release")


class ReleaseAnswer(ReleaseStatus):
    """A release after a write."""

    changed: bool = False
    applied_in_ms: float | None = None


class ReleasesPage(Answer):
    """Newest first. ``next`` is the ``before`` of the following page, null at the end."""

    releases: list[ReleaseSummary]
    next: int | None = None


class DecisionRow(Answer):
    """One decision with the numbers it was made by."""

    id: int
    at: float
    what: str
    state: ReleaseState
    step: int
    weight: float
    text: str
    numbers: dict[str, JsonValue] = Field(default={})


class DecisionsPage(Answer):
    """Oldest first: the release's whole story."""

    release: str
    decisions: list[DecisionRow]
