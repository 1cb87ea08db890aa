"""Two processes at one bucket: without a lock, within the bound all the same."""

from __future__ import annotations

from loadtests.limits import contend


def test_a_limit_holds_though_processes_race_for_it() -> None:
    """As many as this needs cores: one that is stopped between asking and taking proves nothing."""
    got = contend(2, 1.5, 1000, 50, 10.0)
    assert got.asked > 3 * got.allowed  # else there was no race
    assert abs(got.over) <= 0.05, got
