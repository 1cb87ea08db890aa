"""Phase 6, recall: what an exchange asks the cache, and what it tells it.

A ``Visit`` is one request's business with the cache, from its look-up to its answer's last octet:

* ``recall`` says whether to serve a copy, to forward, to wait for another's answer, or to refuse;
* ``on_head`` takes the backend's final head: it is passed on (and kept, where it may be), or a copy
  is served in its place; ``take`` takes the body beside its way to the client;
* ``on_failure`` says whether a copy stands for a failure; ``leave`` ends what is not complete.

Compiled where a compiler is there: no ``async def`` here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.policy.caching.answering import answer
from gateway.policy.caching.directives import NONE, Directives, request_directives
from gateway.policy.caching.fields import Fields, fields_of
from gateway.policy.caching.reuse import FRESH, STALE_WHILE_REVALIDATE, VALIDATE, in_error, use
from gateway.policy.caching.saying import forwarded_lines, hit_lines
from gateway.policy.caching.storing import LEFT_OUT, Asked, initial_age, may_fall_back, terms
from gateway.policy.caching.storing import Terms as Kept
from gateway.policy.caching.updating import date_of, kept_head, renewed_head
from gateway.policy.caching.variants import varies_by
from gateway.proxy.answer import is_events
from gateway.proxy.cache import (
    BYPASS,
    CACHED,
    COALESCED,
    HIT,
    MAX_NAME,
    MISS,
    REVALIDATED,
    STALE,
    Cache,
    Shelf,
    name_of,
)
from gateway.proxy.copies import Copy, Terms, Varying, answer_record, stored_terms
from gateway.proxy.flight import Flight
from gateway.proxy.lastgood import LastGood
from gateway.wire.fields import (
    CACHE_CONTROL,
    HOP_BY_HOP,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    PRAGMA,
    RANGE,
    mask,
)
from gateway.wire.head import BODY_UNTIL_CLOSE, Head

if TYPE_CHECKING:
    from typing import Protocol

    class Waiter(Protocol):
        """An exchange that waits for another's answer."""

        def on_recalled(self) -> None:
            """Look again: the answer is there, or is not to be waited for."""


#: What ``recall`` says.
SERVE, FORWARD, WAIT, REFUSE = range(4)
#: What ``on_head`` says.
PASS, INSTEAD = range(2)

_SERVE = cython.declare(cython.int, SERVE)
_FORWARD = cython.declare(cython.int, FORWARD)
_WAIT = cython.declare(cython.int, WAIT)
_REFUSE = cython.declare(cython.int, REFUSE)
_PASS = cython.declare(cython.int, PASS)
_INSTEAD = cython.declare(cython.int, INSTEAD)
_FRESH = cython.declare(cython.int, FRESH)
_SWR = cython.declare(cython.int, STALE_WHILE_REVALIDATE)
_VALIDATE = cython.declare(cython.int, VALIDATE)
_SPECIAL = cython.declare(cython.ulonglong, mask(CACHE_CONTROL, PRAGMA))
_UNFIT = cython.declare(cython.ulonglong, mask(IF_MATCH, IF_UNMODIFIED_SINCE))
_CONDITIONS = cython.declare(cython.ulonglong, mask(IF_NONE_MATCH, IF_MODIFIED_SINCE))
_RANGES = cython.declare(cython.ulonglong, mask(RANGE))
_OWN_CONDITION = cython.declare(
    cython.ulonglong, mask(IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE, IF_RANGE)
)
_HOP_BY_HOP = cython.declare(cython.ulonglong, HOP_BY_HOP)
_UNTIL_CLOSE = cython.declare(cython.int, BODY_UNTIL_CLOSE)
_MAX_NAME = cython.declare(cython.Py_ssize_t, MAX_NAME)

_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
_ERRORS = frozenset((500, 502, 503, 504))
#: Statuses that answer a condition or a range: they say nothing of the whole.
_PARTIAL = frozenset((206, 304, 416))
#: What never ends.


@cython.final
@cython.cclass
class Visit:
    """One request's business with the cache; see the module.

    ``lines`` and ``drop`` are what the upstream request gets and loses for the cache's own
    validation. After SERVE, or INSTEAD, the answer is ``answer_head``, ``answer_body`` and
    ``status_lines()``; ``refresh`` says that a validation is to be started beside, ``degraded``
    that the copy hides a failure. ``green`` is the color that the copies are of.
    """

    answer_head: Head = cython.declare(object, visibility="readonly")
    answer_body: bytes = cython.declare(bytes, visibility="readonly")
    lines: bytes = cython.declare(bytes, visibility="readonly")
    drop: cython.ulonglong = cython.declare(cython.ulonglong, visibility="readonly")
    refresh: cython.bint = cython.declare(cython.bint, visibility="readonly")
    degraded: cython.bint = cython.declare(cython.bint, visibility="readonly")
    green: cython.bint = cython.declare(cython.bint, visibility="readonly")
    _cache: Cache
    _waiter: Waiter | None
    _shelf: Shelf
    _scope: bytes
    _method: bytes
    _to_head: cython.bint
    _head: Head
    _seen: cython.ulonglong
    _bodied: cython.bint
    _secure: cython.bint
    _host: bytes
    _target: bytes
    _path: bytes
    _cookie: bytes
    _authorized: cython.bint
    _directives: Directives
    _primary: bytes
    _key: bytes
    _copy: Copy | None
    _validating: cython.bint
    _asked_at: cython.double
    _now: cython.double
    _flight: Flight | None
    _awaits: Flight | None
    _waited_for: bytes
    _waited: cython.bint
    _collapsed: cython.bint
    _collects: cython.bint
    _reason: bytes
    _status: cython.int
    _stores: cython.bint
    _hit: cython.bint
    _terms: Kept | None
    _names: tuple[bytes, ...]
    _spare: LastGood | None
    _kept: bytes
    _length: cython.longlong
    _pieces: list[bytes] | None
    _size: cython.Py_ssize_t
    _reserved: cython.Py_ssize_t

    def __init__(  # noqa: PLR0913, PLR0917 - one call with everything is what makes it cheap
        self,
        cache: Cache,
        shelf: Shelf,
        waiter: Waiter,
        head: Head,
        method: bytes,
        bodied: cython.bint,
        green: cython.bint,
        secure: cython.bint,
        host: bytes,
        target: bytes,
        path: bytes,
        cookie: bytes,
        authorized: cython.bint,
    ) -> None:
        self._cache = cache
        self._shelf = shelf
        self._waiter = waiter
        self._scope = shelf.scopes[1 if green else 0]
        self._head = head
        self._method = method
        self._to_head = method == b"HEAD"
        self._bodied = bodied
        self._seen = head.seen
        self._secure = secure
        self._host = host
        self._target = target
        self._path = path
        self._cookie = cookie
        self._authorized = authorized
        self._directives = NONE
        self._primary = b""
        self._key = b""
        self._copy = None
        self._validating = False
        self._asked_at = 0.0
        self._now = 0.0
        self._flight = None
        self._awaits = None
        self._waited_for = b""
        self._waited = False
        self._collapsed = False
        self._collects = False
        self._reason = b""
        self._status = 0
        self._stores = False
        self._hit = False
        self._terms = None
        self._names = ()
        self._spare = None
        self._kept = b""
        self._length = -1
        self._pieces = None
        self._size = 0
        self._reserved = 0
        self.answer_head = head
        self.answer_body = b""
        self.lines = b""
        self.drop = 0
        self.refresh = False
        self.degraded = False
        self.green = green

    def __repr__(self) -> str:
        return f"<Visit {self._method!r} {self._target!r} {self._reason!r} hit={self._hit}>"

    # --- before the backend ---------------------------------------------------------------------

    def recall(self) -> int:
        """Return SERVE, FORWARD, WAIT or REFUSE."""
        shelf = self._shelf
        record: object
        self._asked_at = self._cache.wall()
        if self._method != b"GET" and not self._to_head:
            return self._bypass(b"method")
        if self._seen & _SPECIAL:
            self._directives = request_directives(
                self._head.get_all(CACHE_CONTROL), self._head.get(PRAGMA)
            )
        if not shelf.cached:
            return _FORWARD
        if self._bodied or self._seen & _UNFIT or len(self._host + self._target) > _MAX_NAME:
            return self._bypass(b"bypass")
        if self._directives.no_store:
            return self._bypass(b"request")
        self._primary = self._scope + CACHED + name_of(self._secure, self._host, self._target)
        self._key = self._primary
        self._reason = b"uri-miss"
        record = self._cache.store.get(self._primary)
        if isinstance(record, Varying):
            self._key = self._cache.variant_key(self._scope, record, self._head, self._cookie)
            self._reason = b"vary-miss"
            record = self._cache.store.get(self._key)
        if isinstance(record, Copy):
            self._copy = record
            if self._use():
                return _SERVE
        return self._go()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _bypass(self, reason: bytes) -> cython.int:
        if self._shelf.cached:
            self._reason = reason
            self._cache.count(self._shelf, BYPASS)
        return _FORWARD

    @cython.cfunc
    @cython.exceptval(check=True)
    def _use(self) -> cython.bint:
        """Tell whether the copy is served as it is."""
        copy = self._copy
        assert copy is not None
        age: cython.double = copy.age_at(self._asked_at)
        left: cython.double = copy.lifetime - age
        how: cython.int
        if self._directives is NONE and left > 0 and not copy.no_cache:
            how = _FRESH
        else:
            how = use(
                age,
                copy.lifetime,
                no_cache=copy.no_cache,
                strict=copy.strict,
                while_revalidate=copy.while_revalidate,
                asked=self._directives,
            )
        if copy.heuristic and (self._cookie or self._authorized):
            how = _VALIDATE  # a guess is not good enough for who may be somebody
        if how == _VALIDATE:
            self._reason = b"stale" if left <= 0 or copy.no_cache else b"request"
            return False
        self._hit = True
        self._cache.store.used(self._key)
        if self._collapsed:
            self._cache.count(self._shelf, COALESCED)
        else:
            self._cache.count(self._shelf, HIT if how == _FRESH else STALE)
        self.refresh = how == _SWR and self._cache.begin_refresh(self._key)
        self._now = self._asked_at
        self._answer()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _go(self) -> cython.int:
        """No copy can be served: refuse, wait for whoever asks already, or ask."""
        cache = self._cache
        copy = self._copy
        if self._directives.only_if_cached:
            return _REFUSE
        if self._to_head:
            if copy is None:
                cache.count(self._shelf, MISS)
            return _FORWARD
        if copy is not None:
            if copy.etag:
                self.lines = b"If-None-Match: " + copy.etag + b"\r\n"
            if copy.last_modified:
                self.lines += b"If-Modified-Since: " + copy.last_modified + b"\r\n"
            if self.lines:
                self._validating = True
                self.drop = _OWN_CONDITION
        plain: cython.bint = self._validating or not self._seen & (_CONDITIONS | _RANGES)
        self._collects = True
        if plain and not self._authorized and not cache.is_unstorable(self._primary):
            known = cache.flights.get(self._key)
            if known is not None and cache.store.is_outdated(self._key, self._primary, known.since):
                known = None  # it was asked before a write: its answer is not for who came later
            if known is None:
                self._flight = Flight(cache.flights, self._key, cache.wheel, self._asked_at)
            elif self._may_wait(known):
                known.wait(self)
                self._awaits = known
                self._waited_for = self._reason
                return _WAIT
        if copy is None:
            cache.count(self._shelf, MISS)
        return _FORWARD

    @cython.cfunc
    @cython.exceptval(check=True)
    def _may_wait(self, flight: Flight) -> cython.bint:
        """Tell whether to wait for an answer that was asked for before this request came."""
        asked = self._directives
        if self._waited or asked.no_cache or asked.max_age is not None:
            return False
        return not flight.full

    def go_on(self, again: bool) -> None:
        """The answer that was waited for is there, or will not come."""
        waiter = self._waiter
        self._awaits = None
        self._waited = not again
        self._collapsed = True
        self.lines = b""
        self.drop = 0
        self._validating = False
        self._copy = None
        if waiter is not None:
            waiter.on_recalled()

    # --- what came back -------------------------------------------------------------------------

    def on_head(self, head: Head, keep: bool) -> int:
        """Take the backend's final head. PASS: it goes on; INSTEAD: a copy goes in its place.

        ``keep``: it is the assigned color's own answer, which may be kept as that.
        """
        now: cython.double = self._cache.wall()
        copy = self._copy
        self._now = now
        self._collapsed = False
        self._status = head.status
        if self._method not in _SAFE:
            if 200 <= head.status < 400:
                self._cache.invalidate(
                    self._shelf, self._secure, self._host, self._target, head, self._now
                )
            return _PASS
        if not keep:
            self._land()
            return _PASS
        if copy is not None:
            if self._validating and head.status == 304:
                self._renew(head, copy)
                return _INSTEAD
            if head.status in _ERRORS and self._stands_in(False):
                return _INSTEAD
            self._cache.count(self._shelf, MISS)
        if self._method == b"GET":
            self._consider(head)
        return _PASS

    @cython.cfunc
    @cython.exceptval(check=True)
    def _consider(self, head: Head) -> cython.bint:
        """Decide whether the answer is kept: for the cache, for a fallback, for both."""
        shelf = self._shelf
        cache = self._cache
        complete: cython.bint = (
            head.body != _UNTIL_CLOSE and head.length <= cache.store.entry and not is_events(head)
        )
        rule = None
        if shelf.plan is not None and not self._directives.no_store:
            rule = shelf.plan.keeps(b"GET", self._path)
        if not complete or not (self._collects or rule is not None):
            if not complete and self._collects:
                self._note_unstorable(head.status)
            self._land()
            return True
        fields = fields_of(head)
        asked = Asked(self._asked_at, self._authorized, bool(self._cookie))
        names = self._varies_by(fields)
        if self._collects and names is not None:
            self._terms = terms(head.status, fields, asked, self._now)
            self._names = names
        if self._terms is None and self._collects:
            self._note_unstorable(head.status)
            self._land()
        elif self._terms is not None:
            self._stores = True
        if (
            rule is not None
            and names is not None
            and len(self._host) + len(self._target) <= _MAX_NAME
            and may_fall_back(head.status, fields, asked, shared=rule.shared)
        ):
            self._spare = LastGood(
                cache,
                self._scope,
                name_of(self._secure, self._host, self._target),
                names,
                initial_age(fields, self._asked_at, self._now),
            )
            if not self._spare.wanted(self._head, self._cookie):
                self._spare = None
        if self._terms is None and self._spare is None:
            return True
        if not cache.collect(0 if head.length < 0 else head.length):
            self._stores = False
            self._terms = self._spare = None
            self._land()
            return True
        self._reserved = 0 if head.length < 0 else head.length
        self._kept = head.render(head.line, _HOP_BY_HOP, date_of(head, self._now))
        self._length = head.length
        self._pieces = []
        return True

    @cython.cfunc
    def _varies_by(self, fields: Fields) -> tuple[bytes, ...] | None:
        """Return what the answer varies by; None: by what no later request could be told by.

        Fields of identity are: the backend's were the gateway's, not those of this head.
        """
        names = varies_by(fields)
        if names is None or self._shelf.unwanted.isdisjoint(names):
            return names
        return None

    @cython.cfunc
    @cython.exceptval(check=True)
    def _note_unstorable(self, status: cython.int) -> cython.bint:
        """Have nobody wait for this URL for a while, if the answer says that of all requests."""
        plain: cython.bint = self._validating or not self._seen & (_CONDITIONS | _RANGES)
        if plain and status < 500 and status not in _PARTIAL and not self._authorized:
            self._cache.note_unstorable(self._primary)
        return True

    def take(self, payload: bytes, ended: bool) -> None:
        """Take more of the body that is passed on; with ``ended`` the answer is whole."""
        pieces = self._pieces
        if pieces is None:
            return
        self._size += len(payload)
        more: cython.Py_ssize_t = self._size - self._reserved
        if self._size > self._cache.store.entry or (more > 0 and not self._cache.collect(more)):
            self._let_go()
            self._land()
            return
        if more > 0:
            self._reserved = self._size
        if payload:
            pieces.append(payload)
        if ended:
            self._let_go()
            if self._length < 0 or self._size == self._length:
                self._store(b"".join(pieces))
            self._land()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _let_go(self) -> cython.bint:
        """Collect nothing any more."""
        self._pieces = None
        self._cache.collect(-self._reserved)
        self._reserved = 0
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _store(self, body: bytes) -> cython.bint:
        if self._terms is not None:
            self._put(self._terms, self._kept, body)
        if self._spare is not None:
            self._spare.store(self._head, self._cookie, self._kept, body, self._now, self._asked_at)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _put(self, kept: Kept, rendered: bytes, body: bytes) -> cython.bint:
        """Store a copy for the cache on its terms."""
        head = kept_head(rendered, kept.drop, len(body))
        return self._cache.put(
            self._scope,
            self._primary,
            self._names,
            self._head,
            self._cookie,
            answer_record(stored_terms(kept), head, body),
            self._asked_at,
        )

    @cython.cfunc
    @cython.exceptval(check=True)
    def _renew(self, head: Head, copy: Copy) -> cython.bint:
        """Renew the copy with a 304 (RFC 9111 section 4.3.4), and answer with it."""
        cache = self._cache
        stored: bytes = copy.head.data
        rendered = head.render(head.line, _HOP_BY_HOP, date_of(head, self._now))
        merged = renewed_head(stored, rendered, LEFT_OUT.union(copy.drop))
        renewed = Head(merged, 0)
        renewed.read_response(False)
        fields = fields_of(renewed)
        # Its age is the 304's: an Age that came with it is not in the merged head.
        age = fields_of(head).get(b"age")
        aged = fields if age is None else fields | {b"age": age}
        asked = Asked(self._asked_at, self._authorized, bool(self._cookie))
        kept = terms(copy.head.status, aged, asked, self._now)
        names = self._varies_by(fields)
        cache.count(self._shelf, REVALIDATED)
        if kept is None or names is None:
            if (
                names is None
                or terms(copy.head.status, aged, Asked(self._asked_at), self._now) is None
            ):
                cache.forget(self._primary, self._now)
            told = Terms(self._now, 0.0, 0.0, False, False, False, 0, 0, (), 0)
        else:
            self._stores = True
            self._names = names
            self._put(kept, merged, copy.body)
            told = stored_terms(kept)
        self._copy = Copy(b"", told, renewed, copy.body)
        self._answer()
        self._land()
        return True

    def on_refreshed(self) -> None:
        """The validation that ``refresh`` asked for is over."""
        self._cache.end_refresh(self._key)

    @property
    def collecting(self) -> bool:
        """Whether the body is being collected."""
        return self._pieces is not None

    def on_failure(self, disconnected: bool) -> bool:
        """Tell whether a stale copy stands for a backend that gave no answer (INSTEAD)."""
        self._now = self._cache.wall()
        return bool(self._copy is not None and self._stands_in(disconnected))

    def last_good(self, stable_green: bool, max_age: float) -> Copy | None:
        """Return the last good answer for a fallback: for a request of the candidate its own, else
        stable's; for one of stable never the candidate's.
        """
        if len(self._host) + len(self._target) > _MAX_NAME:
            return None
        stable: bytes = self._shelf.scopes[1 if stable_green else 0]
        return self._cache.last_good(
            (stable,) if self._scope == stable else (self._scope, stable),
            name_of(self._secure, self._host, self._target),
            self._head,
            self._cookie,
            max_age,
        )

    @cython.cfunc
    @cython.exceptval(check=True)
    def _stands_in(self, disconnected: cython.bint) -> cython.bint:
        copy = self._copy
        assert copy is not None
        age = copy.age_at(self._now)
        if self._directives.no_cache or not in_error(
            age,
            copy.lifetime,
            strict=copy.strict,
            if_error=copy.if_error,
            disconnected=disconnected,
        ):
            return False
        self._hit = True
        self.degraded = True
        self._cache.count(self._shelf, STALE)
        self._answer()
        self._land()
        return True

    def leave(self, client_left: bool = False) -> None:
        """The request is over, whole or not: nothing of half an answer is kept.

        ``client_left``: for no fault of the backend's, so that one who waits asks for the others.
        """
        if self._pieces is not None:
            self._let_go()
        self._waiter = None
        awaits, self._awaits = self._awaits, None
        if awaits is not None:
            awaits.leave(self)
        led, self._flight = self._flight, None
        if led is not None:
            led.land(again=client_left)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _land(self) -> cython.bint:
        """End the flight that this request leads, if it leads one."""
        flight = self._flight
        self._flight = None
        if flight is not None:
            flight.land(again=False)
        return True

    # --- the answer -----------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _answer(self) -> cython.bint:
        """Choose what of the copy is sent: all, a part, or that nothing has changed."""
        copy = self._copy
        assert copy is not None
        self.answer_head = copy.head
        self.answer_body = b"" if self._to_head else copy.body
        if self._seen & (_CONDITIONS | _RANGES) and copy.head.status == 200:
            self.answer_head, self.answer_body = answer(
                self._head, copy.head, self.answer_body, self._to_head, self._now
            )
        return True

    def status_lines(self) -> bytes:
        """Return the answer's Age and Cache-Status lines (RFC 9111 section 5.1, RFC 9211)."""
        copy = self._copy
        if copy is None or not (self._hit or self._validating):
            return forwarded_lines(self._reason, None, None, self._stores)
        age: cython.longlong = int(copy.age_at(self._now))
        if self._hit:
            reason = self._waited_for if self._collapsed else b""
            return hit_lines(age, int(copy.lifetime) - age, reason)
        return forwarded_lines(self._reason, self._status, age, self._stores)
