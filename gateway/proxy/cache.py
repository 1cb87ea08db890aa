"""One worker's cache: fresh copies ready to be sent, and where a URL's copies are kept.

Most hits end here (``Cache.ready``): a copy's head is built once, and as long as nobody on the
machine writes to the cache it is not even looked up again. Whatever is not that simple is a
``proxy.visit``'s. Rules are ``policy.caching``'s, storing is ``proxy.copies``'s.

Compiled where a compiler is there: no ``async def`` here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.board import layout
from gateway.policy.caching.invalidation import same_origin
from gateway.policy.caching.saying import hit_lines
from gateway.policy.caching.variants import values_of
from gateway.policy.caching.variants import variant as digest_of
from gateway.proxy.copies import (
    SET_BACK,
    TOUCH_EVERY,
    Copies,
    Copy,
    Varying,
    varying_record,
)
from gateway.proxy.storefile import SCOPE_OCTETS
from gateway.wire.fields import X_GATEWAY_ERROR, X_GATEWAY_SERVED_BY, X_REQUEST_ID, mask
from gateway.wire.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.policy.fallback import FallbackPlan
    from gateway.policy.security import SecurityFields
    from gateway.proxy.flight import Flight
    from gateway.proxy.wheel import Wheel

#: URLs whose answer was lately not to be kept: nobody waits for the next one. For so many seconds.
MAX_UNSTORABLE = 4096
UNSTORABLE_FOR = 30.0
#: Seconds within which a copy for a fallback is not written again, and how many are remembered.
KEEP_EVERY = 10.0
MAX_KEPT = 4096
#: Validations under way of copies that were served stale.
MAX_REFRESHES = 256
#: Octets of all bodies that are being collected: so many, or so many of the largest entries.
MAX_COLLECTED = 64 * 1024 * 1024
COLLECTED_ENTRIES = 8
#: Copies that are ready for hits: how large one is at most, how many, and octets of all.
MAX_READY = 64 * 1024
READY_COPIES = 4096
READY_OCTETS = 16 * 1024 * 1024
#: Requests' values of the fields that answers vary by: how many are remembered, of which octets.
MAX_VARIANTS = 1024
MAX_VARIANT = 1024
#: Octets of host and target in a key; what is longer is not kept.
MAX_NAME = 400

#: Places of ``layout.CACHE_RESULTS``.
HIT, MISS, STALE, REVALIDATED, BYPASS, COALESCED = range(6)
#: What a key is of, behind its scope.
CACHED, FALLBACK, VARIANT = b"c", b"f", b"v"

_CACHED_PLAIN, _CACHED_TLS = b"ch", b"cs"
_GATEWAYS = cython.declare(
    cython.ulonglong, mask(X_GATEWAY_ERROR, X_GATEWAY_SERVED_BY, X_REQUEST_ID)
)
_MAX_NAME = cython.declare(cython.Py_ssize_t, MAX_NAME)
_ROW_WORDS = cython.declare(cython.Py_ssize_t, layout.ROW_WORDS)
_WRITES_AT = cython.declare(cython.Py_ssize_t, layout.SLABS_AT + layout.S_CACHE_WRITES)
_SLAB_WORDS = cython.declare(cython.Py_ssize_t, layout.SLAB_WORDS)


@cython.final
@cython.cclass
class Shelf:
    """What the cache does for one route: ``cached`` as the route says; ``plan`` its service's
    fallbacks, None where none of them is ``stale``. ``scopes`` (blue, green) stand for service,
    color and generation. ``unwanted`` are fields that backends do not get as clients send them: an
    answer that varies by one of them is not kept.
    """

    cached: cython.bint = cython.declare(cython.bint, visibility="readonly")
    row: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="readonly")
    scopes: tuple[bytes, bytes] = cython.declare(tuple, visibility="readonly")
    plan: FallbackPlan | None = cython.declare(object, visibility="readonly")
    unwanted: frozenset[bytes] = cython.declare(object, visibility="readonly")

    def __init__(
        self,
        cached: bool,
        row: int,
        scopes: tuple[bytes, bytes],
        plan: FallbackPlan | None,
        unwanted: tuple[bytes, ...] = (),
    ) -> None:
        self.cached = cached
        self.row = row
        self.scopes = scopes
        self.plan = plan
        self.unwanted = frozenset(unwanted)


@cython.final
@cython.cclass
class Ready:
    """A copy as a hit sends it: all that is the same for every client is built once.

    ``lines`` are its Age and Cache-Status of this second, ``block`` all lines of its head, these
    among them, less the blank one at the end.
    """

    copy: Copy | None = cython.declare(object, visibility="readonly")
    body: bytes = cython.declare(bytes, visibility="readonly")
    status: cython.int = cython.declare(cython.int, visibility="readonly")
    size: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="readonly")
    lines: bytes = cython.declare(bytes, visibility="readonly")
    block: bytes = cython.declare(bytes, visibility="readonly")
    _record: object
    _varying: Varying | None
    _version: cython.ulonglong
    _time: cython.double
    _age: cython.double
    _lifetime: cython.double
    _guess: cython.bint
    _second: cython.longlong
    _touched: cython.double
    _block: bytes
    _block_of: object

    def __init__(self, record: object) -> None:
        self._record = record
        self._version = 0
        self._varying = None
        self._time = 0.0
        self._age = 0.0
        self._lifetime = 0.0
        self._guess = False
        self._second = -1
        self._touched = 0.0
        self._block = b""
        self._block_of = None
        self.copy = None
        self.body = b""
        self.status = 0
        self.size = 0
        self.lines = b""
        self.block = b""
        if isinstance(record, Varying):
            self._varying = record
        elif isinstance(record, Copy):
            self.copy = record
            self.body = record.body
            self.status = record.head.status
            self.size = len(record.body)
            self._time = record.time
            self._age = record.age
            self._lifetime = 0.0 if record.no_cache else record.lifetime
            self._guess = record.heuristic

    @cython.cfunc
    @cython.exceptval(check=True)
    def _build(self, security: SecurityFields | None, age: cython.longlong) -> cython.bint:
        """Build the head's lines with a profile's fields, for this second."""
        copy = self.copy
        assert copy is not None
        if not self._block or self._block_of is not security:
            head = copy.head
            more = b"" if security is None else security.dress(head)
            line = b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)
            rendered = head.render(line, _GATEWAYS, more)
            self._block = rendered[: len(rendered) - 2]
            self._block_of = security
        self.lines = hit_lines(age, int(self._lifetime) - age)
        self.block = self._block + self.lines
        return True


@cython.final
@cython.cclass
class Cache:
    """One worker's cache. ``wall`` is the epoch's clock, in seconds; ``words`` the whole board."""

    store: Copies = cython.declare(object, visibility="readonly")
    #: Requests under way whose answers others wait for, by key.
    flights: dict[bytes, Flight] = cython.declare(dict, visibility="readonly")
    wall: Callable[[], float] = cython.declare(object, visibility="readonly")
    wheel: Wheel = cython.declare(object, visibility="readonly")
    _refreshing: set[bytes]
    _room: cython.Py_ssize_t
    _counts: cython.Py_ssize_t
    _unstorable: dict[bytes, float]
    _kept: dict[bytes, float]
    _ready: dict[bytes, Ready]
    _ready_octets: cython.Py_ssize_t
    _variants: dict[bytes, bytes]
    _puts: cython.ulonglong
    # mypy has no typed memoryviews.
    _words: memoryview = cython.declare(cython.ulonglong[:])  # type: ignore[misc]
    _slabs: cython.Py_ssize_t

    def __init__(
        self,
        store: Copies,
        wall: Callable[[], float],
        wheel: Wheel,
        words: memoryview,
        slab: int,
        slabs: int,
    ) -> None:
        self._refreshing = set()
        self._room = max(MAX_COLLECTED, COLLECTED_ENTRIES * store.entry)
        self._ready = {}
        self._ready_octets = 0
        self._variants = {}
        self._puts = 0
        self._words = words
        self._slabs = slabs
        self.store = store
        self.flights = {}
        self.wall = wall
        self.wheel = wheel
        self._counts = layout.slab_at(slab) + layout.ROWS_AT + layout.ROW_CACHE
        self._unstorable = {}
        self._kept = {}

    # --- hits -----------------------------------------------------------------------------------

    def ready(  # noqa: PLR0913, PLR0917 - called by position, once a request
        self,
        shelf: Shelf,
        green: cython.bint,
        secure: cython.bint,
        host: bytes,
        target: bytes,
        head: Head,
        cookie: bytes,
        somebody: cython.bint,
        security: SecurityFields | None,
    ) -> Ready | None:
        """Return a fresh copy for a GET or HEAD that asks for nothing special; mostly a hit is one.

        None says nothing about what ``Visit.recall`` finds. ``somebody``: the request is
        authorized, or has cookies; ``security`` is the route's profile.
        """
        ready: Ready | None
        varying: Varying
        now: cython.double
        left: cython.double
        second: cython.longlong
        version: cython.ulonglong = self._version()
        scope: bytes = shelf.scopes[1 if green else 0]
        key: bytes = b"".join((scope, _CACHED_TLS if secure else _CACHED_PLAIN, host, b" ", target))
        ready = self._ready.get(key)
        if ready is None or ready._version != version:
            ready = self._confirm(key, ready, version)
            if ready is None:
                return None
        if ready._varying is not None:
            varying = ready._varying
            key = scope + VARIANT + varying.epoch + self.variant(varying.names, head, cookie)
            ready = self._ready.get(key)
            if ready is None or ready._version != version:
                ready = self._confirm(key, ready, version)
                if ready is None:
                    return None
        if ready.copy is None or (ready._guess and somebody):
            return None
        now = self.wall()
        left = ready._lifetime - ready._age - (now - ready._time if now > ready._time else 0.0)
        if left <= 0 or ready._time - now > SET_BACK:
            return None
        second = cython.cast(cython.longlong, now) if cython.compiled else int(now)
        if ready._second != second or ready._block_of is not security:
            ready._build(security, int(ready._lifetime - left))
            ready._second = second
        if now - ready._touched > TOUCH_EVERY:
            ready._touched = now
            self.store.used(key)
        self.count(shelf, HIT)
        return ready

    @cython.cfunc
    @cython.exceptval(check=False)
    def _version(self) -> cython.ulonglong:
        """Return a number that stays while nothing is written to the cache."""
        total: cython.ulonglong = self._puts
        i: cython.Py_ssize_t
        for i in range(self._slabs):
            total += self._words[_WRITES_AT + i * _SLAB_WORDS]
        return total

    @cython.cfunc
    def _confirm(self, key: bytes, known: Ready | None, version: cython.ulonglong) -> Ready | None:
        """Look whether what is ready is what is stored; else make that ready."""
        ready: Ready
        record: object = self.store.get(key)
        if known is not None:
            if known._record is record:
                known._version = version
                return known
            del self._ready[key]
            self._ready_octets -= known.size
        if not isinstance(record, (Copy, Varying)):
            return None
        ready = Ready(record)
        ready._version = version
        if ready.size <= MAX_READY:
            while self._ready and (
                len(self._ready) >= READY_COPIES or self._ready_octets > READY_OCTETS
            ):
                oldest: Ready = self._ready.pop(next(iter(self._ready)))
                self._ready_octets -= oldest.size
            self._ready[key] = ready
            self._ready_octets += ready.size
        return ready

    def keep_scopes(self, scopes: frozenset[bytes]) -> None:
        """Drop the copies of every other generation, in memory too: nobody asks for them again."""
        ready: Ready
        for key in list(self._ready):
            if key[:SCOPE_OCTETS] not in scopes:
                ready = self._ready.pop(key)
                self._ready_octets -= ready.size
        self.store.keep_scopes(scopes)

    def in_memory(self) -> int:
        """Return how many copies are held in memory, decoded or ready to be sent."""
        return len(self._ready) + self.store.in_memory()

    @cython.ccall
    def variant(self, names: tuple[bytes, ...], head: Head, cookie: bytes) -> bytes:
        """Return a request's variant; clients are of few kinds, so most are remembered."""
        values = values_of(names, head, cookie)
        raw: bytes = repr((names, values)).encode()
        known = self._variants.get(raw)
        if known is None:
            known = digest_of(names, values)
            if len(self._variants) >= MAX_VARIANTS:
                self._variants.clear()
            if len(raw) <= MAX_VARIANT:
                self._variants[raw] = known
        return known

    # --- copies ---------------------------------------------------------------------------------

    def last_good(
        self,
        scopes: tuple[bytes, ...],
        name: bytes,
        head: Head,
        cookie: bytes,
        max_age: cython.double,
    ) -> Copy | None:
        """Return the last good answer kept for a ``stale`` fallback, None where there is none.

        The first of ``scopes`` that has one of at most ``max_age`` seconds gives it; ``name`` is
        the URL's (``name_of``), ``cookie`` the request's without the gateway's own.
        """
        now: cython.double = self.wall()
        for scope in scopes:
            record = self.store.get(scope + FALLBACK + name)
            if isinstance(record, Varying):
                record = self.store.get(self.variant_key(scope, record, head, cookie))
            if isinstance(record, Copy) and now - record.time <= max_age:
                return record
        return None

    def invalidate(
        self, shelf: Shelf, secure: bool, host: bytes, target: bytes, answer: Head, now: float
    ) -> None:
        """An unsafe request went well: what is stored of its URLs is gone (RFC 9111 section 4.4).

        Of both colors: they share their data. Last good answers too.
        """
        targets = {target}
        for name in (b"location", b"content-location"):
            value = answer.find(name)
            other = None if value is None else same_origin(value, target, host)
            if other is not None:
                targets.add(other)
        for each in targets:
            if len(host) + len(each) > _MAX_NAME:
                continue
            name = name_of(secure, host, each)
            for scope in shelf.scopes:
                if shelf.cached:
                    self.forget(scope + CACHED + name, now)
                if shelf.plan is not None:
                    self.forget(scope + FALLBACK + name, now)

    @cython.ccall
    def variant_key(self, scope: bytes, varying: Varying, head: Head, cookie: bytes) -> bytes:
        """Return a variant's key."""
        return scope + VARIANT + varying.epoch + self.variant(varying.names, head, cookie)

    @cython.ccall
    @cython.exceptval(check=True)
    def count(self, shelf: Shelf, result: cython.int) -> cython.bint:
        """Count one request of a route's by how the cache met it."""
        self._words[self._counts + shelf.row * _ROW_WORDS + result] += 1
        return True

    @cython.ccall
    @cython.exceptval(check=True)
    def begin_refresh(self, key: bytes) -> cython.bint:
        """Tell whether a copy that is served stale is to be validated; if so it is under way."""
        if key in self._refreshing or key in self.flights:
            return False
        if len(self._refreshing) >= MAX_REFRESHES:
            return False
        self._refreshing.add(key)
        return True

    @cython.ccall
    @cython.exceptval(check=True)
    def end_refresh(self, key: bytes) -> cython.bint:
        """It is not under way any more."""
        self._refreshing.discard(key)
        return True

    @cython.ccall
    @cython.exceptval(check=True)
    def collect(self, octets: cython.Py_ssize_t) -> cython.bint:
        """Take room for more of a body that is collected, or give it back; False: none is left."""
        if octets > self._room:
            return False
        self._room -= octets
        return True

    @cython.ccall
    @cython.exceptval(check=True)
    def is_unstorable(self, key: bytes) -> cython.bint:
        """Tell whether a URL's answer was lately not to be kept."""
        until: cython.double = self._unstorable.get(key, 0.0)
        now: cython.double = self.wheel.now
        return now < until

    @cython.ccall
    @cython.exceptval(check=True)
    def note_unstorable(self, key: bytes) -> cython.bint:
        """Remember that a URL's answer is not to be kept."""
        if len(self._unstorable) >= MAX_UNSTORABLE:
            self._unstorable.clear()
        self._unstorable[key] = self.wheel.now + UNSTORABLE_FOR
        return True

    @cython.ccall
    @cython.exceptval(check=True)
    def kept_lately(self, key: bytes, primary: bytes) -> cython.bint:
        """Tell whether a fallback's copy was written just now, and is not gone since (``primary``
        is its URL's key); note that one is.
        """
        now: cython.double = self.wall()
        before: cython.double = self._kept.get(key, -KEEP_EVERY)
        if 0 <= now - before < KEEP_EVERY and self.store.gone_at(primary) < before:
            return True
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[key] = now
        return False

    @cython.ccall
    @cython.exceptval(check=True)
    def forget(self, primary: bytes, now: cython.double) -> cython.bint:
        """Have nothing served any more of what was asked for before now."""
        self._puts += 1
        self.store.invalidate(primary, now)
        return True

    @cython.ccall
    @cython.exceptval(check=True)
    def put(
        self,
        scope: bytes,
        primary: bytes,
        names: tuple[bytes, ...],
        head: Head,
        cookie: bytes,
        record: bytes,
        since: cython.double,
    ) -> cython.bint:
        """Store a record at its URL's key, or at its variant's."""
        self._puts += 1
        if self._unstorable:
            self._unstorable.pop(primary, None)
        if not names:
            return bool(self.store.put(primary, record, since, primary))
        known = self.store.get(primary)
        if isinstance(known, Varying) and known.names == names:
            varying = known
        else:
            epoch = self.store.epoch()
            if not self.store.put(primary, varying_record(epoch, names), since, primary):
                return False
            varying = Varying(b"", epoch, names)
        key = self.variant_key(scope, varying, head, cookie)
        return bool(self.store.put(key, record, since, primary))


def name_of(secure: cython.bint, host: bytes, target: bytes) -> bytes:
    """Return a URL as it stands in a key."""
    return (b"s" if secure else b"h") + host + b" " + target
