"""What control takes from the configuration file, in its own terms.

The rest of control knows these types only; how the file is read stands behind ``Loader``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from gateway.config.schema.releases import Releases, ServiceTriggers
from gateway.health.policy import HealthPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config.snapshot import Color, ListenerTls, Topology

TokenRole = Literal["viewer", "operator", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Who may call: a name for the audit log, a role, and the SHA-256 of the secret."""

    name: str
    role: TokenRole
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """One service as the file has it: initial values for what the state store outranks."""

    name: str
    initial_stable: Color
    #: URLs in canonical form (see ``gateway.config.addresses.parse_endpoint``).
    blue: tuple[str, ...] = ()
    green: tuple[str, ...] = ()
    health: HealthPolicy = HealthPolicy()  # noqa: RUF009  frozen, shared on purpose
    #: What it has of its own of ``releases.triggers``.
    triggers: ServiceTriggers = ServiceTriggers()  # noqa: RUF009  frozen, shared on purpose

    def endpoints(self, color: Color) -> tuple[str, ...]:
        """Return one slot's URLs."""
        return self.blue if color == "blue" else self.green


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole file. ``template`` is its topology without pools, rows and a number."""

    template: Topology
    services: tuple[ServiceSettings, ...]
    tokens: tuple[Token, ...] = ()
    #: Host names that the admin API accepts besides its address, lower case.
    admin_hosts: tuple[str, ...] = ()
    #: What the admin API speaks TLS with; None: plain HTTP.
    admin_tls: ListenerTls | None = None
    #: PEM: whose certificates its callers need; None: no certificate is asked for.
    client_ca: bytes | None = None
    #: Where these were read.
    client_ca_file: str = ""
    state_path: Path
    releases: Releases = field(default_factory=Releases)
    #: What only a restart or an upgrade puts into force, as (key, value in words).
    fixed: tuple[tuple[str, str], ...] = ()

    def of(self, name: str) -> ServiceSettings | None:
        """Return one service, None for a name that is not configured."""
        for service in self.services:
            if service.name == name:
                return service
        return None


class SettingsError(Exception):
    """The file cannot be used: every fault as (place and key, what is wrong)."""

    def __init__(self, faults: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{where}: {what}" for where, what in faults))
        self.faults = faults


#: Reads the file again. Blocking; raises SettingsError.
Loader: TypeAlias = Callable[[], Settings]
