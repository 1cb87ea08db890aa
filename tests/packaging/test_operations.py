"""docs/operations.md has a line for every exit code and signal, and none that is not there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from gateway.cli import VERBS
from gateway.client.exits import Exit
from gateway.supervisor import __main__ as supervisor_main
from gateway.supervisor import ending
from gateway.supervisor.signals import WATCHED
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()

#: What every verb may end with, and is not told of each.
ALWAYS = {Exit.DONE, Exit.USAGE, Exit.BUG, Exit.INTERRUPTED}
#: Nobody can handle the first two of these; the last means to end a process with its picture.
NOT_OURS = {"SIGKILL", "SIGSTOP", "SIGCONT", "SIGQUIT"}


def section(title: str) -> str:
    found = re.search(rf"^## {title}$\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's tables, heads and lines left out."""
    lines = re.findall(r"^\| (.*) ?\|$", section(title), re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r" ?\| ?", line)] for line in lines]
    return [row for row in cells if row[0] not in {"code", "verb", "signal"}]


def codes_in_the_sources() -> set[int]:
    """Every ``EXIT_`` constant of the processes that ``gateway run`` is made of, and Exit."""
    found = {int(each) for each in Exit}
    for module in (ending, supervisor_main):
        found |= {int(value) for name, value in vars(module).items() if name.startswith("EXIT_")}
    for path in (ROOT / "gateway").glob("**/*.py"):
        if "demo" not in path.parts:  # its own children's, which nobody starts by hand
            found |= {int(code) for code in re.findall(r"sys\.exit\((\d+)\)", path.read_text())}
    return found


def test_every_exit_code_has_its_line() -> None:
    told = [int(row[0]) for row in rows("Exit codes") if row[0].isdigit()]
    assert sorted(told) == sorted(codes_in_the_sources())


def test_every_code_of_the_supervisor_is_told_of_gateway_run() -> None:
    told = {int(row[0]) for row in rows("Exit codes") if row[0].isdigit() and row[1]}
    own = {
        int(value)
        for module in (ending, supervisor_main)
        for name, value in vars(module).items()
        if name.startswith("EXIT_")
    }
    assert own <= told
    assert told == own | {Exit.BUG}


def verbs() -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for row in rows("Exit codes"):
        for verb in re.findall(r"`([a-z-]+)`", row[0]):
            assert verb not in found, "told twice"
            found[verb] = {int(code) for code in re.findall(r"\d+", row[1])}
    return found


def codes_of(verb: str) -> set[int]:
    """What a verb's own modules end with, and what asking the admin API can."""
    module = importlib.import_module(VERBS[verb].module)
    assert module.__file__ is not None
    path = Path(module.__file__)
    texts = [each.read_text() for each in (path, *path.parent.glob(f"{path.stem}_*.py"))]
    found = {getattr(Exit, name) for text in texts for name in re.findall(r"Exit\.([A-Z_]+)", text)}
    if any("talks_to_gateway" in text or "AdminClient(" in text for text in texts):
        found |= {Exit.UNREACHABLE, Exit.REFUSED, Exit.WAIT_RAN_OUT}
    return {int(code) for code in found - ALWAYS}


def test_every_verb_is_told() -> None:
    assert set(verbs()) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_exit_codes_are_those_that_it_ends_with(verb: str) -> None:
    assert verbs()[verb] == codes_of(verb)


def signals_in_the_sources() -> set[str]:
    found = {number.name for number in WATCHED}
    for process in ("supervisor", "control", "worker"):
        for path in (ROOT / "gateway" / process).glob("*.py"):
            found |= set(re.findall(r"signal\.(SIG[A-Z0-9]+)", path.read_text()))
    return found - {"SIG"}


def test_every_signal_has_its_line() -> None:
    told = {name for row in rows("Signals") for name in re.findall(r"SIG[A-Z0-9]+", row[0])}
    assert signals_in_the_sources() - told == set()
    assert told - signals_in_the_sources() - NOT_OURS == set()


def test_each_signal_is_told_of_each_process() -> None:
    for row in rows("Signals"):
        assert len(row) == 4, row
        assert all(row), row


def test_the_table_of_contents_has_every_section() -> None:
    contents = PAGE.split("\n## ")[0]
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    linked = re.findall(r"\(#([a-z-]+)\)", contents)
    assert [title.lower().replace(" ", "-") for title in titles if title] != []
    assert {title.lower().replace(" ", "-") for title in titles} == set(linked)
