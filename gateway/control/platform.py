"""Platform mode for whoever watches: the same pure function as in the workers, over the same board.

Nothing depends on it but pictures, metrics and events: workers compute their own.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from gateway.board import judge
from gateway.policy.mode import Picture, Platform

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.board.board import Board
    from gateway.config.snapshot import Topology, Traffic
    from gateway.control.events import Events

log = logging.getLogger("gateway.control")


class PlatformWatch:
    """Looks at the platform. ``snapshot`` gives what is in force, ``clock`` monotonic seconds."""

    def __init__(
        self,
        board: Board,
        snapshot: Callable[[], tuple[Topology, Traffic]],
        events: Events,
        clock: Callable[[], float],
    ) -> None:
        self._board = board
        self._snapshot = snapshot
        self._events = events
        self._clock = clock
        self._platform = Platform()
        self._serving: tuple[Topology, Traffic, bool] | None = None
        self._told: Picture | None = None

    def look(self) -> Picture:
        """Return the picture of now."""
        forced = any(worker.forced_stable for worker in self._board.workers())
        topology, traffic = self._snapshot()
        if self._serving is None or not (
            self._serving[0] is topology
            and self._serving[1] is traffic
            and self._serving[2] == forced
        ):
            self._platform.serve(topology, traffic, forced=forced)
            self._serving = (topology, traffic, forced)
        words, slabs = self._board.words, self._board.slabs
        return self._platform.look(
            partial(judge.can_serve, words),
            lambda row: judge.fallbacks(words, row, slabs),
            self._clock(),
        )

    def tell(self) -> None:
        """Look, and publish an event where the mode has changed since the last time."""
        shown, before = self.look(), self._told
        self._told = shown
        if before is None or shown.mode == before.mode:
            return
        log.warning("the platform's mode is %s, it was %s", shown.mode, before.mode)
        self._events.publish(
            "mode", mode=shown.mode, former=before.mode, services=dict(shown.states)
        )
