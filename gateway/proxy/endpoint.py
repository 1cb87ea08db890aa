"""Endpoints and pools as a worker sees them: idle connections, in-flight counts, the choice.

Counting and picking is one synchronous step: ``Pool.claim`` returns an endpoint whose in-flight
count on the board already includes the request. Loads are the machine's (summed over the workers'
slabs), so two workers never think the same endpoint idle. An ``Endpoint`` is kept by its id across
snapshots; nothing of it is rebuilt when the configuration moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.board import layout
from gateway.board.judge import can_serve
from gateway.policy.balance import by_hash, pick_pair, seed
from gateway.policy.breaker import warmth

if TYPE_CHECKING:
    import ssl

    from gateway.proxy.breaker import Guard
    from gateway.proxy.links import Closable

#: Idle connections kept to one endpoint, by one worker.
MAX_IDLE = 256
#: Seconds that an idle connection is kept: shorter than most backends keep theirs.
IDLE_TIMEOUT = 55.0

_MAX_IDLE = cython.declare(cython.Py_ssize_t, MAX_IDLE)
_CELLS_AT = cython.declare(cython.Py_ssize_t, layout.CELLS_AT)
_CELL_WORDS = cython.declare(cython.Py_ssize_t, layout.CELL_WORDS)
_ENDPOINT_WORDS = cython.declare(cython.Py_ssize_t, layout.ENDPOINT_WORDS)
_ENDPOINTS_AT = cython.declare(cython.Py_ssize_t, layout.ENDPOINTS_AT)
_SLABS_AT = cython.declare(cython.Py_ssize_t, layout.SLABS_AT)
_SLAB_WORDS = cython.declare(cython.Py_ssize_t, layout.SLAB_WORDS)
_DOWN = cython.declare(cython.int, layout.DOWN)
_UP = cython.declare(cython.int, layout.UP)
_BREAKER = cython.declare(cython.Py_ssize_t, layout.CELL_BREAKER)
_RUN = cython.declare(cython.Py_ssize_t, layout.CELL_RUN)
_EJECTED_UNTIL = cython.declare(cython.Py_ssize_t, layout.CELL_EJECTED_UNTIL)
_WARM_FROM = cython.declare(cython.Py_ssize_t, layout.CELL_WARM_FROM)

LEAST_REQUEST, ROUND_ROBIN, HASH = 0, 1, 2
_LEAST_REQUEST = cython.declare(cython.int, LEAST_REQUEST)
_ROUND_ROBIN = cython.declare(cython.int, ROUND_ROBIN)

#: Requests in flight that an endpoint may always have, however cold it is.
FEW = 4
_LOW = cython.declare(cython.ulonglong, 0xFFFFFFFF)
_FEW = cython.declare(cython.double, float(FEW))

#: What an endpoint can do for a request now, the best first: it is up; not seen yet; ejected; down;
#: its breaker is open.
READY, UNSEEN, OUT, IS_DOWN, LEFT_ALONE = 0, 1, 2, 3, 4
_LEFT_ALONE = cython.declare(cython.int, LEFT_ALONE)
_HASH = cython.declare(cython.int, HASH)


@cython.final
@cython.cclass
class Endpoint:
    """One endpoint: where it is, its idle connections, its words on the board.

    ``words`` is the whole board; ``slab`` this worker's. ``tls`` is None for ``http``. ``guard`` is
    its breaker, None for an endpoint that has none.
    """

    id: str = cython.declare(str, visibility="readonly")
    host: str = cython.declare(str, visibility="readonly")
    port: cython.int = cython.declare(cython.int, visibility="readonly")
    tls: ssl.SSLContext | None = cython.declare(object, visibility="readonly")
    host_line: bytes = cython.declare(bytes, visibility="readonly")
    identity: bytes = cython.declare(bytes, visibility="readonly")
    cell: cython.Py_ssize_t = cython.declare(cython.Py_ssize_t, visibility="readonly")
    idle_timeout: cython.double = cython.declare(cython.double, visibility="readonly")
    retired: cython.bint = cython.declare(cython.bint, visibility="readonly")
    connections: set[Closable] = cython.declare(set, visibility="readonly")
    guard: Guard | None = cython.declare(object, visibility="public")
    probed: cython.bint = cython.declare(cython.bint, visibility="readonly")
    _idle: list[Closable]
    # mypy has no typed memoryviews.
    _words: memoryview = cython.declare(cython.ulonglong[:])  # type: ignore[misc]
    _own: cython.Py_ssize_t
    _at: cython.Py_ssize_t
    _slabs: cython.Py_ssize_t

    def __init__(  # noqa: PLR0913 - an endpoint is what it is made of
        self,
        *,
        id: str,  # noqa: A002 - the public name of it
        host: str,
        port: int,
        authority: str,
        tls: ssl.SSLContext | None,
        cell: int,
        words: memoryview,
        slab: int,
        slabs: int,
    ) -> None:
        self.id = id
        self.host = host
        self.port = port
        self.tls = tls
        self.host_line = b"Host: " + authority.encode() + b"\r\n"
        self.identity = f"{host}:{port}".encode()
        self.cell = cell
        self.idle_timeout = IDLE_TIMEOUT
        self.retired = False
        self.connections = set()
        self.guard = None
        self.probed = False
        self._idle = []
        self._words = words
        self._own = layout.slab_at(slab) + layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS
        self._at = layout.cell_at(cell)
        self._slabs = slabs

    def __repr__(self) -> str:
        return f"<Endpoint {self.id} {self.host}:{self.port} in_flight={self.load()}>"

    def health(self) -> int:
        """Return what control knows of it: UNKNOWN, UP or DOWN."""
        return self._words[self._at]

    def breaker(self) -> int:
        """Return its breaker's state: a ``BREAKER_*`` of the layout."""
        return self._words[self._at + _BREAKER]

    @cython.ccall
    @cython.exceptval(-1)
    def standing(self, now: cython.ulonglong) -> cython.int:
        """Return what it can do for a request now, 0 for the best (see ``READY``).

        ``now`` is CLOCK_MONOTONIC in nanoseconds.
        """
        at: cython.Py_ssize_t = self._at
        health: cython.ulonglong
        if self._words[at + _BREAKER] != 0:
            return 4
        if self._words[at + _EJECTED_UNTIL] > now:
            return 2
        health = self._words[at]
        if health == _UP:
            return 0
        return 3 if health == _DOWN else 1

    @cython.ccall
    @cython.exceptval(check=True)
    def warmth(self, now: cython.ulonglong, slow_start: cython.double) -> cython.double:
        """Return the part of its share that it gets now: less than 1 while it warms up."""
        begun: cython.ulonglong = self._words[self._at + _WARM_FROM]
        if begun == 0 or begun > now:
            return 1.0
        return warmth((now - begun) / 1e9, slow_start)

    @cython.ccall
    def load(self) -> cython.longlong:
        """Return the machine's requests in flight to it."""
        total: cython.ulonglong = 0
        at: cython.Py_ssize_t = _SLABS_AT + _ENDPOINTS_AT + self.cell * _ENDPOINT_WORDS
        i: cython.Py_ssize_t
        for i in range(self._slabs):
            total += self._words[at + i * _SLAB_WORDS]
        return total

    @cython.ccall
    @cython.exceptval(check=True)
    def claim(self) -> cython.bint:
        """Count one more in flight, and one more begun."""
        self._words[self._own] += 1
        self._words[self._own + 2] += 1
        return True

    def take_probe(self) -> int:
        """Return, once, the number of its breaker's probe that the request just claimed is.

        0: it is none.
        """
        guard = self.guard
        if not self.probed or guard is None:
            return 0
        self.probed = False
        return guard.probe

    @cython.ccall
    @cython.exceptval(check=True)
    def _probe(self) -> cython.bint:
        """Take its open breaker's one probe for the request being claimed."""
        guard = self.guard
        if guard is None or not guard.may_probe():
            return False
        self.probed = True
        return True

    @cython.ccall
    def release(self, good: cython.bint = False) -> None:
        """Count one less in flight; a ``good`` one ends the row of failures."""
        self._words[self._own] -= 1
        if good and self._words[self._at + _RUN] != 0:
            self._words[self._at + _RUN] = 0

    @cython.ccall
    def passed(self) -> None:
        """An answer has begun well: the row of failures ends."""
        if self._words[self._at + _RUN] != 0:
            self._words[self._at + _RUN] = 0

    def failed(self, unreached: bool, probe: int) -> None:
        """Count one failed attempt, that its breaker counts too.

        ``unreached``: no connection could be made; ``probe``: its number, 0 where it was none.
        """
        self._words[self._own + 3] += 1
        guard = self.guard
        if guard is None:
            return
        if probe:
            guard.end_probe(False, probe)
        else:
            guard.failed(unreached)

    def tunnel(self, change: cython.int) -> None:
        """Count a tunnel opened (1) or closed (-1)."""
        if change > 0:
            self._words[self._own + 1] += 1
        else:
            self._words[self._own + 1] -= 1

    # --- connections ----------------------------------------------------------------------------

    @cython.ccall
    def take_idle(self) -> Closable | None:
        """Return the connection that was used last (the likeliest alive), None for none."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    @cython.ccall
    def give_back(self, connection: Closable) -> None:
        """Keep a connection for the next request; the oldest gives way beyond the bound."""
        if self.retired:
            connection.abort()
            self.connections.discard(connection)
            return
        self._idle.append(connection)
        if len(self._idle) > _MAX_IDLE:
            oldest = self._idle.pop(0)
            oldest.abort()
            self.connections.discard(oldest)

    @cython.ccall
    def forget(self, connection: Closable) -> None:
        """Let go of a closed connection."""
        self.connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def idle_count(self) -> int:
        """Return how many connections are idle."""
        return len(self._idle)

    def retire(self) -> None:
        """No snapshot names it any more: close what is idle; what is busy closes when done."""
        self.retired = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()
            self.connections.discard(connection)


@cython.final
@cython.cclass
class Pool:
    """The endpoints of one color of one service, and how one of them is chosen.

    ``slow_start`` is in seconds; ``max_in_flight`` the service's bound, of which a pool that comes
    back as a whole gets a part at first.
    """

    members: list[Endpoint] = cython.declare(list, visibility="readonly")
    generation: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    closed: cython.bint = cython.declare(cython.bint, visibility="public")
    _balance: cython.int
    _turn: cython.ulonglong
    _seeds: list[int]
    _slow_start: cython.double
    _max_in_flight: cython.double

    def __init__(
        self,
        members: list[Endpoint],
        *,
        generation: int,
        balance: int,
        closed: bool,
        slow_start: float = 0.0,
        max_in_flight: int = 0,
    ) -> None:
        self.members = members
        self.generation = generation
        self.closed = closed
        self._balance = balance
        self._turn = 0
        self._seeds = [seed(endpoint.identity) for endpoint in members]
        self._slow_start = slow_start
        self._max_in_flight = max_in_flight

    def requests(self) -> int:
        """Return the attempts that this worker has begun at its endpoints."""
        member: Endpoint
        total: cython.ulonglong = 0
        for member in self.members:
            total += member._words[member._own + 2]
        return total

    def due(self) -> bool:
        """Tell whether an open breaker of it would let a request try now."""
        return any(member.guard is not None and member.guard.due() for member in self.members)

    def serves(self) -> bool:
        """Tell whether a member can be sent requests, as everybody weighs it."""
        member: Endpoint
        for member in self.members:  # noqa: SIM110  a generator's member would have no type
            if can_serve(member._words, member.cell):
                return True
        return False

    def left_alone(self) -> float | None:
        """Return the seconds until a breaker lets one request try; None where not all are open."""
        waits: list[float] = []
        for member in self.members:
            if member.breaker() == 0 or member.guard is None:
                return None
            waits.append(member.guard.wait())
        return min(waits) if waits else None

    @cython.cfunc
    @cython.exceptval(check=True)
    def _eligible(self, tried: object, now: cython.ulonglong, probes: cython.bint) -> list[int]:
        """Return the members' places to choose from: the best that there are.

        Where all are down they are all tried: a wrong probe must not take a service away, and a
        refused connection answers as fast as we could. One whose breaker is open is chosen for the
        one probe that it lets through, and for nothing else. ``tried`` (endpoints) come last.
        """
        i: cython.Py_ssize_t
        standing: cython.int
        best: cython.int = _LEFT_ALONE
        member: Endpoint
        places: list[int] = []
        alone: list[int] = []
        for i in range(len(self.members)):
            member = self.members[i]
            if tried is not None and member in tried:  # type: ignore[operator]
                continue
            standing = member.standing(now)
            if standing == _LEFT_ALONE:
                alone.append(i)
            elif standing < best:
                best = standing
                places = [i]
            elif standing == best:
                places.append(i)
        # A second try is no try: whoever has failed once must not pay for a doubtful endpoint.
        if alone and tried is None and (probes or not places):
            for i in alone:
                member = self.members[i]
                if member._probe():
                    return [i]
        if places or tried is None:
            return places
        return [i for i in range(len(self.members)) if self.members[i].standing(now) != _LEFT_ALONE]

    @cython.cfunc
    def _warmed(
        self, places: list[int], key: str, draw: cython.ulonglong, now: cython.ulonglong
    ) -> list[int]:
        """Return whom the request may go to where some of these members warm up.

        Each gets a request with its part of a share's chance. Where all of them are cold there is
        nobody else to ask: then each may have a part of the service's requests in flight.
        """
        i: cython.Py_ssize_t
        part: cython.double
        total: cython.double = 0.0
        point: cython.double
        parts: list[float] = []
        cold: cython.Py_ssize_t = 0
        member: Endpoint
        for i in places:
            member = self.members[i]
            part = member.warmth(now, self._slow_start)
            if part < 1.0:
                cold += 1
            parts.append(part)
            total += part
        if cold == 0:
            return places
        if cold == len(places):
            return self._room(places, parts)
        # A client that is told apart stays where it was sent while shares move.
        point = (seed(key.encode()) if self._balance == _HASH else draw & 0xFFFFFFFF) / 4294967296.0
        point *= total
        for i in range(len(places)):
            point -= cython.cast(cython.double, parts[i])
            if point < 0.0:
                return [places[i]]
        return places

    @cython.cfunc
    def _room(self, places: list[int], parts: list[float]) -> list[int]:
        """Return the cold members that have room for one more."""
        each: cython.double = self._max_in_flight / len(self.members)
        left: list[int] = []
        member: Endpoint
        i: cython.Py_ssize_t
        if self._max_in_flight <= 0.0:
            return places
        for i in range(len(places)):
            member = self.members[places[i]]
            if member.load() < max(_FEW, cython.cast(cython.double, parts[i]) * each):
                left.append(places[i])
        return left

    @cython.cfunc
    def _only(self, now: cython.ulonglong) -> Endpoint | None:
        """Claim the only member: whatever is known of it, there is nobody else to ask."""
        chosen: Endpoint = self.members[0]
        part: cython.double = 1.0
        if chosen._words[chosen._at + _BREAKER] != 0:
            if not chosen._probe():
                return None
        elif self._slow_start > 0.0:
            part = chosen.warmth(now, self._slow_start)
            if part < 1.0 and not self._room([0], [part]):
                return None
        chosen.claim()
        return chosen

    @cython.ccall
    def claim(
        self,
        draw: cython.ulonglong,
        key: str,
        tried: object,
        now: cython.double = 0.0,
        probes: cython.bint = True,
    ) -> Endpoint | None:
        """Choose an endpoint and count the request against it; None for a pool that is empty or
        closed, or that has none that can be asked now.

        ``draw`` is 32 random bits, ``key`` (the client's address) what ``hash`` balances by,
        ``tried`` the endpoints that have failed this request already (None for none). ``now`` is
        monotonic, in seconds; ``probes`` tells whether the request may be an open breaker's probe
        although others could answer it.
        """
        chosen: Endpoint
        other: Endpoint
        places: list[int]
        at: cython.ulonglong = cython.cast(cython.ulonglong, now * 1e9)
        n: cython.Py_ssize_t = len(self.members)
        if n == 0 or self.closed:
            return None
        if n == 1:
            return self._only(at)
        places = self._eligible(tried, at, probes)
        if self._slow_start > 0.0 and len(places) > 1:
            places = self._warmed(places, key, draw, at)
        n = len(places)
        if n == 0:
            return None
        if n == 1:
            chosen = self.members[places[0]]
        elif self._balance == _LEAST_REQUEST:
            pair: cython.longlong = pick_pair(n, cython.cast(cython.longlong, draw & _LOW))
            chosen = self.members[places[pair >> 16]]
            other = self.members[places[pair & 0xFFFF]]
            if other.load() < chosen.load():
                chosen = other
        elif self._balance == _ROUND_ROBIN:
            self._turn += 1
            chosen = self.members[places[self._turn % n]]
        else:
            seeds = [self._seeds[place] for place in places]
            chosen = self.members[places[by_hash(seed(key.encode()), seeds)]]
        chosen.claim()
        return chosen
