"""What is observed, from the board: health, requests in flight, tunnels, workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.board import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.board.board import Board
    from gateway.config.snapshot import Color, Topology


class BoardSlabs:
    """Workers as the hub needs them (``gateway.control.hub.Slabs``)."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def draining(self, slab: int) -> bool:
        """Tell whether that slab's worker is on its way out."""
        if not 0 <= slab < self._board.slabs:
            return False
        return self._board.state(slab) in {layout.STATE_DRAINING, layout.STATE_GONE}

    def ready(self) -> Iterator[int]:
        """Return the slabs whose workers live and take traffic."""
        for slab in range(self._board.slabs):
            if self._board.state(slab) == layout.STATE_READY:
                yield slab


class Observed:
    """The desk's facts (``gateway.control.desk.Facts``) about the topology in force."""

    def __init__(self, board: Board, topology: Callable[[], Topology]) -> None:
        self._board = board
        self._topology = topology

    def cells(self, service: str, color: Color) -> list[int]:
        """Return the cells of one pool's endpoints."""
        pool = self._topology().pool(service, color)
        return [endpoint.cell for endpoint in pool.endpoints] if pool is not None else []

    def proven(self, service: str, color: Color) -> bool:
        """Whether an endpoint of that pool was seen healthy and its breaker lets it serve."""
        return any(
            self._board.health(cell) == layout.UP and self._board.serves(cell)
            for cell in self.cells(service, color)
        )

    def able(self, service: str, color: Color) -> bool:
        """Whether an endpoint of that pool is not known to be down and may be sent requests.

        A pool that was killed a moment ago is known by its breakers alone: probes need seconds.
        A breaker that opened for less is as good as closed once its endpoint passes probes again.
        """
        return any(self._board.serves(cell) for cell in self.cells(service, color))

    def tunnels(self, service: str, color: Color) -> int:
        """How many tunnels are open to that pool."""
        return sum(self._board.endpoint_tunnels(cell) for cell in self.cells(service, color))

    def in_flight(self, service: str, color: Color) -> int:
        """How many requests and tunnels are in flight to that pool."""
        return sum(self._board.endpoint_in_flight(cell) for cell in self.cells(service, color))
