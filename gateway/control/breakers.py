"""Breakers on the board, as control sees and moves them.

Workers open and close breakers among themselves; control looks, and puts there what was decided by
hand. All workers see it at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.policy.breaker import reset_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.board.board import Board
    from gateway.board.locks import CellLocks
    from gateway.config.snapshot import Breaker, Endpoint, Pool, Topology
    from gateway.control.state import State

log = logging.getLogger("gateway.control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One breaker as it stands: ``state`` is one of ``layout.BREAKER_NAMES``.

    ``failures`` counts those in a row, ``openings`` all since the board was made. ``next_try`` are
    the seconds until an open breaker lets one request try (None: it is not open by itself),
    ``ejected`` those for which the endpoint is still left out as an outlier (0: it is not).
    """

    state: str
    failures: int
    openings: int
    next_try: float | None
    ejected: float


class BoardBreakers:
    """The breakers on the board. ``clock`` is CLOCK_MONOTONIC in nanoseconds."""

    def __init__(self, board: Board, locks: CellLocks, clock: Callable[[], int]) -> None:
        self._board = board
        self._locks = locks
        self._clock = clock

    def settle(self, state: State, topology: Topology) -> None:
        """Have exactly those breakers forced open that the state says.

        After a restart of the gateway the board is new; the state is not.
        """
        forced = {endpoint for service in state.services for endpoint in service.forced}
        for pool in topology.pools:
            for endpoint in pool.endpoints:
                self._settle(endpoint, endpoint.id in forced)

    def _settle(self, endpoint: Endpoint, forced: bool) -> None:
        cell = endpoint.cell
        if forced == (self._board.breaker(cell) == layout.BREAKER_FORCED):
            return
        with self._locks.counting(cell):
            if forced:
                self._board.force_breaker(cell, self._clock())
            else:
                self._board.reset_breaker(cell, self._clock())
        log.warning("the breaker of %s is %s", endpoint.id, "forced open" if forced else "reset")

    def reset(self, cell: int) -> bool:
        """Close a breaker, bring an outlier back; returns whether there was anything to do."""
        with self._locks.counting(cell):
            return self._board.reset_breaker(cell, self._clock())

    def at_rest(self, cell: int) -> bool:
        """Tell whether a reset would find its work done."""
        closed = self._board.breaker(cell) == layout.BREAKER_CLOSED
        return closed and not self._board.ejected(cell, self._clock())

    def usable(self, topology: Topology) -> set[str]:
        """Return the ids of the endpoints that could take requests now."""
        return {
            endpoint.id
            for pool in topology.pools
            for endpoint in pool.endpoints
            if self._board.serves(endpoint.cell)
        }

    def look(self, cell: int, policy: Breaker) -> Look:
        """Return one endpoint's breaker, read under its service's ``policy``."""
        words, at, now = self._board.words, layout.cell_at(cell), self._clock()
        state = self._board.breaker(cell)
        until = words[at + layout.CELL_EJECTED_UNTIL]
        next_try = None
        if state == layout.BREAKER_OPEN:
            openings = words[at + layout.CELL_OPENINGS]
            wait = reset_after(policy.reset_after, policy.reset_at_most, openings)
            passed = (now - words[at + layout.CELL_BREAKER_CHANGED]) / 1e9
            next_try = max(0.0, wait - max(0.0, passed))
        return Look(
            state=layout.BREAKER_NAMES[state],
            failures=words[at + layout.CELL_RUN],
            openings=self._board.breaker_opened(cell),
            next_try=next_try,
            ejected=max(0, until - now) / 1e9,
        )


def pool_of(topology: Topology, endpoint: str) -> Pool | None:
    """Return the pool that an endpoint's id is of, None for one that is not in force any more."""
    for pool in topology.pools:
        if any(each.id == endpoint for each in pool.endpoints):
            return pool
    return None
