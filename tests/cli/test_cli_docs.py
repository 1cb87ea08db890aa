"""docs/cli.md has every verb and option, and none that is not there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway.cli import VERBS, cli
from gateway.client.exits import MEANING

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
DEMO_PAGE = (Path(__file__).parents[2] / "docs" / "demo.md").read_text()
SHARED = {"--admin", "--token-file", "--ca", "--client-cert", "--client-key", "--json"}


def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with how it is called."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, f"{path} {name}")


LEAVES = dict(leaves(cli, "gateway"))


def section(title: str) -> str:
    """The page's text under a heading, up to the next one; a code block's comments are none."""
    found = re.search(
        rf"^#+ {re.escape(title)}$\n(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"docs/cli.md has no heading {title!r}"
    return found[1]


def options(command: click.Command) -> set[str]:
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
        if name != "--help"
    }


def rows(text: str) -> set[str]:
    """The options that a section's table has."""
    return {
        name
        for row in re.findall(r"^\| (`-.*?) \|", text, re.MULTILINE)
        for name in re.findall(r"`(--?[a-z-]+)", row)
    }


@pytest.mark.parametrize("path", list(LEAVES))
def test_every_verb_has_its_section_with_exactly_its_options(path: str) -> None:
    text = section(f"`{path}`")
    wanted = options(LEAVES[path])
    if wanted >= SHARED:
        assert "[reaching a gateway](#reaching-a-gateway)" in text.replace("\n", " ")
        wanted -= SHARED
    assert rows(text) == wanted


@pytest.mark.parametrize("path", list(LEAVES))
def test_every_verb_has_an_example_that_begins_as_it_is_called(path: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", section(f"`{path}`"), re.DOTALL)
    assert any(path in block for block in blocks)


def test_no_section_is_about_a_verb_that_is_not_there() -> None:
    assert set(re.findall(r"^### `(gateway [^`]+)`$", PAGE, re.MULTILINE)) == set(LEAVES)


def test_the_shared_options_are_told_once() -> None:
    assert rows(section("Reaching a gateway")) == SHARED


def test_the_exit_statuses_are_those_of_the_table() -> None:
    found = re.findall(r"^\| (\d+) \| (.*) \|$", section("Exit statuses"), re.MULTILINE)
    assert found == [(str(int(status)), meaning) for status, meaning in MEANING.items()]


@pytest.mark.parametrize("path", list(LEAVES))
def test_every_option_says_what_it_does(path: str) -> None:
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts}"


def test_every_example_parses() -> None:
    """Each example's own options and arguments are ones that its verb takes."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE + DEMO_PAGE, re.DOTALL))
    for line in re.findall(r"^(gateway .*)$", blocks, re.MULTILINE):
        for part in re.split(r"&&|\||>", line):
            words = _words(part)
            if words[0] != "gateway":
                continue
            verb = cli.get_command(click.Context(cli), words[1])
            assert verb is not None, line
            arguments = words[2:]
            if isinstance(verb, click.Group) and not (arguments[:1] or ["-"])[0].startswith("-"):
                verb = verb.get_command(click.Context(verb), arguments.pop(0))
                assert verb is not None, line
            known = options(verb)
            given = {word for word in arguments if word.startswith("-")}
            assert given <= known, line


def _words(text: str) -> list[str]:
    return shlex.split(text.split(" #", maxsplit=1)[0]) or [""]


def test_the_table_of_verbs_is_the_groups() -> None:
    assert cli.list_commands(click.Context(cli)) == list(VERBS)
