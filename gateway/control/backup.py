"""A backup of the state: one file with a copy of the store and what says that it is whole.

It is a gzipped tar, so that ``tar -x`` gets at its parts without a gateway: ``manifest.json``
first, then ``gateway.db`` (SQLite, no WAL) and ``gateway.yaml`` where the configuration could be
read. The copy is one read transaction of SQLite's own: control may write meanwhile, or be dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import socket
import sqlite3
import tarfile
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec

from gateway.control.database import MIGRATIONS, migrate, too_new
from gateway.control.staterows import read_state
from gateway.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Of the file as a whole; another number is another way to read it.
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DATABASE: Final = "gateway.db"
CONFIG: Final = "gateway.yaml"

#: What folders for the work begin with, and the file in each that whoever works there has locked.
WORKING: Final = ".gateway-backup-"
LOCK: Final = "lock"

#: Octets of a manifest and of a part that are believed; more is no backup of ours.
MAX_MANIFEST: Final = 1 << 20
MAX_PART: Final = 16 << 30
PIECE: Final = 1 << 20


class BackupError(Exception):
    """There is no backup to be made, or to be used. The text says why."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the tar."""

    octets: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself. ``made_at`` is in seconds of the epoch."""

    format: int
    gateway: str
    schema: int
    made_at: float
    host: str
    state_path: str
    #: Whether the flag of ``gateway rollback --local`` was there.
    forced_stable: bool
    parts: dict[str, Part]


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a state store has."""

    schema: int
    revision: int
    #: The release under way, else empty.
    running: str
    services: int
    releases: int
    audit_rows: int


def make(
    state_path: Path, out: IO[bytes], folder: Path, *, config: Path | None, forced_stable: bool
) -> tuple[Manifest, Contents]:
    """Write a backup to ``out``. ``folder`` is an empty one for the copy, of the caller's.

    Raises BackupError (no store, a damaged one, one of a newer version), OSError (no room).
    """
    copy = folder / DATABASE
    copy_store(state_path, copy)
    contents = examine(copy)
    parts = {DATABASE: copy}
    if config is not None:
        with contextlib.suppress(OSError):
            text = config.read_bytes()
            (folder / CONFIG).write_bytes(text)
            parts[CONFIG] = folder / CONFIG
    manifest = Manifest(
        format=FORMAT,
        gateway=VERSION,
        schema=contents.schema,
        made_at=time.time(),
        host=socket.gethostname(),
        state_path=str(state_path.absolute()),
        forced_stable=forced_stable,
        parts={name: _part(path) for name, path in parts.items()},
    )
    _write(out, manifest, parts)
    return manifest, contents


def copy_store(source: Path, target: Path) -> None:
    """Copy a store as it is at one moment, whoever writes to it. Raises BackupError."""
    if not source.is_file():
        raise BackupError(f"there is no state store at {source}")
    try:
        # Not read-only: what a killed control left in the WAL may have to be recovered.
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as db:
            db.execute("PRAGMA busy_timeout = 10000")
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(target)) as copy:
                db.backup(copy)  # all pages in one step: one read transaction
                # One file, without a WAL beside it.
                copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise BackupError(f"{source}: {error}") from error


def examine(path: Path) -> Contents:
    """Return what a store has; nothing is changed. Raises BackupError where it is of no use."""
    try:
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db,
            closing(sqlite3.connect(":memory:", isolation_level=None)) as memory,
        ):
            (schema,) = db.execute("PRAGMA user_version").fetchone()
            if schema > len(MIGRATIONS):
                raise BackupError(f"{path.name}: {too_new(schema)}")
            if not schema:
                raise BackupError(f"{path.name} is no state store")
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise BackupError(f"{path.name} is damaged: {verdict}")
            # As a start does, an older one brought on: rows that make no state are damage, too.
            db.backup(memory)
            migrate(memory)
            state = read_state(memory)
            run = state.running if state is not None else None
            return Contents(
                schema=schema,
                revision=state.revision if state is not None else 0,
                running=run.id if run is not None else "",
                services=len(state.services) if state is not None else 0,
                releases=_count(memory, "release"),
                audit_rows=_count(memory, "audit"),
            )
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise BackupError(f"{path.name} is damaged: {error}") from error


def _count(db: sqlite3.Connection, table: str) -> int:
    (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  our own names
    return int(count)


def _part(path: Path) -> Part:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return Part(octets=path.stat().st_size, sha256=digest.hexdigest())


def _write(out: IO[bytes], manifest: Manifest, parts: Mapping[str, Path]) -> None:
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    with tarfile.open(fileobj=out, mode="w|gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_entry(MANIFEST, len(text), manifest.made_at), io.BytesIO(text))
        for name, path in parts.items():
            with path.open("rb") as file:
                tar.addfile(_entry(name, path.stat().st_size, manifest.made_at), file)


def _entry(name: str, size: int, at: float) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, int(at), 0o600
    return entry


def unpack(source: IO[bytes], folder: Path) -> tuple[Manifest, Contents]:
    """Put a backup's parts into an empty folder, every octet checked; return what it is.

    Raises BackupError where it is none, is damaged, or is of a newer version; OSError (no room).
    """
    try:
        # As a stream, in the order of writing: names in the file never become paths.
        with tarfile.open(fileobj=source, mode="r|gz") as tar:
            entries = iter(tar)
            manifest = _manifest(tar, next(entries, None))
            for name, part in manifest.parts.items():
                _unpack_part(tar, next(entries, None), name, part, folder)
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise BackupError(f"it is damaged, or no backup: {error}") from error
    except OSError as error:
        if error.errno is None:  # gzip.BadGzipFile and its like
            raise BackupError(f"it is damaged, or no backup: {error}") from error
        raise
    return manifest, examine(folder / DATABASE)


def _manifest(tar: tarfile.TarFile, entry: tarfile.TarInfo | None) -> Manifest:
    file = tar.extractfile(entry) if entry is not None and entry.name == MANIFEST else None
    if file is None or entry is None or entry.size > MAX_MANIFEST:
        raise BackupError(f"it is no backup of a gateway: {MANIFEST} is not what it begins with")
    try:
        text = file.read()
        # The number alone first: another format's manifest need not be readable.
        number = msgspec.json.decode(text)["format"]
        if number != FORMAT:
            raise BackupError(f"its format is {number}, this gateway ({VERSION}) reads {FORMAT}")
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise BackupError(f"it is damaged: {MANIFEST}: {error}") from error
    if manifest.schema > len(MIGRATIONS):
        raise BackupError(f"{too_new(manifest.schema)} ({manifest.gateway})")
    if DATABASE not in manifest.parts or not manifest.parts.keys() <= {DATABASE, CONFIG}:
        raise BackupError(f"it is damaged: {MANIFEST} names other files than a backup has")
    return manifest


def _unpack_part(
    tar: tarfile.TarFile, entry: tarfile.TarInfo | None, name: str, part: Part, folder: Path
) -> None:
    file = tar.extractfile(entry) if entry is not None and entry.name == name else None
    if file is None or entry is None:
        raise BackupError(f"it is damaged: {name} is missing")
    if entry.size != part.octets or entry.size > MAX_PART:
        raise BackupError(f"it is damaged: {name} has {entry.size} octets, not {part.octets}")
    digest = hashlib.sha256()
    handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as target:
        while piece := file.read(PIECE):
            digest.update(piece)
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != part.sha256:
        raise BackupError(f"it is damaged: {name} is not what was written")


@contextlib.contextmanager
def working_folder(beside: Path) -> Iterator[Path]:
    """Give a folder of the owner's in ``beside`` that is gone afterwards; a lock alone is in it.

    What ones that were killed have left is removed, too. Whose is alive is told by the lock:
    process numbers repeat, in a container each time.
    """
    import shutil

    for left in beside.glob(f"{WORKING}*"):
        _remove_left(left)
    folder, lock = _locked_folder(beside)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(beside: Path) -> tuple[Path, int]:
    """Make a folder and hold its lock; again where somebody tidied up before we held it."""
    import tempfile

    while True:
        folder = Path(tempfile.mkdtemp(prefix=WORKING, dir=beside))
        path = folder / LOCK
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            except OSError:
                return folder, lock  # a disk without locks: nobody tidies up there
            if path.exists():
                return folder, lock
            os.close(lock)


def _remove_left(folder: Path) -> None:
    """Remove the folder of a process that is gone: of one whose lock is free."""
    import shutil

    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()  # killed before it had a lock; one that begins makes another
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(lock)
