"""Several processes at one bucket: without a lock, within the bound all the same."""

from __future__ import annotations

import pytest

from loadtests.limits import contend


@pytest.mark.parametrize("processes", [2, 4])
def test_a_limit_holds_though_processes_race_for_it(processes: int) -> None:
    got = contend(processes, 1.5, 1000, 50, 10.0)
    assert got.asked > 3 * got.allowed  # else there was no race
    assert abs(got.over) <= 0.05, got
