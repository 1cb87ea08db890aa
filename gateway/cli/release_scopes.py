"""A scope of a release, a service or all of them together, in a line for people."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.admin import release_models as models
from gateway.cli import release_words as words

#: Evidence that is worth a line: grown to so much, or, with failures there, shrunk to so little.
GROWN = 2.0
SHRUNK = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What was known of one scope; sides that nothing is known of are None."""

    name: str
    evidence: float
    threshold: float
    leading: str
    #: Of both sides, that count as evidence.
    failures: float
    candidate: models.SideFigures | None
    stable: models.SideFigures | None

    @property
    def tells(self) -> bool:
        """Whether it says something for or against the candidate."""
        spoken = self.evidence > GROWN or (self.evidence < SHRUNK and self.failures > 0)
        side = self.candidate
        return spoken or (side is not None and side.failed + side.refused > 0)

    @property
    def seen(self) -> bool:
        """Whether there was anything to judge by."""
        return self.candidate is not None and self.candidate.requests > 0

    def line(self, *, full: bool = False) -> str:
        """Say its evidence and both sides; ``full``: with every quantile that is known."""
        most = f", most of it from {self.leading}" if self.leading else ""
        evidence = f"evidence {words.number(self.evidence)} of {words.number(self.threshold)}"
        parts = [f"{scope_name(self.name)}: {evidence}{most}"]
        for name, side in (("candidate", self.candidate), ("stable", self.stable)):
            if side is not None:
                parts.append(f"{name} {words.side(side) if full else _short(side)}")
        return "; ".join(parts)


def of_status(scope: models.ScopeStatus) -> Scope:
    """Return a scope of a release as it stands."""
    return Scope(
        name=scope.scope,
        evidence=scope.evidence,
        threshold=scope.threshold,
        leading=scope.leading,
        failures=scope.candidate.failed + scope.stable.failed,
        candidate=scope.candidate,
        stable=scope.stable,
    )


def scope_name(name: str) -> str:
    """Write a scope's name; ``*`` is all services together."""
    return "all services" if name == "*" else name


def _short(side: models.SideFigures) -> str:
    """Write one side with its slowest answers in one figure."""
    if not side.requests:
        return "had no requests"
    rate = side.failed / side.requests
    parts = [f"{side.failed} of {side.requests} failed ({words.share(rate)})"]
    if side.refused:
        parts.append(f"{side.refused} clients refused")
    if side.p95_ms is not None:
        parts.append(f"p95 {words.milliseconds(side.p95_ms)}")
    return ", ".join(parts)
