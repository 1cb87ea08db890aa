"""Backups are whole or refused, and numbers go on above what was given since."""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import shutil
import sqlite3
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from gateway.control import backup as module
from gateway.control import database
from gateway.control.backup import BackupError, examine, make, unpack, working_folder
from gateway.control.restoring import UNKNOWN_SINCE, put
from gateway.control.state import PoolState, ServiceState, State
from gateway.control.store import AuditEntry, SqliteStore

NOW = 1_000_000.0


def state(revision: int, generation: int) -> State:
    pool = PoolState(generation=generation, source="api", endpoints=("http://h:1",))
    web = ServiceState(
        name="web",
        stable="green",
        weight=500,
        previous="open",
        isolated=("blue",),
        generation=generation,
        green=pool,
    )
    return State(revision=revision, salt=b"salt", release="s1", services=(web,))


async def save(path: Path, kept: State) -> SqliteStore:
    """The store stays open: what it has may be in its WAL alone, as beside a running control."""
    store = await SqliteStore.open(path)
    await store.save(kept, [AuditEntry(at=1.0, actor="a", address="", action="traffic.set")])
    return store


async def load(path: Path) -> tuple[State | None, list[AuditEntry]]:
    store = await SqliteStore.open(path)
    assert store.fallback == ""
    try:
        return await store.load(), await store.audit(None, 10)
    finally:
        await store.close()


def backed_up(path: Path, folder: Path) -> bytes:
    out = io.BytesIO()
    folder.mkdir()
    make(path, out, folder, config=None, forced_stable=False)
    return out.getvalue()


def restored(octets: bytes, path: Path, in_force: int = 0) -> Path | None:
    path.parent.mkdir(exist_ok=True)
    with working_folder(path.parent) as folder:
        manifest, _ = unpack(io.BytesIO(octets), folder)
        aside = put(folder, manifest, path, NOW, in_force=in_force).aside
    return None if aside is None else Path(aside)


async def test_an_empty_folder_gets_what_was_backed_up_out_of_an_open_store(tmp_path: Path) -> None:
    store = await save(tmp_path / "gateway.db", state(7, 3))
    octets = backed_up(tmp_path / "gateway.db", tmp_path / "work")
    await store.close()
    target = tmp_path / "new" / "gateway.db"
    assert restored(octets, target) is None
    assert target.stat().st_mode & 0o777 == 0o600
    found, audit = await load(target)
    assert found is not None
    wanted = state(7, 3)
    (web,) = wanted.services
    # Nobody knows which numbers were given since: they go on far above.
    (kept,) = found.services
    assert kept == msgspec.structs.replace(web, generation=3 + UNKNOWN_SINCE)
    revision = 8 + UNKNOWN_SINCE
    assert (found.revision, found.salt, found.release) == (revision, b"salt", "s1")
    assert [row.action for row in audit] == ["state.restored", "traffic.set"]
    assert msgspec.json.decode(audit[0].after)["revision"] == revision
    assert sorted(each.name for each in target.parent.iterdir()) == ["gateway.db"]


async def test_numbers_go_on_above_those_of_the_store_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state" / "gateway.db"
    store = await save(path, state(7, 3))
    octets = backed_up(path, tmp_path / "work")
    await store.save(state(40, 9), [])
    await store.close()
    aside = restored(octets, path)
    found, _ = await load(path)
    assert found is not None
    assert (found.revision, found.services[0].generation) == (41, 9)
    assert found.services[0].green.generation == 3
    assert aside is not None
    before, _ = await load(aside)
    assert before == state(40, 9)


async def test_a_killed_stores_wal_is_in_the_backup_and_not_over_the_restored_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state" / "gateway.db"
    store = await save(path, state(7, 3))
    octets = backed_up(path, tmp_path / "work")
    await store.save(state(40, 9), [])
    # As a killed control leaves it: its files as they are, nobody folds the WAL.
    killed = tmp_path / "killed"
    killed.mkdir()
    for each in path.parent.iterdir():
        (killed / each.name).write_bytes(each.read_bytes())
    await store.close()
    assert (killed / "gateway.db-wal").stat().st_size > 0
    copied = backed_up(killed / "gateway.db", tmp_path / "work-2")
    with working_folder(tmp_path) as folder:
        assert unpack(io.BytesIO(copied), folder)[1].revision == 40
    for each in path.parent.iterdir():
        (killed / each.name).write_bytes(each.read_bytes())
    aside = restored(octets, killed / "gateway.db")
    assert aside is not None
    assert examine(aside).revision == 40
    found, _ = await load(killed / "gateway.db")
    assert found is not None
    assert found.services[0].green.generation == 3


async def test_a_damaged_store_is_kept_aside_with_its_wal(tmp_path: Path) -> None:
    path = tmp_path / "state" / "gateway.db"
    store = await save(path, state(7, 3))
    octets = backed_up(path, tmp_path / "work")
    await store.close()
    path.write_bytes(b"no database" * 1000)
    path.with_name("gateway.db-wal").write_bytes(b"nor this")
    aside = restored(octets, path)
    assert aside is not None
    assert aside.read_bytes() == b"no database" * 1000
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"nor this"
    found, _ = await load(path)
    assert found is not None
    assert found.services[0].generation == 3 + UNKNOWN_SINCE
    assert found.revision == 8 + UNKNOWN_SINCE


async def test_revisions_go_on_above_what_is_in_force_too(good: bytes, tmp_path: Path) -> None:
    """A rollback on a full disk is in force and not in the store."""
    path = tmp_path / "gateway.db"
    assert restored(good, path, in_force=90) is not None
    found, _ = await load(path)
    assert found is not None
    assert found.revision == 91


async def test_the_wal_of_a_damaged_store_outlives_a_restore_that_was_killed(
    good: bytes, tmp_path: Path
) -> None:
    """The first run had taken the store's WAL away, and not yet put the new one there."""
    path = tmp_path / "gateway.db"
    path.write_bytes(b"no database" * 1000)
    first = path.with_name(path.name + ".before-restore-5")
    os.link(path, first)
    first.with_name(first.name + "-wal").write_bytes(b"all that there is of it")
    assert restored(good, path) is not None
    assert first.read_bytes() == b"no database" * 1000
    assert first.with_name(first.name + "-wal").read_bytes() == b"all that there is of it"


async def test_a_damaged_stores_wal_outlives_a_restore_that_fails(
    good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite may have removed it under its first name when it looked at the store."""
    path = tmp_path / "gateway.db"
    path.write_bytes(b"no database" * 1000)
    wal = path.with_name("gateway.db-wal")
    wal.write_bytes(b"all that there is of it")

    def fails(*args: object) -> None:
        wal.unlink(missing_ok=True)
        raise BackupError("no")

    monkeypatch.setattr("gateway.control.restoring._go_on_from", fails)
    with pytest.raises(BackupError):
        restored(good, path)
    (kept,) = tmp_path.glob("gateway.db.before-restore-*-wal")
    assert kept.read_bytes() == b"all that there is of it"


async def test_a_store_of_an_older_version_is_restored_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(f"{database.MIGRATIONS[0]} PRAGMA user_version = 1;")
        db.execute("INSERT INTO meta VALUES (1, 5, x'00', 's')")
        db.execute("INSERT INTO service VALUES ('web', 'blue', 0, 'none', '', '', 2)")
    octets = backed_up(path, tmp_path / "work")
    restored(octets, tmp_path / "new" / "gateway.db")
    found, _ = await load(tmp_path / "new" / "gateway.db")
    assert found is not None
    assert found.services[0].name == "web"


@pytest.fixture
async def good(tmp_path: Path) -> bytes:
    store = await save(tmp_path / "gateway.db", state(7, 3))
    octets = backed_up(tmp_path / "gateway.db", tmp_path / "work")
    await store.close()
    return octets


def refused(octets: bytes, tmp_path: Path) -> str:
    folder = tmp_path / "into"
    folder.mkdir(exist_ok=True)
    for each in folder.iterdir():
        each.unlink()
    with pytest.raises(BackupError) as caught:
        unpack(io.BytesIO(octets), folder)
    return str(caught.value)


async def test_a_backup_cut_off_anywhere_is_refused(good: bytes, tmp_path: Path) -> None:
    for share in range(20):
        assert "damaged" in refused(good[: len(good) * share // 20], tmp_path) or share == 0
    assert refused(b"", tmp_path)


async def test_a_backup_with_one_octet_changed_is_refused_or_the_same(
    good: bytes, tmp_path: Path
) -> None:
    """gzip's own header has octets that mean nothing (its time); every other is noticed."""
    plain = gzip.decompress(good)
    for at in range(0, len(plain), 997):
        broken = bytearray(plain)
        broken[at] ^= 0x55
        again = gzip.compress(bytes(broken), compresslevel=1)
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        try:
            unpack(io.BytesIO(again), folder)
        except BackupError:
            continue
        # The padding of the tar's blocks and the owner in its headers are not the content.
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            member = tar.extractfile("gateway.db")
            assert member is not None
            assert (folder / "gateway.db").read_bytes() == member.read()


@pytest.mark.parametrize(
    "octets",
    [b"plain text", gzip.compress(b"plain text" * 1000), gzip.compress(b"")],
    ids=["text", "gzipped-text", "empty"],
)
def test_what_is_no_backup_is_refused(octets: bytes, tmp_path: Path) -> None:
    assert "no backup" in refused(octets, tmp_path)


async def test_another_tar_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../etc/evil"), io.BytesIO())
    assert "manifest.json" in refused(out.getvalue(), tmp_path)


async def test_a_newer_format_is_named(good: bytes, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "FORMAT", 0)
    assert "format is 1" in refused(good, tmp_path)


async def test_a_newer_schema_is_refused_in_backups_and_in_stores(
    good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIGRATIONS", database.MIGRATIONS[:1])
    monkeypatch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
    assert "written by a newer one" in refused(good, tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(BackupError, match="written by a newer one"):
        backed_up(tmp_path / "gateway.db", tmp_path / "other" / "work")


async def test_a_damaged_store_makes_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    store = await save(path, state(7, 3))
    await store.close()
    octets = bytearray(path.read_bytes())
    octets[4096 : 2 * 4096] = os.urandom(4096)
    path.write_bytes(octets)
    with pytest.raises(BackupError):
        backed_up(path, tmp_path / "work")
    with pytest.raises(BackupError, match="there is no state store"):
        backed_up(tmp_path / "nothing.db", tmp_path / "work-2")
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE other (x)")
    with pytest.raises(BackupError, match="is no state store"):
        backed_up(tmp_path / "other.db", tmp_path / "work-3")


async def test_a_restore_that_fails_changes_nothing(
    good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.db"

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.control.restoring.os.link", full)
    with pytest.raises(OSError, match="No space"):
        restored(good, path)
    found, audit = await load(path)
    assert found == state(7, 3)
    assert [row.action for row in audit] == ["traffic.set"]


#: What a restore does to the disk goes by these (sys.addaudithook).
STEPS = {"os.rename", "os.link", "os.remove", "sqlite3.connect", "os.rmdir"}


def ended_at_step(octets: bytes, path: Path, step: int) -> bool:
    """Restore in a child that ends without a word before its nth step; whether it got there."""
    pid = os.fork()
    if pid == 0:
        left = step

        def hook(event: str, arguments: object) -> None:
            nonlocal left
            if event in STEPS:
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(hook)
        try:
            restored(octets, path)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
async def test_a_restore_that_is_killed_anywhere_leaves_the_old_store_or_the_new_one(
    damaged: bool, tmp_path: Path
) -> None:
    source = await save(tmp_path / "gateway.db", state(7, 3))
    octets = backed_up(tmp_path / "gateway.db", tmp_path / "work")
    await source.close()
    seen = set()
    for step in range(200):
        path = tmp_path / f"state-{step}" / "gateway.db"
        store = await save(path, state(40, 9))
        files = {each: each.read_bytes() for each in path.parent.iterdir()}
        await store.close()
        for each, content in files.items():  # as a killed control leaves it, its WAL unfolded
            each.write_bytes(b"x" * 9000 if damaged and each == path else content)
        ended = ended_at_step(octets, path, step)
        if damaged and path.read_bytes() == b"x" * 9000:
            seen.add("old")
        else:
            found, _ = await load(path)
            assert found is not None
            old = found == state(40, 9)
            assert old or found.services[0].green.generation == 3
            seen.add("old" if old else "new")
            assert ended or not old
        if not ended:
            break
        # And again: nothing that was left behind is in the way.
        assert not ended_at_step(octets, path, 10_000)
        found, _ = await load(path)
        assert found is not None
        assert found.services[0].green.generation == 3
    assert seen == {"old", "new"}
    assert step > 8


def left_by_a_killed_one(beside: Path) -> Path:
    pid = os.fork()
    if pid == 0:
        with working_folder(beside) as folder:
            (folder / "gateway.db").write_bytes(b"x")
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    (left,) = beside.iterdir()
    assert (left / "gateway.db").exists()
    return left


def test_what_a_killed_one_left_behind_is_removed(tmp_path: Path) -> None:
    left = left_by_a_killed_one(tmp_path)
    early = tmp_path / ".gateway-backup-early"  # killed before it had a lock
    early.mkdir()
    with working_folder(tmp_path) as folder:
        assert not left.exists()
        assert not early.exists()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_that_was_there_before_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's processes have the same numbers each time."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    left_by_a_killed_one(tmp_path)
    with working_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_who_works_is_left_alone(tmp_path: Path) -> None:
    with working_folder(tmp_path) as first:
        (first / "gateway.db").write_bytes(b"x")
        with working_folder(tmp_path) as second:
            assert (first / "gateway.db").exists()
            assert second != first
        assert (first / "gateway.db").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_tidied_up_before_it_had_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    taken: list[Path] = []

    def late(fd: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            shutil.rmtree(taken[0])
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with working_folder(tmp_path) as folder:
        assert taken != [folder]
        assert folder.is_dir()
