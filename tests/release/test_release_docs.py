"""docs/releases.md says what the program does: its table of states, its evidence, its bounds."""

from __future__ import annotations

import re

import pytest

from gateway.config.schema.releases import Releases
from gateway.control import releasewalk
from gateway.control.baselines import LEAST_TIMED
from gateway.control.releaserows import MAX_DECISIONS, MAX_RELEASES
from gateway.release import analysis, triggers, windows
from gateway.release.judgement import MAX_KEYS
from gateway.release.machine import STATES, as_markdown
from gateway.release.record import TRIGGERS
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "releases.md").read_text()
FLAT = " ".join(PAGE.split())
EVIDENCE = re.findall(
    r"^\| (\d+) % \| (\d+) \| (\d+) \| ([\d.]+) \| ([a-z ]+) \| ([a-z ]+) \|$", PAGE, re.MULTILINE
)


def test_the_diagram_is_made_from_the_table() -> None:
    assert as_markdown() in PAGE


def test_every_state_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert rows[: len(STATES)] == [
        "validating", "stepping", "baking", "paused", "held", "rolling_back", "rolled_back",
        "aborted", "finalized",
    ]  # fmt: skip
    assert set(rows[: len(STATES)]) == set(STATES)


def test_every_trigger_is_among_the_ways_to_end() -> None:
    endings = PAGE.partition("## How it can end")[2].partition("## By hand")[0]
    assert {trigger for trigger in TRIGGERS if f"`{trigger}`" not in endings} == set()


def mixed(candidate: int, stable: int) -> list[bool]:
    """Failures of both sides, evenly mixed: True for the candidate's."""
    places = [((at + 0.5) / candidate, True) for at in range(candidate)]
    places += [((at + 0.5) / stable, False) for at in range(stable)]
    return [label for _, label in sorted(places, key=lambda place: place[0])]


@pytest.mark.parametrize(("weight", "candidate", "stable", "told", "one", "four"), EVIDENCE)
def test_the_worked_example_is_what_the_tests_say(
    weight: str, candidate: str, stable: str, told: str, one: str, four: str
) -> None:
    scope = analysis.scope(thresholds=1)
    ends = {200: "goes on", 500: "goes on"}
    for label in mixed(int(candidate), int(stable)):
        scope.errors.failure(label, int(weight) / 100)
        ends |= {bound: "taken back" for bound in ends if scope.over(bound)}
    assert f"{scope.evidence:.1f}" == told
    assert (ends[200], ends[500]) == (one, four)


def test_the_worked_example_is_there() -> None:
    assert len(EVIDENCE) == 11
    assert analysis.threshold(0.01, 2) == 200
    assert analysis.threshold(0.01, 5) == 500


def test_the_bounds_are_the_programs() -> None:
    defaults = Releases()
    for text in (
        f"`min_requests` requests ({defaults.min_requests}) of",
        f"`min_keys` different clients ({defaults.min_keys})",
        f"fewer than {LEAST_TIMED} timed answers",
        f"the candidate's first {releasewalk.COLD:g} s of traffic",
        f"stable gets {triggers.CONFIRM:g} s to show",
        f"so for {triggers.GRACE:g} s after stable is well again",
        f"fewer than {windows.ENOUGH} requests stretches back to the last {windows.ENOUGH}",
        f"the last {windows.ENOUGH}, up to {windows.LONGEST // 60} min",
        f"or {releasewalk.UNDONE_MARGIN:g} s after the longest `drain_timeout`",
        f"last {MAX_RELEASES} releases, {MAX_DECISIONS:,} evaluations each",
        f"At most {MAX_KEYS:,} keys",
        f"At least {('no', 'one', 'two', 'three')[analysis.LEAST_FAILURES]} failures",
    ):
        assert text in FLAT, text
    assert defaults.validate_within == 120
    assert "`validate_within` (2 min)" in FLAT
    assert defaults.max_hold == 3600
    assert "`max_hold` (1 h)" in FLAT
