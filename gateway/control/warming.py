"""Who begins a slow start: an endpoint that comes up after a fall, and one that joins others.

The start of the gateway is no fall, nor is a control process that starts again on a board that is
in use: what is in the first topology that it watches was there before. Nor is a build that is new
as a whole held back: it has no others that could take over from it meanwhile, and its share is the
weight's to say. A backend that its slot had before, under another generation, is none of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.health.machine import Health

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.snapshot import Endpoint, Topology


class WarmCells(Protocol):
    """The board's side (``gateway.board.board.Board``)."""

    def health(self, cell: int) -> int:
        """Return an endpoint's health word."""

    def warm(self, cell: int, now: int) -> None:
        """Begin an endpoint's slow start."""


class Warming:
    """Knows which endpoints are to be warmed once they are up. ``clock``: CLOCK_MONOTONIC in ns."""

    def __init__(self, board: WarmCells, clock: Callable[[], int]) -> None:
        self._board = board
        self._clock = clock
        self._known: set[str] | None = None
        #: Who stood in each slot, by URL: generations give the same backend other ids.
        self._slots: dict[tuple[str, str], frozenset[str]] = {}
        #: Down, or new beside others and not seen up yet.
        self._cold: set[str] = set()
        #: Of a build that is new as a whole, and not seen up yet: its first failures are no fall.
        self._begun: set[str] = set()

    def watch(self, topology: Topology) -> None:
        """Take a topology whose endpoints' health is on the board.

        One that joins others and is up already (its trial said so) begins its slow start now.
        """
        former, self._known = self._known, set()
        slots, self._slots = self._slots, {}
        for pool in topology.pools:
            slot = (pool.service, pool.color)
            before = slots.get(slot, frozenset())
            self._slots[slot] = frozenset(endpoint.url for endpoint in pool.endpoints)
            joins = not before.isdisjoint(self._slots[slot])
            for endpoint in pool.endpoints:
                self._known.add(endpoint.id)
                if former is None:
                    self._at_start(endpoint)
                elif endpoint.id not in former:
                    self._come(endpoint, joins=joins, again=endpoint.url in before)
        self._cold &= self._known
        self._begun &= self._known

    def _at_start(self, endpoint: Endpoint) -> None:
        if Health(self._board.health(endpoint.cell)) is Health.DOWN:
            self._cold.add(endpoint.id)

    def _come(self, endpoint: Endpoint, *, joins: bool, again: bool) -> None:
        """Take one that was not there; ``joins``: others were, ``again``: it was, by its URL."""
        health = Health(self._board.health(endpoint.cell))
        if not joins:
            if health is not Health.UP:
                self._begun.add(endpoint.id)
        elif again:
            self._at_start(endpoint)
        elif health is Health.UP:
            self._board.warm(endpoint.cell, self._clock())
        else:
            self._cold.add(endpoint.id)

    def moved(self, endpoint: Endpoint, health: Health) -> None:
        """Take an endpoint's new health."""
        if health is Health.DOWN and endpoint.id not in self._begun:
            self._cold.add(endpoint.id)
        elif health is Health.UP:
            self._begun.discard(endpoint.id)
            if endpoint.id in self._cold:
                self._cold.remove(endpoint.id)
                self._board.warm(endpoint.cell, self._clock())
