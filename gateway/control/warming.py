"""Who begins a slow start: an endpoint that comes up after a fall, and one of a new pool.

The start of the gateway is no fall, nor is a control process that starts again on a board that is
in use: what is in the first topology that it watches was there before.
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
        #: Down, or new and not seen up yet.
        self._cold: set[str] = set()

    def watch(self, topology: Topology) -> None:
        """Take a topology whose endpoints' health is on the board.

        One that is new there and up already (its trial said so) begins its slow start now.
        """
        former, self._known = self._known, set()
        for pool in topology.pools:
            for endpoint in pool.endpoints:
                self._known.add(endpoint.id)
                if former is not None and endpoint.id in former:
                    continue
                health = Health(self._board.health(endpoint.cell))
                new = former is not None
                if new and health is Health.UP:
                    self._board.warm(endpoint.cell, self._clock())
                elif new or health is Health.DOWN:
                    self._cold.add(endpoint.id)
        self._cold &= self._known

    def moved(self, endpoint: Endpoint, health: Health) -> None:
        """Take an endpoint's new health."""
        if health is Health.DOWN:
            self._cold.add(endpoint.id)
        elif health is Health.UP and endpoint.id in self._cold:
            self._cold.remove(endpoint.id)
            self._board.warm(endpoint.cell, self._clock())
