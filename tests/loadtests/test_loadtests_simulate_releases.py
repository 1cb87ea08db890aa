"""The simulation agrees with the design, and says so when the analysis does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from loadtests import simulate_releases, streams
from loadtests.chance import around, binomial, geometric, most, poisson, quantile


def test_the_quick_form_is_within_the_margin(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate_releases.main(["--quick", "--runs", "100"]) == 0
    printed = capsys.readouterr().out
    assert "All within the margin." in printed
    assert "NO:" not in printed
    for fault in simulate_releases.FAULTS:
        assert f"| {fault.name} |" in printed


def test_a_test_that_is_too_eager_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    report = simulate_releases.Report(runs=100, healthy=50, length=200, seed=1)
    monkeypatch.setattr(streams, "threshold", lambda alpha: 3.0)
    monkeypatch.setattr(simulate_releases, "FAULTS", simulate_releases.FAULTS[2:4])
    simulate_releases.faults(report)
    assert any("median" in each for each in report.wrong)
    report.wrong.clear()
    simulate_releases.reasons(report)
    assert not report.wrong
    simulate_releases.equals(report)
    assert any("at most" in each for each in report.wrong)


def test_too_few_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        simulate_releases.main(["--runs", "3"])
    assert "expected 100 or more" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.001, 0.05, 0.7])
def test_chance_has_the_right_mean(share: float) -> None:
    source, runs = Random(3), 4000
    draws: list[tuple[Callable[[], int], float, float]] = [
        (partial(geometric, source, share), 1 / share, (1 - share) / share**2),
        (partial(binomial, source, 300, share), 300 * share, 300 * share * (1 - share)),
        (partial(binomial, source, 90_000, share), 90_000 * share, 90_000 * share * (1 - share)),
        (partial(poisson, source, 300 * share), 300 * share, 300 * share),
    ]
    for draw, mean, variance in draws:
        found = sum(draw() for _ in range(runs)) / runs
        assert abs(found - mean) < 4 * math.sqrt(variance / runs)


def test_margins() -> None:
    values = list(range(1, 1001))
    assert quantile(values, 0.5) == 500
    low, high = around(values, 0.5, 1000)
    assert 500 - low == pytest.approx(high - 500, abs=1)
    # 3.29 standard deviations of both samples' rank: 3.29 * sqrt(2 / 1000) / 2 of a thousand.
    assert high - 500 == pytest.approx(74, abs=1)
    assert around(values[:20], 0.95, 1000)[1] == math.inf
    # P(X > 21) for a binomial of 1,000 at 1 % is 0.0006, P(X > 20) 0.0013.
    assert most(1000, 0.01) == 21
