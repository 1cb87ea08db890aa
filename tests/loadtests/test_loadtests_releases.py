"""Scenarios of releases judge rightly, and expect what the analysis says."""

from __future__ import annotations

import pytest

from loadtests.chaos.load import Row
from loadtests.releases import expected
from loadtests.releases.candidates import nobody_failed, returned
from loadtests.releases.expected import requests_until_rollback
from loadtests.releases.platform import asked, color
from loadtests.steady import percentile


def row(user: int, backend: str, **more: object) -> Row:
    found = Row(due=0.0, status=200, user=user, backend=backend)
    for key, value in more.items():
        setattr(found, key, value)
    return found


def test_a_request_that_was_rescued_is_one_of_the_candidate() -> None:
    rows = [
        row(1, "ivor-green-1"),
        row(2, "ivor-blue-2", served_by="rescue"),
        row(3, "ivor-blue-1"),
        row(4, "", served_by="static"),
    ]
    assert [each.user for each in asked(rows, "green")] == [1, 2]
    assert [color(each) for each in rows] == ["green", "blue", "blue", ""]


def test_a_copy_in_place_of_an_answer_is_a_failure() -> None:
    rescued = row(1, "ivor-blue-1", served_by="rescue")
    assert nobody_failed([rescued]).ok
    assert not nobody_failed([rescued, row(2, "", served_by="stale")]).ok
    assert not nobody_failed([rescued, row(2, "ivor-blue-1", status=500)]).ok
    assert not nobody_failed([]).ok


def test_who_was_on_the_candidate_and_then_on_stable_has_returned() -> None:
    forth = [row(1, "web-blue-1"), row(1, "web-green-1"), row(1, "web-green-1")]
    back = [row(2, "web-green-1"), row(3, "web-blue-1"), row(2, "web-blue-1")]
    assert returned(forth, "green") == 0
    assert returned(forth + back, "green") == 1


@pytest.mark.parametrize(("rates", "median", "p95"), [((0.0, 0.1), 36, 77), ((0.01, 0.1), 73, 175)])
def test_the_expected_requests(
    rates: tuple[float, float], median: int, p95: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "RUNS", 400)
    found = requests_until_rollback(
        stable=rates[0], candidate=rates[1], weight=0.05, users=2000, horizon=36_000
    )
    assert len(found) == 400
    assert percentile(found, 0.5) == pytest.approx(median, rel=0.15)
    assert percentile(found, 0.95) == pytest.approx(p95, rel=0.2)
