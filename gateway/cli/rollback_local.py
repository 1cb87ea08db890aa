"""``gateway rollback --local``: everything to stable without the control process.

A flag file in the run folder outranks all that control says for as long as it is there. Workers
look at it by themselves; this verb writes it and asks each worker until it has taken it up.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

import click

from gateway.channel.folders import sync_folder
from gateway.channel.handover import HandoverError, NobodyThereError, State, ask_state
from gateway.cli.run import run_dir_of
from gateway.client.exits import Exit

FLAG: Final = "force-stable"

#: All together; each worker looks at the file several times a second.
DEADLINE: Final = 5.0
ASK_EVERY: Final = 0.05
ASK_TIMEOUT: Final = 0.5


def rollback_local(config: Path, undo: bool) -> int:
    """Put every worker on stable (``undo``: lift that), and tell of each; returns the exit code.

    0: every worker serves so; 6: one has not taken it up in time; 3: no worker runs here; 4: the
    flag file cannot be written. The flag stays in all but the last, for workers yet to come.
    """
    run_dir = run_dir_of(state_path(config))
    if not run_dir.is_dir():
        click.echo(f"no gateway has run here: there is no {run_dir}", err=True)
        return Exit.UNREACHABLE
    try:
        (lower if undo else raise_flag)(run_dir / FLAG)
    except OSError as error:
        click.echo(f"{run_dir / FLAG}: {error.strerror}", err=True)
        return Exit.REFUSED
    states = wait_for_workers(run_dir, forced=not undo)
    return report(states, run_dir / FLAG, forced=not undo)


def state_path(config: Path) -> Path:
    """Return where the configuration keeps its state.

    A rollback does not wait for a file to be right, nor for the environment that the gateway has:
    from a wrong file only ``state.path`` is taken.
    """
    from gateway.config.load import ConfigErrors, read_file

    try:
        return Path(read_file(config, {}, read_secrets=False).config.state.path)
    except ConfigErrors as errors:
        click.echo(f"{config} has errors, of which `gateway check` tells; going on", err=True)
        del errors
        return _bare_state_path(config)


def raise_flag(flag: Path) -> None:
    """Make the file, durably. Its existence is all that counts: it may be empty (a full disk)."""
    fd = os.open(flag, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):
            os.write(fd, b"every service is on stable while this file is here\n")
            os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(flag.parent)


def lower(flag: Path) -> None:
    """Remove the file, durably."""
    flag.unlink(missing_ok=True)
    sync_folder(flag.parent)


def wait_for_workers(run_dir: Path, *, forced: bool) -> dict[Path, State | None]:
    """Ask every worker until each says so, at most ``DEADLINE``; None for one without an answer.

    Workers that end while we ask are left out; those that begin are asked too.
    """
    deadline = time.monotonic() + DEADLINE
    while True:
        states = ask_all(run_dir)
        done = all(state is not None and state.forced_stable is forced for state in states.values())
        if done or time.monotonic() >= deadline:
            return states
        time.sleep(ASK_EVERY)


def ask_all(run_dir: Path) -> dict[Path, State | None]:
    """Ask every worker whose socket somebody listens at, once."""
    states: dict[Path, State | None] = {}
    for path in sorted(run_dir.glob("worker-*.sock")):
        try:
            states[path] = ask_state(path, ASK_TIMEOUT)
        except NobodyThereError:
            continue
        except HandoverError:
            states[path] = None
    return states


def report(states: dict[Path, State | None], flag: Path, *, forced: bool) -> int:
    """Print a line per worker; return the exit code."""
    wanted = "on stable" if forced else "as control says"
    missing = 0
    for path, state in states.items():
        if state is None:
            click.echo(f"{path.name}: no answer")
        else:
            there = state.forced_stable is forced
            word = wanted if there else f"not yet {wanted}"
            click.echo(f"worker {state.slot} (process {state.pid}, {state.state}): {word}")
        missing += state is None or state.forced_stable is not forced
    if not states:
        click.echo(
            f"no worker runs here; {flag} {'is in force' if forced else 'is gone'}", err=True
        )
        return Exit.UNREACHABLE
    if missing:
        click.echo(
            f"{missing} of {len(states)} workers not {wanted} after {DEADLINE:g} s", err=True
        )
        return Exit.WAIT_RAN_OUT
    return Exit.DONE


def _bare_state_path(config: Path) -> Path:
    """Return ``state.path`` of a file that is wrong elsewhere, the default where it is not told."""
    import yaml

    from gateway.config.schema import State as StateSection

    path = StateSection().path
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        path = str(yaml.safe_load(config.read_text(encoding="utf-8"))["state"]["path"])
    return Path(path)
