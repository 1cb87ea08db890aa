"""Histograms of durations: how exact they are, and that merging is adding."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel.histogram import BUCKETS, FIRST, GROWTH, Histogram, bound, bucket_of

DURATIONS = st.floats(min_value=FIRST, max_value=600.0)
PAIRS = st.lists(st.tuples(st.integers(0, BUCKETS - 1), st.integers(0, 1_000_000)), max_size=8).map(
    tuple
)


@given(DURATIONS)
def test_a_duration_is_at_most_a_hundredth_below_its_bound(seconds: float) -> None:
    limit = bound(bucket_of(seconds))
    assert limit / GROWTH * (1 - 1e-7) <= seconds <= limit * (1 + 1e-7)


def test_each_bound_is_in_its_own_bucket_and_what_follows_in_the_next() -> None:
    for bucket in range(BUCKETS - 1):
        assert bucket_of(bound(bucket)) == bucket
        assert bucket_of(bound(bucket) * 1.0001) == bucket + 1


def test_they_reach_beyond_a_minute_and_what_is_slower_is_in_the_last() -> None:
    assert bound(BUCKETS - 1) > 600
    assert bucket_of(1e9) == bucket_of(math.inf) == BUCKETS - 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, FIRST, math.nan])
def test_what_is_faster_than_the_first_bound_is_in_the_first(seconds: float) -> None:
    assert bucket_of(seconds) == 0


@given(st.lists(DURATIONS, min_size=1, max_size=200), st.floats(0.0, 1.0))
def test_a_quantile_is_at_most_a_hundredth_above_the_true_one(
    durations: list[float], q: float
) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    true = sorted(durations)[max(math.ceil(q * len(durations) - 1e-6), 1) - 1]
    assert true * (1 - 1e-7) <= histogram.quantile(q) <= true * GROWTH * (1 + 1e-7)


@given(PAIRS, PAIRS, PAIRS)
def test_merging_is_associative_and_has_no_order(
    one: tuple[tuple[int, int], ...],
    two: tuple[tuple[int, int], ...],
    three: tuple[tuple[int, int], ...],
) -> None:
    left = Histogram(one)
    left.merge(two)
    left.merge(three)
    inner = Histogram(three)
    inner.merge(two)
    right = Histogram(inner.sparse())
    right.merge(one)
    assert left == right
    assert left.total == right.total == sum(count for _, count in one + two + three)


@given(st.lists(DURATIONS, max_size=50), st.lists(DURATIONS, max_size=50))
def test_merging_what_two_have_seen_is_seeing_all_of_it(one: list[float], two: list[float]) -> None:
    apart, other, together = Histogram(), Histogram(), Histogram()
    for histogram, durations in ((apart, one), (other, two), (together, one + two)):
        for seconds in durations:
            histogram.add(seconds)
    apart.merge(other.sparse())
    assert apart == together
    assert apart.total == len(one + two)


def test_the_share_above_is_of_buckets_above() -> None:
    histogram = Histogram()
    for seconds in (0.1, 0.2, 0.4, 2.1):
        histogram.add(seconds)
    assert histogram.share_above(2.0) == 0.25
    assert histogram.share_above(0.3) == 0.5
    assert histogram.share_above(0.1) == 0.75
    assert histogram.share_above(60) == 0.0


def test_of_none_there_is_nothing_to_say() -> None:
    histogram = Histogram()
    assert (histogram.total, histogram.quantile(0.95), histogram.share_above(0)) == (0, 0.0, 0.0)
    assert repr(histogram) == "<Histogram of none>"


def test_it_says_what_it_has() -> None:
    assert repr(Histogram([(bucket_of(0.25), 3)])) == "<Histogram of 3: p50 0.2517 s, p95 0.2517 s>"
    assert Histogram([(1, 1)]) != Histogram([(1, 2)])
    assert Histogram() != ()


@pytest.mark.parametrize("pair", [(-1, 1), (BUCKETS, 1), (3, -1)])
def test_counts_that_cannot_be_add_nothing(pair: tuple[int, int]) -> None:
    histogram = Histogram([(5, 2)])
    with pytest.raises(ValueError, match="expected a bucket from 0 to 1600"):
        histogram.merge([(5, 1), pair])
    assert histogram.sparse() == ((5, 2),)


@pytest.mark.parametrize("ask", [lambda h: h.quantile(1.5), lambda h: h.quantile(-0.1)])
def test_a_quantile_that_cannot_be_is_an_error(ask: Callable[[Histogram], float]) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        ask(Histogram())
