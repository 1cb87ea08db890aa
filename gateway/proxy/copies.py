"""Stored answers in an LMDB file that a machine's workers share and that outlives them.

Reading is a lookup in mapped memory, on the loop. Writing is a thread's: a writer waits for the
machine's other writers, and the loop must wait for nobody. Until the thread has written a record it
is found in ``_pending``, so that a worker reads what it has written.

Nothing is synced to the disk while it runs (docs/adr/0007): a killed worker loses nothing, for its
pages are the kernel's; a machine that crashes may lose any of it. So the file is begun anew unless
it is of this very boot or was closed in order. A full file evicts, a broken one is begun anew;
neither is ever a client's error.

Three tables: ``records`` by key; ``places`` with each key's place in the order of eviction and its
size; ``order`` with the keys in that order, where what was used lately goes to the end.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import struct
import threading
from typing import TYPE_CHECKING

import lmdb
import msgspec

import cython
from gateway.policy.caching.storing import LEFT_OUT
from gateway.proxy.storefile import (
    ANSWER,
    GONE,
    HEADER_OCTETS,
    SKEW,
    STAMP_OCTETS,
    VARYING,
    StoreFile,
    kind_of,
    outdated,
    since_of,
)
from gateway.wire.errors import WireError
from gateway.wire.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.policy.caching.storing import Terms as Kept

logger = logging.getLogger(__name__)

#: Octets of a key: LMDB takes 511.
MAX_KEY = 480
#: Octets of records in memory, decoded, and of those that wait for the thread.
MEMO_OCTETS = 16 * 1024 * 1024
MEMO_COPIES = 4096
MAX_PENDING = 32 * 1024 * 1024
MAX_JOBS = 4096
#: Seconds by which a clock is corrected without anything being made of it.
SET_BACK = 30.0
#: Invalidated URLs that are remembered here; with one more, all is gone that was asked for before.
MAX_GONE = 16 * 1024
#: Keys used since they were last moved to the end of the order, and how often they are, in seconds.
MAX_USED = 4096
TOUCH_EVERY = 15.0
#: Seconds between two warnings of writes that fail.
COMPLAIN_EVERY = 60.0
_STAMP = cython.declare(cython.Py_ssize_t, STAMP_OCTETS)
_HEADER = struct.Struct(">8sQd")
_PREFIX = struct.Struct(">16sdcI")


class Terms(msgspec.Struct, array_like=True, frozen=True):
    """A copy's terms as they are stored; see ``policy.caching.storing.Terms``."""

    time: float
    age: float
    lifetime: float
    heuristic: bool
    no_cache: bool
    strict: bool
    while_revalidate: int
    if_error: int
    #: Names of fields that a renewal must not bring back.
    drop: tuple[bytes, ...]
    head: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Terms).decode
_names = msgspec.msgpack.Decoder(tuple[bytes, tuple[bytes, ...]]).decode


@cython.final
@cython.cclass
class Copy:
    """A stored answer, ready to be sent. Times in seconds of the epoch; never changed."""

    head: Head = cython.declare(object, visibility="readonly")
    body: bytes = cython.declare(bytes, visibility="readonly")
    time: cython.double = cython.declare(cython.double, visibility="readonly")
    age: cython.double = cython.declare(cython.double, visibility="readonly")
    lifetime: cython.double = cython.declare(cython.double, visibility="readonly")
    heuristic: cython.bint = cython.declare(cython.bint, visibility="readonly")
    no_cache: cython.bint = cython.declare(cython.bint, visibility="readonly")
    strict: cython.bint = cython.declare(cython.bint, visibility="readonly")
    while_revalidate: cython.double = cython.declare(cython.double, visibility="readonly")
    if_error: cython.double = cython.declare(cython.double, visibility="readonly")
    drop: tuple[bytes, ...] = cython.declare(tuple, visibility="readonly")
    etag: bytes = cython.declare(bytes, visibility="readonly")
    last_modified: bytes = cython.declare(bytes, visibility="readonly")
    stamp: bytes = cython.declare(bytes, visibility="readonly")
    size: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="public")

    def __init__(self, stamp: bytes, terms: Terms, head: Head, body: bytes) -> None:
        self.stamp = stamp
        self.size = 0
        self.head = head
        self.body = body
        self.time = terms.time
        self.age = terms.age
        self.lifetime = terms.lifetime
        self.heuristic = terms.heuristic
        self.no_cache = terms.no_cache
        self.strict = terms.strict
        self.while_revalidate = terms.while_revalidate
        self.if_error = terms.if_error
        self.drop = terms.drop
        self.etag = head.find(b"etag") or b""
        self.last_modified = head.find(b"last-modified") or b""

    def __repr__(self) -> str:
        return f"<Copy {self.head.status} of {len(self.body)} octets>"

    def age_at(self, now: cython.double) -> float:
        """Return its current age (RFC 9111 section 4.2.3).

        A clock set back makes none younger: one that seems to come from the future has been here
        for who knows how long, and is asked for again rather than fresh for all that time more.
        """
        here: cython.double = now - self.time
        if here < 0:
            here = -here if -here > SET_BACK else 0.0
        return self.age + here


@cython.final
@cython.cclass
class Varying:
    """Says of a URL that its answers vary by these fields. ``epoch`` parts its variants from
    those of before an invalidation.
    """

    names: tuple[bytes, ...] = cython.declare(tuple, visibility="readonly")
    epoch: bytes = cython.declare(bytes, visibility="readonly")
    stamp: bytes = cython.declare(bytes, visibility="readonly")
    size: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="public")

    def __init__(self, stamp: bytes, epoch: bytes, names: tuple[bytes, ...]) -> None:
        self.stamp = stamp
        self.size = 0
        self.epoch = epoch
        self.names = names


@cython.final
@cython.cclass
class Gone:
    """Says of a URL that what was asked for before this time is not to be kept any more."""

    time: cython.double = cython.declare(cython.double, visibility="readonly")
    stamp: bytes = cython.declare(bytes, visibility="readonly")
    size: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="public")

    def __init__(self, stamp: bytes, time: float) -> None:
        self.stamp = stamp
        self.size = 0
        self.time = time


Record = Copy | Varying | Gone


def stored_terms(kept: Kept) -> Terms:
    """Return an answer's terms as they are stored."""
    return Terms(
        kept.time,
        kept.age,
        kept.lifetime,
        kept.heuristic,
        kept.no_cache,
        kept.strict,
        kept.while_revalidate,
        kept.if_error,
        tuple(kept.drop - LEFT_OUT),
        0,
    )


def answer_record(terms: Terms, head: bytes, body: bytes) -> bytes:
    """Return a copy's record, without its stamp."""
    told = _encode(msgspec.structs.replace(terms, head=len(head)))
    return b"".join((ANSWER, struct.pack(">I", len(told)), told, head, body))


def varying_record(epoch: bytes, names: tuple[bytes, ...]) -> bytes:
    """Return the record that says what a URL varies by."""
    told = _encode((epoch, names))
    return VARYING + struct.pack(">I", len(told)) + told


def gone_record() -> bytes:
    """Return the record of an invalidation; its header says since when."""
    return GONE + bytes(4)


def read_record(data: bytes) -> Record | None:
    """Decode a record with its header; None where it is none of ours."""
    try:
        stamp, since, kind, size = _PREFIX.unpack_from(data)
        told = data[_PREFIX.size : _PREFIX.size + size]
        if kind == GONE:
            return Gone(stamp, since)
        if kind == VARYING:
            epoch, names = _names(told)
            return Varying(stamp, epoch, names)
        if kind != ANSWER:
            return None
        terms = _decode(told)
        begin = _PREFIX.size + size
        head = Head(data[begin : begin + terms.head], 0)
        body = data[begin + terms.head :]
        if not head.read_response(False) or head.end != terms.head:
            return None
    except (struct.error, msgspec.MsgspecError, WireError, ValueError):
        return None
    whole = head.length == len(body) or (head.status == 204 and not body)
    return Copy(stamp, terms, head, body) if whole else None


@cython.final
@cython.cclass
class Copies:
    """One process's view of the file. ``size`` bounds the file, ``entry`` one record, in octets.

    ``wall`` is the epoch's clock. Each write adds one to ``words[place]``, for whoever wants to
    know whether anything has changed. Raises OSError where neither the file nor a new one can be
    opened. A process may open a file once.
    """

    entry: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="readonly")
    #: Nothing is read nor taken any more.
    broken: cython.bint = cython.declare(cython.bint, visibility="readonly")
    lost: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    _file: StoreFile
    _wall: Callable[[], float]
    _words: object
    _place: cython.Py_ssize_t
    _env: lmdb.Environment
    _records: lmdb._Database
    _pending: dict[bytes, bytes]
    _pending_octets: cython.Py_ssize_t
    _memo: dict[bytes, Record]
    _memo_octets: cython.Py_ssize_t
    _used: dict[bytes, bool]
    _gone: dict[bytes, float]
    _all_gone: cython.double
    _gone_jobs: set[bytes]
    _unwritten: list[tuple[bytes, bytes, float, bytes]]
    _jobs: queue.SimpleQueue[object]
    _waiting: cython.Py_ssize_t
    _lock: object
    _count: object
    _seed: bytes
    _complained: cython.double
    _thread: threading.Thread

    def __init__(
        self,
        folder: Path,
        size: int,
        entry: int,
        wall: Callable[[], float],
        words: memoryview,
        place: int,
    ) -> None:
        self._file = StoreFile(folder, size)
        self._wall = wall
        self._words = words
        self._place = place
        words[place] = int.from_bytes(os.urandom(7), "big")
        self._env = self._file.env
        self._records = self._file.records
        self.entry = min(entry, size // 8)
        self.lost = 0
        self.broken = False
        self._pending = {}
        self._pending_octets = 0
        self._memo = {}
        self._memo_octets = 0
        self._used = {}
        self._gone = {}
        self._all_gone = -1.0
        self._gone_jobs = set()
        self._unwritten = []
        self._jobs = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._seed = os.urandom(8)
        self._complained = -COMPLAIN_EVERY
        self._count = itertools.count(1)
        self._thread = threading.Thread(target=self._run, name="cache writer", daemon=True)
        self._thread.start()

    # --- on the loop ----------------------------------------------------------------------------

    def get(self, key: bytes) -> Record | None:
        """Return what is stored under a key."""
        known = self._memo.get(key)
        data = self._pending.get(key)
        if data is not None and known is not None and data.startswith(known.stamp):
            return known
        if data is None and not self.broken:
            try:
                with self._env.begin(None, None, False, True) as reading:
                    value = reading.get(key, None, self._records)
                    if value is not None:
                        if known is not None and value[:_STAMP] == known.stamp:
                            return known
                        data = bytes(value)
            except lmdb.Error as error:
                self._break(error)
        if data is not None:
            return self._remember(key, data)
        if known is not None:
            self._forget(key)
        return None

    def used(self, key: bytes) -> None:
        """Note that a copy was used: it goes to the end of the order of eviction."""
        if len(self._used) < MAX_USED:
            self._used[key] = True

    def put(self, key: bytes, record: bytes, since: float, primary: bytes) -> bool:
        """Have a record stored; False where it is too large, or too much waits.

        It is not where the URL (``primary``) has been invalidated after ``since``, or where what
        is there was asked for later.
        """
        size = len(record)
        if self.is_outdated(key, primary, since):
            return False
        with self._lock:  # type: ignore[attr-defined]
            if (
                self.broken
                or size > self.entry
                or self._pending_octets + size > MAX_PENDING
                or self._jobs.qsize() > MAX_JOBS
            ):
                self.lost += 1
                return False
            data = self._hold(key, record, since)
        self._jobs.put((key, data, since, primary))
        return True

    def invalidate(self, primary: bytes, since: float) -> None:
        """Have nothing served of a URL, nor kept any more, that was asked for before ``since``.

        No bound stands against it: it is small, there is one a URL, and without it an old answer
        would be served. It is written even where nothing else can be.
        """
        if len(self._gone) >= MAX_GONE:
            self._gone.clear()
            self._all_gone = since
        self._gone[primary] = since
        with self._lock:  # type: ignore[attr-defined]
            if self.broken:
                return
            data = self._hold(primary, gone_record(), since)
            if primary in self._gone_jobs:
                return  # the one that waits takes this with it
            self._gone_jobs.add(primary)
        self._jobs.put((primary, data, since, primary))

    def gone_at(self, primary: bytes) -> float:
        """Return since when a URL's copies are gone; long ago where they are not."""
        told: cython.double = max(self._gone.get(primary, -1.0), self._all_gone)
        record = self._peek(primary)
        if record is not None and kind_of(record) == GONE:
            told = max(told, since_of(record))
        now: cython.double = self._wall()
        if told > now + SKEW:
            # The clock was set back: it is gone now, for whatever is under way.
            self._all_gone = min(self._all_gone, now)
            self.invalidate(primary, now)
            return now
        return told

    def is_outdated(self, key: bytes, primary: bytes, since: cython.double) -> bool:
        """Tell whether an answer that was asked for at ``since`` is not to be kept any more."""
        if self.gone_at(primary) >= since:
            return True
        now: cython.double = self._wall()
        if outdated(self._peek(primary), since, now):
            return True
        return key != primary and outdated(self._peek(key), since, now)

    @cython.cfunc
    def _hold(self, key: bytes, record: bytes, since: cython.double) -> bytes:
        """Have a record found until it is written; the caller has the lock."""
        data: bytes = _HEADER.pack(self._seed, next(self._count), since) + record  # type: ignore[call-overload]
        old = self._pending.get(key)
        self._pending_octets += len(data) - (0 if old is None else len(old))
        self._pending[key] = data
        return data

    @cython.cfunc
    def _peek(self, key: bytes) -> bytes | None:
        """Return the beginning of what is stored under a key."""
        data = self._pending.get(key)
        if data is None and not self.broken:
            try:
                with self._env.begin(None, None, False, True) as reading:
                    value = reading.get(key, None, self._records)
                    if value is not None:
                        data = bytes(value[: HEADER_OCTETS + 1])
            except lmdb.Error as error:
                self._break(error)
        return None if data is None or len(data) <= HEADER_OCTETS else data

    def epoch(self) -> bytes:
        """Return 8 octets that no other call returns, in no process."""
        mixed = int.from_bytes(self._seed, "big") + next(self._count)  # type: ignore[call-overload]
        return int(mixed % (1 << 64)).to_bytes(8, "big")

    def turn(self) -> None:
        """Now and then: have what was used lately moved to the end of the order."""
        if self._used:
            used, self._used = self._used, {}
            self._jobs.put(list(used))
        if self._unwritten:
            with self._lock:  # type: ignore[attr-defined]
                unwritten, self._unwritten = self._unwritten, []
            for job in unwritten:
                self._jobs.put(job)

    def keep_scopes(self, scopes: frozenset[bytes]) -> None:
        """Have everything dropped whose key does not begin with one of these (of equal length)."""
        length = len(next(iter(scopes), b""))
        for key in list(self._memo):
            if key[:length] not in scopes:
                self._forget(key)
        self._jobs.put(scopes)

    def in_memory(self) -> int:
        """Return how many decoded records are held in memory."""
        return len(self._memo)

    def file(self) -> StoreFile:
        """Return the file, for who measures it."""
        return self._file

    def flush(self) -> None:
        """Wait until all that was put is written: for tests and the end."""
        done = threading.Event()
        self._jobs.put(done)
        done.wait(timeout=10.0)

    def retire(self) -> None:
        """Read and take nothing any more: ``close`` follows, perhaps on another thread."""
        self.broken = True

    def close(self) -> None:
        """Write what waits, end the thread, close the file. Waits for the disk."""
        self.retire()
        self.turn()
        self._jobs.put(None)
        self._thread.join(timeout=10.0)
        if self._unwritten:
            self._file.distrust()  # it has copies of what is gone
        if not self._thread.is_alive():
            self._file.close()

    def _break(self, error: lmdb.Error) -> None:
        """Read no more from a file that is broken; whoever opens it next begins it anew."""
        logger.warning("the cache cannot be read, and is not used any more: %s", error)
        self.broken = True
        self._file.distrust()

    def _remember(self, key: bytes, data: bytes) -> Record | None:
        record = read_record(data)
        self._forget(key)
        size: cython.Py_ssize_t = len(data)
        if record is None or size > MEMO_OCTETS // 4:
            return record
        memo = self._memo
        while memo and (self._memo_octets + size > MEMO_OCTETS or len(memo) >= MEMO_COPIES):
            self._forget(next(iter(memo)))
        record.size = size
        memo[key] = record
        self._memo_octets += size
        return record

    def _forget(self, key: bytes) -> None:
        known = self._memo.pop(key, None)
        if known is not None:
            self._memo_octets -= known.size

    # --- on the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._work(job)
            except (lmdb.Error, OSError, struct.error, ValueError) as error:
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        """Say that writing fails (a full disk, mostly), but not for every record."""
        self._words[self._place + 1] += 1  # type: ignore[index]
        now = self._wall()
        if abs(now - self._complained) > COMPLAIN_EVERY:
            self._complained = now
            logger.warning("the cache could not be written: %s", error)

    def _work(self, job: object) -> None:
        if isinstance(job, tuple):
            key, data, since, primary = job
            if kind_of(data) == GONE:
                self._work_gone(key, data)
                return
            try:
                self._file.write(key, data, since, primary, self._wall())
            finally:
                # Whatever came of it: others may have read what is not there any more.
                self._changed()
                self._written(key, data)
        elif isinstance(job, list):
            self._file.touch(job, self._wall())
        elif isinstance(job, frozenset):
            self._file.keep_scopes(job)
            self._changed()
        elif isinstance(job, threading.Event):
            job.set()

    def _work_gone(self, key: bytes, data: bytes) -> None:
        """Write an invalidation; where that fails nothing is left, or it is tried again later."""
        with self._lock:  # type: ignore[attr-defined]
            self._gone_jobs.discard(key)
            latest = self._pending.get(key)
        if latest is not None and kind_of(latest) == GONE:
            data = latest
        since, now = since_of(data), self._wall()
        try:
            try:
                self._file.write(key, data, since, key, now)
            except lmdb.Error:
                self._file.clear()
                self._file.write(key, data, since, key, now)
        except lmdb.Error:
            # It stays in ``_pending``: this process serves nothing older.
            with self._lock:  # type: ignore[attr-defined]
                self._unwritten.append((key, data, since, key))
            raise
        finally:
            self._changed()
        self._written(key, data)

    def _changed(self) -> None:
        self._words[self._place] += 1  # type: ignore[index]

    def _written(self, key: bytes, data: bytes) -> None:
        with self._lock:  # type: ignore[attr-defined]
            if self._pending.get(key) is data:
                del self._pending[key]
                self._pending_octets -= len(data)
