"""Connections that have more to do than one turn of the loop has time for.

A client may send thousands of requests that are answered at once, and the loop reads them in one
piece. Each connection does a few in a turn and then waits here, in line; a turn of the loop goes on
with as many of the line as fit in ``ROUND``, and all else gets its turn in between: other
connections, the timer wheel, the heartbeat.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Requests of one connection that are begun in a row, and seconds that they may take together.
MOST = 32
SLICE = 0.002
#: Seconds of one turn of the loop that the line may take.
ROUND = 0.005


class Member(Protocol):
    """A connection in line."""

    def go_on(self) -> None:
        """It is its turn; it may line up again."""

    def cut(self) -> None:
        """Close it at once: it has failed."""


class Line:
    """A worker's line. ``clock``: monotonic seconds; ``soon`` calls in the loop's next turn."""

    __slots__ = ("_called", "_clock", "_members", "_soon")

    def __init__(
        self, clock: Callable[[], float], soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self._clock = clock
        self._soon = soon
        self._members: deque[Member] = deque()
        self._called = False

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"<Line of {len(self._members)}>"

    def join(self, member: Member) -> None:
        """Line up. One that is in line already must not."""
        self._members.append(member)
        self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            self._soon(self._turn)

    def _turn(self) -> None:
        """Go on with those in line, each once, for as long as there is time."""
        self._called = False
        until = self._clock() + ROUND
        for _ in range(len(self._members)):
            member = self._members.popleft()
            try:
                member.go_on()
            except Exception:
                # As the loop does with one that fails while it reads.
                logger.exception("%r failed", member)
                member.cut()
            if self._clock() >= until:
                break
        if self._members:
            self._call()
