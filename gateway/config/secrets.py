"""The secrets that a configuration points to, apart from it, so that no ``repr`` shows one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.snapshot import TlsCertificate

from gateway.config.snapshot import ApiKey


@dataclass(frozen=True, slots=True)
class Secrets:
    """Admin tokens by their names, what signs testers' overrides, certificates by their places."""

    tokens: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cohort: bytes | None = None
    certificates: Mapping[str, TlsCertificate] = field(default_factory=lambda: MappingProxyType({}))
    #: PEM: whose certificates the admin API's callers need; None: no certificate is asked for.
    client_ca: bytes | None = None

    def __repr__(self) -> str:
        """Say how many there are and no more."""
        return f"Secrets(tokens={len(self.tokens)}, cohort={'set' if self.cohort else 'none'})"


@dataclass(frozen=True, slots=True)
class Kept:
    """What was in force, and stands in for files that are of no use now."""

    certificates: tuple[TlsCertificate, ...] = ()
    #: The file with the authorities of the admin API's callers, and what it held (PEM).
    client_ca: tuple[str, bytes] | None = None

    def __repr__(self) -> str:
        """Say how much there is and no more."""
        return f"Kept(certificates={len(self.certificates)})"


@dataclass(frozen=True, slots=True)
class AuthFiles:
    """API keys of keys files, and key sets of issuers, by the schemes' names."""

    keys: Mapping[str, tuple[ApiKey, ...]] = field(default_factory=lambda: MappingProxyType({}))
    jwks: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        """Say whose they are and no more."""
        return f"AuthFiles(keys={sorted(self.keys)}, jwks={sorted(self.jwks)})"
