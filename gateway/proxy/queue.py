"""A service's queue in one worker: requests that wait for a place in flight, for a short time.

Nothing here costs a request that finds a place: it compares ``waiting`` with 0. A place that this
worker's own request leaves is given on in the loop's next turn (``wake``), behind nobody. Places
that others leave (another worker, one that died, a bound that was raised) are found by the next
request that comes, and at every turn of the timer wheel, as waits that are over are: no timer, no
task, no message between workers, and so no wake-up that could be lost.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Protocol

from gateway.board import layout
from gateway.policy.queue import may_enter, may_join

if TYPE_CHECKING:
    from collections.abc import Callable

#: Nanoseconds for which a worker that refused a request counts as one that has more of them.
LATELY = 200_000_000

#: Places of SHED_REASONS.
FULL, WAITED = 0, 1


class Turns(Protocol):
    """What a queue needs of the core."""

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""

    @property
    def soon(self) -> Callable[[Callable[[], None]], object]:
        """Have something called in the loop's next turn."""

    @property
    def queues(self) -> set[ServiceQueue]:
        """The queues that the timer wheel's turns look after."""


class Waiter(Protocol):
    """A request that waits."""

    def on_turn(self) -> None:
        """It has a place in flight, counted already."""

    def on_waited(self) -> None:
        """It has waited for as long as it may."""


class ServiceQueue:
    """One service's waiters in this worker. ``waiting`` is how many they are.

    ``words`` is the whole board, ``slab`` this worker's number of ``slabs``, ``row`` the service's.
    """

    __slots__ = (
        "_at",
        "_length",
        "_limit",
        "_slab",
        "_slabs",
        "_wait",
        "_waiters",
        "_woken",
        "_words",
        "waiting",
    )

    def __init__(self, words: memoryview, slab: int, slabs: int, row: int) -> None:
        self.waiting = 0
        self._words = words
        self._slab = slab
        self._slabs = slabs
        self._at = layout.ROWS_AT + row * layout.ROW_WORDS
        self._limit = 0
        self._length = 0
        self._wait = 0.0
        #: By when each gives up, the one that came first in front.
        self._waiters: OrderedDict[Waiter, float] = OrderedDict()
        self._woken = False

    def __repr__(self) -> str:
        return f"<ServiceQueue {self.waiting} of {self._length} waiting>"

    def change(self, limit: int, length: int, wait: float) -> None:
        """Take new bounds: requests in flight, requests that wait, for how many seconds."""
        self._limit = limit
        self._length = length if wait > 0.0 else 0
        self._wait = wait

    # --- what requests do -----------------------------------------------------------------------

    def join(self, waiter: Waiter, core: Turns, now: float) -> bool:
        """Have a request wait; False where there is no room for it. ``now``: monotonic seconds."""
        if self._length == 0:
            return False
        if self._waiters and self._first_deadline() <= now:
            self._let_go(now)
        rivals, others = self._rivals(int(now * 1e9))
        if not may_join(self.waiting, self.waiting + others, self._length, rivals):
            return False
        self._waiters[waiter] = now + self._wait
        self._count(1)
        core.queues.add(self)
        self.wake(core)
        return True

    def leave(self, waiter: Waiter) -> None:
        """Have a request wait no more: its client has left, or its time is over."""
        if self._waiters.pop(waiter, None) is not None:
            self._count(-1)

    def refused(self, reason: int, now: float) -> None:
        """Count a request that was refused for load: FULL or WAITED."""
        row = layout.slab_at(self._slab) + self._at
        self._words[row + layout.ROW_SHED + reason] += 1
        if reason == FULL:
            self._words[row + layout.ROW_REFUSED_AT] = int(now * 1e9)

    def wake(self, core: Turns) -> None:
        """A place may be free: give it on in the loop's next turn, once for all that are."""
        if not self._woken:
            self._woken = True
            core.soon(partial(self._serve, core))

    # --- what moves it --------------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Let go of those whose wait is over; give on the places that others have left."""
        self._let_go(now)
        self._give(now)

    def _serve(self, core: Turns) -> None:
        self._woken = False
        now = core.clock()
        self._give(now)

    def _give(self, now: float) -> None:
        """Give every place that is free to the one who has waited longest."""
        while self._waiters:
            if self._first_deadline() <= now:
                self._let_go(now)
            elif self._enter():
                waiter, _ = self._waiters.popitem(last=False)
                self._count(-1)
                waiter.on_turn()
            else:
                return

    def _let_go(self, now: float) -> None:
        """Tell those whose wait is over."""
        while self._waiters and self._first_deadline() <= now:
            waiter, _ = self._waiters.popitem(last=False)
            self._count(-1)
            self.refused(WAITED, now)
            waiter.on_waited()

    def _first_deadline(self) -> float:
        return next(iter(self._waiters.values()))

    # --- the board ------------------------------------------------------------------------------

    def _count(self, change: int) -> None:
        self.waiting += change
        self._words[layout.slab_at(self._slab) + self._at + layout.ROW_WAITING] = self.waiting

    def _enter(self) -> bool:
        """Count a waiter in flight where there is a place for it."""
        words, at = self._words, self._at
        total = rivals = others = 0
        for slab in range(self._slabs):
            row = layout.slab_at(slab) + at
            total += words[row + layout.ROW_IN_FLIGHT]
            if slab != self._slab and words[row + layout.ROW_WAITING]:
                rivals += 1
                others += words[row + layout.ROW_WAITING]
        own = layout.slab_at(self._slab) + at + layout.ROW_IN_FLIGHT
        if not may_enter(words[own], total, self._limit, rivals, others):
            return False
        words[own] += 1
        words[layout.slab_at(self._slab) + layout.S_IN_FLIGHT] += 1
        return True

    def _rivals(self, now: int) -> tuple[int, int]:
        """Return the other workers that have requests which no place was found for, and waiters."""
        rivals = others = 0
        for slab in range(self._slabs):
            if slab == self._slab:
                continue
            row = layout.slab_at(slab) + self._at
            waiting = self._words[row + layout.ROW_WAITING]
            others += waiting
            if waiting or self._words[row + layout.ROW_REFUSED_AT] + LATELY > now:
                rivals += 1
        return rivals, others
