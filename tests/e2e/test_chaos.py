"""Every scenario of ``make chaos`` in its short form: less time, gentler rates, the same bars."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.chaos.__main__ import play
from loadtests.chaos.scenarios import SCENARIOS
from loadtests.chaos.stage import SHORT
from loadtests.chaos.verdict import table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_fails_visibly(name: str, tmp_path: Path) -> None:
    verdict = play(name, SHORT, tmp_path)
    print(table([verdict]))
    if verdict.lacking:
        pytest.skip(verdict.lacking)
    assert verdict.ok, f"\n{table([verdict])}"
