"""``gateway backup``: the state in one file, whether the gateway runs or not.

It reads the state store beside control, as SQLite allows, and needs neither the admin API nor a
token: it works while control is down, and with a configuration that has errors.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.channel.folders import sync_folder
from gateway.cli.output import warn
from gateway.cli.rollback_local import FLAG, state_path
from gateway.cli.run import run_dir_of
from gateway.cli.values import config_option
from gateway.client.exits import Exit

if TYPE_CHECKING:
    from gateway.control.backup import Contents, Manifest

#: Standard input or output in a file's place.
STREAM = "-"


@click.command("backup")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path, allow_dash=True))
@config_option("The file that the gateway runs with: where its state is, and kept in the backup.")
@click.option(
    "--force",
    is_flag=True,
    help="Even where OUT is there already: replace it, unless its revision is higher.",
)
@click.pass_context
def command(ctx: click.Context, out: Path, file: Path, *, force: bool) -> None:
    """Write the state to OUT (-: to standard output): roles, shares, pools, releases, audit log.

    The gateway may run, a release too: it is a copy of one moment. OUT is there whole or not at
    all, readable by you alone. Exits with 4 where there is no state store, it is damaged, or OUT
    cannot be written, and with 6 where OUT is there and lacks what is in force.
    """
    from gateway.control.backup import BackupError, working_folder

    store = state_path(file)
    run_dir = run_dir_of(store)
    streamed = str(out) == STREAM
    if streamed and sys.stdout.isatty():
        warn("a backup is not for a terminal: gateway backup … - > FILE")
        ctx.exit(Exit.USAGE)
    if not streamed and out.exists() and not force:
        warn(f"{out} is there already; --force replaces it")
        ctx.exit(Exit.REFUSED)
    in_force = revision_in_force(run_dir)
    try:
        if streamed:
            with tempfile.TemporaryDirectory(prefix="gateway-backup-") as name:
                made = _to_stream(store, Path(name), file, run_dir)
        else:
            with working_folder(out.absolute().parent) as folder:
                made = _to_file(store, folder, out, file, run_dir)
    except BackupError as error:
        warn(str(error))
        ctx.exit(Exit.REFUSED)
    except OSError as error:
        warn(f"{error.filename or out}: {error.strerror or error}")
        ctx.exit(Exit.REFUSED)
    manifest, contents = made
    if in_force > contents.revision:
        warn(
            f"revision {in_force} is in force and not in the state store, so not in the backup: "
            "is the disk full?"
        )
    if not streamed:
        size = out.stat().st_size
        click.echo(f"{out}: {told(manifest, contents)}; {size} octets")
    if in_force > contents.revision:
        ctx.exit(Exit.WAIT_RAN_OUT)


def told(manifest: Manifest, contents: Contents) -> str:
    """Say what a backup has."""
    parts = [
        f"revision {contents.revision}",
        f"{contents.services} services",
        f"{contents.releases} releases" + f" ({contents.running} runs)" * bool(contents.running),
        f"{contents.audit_rows} audit rows",
    ]
    if manifest.forced_stable:
        parts.append("everything forced to stable")
    return ", ".join(parts)


def _to_stream(store: Path, folder: Path, config: Path, run_dir: Path) -> tuple[Manifest, Contents]:
    from gateway.control.backup import make

    out = sys.stdout.buffer
    made = make(store, out, folder, config=config, forced_stable=(run_dir / FLAG).exists())
    out.flush()
    return made


def _to_file(
    store: Path, folder: Path, out: Path, config: Path, run_dir: Path
) -> tuple[Manifest, Contents]:
    """Write beside, sync, rename: whoever finds OUT finds all of it.

    Raises BackupError, too, where OUT is a backup with a higher revision than this one.
    """
    from gateway.control.backup import BackupError, make

    beside = folder / "out"
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        made = make(store, file, folder, config=config, forced_stable=(run_dir / FLAG).exists())
        file.flush()
        os.fsync(file.fileno())
    revision, there = made[1].revision, _revision_of(out, folder / "there")
    if there > revision:
        raise BackupError(
            f"{out} has revision {there} and the state store {revision}: {out} stays as it is. "
            "Has the store been lost? Move the file away, or write to another"
        )
    beside.rename(out)
    sync_folder(out.absolute().parent)
    return made


def _revision_of(out: Path, folder: Path) -> int:
    """Return the revision of a backup that is there; 0 where there is none, or none of any use."""
    from gateway.control.backup import BackupError, unpack

    if not out.is_file():
        return 0
    folder.mkdir(mode=0o700)
    with contextlib.suppress(BackupError), out.open("rb") as file:
        return unpack(file, folder)[1].revision
    return 0


def revision_in_force(run_dir: Path) -> int:
    """Return the traffic revision that the last snapshot has; 0 where that cannot be told."""
    from gateway.channel.snapshotfile import SnapshotFileError, read

    found = 0
    for path in run_dir.glob("snapshot-*.bin"):
        with contextlib.suppress(SnapshotFileError, OSError):
            snapshot = read(str(path))
            if snapshot is not None and snapshot.traffic is not None:
                found = max(found, snapshot.traffic.revision)
    return found
