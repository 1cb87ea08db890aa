"""The LMDB file behind ``proxy.copies``: opening, trusting, writing, evicting.

Everything here may wait (for other processes' writers, for the disk), so none of it but reading is
done on a loop. See ``proxy.copies`` for the tables and docs/adr/0007 for the reasons.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import struct
from typing import TYPE_CHECKING

import lmdb

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

#: The form of what is stored; another one is another file.
VERSION = 2
#: Of the file's size, what records may fill: LMDB writes copies of pages, and needs runs of them.
FILL = 0.75
#: As much more is freed at once, so that not every write evicts.
SLACK = 0.05
#: Readers in the file: one a worker, and some for those that are starting.
MAX_READERS = 512
#: Octets of a reader's place in the table (its header takes a few such places).
READER_OCTETS = 64
#: Rows deleted in one transaction: other writers wait for it.
BATCH = 256

#: What names one write of a record, and behind it when the record was asked for, in seconds of the
#: epoch: of a URL's invalidation, when that was.
STAMP_OCTETS = 16
HEADER_OCTETS = 24
SCOPE_OCTETS = 8
#: Seconds that processes' clocks may differ by: what is later than that is from before the clock
#: was set back.
SKEW = 1.0
#: An order's place: microseconds of the epoch, then what makes it unique.
_ORDER = struct.Struct(">Q8s")
_TIME = struct.Struct(">d")

ANSWER, VARYING, GONE = b"a", b"v", b"g"

_CLOSED = "closed"


def boot_id() -> str:
    """Return what names this boot of the machine; empty where it cannot be told."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


class StoreFile:
    """One open file of at most ``size`` octets in ``folder``.

    Raises OSError where neither it nor a new one can be opened.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.limit = int(size * FILL)
        # Another size is another file: processes that map one file differently disturb each other.
        self._path = folder / f"copies-{VERSION}-{size}.mdb"
        self._mark = folder / "opened"
        self.records: lmdb._Database
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._open(alone=self._first())
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except BaseException:
            os.close(self._lock)
            raise

    def _first(self) -> bool:
        """Take the lock of who is alone; else wait until whoever opens just now has opened."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            return False
        return True

    def _open(self, *, alone: bool) -> None:
        if alone:
            if not self._trusted():
                self._remove("it was not closed before the machine went down")
            for other in self.folder.glob("copies-*"):
                if not other.name.startswith(self._path.name):
                    other.unlink(missing_ok=True)
            self._mark.write_text(boot_id())
        try:
            self._open_env()
        except (lmdb.Error, OSError, ValueError, SystemError) as error:
            if not alone:
                raise OSError(f"{self._path}: {error}") from error
            self._remove(str(error))
            try:
                self._open_env()
            except lmdb.Error as again:
                raise OSError(f"{self._path}: {again}") from again

    def _trusted(self) -> bool:
        if not self._path.exists():
            return True
        try:
            mark = self._mark.read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        return mark == _CLOSED or (mark != "" and mark == boot_id())

    def _remove(self, why: str) -> None:
        logger.warning("the cache %s is begun anew: %s", self._path, why)
        for path in (self._path, self._path.with_name(self._path.name + "-lock")):
            path.unlink(missing_ok=True)

    def _open_env(self) -> None:
        _reserve(self._path.with_name(self._path.name + "-lock"))
        env = lmdb.open(
            str(self._path),
            map_size=self.size,
            subdir=False,
            mode=0o600,
            sync=False,
            metasync=False,
            max_dbs=4,
            max_readers=MAX_READERS,
            max_spare_txns=2,
        )
        try:
            last, self._page = env.info()["last_pgno"], env.stat()["psize"]
            _refuse_short(self._path, last * self._page)
            self.records = env.open_db(b"records")
            self._places = env.open_db(b"places")
            self._order = env.open_db(b"order")
            env.reader_check()
        except BaseException:
            env.close()
            raise
        self.env = env

    def distrust(self) -> None:
        """Have the next to open the file alone begin it anew."""
        with contextlib.suppress(OSError):
            self._mark.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; the last to do so has it written to the disk."""
        try:
            if self._first() and self._mark.exists():
                self.env.sync(True)
                self._mark.write_text(_CLOSED)
        except (lmdb.Error, OSError) as error:
            logger.warning("the cache %s could not be closed in order: %s", self._path, error)
        self.env.close()
        os.close(self._lock)

    # --- writing --------------------------------------------------------------------------------

    def total(self) -> int:
        """Return the octets of the pages that the tables have."""
        with self.env.begin() as reading:
            return self._total(reading)

    def write(self, key: bytes, data: bytes, since: float, primary: bytes, now: float) -> None:
        """Store a record (with its header), unless ``primary`` is gone since ``since``, or what is
        there was asked for later.

        Raises lmdb.Error where that is impossible.
        """
        try:
            self._write(key, data, since, primary, now)
        except lmdb.MapFullError:
            # Free pages are there, but not in a row: make room generously, then once more.
            try:
                self._evict(self.limit // 2)
                self._write(key, data, since, primary, now)
            except lmdb.MapFullError:
                self.clear()
                raise

    def _write(self, key: bytes, data: bytes, since: float, primary: bytes, now: float) -> None:
        with self.env.begin(write=True) as writing:
            before = writing.get(primary, db=self.records)
            if kind_of(data) == GONE:
                # A later one may have been written first, by another process.
                if before is not None and since < since_of(before) <= now + SKEW:
                    return
            else:
                if before is not None and kind_of(before) == GONE and since_of(before) > now + SKEW:
                    # The clock was set back: it is gone now, for whatever is under way.
                    told = before[:STAMP_OCTETS] + _TIME.pack(now) + before[HEADER_OCTETS:]
                    self._put(writing, primary, told, now)
                    return
                there = before if key == primary else writing.get(key, db=self.records)
                if outdated(before, since, now) or outdated(there, since, now):
                    return
            self._put(writing, key, data, now)
            total = self._total(writing)
        if total > self.limit:
            self._evict(int(self.limit * (1 - SLACK)))

    def _put(self, writing: lmdb.Transaction, key: bytes, data: bytes, now: float) -> None:
        self._unplace(writing, key)
        writing.put(key, data, db=self.records)
        order = _ORDER.pack(max(0, int(now * 1e6)), data[8:STAMP_OCTETS])
        order = self._free_place(writing, order)
        writing.put(order, key, db=self._order)
        writing.put(key, order, db=self._places)

    def _free_place(self, writing: lmdb.Transaction, order: bytes) -> bytes:
        """Return a place in the order that nobody has: two workers' may be one."""
        while writing.get(order, db=self._order) is not None:
            time, tail = _ORDER.unpack(order)
            order = _ORDER.pack(time + 1, tail)
        return order

    def _unplace(self, writing: lmdb.Transaction, key: bytes) -> None:
        """Take a key out of the order."""
        order = writing.get(key, db=self._places)
        if order is not None:
            writing.delete(order, db=self._order)

    def _delete(self, writing: lmdb.Transaction, key: bytes) -> None:
        self._unplace(writing, key)
        writing.delete(key, db=self._places)
        writing.delete(key, db=self.records)

    def _total(self, transaction: lmdb.Transaction) -> int:
        pages = 0
        for table in (self.records, self._places, self._order):
            stat = transaction.stat(table)
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages * self._page)

    def _evict(self, target: int) -> None:
        """Delete in the order of last use until no more than ``target`` octets are left."""
        while True:
            with self.env.begin(write=True) as writing:
                for _ in range(BATCH):
                    if self._total(writing) <= target:
                        return
                    cursor = writing.cursor(db=self._order)
                    if not cursor.first():
                        return
                    self._delete(writing, bytes(cursor.value()))

    def touch(self, keys: Iterable[bytes], now: float) -> None:
        """Move these keys to the end of the order, and clear dead processes out of the file."""
        tail = os.urandom(8)
        with self.env.begin(write=True) as writing:
            for key in keys:
                old = writing.get(key, db=self._places)
                if old is None:
                    continue
                order = self._free_place(writing, _ORDER.pack(max(0, int(now * 1e6)), tail))
                writing.delete(old, db=self._order)
                writing.put(order, key, db=self._order)
                writing.put(key, order, db=self._places)
        self.env.reader_check()

    def keep_scopes(self, scopes: frozenset[bytes]) -> None:
        """Delete what belongs to none of these scopes (the keys' first octets)."""
        after: bytes | None = b""
        while after is not None:
            with self.env.begin(write=True) as writing:
                after = self._drop_some(writing, scopes, after)

    def _drop_some(
        self, writing: lmdb.Transaction, scopes: frozenset[bytes], after: bytes
    ) -> bytes | None:
        """Delete up to BATCH keys from ``after`` on; return where to go on, None at the end."""
        left = BATCH
        cursor = writing.cursor(db=self._places)
        while left and cursor.set_range(after):
            key = bytes(cursor.key())
            scope = key[:SCOPE_OCTETS]
            if scope in scopes:
                following = int.from_bytes(scope, "big") + 1
                if following >= 1 << (8 * SCOPE_OCTETS):
                    return None
                after = following.to_bytes(SCOPE_OCTETS, "big")
                continue
            self._delete(writing, key)
            cursor = writing.cursor(db=self._places)
            after = key
            left -= 1
        return None if left else after

    def clear(self) -> None:
        """Empty the file."""
        with self.env.begin(write=True) as writing:
            for table in (self.records, self._places, self._order):
                writing.drop(table, delete=False)


def _reserve(path: Path) -> None:
    """Have the disk give the table of readers all its room now. Raises OSError where it has none.

    LMDB maps it: on a full disk, whoever touches a page that has no room yet would be killed.
    """
    octets = -(-(MAX_READERS + 8) * READER_OCTETS // mmap.PAGESIZE) * mmap.PAGESIZE
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, octets)
    finally:
        os.close(fd)


def _refuse_short(path: Path, octets: int) -> None:
    """Refuse a file that has been cut: reading behind its end would kill the process."""
    if path.stat().st_size < octets:
        raise OSError("it has been cut short")


def kind_of(record: bytes) -> bytes:
    """Return a record's kind."""
    return record[HEADER_OCTETS : HEADER_OCTETS + 1]


def since_of(record: bytes) -> float:
    """Return when a record was asked for, or a URL's copies were gone."""
    return float(_TIME.unpack_from(record, STAMP_OCTETS)[0])


def outdated(record: bytes | None, since: float, now: float) -> bool:
    """Tell whether what was asked for at ``since`` is older than a record, or gone with it."""
    if record is None:
        return False
    there = since_of(record)
    if kind_of(record) == GONE:
        return there >= since
    # What is from the future is from before the clock was set back: it bars nothing.
    return since < there <= now + SKEW
