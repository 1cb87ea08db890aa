"""The state store: what must outlive every process. SQLite in WAL mode, one writer thread.

``Store`` is the seam: nothing above it knows which store is there. ``SqliteStore`` runs every
statement in one thread of its own, so that a slow disk never stalls the loop, and every ``save`` is
one transaction that is on disk (``synchronous=FULL``) when it returns.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gateway.control import releaserows, staterows
from gateway.control.database import (
    Files,
    TooNewError,
    has_content,
    is_broken,
    is_damage,
    make_private,
    migrate,
    move_aside,
    remove,
)
from gateway.control.state import State
from gateway.control.storing import (
    Answer,
    AuditEntry,
    Mishap,
    OvertakenError,
    Progress,
    Store,
    StoreError,
    WholeError,
)
from gateway.release.record import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gateway.control.releaserows import Keys
    from gateway.release.record import Release

log = logging.getLogger("gateway.control.store")

T = TypeVar("T")

#: Idempotency keys are kept this long (seconds), and at most so many of them.
KEEP_ANSWERS = 86_400.0
MAX_ANSWERS = 10_000
MAX_AUDIT_ROWS = 100_000

__all__ = [
    "Answer",
    "AuditEntry",
    "Mishap",
    "OvertakenError",
    "Progress",
    "SqliteStore",
    "Store",
    "StoreError",
    "WholeError",
]


class SqliteStore:
    """A ``Store`` in one SQLite file. ``open`` makes one."""

    def __init__(self, path: Path | None, fallback: str = "") -> None:
        self.path = path
        self.fallback = fallback
        #: What was moved aside at the start as of no use.
        self.aside: Path | None = None
        #: Why the file is of no use since: what SQLite said of it.
        self._damaged = ""
        self._files: Files | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None
        #: The file that could not be opened, and whether what it has was read.
        self._wanted: Path | None = None
        self._read = False
        #: Whether there is a file that has something, which nobody could read at the start.
        self.unread = False
        #: What was made of an unread file that is of no use.
        self._given_up: Mishap | None = None
        #: The unread file as it was when it was found to be whole, and its state: not read again.
        self._whole: tuple[tuple[int, int, int], State | None] | None = None

    @classmethod
    async def open(cls, path: Path, wall: Callable[[], float] = time.time) -> SqliteStore:
        """Open or create the database; one that is broken is moved aside.

        Where nothing can be opened at that path, the store is in memory and ``fallback`` says why:
        the gateway serves and says loudly what it would lose. One that a newer version has brought
        on is left as it is, for that version: nothing is written there by this one. One that is
        whole and cannot be opened just now (a full disk) is read as far as it can be, and opened by
        ``mend``.
        """
        try:
            return await cls._opened(path)
        except StoreError as error:
            if isinstance(error.__cause__, TooNewError):
                log.critical("state store %s: %s; nothing will outlive control", path, error)
                store = await cls._opened(None, str(error))
                store.unread = True
                return store
            if not is_damage(error.__cause__):
                return await cls._in_memory(path, str(error))
            aside = move_aside(path, int(wall()))
            log.exception("state store %s is unusable; moved aside to %s", path, aside or "nowhere")
            reason = str(error)
        try:
            store = await cls._opened(path)
        except StoreError as error:
            return await cls._in_memory(path, f"{reason}; {error}")
        store.aside = aside
        return store

    @classmethod
    async def _opened(cls, path: Path | None, fallback: str = "") -> SqliteStore:
        store = cls(path, fallback)
        try:
            await store._run(store._connect)
            await store._run(store._load)  # rows that make no state are damage too
        except StoreError:
            await store.close()
            raise
        return store

    @classmethod
    async def _in_memory(cls, path: Path, reason: str) -> SqliteStore:
        """Return a store in memory with what the file at ``path`` has, where it can be read."""
        log.critical("no state store: %s: %s; nothing will outlive control", path, reason)
        store = await cls._opened(None, reason)
        store._wanted = path
        if await store._run(lambda: has_content(path)):
            try:
                await store._run(lambda: store._copy_in(store._db))
                await store._run(store._load)
            except StoreError as error:
                log.critical("what %s has cannot be read either: %s", path, error)
                await store.close()
                store = await cls._opened(None, reason)
                store._wanted, store.unread = path, True
            else:
                store._read = True
        return store

    async def _run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the writer's thread. Raises StoreError for what SQLite says."""
        loop = asyncio.get_running_loop()
        try:
            # Shielded: a caller that goes away must not leave a transaction half told.
            return await asyncio.shield(loop.run_in_executor(self._thread, work))
        except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
            if is_broken(error):
                self._damaged = f"damaged ({error})"
            raise StoreError(f"{type(error).__name__}: {error}") from error

    # --- in the writer's thread -----------------------------------------------------------------

    def _connect(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_private(self.path)
        target = ":memory:" if self.path is None else str(self.path)
        connection = sqlite3.connect(target, isolation_level=None, timeout=2.0)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(str(verdict))  # noqa: TRY301  one way out: closed below
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if self.path is not None:
            self._files = Files(self.path)

    def _copy_in(self, into: sqlite3.Connection) -> None:
        """Take over what the file has. It is opened alone: else it would need room beside it."""
        source = sqlite3.connect(str(self._wanted), isolation_level=None, timeout=2.0)
        try:
            source.execute("PRAGMA locking_mode=EXCLUSIVE")
            source.backup(into)
        finally:
            source.close()
        migrate(into)

    def _of_no_use(self, wanted: Path) -> str:
        """Say what is wrong with a file that could not be read at the start.

        Raises WholeError where nothing is any more, and what else keeps it from being read.
        """
        if self._whole is not None and self._whole[0] == _as_it_is(wanted):
            raise WholeError(_readable_again(self._whole[1], self._load()))
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as scratch:
            try:
                self._copy_in(scratch)
                (verdict,) = scratch.execute("PRAGMA quick_check(1)").fetchone()
                found = staterows.read_state(scratch)
            except (sqlite3.Error, msgspec.DecodeError) as error:
                if not is_damage(error):
                    raise
                return f"damaged ({error})"
        if verdict != "ok":
            return f"damaged ({verdict})"
        self._whole = _as_it_is(wanted), found
        raise WholeError(_readable_again(found, self._load()))

    def _go_over(self) -> Mishap:
        """Open the file after all, with what is in memory in it.

        One that was not read is whole as a rule, and has what production is: it is for a process
        that begins with it. Only one of no use is moved aside.
        """
        memory, wanted = self._db, self._wanted
        assert wanted is not None
        if not self._read and has_content(wanted):
            what = self._of_no_use(wanted)
            log.error("the state store %s is of no use: %s", wanted, what)
            aside = move_aside(wanted, int(time.time()))
            if has_content(wanted):
                raise FileExistsError(f"{wanted} cannot be moved aside")
            self._given_up = Mishap(what=what, whole=False, aside=aside)
        self.path, self._connection = wanted, None
        try:
            self._connect()
            memory.backup(self._db)
        except BaseException:
            self._close()
            self.path, self._connection = None, memory
            if not self._read:
                remove(wanted)  # half made, and made by us: there was nothing
            raise
        memory.close()
        return self._given_up or Mishap(what="", whole=True)

    def _look(self) -> Mishap | None:
        """Have a file at the path again where the one that is open is not there any more."""
        if self.path is None or self._files is None or self._connection is None:
            return None
        what = self._damaged or self._files.changed()
        if not what:
            return None
        log.error("the state store %s was %s while it was in use", self.path, what)
        lost = self._connection
        self._files.remove_strays()
        aside = move_aside(self.path, int(time.time()))
        if self.path.exists():
            raise FileExistsError(f"{self.path} cannot be moved aside")
        try:
            whole = self._take_from(lost)
        except BaseException:
            # It goes on in the file without a name, which ends with this process.
            if self._connection is not lost:
                self._close()
            remove(self.path)
            self._connection = lost
            raise
        lost.close()
        self._damaged = ""
        return Mishap(what=what, whole=whole, aside=aside)

    def _take_from(self, lost: sqlite3.Connection) -> bool:
        """Open a new file with what ``lost`` still has; tells whether that was all of it."""
        assert self.path is not None
        self._connect()
        try:
            lost.backup(self._db)
            migrate(self._db)
            (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            self._load()
        except (sqlite3.Error, msgspec.DecodeError) as error:
            if not is_damage(error):
                raise  # no room, say: what it has is there still
            verdict = str(error)
        if verdict == "ok":
            return True
        log.error("what the state store had cannot be read any more: %s", verdict)
        self._close()
        move_aside(self.path, int(time.time()) + 1)
        self._connect()
        return False

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the store is closed")
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _save(
        self, state: State, audit: Sequence[AuditEntry], decisions: Sequence[Decision]
    ) -> None:
        with self._transaction() as db:
            row = db.execute("SELECT revision FROM meta").fetchone()
            if row is not None and row[0] > state.revision:
                raise OvertakenError(state.revision, row[0])
            db.execute(
                "INSERT INTO meta VALUES (1, ?, ?, ?) ON CONFLICT (one) DO UPDATE SET"
                " revision = excluded.revision, salt = excluded.salt, release = excluded.release",
                (state.revision, state.salt, state.release),
            )
            for service in state.services:
                staterows.save_service(db, service)
                staterows.save_forced(db, service)
            for entry in audit:
                _save_audit(db, entry)
            releaserows.save(db, state.run, decisions)

    def _save_progress(self, progress: Progress) -> None:
        with self._transaction() as db:
            if progress.anew:
                releaserows.forget_keys(db)
            releaserows.save_progress(
                db, progress.release, progress.document, progress.keys, progress.decisions
            )

    def _save_baselines(self, documents: Mapping[str, bytes]) -> None:
        with self._transaction() as db:
            releaserows.save_baselines(db, documents)

    def _load(self) -> State | None:
        return staterows.read_state(self._db)

    def _remember(self, answer: Answer) -> None:
        with self._transaction() as db:
            _save_answer(db, answer)

    def _remembered(self, actor: str, key: str, now: float) -> Answer | None:
        row = self._db.execute(
            "SELECT request, status, body, etag, at FROM answer"
            " WHERE actor = ? AND key = ? AND at > ?",
            (actor, key, now - KEEP_ANSWERS),
        ).fetchone()
        if row is None:
            return None
        request, status, body, etag, at = row
        return Answer(
            actor=actor, key=key, request=request, status=status, body=body, etag=etag, at=at
        )

    def _audit(self, before: int | None, limit: int) -> list[AuditEntry]:
        rows = self._db.execute(
            "SELECT id, at, actor, address, action, reason, before, after FROM audit"
            " WHERE id < ? ORDER BY id DESC LIMIT ?",
            (before if before is not None else 2**62, limit),
        )
        return [_entry(row) for row in rows]

    def _last(self, action: str) -> list[AuditEntry]:
        rows = self._db.execute(
            "SELECT id, at, actor, address, action, reason, before, after FROM audit"
            " WHERE action = ? ORDER BY id DESC LIMIT 1",
            (action,),
        )
        return [_entry(row) for row in rows]

    def _has_audit(self, entry: AuditEntry) -> bool:
        found = self._db.execute(
            "SELECT 1 FROM audit WHERE at = ? AND action = ? AND actor = ?",
            (entry.at, entry.action, entry.actor),
        ).fetchone()
        return found is not None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- the Store -------------------------------------------------------------------------------

    async def load(self) -> State | None:
        """Return the state as last saved, None for a new store."""
        return await self._run(self._load)

    async def save(
        self, state: State, audit: Sequence[AuditEntry], decisions: Sequence[Decision] = ()
    ) -> None:
        """Keep all of it in one durable transaction."""
        await self._run(functools.partial(self._save, state, audit, decisions))

    async def mend(self) -> Mishap | None:
        """Go over to the file that could not be opened; None where that was not done now.

        A file that was not read at the start and can be now is left as it is: ``fallback`` says so.
        """
        if self._wanted is None:
            return None
        try:
            mishap = await self._run(self._go_over)
        except WholeError as error:
            if self.fallback != str(error):
                self.fallback = str(error)
                log.critical("the state store %s: %s", self._wanted, error)
            return None
        except StoreError:
            return None
        log.warning("the state store %s can be used again", self._wanted)
        self._wanted, self.fallback, self.unread = None, "", False
        return mishap

    async def look(self) -> Mishap | None:
        """Look whether the file that is open is still at its path and of use. Cheap: two stats.

        Where it is not, there is a new one afterwards, with all that the old one had (it is open
        still) or, where that cannot be read, empty. Where there can be none ``fallback`` says so,
        and the next look tries again.
        """
        try:
            mishap = await self._run(self._look)
        except StoreError as error:
            if not self.fallback:
                log.critical("no state store: %s: %s", self.path, error)
            self.fallback = f"its file is lost, and no new one can be made: {error}"
            return None
        if self.path is not None:  # else it is in memory, for a reason that is there still
            self.fallback = ""
        return mishap

    async def last(self, action: str) -> AuditEntry | None:
        """Return the newest audit row of an action."""
        found = await self._run(functools.partial(self._last, action))
        return found[0] if found else None

    async def remember(self, answer: Answer) -> None:
        """Keep an answer; drop those past their day and past the bound."""
        await self._run(functools.partial(self._remember, answer))

    async def remembered(self, actor: str, key: str, now: float) -> Answer | None:
        """Return the answer kept under a key that is not older than a day."""
        return await self._run(functools.partial(self._remembered, actor, key, now))

    async def audit(self, before: int | None, limit: int) -> list[AuditEntry]:
        """Return audit rows with ids under ``before``, newest first."""
        return await self._run(functools.partial(self._audit, before, limit))

    async def has_audit(self, entry: AuditEntry) -> bool:
        """Tell whether a row of that action, by that actor and of that moment, is there."""
        return await self._run(functools.partial(self._has_audit, entry))

    async def releases(self, before: int | None, limit: int) -> list[Release]:
        """Return releases with numbers under ``before``, newest first."""
        return await self._run(lambda: releaserows.releases(self._db, before, limit))

    async def release(self, name: str) -> Release | None:
        """Return one release by its id."""
        return await self._run(lambda: releaserows.release(self._db, name))

    async def decisions(self, name: str) -> list[Decision]:
        """Return a release's ledger, oldest first."""
        return await self._run(lambda: releaserows.decisions(self._db, name))

    async def condemned(self) -> set[tuple[str, int]]:
        """Return (service, generation) of builds that were rolled back for what they did."""
        return await self._run(lambda: releaserows.condemned(self._db))

    async def keep_progress(self, progress: Progress) -> None:
        """Keep what was seen of a release that is under way."""
        await self._run(lambda: self._save_progress(progress))

    async def progress(self, name: str) -> tuple[bytes, Keys] | None:
        """Return what was seen of a release before."""
        return await self._run(lambda: releaserows.load_progress(self._db, name))

    async def keep_baselines(self, documents: Mapping[str, bytes]) -> None:
        """Keep stable's latencies by service."""
        await self._run(lambda: self._save_baselines(documents))

    async def baselines(self) -> dict[str, bytes]:
        """Return stable's latencies by service."""
        return await self._run(lambda: releaserows.load_baselines(self._db))

    async def close(self) -> None:
        """Finish what is under way and close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)


def _as_it_is(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _readable_again(found: State | None, current: State | None) -> str:
    """Say how to go back to a file with ``found`` where ``current`` is what memory has."""
    later = found is not None and (current is None or found.revision >= current.revision)
    # A control process that starts goes on from what workers serve where that is the later one.
    back = "end control" if later else "stop the whole gateway and start it again"
    return (
        f"its file can be read again and has other content: {back} to go back to it, or move it "
        "aside to keep what is in force"
    )


def _entry(row: tuple[Any, ...]) -> AuditEntry:
    return AuditEntry(**dict(zip(AuditEntry.__struct_fields__, row, strict=True)))


def _save_audit(db: sqlite3.Connection, entry: AuditEntry) -> None:
    db.execute(
        "INSERT INTO audit (at, actor, address, action, reason, before, after)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            entry.at,
            entry.actor,
            entry.address,
            entry.action,
            entry.reason,
            entry.before,
            entry.after,
        ),
    )
    db.execute("DELETE FROM audit WHERE id <= last_insert_rowid() - ?", (MAX_AUDIT_ROWS,))


def _save_answer(db: sqlite3.Connection, answer: Answer) -> None:
    db.execute("DELETE FROM answer WHERE at <= ?", (answer.at - KEEP_ANSWERS,))
    db.execute(
        "DELETE FROM answer WHERE (actor, key) IN (SELECT actor, key FROM answer"
        " ORDER BY at DESC LIMIT -1 OFFSET ?)",
        (MAX_ANSWERS - 1,),
    )
    db.execute(
        "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            answer.actor,
            answer.key,
            answer.request,
            answer.status,
            answer.body,
            answer.etag,
            answer.at,
        ),
    )
