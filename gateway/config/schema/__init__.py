"""The configuration's types: the contract's whole example, each key with its meaning.

``Config`` is what the rest of the program works with. Keys that are typed but not yet in force are
listed in ``gateway.config.notyet``. Secrets are never part of it: only where they are to be found.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field, PrivateAttr

from gateway.config.schema.auth import AuthScheme, SchemeName
from gateway.config.schema.entry import (
    Acme,
    Admin,
    AdminToken,
    Cache,
    Limits,
    Listener,
    OnControlLost,
    Shutdown,
    State,
)
from gateway.config.schema.health import Health
from gateway.config.schema.pages import ErrorPage, Fallback, PageFile, Static
from gateway.config.schema.releases import Releases, Triggers
from gateway.config.schema.routes import Route, RouteTimeouts
from gateway.config.schema.security import CorsProfile, CspReports, Security, SecurityProfile
from gateway.config.schema.services import PoolSection, Service, Timeouts
from gateway.config.schema.traffic import Assets, Cohort, TrafficSection
from gateway.config.schema.types import LogPlace, Network, Section, ServiceName, Workers, key
from gateway.config.secrets import AuthFiles, Secrets

__all__ = [
    "Admin",
    "AdminToken",
    "Assets",
    "AuthScheme",
    "Cache",
    "Cohort",
    "Config",
    "CorsProfile",
    "CspReports",
    "ErrorPage",
    "Fallback",
    "Health",
    "Limits",
    "Listener",
    "OnControlLost",
    "PageFile",
    "PoolSection",
    "Releases",
    "Route",
    "RouteTimeouts",
    "Section",
    "Security",
    "SecurityProfile",
    "Service",
    "Shutdown",
    "State",
    "Static",
    "Timeouts",
    "TrafficSection",
    "Triggers",
]


class Config(Section):
    """One gateway's configuration, valid."""

    version: Literal[1] = key(1, description="Version of the file's form.")
    listen: tuple[Listener, ...] = key(
        ({"address": "127.0.0.1:8080"},), min_length=1, description="Public addresses."
    )
    acme: Acme = key({}, description="Challenges of an ACME client.")
    workers: Workers = key("auto", description="Worker processes; auto: one per core.")
    state: State = key({}, description="What outlives the processes.")
    admin: Admin = key({}, description="The admin API.")
    trusted_proxies: tuple[Network, ...] = key(
        (), description="Networks whose X-Forwarded-* and identity fields are believed."
    )
    internal_callers: tuple[Network, ...] = key(
        (), description="Networks of the platform's own services: they keep their side."
    )
    limits: Limits = key({}, description="What a client may take.")
    access_log: LogPlace = key(
        "-", description="Where access log lines go: - (standard output), off, or a file's path."
    )
    cache: Cache = key({}, description="Where answers are stored.")
    on_control_lost: OnControlLost = key({}, description="What workers do without control.")
    shutdown: Shutdown = key({}, description="How the gateway ends.")
    traffic: TrafficSection = key({}, description="How traffic is split.")
    services: dict[ServiceName, Service] = Field(
        min_length=1, description="The applications behind the gateway, by name."
    )
    routes: tuple[Route, ...] = key(
        (), description="Where requests go; none, and one service: everything goes there."
    )
    auth: dict[SchemeName, AuthScheme] = key(
        {}, description="Ways to tell who asks, by name; a route names those it accepts."
    )
    error_pages: tuple[ErrorPage, ...] = key(
        (), description="Pages for statuses that a service has none of its own for."
    )
    security: Security = key({}, description="Security fields by profile, and CORS.")
    releases: Releases = key({}, description="How a release goes.")

    _secrets: Secrets = PrivateAttr(default_factory=Secrets)
    _auth_files: AuthFiles = PrivateAttr(default_factory=AuthFiles)
    _pages: Mapping[str, bytes] = PrivateAttr(default_factory=lambda: MappingProxyType({}))

    @property
    def secrets(self) -> Secrets:
        """The secrets that the file points to; none where they were not read."""
        return self._secrets

    @property
    def pages(self) -> Mapping[str, bytes]:
        """Contents of the files that answers are made of, by name; none: they were not read."""
        return self._pages

    def with_secrets(self, secrets: Secrets) -> Config:
        """Return the same configuration with its secrets."""
        copy = self.model_copy()
        copy._secrets = secrets
        return copy

    @property
    def auth_files(self) -> AuthFiles:
        """What the files that ``auth`` names hold; nothing where they were not read."""
        return self._auth_files

    def with_auth_files(self, files: AuthFiles) -> Config:
        """Return the same configuration with what the files that ``auth`` names hold."""
        copy = self.model_copy()
        copy._auth_files = files
        return copy

    def with_pages(self, pages: Mapping[str, bytes]) -> Config:
        """Return the same configuration with the files that answers are made of."""
        copy = self.model_copy()
        copy._pages = MappingProxyType(dict(pages))
        return copy
