"""How a worker is: what it holds, counted once a second for the board, and whenever it is asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.channel.vitals import open_files, resident

if TYPE_CHECKING:
    from gateway.proxy.core import Core
    from gateway.proxy.serving import Builder

#: Seconds between two counts.
EVERY = 1.0


class Vitals:
    """Counts what ``core`` and ``builder`` hold into a worker's slab, ``words``."""

    def __init__(self, core: Core, builder: Builder, words: memoryview) -> None:
        self._core = core
        self._builder = builder
        self._words = words
        self._next = 0.0

    def turn(self, now: float) -> None:
        """Count, where it is time; ``now`` is monotonic seconds."""
        if now < self._next:
            return
        self._next = now + EVERY
        self._count()

    def _count(self) -> None:
        words = self._words
        busy, idle = self._builder.upstreams()
        words[layout.S_TASKS] = len(asyncio.all_tasks(self._core.loop))
        words[layout.S_TIMERS] = len(self._core.wheel)
        words[layout.S_UPSTREAM_BUSY] = busy
        words[layout.S_UPSTREAM_IDLE] = idle

    def told(self) -> dict[str, object]:
        """Return how it is now, for whoever asks at its own socket."""
        self._count()
        words = self._words
        return {
            "memory": resident(),
            "descriptors": open_files(),
            "tasks": words[layout.S_TASKS],
            "timers": words[layout.S_TIMERS],
            "connections": words[layout.S_CONNECTIONS],
            "tunnels": words[layout.S_TUNNELS],
            "in_flight": words[layout.S_IN_FLIGHT],
            "upstream": {
                "busy": words[layout.S_UPSTREAM_BUSY],
                "idle": words[layout.S_UPSTREAM_IDLE],
            },
            "stall_max_ms": round(words[layout.S_STALL_MAX] / 1e6, 1),
        }
