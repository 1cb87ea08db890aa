"""docs/http.md says what the tables say."""

from __future__ import annotations

from gateway.proxy.errors import KINDS
from gateway.proxy.states import as_markdown
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "http.md").read_text()


def test_every_kind_of_failure_has_its_row() -> None:
    for kind in KINDS.values():
        assert f"| `{kind.name}` | {kind.status} | {kind.title} |\n" in PAGE


def test_the_diagrams_are_made_from_the_tables() -> None:
    assert as_markdown().rstrip() in PAGE
