"""Services: pools, timeouts, health, and what happens when they fail."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from gateway.config.schema.health import Health
from gateway.config.schema.pages import ErrorPage, Fallback
from gateway.config.schema.releases import ServiceTriggers
from gateway.config.schema.types import (
    TAG,
    Condition,
    Count,
    Duration,
    Endpoint,
    FilePath,
    Flag,
    Method,
    Positive,
    RequestRate,
    Seconds,
    Section,
    ServiceName,
    Share,
    Size,
    Timeout,
    key,
)

_OFF, _KEYS = f"{TAG}off", f"{TAG}keys"


def off_or_keys(value: object) -> str:
    """Tell which of the two forms a key has: the word ``off``, or keys of its own.

    The tags begin with ``TAG``, by which they are taken out of an error's place again.
    """
    return _OFF if isinstance(value, str) else _KEYS


class PoolSection(Section):
    """The endpoints in one slot of a service."""

    endpoints: tuple[Endpoint, ...] = Field(
        min_length=1, description="URLs of the pool's endpoints: scheme, host and port, no path."
    )


class Timeouts(Section):
    """Bounds on the stages of one request."""

    connect: Timeout = key("2s", description="Until a connection to the endpoint stands.")
    first_byte: Timeout = key("10s", description="From the sent request to the answer's head.")
    between_bytes: Timeout = key("30s", description="Silence within an answer's body.")
    total: Timeout = key(
        "60s",
        description="The whole request; ends at the head for event streams, upgrades and bodies "
        "of unknown length.",
    )
    stream_idle: Timeout = key("10m", description="Silence on such a stream or tunnel.")


class Retry(Section):
    """What another endpoint of the same color is tried for."""

    on: tuple[Condition, ...] = key(
        ("connect", "reset", "timeout", 502, 503, 504), description="Failures that are retried."
    )
    methods: tuple[Method, ...] = key(
        ("GET", "HEAD", "OPTIONS"), description="Methods that are safe to repeat."
    )
    budget: Share = key("20%", description="Retries as a share of requests, at most.")
    floor: RequestRate = key(
        "10/s", description="Retries that the budget allows however few requests there are."
    )
    body: Size = key(
        "64KiB",
        description="A request's body up to this size is kept, to be sent again; a larger one is "
        "sent once.",
    )


class Rescue(Section):
    """What stable is asked for when the candidate failed."""

    on: tuple[Condition, ...] = key(
        ("connect", "reset", "timeout", "5xx"), description="Failures that are rescued."
    )
    methods: tuple[Method, ...] = key(
        ("GET", "HEAD"), description="Methods that are safe to ask of stable instead."
    )


OffOrRetry = Annotated[
    Annotated[Literal["off"], Tag(_OFF)] | Annotated[Retry, Tag(_KEYS)],
    Discriminator(off_or_keys),
]
OffOrRescue = Annotated[
    Annotated[Literal["off"], Tag(_OFF)] | Annotated[Rescue, Tag(_KEYS)],
    Discriminator(off_or_keys),
]


class Breaker(Section):
    """When an endpoint is left alone because it fails. Counted on the whole machine."""

    failures: Positive = key(
        5,
        description="Failures in a row that open it; more where single failures are common, so "
        "that mere chance does not.",
    )
    share: Share | None = key(
        None, description="Share of failures within the window that opens it, too; null: none."
    )
    window: Seconds = key("10s", description="Time over which failures are counted.")
    minimum: Positive = key(20, description="Requests within the window before the share counts.")
    on: tuple[Condition, ...] = key(
        ("connect", "reset", "timeout", 502, 503, 504),
        description="What counts as a failure. Never a 4xx.",
    )
    reset_after: Seconds = key("60s", description="Time until one request tries again.")
    reset_at_most: Seconds = key(
        "10m", description="The same after repeated openings: each doubles it up to here."
    )


class Outlier(Section):
    """When an endpoint gets no requests for a while: it fails far more often than its peers."""

    above: Share = key("20%", description="Share of failures that is too much.")
    minimum: Positive = key(
        20, description="Requests to it within the breaker's window before it is judged."
    )
    eject_for: Seconds = key("30s", description="Time that it is left out; grows on repeats.")
    eject_at_most: Seconds = key("5m", description="The longest time that it is left out.")
    share: Share = key("50%", description="Share of a pool that may be left out at a time.")


OffOrBreaker = Annotated[
    Annotated[Literal["off"], Tag(_OFF)] | Annotated[Breaker, Tag(_KEYS)],
    Discriminator(off_or_keys),
]
OffOrOutlier = Annotated[
    Annotated[Literal["off"], Tag(_OFF)] | Annotated[Outlier, Tag(_KEYS)],
    Discriminator(off_or_keys),
]


class Queue(Section):
    """Where requests wait that a service has no place for at once; first come, first served."""

    length: Count | None = key(
        None,
        description="Requests that may wait, of the whole machine; 0: none; null: max_in_flight, "
        "at most 32.",
    )
    wait: Duration = key("500ms", description="Time after which one gives up, with 503.")


class UpstreamTls(Section):
    """How endpoints with ``https`` are verified."""

    ca: FilePath | None = key(
        None, description="PEM file of authorities; null: those of the system."
    )


class Service(Section):
    """One upstream application."""

    critical: Flag = key(
        default=False,
        description="With every critical service down the platform is read only; none of its "
        "endpoints left sets off the critical_down trigger.",
    )
    depends_on: tuple[ServiceName, ...] = key(
        (),
        description="Services that it calls; with one down it is degraded. Orders releases and "
        "L4 probes.",
    )
    initial_stable: Literal["blue", "green"] = key(
        "blue", description="The color that holds production before any release."
    )
    blue: PoolSection | None = key(None, description="The blue pool; absent: not deployed.")
    green: PoolSection | None = key(None, description="The green pool; absent: not deployed.")
    host: Literal["keep", "rewrite"] = key(
        "keep", description="Host sent upstream: the client's, or the endpoint's own."
    )
    tls: UpstreamTls = key({}, description="How https endpoints are verified.")
    balance: Literal["least_request", "round_robin", "hash"] = key(
        "least_request", description="How an endpoint is picked; least_request: the less busy of 2."
    )
    timeouts: Timeouts = key({}, description="Bounds on the stages of a request.")
    retries: Count = key(1, description="Extra attempts on other endpoints of the color.")
    retry: OffOrRetry = key({}, description="When another endpoint is tried, or off.")
    rescue: OffOrRescue = key({}, description="When stable answers for the candidate, or off.")
    max_in_flight: Positive = key(
        256, description="Requests to the service at a time, of the whole machine; more wait."
    )
    queue: Queue = key({}, description="Where those beyond max_in_flight wait.")
    slow_start: Duration = key("30s", description="Time over which a new endpoint warms up.")
    drain_timeout: Duration = key("30s", description="Time that requests in flight get to end.")
    health: Health = key({}, description="Probes of its endpoints.")
    breaker: OffOrBreaker = key({}, description="When a failing endpoint is left alone, or off.")
    outlier: OffOrOutlier = key(
        {}, description="When an endpoint that fails more than its peers is left out, or off."
    )
    fallback: tuple[Fallback, ...] = key(
        (), description="What to answer when nothing can serve, in order."
    )
    error_pages: tuple[ErrorPage, ...] = key(
        (), description="Pages instead of the gateway's problem documents."
    )
    triggers: ServiceTriggers = key({}, description="This service's own bounds of a release.")
