"""Rules of the sources that no linter has, and the scripts around them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.processes import ROOT, need

SOURCES = sorted((ROOT / "gateway").rglob("*.py"))
CONTROL_SIDE = {"control", "health", "admin", "observe"}
DATA_SIDE = {"proxy", "worker"}

LONG = 600

#: Modules that are longer, and why. This table may only shrink.
LONGER = {
    "gateway/wire/head.py": "one pass over a head, compiled as one: a call a field would cost it",
    "gateway/proxy/downstream.py": "one connection's protocol: compiled modules meet by slow calls",
    "gateway/proxy/exchange.py": "one request's phases, in order: compiled as one",
    "gateway/proxy/visit.py": "one request's dealings with the cache: compiled as one",
}


#: The tests themselves may run under make, which would speak through its variables.
OUTSIDE_MAKE = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_module_is_long_without_a_reason() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path for path, lines in lengths.items() if lines > LONG} <= set(LONGER)


def test_no_reason_outlives_its_module() -> None:
    for path in LONGER:
        assert len((ROOT / path).read_text().splitlines()) > LONG, f"{path}: take it off the table"


def callers(attribute: str) -> dict[str, list[str]]:
    """Return which modules call ``….ATTRIBUTE(…)``, by room."""
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == attribute
            ):
                room = path.relative_to(ROOT / "gateway").parts[0]
                found.setdefault(room, []).append(relative(path))
                break
    return found


def test_tasks_are_made_in_one_place_a_process() -> None:
    rooms = callers("create_task")
    control = [path for room in CONTROL_SIDE for path in rooms.get(room, [])]
    data = [path for room in DATA_SIDE for path in rooms.get(room, [])]
    assert len(control) <= 1, control
    assert len(data) <= 1, data
    assert callers("ensure_future") == {}


def scripts() -> list[Path]:
    folders = (ROOT / "requirements", ROOT / "tests" / "support")
    return [
        ROOT / ".ci" / "run",
        *(each for folder in folders for each in sorted(folder.glob("*.sh"))),
    ]


@pytest.mark.parametrize("script", scripts(), ids=relative)
def test_scripts_pass_shellcheck(script: Path) -> None:
    done = subprocess.run(
        [need("shellcheck"), str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_make_target_is_explained_and_parses() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^{target}:.*## .+", text, re.MULTILINE), target
    done = subprocess.run(
        [need("make"), "--dry-run", "--always-make", "help"],
        cwd=ROOT,
        env=OUTSIDE_MAKE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_make_compiles_what_hot_lists() -> None:
    from gateway.hot import HOT_MODULES

    done = subprocess.run(
        [need("make"), "--eval", "print-hot: ; @echo $(HOT)", "print-hot"],
        cwd=ROOT,
        env=OUTSIDE_MAKE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [name.replace(".", "/") + ".py" for name in HOT_MODULES]


def requirement_names(lines: list[str]) -> set[str]:
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in lines)
    return {re.sub(r"[-_.]+", "-", found[0]).lower() for found in names if found}


def test_the_lock_file_has_all_that_is_installed_and_nothing_of_an_index() -> None:
    text = (ROOT / "requirements" / "lock.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pattern = r'[a-z0-9-]+==[\w.!]+( ; python_version == "3\.1\d")?'
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert "://" not in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = requirement_names([*project["dependencies"], *extras["test"], *extras["lint"]])
    assert wanted <= requirement_names(lines), "run make lock"
