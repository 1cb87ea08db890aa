"""Rate limits: the generic cell rate algorithm (ITU-T I.371, annex A) over a bounded table.

A limit of ``count`` requests in ``period`` seconds has an *interval*, the time that one request
takes up. Of each client one number is kept, the *time* at which all that it has asked for will have
been paid off; a request is admitted as long as that time is no further ahead than ``burst``
intervals. So over any stretch of time no more than rate x time + burst + 1 are admitted.

The table belongs to all workers. It is a set-associative one: a key (64 bits of a keyed hash: none
can be aimed at a place) has ``WAYS`` cells that it may stand in. A cell whose time has passed means
the same as none. Where all of a set's cells are live, the one that would be forgotten first gives
way, and the newcomer takes over its time, as far as its own limit knows such a time: it begins
without its burst. So a flood of keys makes the limit stricter for who comes new, never wider, and
one that was pushed out comes back with a single request instead of a whole burst.

There is no lock. Two workers that admit the same client in the same instant may both read the time
before either writes it: one request too many, now and then (docs/limits.md has what was measured).

Times are nanoseconds of CLOCK_MONOTONIC. Pure, and compiled where a compiler is there.
"""

from __future__ import annotations

from hashlib import blake2b

import cython
from gateway.config.snapshot import LONGEST_OWED, seconds_owed
from gateway.policy.cohort import address_key

#: Cells of a set: two cache lines.
WAYS = 8
#: Words of a cell: the key (0: free) and its time.
CELL = 2
#: Keys whose hash a worker remembers, of all limits together; dropped when full.
MEMO_SIZE = 8192
_MAX_MEMO_KEY = 256
_SECOND = 1_000_000_000

_WAYS = cython.declare(cython.Py_ssize_t, WAYS)
_CELL = cython.declare(cython.Py_ssize_t, CELL)


@cython.final
@cython.cclass
class LimiterTable:
    """The times of all limits and clients: ``sets`` sets (a power of two) from word ``at`` on."""

    # mypy has no typed memoryviews.
    _words: memoryview = cython.declare(cython.ulonglong[:])  # type: ignore[misc]
    _at: cython.Py_ssize_t
    _mask: cython.ulonglong
    #: By limit and client: the hash that stands for both.
    keys: dict[tuple[bytes, object], int] = cython.declare(dict, visibility="readonly")
    secret: bytes = cython.declare(bytes, visibility="readonly")
    words: memoryview = cython.declare(object, visibility="readonly")

    def __init__(self, words: memoryview, at: int, sets: int, secret: bytes) -> None:
        if sets < 1 or sets & (sets - 1):
            raise ValueError(f"a table has a power of two of sets, not {sets}")
        self._words = words
        self.words = words
        self._at = at
        self._mask = sets - 1
        self.secret = secret
        self.keys = {}

    def __repr__(self) -> str:
        return f"<LimiterTable of {(self._mask + 1) * WAYS} keys>"

    @cython.ccall
    @cython.exceptval(-1)
    def find(self, key: cython.ulonglong) -> cython.Py_ssize_t:
        """Return the key's cell, else the one that it would take: of a set, the first to pass."""
        _i: cython.Py_ssize_t
        # The upper half chooses the set, so that keys of one set differ in what is compared.
        first: cython.Py_ssize_t = cython.cast(cython.Py_ssize_t, (key >> 32) & self._mask)
        at: cython.Py_ssize_t = self._at + first * _WAYS * _CELL
        best: cython.Py_ssize_t = at
        least: cython.ulonglong = self._words[at + 1]
        for _i in range(_WAYS):
            if self._words[at] == key:
                return at
            if self._words[at + 1] < least:
                least = self._words[at + 1]
                best = at
            at += _CELL
        return best

    @cython.ccall
    @cython.exceptval(-1)
    def time_at(self, cell: cython.Py_ssize_t) -> cython.longlong:
        """Return the time in a cell."""
        return cython.cast(cython.longlong, self._words[cell + 1])

    @cython.ccall
    @cython.exceptval(-1)
    def holds(self, cell: cython.Py_ssize_t, key: cython.ulonglong) -> cython.int:
        """Tell (1 or 0) whether a cell is this key's."""
        return 1 if self._words[cell] == key else 0

    @cython.ccall
    @cython.exceptval(-1)
    def put(
        self, cell: cython.Py_ssize_t, key: cython.ulonglong, time: cython.longlong
    ) -> cython.int:
        """Write a key and its time: the time first, so that no key has an older one than its own
        for longer than it takes to write a word.
        """
        self._words[cell + 1] = cython.cast(cython.ulonglong, time)
        self._words[cell] = key
        return 0


@cython.final
@cython.cclass
class Limit:
    """One limit: ``count`` requests in ``period`` seconds, ``burst`` more at once.

    ``identity`` tells it apart from others for as long as the configuration has it: times outlive
    a snapshot. After ``ask``, ``left`` says how many more requests would be admitted at once, and
    ``reset`` in how many nanoseconds the whole burst is there again (where none is left: the next).
    """

    interval: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    tolerance: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    left: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    reset: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    quota: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    window: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    _table: LimiterTable
    _keyed: object
    _identity: bytes
    _key: cython.ulonglong
    _cell: cython.Py_ssize_t
    _time: cython.longlong

    def __init__(
        self, table: LimiterTable, identity: bytes, count: int, period: float, burst: int
    ) -> None:
        if count < 1 or period <= 0 or burst < 0:
            raise ValueError(f"no such limit: {count} in {period} s, burst {burst}")
        # Times stay far inside of 64 bits, whatever the rate.
        if seconds_owed(count, period, burst) > LONGEST_OWED:
            raise ValueError(f"a burst of {burst} at {count} in {period} s is more than a year's")
        self.interval = max(round(period * _SECOND / count), 1)
        self.tolerance = self.interval * burst
        self.quota = burst + 1
        #: Seconds in which a used up quota is there again (the draft's ``w``).
        self.window = -(-self.interval * (burst + 1) // _SECOND)
        self.left = 0
        self.reset = 0
        self._table = table
        self._keyed = blake2b(
            len(identity).to_bytes(2, "big") + identity,
            key=table.secret,
            digest_size=8,
            person=b"gateway-limit",
        )
        self._identity = identity
        self._key = 0
        self._cell = 0
        self._time = 0

    def __repr__(self) -> str:
        return f"<Limit {self.quota} at once, one more in {self.interval} ns>"

    def ask(self, client: bytes | str, now: cython.longlong) -> int:
        """Return 0 where a client's request may pass, else the nanoseconds until one may.

        ``client`` is an address as text (of IPv6 its /64 counts) or an identity's octets. Nothing
        is counted: ``take`` does that, before anything else is asked.
        """
        table = self._table
        key: cython.ulonglong = table.keys.get((self._identity, client)) or self._hash(client)
        cell: cython.Py_ssize_t = table.find(key)
        time: cython.longlong = table.time_at(cell)
        furthest: cython.longlong = now + self.tolerance
        if table.holds(cell, key):
            furthest += self.interval
            if time > furthest:
                # Further ahead than this limit ever writes: it was stricter once. Written, or it
                # would keep its distance for as long as the old time lasts.
                table.put(cell, key, furthest)
        time = min(max(time, now), furthest)
        self._key = key
        self._cell = cell
        ahead: cython.longlong = time - now
        if ahead > self.tolerance:
            self.left = 0
            self.reset = ahead - self.tolerance
            return self.reset
        time += self.interval
        ahead += self.interval
        self._time = time
        if ahead > self.tolerance:
            self.left = 0
            self.reset = ahead - self.tolerance
        else:
            self.left = (self.tolerance - ahead) // self.interval + 1
            self.reset = ahead
        return 0

    def take(self) -> None:
        """Count the request that ``ask`` has just admitted."""
        self._table.put(self._cell, self._key, self._time)

    def _hash(self, client: bytes | str) -> int:
        octets: bytes
        octets = b"a" + address_key(client) if isinstance(client, str) else b"i" + client
        state = self._keyed.copy()  # type: ignore[attr-defined]  # a C attribute is an object
        state.update(octets)
        # 0 marks a free cell.
        key = int.from_bytes(state.digest(), "big") or 1
        if len(octets) <= _MAX_MEMO_KEY:
            keys = self._table.keys
            if len(keys) >= MEMO_SIZE:
                keys.clear()
            keys[self._identity, client] = key
        return key
