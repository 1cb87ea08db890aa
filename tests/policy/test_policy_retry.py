"""What failures call for, and how many second tries there may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.retry import (
    FALLBACK,
    MARK,
    MEANING,
    RESCUE,
    RETRY,
    SAVED,
    UNASKED,
    Budget,
    Verdicts,
)
from gateway.proxy.errors import KINDS, Source

ALL = Verdicts(["connect", "503"], ["reset", "5xx"], ["timeout", "502", "4xx"], fallback=True)


def test_every_failure_of_a_backend_has_a_meaning() -> None:
    upstream = {name for name, kind in KINDS.items() if kind.source is Source.UPSTREAM}
    assert set(MEANING) == upstream
    assert set(UNASKED) <= set(KINDS)


@pytest.mark.parametrize(
    ("status", "bits"),
    [
        (200, 0),
        (304, 0),
        (404, 0),  # named for the breaker: a client's mistake all the same
        (500, RESCUE),
        (502, RESCUE | MARK | FALLBACK),
        (503, RETRY | RESCUE | FALLBACK),
        (504, RESCUE | FALLBACK),
        (599, RESCUE),
    ],
)
def test_what_a_status_calls_for(status: int, bits: int) -> None:
    assert ALL.statuses[status] == bits


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        ("connect", RETRY | FALLBACK),
        ("unresolved", RETRY | FALLBACK),
        ("connect-timeout", RETRY | MARK | FALLBACK),
        ("reset", RESCUE | FALLBACK),
        ("bad-answer", RESCUE | FALLBACK),
        ("first-byte-timeout", MARK | FALLBACK),
        ("breaker-open", FALLBACK),
        ("client-left", 0),
        ("body-too-large", 0),
        ("no-route", 0),
    ],
)
def test_what_a_failure_calls_for(kind: str, bits: int) -> None:
    assert ALL.of(kind) == bits


def test_without_fallback_there_is_none() -> None:
    bare = Verdicts([], [], [], fallback=False)
    assert not any(bare.statuses)
    assert not any(bare.failures.values())


# --- the budget -------------------------------------------------------------------------------


def _spend(budget: Budget, rate: float, seconds: float, wanted: float) -> int:
    """Have a share ``wanted`` of requests at ``rate`` a second ask for a retry."""
    taken = asked = 0
    for request in range(int(rate * seconds)):
        while asked < wanted * request:
            asked += 1
            taken += budget.take(request + taken, request / rate)
    return taken


@pytest.mark.parametrize("rate", [50, 300, 5000])
def test_retries_stay_within_their_share(rate: int) -> None:
    taken = _spend(Budget(0.2, 10.0), rate, 20.0, 0.5)
    requests = rate * 20
    assert 0.19 * requests <= taken <= 0.2 * requests + 30.0


def test_where_few_are_wanted_all_are_made() -> None:
    assert _spend(Budget(0.2, 10.0), 300, 20.0, 0.1) == 600


def test_the_floor_is_for_low_traffic() -> None:
    # One request a second, each of which fails.
    assert _spend(Budget(0.2, 10.0), 1.0, 60.0, 1.0) == 59


def test_without_a_budget_there_are_none() -> None:
    budget = Budget(0.0, 0.0)
    assert not any(budget.take(n, n / 100) for n in range(1000))


def test_quiet_saves_up_for_a_burst_and_no_more() -> None:
    budget = Budget(0.2, 10.0)
    for second in range(60):
        assert budget.take(second * 300, float(second))
    burst = sum(budget.take(60 * 300 + n, 60.0) for n in range(10_000))
    assert 0.2 * 300 * SAVED * 0.8 <= burst <= 0.2 * 300 * SAVED + 1


def test_an_hour_of_silence_is_no_licence() -> None:
    budget = Budget(0.2, 10.0)
    budget.take(0, 0.0)
    assert sum(budget.take(1_000_000, 3600.0) for _ in range(100_000)) <= 56 * SAVED + 1


def test_a_count_that_begins_anew_earns_nothing() -> None:
    budget = Budget(0.5, 1.0)
    budget.take(1_000_000, 0.0)
    assert sum(budget.take(3, 0.5) for _ in range(100)) <= 3


def test_second_tries_by_another_right_earn_nothing() -> None:
    budgets = [Budget(0.5, 0.0) for _ in range(2)]
    for budget in budgets:
        budget.take(0, 0.0)
    for _ in range(20):
        budgets[1].leave_out()
    left = [sum(budget.take(40, 1.0) for _ in range(100)) for budget in budgets]
    assert left == [20, 10]


def test_other_bounds_hold_at_once() -> None:
    budget = Budget(0.2, 100.0)
    budget.change(0.2, 2.0)
    assert sum(budget.take(0, 0.0) for _ in range(100)) == 6


@given(
    share=st.floats(0.0, 1.0),
    floor=st.floats(0.0, 50.0),
    steps=st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(0, 500)), max_size=200),
)
def test_no_history_earns_more_than_share_and_floor(
    share: float, floor: float, steps: list[tuple[float, int]]
) -> None:
    budget = Budget(share, floor)
    now, requests, taken = 0.0, 0, 0
    budget.take(0, 0.0)
    taken = 0
    for passed, more in steps:
        now += passed
        requests += more
        taken += budget.take(requests, now)
    assert taken <= share * requests + floor * (now + 3.0) + 1
