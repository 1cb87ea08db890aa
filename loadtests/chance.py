"""Chance for simulations, from a seeded source, and the margins that it leaves. No dependencies."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from random import Random

#: Above this variance a binomial is drawn from its normal limit; the error is far below 1 in 1000.
_NORMAL_FROM = 2000.0


def geometric(source: Random, share: float) -> int:
    """Return the number of trials up to and including the first success."""
    if share >= 1:
        return 1
    return 1 + int(math.log(1.0 - source.random()) / math.log1p(-share))


def binomial(source: Random, trials: int, share: float) -> int:
    """Return the number of successes, by skipping from one to the next."""
    if share > 0.5:
        return trials - binomial(source, trials, 1 - share)
    if trials <= 0 or share <= 0:
        return 0
    variance = trials * share * (1 - share)
    if variance > _NORMAL_FROM:
        drawn = round(source.gauss(trials * share, math.sqrt(variance)))
        return min(trials, max(0, drawn))
    count = -1
    while trials >= 0:
        trials -= geometric(source, share)
        count += 1
    return count


@lru_cache(maxsize=64)
def _poisson_table(mean: float) -> list[float]:
    top = int(mean + 12 * math.sqrt(mean) + 20)
    log = math.log(mean) if mean > 0 else 0.0
    return list(accumulate(math.exp(k * log - mean - math.lgamma(k + 1)) for k in range(top)))


def poisson(source: Random, mean: float) -> int:
    """Return a Poisson number, by inversion of a table."""
    return bisect_left(_poisson_table(mean), source.random()) if mean > 0 else 0


#: Of figures that are right, one in a thousand lies outside its margin.
SIGNIFICANCE = 0.001
Z = 3.29


def quantile(values: Sequence[float], share: float) -> float:
    """Return the order statistic at a share of the sorted values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def around(values: Sequence[float], share: float, others: int) -> tuple[float, float]:
    """Return between which values the same quantile of ``others`` further runs lies, 999 in 1000.

    Order statistics: the ranks' standard deviation is that of a binomial, of both samples. Where a
    rank is beyond all values, there is no bound on that side.
    """
    spread = Z * math.sqrt(share * (1 - share) * (1 / len(values) + 1 / others))
    low, high = share - spread, share + spread
    return (
        quantile(values, low) if low > 0 else -math.inf,
        quantile(values, high) if high < 1 else math.inf,
    )


def most(runs: int, share: float) -> int:
    """Return the count of ``runs`` that chance exceeds once in 1000 at the true ``share``."""
    log, rest = math.log(share), math.log1p(-share)
    below = 0.0
    for count in range(runs + 1):
        ways = math.lgamma(runs + 1) - math.lgamma(count + 1) - math.lgamma(runs - count + 1)
        below += math.exp(ways + count * log + (runs - count) * rest)
        if below >= 1 - SIGNIFICANCE:
            return count
    return runs
