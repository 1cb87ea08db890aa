"""Who stands where on the board: a row for each service, a cell for each endpoint.

Kept for as long as the board lives: a restarted control takes the places from the snapshot file
that workers serve from. A cell changes hands only when no worker has requests in flight on it, and
as late as possible: cells are given out in a circle, so that a worker that still serves the
snapshot before has long moved on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.board import layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config.snapshot import Topology


class Cells(Protocol):
    """What the board says and does about cells (``gateway.board.board.Board``)."""

    def endpoint_in_flight(self, cell: int) -> int:
        """Return the requests and tunnels in flight to that endpoint in all live workers."""

    def clear_cell(self, cell: int) -> None:
        """Make a cell ready for another endpoint."""


class AllocationError(Exception):
    """The board is full. The message says of what."""


class Allocation:
    """The places that are taken now. ``row`` and ``cell`` give the same answer until ``retain``."""

    def __init__(self, board: Cells) -> None:
        self._board = board
        self._rows: dict[str, int] = {}
        self._cells: dict[str, int] = {}
        #: Where the search for the next of each begins. A row's counts are never cleared: one that
        #: is free again is given to another service as late as can be.
        self._next_row = 1
        self._next_cell = 0

    def take_over(self, topology: Topology) -> None:
        """Keep the places that a running snapshot has given."""
        self._rows.update({service.name: service.row for service in topology.services})
        for pool in topology.pools:
            self._cells.update({endpoint.id: endpoint.cell for endpoint in pool.endpoints})
        self._next_row = max(self._rows.values(), default=0) + 1
        self._next_cell = max(self._cells.values(), default=-1) + 1

    def row(self, service: str) -> int:
        """Return a service's row, 1 to 255. Raises AllocationError where all are taken."""
        if service not in self._rows:
            taken = set(self._rows.values())
            most = layout.MAX_SERVICES - 1
            rows = ((self._next_row - 1 + step) % most + 1 for step in range(most))
            row = next((row for row in rows if row not in taken), None)
            if row is None:
                raise AllocationError(f"at most {most} services")
            self._rows[service] = row
            self._next_row = row + 1
        return self._rows[service]

    def cell(self, endpoint: str) -> int:
        """Return an endpoint's cell, cleared when it is new to it.

        Raises AllocationError where every cell is taken or still has requests in flight.
        """
        if endpoint not in self._cells:
            cell = self._free_cell()
            self._board.clear_cell(cell)
            self._cells[endpoint] = cell
            self._next_cell = cell + 1
        return self._cells[endpoint]

    def _free_cell(self) -> int:
        taken = set(self._cells.values())
        for step in range(layout.MAX_ENDPOINTS):
            cell = (self._next_cell + step) % layout.MAX_ENDPOINTS
            if cell not in taken and self._board.endpoint_in_flight(cell) == 0:
                return cell
        raise AllocationError(f"at most {layout.MAX_ENDPOINTS} endpoints, draining ones included")

    def retain(self, services: Iterable[str], endpoints: Iterable[str]) -> None:
        """Give up the places of everything else."""
        keep_rows, keep_cells = set(services), set(endpoints)
        self._rows = {name: row for name, row in self._rows.items() if name in keep_rows}
        self._cells = {name: cell for name, cell in self._cells.items() if name in keep_cells}
