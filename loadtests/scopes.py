"""Simulated releases with all metrics of several services, judged together as a release is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from random import Random

from gateway.release.analysis import Comparison, ServiceEvidence, scope, verdict
from loadtests.chance import geometric
from loadtests.streams import ALPHA, Phase

#: Latency thresholds: the past p75, p90, p95 and p99, and the objective, as shares that are slower.
SLOWER = (0.25, 0.1, 0.05, 0.01, 0.005)
WHOLE = "release"


@dataclass(frozen=True, slots=True)
class Crowd:
    """Returning users of some services. What goes wrong, goes wrong together.

    A share of the users is ``clumsy``: slow, broken and refused four times as often as others,
    whoever answers. An error is slower than every threshold half of the time (a timeout).
    """

    weight: float
    services: int
    users: int = 500
    requests: int = 10_000
    clumsy: float = 0.1
    error: float = 0.01
    refusal: float = 0.02


def _fresh(services: int, horizon: float) -> dict[str, ServiceEvidence]:
    names = [WHOLE, *(f"service {number}" for number in range(services))]
    return {
        # No tolerance: the boundary itself, where the chance is greatest.
        name: scope(thresholds=len(SLOWER), latency_tolerance=1.0, horizon=horizon)
        for name in names
    }


def _said(source: Random, crowd: Crowd) -> list[int]:
    """Draw which metrics a request that is not plain speaks in: 0 error, 1 refusal, 2… slow."""
    drawn = source.random() * max(SLOWER)
    slow = [2 + number for number, share in enumerate(SLOWER) if drawn < share]
    kind = source.random() * max(SLOWER)
    if kind < crowd.error:
        timeout = source.random() < 0.5
        return [0, *range(2, 2 + len(SLOWER))] if timeout else [0]
    return [1, *slow] if kind < crowd.error + crowd.refusal else slow


def _comparisons(evidence: ServiceEvidence) -> list[Comparison]:
    return [evidence.errors, evidence.refusals, *evidence.slow]


def rolled_back(source: Random, crowd: Crowd) -> bool:
    """Play a release in which both sides are equal; say whether it was rolled back."""
    scopes = _fresh(crowd.services, crowd.requests)
    tested = [_comparisons(each) for each in scopes.values()]
    buckets = [source.random() for _ in range(crowd.users)]
    cumulative = list(
        accumulate(4 if source.random() < crowd.clumsy else 1 for _ in range(crowd.users))
    )
    told: set[tuple[int, int, int]] = set()
    users, left = range(crowd.users), crowd.requests
    while (gap := geometric(source, max(SLOWER))) <= left:
        left -= gap
        user = source.choices(users, cum_weights=cumulative)[0]
        candidate = buckets[user] < crowd.weight
        places = [0]
        if crowd.services:
            places.append(1 + source.randrange(crowd.services))
        for evidence in scopes.values():
            evidence.requests(gap)
        spoke = False
        for metric in _said(source, crowd):
            for place in places:
                if (place, metric, user) not in told:
                    told.add((place, metric, user))
                    tested[place][metric].failure(candidate, crowd.weight)
                    spoke = True
        if spoke and candidate and verdict(scopes, ALPHA):
            return True
    return False


def failures_until(source: Random, phase: Phase, services: int, horizon: float) -> int | None:
    """Return the candidate's failures until a release with all metrics is rolled back.

    Every request is a client's of its own and goes to one of the services.
    """
    scopes = _fresh(services, horizon)
    names = list(scopes)[1:]
    ours = phase.weight * phase.candidate
    rate = ours + (1 - phase.weight) * phase.stable
    failures = played = 0
    while (gap := geometric(source, rate)) <= phase.requests - played:
        played += gap
        candidate = source.random() * rate < ours
        for name in (WHOLE, source.choice(names)) if names else (WHOLE,):
            scopes[name].requests(gap)
            scopes[name].errors.failure(candidate, phase.weight)
        failures += candidate
        if candidate and verdict(scopes, ALPHA):
            return failures
    return None
