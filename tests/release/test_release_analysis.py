"""The release's statistics: golden values, fair bets, state that survives, late faults, edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.release.analysis import (
    LEAST_FAILURES,
    RATIOS,
    Comparison,
    Mirror,
    Objective,
    ServiceEvidence,
    growth,
    mean,
    requests_until,
    scope,
    threshold,
    verdict,
)
from loadtests.chance import geometric, most

weights = st.floats(0.0001, 0.9999)
tolerances = st.floats(0.1, 10)
labels = st.lists(st.tuples(st.booleans(), weights, st.integers(0, 5000)), max_size=60)


def plain(candidate: int, stable: int, weight: float) -> Comparison:
    comparison = Comparison(cash=0.0)
    for _ in range(stable):
        comparison.failure(False, weight)
    for _ in range(candidate):
        comparison.failure(True, weight)
    return comparison


@pytest.mark.parametrize(
    ("candidate", "stable", "weight", "expected"),
    [
        (2, 0, 0.05, 106.613),
        (8, 0, 0.5, 113.258),
        (5, 10, 0.05, 106.808),
        (4, 0, 0.2, 217.993),
    ],
)
def test_golden_values(candidate: int, stable: int, weight: float, expected: float) -> None:
    comparison = plain(candidate, stable, weight)
    assert comparison.evidence == pytest.approx(expected, rel=1e-5)
    assert (comparison.candidate, comparison.stable) == (candidate, stable)
    assert comparison.log10 == pytest.approx(math.log10(expected), rel=1e-5)


@given(weight=weights, tolerance=tolerances)
def test_each_bet_is_fair_on_the_boundary_and_less_than_fair_below(
    weight: float, tolerance: float
) -> None:
    chance = tolerance * weight / (1 + weight * (tolerance - 1))
    won, lost = (Comparison(tolerance=tolerance, cash=0.0) for _ in range(2))
    won.failure(True, weight)
    lost.failure(False, weight)
    for up, down in zip(won.logs, lost.logs, strict=True):
        paid, left = math.exp(up) * len(RATIOS), math.exp(down) * len(RATIOS)
        assert chance * paid + (1 - chance) * left == pytest.approx(1, rel=1e-9)
        assert paid > left


@given(weight=weights, worse=st.floats(1.01, 100))
def test_the_mirror_is_fair_where_the_candidate_is_exactly_that_much_worse(
    weight: float, worse: float
) -> None:
    chance = worse * weight / (1 + weight * (worse - 1))
    seen, unseen = Mirror(worse), Mirror(worse)
    seen.failure(True, weight)
    unseen.failure(False, weight)
    assert seen.evidence < unseen.evidence
    expected = chance * seen.evidence + (1 - chance) * unseen.evidence
    assert expected == pytest.approx(1, rel=1e-9)


@given(p0=st.floats(0.0001, 0.99), better=st.floats(0, 1))
def test_the_objective_is_fair_at_p0_and_never_gains_below(p0: float, better: float) -> None:
    failed, passed = Objective(p0, cash=0.0), Objective(p0, cash=0.0)
    failed.counted(0, 1)
    passed.counted(1, 0)
    assert p0 * failed.evidence + (1 - p0) * passed.evidence == pytest.approx(1, rel=1e-9)
    rate = p0 * better
    assert rate * failed.evidence + (1 - rate) * passed.evidence <= 1 + 1e-9


def test_the_comparison_stays_fair_while_cash_moves() -> None:
    weights, gaps = (0.05, 0.05, 0.2, 0.5, 0.5, 0.2, 0.9, 0.1), (3, 0, 40, 1, 200, 5, 0, 30)
    expected = 0.0
    for seen in product((False, True), repeat=len(weights)):
        comparison, chance = Comparison(horizon=150), 1.0
        for candidate, weight, gap in zip(seen, weights, gaps, strict=True):
            comparison.requests(gap)
            comparison.failure(candidate, weight)
            chance *= weight if candidate else 1 - weight
        expected += chance * comparison.evidence
    assert expected == pytest.approx(1, rel=1e-9)


def after_failures(seen: Sequence[bool]) -> list[Sequence[bool]]:
    """Cut after each failure, as the simulation does."""
    ends = [0, *(number + 1 for number, failed in enumerate(seen) if failed), len(seen)]
    return [seen[start:end] for start, end in pairwise(ends)]


def by_threes(seen: Sequence[bool]) -> list[Sequence[bool]]:
    """Cut after every third request, as a clock does."""
    return [seen[start : start + 3] for start in range(0, len(seen), 3)]


@pytest.mark.parametrize("cut", [after_failures, by_threes])
def test_the_objective_stays_fair_while_cash_moves(
    cut: Callable[[Sequence[bool]], list[Sequence[bool]]],
) -> None:
    p0, expected = 0.05, 0.0
    for seen in product((False, True), repeat=10):
        objective = Objective(p0, horizon=8)
        for tally in cut(seen):
            objective.counted(len(tally) - sum(tally), sum(tally))
        chance = p0 ** sum(seen) * (1 - p0) ** (len(seen) - sum(seen))
        expected += chance * objective.evidence
    assert expected == pytest.approx(1, rel=1e-9)


def test_a_candidate_better_than_the_objective_is_left_alone() -> None:
    objective = Objective(0.05)
    for _ in range(200):
        objective.counted(999, 1)
    assert objective.evidence < 1


def test_a_late_fault_is_found_at_full_weight() -> None:
    objective = Objective(0.05, horizon=200_000)
    objective.counted(150_000, 0)
    failures = 0
    while objective.evidence < 100:
        objective.counted(2, 1)
        failures += 1
        assert failures < 100
    assert failures >= LEAST_FAILURES


@given(failures=labels, order=st.randoms(use_true_random=False))
def test_within_a_batch_order_is_free(
    failures: list[tuple[bool, float, int]], order: Random
) -> None:
    one, other = Comparison(), Comparison()
    for comparison in (one, other):
        comparison.failure(True, 0.3)
        comparison.requests(5000)
    for candidate, weight, _ in failures:
        one.failure(candidate, weight)
    order.shuffle(failures)
    for candidate, weight, _ in failures:
        other.failure(candidate, weight)
    assert one.log_evidence == pytest.approx(other.log_evidence, rel=1e-9, abs=1e-9)


@given(failures=labels)
def test_evidence_is_a_number_that_is_never_negative(
    failures: list[tuple[bool, float, int]],
) -> None:
    comparison, mirror, objective = Comparison(), Mirror(), Objective(0.05)
    for candidate, weight, requests in failures:
        comparison.requests(requests)
        comparison.failure(candidate, weight)
        mirror.failure(candidate, weight)
        objective.counted(requests, 1)
    for evidence in (comparison.evidence, mirror.evidence, objective.evidence):
        assert 0 <= evidence < math.inf


@given(before=labels, after=labels)
@settings(max_examples=50)
def test_what_was_written_down_goes_on_as_if_nothing_had_happened(
    before: list[tuple[bool, float, int]], after: list[tuple[bool, float, int]]
) -> None:
    kept = scope(thresholds=2)

    def take(evidence: ServiceEvidence, failures: list[tuple[bool, float, int]]) -> None:
        for number, (candidate, weight, requests) in enumerate(failures):
            evidence.requests(requests)
            metrics = (evidence.errors, evidence.refusals, *evidence.slow)
            metrics[number % 4].failure(candidate, weight)
            evidence.objective.counted(requests, 1)

    take(kept, before)
    kept.requests(17)
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=ServiceEvidence)
    assert read == kept
    take(kept, after)
    take(read, after)
    assert read == kept
    mirror = Mirror(3.0)
    mirror.failure(False, 0.2)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(mirror), type=Mirror) == mirror


@given(moves=st.lists(st.integers(0, 400_000), max_size=30))
def test_moving_cash_makes_none(moves: list[int]) -> None:
    comparison = Comparison(horizon=100_000)
    # A weight so small that a failure of stable's costs nothing: only the moving is seen.
    for requests in moves:
        held = comparison.held
        comparison.requests(requests)
        comparison.failure(False, 1e-300)
        assert comparison.evidence == pytest.approx(1, rel=1e-9)
        assert 0 < comparison.held <= held


def test_cash_is_bet_evenly_over_the_horizon_and_the_last_tenth_slowly() -> None:
    comparison = Comparison(horizon=1000)
    held = []
    for _ in range(20):
        comparison.requests(100)
        comparison.failure(False, 0.5)
        held.append(comparison.held)
    assert held[:9] == pytest.approx([0.5 - 0.05 * step for step in range(1, 10)])
    # 1/t from there: after as much again as the reserve is worth, half of it, then a third.
    assert held[9:12] == pytest.approx([0.05 / 2, 0.05 / 3, 0.05 / 4])
    # Step by step or at once, it is the same.
    at_once = Comparison(horizon=1000)
    at_once.requests(2000)
    at_once.failure(False, 0.5)
    assert at_once.held == pytest.approx(held[-1])


def test_three_million_healthy_updates_ruin_no_comparison() -> None:
    comparison = Comparison(horizon=1_000_000)
    logs = [
        log - 3e6 * math.log1p(0.05 * (ratio - 1)) * 0.5
        for log, ratio in zip(comparison.logs, RATIOS, strict=True)
    ]
    for number in range(30_000):
        comparison.requests(1000)
        comparison.failure(number % 20 == 0, 0.05)
    assert 0 < comparison.evidence < 1
    # The rest of the three million, at a stroke: all bets lie in ruins.
    comparison.logs = logs
    assert max(logs) < -30_000
    failures = 0
    while comparison.evidence < 100:
        comparison.requests(20)
        comparison.failure(True, 0.05)
        failures += 1
        assert failures < 20


def test_neither_end_of_the_numbers_is_a_trap() -> None:
    comparison = Comparison()
    for _ in range(1000):
        comparison.failure(True, 0.01)
    assert comparison.evidence == 1e300
    assert comparison.log10 > 1000
    for _ in range(100_000):
        comparison.failure(False, 0.5)
    assert comparison.evidence < 1


@pytest.mark.parametrize("weight", [1.0, 2.0, 0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("candidate", [True, False])
def test_a_failure_without_two_sides_changes_nothing(weight: float, candidate: bool) -> None:
    comparison, mirror = Comparison(), Mirror()
    comparison.failure(candidate, weight)
    mirror.failure(candidate, weight)
    assert comparison == Comparison()
    assert mirror == Mirror()


@pytest.mark.parametrize("weight", [1e-300, 1e-9, 1 - 1e-12])
def test_weights_at_the_edges(weight: float) -> None:
    comparison = Comparison()
    for candidate in (True, False, True):
        comparison.failure(candidate, weight)
    assert 0 < comparison.evidence < math.inf


def test_a_tolerance_of_nothing_and_of_much() -> None:
    never = Comparison(tolerance=0.0)
    much = Comparison(tolerance=1000.0)
    for comparison in (never, much):
        comparison.failure(False, 0.05)
    assert never.evidence == pytest.approx(1)
    for comparison in (never, much):
        for _ in range(3):
            comparison.failure(True, 0.05)
    assert never.evidence > 1000
    assert much.evidence < 2


def test_bad_settings_are_refused_with_what_was_expected() -> None:
    with pytest.raises(ValueError, match="expected a factor from 0 on"):
        Comparison(tolerance=math.nan)
    with pytest.raises(ValueError, match="expected a number of requests above 0"):
        Comparison(horizon=0)
    with pytest.raises(ValueError, match="from 0 to below 1"):
        Comparison(cash=1.0)
    with pytest.raises(ValueError, match="expected a share from 0 to 1"):
        Objective(5.0)
    with pytest.raises(ValueError, match="expected a factor above 1"):
        Mirror(1.0)


@pytest.mark.parametrize("p0", [0.0, 0.2, 0.95, 1.0])
def test_any_share_is_an_objective(p0: float) -> None:
    objective = Objective(p0)
    objective.counted(10, 1)
    assert 0 < objective.evidence < math.inf


def test_scopes_average_their_metrics_and_say_which_carries_most() -> None:
    evidence = scope(thresholds=2)
    assert evidence.evidence == pytest.approx(1)
    for _ in range(3):
        evidence.slow[1].failure(True, 0.05)
    slow = mean([each.evidence for each in evidence.slow])
    assert evidence.metrics["slow"] == slow
    assert evidence.evidence == pytest.approx((3 + slow) / 4)
    assert evidence.why() == "slow"
    assert evidence.counted("slow") == 3
    assert evidence.failures == 0
    evidence.errors.failure(True, 0.05)
    evidence.objective.counted(0, 1)
    assert evidence.failures == 2
    assert evidence.slow[0].tolerance == 1.2
    assert "slow" not in scope().metrics
    assert mean([]) == 1


def test_two_failures_prove_nothing_however_strong() -> None:
    evidence = scope()
    for _ in range(2):
        evidence.errors.failure(True, 0.001)
    assert evidence.evidence > threshold(0.01)
    assert verdict({"ivor": evidence}, 0.01) == ()
    evidence.errors.failure(True, 0.001)
    assert verdict({"ivor": evidence}, 0.01) == ("ivor",)


def test_the_chance_is_shared_among_scopes() -> None:
    evidence = scope()
    while evidence.evidence < threshold(0.01):
        evidence.errors.failure(True, 0.3)
    assert evidence.evidence < threshold(0.01, 4)
    assert verdict({"ivor": evidence}, 0.01) == ("ivor",)
    four = {"ivor": evidence, "events": scope(), "website": scope(), "release": scope()}
    assert verdict(four, 0.01) == ()
    evidence.errors.failure(True, 0.05)
    assert verdict(four, 0.01) == ("ivor",)
    assert verdict({}, 0.01) == ()


def test_growth_says_whether_a_verdict_will_come() -> None:
    assert growth(0.05, 0.01, 0.05) > 0
    assert growth(1.0, 0.01, 0.05) > growth(0.5, 0.01, 0.05)
    assert growth(0.01, 0.01, 0.05) < 0
    assert growth(0.05, 0.01, 0.05, tolerance=10) < 0
    assert growth(0.05, 0.01, 1.0) == 0


def test_the_outlook_is_about_what_is_then_seen() -> None:
    fresh, late = Comparison(), Comparison(horizon=400_000)
    source = Random(4)
    for _ in range(2000):
        late.requests(100)
        late.failure(source.random() < 0.05, 0.05)
    # The design's medians, 161 and 308 of the candidate's, are a twentieth of the stream.
    assert 161 * 20 / 2 < requests_until(fresh, 0.05, 0.01, 0.05, 100) < 161 * 20 * 2
    assert 308 * 20 / 2 < requests_until(late, 0.05, 0.01, 0.05, 100) < 308 * 20 * 2
    assert requests_until(fresh, 0.01, 0.01, 0.05, 100) == math.inf
    for _ in range(5):
        fresh.failure(True, 0.05)
    assert requests_until(fresh, 0.05, 0.01, 0.05, 100) == 0


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_a_healthy_release_is_rarely_taken_back(weight: float) -> None:
    source, runs, alpha, count = Random(7), 300, 0.05, 0
    for _ in range(runs):
        evidence = scope(horizon=20_000)
        for _ in range(200):
            evidence.requests(geometric(source, 0.01))
            candidate = source.random() < weight
            evidence.errors.failure(candidate, weight)
            evidence.refusals.failure(source.random() < weight, weight)
            if candidate and verdict({"ivor": evidence}, alpha):
                count += 1
                break
    assert count <= most(runs, alpha)
