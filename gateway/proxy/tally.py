"""What a worker sees and tells of requests, for those who judge a release.

Each request that a backend was asked for is counted once it is over, in the row of its service,
side and weight; requests that speak against their side are told one by one besides. What counts is
the first attempt at the side that the request was assigned to, whatever was done about it
afterwards (a rescued request failed). The exchange knows what came of that and leaves out what no
backend is to be judged by; the rules of who is told, and how often, are here.

Counts go to control at most every ``EVERY`` seconds, failures in the turn of the loop in which
their requests ended, without the counts: those are rows with histograms, and in an outage there
would be as many of them as turns, while the judgement needs the count of requests only roughly.

While control is away both wait. What was written to a connection that turns out to be dead is lost;
a restart of control alone loses nothing. A release that another one takes the place of meanwhile
takes with it what was not told.

Compiled where a compiler is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import cython
from gateway.channel.histogram import bucket_of
from gateway.channel.messages import Counted, Failures, RequestFailed, Tally
from gateway.config.snapshot import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.channel.messages import Metric
    from gateway.config.snapshot import Color, Watch

    class Serves(Protocol):
        """A pool as it is asked here."""

        def serves(self) -> bool:
            """Tell whether a member can be sent requests."""


#: Seconds between two tallies at least.
EVERY = 0.5
#: Failures that wait to be told at most, and that one message has.
MAX_WAITING = 4096
#: Keys that are remembered as told of, per service and kind of failure, and keys of the candidate
#: that are told of, per service. A key is 16 octets.
MAX_TOLD = 65_536
MAX_KEYS = 1024
#: Thresholds of a service that are looked at: bits of a number.
MAX_THRESHOLDS = 32

#: Of a request, as bits: a cache might have answered it; another side than the assigned one was
#: asked; its time to the head says nothing; its path is an asset's.
CACHED, STRAY, UNTIMED, ASSET = 1, 2, 4, 8

#: What a service says to a client that may lack something: a candidate that forgot to be given its
#: settings looks like that (RFC 9110 section 15.5).
REFUSALS = (401, 403, 404, 422)

_TIMEOUTS = frozenset(
    ("connect-timeout", "first-byte-timeout", "between-bytes-timeout", "total-timeout")
)

_COLORS: tuple[Color, ...] = ("blue", "green", "blue", "green")

_EVERY = cython.declare(cython.double, EVERY)
_MAX_WAITING = cython.declare(cython.Py_ssize_t, MAX_WAITING)
_MAX_TOLD = cython.declare(cython.Py_ssize_t, MAX_TOLD)
_MAX_KEYS = cython.declare(cython.Py_ssize_t, MAX_KEYS)
_UNJUDGED = cython.declare(cython.int, CACHED | STRAY)
_STRAY = cython.declare(cython.int, STRAY)
_UNTIMED = cython.declare(cython.int, UNTIMED)
_ASSET = cython.declare(cython.int, ASSET)
_FULL = cython.declare(cython.int, BUCKETS)


@cython.final
@cython.cclass
class Row:
    """Counts of one side at one weight since the last tally."""

    side: cython.int
    weight: cython.int
    requests: cython.longlong
    failed: cython.longlong
    timed: cython.longlong
    slow: cython.longlong
    judged: cython.longlong
    spoiled: cython.longlong
    keys: list[int]
    buckets: dict[int, int]

    def __init__(self, side: cython.int, weight: cython.int) -> None:
        self.side = side
        self.weight = weight
        self._empty()

    @cython.cfunc
    @cython.exceptval(-1)
    def _empty(self) -> cython.bint:
        self.requests = 0
        self.failed = 0
        self.timed = 0
        self.slow = 0
        self.judged = 0
        self.spoiled = 0
        self.keys = []
        self.buckets = {}
        return True

    @cython.cfunc
    def _message(self, service: str) -> Counted:
        return Counted(
            service=service,
            color=_COLORS[self.side],
            candidate=self.side >= 2,
            weight=self.weight,
            requests=self.requests,
            failed=self.failed,
            timed=self.timed,
            slow=self.slow,
            judged=self.judged,
            spoiled=self.spoiled,
            keys=tuple(self.keys),
            histogram=tuple(sorted(self.buckets.items())),
        )


@cython.final
@cython.cclass
class ServiceTally:
    """One service's requests under one release. A request pins it with the snapshot."""

    service: str = cython.declare(str, visibility="readonly")
    _owner: Tallies | None
    _thresholds: tuple[float, ...]
    _candidates: tuple[float, ...]
    _first: cython.double
    _first_candidates: cython.double
    _objective: cython.double
    _cold_until: cython.double
    _csp: cython.bint
    _rows: dict[int, Row]
    _row: Row | None
    #: Keys that were told of, by what for: a flood of one leaves the others their room.
    _failed: set[bytes]
    _refused: set[bytes]
    _violated: set[bytes]
    _slow: dict[bytes, int]
    _keys: set[bytes]
    _stable: Serves | None
    _met_at: cython.int
    _looked: cython.int

    def __init__(self, service: str, owner: Tallies) -> None:
        self.service = service
        self._owner = owner
        self._thresholds = self._candidates = ()
        self._first = self._first_candidates = 0.0
        self._objective = 2.0
        self._cold_until = 0.0
        self._csp = False
        self._rows = {}
        self._row = None
        self._failed = set()
        self._refused = set()
        self._violated = set()
        self._slow = {}
        self._keys = set()
        self._stable = None
        self._met_at = 0
        self._looked = 0

    def __repr__(self) -> str:
        return f"<ServiceTally {self.service} rows={len(self._rows)} failed={len(self._failed)}>"

    @cython.cfunc
    @cython.exceptval(-1)
    def _watch(self, watch: Watch | None) -> cython.bint:
        """Look at these latencies from now on."""
        self._thresholds = () if watch is None else watch.thresholds[:MAX_THRESHOLDS]
        self._candidates = self._thresholds
        if watch is not None and len(watch.candidates) == len(watch.thresholds):
            self._candidates = watch.candidates[:MAX_THRESHOLDS]
        self._first = min(self._thresholds, default=0.0)
        self._first_candidates = min(self._candidates, default=0.0)
        self._objective = 2.0 if watch is None else watch.objective
        self._cold_until = 0.0 if watch is None else watch.cold_until
        if watch is not None and watch.looked != self._looked:
            # Whoever judges begins anew, and so must what is told once.
            self._looked = watch.looked
            self._failed.clear()
            self._refused.clear()
            self._violated.clear()
            self._slow.clear()
            self._keys.clear()
        self._csp = watch is not None and watch.csp
        return True

    @cython.ccall
    def ended(
        self,
        side: cython.int,
        weight: cython.int,
        key: bytes,
        status: cython.int,
        fault: str,
        forwarded_at: cython.double,
        heard_at: cython.double,
        flags: cython.int,
    ) -> None:
        """Count a request, and tell of it where it speaks against its side.

        ``side`` is layout's index of the side that was asked first, ``status`` of its answer (0:
        there was none), ``fault`` the failure's name (empty: none, or a 5xx); the times are
        monotonic, of the request's being forwarded and of the head's (or the failure's) coming.
        ``key`` is empty where nothing is split. Nothing is counted once the release is over.
        """
        row: Row
        failed: cython.bint = status >= 500 or len(fault) > 0
        late: cython.bint = status == 0 and fault in _TIMEOUTS
        took: cython.double = -1.0
        if self._owner is None:
            return
        row = self._find(side, weight)
        row.requests += 1
        if failed:
            row.failed += 1
        if (
            (status > 0 or late)
            and not flags & _UNTIMED
            and not (side >= 2 and forwarded_at < self._cold_until)
        ):
            took = max(heard_at - forwarded_at, 0.0)
            self._time(row, took, late)
        if not key:
            return
        if side >= 2 and not flags & _STRAY and weight >= self._met_at:
            self._meet(row, key)
        if not flags & _UNJUDGED:
            self._judge(row, key, status, fault, failed, flags)
            if (
                took >= 0.0
                and self._thresholds
                and (late or took > (self._first_candidates if side >= 2 else self._first))
                and not self._is_alone(row)
            ):
                self._tell_slow(row, key, took, late, fault if late else str(status))

    def violated(self, side: cython.int, weight: cython.int, key: bytes, directive: str) -> None:
        """Tell of a key that a browser reported a content policy's violation for, once.

        The key is the reporter's address's: whoever makes up cookies is one reporter all the same.
        ``side`` and ``weight`` are those of the report's own request. It counts as no request.
        """
        if self._owner is None or not self._csp or not key or key in self._violated:
            return
        if len(self._violated) >= _MAX_TOLD:
            self._drop()
            return
        self._violated.add(key)
        self._tell(self._find(side, weight), key, "csp", directive)

    def follow(self, stable: Serves) -> None:
        """Compare with this pool from now on."""
        self._stable = stable

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_alone(self, row: Row) -> cython.bint:
        """Tell whether stable should answer and can serve nobody: there is nothing to compare with.

        In an outage of both, stable's breakers open first, for it has more of the requests. What
        is told of then would be told of never again.
        """
        if row.weight >= _FULL or self._stable is None:
            return False
        return not self._stable.serves()

    @cython.cfunc
    @cython.exceptval(-1)
    def _time(self, row: Row, took: cython.double, late: cython.bint) -> cython.bint:
        """Count a latency. ``late``: nothing came, which is slower than whatever there is."""
        bucket: int = bucket_of(took)
        row.timed += 1
        if late or took > self._objective:
            row.slow += 1
        row.buckets[bucket] = row.buckets.get(bucket, 0) + 1
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _judge(  # noqa: PLR0911 - a table of what becomes of a request
        self,
        row: Row,
        key: bytes,
        status: cython.int,
        fault: str,
        failed: cython.bint,
        flags: cython.int,
    ) -> cython.bint:
        """Count a request by which the sides are compared: the first failure of a key ends that."""
        if key in self._failed:
            return True
        if failed:
            if self._is_alone(row):
                return True
            if len(self._failed) >= _MAX_TOLD:
                return self._drop()
            self._failed.add(key)
            row.judged += 1
            row.spoiled += 1
            return self._tell(row, key, "error", str(status) if status >= 500 else fault)
        row.judged += 1
        if (
            400 < status < 423
            and status in REFUSALS
            and not flags & _ASSET
            and key not in self._refused
            and not self._is_alone(row)
        ):
            if len(self._refused) >= _MAX_TOLD:
                return self._drop()
            self._refused.add(key)
            return self._tell(row, key, "refusal", str(status))
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _drop(self) -> cython.bint:
        """Note that there is no room to remember one more key as told."""
        owner = self._owner
        assert owner is not None
        owner.dropped += 1
        return True

    @cython.cfunc
    def _find(self, side: cython.int, weight: cython.int) -> Row:
        """Return the row of a side and a weight: mostly the last request's."""
        place: cython.longlong
        row: Row | None = self._row
        if row is None or row.side != side or row.weight != weight:
            place = weight * 4 + side
            row = self._rows.get(place)
            if row is None:
                row = Row(side, weight)
                self._rows[place] = row
            self._row = row
        return row

    @cython.cfunc
    @cython.exceptval(-1)
    def _meet(self, row: Row, key: bytes) -> cython.bint:
        """Have a key of the candidate told of, if it is new at this weight.

        A step is judged on clients of its own. Weights of a release rise: what is lower is a
        request of the step before that took its time.
        """
        if row.weight > self._met_at:
            self._met_at = row.weight
            self._keys.clear()
        if len(self._keys) < _MAX_KEYS and key not in self._keys:
            self._keys.add(key)
            row.keys.append(int(key, 16))
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _tell(self, row: Row, key: bytes, metric: Metric, kind: str) -> cython.bint:
        owner = self._owner
        assert owner is not None
        return owner._wait(self._failure(row, key, metric, kind))

    @cython.cfunc
    @cython.exceptval(-1)
    def _tell_slow(
        self, row: Row, key: bytes, took: cython.double, late: cython.bint, kind: str
    ) -> cython.bint:
        """Tell of the thresholds that a key was not slower than before."""
        owner = self._owner
        assert owner is not None
        before: cython.longlong = self._slow.get(key, 0)
        slower: cython.longlong = 0
        bit: cython.longlong = 1
        for threshold in self._candidates if row.side >= 2 else self._thresholds:
            if late or took > threshold:
                slower |= bit
            bit += bit
        slower &= ~before
        if slower == 0:
            return True
        if before == 0 and len(self._slow) >= _MAX_TOLD:
            owner.dropped += 1
            return True
        self._slow[key] = before | slower
        return owner._wait(self._failure(row, key, "slow", kind, slower))

    @cython.cfunc
    def _failure(
        self, row: Row, key: bytes, metric: Metric, kind: str, slower: cython.longlong = 0
    ) -> RequestFailed:
        owner = self._owner
        assert owner is not None
        return RequestFailed(
            service=self.service,
            color=_COLORS[row.side],
            candidate=row.side >= 2,
            weight=row.weight,
            key=int(key, 16),
            metric=metric,
            kind=kind,
            at=owner.wall(),
            slower=slower,
        )

    @cython.cfunc
    @cython.exceptval(-1)
    def _collect(self, found: list[Counted]) -> cython.bint:
        """Add the rows that have counted anything."""
        row: Row
        for row in self._rows.values():
            if row.requests:
                found.append(row._message(self.service))  # noqa: PERF401 - typed, it is a C call
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _begin_anew(self) -> cython.bint:
        """What was counted is told. A row that nothing came to since the last time is let go."""
        row: Row
        rows: dict[int, Row] = {}
        for place, row in self._rows.items():
            if row.requests:
                row._empty()
                rows[place] = row
        self._rows = rows
        self._row = None
        return True


@cython.final
@cython.cclass
class Tallies:
    """A worker's tallies, by service, and what of them waits to be told.

    ``wall`` is the epoch's clock in seconds; ``soon`` has something called in the loop's next turn;
    ``tell`` sends a message, or returns False where control is away.
    """

    wall: Callable[[], float] = cython.declare(object, visibility="readonly")
    #: Failures that could not be told of one by one.
    dropped: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    _soon: Callable[[Callable[[], None]], object]
    _say: Callable[[Failures | Tally], bool]
    _release: str
    _services: dict[str, ServiceTally]
    _waiting: list[RequestFailed]
    _called: cython.bint
    _away: cython.bint
    _due: cython.double

    def __init__(
        self,
        wall: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
        tell: Callable[[Failures | Tally], bool],
    ) -> None:
        self.wall = wall
        self.dropped = 0
        self._soon = soon
        self._say = tell
        self._release = ""
        self._services = {}
        self._waiting = []
        self._called = False
        self._away = False
        self._due = 0.0

    def __repr__(self) -> str:
        return f"<Tallies of {self._release!r} waiting={len(self._waiting)}>"

    def serve(
        self, release: str, services: Iterable[str], watches: Iterable[Watch]
    ) -> dict[str, ServiceTally]:
        """Count for these services and this split's id from now on; return the services' tallies.

        They are the same as before where the id is. Of another one all begins anew, and what a
        request of the former has to say when it ends is not wanted any more.
        """
        tally: ServiceTally | None
        watched = {watch.service: watch for watch in watches}
        known: dict[str, ServiceTally] = self._services
        kept: dict[str, ServiceTally] = {}
        if release != self._release:
            self.flush()
            self._waiting = []
            self.dropped = 0
            known = {}
        for service in services:
            tally = known.get(service)
            if tally is None:
                tally = ServiceTally(service, self)
            tally._watch(watched.get(service))
            kept[service] = tally
        for tally in self._services.values():
            if kept.get(tally.service) is not tally:
                tally._owner = None
        self._release = release
        self._services = kept
        return kept

    def turn(self, now: cython.double) -> None:
        """Every turn of the wheel: what waits is told, and what was counted where it is time."""
        self._away = False
        self._tell_waiting()
        if now >= self._due:
            self._due = now + _EVERY
            self._tell_counts()

    def flush(self) -> None:
        """Tell everything now."""
        self._away = False
        self._tell_waiting()
        self._tell_counts()

    def _on_turn_end(self) -> None:
        self._called = False
        self._tell_waiting()

    @cython.cfunc
    @cython.exceptval(-1)
    def _wait(self, failure: RequestFailed) -> cython.bint:
        """Have a failure told once this turn of the loop is over."""
        if len(self._waiting) >= _MAX_WAITING:
            self.dropped += 1
            return True
        self._waiting.append(failure)
        # While control is away the wheel's turns look for it.
        if not self._called and not self._away:
            self._called = True
            self._soon(self._on_turn_end)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _tell_waiting(self) -> cython.bint:
        if not self._waiting and not self.dropped:
            return True
        message = Failures(
            release=self._release, failures=tuple(self._waiting), dropped=self.dropped
        )
        if self._say(message):
            self._waiting = []
            self.dropped = 0
        else:
            self._away = True
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _tell_counts(self) -> cython.bint:
        """Tell of all rows, or of none where control is away: they go on counting."""
        rows: list[Counted] = []
        tally: ServiceTally
        for tally in self._services.values():
            tally._collect(rows)
        if not rows:
            return True
        if self._say(Tally(release=self._release, rows=tuple(rows))):
            for tally in self._services.values():
                tally._begin_anew()
        return True
