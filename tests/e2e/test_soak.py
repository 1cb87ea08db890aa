"""``make soak`` in its short form: the same bars, but for memory, which has not come to rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.chaos.verdict import table
from loadtests.soak.__main__ import judged
from loadtests.soak.play import Pace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


def test_nothing_is_left_over_and_every_count_agrees(tmp_path: Path) -> None:
    verdict = judged(tmp_path, Pace.short())
    print(table([verdict]))
    assert verdict.ok, f"\n{table([verdict])}"
