"""The secrets that a configuration points to, apart from it, so that no ``repr`` shows one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Secrets:
    """Admin tokens by their names, and what signs testers' overrides."""

    tokens: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cohort: bytes | None = None

    def __repr__(self) -> str:
        """Say how many there are and no more."""
        return f"Secrets(tokens={len(self.tokens)}, cohort={'set' if self.cohort else 'none'})"
