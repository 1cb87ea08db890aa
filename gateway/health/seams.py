"""What the prober needs of others, as it sees them: tasks, the board, listeners, the sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from gateway.config.snapshot import Color
    from gateway.health.monitor import Change, PoolCheck
    from gateway.health.probes import Result


class Starter(Protocol):
    """Starts named tasks and keeps them referenced (``gateway.control.tasks.Tasks``)."""

    def start(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run ``coroutine`` in the background."""


class HealthCells(Protocol):
    """The board's side (``gateway.board.board.Board``)."""

    def health(self, cell: int) -> int:
        """Return an endpoint's health word."""

    def set_health(self, cell: int, health: int, now: int) -> bool:
        """Set an endpoint's health word; tells whether it changed."""

    def set_passes(self, cell: int, passes: int) -> None:
        """Set how many probes in a row passed."""

    def breaker(self, cell: int) -> int:
        """Return an endpoint's breaker: a ``layout.BREAKER_*``."""

    def serves(self, cell: int) -> bool:
        """Tell whether an endpoint can be sent requests: not down, and its breaker not open."""


class Listener(Protocol):
    """Who is told of what the prober finds."""

    def changed(self, change: Change) -> None:
        """Take note of an endpoint's other health."""

    def waits(self, check: PoolCheck) -> None:
        """Take note of a pool that waits for other services, or no longer does."""

    def heard(self, service: str, color: Color, result: Result) -> None:
        """Take note of one probe's result."""


class Nobody:
    """A listener that listens to nothing."""

    def changed(self, change: Change) -> None:
        """Do nothing."""

    def waits(self, check: PoolCheck) -> None:
        """Do nothing."""

    def heard(self, service: str, color: Color, result: Result) -> None:
        """Do nothing."""


class Sides(Protocol):
    """Where traffic goes (``gateway.control.targets.Sides``)."""

    def carrying(self, service: str) -> frozenset[Color]:
        """Return the colors that requests are assigned to."""

    def closed(self, service: str, color: Color) -> bool:
        """Tell whether nothing is sent to a color: no check could go there either."""


class AllOpen:
    """Both colors carry traffic, for who does not know."""

    def carrying(self, service: str) -> frozenset[Color]:
        """Return both colors."""
        del service
        return frozenset({"blue", "green"})

    def closed(self, service: str, color: Color) -> bool:
        """Tell that it is open."""
        del service, color
        return False
