"""The command itself: start-up, version, help, and statuses that no verb chooses."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from gateway import cli
from gateway.client.exits import MEANING, Exit
from gateway.hot import compiled_state
from gateway.version import VERSION


def test_version_says_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["--version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"gateway {VERSION} ({compiled_state()}, Python 3.")


def test_start_up_loads_click_and_little_else() -> None:
    heavy = {"aiohttp", "pydantic", "rich", "uvloop", "yaml", "asyncio", "msgspec", "ssl"}
    script = f"""
import sys
from gateway.cli import invoke
invoke(["--help"])
print(sorted({heavy!r} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["--help"]) == 0
    out = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert name in out
        assert verb.about in out


@pytest.mark.parametrize("name", list(cli.VERBS))
def test_every_verb_has_a_command_with_a_help(name: str) -> None:
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    assert command.help


def test_every_exit_status_has_its_meaning() -> None:
    assert set(MEANING) == set(Exit)
    assert [int(status) for status in list(Exit)[:7]] == list(range(7))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ZeroDivisionError("a bug"), Exit.BUG),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (SystemExit(4), Exit.REFUSED),
        (click.ClickException("no"), Exit.USAGE),
    ],
)
def test_a_bug_or_ctrl_c_is_never_mistaken_for_a_rollback(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, expected: Exit
) -> None:
    @click.command()
    def command() -> None:
        raise raised

    monkeypatch.setattr(cli.cli, "get_command", lambda *_: command)
    assert cli.invoke(["status"]) == expected
