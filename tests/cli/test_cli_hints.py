"""Hints in the words of the command line: none that control gives speaks of paths or JSON there."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway.cli import cli
from gateway.cli.hints import in_verbs

SOURCES = [
    path
    for package in ("control", "admin")
    for path in sorted((Path(__file__).parents[2] / "gateway" / package).rglob("*.py"))
]
#: What only who speaks to the API says.
OF_THE_API = re.compile(r'/v1|[{}"]')


def texts(node: ast.AST) -> Iterator[str]:
    """Give each text that an expression can be, with a name in the place of what is filled in."""
    if isinstance(node, ast.JoinedStr):
        parts = (each.value if isinstance(each, ast.Constant) else "green" for each in node.values)
        yield "".join(str(part) for part in parts)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def hints() -> Iterator[str]:
    """Give every hint in the sources: by its name, or as the last of what ``_refuse`` takes."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            for keyword in node.keywords:
                if keyword.arg == "hint":
                    yield from texts(keyword.value)
            if isinstance(node.func, ast.Name) and node.func.id == "_refuse":
                yield from texts(node.args[-1])


HINTS = sorted(set(hints()))
CALLS = [hint for hint in HINTS if OF_THE_API.search(hint)]


def test_the_sources_have_hints() -> None:
    assert len(CALLS) >= 10


@pytest.mark.parametrize("hint", CALLS)
def test_every_hint_about_a_call_has_its_verb(hint: str) -> None:
    said = in_verbs(hint)
    assert not OF_THE_API.search(said), f"{hint!r} needs a row in gateway.cli.hints"
    for command in re.findall(r"`(gateway [^`]+)`", said):
        verb: click.Command = cli
        for word in shlex.split(command)[1:]:
            if isinstance(verb, click.Group):
                found = verb.get_command(click.Context(verb), word)
                assert found is not None, command
                verb = found


@pytest.mark.parametrize("hint", [hint for hint in HINTS if hint not in CALLS])
def test_other_hints_stay_as_they_are(hint: str) -> None:
    assert in_verbs(hint) == hint


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ('"force": true sets it all the same', "--force sets it all the same"),
        ("POST /v1/rollback ends it at once", "`gateway rollback` ends it at once"),
        (
            'POST /v1/rollback {"to": "previous"} undoes it',
            "`gateway rollback --to previous` undoes it",
        ),
        ('promote it {"to": 100} first', "`gateway release promote --to 100` first"),
        ("PUT /v1/traffic to 0, or", "`gateway traffic set 0`, or"),
        ("POST /v1/releases/r-41/finalize", "`gateway release finalize r-41`"),
        ("POST /v1/services/ivor/pools/green/drain", "`gateway pool drain ivor green`"),
        ("PUT /v1/services/ivor/pools/candidate", "`gateway pool set ivor candidate URL`"),
        (
            "DELETE /v1/services/ivor/isolate?color=green lifts it",
            "`gateway isolate ivor green --lift` lifts it",
        ),
        ('{"to": "previous"}', "--to previous"),
    ],
)
def test_calls_become_verbs(hint: str, said: str) -> None:
    assert in_verbs(hint) == said
