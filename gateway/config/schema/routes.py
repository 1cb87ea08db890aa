"""Routes: from host and path to a service, with what they override."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config.schema.auth import Schemes, Scope
from gateway.config.schema.limits import RateLimits
from gateway.config.schema.services import OffOrRescue, OffOrRetry
from gateway.config.schema.types import (
    Flag,
    Network,
    RouteHost,
    RoutePath,
    Section,
    ServiceName,
    Size,
    Timeout,
    key,
)


class RouteLimits(Section):
    """Limits that a route has of its own."""

    body: Size | None = key(None, description="A request's body; null: as limits.body.")


class RouteTimeouts(Section):
    """Timeouts that a route has of its own; absent: the service's."""

    connect: Timeout | None = key(None, description="Until a connection stands.")
    first_byte: Timeout | None = key(None, description="Until the answer's head.")
    between_bytes: Timeout | None = key(None, description="Silence within an answer's body.")
    total: Timeout | None = key(None, description="The whole request.")
    stream_idle: Timeout | None = key(None, description="Silence on a stream or tunnel.")


class Route(Section):
    """Host and path prefix to a service. The most specific wins; their order says nothing."""

    host: RouteHost | None = key(
        None, description="Exact host, or *. and a domain for any name below it; null: any host."
    )
    path: RoutePath = key(
        "/", description="Path prefix, matched on segment boundaries; the longest wins."
    )
    service: ServiceName = Field(description="The service that answers.")
    strip: Flag = key(default=False, description="Take the prefix off before asking the service.")
    limits: RouteLimits = key({}, description="Limits of this route's own.")
    timeouts: RouteTimeouts = key({}, description="Timeouts of this route's own.")
    security: str | None = key(None, description="Name of a security profile; null: none.")
    cors: str | None = key(
        None, description="Name of a CORS profile, or off; null: security.cors.default."
    )
    retry: OffOrRetry | None = key(
        None, description="Retries of this route's own, or off; null: the service's."
    )
    rescue: OffOrRescue | None = key(
        None, description="Rescue of this route's own, or off; null: the service's."
    )
    cache: Literal["on", "off"] = key("off", description="Keep answers and serve them again.")
    allow: tuple[Network, ...] = key(
        (), description="Networks of clients that may come; none: everybody. The others get 403."
    )
    deny: tuple[Network, ...] = key(
        (), description="Networks of clients that get 403, whatever allow says."
    )
    auth: Schemes = key(
        "off", description="Schemes of which a request must meet one: a name, a list, or off."
    )
    auth_optional: Flag = key(
        default=False,
        description="Requests without credentials pass as anonymous; bad ones are still refused.",
    )
    scopes: tuple[Scope, ...] = key(
        (), description="Scopes that whoever asks must all have; without them it is 403."
    )
    rate_limit: RateLimits | None = key(
        None, description="Requests that a client may make: a limit, or a list of limits."
    )
