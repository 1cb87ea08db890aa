"""``gateway restore``: a backup's state in the place of what is there, while no gateway runs."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from gateway.cli.backup import STREAM, revision_in_force, told
from gateway.cli.output import warn
from gateway.cli.rollback_local import FLAG, lower, raise_flag, state_path
from gateway.cli.run import run_dir_of
from gateway.cli.values import config_option
from gateway.client.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator


#: Why one may run again that was stopped.
SOCKET_UNIT: Final = (
    ". A socket unit of systemd starts it again with the next connection: "
    "systemctl stop gateway.socket gateway.service"
)


class RefusedError(Exception):
    """Nothing was changed; the text says why."""


@click.command("restore")
@click.argument("source", metavar="BACKUP", type=click.Path(path_type=Path, allow_dash=True))
@config_option("The file that the gateway will run with: where its state goes.", required=False)
@click.option("--check", is_flag=True, help="Only read it all and say what it has.")
@click.pass_context
def command(ctx: click.Context, source: Path, file: Path | None, *, check: bool) -> None:
    """Put the state of BACKUP (-: standard input) where the configuration says.

    Refused (4) while a gateway or a process of one runs on that state, and for a backup that is
    damaged or of a newer version: nothing has changed then. The store that was there is kept
    beside it.
    """
    from gateway.control.backup import BackupError

    if file is None and not check:
        warn("where to? --config FILE says it; --check only reads the backup")
        ctx.exit(Exit.USAGE)
    try:
        with _opened(source) as stream:
            if check or file is None:
                _check(stream, source)
            else:
                _restore(stream, source, state_path(file))
    except BackupError as error:
        warn(f"{source}: {error}")
        ctx.exit(Exit.REFUSED)
    except RefusedError as error:
        warn(str(error))
        ctx.exit(Exit.REFUSED)
    except OSError as error:
        warn(f"{error.filename or source}: {error.strerror or error}")
        ctx.exit(Exit.REFUSED)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[IO[bytes]]:
    if str(source) == STREAM:
        yield sys.stdin.buffer
        return
    with source.open("rb") as file:
        yield file


def _check(stream: IO[bytes], source: Path) -> None:
    import tempfile

    from gateway.control.backup import unpack

    with tempfile.TemporaryDirectory(prefix="gateway-backup-") as name:
        manifest, contents = unpack(stream, Path(name))
    click.echo(f"{source}: whole; {told(manifest, contents)}")
    made = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(manifest.made_at))
    click.echo(
        f"made {made} on {manifest.host} of {manifest.state_path}, by gateway {manifest.gateway} "
        f"(format {manifest.format}, schema {manifest.schema})"
    )


def _restore(stream: IO[bytes], source: Path, store: Path) -> None:
    """Read all of it first; only then touch what is there."""
    from gateway.control.backup import DATABASE, unpack, working_folder
    from gateway.control.restoring import put

    store = store.absolute()
    with _nobody_runs(store) as run_dir, working_folder(store.parent.resolve()) as folder:
        manifest, contents = unpack(stream, folder)
        flag = run_dir / FLAG
        raised = manifest.forced_stable and not flag.exists()
        try:
            # First: a restore that is killed must not leave the state without what outranks it.
            if manifest.forced_stable:
                raise_flag(flag)
            in_force = revision_in_force(run_dir)
            restored = put(folder, manifest, store, time.time(), in_force=in_force)
        except BaseException:
            if raised and (folder / DATABASE).exists():  # it has not become the store
                lower(flag)
            raise
    click.echo(f"{store}: {told(manifest, contents)}, from {source}")
    click.echo(f"It goes on as revision {restored.revision}.")
    if restored.aside is not None:
        click.echo(f"What was there is {restored.aside} now.")
    if contents.running:
        click.echo(f"{contents.running} goes on where it was as soon as the gateway runs.")
    if manifest.forced_stable:
        click.echo("Everything stays on stable until `gateway rollback --local --undo`.")


@contextlib.contextmanager
def _nobody_runs(store: Path) -> Iterator[Path]:
    """Keep every gateway off a state while inside; the run folder. Raises RefusedError."""
    from gateway.channel.unix import listened_to, private_folder
    from gateway.supervisor.lock import HeldError, OwnerLock

    _check_owner(store.parent)
    run_dir = run_dir_of(store)
    try:
        private_folder(run_dir)
        lock = OwnerLock(run_dir / "lock")
    except HeldError as error:
        raise RefusedError(f"{error}; stop it first{SOCKET_UNIT}") from error
    try:
        # A supervisor that was killed leaves its children serving, and control with the store open.
        for path in sorted(run_dir.glob("*.sock")):
            if listened_to(path):
                raise RefusedError(
                    f"processes of a gateway still run on this state ({path.name}): start it and "
                    f"stop it, or end them{SOCKET_UNIT}"
                )
        yield run_dir
    finally:
        lock.close()


def _check_owner(folder: Path) -> None:
    """Root would make files that the gateway's own user cannot use. Raises RefusedError."""
    if os.geteuid() != 0 or not folder.exists():
        return
    owner = folder.stat().st_uid
    if owner != 0:
        name = str(owner)
        with contextlib.suppress(KeyError):
            name = pwd.getpwuid(owner).pw_name
        raise RefusedError(
            f"{folder} is {name}'s: sudo -u {name} gateway restore --config FILE - < BACKUP"
        )
