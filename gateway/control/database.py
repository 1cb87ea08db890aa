"""The state store's SQLite file: its schema, its mode, what is done with one that is of no use."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from gateway.control import releaserows

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("gateway.control.store")

#: Each step brings the database from its index to the next ``user_version``.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL, salt BLOB NOT NULL, release TEXT NOT NULL
    ) STRICT;
    CREATE TABLE service (
        name TEXT PRIMARY KEY,
        stable TEXT NOT NULL CHECK (stable IN ('blue', 'green')),
        weight INTEGER NOT NULL CHECK (weight BETWEEN 0 AND 10000),
        previous TEXT NOT NULL, drained TEXT NOT NULL, isolated TEXT NOT NULL,
        generation INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE pool (
        service TEXT NOT NULL REFERENCES service (name) ON DELETE CASCADE,
        color TEXT NOT NULL CHECK (color IN ('blue', 'green')),
        generation INTEGER NOT NULL,
        source TEXT NOT NULL CHECK (source IN ('file', 'api')),
        endpoints TEXT NOT NULL,
        PRIMARY KEY (service, color)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL, actor TEXT NOT NULL, address TEXT NOT NULL, action TEXT NOT NULL,
        reason TEXT NOT NULL, before BLOB NOT NULL, after BLOB NOT NULL
    ) STRICT;
    CREATE TABLE answer (
        actor TEXT NOT NULL, key TEXT NOT NULL, request BLOB NOT NULL,
        status INTEGER NOT NULL, body BLOB NOT NULL, etag TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (actor, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX answer_at ON answer (at);
    """,
    "ALTER TABLE service ADD COLUMN maintenance REAL CHECK (maintenance > 0);",
    """
    CREATE TABLE forced_breaker (
        service TEXT NOT NULL REFERENCES service (name) ON DELETE CASCADE,
        endpoint TEXT NOT NULL,
        PRIMARY KEY (service, endpoint)
    ) STRICT, WITHOUT ROWID;
    """,
    releaserows.MIGRATION,
)

#: What SQLite says of a database that is whole, and cannot be opened or written just now.
_NOT_DAMAGE = tuple(
    f"SQLITE_{name}"
    for name in ("FULL", "IOERR", "CANTOPEN", "READONLY", "BUSY", "LOCKED", "PERM", "NOMEM")
)


def written_by_newer(path: Path) -> str:
    """Say so where a newer version has brought the database on; empty where not, or none is there.

    Nothing is changed. A broken one is none of this: it is moved aside at the start.
    """
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        ) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        return ""
    return "" if version <= len(MIGRATIONS) else too_new(version)


def too_new(version: int) -> str:
    """Say that a schema is one of a version to come."""
    return (
        f"its schema is version {version}, this gateway knows {len(MIGRATIONS)}: "
        "it was written by a newer one"
    )


class TooNewError(sqlite3.DatabaseError):
    """The database is whole, and a newer version's: this one leaves it alone."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database up to this version's schema. Raises sqlite3.Error."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise TooNewError(too_new(version))
    for step in range(version, len(MIGRATIONS)):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[step]} PRAGMA user_version = {step + 1}; COMMIT;"
        )


def has_content(path: Path) -> bool:
    """Tell whether there is anything at ``path`` that could be lost, as far as can be seen."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except PermissionError:
        return True


def is_damage(cause: BaseException | None) -> bool:
    """Tell a database that is broken from one that the machine does not let us use."""
    if isinstance(cause, TooNewError):
        return False
    if isinstance(cause, sqlite3.Error):
        name = getattr(cause, "sqlite_errorname", None) or ""
        return not name.startswith(_NOT_DAMAGE)
    return not isinstance(cause, OSError)


def is_broken(cause: BaseException) -> bool:
    """Tell an open database whose file was overwritten, or cut, from any other failure."""
    name = getattr(cause, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


class Files:
    """Which files a database was opened as: so that one that was taken away below it is noticed.

    SQLite goes on in a file that has no name any more, and all of it is lost at its close. The
    files are looked at, never opened: closing a descriptor would give up this process's own locks.
    """

    def __init__(self, path: Path) -> None:
        self._paths = (path, path.with_name(f"{path.name}-wal"))
        self._seen: dict[Path, tuple[int, int]] = {}
        self._size = 0
        self.changed()

    def changed(self) -> str:
        """Say what has become of them, empty where nothing has. Raises OSError."""
        for each in self._paths:
            known = self._seen.get(each)
            try:
                found = each.stat()
            except FileNotFoundError:
                if known is not None:
                    return "deleted"
                continue
            if known is None:
                self._seen[each] = found.st_dev, found.st_ino
            elif known != (found.st_dev, found.st_ino):
                return "replaced"
            if each is self._paths[0]:
                if found.st_size < self._size:
                    return "cut short"
                self._size = found.st_size
        return ""

    def remove_strays(self) -> None:
        """Remove our own log where the file that it belongs to is not there any more.

        Beside another database it would be played into that at its next opening. All that it has
        can be read through the connection that is open.
        """
        path, wal = self._paths
        if _identity(path) == self._seen.get(path) or _identity(wal) != self._seen.get(wal):
            return
        for each in (wal, path.with_name(f"{path.name}-shm")):
            each.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def make_private(path: Path) -> None:
    """Have the database be readable by its owner alone, one that is there already too.

    It has the audit log and what decides which side a client is on. SQLite gives the files beside
    it the same mode.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(FileNotFoundError, PermissionError):
            if each.stat().st_mode & 0o077:
                each.chmod(0o600)


def move_aside(path: Path, stamp: int) -> Path | None:
    """Rename a database that cannot be used, with its WAL. None: there was nothing to rename."""
    moved = None
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        aside = path.with_name(f"{path.name}.broken-{stamp}{suffix}")
        try:
            part.rename(aside)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.exception("cannot move %s aside", part)
            continue
        moved = moved or aside
    return moved


def remove(path: Path) -> None:
    """Remove a database that was just made and came to nothing."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + suffix).unlink()
