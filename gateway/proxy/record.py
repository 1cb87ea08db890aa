"""What is kept of a request once it is over: counters on the board, one line of the access log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.board import layout
from gateway.policy.queue import may_enter
from gateway.proxy.logline import MAX_LINE, Line, escaped
from gateway.wire.fields import REFERER, USER_AGENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.wire.head import Head

#: Octets of a value that a line holds at most, and twice as many of a target.
MAX_VALUE = 512


#: By side index + 1; side -1 is a request that no service was found for.
_SIDES = cython.declare(
    tuple,
    tuple(
        b'","color":"%b","role":"%b","request_id":"' % side
        for side in (
            (b"", b""),
            (b"blue", b"stable"),
            (b"green", b"stable"),
            (b"blue", b"candidate"),
            (b"green", b"candidate"),
        )
    ),
)

_METHODS: dict[bytes, int] = {name.encode(): at for at, name in enumerate(layout.METHODS)}
_OTHER_METHOD = cython.declare(cython.int, len(layout.METHODS) - 1)
_SLABS_AT = cython.declare(cython.Py_ssize_t, layout.SLABS_AT)
_SLAB_WORDS = cython.declare(cython.Py_ssize_t, layout.SLAB_WORDS)
_ROWS_AT = cython.declare(cython.Py_ssize_t, layout.ROWS_AT)
_ROW_WORDS = cython.declare(cython.Py_ssize_t, layout.ROW_WORDS)
_ROW_IN_FLIGHT = cython.declare(cython.Py_ssize_t, layout.ROW_IN_FLIGHT)
_TO_WAITING = cython.declare(cython.Py_ssize_t, layout.ROW_WAITING - layout.ROW_IN_FLIGHT)
_SIDE_WORDS = cython.declare(cython.Py_ssize_t, layout.SIDE_WORDS)
_REQUEST_SECONDS = cython.declare(cython.Py_ssize_t, layout.SIDE_REQUEST_SECONDS)
_UPSTREAM_SECONDS = cython.declare(cython.Py_ssize_t, layout.SIDE_UPSTREAM_SECONDS)
_BUCKETS = cython.declare(cython.int, len(layout.BOUNDS_MS))
#: Upper bounds in microseconds.
_BOUNDS = cython.declare(cython.longlong[64])  # type: ignore[misc, valid-type]
if not cython.compiled:
    _BOUNDS = [0] * 64
assert len(layout.BOUNDS_MS) <= 64
_place = cython.declare(cython.int, 0)
for _place in range(len(layout.BOUNDS_MS)):
    _BOUNDS[_place] = layout.BOUNDS_MS[_place] * 1000
_S_IN_FLIGHT = cython.declare(cython.Py_ssize_t, layout.S_IN_FLIGHT)
_S_TUNNELS = cython.declare(cython.Py_ssize_t, layout.S_TUNNELS)


@cython.final
@cython.cclass
class Outcome:
    """Everything known of a request at its end. Times are in seconds, monotonic.

    ``weight``, ``key`` and ``first`` are the release analysis's: the weight in force when the
    request was assigned, the opaque cohort key, and the first attempt's failure (None: it did not
    fail), whatever was done about it afterwards. ``side`` is layout's side index.
    ``subject``, set afterwards, stands for who asked (empty: not known), ``queued`` for the seconds
    that it waited for a place in flight (below 0: it did not).
    """

    head: Head | None
    method: bytes
    host: bytes
    target: bytes
    client: str
    status: cython.int
    received: cython.longlong
    sent: cython.longlong
    started: cython.double
    forwarded_at: cython.double
    answered_at: cython.double
    ended: cython.double
    service: str
    row: cython.Py_ssize_t
    side: cython.int
    endpoint: str
    request_id: bytes
    trace: bytes
    weight: cython.int
    key: bytes
    override: cython.bint
    first: object
    error: str
    served_by: str
    tunnel: cython.bint
    subject: str = cython.declare(str, visibility="public")
    queued: cython.double = cython.declare(cython.double, visibility="public")

    @cython.ccall
    @cython.exceptval(-1)
    def fill(  # noqa: PLR0913, PLR0917 - one call with everything is what makes it cheap
        self,
        head: Head | None,
        method: bytes,
        host: bytes,
        target: bytes,
        client: str,
        status: cython.int,
        received: cython.longlong,
        sent: cython.longlong,
        started: cython.double,
        forwarded_at: cython.double,
        answered_at: cython.double,
        ended: cython.double,
        service: str,
        row: cython.Py_ssize_t,
        side: cython.int,
        endpoint: str,
        request_id: bytes,
        trace: bytes,
        weight: cython.int,
        key: bytes,
        override: cython.bint,
        first: object,
        error: str,
        served_by: str,
        tunnel: cython.bint,
    ) -> cython.bint:
        """Set everything, in C's types. Before that there is nothing in it."""
        self.head = head
        self.method = method
        self.host = host
        self.target = target
        self.client = client
        self.status = status
        self.received = received
        self.sent = sent
        self.started = started
        self.forwarded_at = forwarded_at
        self.answered_at = answered_at
        self.ended = ended
        self.service = service
        self.row = row
        self.side = side
        self.endpoint = endpoint
        self.request_id = request_id
        self.trace = trace
        self.weight = weight
        self.key = key
        self.override = override
        self.first = first
        self.error = error
        self.served_by = served_by
        self.tunnel = tunnel
        self.subject = ""
        self.queued = -1.0
        return True


@cython.final
@cython.cclass
class Recorder:
    """Writes outcomes: counters into this worker's slab, lines to the log (None: no log)."""

    # mypy has no typed memoryviews.
    _words: memoryview = cython.declare(cython.ulonglong[:])  # type: ignore[misc]
    _slab: cython.Py_ssize_t
    _slabs: cython.Py_ssize_t
    _wall: Callable[[], float]
    _date: Callable[[int], str]
    _log: Callable[[bytes], None] | None
    _second: cython.longlong
    _stamp: bytes
    _writer: Line

    def __init__(
        self,
        words: memoryview,
        slab: int,
        slabs: int,
        wall: Callable[[], float],
        date: Callable[[int], str],
        log: Callable[[bytes], None] | None,
    ) -> None:
        self._words = words
        self._slab = layout.slab_at(slab)
        self._slabs = slabs
        self._wall = wall
        self._date = date
        self._log = log
        self._second = -1
        self._stamp = b""
        self._writer = Line()

    def log_to(self, log: Callable[[bytes], None] | None) -> None:
        """Send the lines elsewhere from now on; None: nowhere."""
        self._log = log

    @cython.ccall
    @cython.exceptval(-1)
    def enter(self, row: cython.Py_ssize_t, limit: cython.ulonglong) -> cython.bint:
        """Count a request in on its service; False (and not counted) at the machine's limit.

        Also False where what is free is for other workers' waiters; this one has none here.
        """
        i: cython.Py_ssize_t
        total: cython.ulonglong = 0
        waits: cython.ulonglong
        waiting: cython.ulonglong = 0
        rivals: cython.int = 0
        place: cython.Py_ssize_t = _ROWS_AT + row * _ROW_WORDS + _ROW_IN_FLIGHT
        for i in range(self._slabs):
            total += self._words[_SLABS_AT + i * _SLAB_WORDS + place]
            waits = self._words[_SLABS_AT + i * _SLAB_WORDS + place + _TO_WAITING]
            if waits:
                waiting += waits
                rivals += 1
        if total >= limit:
            return False
        if waiting and not may_enter(
            self._words[self._slab + place], total, limit, rivals, waiting
        ):
            return False
        self._words[self._slab + place] += 1
        self._words[self._slab + _S_IN_FLIGHT] += 1
        return True

    @cython.ccall
    def leave(self, row: cython.Py_ssize_t) -> None:
        """Count a request out."""
        self._words[self._slab + _ROWS_AT + row * _ROW_WORDS + _ROW_IN_FLIGHT] -= 1
        self._words[self._slab + _S_IN_FLIGHT] -= 1

    def tunnel(self, change: cython.int) -> None:
        """Count a tunnel opened (1) or closed (-1)."""
        if change > 0:
            self._words[self._slab + _S_TUNNELS] += 1
        else:
            self._words[self._slab + _S_TUNNELS] -= 1

    @cython.ccall
    def count(self, row: cython.Py_ssize_t, word: cython.Py_ssize_t) -> None:
        """Count one more of a row's counters (layout's ROW_*)."""
        self._words[self._slab + _ROWS_AT + row * _ROW_WORDS + word] += 1

    @cython.ccall
    def record(self, outcome: Outcome) -> None:
        """Count a request and write its line."""
        side: cython.Py_ssize_t = self._slab + _ROWS_AT + outcome.row * _ROW_WORDS
        method: cython.int = _METHODS.get(outcome.method, _OTHER_METHOD)
        code: cython.int = outcome.status // 100 - 1
        duration: cython.longlong = _micros(outcome.ended - outcome.started)
        upstream: cython.longlong = -1
        if outcome.side > 0:
            side += outcome.side * _SIDE_WORDS
        if outcome.status == 499 or not 0 <= code <= 4:
            code = 5
        self._words[side + method * 6 + code] += 1
        if not outcome.tunnel:
            self._observe(side + _REQUEST_SECONDS, duration)
        if outcome.answered_at > 0:
            upstream = _micros(outcome.answered_at - outcome.forwarded_at)
            self._observe(side + _UPSTREAM_SECONDS, upstream)
        if self._log is not None:
            line = self._line(outcome, duration, upstream, MAX_VALUE)
            if len(line) > MAX_LINE:
                # Escapes may treble a value.
                line = self._line(outcome, duration, upstream, MAX_VALUE // 4)
            self._log(line)

    @cython.cfunc
    @cython.exceptval(-1)
    def _observe(self, at: cython.Py_ssize_t, micros: cython.longlong) -> cython.bint:
        """Put one duration into the histogram at ``at``."""
        i: cython.int
        bucket: cython.int = _BUCKETS
        for i in range(_BUCKETS):
            if micros <= _BOUNDS[i]:
                bucket = i
                break
        self._words[at + bucket] += 1
        self._words[at + _BUCKETS + 1] += micros
        return True

    @cython.cfunc
    def _line(
        self,
        outcome: Outcome,
        duration: cython.longlong,
        upstream: cython.longlong,
        room: cython.Py_ssize_t,
    ) -> bytes:
        wall: cython.double = self._wall()
        second: cython.longlong = cython.cast(cython.longlong, wall)
        millis: cython.int = cython.cast(cython.int, (wall - second) * 1000)
        line: Line = self._writer
        if second != self._second:
            self._second = second
            self._stamp = b'{"time":"' + self._date(second).encode() + b"."
        line.size = 0
        line.put(self._stamp)
        line.number(millis, 3)
        line.put(b'Z","client":"')
        line.put(outcome.client.encode())
        line.put(b'","method":"')
        line.shown(outcome.method, MAX_LINE)
        line.put(b'","host":"')
        line.shown(outcome.host, MAX_LINE)
        line.put(b'","target":"')
        line.shown(outcome.target, 2 * room)
        line.put(b'","status":')
        line.number(outcome.status, 1)
        line.put(b',"received":')
        line.number(outcome.received, 1)
        line.put(b',"sent":')
        line.number(outcome.sent, 1)
        line.put(b',"duration_ms":')
        line.millis(duration)
        line.put(b',"service":"')
        line.put(outcome.service.encode())
        line.put(_SIDES[outcome.side + 1])
        line.shown(outcome.request_id, MAX_LINE)
        line.put(b'","trace":"')
        line.put(outcome.trace[3:35])
        line.put(b'"')
        if upstream >= 0:
            line.put(b',"upstream_ms":')
            line.millis(upstream)
        if outcome.queued >= 0.0:
            line.put(b',"queued_ms":')
            line.millis(_micros(outcome.queued))
        self._more(line, outcome, room)
        return line.take()

    @cython.cfunc
    @cython.exceptval(-1)
    def _more(self, line: Line, outcome: Outcome, room: cython.Py_ssize_t) -> cython.bint:
        """Add what not every line has."""
        agent: bytes | None = None
        referer: bytes | None = None
        if outcome.head is not None:
            agent = outcome.head.get(USER_AGENT)
            referer = outcome.head.get(REFERER)
        if outcome.endpoint:
            line.put(b',"endpoint":"' + outcome.endpoint.encode() + b'"')
        if outcome.key:
            line.put(b',"weight":')
            line.number(outcome.weight, 1)
            line.put(b',"key":"')
            line.put(outcome.key)
            line.put(b'"')
        if outcome.subject:
            line.put(b',"subject":"' + escaped(outcome.subject.encode()).encode() + b'"')
        if outcome.override:
            line.put(b',"override":true')
        if outcome.first is not None:
            line.put(f',"first":"{outcome.first}"'.encode())
        if outcome.error:
            line.put(f',"error":"{outcome.error}"'.encode())
        if outcome.served_by:
            line.put(f',"served_by":"{outcome.served_by}"'.encode())
        if referer is not None:
            line.put(b',"referer":"')
            line.shown(referer, room)
            line.put(b'"')
        if agent is not None:
            line.put(b',"user_agent":"')
            line.shown(agent, room)
            line.put(b'"')
        return line.put(b"}\n")


@cython.cfunc
@cython.exceptval(check=False)
def _micros(seconds: cython.double) -> cython.longlong:
    return cython.cast(cython.longlong, seconds * 1_000_000) if seconds > 0 else 0
