"""From what the file has for browsers (profiles, CORS, reports) to what is sent. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.config import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.schema import Config, CorsProfile, CspReports, SecurityProfile

REPORTS_PATH = "/.well-known/gateway/csp-reports"
#: The endpoint's name in Reporting-Endpoints and report-to.
_GROUP = "gateway"
OFF = "off"
#: The profile that is there where the file has none, as in ``schema.security``.
PAGE = "page"
#: Key of a profile to the field that it is.
FIELDS = {
    "nosniff": "X-Content-Type-Options",
    "csp_report_only": "Content-Security-Policy-Report-Only",
    "csp": "Content-Security-Policy",
    "frame": "X-Frame-Options",
    "referrer": "Referrer-Policy",
    "permissions": "Permissions-Policy",
    "opener": "Cross-Origin-Opener-Policy",
    "resource": "Cross-Origin-Resource-Policy",
    "embedder": "Cross-Origin-Embedder-Policy",
}
_HSTS = "Strict-Transport-Security"
_REPORTS = re.compile(r"(?:^|;)\s*report-(?:uri|to)\s", re.IGNORECASE)
#: Seconds below which HSTS is a first day's: a week.
_SHORT = 7 * 86_400


def build_profile(
    name: str, profile: SecurityProfile, *, reports: bool = False
) -> snapshot.SecurityProfile:
    """Return a profile as the fields that it sends. ``reports``: violations are taken here."""
    values = {
        "nosniff": "nosniff" if profile.nosniff else None,
        "csp_report_only": _policy(profile.csp_report_only, reports),
        "csp": _policy(profile.csp, reports),
        "frame": profile.frame.upper() if profile.frame else None,
        "referrer": profile.referrer,
        "permissions": profile.permissions,
        "opener": profile.opener,
        "resource": profile.resource,
        "embedder": profile.embedder,
    }
    fields = [(FIELDS[key], value) for key, value in values.items() if value is not None]
    if any(f"report-to {_GROUP}" in value for _, value in fields):
        fields.append(("Reporting-Endpoints", f'{_GROUP}="{REPORTS_PATH}"'))
    hsts = None if profile.hsts is None else f"max-age={int(profile.hsts)}"
    if hsts is not None and profile.hsts_subdomains:
        hsts += "; includeSubDomains"
    if hsts is not None and profile.hsts_preload:
        hsts += "; preload"
    return snapshot.SecurityProfile(
        name=name,
        fields=tuple(fields),
        tls_fields=() if hsts is None else ((_HSTS, hsts),),
        override=tuple(FIELDS.get(key, _HSTS).lower() for key in profile.override),
        remove=profile.remove,
    )


def _policy(policy: str | None, reports: bool) -> str | None:
    if policy is None or not reports or _REPORTS.search(policy):
        return policy
    return f"{policy.rstrip('; ')}; report-uri {REPORTS_PATH}; report-to {_GROUP}"


def build_cors(name: str, profile: CorsProfile) -> snapshot.Cors:
    """Return a CORS profile."""
    return snapshot.Cors(
        name=name,
        origins=profile.origins,
        methods=profile.methods,
        headers=profile.headers,
        expose=profile.expose,
        credentials=profile.credentials,
        max_age=int(profile.max_age),
        private_network=profile.private_network,
        upgrades=profile.upgrades == "check",
    )


def build_reports(section: CspReports | None) -> snapshot.CspReports | None:
    """Return how reports are taken."""
    if section is None:
        return None
    return snapshot.CspReports(body=section.body, per_minute=section.per_minute)


def cors_of(own: str | None, default: str | None) -> str:
    """Return the name of a route's CORS profile, empty for none."""
    if own == OFF:
        return ""
    return own or default or ""


def notices(config: Config) -> Iterator[str]:
    """Yield what is right for a first day and weak for a second, of profiles that are used."""
    used = {route.security for route in config.routes}
    if not used - {None}:
        yield (
            "routes: no route names a security profile, so answers are given no security fields; "
            "on routes of pages, security: page begins with those that lock nobody out"
        )
    for name, profile in sorted(config.security.profiles.items()):
        if name not in used:
            continue
        place = f"security.profiles.{name}"
        if profile.csp is None and profile.csp_report_only is not None:
            yield (
                f"{place}.csp: the content policy only reports; once nothing is reported any more, "
                "make it csp"
            )
        if profile.hsts is not None and profile.hsts < _SHORT:
            yield (
                f"{place}.hsts: HSTS lasts {_span(profile.hsts)}; once https works everywhere, "
                "make it longer (365d)"
            )


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"
