"""The file of copies: what it keeps across processes, what it evicts, what it survives."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from gateway.proxy import storefile
from gateway.proxy.copies import (
    Copies,
    Copy,
    Gone,
    Terms,
    Varying,
    answer_record,
    gone_record,
    read_record,
    varying_record,
)
from tests.support.processes import ROOT

MIB = 1 << 20
SCOPE = b"scope--1"
OTHER = b"scope--2"


class Store:
    """One process's store, and its word on the board."""

    def __init__(self, folder: Path, size: int = 4 * MIB, entry: int = MIB // 2) -> None:
        self.folder = folder
        self.now = 1_000_000.0
        self.words = memoryview(array("Q", [0, 0]))
        self.copies = Copies(folder, size, entry, lambda: self.now, self.words, 0)

    def put(self, key: bytes, body: bytes = b"body", since: float | None = None) -> bool:
        head = b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: %d\r\n\r\n' % len(body)
        terms = Terms(self.now, 0.0, 60.0, False, False, False, 0, 0, (b"x",), 0)
        self.now += 1e-3
        record = answer_record(terms, head, body)
        return self.copies.put(key, record, self.now if since is None else since, key)

    def body(self, key: bytes) -> bytes | None:
        found = self.copies.get(key)
        return found.body if isinstance(found, Copy) else None

    def written(self) -> None:
        self.copies.flush()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "cache")
    yield made
    made.copies.close()


def key(number: int = 0, scope: bytes = SCOPE) -> bytes:
    return scope + b"c%d" % number


def test_what_was_put_is_read_at_once_and_after_it_is_written(store: Store) -> None:
    assert store.put(key())
    assert store.body(key()) == b"body"
    store.written()
    found = store.copies.get(key())
    assert isinstance(found, Copy)
    assert (found.head.status, found.etag, found.drop) == (200, b'"a"', (b"x",))
    assert found.age_at(found.time + 5) == 5
    assert found.age_at(found.time - 5) == 0
    assert store.copies.get(key()) is found, "decoded once"
    assert store.copies.get(key(1)) is None


def test_the_latest_one_stands(store: Store) -> None:
    for body in (b"1", b"2", b"3"):
        store.put(key(), body)
        assert store.body(key()) == body
    store.written()
    assert store.body(key()) == b"3"


def test_each_write_is_told_on_the_board(store: Store) -> None:
    before = store.words[0]
    store.put(key())
    store.written()
    assert store.words[0] == before + 1


def test_it_outlives_its_process(tmp_path: Path) -> None:
    for body in (b"1", b"2"):
        made = Store(tmp_path)
        if body == b"1":
            made.put(key(), body)
        assert made.body(key()) == b"1"
        made.copies.close()


def test_after_its_end_it_is_empty_and_takes_nothing(tmp_path: Path) -> None:
    """Requests that were under way when the configuration took the cache away still have it."""
    made = Store(tmp_path)
    made.put(key(), b"kept")
    made.copies.close()
    assert made.copies.get(key(1)) is None
    assert not made.put(key(2))
    again = Store(tmp_path)
    assert again.body(key()) == b"kept"
    again.copies.close()


def test_it_is_nobody_elses(store: Store) -> None:
    assert store.folder.stat().st_mode & 0o077 == 0
    for path in store.folder.glob("copies*"):
        assert path.stat().st_mode & 0o077 == 0


# --- what is gone -------------------------------------------------------------------------------


def test_what_was_asked_for_before_an_invalidation_is_not_kept(store: Store) -> None:
    store.put(key(), b"old")
    gone = store.now + 5
    store.copies.invalidate(key(), gone)
    store.now = gone
    assert isinstance(store.copies.get(key()), Gone)
    store.put(key(), b"late", since=gone - 1)
    store.written()
    assert isinstance(store.copies.get(key()), Gone)
    store.put(key(), b"new", since=gone + 1)
    store.written()
    assert store.body(key()) == b"new"


def test_what_was_asked_for_earlier_replaces_nothing(store: Store) -> None:
    store.put(key(), b"new", since=store.now)
    for _ in range(2):  # in memory, then in the file
        assert not store.put(key(), b"old", since=store.now - 9)
        assert store.body(key()) == b"new"
        store.written()


def test_the_file_itself_refuses_what_another_process_knows_better(store: Store) -> None:
    store.put(key(), b"new")
    store.written()
    file = store.copies.file()
    record = bytes(16) + struct.pack(">d", store.now - 9) + varying_record(bytes(8), (b"a",))
    file.write(key(), record, store.now - 9, key(), store.now)
    assert store.body(key()) == b"new"


def test_an_earlier_write_that_is_noted_later_replaces_no_later_one(store: Store) -> None:
    store.copies.invalidate(key(), store.now)
    store.written()
    file = store.copies.file()
    earlier = store.now - 1
    file.write(key(), bytes(16) + struct.pack(">d", earlier) + gone_record(), earlier, key(), 1e9)
    found = store.copies.get(key())
    assert isinstance(found, Gone)
    assert found.time == store.now


def test_a_write_from_before_the_clock_was_set_back_bars_nothing_for_long(store: Store) -> None:
    store.put(key(1), b"future")
    store.copies.invalidate(key(), store.now)
    store.written()
    store.now -= 3600
    assert not store.put(key(), b"under way", since=store.now)
    assert store.put(key(), b"new", since=store.now + 1)
    assert store.put(key(1), b"new")
    store.written()
    assert store.body(key()) == store.body(key(1)) == b"new"


def test_what_is_gone_is_remembered_within_bounds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.proxy.copies.MAX_GONE", 2)
    for number in range(5):
        store.copies.invalidate(key(number), store.now)
    assert not any(store.put(key(number), since=store.now - 1) for number in range(5))
    if store.put(key(6), since=store.now - 1):
        pytest.skip("compiled: its bounds are constants")
    assert store.put(key(7), since=store.now + 1)


@pytest.mark.parametrize("failures", [1, 2])
def test_what_is_gone_is_so_though_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    store = Store(tmp_path / "cache")
    store.put(key(), b"old")
    store.written()
    write, left = storefile.StoreFile.write, [failures]

    def full(
        self: storefile.StoreFile, key: bytes, data: bytes, since: float, primary: bytes, now: float
    ) -> None:
        if left[0]:
            left[0] -= 1
            raise lmdb.DiskError("full")
        write(self, key, data, since, primary, now)

    monkeypatch.setattr(storefile.StoreFile, "write", full)
    store.now += 1
    store.copies.invalidate(key(), store.now)
    store.written()
    assert isinstance(store.copies.get(key()), Gone)
    store.copies.turn()
    store.written()
    assert isinstance(store.copies.get(key()), Gone)
    store.copies.close()
    again = Store(tmp_path / "cache")
    assert isinstance(again.copies.get(key()), Gone)
    again.copies.close()


def test_a_write_that_cannot_be_noted_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "cache")
    store.put(key(), b"old")
    store.written()

    def full(*_: object) -> None:
        raise lmdb.DiskError("full")

    with monkeypatch.context() as patch:
        patch.setattr(storefile.StoreFile, "write", full)
        patch.setattr(storefile.StoreFile, "clear", full)
        store.copies.invalidate(key(), store.now + 1)
        store.copies.close()
    again = Store(tmp_path / "cache")
    assert again.copies.get(key()) is None
    again.copies.close()


def test_scopes_that_are_no_more_are_dropped(store: Store) -> None:
    for number in range(600):
        # Waits where the thread is behind: what it has no room for is not kept.
        while not store.put(key(number, SCOPE if number % 2 else OTHER), b"x" * 50):
            time.sleep(0.001)
    store.copies.keep_scopes(frozenset({SCOPE}))
    store.written()
    left = [number for number in range(600) if store.body(key(number, SCOPE)) is not None]
    assert left == list(range(1, 600, 2))
    assert not any(store.body(key(number, OTHER)) for number in range(0, 600, 2))


def test_no_scope_is_behind_the_last_one(store: Store) -> None:
    last = b"\xff" * 8
    store.put(key(0, last))
    store.put(key(0, SCOPE))
    store.copies.keep_scopes(frozenset({last}))
    store.written()
    assert store.body(key(0, last)) == b"body"
    assert store.body(key(0, SCOPE)) is None


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [300, 1500, 3000, 60_000])
def test_the_file_stays_within_its_size(store: Store, size: int) -> None:
    count = 3 * 4 * MIB // size
    for number in range(count):
        while not store.put(key(number), bytes(size)):
            time.sleep(0.001)
    store.written()
    file = store.copies.file()
    assert file.total() <= file.limit
    # Large ones need free pages in a row: half goes where there are none, and sometimes half again.
    assert file.total() > file.limit // (3 if size < 4096 else 12), "evicts no more than it must"
    assert sum(path.stat().st_size for path in store.folder.glob("*.mdb")) <= 4 * MIB
    assert store.body(key(0)) is None, "the oldest gives way"
    assert store.body(key(count - 1)) is not None


def test_what_is_used_stays(store: Store) -> None:
    store.put(key(0), b"used")
    for number in range(1, 400):
        while not store.put(key(number), bytes(20_000)):
            time.sleep(0.001)
        if number % 20 == 0:
            store.copies.used(key(0))
            store.copies.turn()
            store.written()
    assert store.body(key(0)) == b"used"
    assert store.body(key(1)) is None


def test_what_is_too_large_is_lost_and_counted(store: Store) -> None:
    assert not store.put(key(), bytes(MIB // 2 + 1))
    assert store.copies.lost == 1
    assert store.copies.get(key()) is None


def test_an_entry_is_an_eighth_of_the_file_at_most(tmp_path: Path) -> None:
    made = Store(tmp_path, size=MIB, entry=MIB)
    assert made.copies.entry == MIB // 8
    made.copies.close()


def test_what_waits_for_the_thread_is_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.proxy.copies.MAX_JOBS", -1)
    if store.put(key()):
        pytest.skip("compiled: its bounds are constants")
    assert store.copies.lost == 1


# --- what it survives ---------------------------------------------------------------------------


def test_a_broken_file_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Store(tmp_path)
    first.put(key())
    first.copies.close()
    (path,) = tmp_path.glob("copies-*.mdb")
    path.write_bytes(b"nonsense" * 4096)
    second = Store(tmp_path)
    assert second.body(key()) is None
    assert second.put(key())
    second.written()
    assert second.body(key()) == b"body"
    second.copies.close()
    assert "begun anew" in caplog.text


def test_a_file_that_was_cut_short_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Store(tmp_path)
    for number in range(20):
        first.put(key(number), bytes(30_000))
    first.copies.close()
    (path,) = tmp_path.glob("copies-*.mdb")
    with path.open("r+b") as file:
        file.truncate(100_000)
    second = Store(tmp_path)
    assert second.body(key()) is None
    second.copies.close()
    assert "cut short" in caplog.text


@pytest.mark.parametrize("mark", [b"", b"\xee\xff\x00", bytes(64)])
def test_a_mark_that_says_nothing_is_no_reason_to_trust(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mark: bytes
) -> None:
    first = Store(tmp_path)
    first.put(key())
    first.copies.close()
    (tmp_path / "opened").write_bytes(mark)
    second = Store(tmp_path)
    assert second.body(key()) is None
    second.copies.close()
    assert "begun anew" in caplog.text


def test_a_file_of_another_boot_that_was_not_closed_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys, os, time\n"
        "from pathlib import Path\n"
        "from array import array\n"
        "from tests.proxy.test_cache_store import Store, key\n"
        "store = Store(Path(sys.argv[1]))\n"
        "store.put(key()); store.written(); os._exit(0)\n"
    )
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=60
        )
    survived = Store(tmp_path)
    assert survived.body(key()) == b"body", "killed, but the machine went on"
    survived.copies.close()
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    monkeypatch.setattr(storefile, "boot_id", lambda: "another")
    crashed = Store(tmp_path)
    assert crashed.body(key()) is None
    crashed.put(key())
    crashed.copies.close()
    monkeypatch.setattr(storefile, "boot_id", lambda: "a third")
    closed = Store(tmp_path)
    assert closed.body(key()) == b"body", "closed in order"
    closed.copies.close()


def test_another_process_reads_what_one_wrote_while_both_run(store: Store) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.proxy.test_cache_store import Store, key\n"
        "store = Store(Path(sys.argv[1]))\n"
        "assert store.body(key()) == b'ours'\n"
        "store.put(key(), b'theirs'); store.written()\n"
        "import os; os._exit(0)\n"  # without closing: a worker that is killed
    )
    store.put(key(), b"ours")
    store.written()
    assert store.body(key()) == b"ours"
    subprocess.run(
        [sys.executable, "-c", script, str(store.folder)], cwd=ROOT, check=True, timeout=60
    )
    assert store.body(key()) == b"theirs"
    assert store.put(key(), b"ours again"), "a dead writer holds no lock"
    store.written()
    assert store.body(key()) == b"ours again"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file" / "cache")


# --- records ------------------------------------------------------------------------------------


def test_records_are_read_as_they_were_written() -> None:
    stamp = b"s" * 16 + struct.pack(">d", 7.5)
    varying = read_record(stamp + varying_record(b"12345678", (b"a", b"b")))
    assert isinstance(varying, Varying)
    assert (varying.epoch, varying.names) == (b"12345678", (b"a", b"b"))
    gone = read_record(stamp + gone_record())
    assert isinstance(gone, Gone)
    assert gone.time == 7.5


def test_what_is_no_whole_record_is_none() -> None:
    terms = Terms(1.0, 0.0, 60.0, False, False, False, 0, 0, (), 0)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    whole = b"s" * 24 + answer_record(terms, head, b"body")
    assert isinstance(read_record(whole), Copy)
    for end in range(len(whole)):
        assert read_record(whole[:end]) is None, end
    assert read_record(whole + b"x") is None
    assert read_record(b"s" * 24 + b"?" + whole[25:]) is None
