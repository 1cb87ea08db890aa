"""What the admin API takes and gives: one typed model per body, the same for server and client.

Importable without side effects and without the server: the command line's client reads answers
through these. Requests are strict (an unknown field is an error); answers tolerate fields that
this version does not know, so that an older client reads a newer gateway. Percentages are percent
(0-100, steps of 0.01), durations in requests are ``500ms``-like strings, in answers seconds or
milliseconds as the field's name says.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

Color = Literal["blue", "green"]
Role = Literal["stable", "candidate"]
#: One literal, not a union of two: what is wrong with it is told of one field.
ColorOrRole = Literal["blue", "green", "stable", "candidate"]
Health = Literal["unknown", "up", "down"]
#: One color everywhere, or at least one service with both sides in play.
Mode = Literal["stable", "split", "candidate", "mixed"]
Source = Literal["file", "api"]
ServiceState = Literal["up", "degraded", "down"]
PlatformMode = Literal["full", "degraded", "read_only"]
BreakerState = Literal["closed", "open", "half_open", "forced_open"]

MAX_ENDPOINTS_PER_POOL = 64

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
#: Bounded by its digits: a caller waits for 99 minutes at most.
_DURATION = re.compile(r"([0-9]{1,6})(ms)|([0-9]{1,3})(s)|([0-9]{1,2})(m)", re.ASCII)
_RETRY_AFTER = re.compile(r"([1-9][0-9]{0,2})([smh])", re.ASCII)

#: ``multipleOf`` in JSON Schema; the tolerance of binary fractions is ours (see ``hundredths``).
Percent: TypeAlias = Annotated[
    float, Field(ge=0, le=100, strict=True, json_schema_extra={"multipleOf": 0.01})
]
Duration: TypeAlias = Annotated[
    str,
    StringConstraints(pattern=r"^([0-9]{1,6}ms|[0-9]{1,3}s|[0-9]{1,2}m)$"),
    Field(examples=["500ms", "30s", "2m"]),
]
#: How long visitors are asked to wait: whole seconds, at least one.
RetryAfter: TypeAlias = Annotated[
    str,
    StringConstraints(pattern=r"^[1-9][0-9]{0,2}[smh]$"),
    Field(examples=["30s", "5m", "2h"]),
]
ServiceName: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")
]
Reason: TypeAlias = Annotated[str, StringConstraints(max_length=500)]
#: Told to schemas; the server itself reads URLs as the configuration does.
_HOST = r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?(\.[a-z]([a-z0-9-]{0,30}[a-z0-9])?){0,5}"
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_URL = rf"^https?://({_HOST}|{_OCTET}(\.{_OCTET}){{3}}|\[::1\])(:[1-9][0-9]{{0,3}})?$"
Url: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=310),
    WithJsonSchema({"type": "string", "pattern": _URL, "examples": ["http://127.0.0.1:3201"]}),
]


def seconds(text: str) -> float:
    """Return a duration's seconds. Raises ValueError where it is not one or is too long."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; expected one like 500ms, 30s, 99m")
    number, unit = (group for group in match.groups() if group is not None)
    return int(number) * _UNITS[unit]


def retry_seconds(text: str) -> float:
    """Return a Retry-After's seconds. Raises ValueError where it is none."""
    match = _RETRY_AFTER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time to come back in; expected one like 30s, 5m, 2h")
    return int(match[1]) * _UNITS[match[2]]


def hundredths(percent: float) -> int:
    """Return a percentage in steps of 0.01 %. Raises ValueError where it is finer than that."""
    steps = round(percent * 100)
    if abs(percent * 100 - steps) > 1e-6:
        raise ValueError(f"{percent} is finer than a hundredth of a percent")
    return steps


class Request(BaseModel):
    """A body that a caller sends: unknown fields are errors, types are exact."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answer(BaseModel):
    """A body that the gateway sends."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# --- requests -----------------------------------------------------------------------------------


def _one_of_the_shares(schema: dict[str, Any]) -> None:
    """Say in JSON Schema what ``TrafficChange`` checks: exactly one share, never null."""
    for name in ("candidate", "green", "blue"):
        field = schema["properties"][name]
        number = next(part for part in field.pop("anyOf") if part.get("type") == "number")
        field.pop("default", None)
        field.update(number)
    schema["oneOf"] = [{"required": [name]} for name in ("candidate", "green", "blue")]


class TrafficChange(Request):
    """Set the percentage by hand: by role (``candidate``) or by color (``green``, ``blue``)."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, json_schema_extra=_one_of_the_shares
    )

    candidate: Percent | None = None
    green: Percent | None = None
    blue: Percent | None = None
    services: list[ServiceName] | None = Field(
        default=None, description="null: every service", min_length=1, max_length=255
    )
    reason: Reason = ""
    force: bool = Field(default=False, description="even where the candidate cannot serve")

    @model_validator(mode="after")
    def _exactly_one(self) -> TrafficChange:
        """Refuse none, two, a null and a percentage that is too fine."""
        given = [name for name in ("candidate", "green", "blue") if name in self.model_fields_set]
        if len(given) != 1:
            raise ValueError("give exactly one of candidate, green and blue")
        value = getattr(self, given[0])
        if value is None:
            raise ValueError(f"{given[0]}: expected a percentage, 0-100")
        hundredths(value)
        return self

    @property
    def share(self) -> tuple[Literal["candidate", "blue", "green"], int]:
        """Which side was named and its share in hundredths of a percent."""
        if self.candidate is not None:
            return "candidate", hundredths(self.candidate)
        if self.green is not None:
            return "green", hundredths(self.green)
        return "blue", hundredths(self.blue or 0.0)


class FinalizeRequest(Request):
    """Swap the roles of services whose candidate carries everything."""

    services: list[ServiceName] | None = Field(default=None, min_length=1, max_length=255)
    reason: Reason = ""


class RollbackRequest(Request):
    """Snap back: to stable, or after a finalize to what was stable before (``previous``)."""

    reason: Reason = ""
    to: Literal["stable", "previous"] = "stable"
    services: list[ServiceName] | None = Field(default=None, min_length=1, max_length=255)
    force: bool = Field(default=False, description="even where the target cannot serve")


class Expect(Request):
    """What a new build's health answer must say: ``json`` is a subset of its body."""

    body: dict[str, JsonValue] = Field(alias="json", description="a subset of the health body")


class PoolChange(Request):
    """The pipeline's new build for the candidate's slot."""

    endpoints: list[Url] = Field(min_length=1, max_length=MAX_ENDPOINTS_PER_POOL)
    wait: Duration | None = Field(
        default="60s", description="how long to wait for health; null: do not wait"
    )
    expect: Expect | None = None
    reason: Reason = ""


class DrainRequest(Request):
    """No new requests there; answer once nothing is in flight."""

    timeout: Duration = "30s"
    reason: Reason = ""


class IsolateRequest(Request):
    """Take a color out until lifted."""

    color: ColorOrRole
    force: bool = Field(default=False, description="even where the other color cannot serve")
    reason: Reason = ""


class MaintenanceRequest(Request):
    """Answer 503 for a service until it is lifted."""

    retry_after: RetryAfter = "5m"
    reason: Reason = ""


class AdoptRequest(Request):
    """Say which color production is, where the state store was lost."""

    color: Color
    services: list[ServiceName] | None = Field(default=None, min_length=1, max_length=255)
    reason: Reason = ""


# --- answers ------------------------------------------------------------------------------------


class Probe(Answer):
    """The last probe on one level (``L1``: connects; ``L2``: answers; ``L3``: can do its work;
    ``L4``: works together with others, the same for all of a pool's endpoints).
    """

    level: str
    ok: bool
    status: int | None = Field(default=None, description="the HTTP status, where there was one")
    detail: str = Field(default="", description="what was wrong")
    duration_ms: float
    age: float = Field(description="seconds since it ended")
    at: float = Field(default=0.0, description="when it ended: seconds since the epoch, UTC")
    counted: bool = Field(
        default=True, description="false: it failed for what is not the pool's own fault"
    )
    body: str = Field(default="", description="the first 256 octets of the answer")


class EndpointStatus(Answer):
    """One endpoint as it is observed now."""

    id: str
    url: str
    health: Health
    in_flight: int
    tunnels: int = 0
    breaker: BreakerState = "closed"
    ejected: bool = Field(default=False, description="left out for a while as an outlier")
    levels: dict[str, Health] = Field(
        default={}, description="health by level; an endpoint is up where all of them are"
    )
    probes: list[Probe] = []


class PoolStatus(Answer):
    """The endpoints in one slot of a service."""

    color: Color
    role: Role
    source: Source
    generation: int
    closed: bool = Field(default=False, description="drained or isolated: nothing new goes there")
    isolated: bool = Field(default=False, description="closed until it is lifted")
    waiting: list[str] = Field(
        default=[],
        description="services below that are down or not yet seen up: L4 is not run meanwhile",
    )
    endpoints: list[EndpointStatus]


class Weights(Answer):
    """Percent of cohort keys by role. They add up to 100."""

    stable: float
    candidate: float


class ServiceStatus(Answer):
    """One service: roles, weights, pools."""

    name: str
    stable: Color
    candidate: Color
    weights: Weights
    previous: bool = Field(
        default=False, description="whether `rollback --to previous` is open for it"
    )
    state: ServiceState = Field(
        default="up",
        description="down: nothing of it can serve, or maintenance; degraded: it can, but a "
        "dependency is down or a fallback has answered lately",
    )
    maintenance: float | None = Field(
        default=None, description="in maintenance: the Retry-After in seconds"
    )
    depends_on: list[str] = Field(default=[], description="services that it calls")
    dependency_down: list[str] = Field(
        default=[], description="of the services below it, those that are down"
    )
    pools: list[PoolStatus]


class ServiceHealth(Answer):
    """What the probes know of one service."""

    service: str
    depends_on: list[str] = Field(description="services that it calls")
    dependency_down: list[str] = Field(description="of the services below it, those that are down")
    pools: list[PoolStatus]


class ProcessStatus(Answer):
    """One process of the gateway."""

    role: Literal["supervisor", "control", "worker"]
    pid: int
    state: str = "ready"
    uptime: float = Field(description="seconds")
    snapshot: int = Field(default=0, description="the snapshot number that it serves")
    slot: int | None = Field(default=None, description="a worker's listening slot")
    connections: int = 0
    in_flight: int = 0
    memory: int | None = Field(default=None, description="resident, in octets; null: not told")
    descriptors: int | None = Field(default=None, description="open; null: not told")
    tasks: int | None = Field(default=None, description="of its loop, not done")
    timers: int | None = Field(default=None, description="a worker's: places on its timer wheel")
    upstream_busy: int | None = Field(
        default=None, description="a worker's connections to backends that carry something"
    )
    upstream_idle: int | None = Field(default=None, description="those that wait for a request")
    stall: float | None = Field(
        default=None, description="the longest stall of its loop since its start, in seconds"
    )


class Drift(Answer):
    """Where the state store outranks the file and the two differ."""

    service: str
    field: str = Field(description="stable, blue.endpoints, green.endpoints")
    file: str
    store: str


class SharedAddress(Answer):
    """A private address that makes nearly all of the last minutes' requests."""

    address: str = Field(description="of IPv6 its /64")
    share: float = Field(description="of the requests, 0 to 1")
    requests: int = Field(description="all that were looked at")
    forwards: bool = Field(description="its requests say for whom they are: it is a proxy")


class UpgradeStatus(Answer):
    """The last upgrade: how far it has come, or how it ended."""

    step: Literal["asked", "tried", "done", "refused", "rolled_back", "failed"]
    at: float = Field(description="when that was, seconds since the epoch, UTC")
    before: str = Field(description="the version that ran")
    after: str = Field(default="", description="the version that runs now; empty: not tried yet")
    by: str = Field(description="the local user who asked for it")
    seconds: float = Field(default=0.0, description="since it was asked for")
    way_back: bool = Field(default=True, description="the version before could be started again")
    detail: str = Field(default="", description="why it was refused, or went back")


class CertificateStatus(Answer):
    """A certificate that is served with: a listener's or the admin API's."""

    place: str = Field(description="where it stands in the configuration")
    names: list[str] = Field(description="what it is for; none: browsers refuse it")
    expires: int = Field(description="until when it is good, seconds since the epoch, UTC")
    refused: bool = Field(
        default=False,
        description="its files hold something else that is of no use; why is among the warnings",
    )


class StatusAnswer(Answer):
    """One picture of the gateway."""

    version: str
    traffic_revision: int
    snapshot: int = Field(description="the snapshot number that workers are asked to serve")
    mode: Mode
    platform: PlatformMode = Field(
        default="full", description="what the public status says: full, degraded, read_only"
    )
    forced_stable: bool = Field(
        default=False, description="some worker obeys `rollback --local`'s flag file"
    )
    release: str | None = Field(default=None, description="the id that the split in force quotes")
    services: list[ServiceStatus]
    processes: list[ProcessStatus]
    certificates: list[CertificateStatus] = []
    drift: list[Drift] = []
    warnings: list[str] = []
    shared_address: SharedAddress | None = Field(
        default=None, description="a private address that makes nearly all requests; null: none"
    )
    upgrade: UpgradeStatus | None = Field(
        default=None, description="the last upgrade; null: there was none"
    )


class TrafficService(Answer):
    """Roles and percentage of one service."""

    name: str
    stable: Color
    candidate: Color
    weight: float = Field(description="the candidate's share in percent")
    closed: list[Color] = []
    maintenance: float | None = Field(
        default=None, description="in maintenance: the Retry-After in seconds"
    )


class TrafficAnswer(Answer):
    """Roles and percentages under one revision, which is also the ``ETag``."""

    revision: int
    mode: Mode
    services: list[TrafficService]
    changed: bool = False
    applied_in_ms: float | None = Field(
        default=None, description="from the call until every worker served it; null: nothing moved"
    )


class RefusedService(Answer):
    """A service that a rollback left as it was, and why."""

    service: str
    type: str
    detail: str


class RollbackAnswer(TrafficAnswer):
    """What a rollback moved, what it refused, and whether that is on disk."""

    rolled_back: list[str] = []
    refused: list[RefusedService] = []
    persisted: bool = True


class PoolAnswer(Answer):
    """A pool after a write."""

    service: str
    pool: PoolStatus
    changed: bool
    waited_ms: float = 0.0
    applied_in_ms: float | None = None


class DrainAnswer(Answer):
    """A drained pool: nothing is in flight there, nothing new goes there."""

    service: str
    color: Color
    changed: bool
    in_flight: int = 0
    waited_ms: float = 0.0


class ReloadAnswer(Answer):
    """What a reload changed, and where the state store outranks the file."""

    changed: bool
    changes: list[str]
    drift: list[Drift]
    snapshot: int
    applied_in_ms: float | None = None


class AuditRow(Answer):
    """One write: who, from where, when, what, before, after, why."""

    id: int
    at: float = Field(description="seconds since the epoch, UTC")
    actor: str
    address: str
    action: str
    reason: str = ""
    before: JsonValue = None
    after: JsonValue = None


class AuditPage(Answer):
    """Newest first. ``next`` is the ``before`` of the following page, null at the end."""

    rows: list[AuditRow]
    next: int | None = None


class HealthAnswer(Answer):
    """The gateway's own health, never the backends'."""

    status: Literal["ok", "unready"]
    detail: str = ""


class ProblemItem(Answer):
    """One of several faults of one request or file."""

    field: str = ""
    detail: str


class EndpointEvidence(Answer):
    """What was last seen of an endpoint that did not become healthy."""

    id: str
    url: str
    health: Health
    probes: list[Probe] = []


class Problem(Answer):
    """RFC 9457: ``type`` is stable (``urn:gateway:stale-revision``), ``field`` is the fault's."""

    type: str
    title: str
    status: int
    detail: str = ""
    field: str | None = None
    hint: str | None = None
    services: list[RefusedService] | None = None
    errors: list[ProblemItem] | None = None
    endpoints: list[EndpointEvidence] | None = None
    in_flight: int | None = None
    revision: int | None = Field(default=None, description="the traffic revision in force")
    lagging: list[str] | None = None
    release: str | None = Field(default=None, description="the release in the way")
