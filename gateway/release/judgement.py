"""What is known against a release: everything that workers tell, put into the tests. Pure.

One scope of evidence for each service and one for the release as a whole. A cohort key counts once
in each scope and metric, at the weight that was in force when its request was assigned. ``now`` is
CLOCK_MONOTONIC in seconds. Everything but the rules' windows can be stored and taken up again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.channel.histogram import Histogram, add_up
from gateway.config.snapshot import BUCKETS
from gateway.release import analysis
from gateway.release.analysis import Comparison, Mirror, ServiceEvidence
from gateway.release.record import OBJECTIVE, WHOLE
from gateway.release.triggers import Rules

if TYPE_CHECKING:
    from gateway.channel.messages import Counted, Failures, RequestFailed, Tally
    from gateway.release.record import Part, Release

#: Different clients of the candidate that a step counts at most.
MAX_STEP_KEYS: Final = 1024
#: Keys that are remembered to be counted once, in all scopes and for each metric; those beyond
#: count for nothing and are said to be missing. Each metric has its own room: nearly everybody is
#: slow sooner or later, and anybody can ask for what is not there.
MAX_KEYS: Final = 200_000

_ERROR, _REFUSAL, _SLOW = 1, 2, 4
#: Beyond all latency thresholds' bits.
_VIOLATION = 1 << 16

#: (scope, hashed cohort key) -> bits of what it was counted for.
Keys = dict[tuple[str, int], int]


class Figures(msgspec.Struct):
    """What one side of one service was seen to do since the release began."""

    requests: int = 0
    failed: int = 0
    #: Clients that were answered 401, 403, 404 or 422 at least once.
    refused: int = 0
    judged: int = 0
    timed: int = 0
    slow: int = 0
    latency: dict[int, int] = {}

    def take(self, row: Counted) -> None:
        """Add what a worker has counted."""
        self.requests += row.requests
        self.failed += row.failed
        self.judged += row.judged
        self.timed += row.timed
        self.slow += row.slow
        add_up(self.latency, row.histogram)

    @property
    def error_rate(self) -> float | None:
        """Share of first attempts that failed; None of no requests."""
        return self.failed / self.requests if self.requests else None

    def quantiles_ms(self) -> dict[str, float]:
        """Return what people look at, in milliseconds: p50, p95, p99; none where none was timed."""
        found = Histogram(self.latency.items())
        if not found.total:
            return {}
        shown = (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99))
        return {name: round(found.quantile(q) * 1000, 1) for name, q in shown}


class Sides(msgspec.Struct):
    """Both sides' figures."""

    candidate: Figures = msgspec.field(default_factory=Figures)
    stable: Figures = msgspec.field(default_factory=Figures)


class StepSeen(msgspec.Struct):
    """What the step in force has had: seconds of its hold, the candidate's requests and keys.

    ``weight``: requests that were assigned under another are not this step's. ``waited`` begins
    anew where an operator goes on from an inconclusive step.
    """

    step: int = -1
    weight: int = 0
    held: float = 0.0
    waited: float = 0.0
    requests: int = 0
    keys: set[int] = set()


class Known(msgspec.Struct):
    """The part of a judgement that is stored."""

    release: str
    scopes: dict[str, ServiceEvidence]
    mirror: Mirror
    figures: dict[str, Sides]
    seen: StepSeen = msgspec.field(default_factory=StepSeen)
    #: Failures that workers did not tell one by one, or that there was no room for.
    dropped: int = 0
    #: Seconds that the lease has left; None: there is none.
    lease: float | None = None
    #: Holds that an operator has seen and gone on from, as trigger and service.
    seen_to: list[tuple[str, str]] = []
    #: As in the release: where that has another, all begins anew.
    looked: int = 0
    #: By service, where violations are judged: a trigger of its own, in no scope's average. Whoever
    #: can send reports would otherwise have a hand in a test that is made of answers.
    violations: dict[str, Comparison] = {}


class Judgement:
    """One release's. ``dirty`` are keys that are not stored yet."""

    def __init__(self, release: Release, known: Known | None = None) -> None:
        self._parts = {part.service: part for part in release.parts}
        self.known = known if known is not None else begun(release)
        self.rules = Rules.of({part.service: part.rules for part in release.parts})
        #: By metric: (scope, key) -> what it was counted for.
        self._errors: Keys = {}
        self._refusals: Keys = {}
        self._slower: Keys = {}
        self._violations: Keys = {}
        self.dirty: Keys = {}

    @property
    def keys(self) -> Keys:
        """All that was counted, as it is stored."""
        places = self._errors | self._refusals | self._slower | self._violations
        return {place: self._bits(place) for place in places}

    def remember(self, keys: Keys) -> None:
        """Take up keys that were counted before."""
        alone = (
            (self._errors, _ERROR),
            (self._refusals, _REFUSAL),
            (self._violations, _VIOLATION),
        )
        for table, mask in alone:
            table.clear()
            table.update({place: mask for place, bits in keys.items() if bits & mask})
        self._slower = {
            place: bits & ~(_ERROR | _REFUSAL | _VIOLATION)
            for place, bits in keys.items()
            if bits & ~(_ERROR | _REFUSAL | _VIOLATION)
        }

    def _table(self, bit: int) -> Keys:
        """Return the table of a metric's bit."""
        if bit == _ERROR:
            return self._errors
        if bit == _VIOLATION:
            return self._violations
        return self._refusals if bit == _REFUSAL else self._slower

    def _bits(self, place: tuple[str, int]) -> int:
        return (
            self._errors.get(place, 0)
            | self._refusals.get(place, 0)
            | self._slower.get(place, 0)
            | self._violations.get(place, 0)
        )

    def stored(self) -> None:
        """Note that everything up to now is stored."""
        self.dirty = {}

    def unstored(self, keys: Keys) -> None:
        """Note that these were not stored after all; what came since counts for more."""
        self.dirty = {place: self._bits(place) or bits for place, bits in keys.items()} | self.dirty

    # --- what comes in ----------------------------------------------------------------------------

    def fail(self, message: Failures) -> bool:
        """Take failures told one by one; tell whether any counted."""
        if message.release != self.known.release:
            return False
        self.known.dropped += message.dropped
        counted = [self._one(each) for each in message.failures]
        return any(counted)

    def _one(self, failed: RequestFailed) -> bool:
        part = self._parts.get(failed.service)
        if part is None or failed.weight <= 0:
            return False
        if failed.metric == "csp":
            return self._violation(failed)
        if failed.metric == "slow":
            return self._slow(failed, part)
        bit = _ERROR if failed.metric == "error" else _REFUSAL
        fresh = self._first(failed.service, failed.key, bit)
        if fresh:
            self._put(failed.service, failed)
            if failed.metric == "refusal":
                side = self.known.figures[failed.service]
                (side.candidate if failed.candidate else side.stable).refused += 1
        if self._first(WHOLE, failed.key, bit):
            self._put(WHOLE, failed)
            if failed.metric == "error":
                self.known.mirror.failure(failed.candidate, failed.weight / BUCKETS)
        return fresh

    def _put(self, name: str, failed: RequestFailed) -> None:
        scope = self.known.scopes[name]
        if failed.metric == "refusal":
            scope.refusals.failure(failed.candidate, failed.weight / BUCKETS)
        else:
            # At 100 % there is nothing to compare with: it changes nothing here, and is counted
            # against the objective with the requests that did not fail (``count``).
            scope.errors.failure(failed.candidate, failed.weight / BUCKETS)

    def _violation(self, failed: RequestFailed) -> bool:
        comparison = self.known.violations.get(failed.service)
        if comparison is None or not self._first(failed.service, failed.key, _VIOLATION):
            return False
        comparison.failure(failed.candidate, failed.weight / BUCKETS)
        return True

    def _slow(self, failed: RequestFailed, part: Part) -> bool:
        fresh = False
        for position, threshold in enumerate(part.thresholds):
            if not failed.slower >> position & 1:
                continue
            bit = _SLOW << position
            if self._first(failed.service, failed.key, bit):
                fresh = True
                slow = self.known.scopes[failed.service].slow[position]
                slow.failure(failed.candidate, failed.weight / BUCKETS)
            place = _PLACES[threshold.name]
            if self._first(WHOLE, failed.key, _SLOW << place):
                whole = self.known.scopes[WHOLE].slow[place]
                whole.failure(failed.candidate, failed.weight / BUCKETS)
        return fresh

    def _first(self, scope: str, key: int, bit: int) -> bool:
        """Tell whether a key is seen for the first time in a scope and metric, and note it."""
        place = (scope, key)
        table = self._table(bit)
        bits = table.get(place)
        if bits is None:
            if len(table) >= MAX_KEYS:
                self.known.dropped += 1
                return False
            bits = 0
        if bits & bit:
            return False
        table[place] = bits | bit
        self.dirty[place] = self._bits(place)
        return True

    def count(self, message: Tally, now: float) -> None:
        """Take what a worker has counted."""
        if message.release != self.known.release:
            return
        judged, alone = 0, {WHOLE: (0, 0)}
        for row in message.rows:
            if row.service not in self._parts:
                continue
            sides = self.known.figures[row.service]
            (sides.candidate if row.candidate else sides.stable).take(row)
            self.rules.count(
                now, row.service, row.candidate, row.requests, row.failed, row.timed, row.slow
            )
            self.known.scopes[row.service].requests(row.judged)
            if (violations := self.known.violations.get(row.service)) is not None:
                violations.requests(row.requests)
            judged += row.judged
            if row.candidate and row.weight == self.known.seen.weight > 0:
                self._step(row)
            if row.candidate and row.weight >= BUCKETS:
                for name in (row.service, WHOLE):
                    passed, failed = alone.get(name, (0, 0))
                    alone[name] = passed + row.judged - row.spoiled, failed + row.spoiled
        self.known.scopes[WHOLE].requests(judged)
        for name, (passed, failed) in alone.items():
            if passed or failed:
                # A worker's tally is whole in itself, however late the others tell theirs: what
                # was told one by one must not count here before the requests beside it.
                self.known.scopes[name].objective.counted(passed, failed)

    def _step(self, row: Counted) -> None:
        seen = self.known.seen
        seen.requests += row.requests
        for key in row.keys:
            if len(seen.keys) >= MAX_STEP_KEYS:
                break
            seen.keys.add(key)

    # --- what it comes to -------------------------------------------------------------------------

    def over(self) -> tuple[str, ...]:
        """Return the scopes that speak against the candidate; the chance alpha is shared."""
        return tuple(
            name for name, scope in self.known.scopes.items() if scope.over(self.bound(name))
        )

    def bound(self, scope: str) -> float:
        """Return the evidence at which a scope speaks."""
        part = self._parts.get(scope)
        alpha = part.alpha if part is not None else min(p.alpha for p in self._parts.values())
        return analysis.threshold(alpha, len(self.known.scopes))

    def violating(self) -> tuple[str, ...]:
        """Return the services whose reported violations speak against the candidate."""
        return tuple(
            name
            for name, each in self.known.violations.items()
            if each.evidence >= self.violations_bound(name)
            and each.candidate >= analysis.LEAST_FAILURES
        )

    def violations_bound(self, service: str) -> float:
        """Return the evidence at which violations speak; the services share the chance alpha."""
        part = self._parts[service]
        alpha = part.csp.alpha if part.csp is not None else part.alpha
        return analysis.threshold(alpha, len(self.known.violations))

    def near(self, now: float) -> bool:
        """Tell whether a trigger is near: half way to a verdict, or a rule over its bound."""
        return (
            any(map(self.leans, self.known.scopes))
            or any(map(self.violations_lean, self.known.violations))
            or self.rules.near(now)
        )

    def violations_lean(self, service: str) -> bool:
        """Tell whether a service's violations are half way to their bound, by logarithms."""
        found = self.known.violations.get(service)
        return found is not None and found.evidence**2 >= self.violations_bound(service)

    def leans(self, scope: str) -> bool:
        """Tell whether a scope's evidence is half way to its bound, by logarithms."""
        return self.known.scopes[scope].evidence ** 2 >= self.bound(scope)

    def step(self, step: int, weight: int) -> None:
        """Begin a step: what was had in the one before does not count for it."""
        self.known.seen = StepSeen(step=step, weight=weight)
        self.known.mirror = Mirror(worse=self.known.mirror.worse)

    def anew(self, release: Release) -> None:
        """Begin all tests anew, the lease full: an operator has looked at them and gone on."""
        fresh = begun(release)
        self.known.looked = fresh.looked
        self.known.lease = fresh.lease
        self.known.scopes = fresh.scopes
        self.known.violations = fresh.violations
        self.known.mirror = fresh.mirror
        self.known.seen.waited = 0.0
        self.remember({})
        self.dirty = {}
        self.rules.fresh()


#: All latency thresholds have their place in the scope that takes all services together.
_PLACES: Final = {"p75": 0, "p90": 1, "p95": 2, "p99": 3, OBJECTIVE: 4}


def begun(release: Release) -> Known:
    """Return what is known when nothing was seen yet."""
    seconds = max(1.0, release.plan.seconds)
    scopes = {
        part.service: analysis.scope(
            tolerance=part.tolerance,
            thresholds=len(part.thresholds),
            horizon=max(1000.0, part.rate * seconds),
            p0=part.rules.error_above,
        )
        for part in release.parts
    }
    scopes[WHOLE] = analysis.scope(
        tolerance=max(part.tolerance for part in release.parts),
        thresholds=len(_PLACES),
        horizon=release.horizon,
        p0=max(part.rules.error_above for part in release.parts),
    )
    return Known(
        release=release.id,
        scopes=scopes,
        mirror=Mirror(worse=release.worse),
        figures={part.service: Sides() for part in release.parts},
        lease=release.plan.lease,
        looked=release.looked,
        violations={
            part.service: Comparison(
                tolerance=part.csp.tolerance, horizon=max(1000.0, part.rate * seconds)
            )
            for part in release.parts
            if part.csp is not None
        },
    )
