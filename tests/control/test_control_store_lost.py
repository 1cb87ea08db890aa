"""The store's file is taken away below its process, cut, overwritten, replaced."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from gateway.control.state import PoolState, ServiceState, State
from gateway.control.store import AuditEntry, Mishap, SqliteStore, StoreError


def state(revision: int) -> State:
    service = ServiceState(
        name="web",
        stable="blue",
        weight=3000,
        blue=PoolState(generation=1, endpoints=("http://10.0.0.1:1",)),
    )
    return State(revision=revision, salt=b"s" * 16, release="r", services=(service,))


def entry(action: str) -> AuditEntry:
    return AuditEntry(at=1.0, actor="me", address="here", action=action)


async def begun(path: Path) -> SqliteStore:
    store = await SqliteStore.open(path)
    await store.save(state(1), [entry("first")])
    assert await store.look() is None
    return store


async def reopened(store: SqliteStore, path: Path) -> SqliteStore:
    """What another process would find after a kill: the first one closes nothing."""
    del store
    again = await SqliteStore.open(path)
    assert again.aside is None
    assert not again.fallback
    return again


def files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


@pytest.mark.parametrize(
    "gone",
    [("", "-wal", "-shm"), ("",), ("-wal",), ("-wal", "-shm")],
    ids=["all", "file", "wal", "wal-and-shm"],
)
async def test_a_file_that_is_deleted_is_made_again_with_all_that_it_had(
    tmp_path: Path, gone: tuple[str, ...]
) -> None:
    path = tmp_path / "gateway.db"
    store = await begun(path)
    for suffix in gone:
        path.with_name(path.name + suffix).unlink()
    mishap = await store.look()
    assert mishap is not None
    assert (mishap.what, mishap.whole) == ("deleted", True)
    assert await store.look() is None
    # What is written from now on is in the file, and found by whoever opens it next.
    await store.save(state(2), [entry("second")])
    assert all(each.exists() for each in files(path))
    again = await reopened(store, path)
    assert await again.load() == state(2)
    assert [each.action for each in await again.audit(None, 10)] == ["second", "first"]
    await again.close()
    await store.close()


async def test_one_that_was_replaced_is_put_aside_and_not_written_to(tmp_path: Path) -> None:
    path, other = tmp_path / "gateway.db", tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    store = await begun(path)
    other.replace(path)
    mishap = await store.look()
    assert mishap is not None
    assert (mishap.what, mishap.whole) == ("replaced", True)
    assert mishap.aside is not None
    with sqlite3.connect(mishap.aside) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    database.close()
    assert await store.load() == state(1)
    await store.close()


async def test_a_folder_in_its_place_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    store = await begun(path)
    for each in files(path):
        each.unlink()
    path.mkdir()
    mishap = await store.look()
    assert mishap is not None
    assert mishap.whole
    assert path.is_file()
    await store.close()


def checkpointed(path: Path) -> None:
    """Have the file itself hold what was written, as it does after a thousand pages."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


async def test_one_that_is_cut_to_nothing_is_begun_anew_where_it_cannot_be_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "gateway.db"
    store = await begun(path)
    checkpointed(path)
    assert await store.look() is None
    os.truncate(path, 0)
    mishap = await store.look()
    assert mishap is not None
    assert mishap.what == "cut short"
    assert mishap.whole is False
    assert await store.load() is None
    await store.save(state(2), [entry("second")])
    assert await store.look() is None
    again = await reopened(store, path)
    assert await again.load() == state(2)
    await again.close()
    await store.close()


async def test_one_that_is_overwritten_is_begun_anew_once_a_write_meets_it(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    store = await begun(path)
    checkpointed(path)
    assert await store.look() is None
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(os.urandom(size))
    mishap: Mishap | None = None
    for number in range(2, 5):
        try:
            await store.save(state(number), [entry("meets it")])
            await store.load()
        except StoreError:
            pass
        mishap = mishap or await store.look()
    assert mishap is not None
    assert mishap.what.startswith("damaged")
    assert mishap.whole is False
    await store.save(state(9), [entry("last")])
    again = await reopened(store, path)
    assert await again.load() == state(9)
    await again.close()
    await store.close()


async def test_where_no_new_one_can_be_made_it_says_so_and_loses_nothing_meanwhile(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    path = folder / "gateway.db"
    store = await begun(path)
    shutil.rmtree(folder)
    folder.write_text("in the way")
    assert await store.look() is None
    assert "no new one can be made" in store.fallback
    await store.save(state(2), [entry("second")])
    assert await store.look() is None
    assert store.fallback
    folder.unlink()
    mishap = await store.look()
    assert mishap is not None
    assert mishap.whole
    assert not store.fallback
    again = await reopened(store, path)
    assert await again.load() == state(2)
    await again.close()
    await store.close()


async def test_a_disk_without_room_for_another_leaves_what_is_open_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.db"
    store = await begun(path)
    for each in files(path):
        each.unlink()
    whole = SqliteStore._connect

    def full(self: SqliteStore) -> None:
        whole(self)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SqliteStore, "_connect", full)
    assert await store.look() is None
    assert "No space left" in store.fallback
    assert [each.name for each in tmp_path.iterdir()] == []
    assert await store.load() == state(1)
    monkeypatch.setattr(SqliteStore, "_connect", whole)
    mishap = await store.look()
    assert mishap is not None
    assert mishap.whole
    assert await store.load() == state(1)
    await store.close()


async def test_the_last_row_of_an_action_is_found(tmp_path: Path) -> None:
    store = await begun(tmp_path / "gateway.db")
    await store.save(state(2), [entry("state.rebuilt"), entry("other")])
    found = await store.last("state.rebuilt")
    assert found is not None
    assert found.id == 2
    assert await store.last("never") is None
    await store.close()


async def test_a_store_in_memory_has_no_file_to_look_for(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.mkdir()
    store = await SqliteStore.open(path)
    assert store.fallback
    assert await store.look() is None
    assert store.fallback
    await store.close()
