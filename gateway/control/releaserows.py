"""Releases in the state store: the rows, and what reads and writes them.

Runs in the store's thread, inside of its transactions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.release.machine import TERMINAL
from gateway.release.record import Decision, Release

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

#: Releases kept with their decisions; older ones are forgotten.
MAX_RELEASES: Final = 500
#: Decisions kept of one release; beyond these the oldest but the first go.
MAX_DECISIONS: Final = 2000

MIGRATION: Final = """
    CREATE TABLE release (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, trigger TEXT NOT NULL,
        document TEXT NOT NULL
    ) STRICT;
    CREATE TABLE decision (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        release TEXT NOT NULL REFERENCES release (id) ON DELETE CASCADE,
        at REAL NOT NULL, what TEXT NOT NULL, state TEXT NOT NULL,
        step INTEGER NOT NULL, weight INTEGER NOT NULL, text TEXT NOT NULL, numbers BLOB NOT NULL
    ) STRICT;
    CREATE INDEX decision_release ON decision (release, id);
    CREATE TABLE condemned (
        service TEXT NOT NULL, generation INTEGER NOT NULL,
        release TEXT NOT NULL REFERENCES release (id) ON DELETE CASCADE,
        PRIMARY KEY (service, generation)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE progress (
        release TEXT PRIMARY KEY REFERENCES release (id) ON DELETE CASCADE,
        document BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE seen_key (
        scope TEXT NOT NULL, key BLOB NOT NULL, bits INTEGER NOT NULL,
        PRIMARY KEY (scope, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE baseline (service TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT, WITHOUT ROWID;
    """

#: (scope, hashed cohort key) -> what it was counted for.
Keys = dict[tuple[str, int], int]


def save_release(db: sqlite3.Connection, release: Release) -> None:
    """Keep a release as it is now; builds that were rolled back for what they did are noted."""
    document = msgspec.json.encode(release).decode()
    db.execute(
        "INSERT INTO release VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " state = excluded.state, trigger = excluded.trigger, document = excluded.document",
        (release.number, release.id, release.state, release.trigger, document),
    )
    builds = [(part.service, part.generation) for part in release.parts]
    if release.condemns:
        db.executemany(
            "INSERT OR IGNORE INTO condemned VALUES (?, ?, ?)",
            [(*build, release.id) for build in builds],
        )
    if release.state == "finalized":
        # It has passed everything since.
        db.executemany("DELETE FROM condemned WHERE service = ? AND generation = ?", builds)
    if release.over:
        db.execute("DELETE FROM seen_key")
    db.execute("DELETE FROM release WHERE number <= ?", (release.number - MAX_RELEASES,))


def save_decision(db: sqlite3.Connection, decision: Decision) -> None:
    """Append to the ledger."""
    db.execute(
        "INSERT INTO decision (release, at, what, state, step, weight, text, numbers)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            decision.release,
            decision.at,
            decision.what,
            decision.state,
            decision.step,
            decision.weight,
            decision.text,
            decision.numbers,
        ),
    )
    db.execute(
        "DELETE FROM decision WHERE release = ? AND what = 'evaluation' AND id NOT IN"
        " (SELECT id FROM decision WHERE release = ? ORDER BY id DESC LIMIT ?)",
        (decision.release, decision.release, MAX_DECISIONS),
    )


def last_release(db: sqlite3.Connection) -> Release | None:
    """Return the release under way, or the last that was."""
    row = db.execute("SELECT document FROM release ORDER BY number DESC LIMIT 1").fetchone()
    return None if row is None else msgspec.json.decode(row[0], type=Release)


def releases(db: sqlite3.Connection, before: int | None, limit: int) -> list[Release]:
    """Return releases with numbers under ``before``, newest first."""
    rows = db.execute(
        "SELECT document FROM release WHERE number < ? ORDER BY number DESC LIMIT ?",
        (2**62 if before is None else before, limit),
    )
    return [msgspec.json.decode(document, type=Release) for (document,) in rows]


def release(db: sqlite3.Connection, name: str) -> Release | None:
    """Return one release by its id."""
    row = db.execute("SELECT document FROM release WHERE id = ?", (name,)).fetchone()
    return None if row is None else msgspec.json.decode(row[0], type=Release)


def decisions(db: sqlite3.Connection, name: str) -> list[Decision]:
    """Return a release's ledger, oldest first."""
    rows = db.execute(
        "SELECT id, release, at, what, state, step, weight, text, numbers FROM decision"
        " WHERE release = ? ORDER BY at, id",  # an evaluation may be stored after what came of it
        (name,),
    )
    names = Decision.__struct_fields__
    return [msgspec.convert(dict(zip(names, row, strict=True)), Decision) for row in rows]


def condemned(db: sqlite3.Connection) -> set[tuple[str, int]]:
    """Return (service, generation) of builds that were rolled back for what they did."""
    return set(db.execute("SELECT service, generation FROM condemned"))


def save_progress(
    db: sqlite3.Connection, name: str, document: bytes, keys: Keys, made: Iterable[Decision]
) -> None:
    """Keep what was seen so far; ``keys`` are those that are new or count for more now."""
    row = db.execute("SELECT state FROM release WHERE id = ?", (name,)).fetchone()
    if row is None:
        return  # it was never stored
    for decision in made:
        save_decision(db, decision)
    # Also of one that is over, for whoever looks at it later; its keys are of no more use.
    db.execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (name, document))
    if row[0] in TERMINAL:
        return
    db.executemany(
        "INSERT OR REPLACE INTO seen_key VALUES (?, ?, ?)",
        [(scope, key.to_bytes(8), bits) for (scope, key), bits in keys.items()],
    )


def forget_keys(db: sqlite3.Connection) -> None:
    """Begin to count from nothing."""
    db.execute("DELETE FROM seen_key")


def load_progress(db: sqlite3.Connection, name: str) -> tuple[bytes, Keys] | None:
    """Return what was seen of a release before, None where nothing was kept."""
    row = db.execute("SELECT document FROM progress WHERE release = ?", (name,)).fetchone()
    if row is None:
        return None
    keys = {
        (scope, int.from_bytes(key)): bits
        for scope, key, bits in db.execute("SELECT scope, key, bits FROM seen_key")
    }
    return row[0], keys


def save_baselines(db: sqlite3.Connection, documents: Mapping[str, bytes]) -> None:
    """Keep stable's latencies by service."""
    db.executemany("INSERT OR REPLACE INTO baseline VALUES (?, ?)", list(documents.items()))


def load_baselines(db: sqlite3.Connection) -> dict[str, bytes]:
    """Return stable's latencies by service."""
    return dict(db.execute("SELECT service, document FROM baseline"))


def save(db: sqlite3.Connection, run: Release | None, made: Iterable[Decision]) -> None:
    """Keep a release with its newest decisions.

    A later one that a state knows nothing of was begun by a write that a rollback overtook.
    """
    db.execute("DELETE FROM release WHERE number > ?", (0 if run is None else run.number,))
    if run is not None:
        save_release(db, run)
    for decision in made:
        save_decision(db, decision)
