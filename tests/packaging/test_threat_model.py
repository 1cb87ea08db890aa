"""The threat model and its operator's side are true: each test that they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config.schema.entry import Limits

ROOT = Path(__file__).parents[2]
MODEL = (ROOT / "THREAT_MODEL.md").read_text(encoding="utf-8")
OPERATORS = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def _tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE))
    return found


@pytest.mark.parametrize("page", [MODEL, OPERATORS], ids=["THREAT_MODEL.md", "security.md"])
def test_every_test_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 20
    assert not named - _tests()


@pytest.mark.parametrize("page", [MODEL, OPERATORS], ids=["THREAT_MODEL.md", "security.md"])
def test_every_defence_names_a_test(page: str) -> None:
    table = page.partition("| tested by |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(table) > 10
    for row in table:
        assert "`test_" in row.rpartition("|")[0].rpartition("|")[2], row


def test_every_limit_of_a_client_is_in_the_table() -> None:
    """Each key of ``limits``, and each time of a service, says what it bounds."""
    table = OPERATORS.partition("## What a client controls\n")[2].partition("\n## ")[0]
    for name in Limits.model_fields:
        assert f"`limits.{name}`" in table, name
    for name in ("between_bytes", "total", "stream_idle"):
        assert f"`timeouts.{name}`" in table, name


def test_every_part_is_there() -> None:
    for heading in ("Assets", "Boundaries", "Attackers", "What is left", "What would reopen it"):
        assert f"## {heading}\n" in MODEL
