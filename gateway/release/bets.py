"""One metric's tests, which may be looked at after every request.

Pure: no clock, no chance, no I/O. All of the state is in mutable msgspec structs, so that what was
written down and read back goes on exactly as if nothing had happened.

**The comparison.** Under "the candidate fails no more often than stable", a failure is the
candidate's with probability at most ``w``, its weight when that request was assigned. So labels of
failures are all that is needed: the hour of the day, an outage of both sides and the steps' rising
weight cancel out. For a ratio of rates ``r > 1`` a bet pays, on a failure with the label ``c`` (1:
candidate, 0: stable), the factor ``r**c / (1 + w*(r - 1))``. The proof that the bet is fair is one
line: on the boundary the expected factor is ``w*r/(1 + w*(r-1)) + (1-w)/(1 + w*(r-1)) = 1``, and
below it less, as the factor grows with the label. The evidence, a mixture of such bets, starts at 1
and is a nonnegative supermartingale, so it ever reaches ``1/alpha`` with probability at most alpha
(Ville's inequality), however often it is looked at.

**Cash.** A long healthy run ruins every bet, and a fault that starts late would be found late. So
part of the wealth is held back and bet little by little. Money may be moved into a bet by any rule
that looks at the past alone, so the guarantee holds as before. The rule: evenly, so that all is bet
after ``horizon`` requests, but for the last tenth, which is handed out ever more slowly (what is
left falls as 1/t): a release that outlives its horizon is still watched.

Wealth is kept as natural logarithms: neither overflow nor underflow, in millions of updates.

Sources: Lindon & Malek, "Anytime-valid inference for multinomial count data" (2022); Lindon, Sanden
& Shirikian, "Rapid regression detection in software deployments through sequential testing" (2022);
Turner, Ly & Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for
optional stopping" (2021); Howard & Ramdas, "Sequential estimation of quantiles with applications to
A/B testing and best-arm identification" (2022), for "slower than a threshold" as a label; Shin,
Ramdas & Rinaldo, "E-detectors" (2022). The one-sided mixture and the cash are this project's own.

Units: a weight or a rate is a share from 0 to 1; a request or a failure is one of a cohort key that
has not failed (in that metric) before.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How many times stable's rate the candidate may fail at: one bet each, equal shares.
RATIOS = (1.5, 2, 4, 8, 16, 64, 512)

#: Rates that the objective is tested against: multiples of it, and rates as such.
MULTIPLES = (1.5, 2, 3, 5, 10)
RATES = (0.5, 0.9)

#: Requests until the cash is bet, where nobody says.
HORIZON = 200_000.0

#: The share of the cash that is handed out ever more slowly.
RESERVE = 0.1

#: Evidence as a plain number stops here; its logarithm does not.
MOST = 1e300
MOST_LOG = math.log(MOST)


def _plain(log: float) -> float:
    return MOST if log >= MOST_LOG else math.exp(log)


def _log_sum(logs: Sequence[float]) -> float:
    """Return log(sum(exp(x))) for some finite logs."""
    top = max(logs)
    return top + math.log(sum(math.exp(log - top) for log in logs))


def _added(one: float, other: float) -> float:
    """Return log(exp(one) + exp(other)); exact for the larger where the other is nothing beside."""
    if one < other:
        one, other = other, one
    return one + math.log1p(math.exp(other - one))


def _within(weight: float, tolerance: float) -> float:
    """Return the chance that a failure is the candidate's, at ``tolerance`` times stable's rate."""
    return tolerance * weight / (1 + weight * (tolerance - 1))


@lru_cache(maxsize=256)
def _stakes(weight: float, tolerance: float) -> tuple[float, ...]:
    """Return log(1 + w*(r - 1)), what every failure costs, for each ratio."""
    chance = _within(weight, tolerance)
    return tuple(math.log1p(chance * (ratio - 1)) for ratio in RATIOS)


_GAINS = tuple(math.log(ratio) for ratio in RATIOS)


class Wealth(msgspec.Struct, kw_only=True):
    """Bets, and the cash that is not bet yet. ``cash`` is its share at the start, 0 to below 1."""

    horizon: float = HORIZON
    cash: float = 0.5
    #: Natural logarithm of each bet's wealth.
    logs: list[float] = []
    #: Cash not bet yet, and requests since some was moved.
    held: float = 0.0
    waiting: int = 0

    def __post_init__(self) -> None:
        if not (self.horizon > 0 and 0 <= self.cash < 1):
            raise ValueError(
                f"horizon {self.horizon}, cash {self.cash}:"
                " expected a number of requests above 0, a share from 0 to below 1"
            )
        if not self.logs:
            bets = self._bets()
            self.held = self.cash
            self.logs = [math.log((1 - self.cash) / bets)] * bets

    def _bets(self) -> int:
        return len(RATIOS)

    @property
    def log_evidence(self) -> float:
        """The evidence's natural logarithm."""
        return _log_sum([*self.logs, math.log(self.held)] if self.held > 0 else self.logs)

    @property
    def log10(self) -> float:
        """The evidence's decimal logarithm."""
        return self.log_evidence / math.log(10)

    @property
    def evidence(self) -> float:
        """How many times better than the boundary the bets explain what was seen (cash included).

        At least 0; it stops at 1e300.
        """
        return _plain(self.log_evidence)

    @property
    def pace(self) -> float:
        """The cash that the next request brings into the bets."""
        slowed = min(1.0, self.held / (RESERVE * self.cash)) if self.cash > 0 else 0.0
        return slowed**2 * self.cash / self.horizon

    def _move(self) -> None:
        """Bet the cash that is due for the requests since the last time."""
        due = self.waiting * self.cash / self.horizon
        self.waiting = 0
        if due <= 0 or self.held <= 0:
            return
        reserve = RESERVE * self.cash
        moved = max(0.0, min(due, self.held - reserve))
        self.held -= moved
        # d held = -(held / reserve)**2 d due, solved.
        rest = (due - moved) * self.held / reserve**2
        slowly = self.held * rest / (1 + rest)
        self.held -= slowly
        if moved + slowly > 0:
            each = math.log((moved + slowly) / len(self.logs))
            self.logs = [_added(log, each) for log in self.logs]


class Comparison(Wealth, kw_only=True):
    """Whether the candidate fails more often than ``tolerance`` times as often as stable.

    ``candidate`` and ``stable`` are the failures counted. Of two failures with requests between
    them, the requests belong before the second; within a batch (requests first) order is free.
    """

    tolerance: float = 1.0
    candidate: int = 0
    stable: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance {self.tolerance}: expected a factor from 0 on")
        super().__post_init__()

    def requests(self, count: int) -> None:
        """Take note of both sides' requests that ended: cash is bet before the next failure."""
        self.waiting += max(0, count)

    def failure(self, candidate: bool, weight: float) -> None:
        """Take one failure, with the weight in force when its request was assigned.

        Where there was but one side (a weight of 1 or more, 0 or less, or none at all) there is
        nothing to compare: it changes nothing and is not counted. For a candidate's failure at
        weight 0, which must not happen, that is the cautious reading: no step towards a rollback.
        """
        if not 0.0 < weight < 1.0:
            return
        self._move()
        stakes = _stakes(weight, self.tolerance)
        if candidate:
            self.candidate += 1
            self.logs = [
                log + gain - stake
                for log, gain, stake in zip(self.logs, _GAINS, stakes, strict=True)
            ]
        else:
            self.stable += 1
            self.logs = [log - stake for log, stake in zip(self.logs, stakes, strict=True)]


class Objective(Wealth):
    """Whether the candidate, alone at weight 100, fails more often than the share ``p0``.

    A bet on the rate ``t > p0`` pays ``t/p0`` for a failure and ``(1 - t)/(1 - p0)`` for a request
    that did not fail: fair at p0, and less than fair below it. (A bet on a rate below p0 would
    grow while all is well, and take a good release back.) A p0 of 0 or 1 stands for one in a
    million from it.

    Here the requests that did not fail count too, so they come in whole tallies, and the cash that
    a tally makes due is bet after it. To bet it between a tally's requests and its failures, or
    just before each failure, would be to know the outcome: simulated, 1.7 % of releases at p0 were
    taken back where 1 % is promised.
    """

    p0: float
    failed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.p0 <= 1:
            raise ValueError(f"objective {self.p0}: expected a share from 0 to 1")
        super().__post_init__()

    def _bets(self) -> int:
        return len(_alternatives(self.p0))

    def counted(self, passed: int, failed: int) -> None:
        """Take one tally: its requests that did not fail, and its failures, of whatever order.

        Where a tally ends must not depend on what comes next: by the clock, or after a failure.
        """
        passed, failed = max(0, passed), max(0, failed)
        self.logs = [
            log + failed * won + passed * lost
            for log, (won, lost) in zip(self.logs, _alternatives(self.p0), strict=True)
        ]
        self.failed += failed
        self.waiting += passed + failed
        self._move()


@lru_cache(maxsize=64)
def _alternatives(p0: float) -> tuple[tuple[float, float], ...]:
    """Return the logs of a bet's factor for a failure and for none, for each rate above p0."""
    p0 = min(max(p0, 1e-6), 1 - 1e-6)
    rates = sorted({round(p0 * multiple, 12) for multiple in MULTIPLES} | set(RATES))
    rates = [rate for rate in rates if p0 < rate < 1] or [(1 + p0) / 2]
    return tuple((math.log(rate / p0), math.log1p(-rate) - math.log1p(-p0)) for rate in rates)


class Mirror(msgspec.Struct):
    """The way up, early: evidence against "the candidate fails ``worse`` times as often or more".

    The comparison's bet from the other side: ``(1 + w*(worse - 1)) * worse**-c`` is fair where the
    candidate is exactly that much worse. At 1/beta a step may end early; only failures speak.
    """

    worse: float = 2.0
    #: The evidence's natural logarithm.
    log_evidence: float = 0.0

    def __post_init__(self) -> None:
        if not 1 < self.worse < math.inf:
            raise ValueError(f"worse {self.worse}: expected a factor above 1")

    @property
    def evidence(self) -> float:
        """How strongly the failures speak for the candidate; it stops at 1e300."""
        return _plain(self.log_evidence)

    def failure(self, candidate: bool, weight: float) -> None:
        """Take one failure; one without two sides changes nothing."""
        if 0.0 < weight < 1.0:
            self.log_evidence += math.log1p(weight * (self.worse - 1))
            self.log_evidence -= math.log(self.worse) if candidate else 0.0


def _growths(
    candidate_rate: float, stable_rate: float, weight: float, tolerance: float
) -> list[float]:
    """Return the expected gain of each bet's logarithm for a request of the whole stream."""
    if not 0.0 < weight < 1.0:
        return [0.0] * len(RATIOS)
    ours = weight * candidate_rate
    failures = ours + (1 - weight) * stable_rate
    stakes = _stakes(weight, tolerance)
    return [ours * gain - failures * stake for gain, stake in zip(_GAINS, stakes, strict=True)]


def growth(
    candidate_rate: float, stable_rate: float, weight: float, tolerance: float = 1.0
) -> float:
    """Return what the best bet's log-evidence (natural) gains for a request of the whole stream.

    Rates are failures per request of each side. Not above 0: no verdict will come of these rates.
    """
    return max(_growths(candidate_rate, stable_rate, weight, tolerance))


def requests_until(
    comparison: Comparison,
    candidate_rate: float,
    stable_rate: float,
    weight: float,
    bound: float,
) -> float:
    """Return how many requests of the whole stream it takes, at these rates, to reach ``bound``.

    An expectation, for people; infinity where the evidence does not grow. A bet that a healthy time
    has ruined is overtaken by the cash moved from now on, which counts here at the present pace.
    Of a scope with m metrics, one of them has to reach m times the scope's bound.
    """
    if comparison.evidence >= bound:
        return 0.0
    pace = comparison.pace / len(RATIOS)
    best = math.inf
    growths = _growths(candidate_rate, stable_rate, weight, comparison.tolerance)
    for log, gain in zip(comparison.logs, growths, strict=True):
        if gain > 0:
            fresh = min(pace / gain, comparison.held)
            start = _added(log, math.log(fresh)) if fresh > 0 else log
            best = min(best, (math.log(bound) - start) / gain)
    return max(0.0, best)
