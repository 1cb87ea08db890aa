"""The machine's side of the configuration: listeners, state, the admin API, limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config.schema.limits import RateLimits
from gateway.config.schema.types import (
    AdminAddress,
    AwaitedSize,
    Count,
    Duration,
    FilePath,
    HeadSize,
    Host,
    ListenAddress,
    Port,
    Positive,
    RedisUrl,
    Seconds,
    Section,
    Size,
    StoreSize,
    Timeout,
    TlsVersion,
    Variable,
    key,
)


class Certificate(Section):
    """One certificate with its key."""

    certificate: FilePath = Field(description="PEM file: the certificate and its chain.")
    key: FilePath = Field(description="PEM file: the certificate's private key.")


class Tls(Section):
    """What a listener needs to speak TLS."""

    certificates: tuple[Certificate, ...] = Field(
        min_length=1,
        max_length=1000,
        description="Certificates, chosen among by the name that the client asks for; "
        "the first one answers to any other name.",
    )
    min_version: TlsVersion = key(
        "1.2", description="The oldest version of TLS that is spoken; 1.3 is the newest."
    )


class AdminTls(Tls):
    """What the admin API needs to speak TLS."""

    client_ca: FilePath | None = key(
        None,
        description="PEM file of authorities: a caller needs a certificate of theirs, beside its "
        "token; null: none is asked for.",
    )


class Acme(Section):
    """Challenges of an ACME client (RFC 8555 section 8.3) that runs beside the gateway."""

    folder: FilePath | None = key(
        None,
        description="Folder of challenge files, named as their tokens: answered under "
        "/.well-known/acme-challenge/ on every host, before any route; null: a route like others.",
    )


class RedirectToHttps(Section):
    """Where plain requests are sent instead of being served."""

    port: Port = key(443, description="The https port as the public sees it.")


class Listener(Section):
    """One public address."""

    address: ListenAddress = Field(description="IP address and port to listen on.")
    tls: Tls | None = key(None, description="Certificates; absent: plain HTTP.")
    redirect_to_https: RedirectToHttps | None = key(
        None, description="Answer every request with a redirect to https; absent: serve it."
    )


class State(Section):
    """Where what outlives the processes is kept."""

    path: FilePath = key("var/gateway.db", description="SQLite file, on a disk of this machine.")
    redis_url: RedisUrl | None = key(
        None, description="A Redis that several gateways share, without credentials in the URL."
    )


class Cache(Section):
    """Where answers are stored, for routes with ``cache: on`` and for ``stale`` fallbacks."""

    size: StoreSize = key("256MiB", description="All of it, on the disk; what is unused gives way.")
    entry: Size = key(
        "8MiB", description="One answer; a larger one is not stored. An eighth of size at most."
    )
    path: FilePath | None = key(
        None, description="Folder of it, on a disk of this machine; null: cache beside state.path."
    )


class AdminToken(Section):
    """Somebody who may call the admin API. Exactly one of ``token_env`` and ``token_file``."""

    name: str = Field(
        min_length=1, max_length=64, description="Who this is, as the audit log names it."
    )
    role: Literal["viewer", "operator", "admin"] = Field(
        description="viewer reads; operator also moves traffic; admin also reloads."
    )
    token_env: Variable | None = key(None, description="Environment variable that holds the token.")
    token_file: FilePath | None = key(
        None, description="File that holds the token; white space at its ends is left out."
    )


class Admin(Section):
    """The admin API."""

    address: AdminAddress = key(
        "127.0.0.1:9090",
        description="Address and port, or unix: and a path; without tls a loopback address.",
    )
    tls: AdminTls | None = key(
        None, description="Certificates of the admin API; needed where others can reach it."
    )
    hosts: tuple[Host, ...] = key(
        (), description="Host names accepted besides the address (against DNS rebinding)."
    )
    tokens: tuple[AdminToken, ...] = key((), description="Who may call the API; none: nobody.")


class Limits(Section):
    """What a client may take of the machine."""

    head: HeadSize = key("32KiB", description="A request's line and fields; more is 431 or 414.")
    body: Size = key("10MiB", description="A request's body; more is 413.")
    connections: Positive = key(10_000, description="Open connections of the whole machine.")
    header_timeout: Timeout = key("10s", description="Time for a request's head to arrive.")
    idle_timeout: Timeout = key("75s", description="Silence on a kept-alive connection.")
    min_rate: Count = key(
        240,
        description="Octets a second that a client at least sends of a body and reads of an "
        "answer, over timeouts.between_bytes; 0: any.",
    )
    await_body: AwaitedSize = key(
        "16KiB",
        description="A request's body is awaited up to here before a backend is asked, so that "
        "slow ones take none of its places; 0B: it streams from the first octet.",
    )
    rate: RateLimits | None = key(
        None, description="Requests that a client may make on all routes together: one or a list."
    )


class OnControlLost(Section):
    """What workers do when the control process has been gone for a while."""

    after: Seconds = key("60s", description="How long it may be gone first.")
    do: Literal["hold", "stable"] = key(
        "hold", description="hold: serve on as before; stable: send everybody to stable."
    )


class Shutdown(Section):
    """How the gateway ends, and how workers that an upgrade replaces do."""

    delay: Duration = key(
        "0s",
        description="Time that it is not ready any more and still accepts, for an outer balancer.",
    )
    timeout: Duration | None = key(
        None, description="Time for what is in flight; null: the longest drain_timeout."
    )
