"""Rates over trailing time and how long one has been too high: against a recount, second by
second.
"""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.release.windows import GAP, Rate, Sustained, Unhealthy, Window

Adds = list[tuple[float, int, int]]

_STEPS = st.lists(
    st.tuples(
        st.one_of(
            st.floats(0.0, 2.0), st.floats(0.0, 90.0), st.just(599.0), st.floats(500.0, 800.0)
        ),
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    max_size=60,
)


def recount(adds: Adds, now: float) -> tuple[int, int] | None:
    """Return requests and bad ones by the definition: whole seconds, from 60 of them to 600."""
    present = math.floor(now)
    for span in range(60, 601):
        inside = [(r, b) for at, r, b in adds if math.floor(at) > present - span]
        requests = sum(r for r, _ in inside)
        if requests >= 20:
            return requests, sum(b for _, b in inside)
    return None


@settings(max_examples=150, deadline=None)
@given(_STEPS, st.floats(0.0, 700.0))
def test_the_rate_is_what_a_recount_gives(steps: Adds, later: float) -> None:
    window, adds, now = Window(), [], 1000.0
    for passed, requests, bad in steps:
        now += passed
        window.add(now, requests, min(bad, requests))
        adds.append((now, requests, min(bad, requests)))
    for when in (now, now + later):
        rate = window.rate(when)
        assert (rate and (rate.requests, rate.bad)) == recount(adds, when)
        assert rate is None or rate.share == rate.bad / rate.requests


def test_a_minute_is_enough_where_it_holds_enough() -> None:
    window = Window()
    window.add(39.9, 100, 100)
    window.add(40.0, 19, 1)
    window.add(99.0, 1, 0)
    assert window.rate(99.9) == Rate(0.05, 20, 1, 60)
    # A second later the window's first is gone: it stretches back to the last 20.
    assert window.rate(100.0) == Rate(0.05, 20, 1, 61)
    # Nineteen would not do: it takes in the whole second that holds the twentieth.
    window = Window()
    window.add(39.9, 100, 100)
    window.add(40.0, 19, 1)
    assert window.rate(100.0) == Rate(101 / 119, 119, 101, 62)


def test_ten_minutes_are_the_longest_that_it_stretches() -> None:
    window = Window()
    window.add(0.0, 20, 2)
    assert window.rate(599.9) == Rate(0.1, 20, 2, 600)
    assert window.rate(600.0) is None


def test_few_requests_give_no_rate() -> None:
    window = Window()
    assert window.rate(0.0) is None
    window.add(1.0, 19, 19)
    assert window.rate(1.0) is None
    assert window.over(1.0, 10) == Rate(1.0, 19, 19, 10)
    assert window.over(1.0, 10, least=20) is None
    assert window.over(11.0, 10) is None


def test_counts_that_cannot_be_are_refused() -> None:
    for requests, bad in ((1, 2), (-1, -1), (3, -1)):
        with pytest.raises(ValueError, match="expected 0 <= bad <= requests"):
            Window().add(0.0, requests, bad)


def test_a_batch_told_late_counts_into_the_newest_second() -> None:
    window = Window()
    window.add(10.0, 10, 0)
    window.add(9.0, 10, 10)
    assert window.buckets == [(10, 20, 10)]


def test_it_is_bounded() -> None:
    window = Window()
    most = 0
    for second in range(5000):
        window.add(float(second), 1, 0)
        most = max(most, len(window.buckets))
    assert most <= 720
    assert window.over(4999.0, 600) == Rate(0.0, 600, 0, 600)


def test_counts_of_another_boots_clock_are_not_believed() -> None:
    window = Window()
    window.add(90_000.0, 100, 100)
    assert window.rate(50.0) is None
    window.add(50.0, 20, 0)
    assert window.rate(50.0) == Rate(0.0, 20, 0, 60)
    assert window.rate(90_000.0) is None


def test_two_minutes_above_are_not_119_seconds() -> None:
    rule = Sustained(0.05, 120.0)
    assert rule.look(0.0, 0.05) is None, "at the bound is not above it"
    for second in range(1, 120):
        assert rule.look(float(second), 0.06) == 1.0
        assert not rule.up(float(second))
        assert rule.over(float(second))
    rule.look(120.0, 0.06)
    assert not rule.up(120.0), "119 s"
    rule.look(121.0, 0.06)
    assert rule.up(121.0)


def test_one_second_below_begins_anew() -> None:
    rule = Sustained(0.05, 120.0)
    for second in range(120):
        rule.look(float(second), 0.06)
    assert rule.look(120.0, 0.05) is None
    assert not rule.over(120.0)
    for second in range(121, 241):
        rule.look(float(second), 0.06)
        assert not rule.up(float(second))
    rule.look(241.0, 0.06)
    assert rule.up(241.0)


def test_an_unknown_rate_neither_begins_nor_ends_it() -> None:
    rule = Sustained(0.05, 10.0)
    assert rule.look(0.0, None) is None
    rule.look(1.0, 1.0)
    assert rule.look(1.0 + GAP, None) == 1.0
    rule.look(1.0 + GAP, 1.0)
    for second in range(7, 12):
        rule.look(float(second), None)
        assert not rule.up(float(second)), "what is not known is not above"
    rule.look(11.0, 1.0)
    assert rule.up(11.0)


def test_a_rate_unknown_for_longer_than_the_gap_ends_it() -> None:
    rule = Sustained(0.05, 10.0)
    rule.look(0.0, 1.0)
    for tenth in range(1, 53):
        rule.look(tenth / 10, None)
    assert rule.since is None
    assert rule.look(5.2, 1.0) == 5.2


def test_looks_that_are_missing_for_longer_than_the_gap_begin_it_anew() -> None:
    rule = Sustained(0.05, 10.0)
    rule.look(0.0, 1.0)
    rule.look(GAP, 1.0)
    assert rule.since == 0.0
    assert not rule.over(GAP + 5.1)
    assert rule.look(GAP + 5.1, 1.0) == GAP + 5.1
    assert not rule.up(GAP + 5.1)


def test_being_up_ends_when_nobody_looks() -> None:
    rule = Sustained(0.05, 2.0)
    for second in range(3):
        rule.look(float(second), 1.0)
    assert rule.up(2.0)
    assert rule.up(2.0 + GAP)
    assert not rule.up(2.1 + GAP)


def test_a_clock_that_began_anew_begins_it_anew() -> None:
    rule = Sustained(0.05, 10.0)
    rule.look(90_000.0, 1.0)
    assert not rule.over(3.0)
    assert rule.look(3.0, 1.0) == 3.0


def test_failing_probes_count_from_the_first() -> None:
    rule = Unhealthy(30.0)
    assert rule.look(100.0, None) is None
    assert rule.look(110.0, 80.5) == 80.5
    assert not rule.up(110.4)
    assert rule.up(110.5)
    rule.look(111.0, None)
    assert not rule.up(200.0)


def test_failing_probes_count_from_a_fresh_start() -> None:
    rule = Unhealthy(30.0)
    rule.look(100.0, 60.0)
    assert rule.up(100.0)
    rule.fresh()
    assert not rule.up(100.0)
    assert rule.look(101.0, 60.0) == 101.0
    assert rule.look(130.9, 60.0) == 101.0
    assert not rule.up(130.9)
    assert rule.up(131.0)
    # A later first failure counts as it is; what another boot's clock said does not.
    assert rule.look(140.0, 120.0) == 120.0
    assert rule.look(50.0, 20.0) == 20.0


def test_all_of_it_can_be_stored() -> None:
    window, rule, probes = Window(), Sustained(0.05, 10.0), Unhealthy(30.0)
    window.add(5.0, 30, 3)
    rule.look(5.0, 0.1)
    probes.look(5.0, 1.0)
    for each in (window, rule, probes):
        stored = msgspec.json.encode(each)
        assert msgspec.json.decode(stored, type=type(each)) == each
