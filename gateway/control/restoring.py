"""Putting a backup's store into a state folder: at once or not at all, the one before kept aside.

The caller holds the owner's lock and has made sure that no process of a gateway has the store open.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.channel.folders import sync_folder
from gateway.control.backup import DATABASE, BackupError, Contents, Manifest, examine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: How far generations and revisions go on where nobody knows which were given since: copies in a
#: cache that outlived the store are of generations, and must never be taken for another build's.
UNKNOWN_SINCE: Final = 1000

#: What SQLite may have beside a database.
WITH_IT: Final = ("-wal", "-shm")


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. ``aside`` is where the store before is now, None where there was none."""

    revision: int
    aside: str | None


def put(
    folder: Path, manifest: Manifest, state_path: Path, now: float, *, in_force: int = 0
) -> Restored:
    """Have the store unpacked in ``folder`` be the one at ``state_path``.

    ``folder`` is absolute and on the same disk; ``in_force`` is the revision that workers had last,
    where that is known: it may be beyond that of the store. Revisions and generations go on above
    those of the store that is replaced, so that no number ever means two things; the audit log says
    what was done. Raises BackupError and OSError: nothing has changed then.
    """
    new = folder / DATABASE
    # Before anything opens it: of a WAL whose database is damaged SQLite makes short work.
    aside = _link_aside(state_path, int(now))
    former = None
    try:
        former = _former(state_path)
        old = state_path if former is not None else None
        revision = _go_on_from(new, old, manifest, former, now, in_force)
    except BaseException:
        if former is not None:
            _unlink(aside)
        else:
            _take_off(aside, state_path)
        raise
    # The new one must not find the old one's; one that was whole has it in itself by now.
    _unlink(state_path, WITH_IT)
    if former is not None:
        _unlink(aside, WITH_IT)
    new.rename(state_path)
    sync_folder(state_path.parent)
    return Restored(revision=revision, aside=str(aside) if aside.exists() else None)


def _former(state_path: Path) -> Contents | None:
    """Fold the WAL of the store that is there into it; None where it is missing or damaged."""
    if not state_path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{state_path.absolute().as_uri()}?mode=rw", uri=True)) as db:
            db.execute("PRAGMA journal_mode = DELETE")
        return examine(state_path)
    except (sqlite3.Error, BackupError):
        return None


def _go_on_from(
    new: Path,
    old: Path | None,
    manifest: Manifest,
    former: Contents | None,
    now: float,
    in_force: int,
) -> int:
    """Bring the numbers beyond what was given since, and write the audit row; the revision."""
    try:
        with closing(
            sqlite3.connect(f"{new.as_uri()}?mode=rw", uri=True, isolation_level=None)
        ) as db:
            db.execute("PRAGMA synchronous = FULL")
            if old is not None:
                db.execute("ATTACH ? AS old", (f"{old.absolute().as_uri()}?mode=ro",))
            db.execute("BEGIN IMMEDIATE")
            before = former.revision if former is not None else None
            row = db.execute("SELECT revision FROM meta").fetchone()
            known = before if before is not None else row[0] + UNKNOWN_SINCE if row else 0
            revision = max(row[0], known, in_force) + 1 if row is not None else 0
            db.execute("UPDATE meta SET revision = ?", (revision,))
            if old is None:
                db.execute("UPDATE service SET generation = generation + ?", (UNKNOWN_SINCE,))
            else:
                db.execute(
                    "UPDATE service SET generation = max(generation, coalesce("
                    "(SELECT generation FROM old.service AS o WHERE o.name = service.name), 0))"
                )
            said = {"revision": revision, "made_at": manifest.made_at, "host": manifest.host}
            db.execute(
                "INSERT INTO audit (at, actor, address, action, reason, before, after)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    now,
                    f"user {os.geteuid()}",
                    "local",
                    "state.restored",
                    "",
                    msgspec.json.encode({"revision": before} if before is not None else None),
                    msgspec.json.encode(said),
                ),
            )
            db.execute("COMMIT")
    except sqlite3.Error as error:
        raise BackupError(f"the backup's store cannot be written: {error}") from error
    return revision


def _aside(state_path: Path, stamp: int) -> Path:
    return state_path.with_name(f"{state_path.name}.before-restore-{stamp}")


def _link_aside(state_path: Path, stamp: int) -> Path:
    """Give the store that is there a second name, with its WAL; the first stays until the end.

    Second names that a restore has left which was killed half-way are taken off.
    """
    for left in state_path.parent.glob(f"{state_path.name}.before-restore-*"):
        _take_off(left, state_path)
    aside = _aside(state_path, stamp)
    while aside.exists():
        stamp += 1
        aside = _aside(state_path, stamp)
    for suffix in ("", *WITH_IT):
        with contextlib.suppress(FileNotFoundError):
            os.link(f"{state_path}{suffix}", f"{aside}{suffix}")
    return aside


def _take_off(aside: Path, state_path: Path) -> None:
    """Take a second name of the store off again, unless its WAL has no other name any more."""
    wal, own = (path.with_name(path.name + WITH_IT[0]) for path in (aside, state_path))
    with contextlib.suppress(FileNotFoundError):
        if aside.samefile(state_path) and (not wal.exists() or wal.samefile(own)):
            _unlink(aside)


def _unlink(path: Path, suffixes: Sequence[str] = ("", *WITH_IT)) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
