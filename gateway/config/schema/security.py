"""What browsers are told: security fields by profile, CORS, reports of violations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config.schema.types import (
    AnswerField,
    CorsOrigin,
    Duration,
    FieldValue,
    Flag,
    HttpToken,
    Method,
    Positive,
    Seconds,
    Section,
    Size,
    key,
)

#: What says which software answers, and so which holes to try.
LEAKING = ("Server", "X-Powered-By", "X-AspNet-Version", "X-AspNetMvc-Version", "X-Generator")

ProfileField = Literal[
    "csp",
    "csp_report_only",
    "hsts",
    "frame",
    "nosniff",
    "referrer",
    "permissions",
    "opener",
    "resource",
    "embedder",
]


class SecurityProfile(Section):
    """Response fields that a route names as one, set where the backend has not set them itself.

    The defaults lock nobody out: the content policy only reports, HSTS lasts five minutes.
    """

    csp_report_only: FieldValue | None = key(
        "default-src 'self'",
        description="Content-Security-Policy-Report-Only; null: not sent. {nonce} as in csp.",
    )
    csp: FieldValue | None = key(
        None,
        description="Content-Security-Policy, enforced; null: not sent. {nonce} is another number "
        "in each answer, which the backend is told as X-CSP-Nonce.",
    )
    hsts: Seconds | None = key(
        "5m", description="max-age of Strict-Transport-Security, over TLS only; null: not sent."
    )
    hsts_subdomains: Flag = key(
        default=False, description="includeSubDomains: for every name below the host, too."
    )
    hsts_preload: Flag = key(
        default=False, description="preload: consent to be built into browsers; needs a year."
    )
    frame: Literal["deny", "sameorigin"] | None = key(
        "deny", description="X-Frame-Options; null: not sent."
    )
    nosniff: Flag = key(default=True, description="X-Content-Type-Options: nosniff.")
    referrer: FieldValue | None = key(
        "strict-origin-when-cross-origin", description="Referrer-Policy; null: not sent."
    )
    permissions: FieldValue | None = key(
        "geolocation=()", description="Permissions-Policy; null: not sent."
    )
    opener: (
        Literal["same-origin", "same-origin-allow-popups", "noopener-allow-popups", "unsafe-none"]
        | None
    ) = key(None, description="Cross-Origin-Opener-Policy; null: not sent.")
    resource: Literal["same-origin", "same-site", "cross-origin"] | None = key(
        None, description="Cross-Origin-Resource-Policy; null: not sent."
    )
    embedder: Literal["require-corp", "credentialless", "unsafe-none"] | None = key(
        None, description="Cross-Origin-Embedder-Policy; null: not sent."
    )
    override: tuple[ProfileField, ...] = key(
        (), description="Keys of this profile whose fields replace the backend's."
    )
    remove: tuple[AnswerField, ...] = key(
        (), description="Fields taken off the backend's answers, besides security.remove."
    )


class CorsProfile(Section):
    """Which other origins' pages may read a route's answers. The gateway answers preflights."""

    origins: tuple[CorsOrigin, ...] = Field(
        min_length=1,
        description="Exact origins (https://app.example), patterns for any name below a domain "
        "(https://*.example.org), or * alone.",
    )
    methods: tuple[Method, ...] = key(
        ("GET", "HEAD", "POST"), description="Access-Control-Allow-Methods."
    )
    headers: tuple[HttpToken, ...] = key(
        (), description="Access-Control-Allow-Headers: request fields that a page may set."
    )
    expose: tuple[HttpToken, ...] = key(
        (), description="Access-Control-Expose-Headers: fields of the answer that it may read."
    )
    credentials: Flag = key(
        default=False, description="Whether cookies may be sent along; not with *."
    )
    max_age: Duration = key("10m", description="Access-Control-Max-Age of a preflight's answer.")
    private_network: Flag = key(
        default=False, description="Allow pages of the public internet into a private network."
    )
    upgrades: Literal["check", "any"] = key(
        "check",
        description="check: a WebSocket is opened to pages of the same host and of these origins "
        "only; any: to all.",
    )


class Cors(Section):
    """Answers to other origins."""

    profiles: dict[str, CorsProfile] = key(
        {}, description="Profiles by name; a route names one as cors."
    )
    default: str | None = key(
        None, description="The profile of routes that name none; null: the backends' business."
    )


class CspReports(Section):
    """How reports of violations are taken, at /.well-known/gateway/csp-reports."""

    per_minute: Positive = key(
        60, description="Reports that one client may send a minute; more is 429."
    )
    body: Size = key("64KiB", description="Octets of one report; more is 413.")


class Security(Section):
    """Security fields by profile, CORS, and reports of violations."""

    profiles: dict[str, SecurityProfile] = key(
        {"page": {}},
        description="Profiles by name; a route names one as security. Where there is no such key, "
        "page is one, with the defaults.",
    )
    remove: tuple[AnswerField, ...] = key(
        LEAKING, description="Fields taken off every backend's answers: what leaks its software."
    )
    csp_reports: CspReports | None = key(
        None,
        description="Take browsers' reports of violations, and name the place of it in every "
        "content policy that names none; null: neither.",
    )
    cors: Cors = key({}, description="Answers to other origins.")
