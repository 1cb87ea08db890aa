"""The store keeps what it was given, through kills, damage and full disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from gateway.control import database
from gateway.control import store as module
from gateway.control.database import written_by_newer
from gateway.control.state import PoolState, ServiceState, State
from gateway.control.store import Answer, AuditEntry, SqliteStore, StoreError


def state(weight: int = 0, revision: int = 1) -> State:
    return State(
        revision=revision,
        salt=b"salt",
        release="r1",
        services=(
            ServiceState(
                name="ivor",
                stable="green",
                weight=weight,
                previous="open",
                drained=("blue",),
                isolated=("green",),
                maintenance=300.0,
                generation=4,
                forced=("ivor-blue-4-0", "ivor-blue-4-1"),
                blue=PoolState(generation=4, source="api", endpoints=("http://h:1", "http://h:2")),
                green=PoolState(generation=1, endpoints=()),
            ),
        ),
    )


def entry(action: str = "traffic.set") -> AuditEntry:
    return AuditEntry(at=1.0, actor="a", address="::1", action=action)


async def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "gateway.db"
    store = await SqliteStore.open(path)
    assert await store.load() is None
    await store.save(state(5), [entry()])
    await store.save(state(7, 2), [entry("rollback")])
    await store.close()
    again = await SqliteStore.open(path)
    assert await again.load() == state(7, 2)
    assert [row.action for row in await again.audit(None, 10)] == ["rollback", "traffic.set"]
    assert [row.id for row in await again.audit(2, 10)] == [1]
    assert again.fallback == ""
    await again.close()


async def test_a_store_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with sqlite3.connect(path) as old:
        old.executescript(f"BEGIN; {database.MIGRATIONS[0]} PRAGMA user_version = 1; COMMIT;")
        old.execute("INSERT INTO meta VALUES (1, 3, x'73', 'r1')")
        columns = "name, stable, weight, previous, drained, isolated, generation"
        old.execute(f"INSERT INTO service ({columns}) VALUES ('a', 'blue', 5, 'none', '', '', 0)")
    old.close()
    store = await SqliteStore.open(path)
    assert store.fallback == ""
    assert await store.load() == State(
        revision=3,
        salt=b"s",
        release="r1",
        services=(ServiceState(name="a", stable="blue", weight=5),),
    )
    await store.close()


async def test_a_reset_breaker_is_forced_no_longer(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "gateway.db")
    await store.save(state(), [])
    (service,) = state().services
    left = msgspec.structs.replace(service, forced=("ivor-blue-4-1",))
    await store.save(state().replaced(left), [])
    kept = await store.load()
    assert kept is not None
    assert kept.services == (left,)
    await store.close()


async def test_services_that_are_not_configured_now_are_kept(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "gateway.db")
    await store.save(state(5), [])
    await store.save(State(revision=2, services=(ServiceState(name="other", stable="blue"),)), [])
    kept = await store.load()
    assert kept is not None
    assert [each.name for each in kept.services] == ["ivor", "other"]
    await store.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.control.state import ServiceState, State
from gateway.control.store import SqliteStore

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]))
    for weight in range(1, 1000):
        service = ServiceState(name="ivor", stable="blue", weight=weight)
        await store.save(State(revision=weight, services=(service,)), [])
        os.write(1, b"%d\\n" % weight)

asyncio.run(main())
"""


async def test_what_was_saved_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        # Between persisting and whatever would have come next.
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split()]
    store = await SqliteStore.open(path)
    kept = await store.load()
    assert kept is not None
    assert kept.revision >= said[-1]
    assert kept.services[0].weight == kept.revision
    await store.close()


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 4096])
async def test_a_broken_database_is_moved_aside(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gateway.db"
    path.write_bytes(damage)
    store = await SqliteStore.open(path, wall=lambda: 17.0)
    assert await store.load() is None
    await store.save(state(), [])
    await store.close()
    assert (tmp_path / "gateway.db.broken-17").read_bytes() == damage
    assert "moved aside" in caplog.text


async def test_damaged_pages_are_found_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    store = await SqliteStore.open(path)
    await store.save(state(), [entry() for _ in range(200)])
    await store.close()
    content = bytearray(path.read_bytes())
    content[8192 : len(content) - 4096] = b"\x5a" * (len(content) - 12288)
    path.write_bytes(content)
    again = await SqliteStore.open(path)
    assert await again.load() is None
    await again.close()
    assert list(tmp_path.glob("gateway.db.broken-*"))


async def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    store = await SqliteStore.open(path)
    assert "its schema is version 999" in store.fallback
    await store.save(state(), [])
    assert not await store.mend()
    assert await store.look() is None
    assert "its schema is version 999" in store.fallback, "it is not kept now either"
    assert await store.load() == state()
    await store.close()
    assert list(tmp_path.glob("gateway.db.*")) == []
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (999,)
    connection.close()


async def test_where_nothing_can_be_opened_it_is_in_memory_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = await SqliteStore.open(tmp_path / "file" / "gateway.db")
    assert store.fallback
    await store.save(state(), [])
    assert await store.load() == state()
    await store.close()


async def test_a_full_disk_is_a_store_error_and_nothing_is_half_kept(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "gateway.db")
    await store.save(state(1), [])

    async def at_most(pages: str) -> None:
        await store._run(lambda: store._db.execute(f"PRAGMA max_page_count = {pages}").fetchone())

    (pages,) = await store._run(lambda: store._db.execute("PRAGMA page_count").fetchone())
    await at_most(str(pages))
    large = [
        AuditEntry(at=1.0, actor="a", address="", action="x", before=b"x" * 100_000)
        for _ in range(3)
    ]
    with pytest.raises(StoreError, match="full"):
        await store.save(state(2), large)
    assert await store.load() == state(1)
    await at_most("100000")
    await store.save(state(3), large)
    assert await store.load() == state(3)
    await store.close()


def answer(key: str, at: float) -> Answer:
    return Answer(actor="a", key=key, request=b"r", status=200, body=b"{}", etag="", at=at)


async def test_answers_are_kept_for_a_day_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWERS", 3)
    store = await SqliteStore.open(tmp_path / "gateway.db")
    await store.remember(answer("old", 0.0))
    assert await store.remembered("a", "old", 86_399.0) == answer("old", 0.0)
    assert await store.remembered("a", "old", 86_401.0) is None
    assert await store.remembered("b", "old", 1.0) is None
    for number in range(5):
        await store.remember(answer(f"k{number}", 10.0 + number))
    kept = [number for number in range(5) if await store.remembered("a", f"k{number}", 20.0)]
    assert kept == [2, 3, 4]
    await store.close()


async def test_the_audit_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AUDIT_ROWS", 3)
    store = await SqliteStore.open(tmp_path / "gateway.db")
    for _ in range(5):
        await store.save(state(), [entry()])
    assert [row.id for row in await store.audit(None, 10)] == [5, 4, 3]
    await store.close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "gateway.db")
    await store.close()
    with pytest.raises((StoreError, RuntimeError)):
        await store.load()
    assert os.access(tmp_path / "gateway.db", os.R_OK)


async def test_who_asks_before_is_told_of_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "a folder?" / "gateway.db"
    path.parent.mkdir()
    assert written_by_newer(path) == ""
    assert not path.exists()
    store = await SqliteStore.open(path)
    assert written_by_newer(path) == ""
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "its schema is version 99" in written_by_newer(path)
    path.write_bytes(b"no database at all" * 100)
    assert written_by_newer(path) == ""


async def test_nobody_else_reads_the_store_nor_what_is_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gateway.db"
    for _ in range(2):
        store = await SqliteStore.open(path)
        await store.save(State(revision=1), [])
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
        assert set(modes) == {"gateway.db", "gateway.db-wal", "gateway.db-shm"}
        assert set(modes.values()) == {0o600}
        await store.close()
        path.chmod(0o644)  # as an earlier version left it
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_whole_store_that_cannot_be_opened_now_is_read_and_never_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.db"
    store = await SqliteStore.open(path)
    await store.save(state(5), [entry("before")])
    await store.close()

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.control.store.make_private", full)
        store = await SqliteStore.open(path)
        assert "No space left" in store.fallback
        assert await store.load() == state(5)
        await store.save(state(6, 2), [entry("meanwhile")])
        assert not await store.mend()
        assert store.fallback
    assert await store.mend()
    assert store.fallback == ""
    await store.save(state(7, 3), [entry("after")])
    await store.close()
    assert not list(tmp_path.glob("*.broken-*"))
    again = await SqliteStore.open(path)
    assert await again.load() == state(7, 3)
    assert [row.action for row in await again.audit(None, 9)] == ["after", "meanwhile", "before"]
    await again.close()


async def unread(path: Path, monkeypatch: pytest.MonkeyPatch, weight: int = 5) -> SqliteStore:
    """Return a store over a file with a state that could not be read when it was opened."""
    store = await SqliteStore.open(path)
    await store.save(state(weight, 3), [entry("before")])
    await store.close()

    def refuse(*_: object) -> None:
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.control.store.make_private", refuse)
        patch.setattr(SqliteStore, "_copy_in", refuse)
        store = await SqliteStore.open(path)
        assert await store.load() is None
        assert store.unread
        await store.save(state(0, 1), [])
        assert await store.mend() is None
        assert "Permission denied" in store.fallback
    return store


async def test_what_could_not_be_read_is_neither_written_over_nor_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gateway.db"
    store = await unread(path, monkeypatch)
    for _ in range(2):
        assert await store.mend() is None
        assert "can be read again" in store.fallback
        assert "end control to go back to it" in store.fallback
    assert caplog.text.count("can be read again") == 1
    await store.save(state(9, 4), [])
    assert await store.mend() is None
    assert "stop the whole gateway" in store.fallback, "what workers serve is the later one now"
    await store.close()
    assert not list(tmp_path.glob("*.broken-*"))
    again = await SqliteStore.open(path)
    assert await again.load() == state(5, 3)
    assert [row.action for row in await again.audit(None, 9)] == ["before"]
    await again.close()


async def test_what_is_in_force_is_kept_once_the_unread_file_is_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.db"
    store = await unread(path, monkeypatch)
    assert await store.mend() is None
    path.rename(tmp_path / "mine")
    mended = await store.mend()
    assert mended is not None
    assert mended.whole
    assert store.fallback == ""
    await store.close()
    again = await SqliteStore.open(path)
    assert await again.load() == state(0, 1)
    await again.close()


async def test_a_file_that_turns_out_to_be_damaged_is_moved_aside_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.db"
    store = await unread(path, monkeypatch)
    path.write_bytes(b"no database at all" * 100)
    mended = await store.mend()
    assert mended is not None
    assert not mended.whole
    assert "damaged" in mended.what
    assert mended.aside is not None
    assert mended.aside.read_bytes().startswith(b"no database")
    assert await store.look() is None, "what was wrong was the other file"
    assert await store.load() == state(0, 1)
    await store.close()


async def test_a_disk_that_fills_up_while_an_unread_store_is_mended_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.db"
    store = await unread(path, monkeypatch)
    path.write_bytes(b"no database at all" * 100)
    made = SqliteStore._connect

    def full(self: SqliteStore) -> None:
        made(self)
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "_connect", full)
        assert await store.mend() is None
        assert not path.exists()
    mended = await store.mend()
    assert mended is not None
    assert mended.aside is not None, "it is told although the first try came to nothing"
    assert await store.load() == state(0, 1)
    await store.close()


async def test_where_not_even_the_folder_can_be_looked_into_there_may_be_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    assert database.has_content(tmp_path / "gateway.db")


async def test_an_older_state_is_not_saved_over_a_later_one(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "gateway.db")
    await store.save(state(7, 3), [entry("later")])
    with pytest.raises(StoreError, match="revision 2 is behind revision 3"):
        await store.save(state(5, 2), [entry("older")])
    assert await store.load() == state(7, 3)
    assert [row.action for row in await store.audit(None, 9)] == ["later"]
    await store.save(state(7, 3), [entry("the same again")])
    await store.close()
