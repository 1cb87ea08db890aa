"""Streams of simulated requests through the release analysis, and two rules of others beside it.

Only failures are drawn one by one, with geometric gaps between them. Every number comes from
``gateway.release.analysis``; the other rules are here because they are no part of the gateway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from gateway.release.analysis import LEAST_FAILURES, Comparison, Mirror, Objective, threshold
from loadtests.chance import binomial, geometric, poisson

ALPHA = 0.01

#: Makes 300 candidate requests a minute at 5 %. Worked out from the figures to compare with, which
#: name no rate: 1,502 failures at 100 % failing are five checks of 300.
REQUESTS_PER_SECOND = 100.0
#: The once-a-minute check: below this share of success it fails; that many failed go back.
SUCCESS = 0.99
CHECKS = 5
#: The two-minute rule: above this rate over the trailing window, at every second for so long.
RATE = 0.05
WINDOW = 60
LASTING = 120


@dataclass(frozen=True, slots=True)
class Phase:
    """So many requests of both sides at these failure rates and this weight."""

    requests: int
    candidate: float
    stable: float
    weight: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run was rolled back: the phase, the candidate's requests and failures in it."""

    phase: int
    requests: int
    failures: int


def over(comparison: Comparison, alpha: float = ALPHA) -> bool:
    """Say whether a comparison by itself rolls back."""
    return comparison.candidate >= LEAST_FAILURES and comparison.evidence >= threshold(alpha)


def play(source: Random, comparison: Comparison, phases: Sequence[Phase]) -> Stop | None:
    """Play phases with a client of its own for every request; None: never rolled back."""
    for number, phase in enumerate(phases):
        weight, ours = phase.weight, phase.weight * phase.candidate
        rate = ours + (1 - weight) * phase.stable
        failures = before = played = 0
        while rate > 0 and (gap := geometric(source, rate)) <= phase.requests - played:
            played += gap
            comparison.requests(gap)
            candidate = source.random() * rate < ours
            comparison.failure(candidate, weight)
            before += 1
            # A failure of stable's never raises the evidence.
            if candidate:
                failures += 1
                if over(comparison):
                    share = weight * (1 - phase.candidate) / (1 - rate) if rate < 1 else 0.0
                    passed = binomial(source, played - before, share)
                    return Stop(number, failures + passed, failures)
        comparison.requests(phase.requests - played)
    return None


def play_users(
    source: Random,
    comparison: Comparison,
    phases: Sequence[Phase],
    users: int,
    *,
    totals: bool = False,
) -> bool:
    """Play phases of a healthy release with returning users, each on its side by its bucket.

    One failure of a user counts. ``totals`` breaks the second rule on purpose: the weight is the
    share of the totals so far, not the one in force. Return whether it was rolled back.
    """
    buckets = [source.random() for _ in range(users)]
    failed = [False] * users
    ours = everyone = 0.0
    for phase in phases:
        played = 0
        while (gap := geometric(source, phase.stable)) <= phase.requests - played:
            played += gap
            everyone += gap
            ours += gap * phase.weight
            user = int(source.random() * users)
            if failed[user]:
                continue
            failed[user] = True
            comparison.requests(gap)
            candidate = buckets[user] < phase.weight
            comparison.failure(candidate, ours / everyone if totals else phase.weight)
            if candidate and over(comparison):
                return True
    return False


@dataclass(frozen=True, slots=True)
class Clients:
    """Clients that stay: each makes many requests; some fail often, whoever answers."""

    broken: float
    failing: float
    weight: float
    count: int = 10_000
    requests: int = 20
    others: float = 0.001


def play_clients(source: Random, comparison: Comparison, clients: Clients, *, every: bool) -> bool:
    """Play sticky clients. ``every`` breaks the first rule on purpose: each failure counts."""

    def failing(share: float) -> float:
        return float(1 - (1 - share) ** clients.requests)

    broken = clients.broken * failing(clients.failing)
    rate = broken + (1 - clients.broken) * failing(clients.others)
    left = clients.count
    while (gap := geometric(source, rate)) <= left:
        left -= gap
        comparison.requests(gap * clients.requests)
        candidate = source.random() < clients.weight
        share = clients.failing if source.random() * rate < broken else clients.others
        failures = 1
        if every:
            # At least one is known: the first one's place, then the rest freely.
            first = clients.requests + 1
            while first > clients.requests:
                first = geometric(source, share)
            failures += binomial(source, clients.requests - first, share)
        for _ in range(failures):
            comparison.failure(candidate, clients.weight)
            if candidate and over(comparison):
                return True
    return False


def play_alone(source: Random, objective: Objective, rate: float, requests: int) -> Stop | None:
    """Play the candidate alone, at weight 100."""
    played = 0
    while (gap := geometric(source, rate)) <= requests - played:
        played += gap
        objective.counted(gap - 1, 1)
        if objective.failed >= LEAST_FAILURES and objective.evidence >= threshold(ALPHA):
            return Stop(0, played, objective.failed)
    return None


def promoted(source: Random, mirror: Mirror, phase: Phase, beta: float) -> bool:
    """Say whether the mirror test promotes early, ever."""
    ours = phase.weight * phase.candidate
    rate = ours + (1 - phase.weight) * phase.stable
    played = 0
    while (gap := geometric(source, rate)) <= phase.requests - played:
        played += gap
        mirror.failure(source.random() * rate < ours, phase.weight)
        if mirror.evidence >= 1 / beta:
            return True
    return False


def once_a_minute(source: Random, rate: float, weight: float, minutes: int = 600) -> int | None:
    """Return the candidate's failures until the once-a-minute check goes back; None: never."""
    each_minute = REQUESTS_PER_SECOND * 60 * weight
    failures = checks = 0
    for _ in range(minutes):
        failed = poisson(source, each_minute * rate)
        passed = poisson(source, each_minute * (1 - rate))
        failures += failed
        if passed < SUCCESS * (passed + failed):
            checks += 1
            if checks == CHECKS:
                return failures
    return None


def two_minutes(source: Random, rate: float, weight: float, seconds: int) -> int | None:
    """Return the candidate's failures until the two-minute rule goes back; None: not in time.

    At these rates 60 s always hold more than 20 requests, so that its window never stretches.
    """
    each_second = REQUESTS_PER_SECOND * weight
    window: deque[tuple[int, int]] = deque()
    failed = total = failures = lasting = 0
    for _ in range(seconds):
        bad = poisson(source, each_second * rate)
        good = poisson(source, each_second * (1 - rate))
        window.append((bad, bad + good))
        failures, failed, total = failures + bad, failed + bad, total + bad + good
        if len(window) > WINDOW:
            old_failed, old_total = window.popleft()
            failed, total = failed - old_failed, total - old_total
        lasting = lasting + 1 if failed > RATE * total else 0
        if lasting > LASTING:
            return failures
    return None
