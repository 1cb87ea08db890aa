"""When a verdict can be expected, at the present rate: for people. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from gateway.config.snapshot import BUCKETS
from gateway.release.analysis import requests_until

if TYPE_CHECKING:
    from gateway.release.account import Gate
    from gateway.release.judgement import Judgement
    from gateway.release.record import Release

#: Metrics that a scope's evidence is the average of: one alone has to reach so many times more.
_METRICS = 4
#: Seconds of a step after which its own rate is worth something.
_SETTLED = 2.0
_ON_ITS_WAY = frozenset({"stepping", "baking"})
#: Seconds beyond which nobody waits.
_NEVER = 86_400.0


class Outlook(msgspec.Struct, frozen=True):
    """Seconds until the step passes, or a test fails it; None: not at this rate."""

    pass_in: float | None
    fail_in: float | None
    text: str


def outlook(release: Release, judgement: Judgement, gate: Gate, now: float) -> Outlook:
    """Return what can be expected of the step in force."""
    fails = _fail_in(release, judgement, now)
    words = []
    passes: float | None = None
    if release.state not in _ON_ITS_WAY:
        words.append(f"{release.state}: it does not go on by itself")
    elif gate.held < _SETTLED and not gate.requests:
        words.append("the step has just begun")
    else:
        passes, said = _pass_in(release, judgement, gate, now)
        words += said
    if fails is not None:
        words.append(f"at these failures it is rolled back in about {fails:.0f} s")
    return Outlook(passes, fails, "; ".join(words))


def _pass_in(
    release: Release, judgement: Judgement, gate: Gate, now: float
) -> tuple[float | None, list[str]]:
    """Return the seconds until the step can pass (None: not as things stand), and words."""
    plan = release.plan
    rate = _of_step(release, judgement, gate, now)
    words = [f"{rate * 60:.0f} requests of the candidate a minute"]
    if gate.near or not gate.probes:
        return None, [*words, "the step does not pass as things stand"]
    waits = [max(0.0, gate.hold - gate.held)]
    # Clients come ever more slowly: those that have come come again.
    for had, needed in ((gate.requests, plan.min_requests), (gate.keys, plan.min_keys)):
        lacking = max(0, needed - had)
        pace = had / gate.held if gate.held > 0 else 0.0
        waits.append(0.0 if not lacking else lacking / pace if pace > 0 else math.inf)
    passes = max(waits)
    left = max(plan.max_hold, gate.hold) - judgement.known.seen.waited
    if passes > left:
        ends = {"hold": "held", "promote": "promoted", "rollback": "rolled back"}
        words.append(
            f"too few for this step: in {max(0.0, left):.0f} s it is inconclusive, and "
            f"{ends[plan.on_inconclusive]}"
        )
        return None, words
    return passes, [*words, f"the step can pass in {passes:.0f} s"]


def _of_step(release: Release, judgement: Judgement, gate: Gate, now: float) -> float:
    """Return the candidate's requests a second: this step's, once that can be told."""
    if gate.held >= _SETTLED:
        return gate.requests / gate.held
    return sum(_rates(judgement, part.service, now)[0] for part in release.parts)


def _rates(judgement: Judgement, service: str, now: float) -> tuple[float, float]:
    """Return requests a second of both sides."""
    sides = judgement.rules.services[service].errors
    found = [side.rate(now) for side in (sides.candidate, sides.stable)]
    candidate, stable = (
        rate.requests / rate.seconds if rate is not None and rate.seconds > 0 else 0.0
        for rate in found
    )
    return candidate, stable


def _fail_in(release: Release, judgement: Judgement, now: float) -> float | None:
    weight = release.weight / BUCKETS
    if not 0.0 < weight < 1.0:
        return None
    best = math.inf
    for part in release.parts:
        sides = judgement.known.figures[part.service]
        candidate, stable = sides.candidate.error_rate, sides.stable.error_rate
        whole = sum(_rates(judgement, part.service, now))
        if candidate is None or stable is None or whole <= 0:
            continue
        needed = requests_until(
            judgement.known.scopes[part.service].errors,
            candidate,
            stable,
            weight,
            judgement.bound(part.service) * _METRICS,
        )
        best = min(best, needed / whole)
    return best if best < _NEVER else None
