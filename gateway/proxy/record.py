"""What is kept of a request once it is over: counters on the board, one line of the access log.

The log line is JSON, made without a dict: fixed text around values whose octets are looked at once
and copied when nothing in them needs an escape, which is nearly always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.board import layout
from gateway.wire.fields import REFERER, USER_AGENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.wire.head import Head

#: Octets of a value that a line holds at most, and twice as many of a target: a line must fit one
#: write to a pipe.
MAX_VALUE = 512
MAX_LINE = 4096


def _safe_table() -> bytes:
    """Build the table of octets that stand for themselves in a JSON string."""
    table = bytearray(256)
    for octet in range(0x20, 0x7F):
        table[octet] = 1
    table[0x22] = table[0x5C] = 0
    return bytes(table)


_SAFE = cython.declare(bytes, _safe_table())
_SHORT = {
    0x22: '\\"',
    0x5C: "\\\\",
    0x08: "\\b",
    0x0C: "\\f",
    0x0A: "\\n",
    0x0D: "\\r",
    0x09: "\\t",
}

_METHODS: dict[bytes, int] = {name.encode(): at for at, name in enumerate(layout.METHODS)}
_OTHER_METHOD = cython.declare(cython.int, len(layout.METHODS) - 1)
_BOUNDS = cython.declare(tuple, tuple(bound * 1000 for bound in layout.BOUNDS_MS))
_SLABS_AT = cython.declare(cython.Py_ssize_t, layout.SLABS_AT)
_SLAB_WORDS = cython.declare(cython.Py_ssize_t, layout.SLAB_WORDS)
_ROWS_AT = cython.declare(cython.Py_ssize_t, layout.ROWS_AT)
_ROW_WORDS = cython.declare(cython.Py_ssize_t, layout.ROW_WORDS)
_ROW_IN_FLIGHT = cython.declare(cython.Py_ssize_t, layout.ROW_IN_FLIGHT)
_SIDE_WORDS = cython.declare(cython.Py_ssize_t, layout.SIDE_WORDS)
_REQUEST_SECONDS = cython.declare(cython.Py_ssize_t, layout.SIDE_REQUEST_SECONDS)
_UPSTREAM_SECONDS = cython.declare(cython.Py_ssize_t, layout.SIDE_UPSTREAM_SECONDS)
_BUCKETS = cython.declare(cython.int, len(layout.BOUNDS_MS))
_S_IN_FLIGHT = cython.declare(cython.Py_ssize_t, layout.S_IN_FLIGHT)
_S_TUNNELS = cython.declare(cython.Py_ssize_t, layout.S_TUNNELS)


@cython.ccall
def escaped(value: bytes) -> str:
    """Return the inside of a JSON string for these octets (RFC 8259 section 7).

    They are read as UTF-8; what is not UTF-8 becomes U+FFFD. What is not printable is written as
    ``\\u``: no terminal that shows the log is moved by it, no reader of it sees another line.
    """
    i: cython.Py_ssize_t
    safe: bytes = _SAFE
    for i in range(len(value)):
        if not safe[value[i]]:
            return _escape(value)
    return value.decode("ascii")


@cython.cfunc
def _shown(value: bytes, room: cython.Py_ssize_t) -> str:
    """Return the inside of a JSON string for the first ``room`` octets."""
    return escaped(value if len(value) <= room else value[:room])


def _escape(value: bytes) -> str:
    pieces: list[str] = []
    for letter in value.decode("utf-8", "replace"):
        code = ord(letter)
        if code in _SHORT:
            pieces.append(_SHORT[code])
        elif letter.isprintable():
            pieces.append(letter)
        elif code < 0x10000:
            pieces.append(f"\\u{code:04x}")
        else:
            code -= 0x10000
            pieces.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
    return "".join(pieces)


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

    def __init__(  # noqa: PLR0913, PLR0917 - one call with everything is what makes it cheap
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
    ) -> None:
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
    _stamp: str

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
        self._stamp = ""

    def log_to(self, log: Callable[[bytes], None] | None) -> None:
        """Send the lines elsewhere from now on; None: nowhere."""
        self._log = log

    def enter(self, row: cython.Py_ssize_t, limit: cython.ulonglong) -> bool:
        """Count a request in on its service; False (and not counted) at the machine's limit."""
        i: cython.Py_ssize_t
        total: cython.ulonglong = 0
        place: cython.Py_ssize_t = _ROWS_AT + row * _ROW_WORDS + _ROW_IN_FLIGHT
        for i in range(self._slabs):
            total += self._words[_SLABS_AT + i * _SLAB_WORDS + place]
        if total >= limit:
            return False
        self._words[self._slab + place] += 1
        self._words[self._slab + _S_IN_FLIGHT] += 1
        return True

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

    def count(self, row: cython.Py_ssize_t, word: cython.Py_ssize_t) -> None:
        """Count one more of a row's counters (layout's ROW_*)."""
        self._words[self._slab + _ROWS_AT + row * _ROW_WORDS + word] += 1

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
            line = self._line(outcome, duration, upstream, MAX_VALUE).encode()
            if len(line) > MAX_LINE:
                # Escapes may treble a value.
                line = self._line(outcome, duration, upstream, MAX_VALUE // 4).encode()
            self._log(line)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _observe(self, at: cython.Py_ssize_t, micros: cython.longlong) -> cython.bint:
        """Put one duration into the histogram at ``at``."""
        i: cython.int
        bounds: tuple[int, ...] = _BOUNDS
        bound: cython.longlong
        bucket: cython.int = _BUCKETS
        for i in range(_BUCKETS):
            bound = bounds[i]
            if micros <= bound:
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
    ) -> str:
        wall: cython.double = self._wall()
        second: cython.longlong = cython.cast(cython.longlong, wall)
        millis: cython.int = cython.cast(cython.int, (wall - second) * 1000)
        agent: bytes | None = None
        referer: bytes | None = None
        tail: str = ""
        if second != self._second:
            self._second = second
            self._stamp = self._date(second)
        if outcome.head is not None:
            agent = outcome.head.get(USER_AGENT)
            referer = outcome.head.get(REFERER)
        if upstream >= 0 or outcome.queued >= 0.0:
            tail = _parts(upstream, outcome.queued)
        if outcome.endpoint:
            tail += f',"endpoint":"{outcome.endpoint}"'
        if outcome.key:
            tail += f',"weight":{outcome.weight},"key":"{outcome.key.decode("ascii")}"'
        if outcome.subject:
            tail += f',"subject":"{escaped(outcome.subject.encode())}"'
        if outcome.override:
            tail += ',"override":true'
        if outcome.first is not None:
            tail += f',"first":"{outcome.first}"'
        if outcome.error:
            tail += f',"error":"{outcome.error}"'
        if outcome.served_by:
            tail += f',"served_by":"{outcome.served_by}"'
        if referer is not None:
            tail += f',"referer":"{_shown(referer, room)}"'
        if agent is not None:
            tail += f',"user_agent":"{_shown(agent, room)}"'
        return (
            f'{{"time":"{self._stamp}.{millis:03d}Z","client":"{outcome.client}",'
            f'"method":"{escaped(outcome.method)}","host":"{escaped(outcome.host)}",'
            f'"target":"{_shown(outcome.target, 2 * room)}","status":{outcome.status},'
            f'"received":{outcome.received},"sent":{outcome.sent},'
            f'"duration_ms":{duration // 1000}.{duration % 1000:03d},'
            f'"service":"{outcome.service}","color":"{_COLORS[outcome.side + 1]}",'
            f'"role":"{_ROLES[outcome.side + 1]}","request_id":"{escaped(outcome.request_id)}",'
            f'"trace":"{outcome.trace[3:35].decode("ascii")}"{tail}}}\n'
        )


#: By side index + 1; side -1 is a request that no service was found for.
_COLORS = ("", "blue", "green", "blue", "green")
_ROLES = ("", "stable", "stable", "candidate", "candidate")


@cython.cfunc
def _parts(upstream: cython.longlong, queued: cython.double) -> str:
    """Return what there is of a request's time at the backend (microseconds) and in the queue
    (seconds); below 0 there is none.
    """
    waited: cython.longlong = _micros(queued)
    tail: str = ""
    if upstream >= 0:
        tail = f',"upstream_ms":{upstream // 1000}.{upstream % 1000:03d}'
    if queued >= 0.0:
        tail += f',"queued_ms":{waited // 1000}.{waited % 1000:03d}'
    return tail


@cython.cfunc
@cython.exceptval(check=False)
def _micros(seconds: cython.double) -> cython.longlong:
    return cython.cast(cython.longlong, seconds * 1_000_000) if seconds > 0 else 0
