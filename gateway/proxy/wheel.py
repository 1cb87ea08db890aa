"""One coarse timer wheel a worker: deadlines that cost nothing to move.

An entry keeps its own deadline and the place that it was last put in; the wheel visits it there.
Moving a deadline later is an attribute write in the entry: the visit finds it not yet due and the
entry puts itself in again. Only a deadline before its place needs ``put`` at once, and the place
left behind is recognised by its number.

Compiled where a compiler is there.
"""

from __future__ import annotations

import logging
from typing import Protocol

import cython

logger = logging.getLogger(__name__)

#: Seconds. Nothing in the data plane is timed more finely.
TICK = 0.1

#: Seconds ahead that an entry is put in at most: a closed connection is let go of by then.
AHEAD = 5.0

#: A deadline that never comes, and the place of an entry that is not put in.
NEVER = float("inf")
NOWHERE = 1 << 62


_TICK = cython.declare(cython.double, TICK)
_AHEAD = cython.declare(cython.double, AHEAD)


class Timed(Protocol):
    """What the wheel visits."""

    def on_wheel(self, place: int, now: float) -> None:
        """Be visited at ``place``. One that has been put in anew since does nothing."""


@cython.final
@cython.cclass
class Wheel:
    """Buckets of entries by tick number. ``now`` is the time of the last tick, in seconds."""

    now: cython.double = cython.declare(cython.double, visibility="readonly")
    _tick: cython.longlong
    _buckets: dict[int, list[Timed]]

    def __init__(self, now: cython.double) -> None:
        self.now = now
        self._tick = cython.cast(cython.longlong, now / _TICK)
        self._buckets = {}

    def __len__(self) -> int:
        return sum([len(bucket) for bucket in self._buckets.values()])

    @cython.ccall
    @cython.exceptval(-1)
    def put(self, entry: Timed, deadline: cython.double) -> cython.longlong:
        """Have ``entry`` visited at ``deadline``; return the place, for the entry to remember."""
        ahead: cython.double = self.now + _AHEAD
        due: cython.double = deadline if deadline < ahead else ahead
        place: cython.longlong = cython.cast(cython.longlong, due / _TICK) + 1
        if place <= self._tick:
            place = self._tick + 1
        bucket = self._buckets.get(place)
        if bucket is None:
            self._buckets[place] = [entry]
        else:
            bucket.append(entry)
        return place

    def advance(self, now: cython.double) -> None:
        """Visit everything that is due at ``now``."""
        self.now = now
        upto: cython.longlong = cython.cast(cython.longlong, now / _TICK)
        while self._tick < upto:
            self._tick += 1
            bucket = self._buckets.pop(self._tick, None)
            if bucket is not None:
                place = self._tick
                for entry in bucket:
                    try:
                        entry.on_wheel(place, now)
                    except Exception:
                        # One that is broken must not cost the others their deadlines.
                        logger.exception("%r failed at its deadline", entry)
