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
from gateway.policy.balance import by_hash, pick_two, seed

if TYPE_CHECKING:
    import ssl

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

LEAST_REQUEST, ROUND_ROBIN, HASH = 0, 1, 2
_LEAST_REQUEST = cython.declare(cython.int, LEAST_REQUEST)
_ROUND_ROBIN = cython.declare(cython.int, ROUND_ROBIN)


@cython.final
@cython.cclass
class Endpoint:
    """One endpoint: where it is, its idle connections, its words on the board.

    ``words`` is the whole board; ``slab`` this worker's. ``tls`` is None for ``http``.
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
    _idle: list[Closable]
    # mypy has no typed memoryviews.
    _words: memoryview = cython.declare(cython.ulonglong[:])  # type: ignore[misc]
    _own: cython.Py_ssize_t
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
        self._idle = []
        self._words = words
        self._own = layout.slab_at(slab) + layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS
        self._slabs = slabs

    def __repr__(self) -> str:
        return f"<Endpoint {self.id} {self.host}:{self.port} in_flight={self.load()}>"

    def health(self) -> int:
        """Return what control knows of it: UNKNOWN, UP or DOWN."""
        return self._words[_CELLS_AT + self.cell * _CELL_WORDS]

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

    def release(self) -> None:
        """Count one less in flight."""
        self._words[self._own] -= 1

    def failed(self) -> None:
        """Count one failed attempt."""
        self._words[self._own + 3] += 1

    def tunnel(self, change: cython.int) -> None:
        """Count a tunnel opened (1) or closed (-1)."""
        if change > 0:
            self._words[self._own + 1] += 1
        else:
            self._words[self._own + 1] -= 1

    # --- connections ----------------------------------------------------------------------------

    def take_idle(self) -> Closable | None:
        """Return the connection that was used last (the likeliest alive), None for none."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

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
    """The endpoints of one color of one service, and how one of them is chosen."""

    members: list[Endpoint] = cython.declare(list, visibility="readonly")
    generation: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    closed: cython.bint = cython.declare(cython.bint, visibility="public")
    _balance: cython.int
    _turn: cython.ulonglong
    _seeds: list[int]

    def __init__(
        self, members: list[Endpoint], *, generation: int, balance: int, closed: bool
    ) -> None:
        self.members = members
        self.generation = generation
        self.closed = closed
        self._balance = balance
        self._turn = 0
        self._seeds = [seed(endpoint.identity) for endpoint in members]

    @cython.cfunc
    @cython.exceptval(check=True)
    def _eligible(self, tried: object) -> list[int]:
        """Return the members' places to choose from: up before unknown before down.

        Where all are down they are all tried: a wrong probe must not take a service away, and a
        refused connection answers as fast as we could. ``tried`` (endpoints) come last of all.
        """
        i: cython.Py_ssize_t
        member: Endpoint
        health: cython.ulonglong
        up: list[int] = []
        unknown: list[int] = []
        for i in range(len(self.members)):
            member = self.members[i]
            if tried is not None and member in tried:  # type: ignore[operator]
                continue
            health = member._words[_CELLS_AT + member.cell * _CELL_WORDS]
            if health == _UP:
                up.append(i)
            elif health != _DOWN:
                unknown.append(i)
        if up:
            return up
        if unknown:
            return unknown
        return [
            i
            for i in range(len(self.members))
            if tried is None or self.members[i] not in tried  # type: ignore[operator]
        ] or list(range(len(self.members)))

    def claim(self, draw: int, key: str, tried: object) -> Endpoint | None:
        """Choose an endpoint and count the request against it; None for a pool that is
        empty or closed.

        ``draw`` is 32 random bits, ``key`` (the client's address) what ``hash`` balances by,
        ``tried`` the endpoints that have failed this request already (None for none).
        """
        chosen: Endpoint
        other: Endpoint
        places: list[int]
        n: cython.Py_ssize_t = len(self.members)
        if n == 0 or self.closed:
            return None
        if n == 1:
            chosen = self.members[0]
            chosen.claim()
            return chosen
        places = self._eligible(tried)
        n = len(places)
        if n == 1:
            chosen = self.members[places[0]]
        elif self._balance == _LEAST_REQUEST:
            first, second = pick_two(n, draw)
            chosen = self.members[places[first]]
            other = self.members[places[second]]
            if other.load() < chosen.load():
                chosen = other
        elif self._balance == _ROUND_ROBIN:
            self._turn += 1
            chosen = self.members[places[self._turn % n]]
        else:
            seeds = [self._seeds[at] for at in places]
            chosen = self.members[places[by_hash(seed(key.encode()), seeds)]]
        chosen.claim()
        return chosen
