"""The statistics of a release: scopes, their metrics, and when one speaks against the candidate.

Pure: no clock, no chance, no I/O. The tests of a single metric, with their proof and sources, are
in ``gateway.release.bets`` and are had from here, too. All of the state is in mutable msgspec
structs, so that what was written down and read back goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.release.bets import (
    HORIZON,
    MOST,
    RATIOS,
    Comparison,
    Mirror,
    Objective,
    growth,
    requests_until,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "HORIZON",
    "LEAST_FAILURES",
    "RATIOS",
    "Comparison",
    "Metric",
    "Mirror",
    "Objective",
    "ServiceEvidence",
    "growth",
    "mean",
    "requests_until",
    "scope",
    "threshold",
    "verdict",
]

#: The candidate's failures without which no scope speaks: one or two keys prove nothing.
LEAST_FAILURES = 3

Metric = Literal["errors", "refusals", "slow", "objective"]


def threshold(alpha: float, scopes: int = 1) -> float:
    """Return the evidence at which each of ``scopes`` that share the chance alpha is over."""
    return max(1, scopes) / alpha


def mean(evidences: Sequence[float]) -> float:
    """Return the average of several metrics' evidence; 1 (nothing is known) of none."""
    return sum(evidences) / len(evidences) if evidences else 1.0


class ServiceEvidence(msgspec.Struct):
    """All that is tested in one scope: a service, or the release as a whole.

    The evidence is the average over the metrics, latency thresholds together being one of them.
    Each metric's own is a supermartingale as its own requests tell it. Seen together they are not
    quite: a key that failed in one has shown its side before it fails in another. What is proven
    for the average is therefore its expectation at a time that does not depend on the others; the
    worst case of "ever reached" is alpha times the number of metrics. Metrics go wrong together
    and the average of few rising ones stays low, so what is measured is below alpha
    (loadtests/simulate_releases.py); their maximum would not even promise the expectation.
    """

    errors: Comparison
    refusals: Comparison
    objective: Objective
    slow: list[Comparison] = []

    def requests(self, count: int) -> None:
        """Take note of both sides' requests that ended, for every comparison."""
        for comparison in (self.errors, self.refusals, *self.slow):
            comparison.requests(count)

    @property
    def metrics(self) -> dict[Metric, float]:
        """Each metric's evidence."""
        found: dict[Metric, float] = {
            "errors": self.errors.evidence,
            "refusals": self.refusals.evidence,
            "objective": self.objective.evidence,
        }
        if self.slow:
            found["slow"] = mean([each.evidence for each in self.slow])
        return found

    @property
    def evidence(self) -> float:
        """The average of the metrics."""
        return mean(list(self.metrics.values()))

    @property
    def log10(self) -> float:
        """The evidence's decimal logarithm."""
        return math.log10(max(self.evidence, 1 / MOST))

    @property
    def failures(self) -> int:
        """The candidate's errors, beside stable and alone."""
        return self.errors.candidate + self.objective.failed

    def why(self) -> Metric:
        """Return the metric that carries most of the evidence."""
        metrics = self.metrics
        return max(metrics, key=lambda name: metrics[name])

    def counted(self, metric: Metric) -> int:
        """Return the candidate's failures in one metric; of thresholds, in the weightiest."""
        if metric == "slow":
            heaviest = max(self.slow, key=lambda each: each.log_evidence, default=None)
            return heaviest.candidate if heaviest is not None else 0
        if metric == "objective":
            return self.objective.failed
        return (self.errors if metric == "errors" else self.refusals).candidate

    def over(self, bound: float) -> bool:
        """Say whether it speaks against the candidate: the evidence, and enough failures."""
        return self.evidence >= bound and self.counted(self.why()) >= LEAST_FAILURES


def scope(
    *,
    tolerance: float = 1.0,
    latency_tolerance: float = 1.2,
    thresholds: int = 0,
    horizon: float = HORIZON,
    p0: float = 0.05,
) -> ServiceEvidence:
    """Return a fresh scope with so many latency thresholds.

    ``horizon`` is the release's planned length in requests of the scope. Latency has a tolerance of
    its own: a harmless few percent is no reason to go back.
    """

    def comparison(tolerated: float) -> Comparison:
        return Comparison(tolerance=tolerated, horizon=horizon)

    return ServiceEvidence(
        errors=comparison(tolerance),
        refusals=comparison(tolerance),
        objective=Objective(p0, horizon=horizon),
        slow=[comparison(latency_tolerance) for _ in range(thresholds)],
    )


def verdict(scopes: Mapping[str, ServiceEvidence], alpha: float) -> tuple[str, ...]:
    """Return the scopes that speak against the candidate; none: nothing does.

    The chance alpha is shared equally: each of n scopes is held against n/alpha (a union bound).
    Their evidence must not be multiplied, and an average would promise less: a key is on the same
    side everywhere, so its failure in one service reveals the label of its next in another, and
    scopes that are each a supermartingale by themselves are none together. The union bound asks
    nothing of how they hang together.
    """
    bound = threshold(alpha, len(scopes))
    return tuple(name for name, each in scopes.items() if each.over(bound))
