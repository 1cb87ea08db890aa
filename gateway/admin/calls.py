"""The admin API as one table: every call with its role, its bodies and every status it can give.

Routes, the check of roles, the reading of bodies and the OpenAPI document all come from here, so
that none of them can say something else than the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from gateway.admin import breaker_models, models, release_models

if TYPE_CHECKING:
    from gateway.control.settings import TokenRole

Where = Literal["path", "query", "header"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; ``schema`` is JSON Schema."""

    name: str
    where: Where
    schema: dict[str, Any]
    description: str


SERVICE: Final = Parameter(
    "service",
    "path",
    {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"},
    "A configured service.",
)
SLOT: Final = Parameter(
    "slot",
    "path",
    {"type": "string", "enum": ["blue", "green", "stable", "candidate"]},
    "A color, or the role that it has now.",
)
ENDPOINT: Final = Parameter(
    "endpoint",
    "path",
    {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"},
    "An endpoint's id, as `GET /v1/status` and `GET /v1/breakers` show it.",
)
RELEASE: Final = Parameter(
    "id",
    "path",
    {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    "A release's id; `current`: the one under way, or the last.",
)
IF_MATCH: Final = Parameter(
    "If-Match",
    "header",
    {"type": "string", "pattern": '^(\\*|"[0-9]{1,15}")$'},
    "The ETag (traffic revision) that the caller decided on; 412 where another is in force.",
)
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "A call that is repeated under its key within a day gives the first one's answer again.",
)
REASON: Final = Parameter(
    "reason", "query", {"type": "string", "maxLength": 500}, "Why, for the audit log."
)
COLOR: Final = Parameter(
    "color",
    "query",
    {"type": "string", "enum": ["blue", "green", "stable", "candidate"]},
    "The one to lift; absent: both.",
)
LIMIT: Final = Parameter(
    "limit", "query", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}, "Rows."
)
BEFORE: Final = Parameter(
    "before",
    "query",
    {"type": "integer", "minimum": 1, "maximum": 2**53},
    "Rows with smaller ids: the `next` of the page before.",
)
LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID",
    "header",
    {"type": "string", "pattern": "^[!-~]{1,100}$"},
    "Where to go on from.",
)

HTML: Final = "text/html"
TEXT: Final = "text/plain"
EVENTS: Final = "text/event-stream"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operation. ``name`` is also its handler's."""

    method: str
    path: str
    name: str
    #: None: for anybody who reaches the address.
    role: TokenRole | None
    summary: str
    #: The answer's model, or its media type where it is not one of ours.
    answer: type[models.Answer] | str
    body: type[models.Request] | None = None
    parameters: tuple[Parameter, ...] = ()
    #: Statuses other than ``done`` beside those that follow from the rest.
    refusals: tuple[int, ...] = ()
    #: Obeys If-Match and Idempotency-Key.
    guarded: bool = False
    #: Bears the traffic revision as ETag.
    etag: bool = False
    #: The status of success.
    done: int = 200

    @property
    def optional_body(self) -> bool:
        """Whether an empty body stands for the defaults."""
        return (
            self.body is not None
            and not any(field.is_required() for field in self.body.model_fields.values())
            and self.body is not models.TrafficChange
        )

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """Its own parameters and those of every guarded call."""
        return self.parameters + ((IF_MATCH, IDEMPOTENCY_KEY) if self.guarded else ())

    @property
    def statuses(self) -> tuple[int, ...]:
        """Every status of a refusal, in order."""
        found = {421, *self.refusals}
        if self.role is not None:
            found |= {401, 403, 429}
        if self.body is not None:
            found |= {400, 408, 413, 415, 422}
        if self.guarded:
            found |= {400, 409, 412, 422, 503, 504}
        if any(each.where == "query" for each in self.parameters):
            found |= {422}
        if any(each.where == "path" for each in self.parameters):
            found |= {404}
        return tuple(sorted(found))


CALLS: Final[tuple[Call, ...]] = (
    Call(
        method="GET",
        path="/v1/status",
        name="status",
        role="viewer",
        summary="One picture of the gateway",
        answer=models.StatusAnswer,
        etag=True,
    ),
    Call(
        method="GET",
        path="/v1/traffic",
        name="traffic",
        role="viewer",
        summary="Roles and percentages",
        answer=models.TrafficAnswer,
        etag=True,
    ),
    Call(
        method="PUT",
        path="/v1/traffic",
        name="set_traffic",
        role="operator",
        summary="Set the percentage by hand",
        body=models.TrafficChange,
        answer=models.TrafficAnswer,
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/traffic/finalize",
        name="finalize",
        role="operator",
        summary="Swap the roles where the candidate carries everything",
        body=models.FinalizeRequest,
        answer=models.TrafficAnswer,
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/rollback",
        name="rollback",
        role="operator",
        summary="Snap back at once",
        body=models.RollbackRequest,
        answer=models.RollbackAnswer,
        refusals=(409, 504),
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/adopt",
        name="adopt",
        role="operator",
        summary="Say which color production is, where the state store was lost",
        body=models.AdoptRequest,
        answer=models.TrafficAnswer,
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/releases",
        name="start_release",
        role="operator",
        summary="Start a release",
        body=release_models.ReleaseStart,
        answer=release_models.ReleaseAnswer,
        done=201,
        guarded=True,
        etag=True,
    ),
    Call(
        method="GET",
        path="/v1/releases",
        name="releases",
        role="viewer",
        summary="Every release, newest first",
        answer=release_models.ReleasesPage,
        parameters=(LIMIT, BEFORE),
        refusals=(503,),
        etag=True,
    ),
    Call(
        method="GET",
        path="/v1/releases/{id}",
        name="release",
        role="viewer",
        summary="One release: where it is, what speaks for and against it, what it waits for",
        answer=release_models.ReleaseStatus,
        parameters=(RELEASE,),
        refusals=(503,),
        etag=True,
    ),
    Call(
        method="GET",
        path="/v1/releases/{id}/decisions",
        name="decisions",
        role="viewer",
        summary="Every decision about a release, with its numbers",
        answer=release_models.DecisionsPage,
        parameters=(RELEASE,),
        refusals=(503,),
    ),
    Call(
        method="POST",
        path="/v1/releases/{id}/pause",
        name="pause_release",
        role="operator",
        summary="Let a release rest where it is; it is judged on",
        body=release_models.ReleaseVerb,
        answer=release_models.ReleaseAnswer,
        parameters=(RELEASE,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/releases/{id}/resume",
        name="resume_release",
        role="operator",
        summary="Go on where it was paused or held",
        body=release_models.ReleaseVerb,
        answer=release_models.ReleaseAnswer,
        parameters=(RELEASE,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/releases/{id}/promote",
        name="promote_release",
        role="operator",
        summary="Go on to the next step, or to a percentage",
        body=release_models.ReleasePromote,
        answer=release_models.ReleaseAnswer,
        parameters=(RELEASE,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/releases/{id}/abort",
        name="abort_release",
        role="operator",
        summary="Take a release back",
        body=release_models.ReleaseVerb,
        answer=release_models.ReleaseAnswer,
        parameters=(RELEASE,),
        refusals=(409, 503, 504),
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/releases/{id}/finalize",
        name="finalize_release",
        role="operator",
        summary="Swap the roles at 100 %",
        body=release_models.ReleaseVerb,
        answer=release_models.ReleaseAnswer,
        parameters=(RELEASE,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/releases/{id}/renew",
        name="renew_release",
        role="operator",
        summary="Give a release's lease its full time again",
        body=release_models.ReleaseRenew,
        answer=release_models.ReleaseAnswer,
        parameters=(RELEASE,),
        refusals=(409, 503, 504),
        etag=True,
    ),
    Call(
        method="GET",
        path="/v1/services/{service}/health",
        name="service_health",
        role="viewer",
        summary="What the probes know of one service, and what it waits for",
        answer=models.ServiceHealth,
        parameters=(SERVICE,),
    ),
    Call(
        method="PUT",
        path="/v1/services/{service}/pools/{slot}",
        name="put_pool",
        role="operator",
        summary="Put a new build into the candidate's slot, once it is healthy",
        body=models.PoolChange,
        answer=models.PoolAnswer,
        parameters=(SERVICE, SLOT),
        guarded=True,
        etag=True,
    ),
    Call(
        method="DELETE",
        path="/v1/services/{service}/pools/{slot}",
        name="reset_pool",
        role="operator",
        summary="Return a slot to the file's endpoints",
        answer=models.PoolAnswer,
        parameters=(SERVICE, SLOT, REASON),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/services/{service}/pools/{slot}/drain",
        name="drain",
        role="operator",
        summary="No new requests there; answers when nothing is in flight",
        body=models.DrainRequest,
        answer=models.DrainAnswer,
        parameters=(SERVICE, SLOT),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/services/{service}/isolate",
        name="isolate",
        role="operator",
        summary="Take a color out until lifted",
        body=models.IsolateRequest,
        answer=models.TrafficAnswer,
        parameters=(SERVICE,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="DELETE",
        path="/v1/services/{service}/isolate",
        name="lift",
        role="operator",
        summary="Lift an isolation",
        answer=models.TrafficAnswer,
        parameters=(SERVICE, COLOR, REASON),
        guarded=True,
        etag=True,
    ),
    Call(
        method="GET",
        path="/v1/breakers",
        name="breakers",
        role="viewer",
        summary="Every endpoint's breaker",
        answer=breaker_models.BreakersAnswer,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/breakers/{endpoint}/open",
        name="open_breaker",
        role="operator",
        summary="Send an endpoint nothing until its breaker is reset",
        body=breaker_models.BreakerOpen,
        answer=breaker_models.BreakerAnswer,
        parameters=(ENDPOINT,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/breakers/{endpoint}/reset",
        name="reset_breaker",
        role="operator",
        summary="Close an endpoint's breaker, whoever opened it; bring an outlier back",
        body=breaker_models.BreakerReset,
        answer=breaker_models.BreakerAnswer,
        parameters=(ENDPOINT,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/services/{service}/maintenance",
        name="maintain",
        role="operator",
        summary="Answer 503 with Retry-After for a service until lifted",
        body=models.MaintenanceRequest,
        answer=models.TrafficAnswer,
        parameters=(SERVICE,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="DELETE",
        path="/v1/services/{service}/maintenance",
        name="end_maintenance",
        role="operator",
        summary="End a service's maintenance",
        answer=models.TrafficAnswer,
        parameters=(SERVICE, REASON),
        guarded=True,
        etag=True,
    ),
    Call(
        method="POST",
        path="/v1/config/reload",
        name="reload",
        role="admin",
        summary="Read the configuration file again",
        answer=models.ReloadAnswer,
        parameters=(REASON,),
        refusals=(422,),
        guarded=True,
        etag=True,
    ),
    Call(
        method="GET",
        path="/v1/events",
        name="events",
        role="viewer",
        summary="Server-sent events: traffic, release, alert, pool, health, breaker, mode, config, "
        "upgrade, logins-failed",
        answer=EVENTS,
        parameters=(LAST_EVENT_ID,),
        refusals=(503,),
    ),
    Call(
        method="GET",
        path="/v1/audit",
        name="audit",
        role="viewer",
        summary="Every write, newest first",
        answer=models.AuditPage,
        parameters=(LIMIT, BEFORE),
        refusals=(503,),
    ),
    Call(
        method="GET",
        path="/openapi.json",
        name="openapi",
        role=None,
        summary="This description",
        answer=JSON,
    ),
    Call(
        method="GET",
        path="/docs",
        name="docs",
        role=None,
        summary="This description, for people",
        answer=HTML,
    ),
    Call(method="GET", path="/", name="dashboard", role=None, summary="Dashboard", answer=HTML),
    Call(
        method="GET",
        path="/healthz",
        name="healthz",
        role=None,
        summary="Control is alive",
        answer=models.HealthAnswer,
    ),
    Call(
        method="GET",
        path="/readyz",
        name="readyz",
        role=None,
        summary="All workers serve the current snapshot (never the backends' health)",
        answer=models.HealthAnswer,
        refusals=(503,),
    ),
    Call(
        method="GET",
        path="/metrics",
        name="metrics",
        role=None,
        summary="Prometheus text",
        answer=TEXT,
    ),
)
