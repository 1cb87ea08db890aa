"""The threat model is true: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = (ROOT / "THREAT_MODEL.md").read_text(encoding="utf-8")


def _tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE))
    return found


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", MODEL))
    assert len(named) > 20
    assert not named - _tests()


def test_every_defence_names_a_test() -> None:
    table = MODEL.partition("| tested by |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(table) > 10
    for row in table:
        assert "`test_" in row, row


def test_every_part_is_there() -> None:
    for heading in ("Assets", "Boundaries", "Attackers", "What is left", "What would reopen it"):
        assert f"## {heading}\n" in MODEL
