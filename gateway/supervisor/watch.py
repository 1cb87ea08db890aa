"""When a child is silent for too long, and when a dead one is started again. Pure: no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: A check this much later than planned says that the machine, not a child, stood still (seconds).
LATE: Final = 0.5

#: A child that lived shorter than this died "right at start" (seconds).
QUICK: Final = 2.0
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 5.0
#: One that had served works: whatever kills it, it is back within 2 s each time, start included.
LONGEST_AFTER_SERVING: Final = 0.2


@dataclass(slots=True)
class Watchdog:
    """Judges heartbeats. All times are CLOCK_MONOTONIC in seconds.

    Where the supervisor itself was late, a silence may be its own (a suspended machine, a starved
    processor): every child is given its whole limit again from then on.
    """

    check_every: float
    _last: float = 0.0
    _silence_counts_from: float = 0.0

    def begin_check(self, now: float) -> None:
        """Note a round of checks."""
        if now - self._last > self.check_every + LATE:
            self._silence_counts_from = now
        self._last = now

    def silent(self, now: float, beat: float, limit: float) -> bool:
        """Tell whether a child whose last sign of life is ``beat`` has overstepped ``limit``."""
        return now - max(beat, self._silence_counts_from) > limit


@dataclass(slots=True)
class RestartPolicy:
    """At once after a life, and after one early death; then 0.1 s, doubling up to 5 s.

    Up to 0.2 s where it had served: only what never gets ready is a waste of starts.
    """

    early_deaths: int = 0

    def delay(self, lived: float, *, was_ready: bool) -> float:
        """Return the seconds to wait before the next start, given how the last one went."""
        if was_ready and lived >= QUICK:
            self.early_deaths = 0
            return 0.0
        self.early_deaths += 1
        if self.early_deaths == 1:
            return 0.0
        # The exponent is bounded: a crash loop may last for weeks.
        longest = LONGEST_AFTER_SERVING if was_ready else LONGEST_DELAY
        return min(longest, FIRST_DELAY * 2.0 ** min(self.early_deaths - 2, 10))
