"""How many requests of a candidate a verdict takes, by the gateway's own analysis. Seeded."""

from __future__ import annotations

from itertools import accumulate
from random import Random

from gateway.release.analysis import ServiceEvidence, scope, threshold
from loadtests.chance import geometric
from loadtests.streams import ALPHA

#: The demo's services, each with a scope beside the release's own.
SERVICES = 4
#: Latency thresholds: nothing is known against them, but they share the average.
THRESHOLDS = 5
RUNS = 2000
MOST = 1_000_000


def requests_until_rollback(
    *, stable: float, candidate: float, weight: float, users: int, horizon: float, seed: int = 1
) -> list[float]:
    """Return the candidate's requests until each of some releases is rolled back, in order.

    As the demo's are judged: a scope for each service and one for all, which share the chance
    alpha; four metrics in each; users who come in turn and are counted once. ``stable`` and
    ``candidate`` are shares of failed requests.
    """
    found = []
    for number in range(RUNS):
        source = Random(f"{seed}/{number}")
        found.append(float(_one(source, (stable, candidate), weight, users, horizon)))
    return sorted(found)


def _one(
    source: Random, rates: tuple[float, float], weight: float, users: int, horizon: float
) -> int:
    whole = scope(thresholds=THRESHOLDS, horizon=horizon)
    parts = [scope(thresholds=THRESHOLDS, horizon=horizon / SERVICES) for _ in range(SERVICES)]
    bound = threshold(ALPHA, SERVICES + 1)
    sides = [source.random() < weight for _ in range(users)]
    before = list(accumulate(sides, initial=0))
    counted: set[tuple[int, int]] = set()
    often, request = max(rates), -1
    while request < MOST:
        # Requests that fail on neither side change nothing but the cash.
        gap = geometric(source, often)
        request += gap
        rounds, user = divmod(request, users)
        place = (request + rounds) % SERVICES
        ours = sides[user]
        whole.requests(gap)
        for part in parts:
            part.requests(gap // SERVICES)
        if source.random() * often >= rates[ours]:
            continue
        if _counts(counted, user, place, whole, parts[place], ours, weight) and (
            whole.over(bound) or parts[place].over(bound)
        ):
            return rounds * before[-1] + before[user + 1]
    return MOST


def _counts(
    counted: set[tuple[int, int]],
    user: int,
    place: int,
    whole: ServiceEvidence,
    part: ServiceEvidence,
    ours: bool,
    weight: float,
) -> bool:
    """Take a failure into the scopes that have none of this user; tell whether there were any."""
    fresh = False
    for at, each in ((SERVICES, whole), (place, part)):
        if (at, user) not in counted:
            counted.add((at, user))
            each.errors.failure(ours, weight)
            fresh = True
    return fresh
