"""Whether the worker itself is what is short: its loop is late, and stays so.

A loop with more to do than time serves whoever is ready in turn, so that everybody waits for all
others: latency grows with the number of connections. Where two turns of the timer wheel in a row
came late it is ``on``, and then one turn of the loop takes up no new requests for longer than
``delay``: what else is ready is refused, for a tenth of what serving it takes. Off, it costs a
request one comparison; on, a clock's reading that it makes anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Turns of the wheel without delay after which it is over: a second.
CALM = 10


class Pressure:
    """One worker's. ``delay``: seconds of one turn of the loop that new requests may have."""

    __slots__ = ("_began", "_calm", "_late", "_soon", "_turned", "delay", "on")

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        self.on = False
        self.delay = 0.0
        self._soon = soon
        self._turned = 0.0
        self._late = 0
        self._calm = 0
        self._began = 0.0

    def turned(self, now: float, tick: float) -> None:
        """The wheel has turned, ``tick`` seconds after the last time if all is well."""
        late = now - self._turned - tick if self._turned else 0.0
        self._turned = now
        if self.delay <= 0.0:
            self.on = False
            return
        self._late = self._late + 1 if late > self.delay / 2 else 0
        self._calm = self._calm + 1 if late < self.delay / 4 else 0
        if self._late > 1:
            self.on = True
        elif self._calm >= CALM:
            self.on = False

    def refuses(self, now: float) -> bool:
        """Tell whether a request that is read at ``now`` comes too late in this turn of the loop.

        Asked only while it is ``on``; the first one to ask begins a turn.
        """
        if self._began == 0.0:
            self._began = now
            self._soon(self._next)
            return False
        return now - self._began > self.delay

    def _next(self) -> None:
        self._began = 0.0
