"""Durations as counts in logarithmic buckets: what workers tell and control adds up.

Each bucket's bound is 1 % above the one before, from 100 µs to over ten minutes, so that a quantile
is at most 1 % above the true one and two histograms merge by adding (as in Prometheus' native
histograms and DDSketch, VLDB 2019, which bounds the relative error in the same way). A bucket's
number is the wire format between workers and control: another ``FIRST`` or ``GROWTH`` is another
``messages.PROTOCOL``.

Compiled where a compiler is there: a worker asks for a bucket at each request's end.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import cython

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Seconds. Everything faster is in bucket 0.
FIRST = 1e-4
GROWTH = 1.01
#: Buckets are numbered from 0; the last one has everything slower, too.
BUCKETS = 1601

_FIRST = cython.declare(cython.double, FIRST)
_LAST = cython.declare(cython.int, BUCKETS - 1)
_PER_E = cython.declare(cython.double, 1.0 / log(GROWTH))
#: What rounding may be off: a bound is in its own bucket.
_SLACK = cython.declare(cython.double, 1e-6)


@cython.ccall
@cython.exceptval(-1)
def bucket_of(seconds: cython.double) -> cython.int:
    """Return the bucket of a duration in seconds; one that is not above 0 is in bucket 0."""
    place: cython.double
    if not seconds > _FIRST:
        return 0
    place = log(seconds / _FIRST) * _PER_E - _SLACK
    if place >= _LAST:
        return _LAST
    if place < 0.0:
        return 0
    return cython.cast(cython.int, place) + 1


def bound(bucket: int) -> float:
    """Return a bucket's upper bound in seconds."""
    return FIRST * float(GROWTH**bucket)


def add_up(counts: dict[int, int], pairs: Iterable[tuple[int, int]]) -> None:
    """Add (bucket, count) pairs to the counts by bucket."""
    for bucket, count in pairs:
        counts[bucket] = counts.get(bucket, 0) + count


class Histogram:
    """Durations, mergeable. Equal to another that has the same counts."""

    __slots__ = ("_counts", "total")

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._counts: dict[int, int] = {}
        #: How many durations it has.
        self.total = 0
        self.merge(pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        if not self.total:
            return "<Histogram of none>"
        return (
            f"<Histogram of {self.total}: p50 {self.quantile(0.5):.4g} s, "
            f"p95 {self.quantile(0.95):.4g} s>"
        )

    def add(self, seconds: float) -> None:
        """Put one duration in."""
        bucket = bucket_of(seconds)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.total += 1

    def merge(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Add another's counts, as ``sparse`` gives them.

        Raises ValueError, and adds nothing, where a bucket or a count cannot be.
        """
        pairs = tuple(pairs)
        for bucket, count in pairs:
            if not 0 <= bucket < BUCKETS or count < 0:
                raise ValueError(
                    f"({bucket}, {count}): expected a bucket from 0 to {BUCKETS - 1} and a count"
                )
        add_up(self._counts, ((bucket, count) for bucket, count in pairs if count))
        self.total += sum(count for _, count in pairs)

    def quantile(self, q: float) -> float:
        """Return the seconds that a share ``q`` (0 to 1) of them took at most; 0.0 of none.

        It is at most 1 % above the true one (above ``FIRST``).
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile of {q}: expected 0 to 1")
        wanted = max(q * self.total, 1.0)
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            # What rounding makes of, say, 0.1 * 30 must not be a whole duration more.
            if seen >= wanted - 1e-9 * self.total:
                return bound(bucket)
        return 0.0

    def share_above(self, seconds: float) -> float:
        """Return the share (0 to 1) that took longer, to within a bucket; 0.0 of none."""
        if not self.total:
            return 0.0
        limit = bucket_of(seconds)
        above = sum(count for bucket, count in self._counts.items() if bucket > limit)
        return above / self.total

    def sparse(self) -> tuple[tuple[int, int], ...]:
        """Return (bucket, count) of all that are not empty, rising."""
        return tuple(sorted(self._counts.items()))
