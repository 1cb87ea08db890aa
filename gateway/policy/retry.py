"""Second tries: what they are made for, and how many there may be. Only numbers and names.

``Verdicts`` says what a failure or a status calls for: a mark on the breaker, a retry, a rescue, a
fallback. ``Budget`` bounds retries to a share of requests (Finagle's ``RetryBudget``): a second try
must never be what brings a struggling backend down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What a failure calls for, as bits.
RETRY, RESCUE, MARK, FALLBACK = 1, 2, 4, 8

#: The conditions of the configuration that each kind of failure (``proxy.errors``) meets.
MEANING: dict[str, tuple[str, ...]] = {
    "connect": ("connect",),
    "connect-timeout": ("connect", "timeout"),
    "tls": ("connect",),
    "unresolved": ("connect",),
    "reset": ("reset",),
    "truncated": ("reset",),
    "bad-answer": ("reset",),
    "first-byte-timeout": ("timeout",),
    "between-bytes-timeout": ("timeout",),
    "total-timeout": ("timeout",),
}

#: Failures of the gateway's own in which nobody was asked: all that is left is a fallback.
UNASKED = ("no-endpoint", "breaker-open", "overload", "exhausted")

#: Answers that say that nobody can serve now (RFC 9110 section 15.6): a fallback is better.
UNAVAILABLE = ("502", "503", "504")

#: Seconds of requests that a budget saves up at most.
SAVED = 5.0
#: Seconds between two looks at what has been earned: within less, a rate means nothing.
LOOK = 0.1


class Verdicts:
    """What each failure and status of one route calls for.

    ``statuses`` is indexed by status (0 to 599), ``failures`` by a failure's name; both give bits.
    """

    __slots__ = ("failures", "statuses")

    def __init__(
        self, retry: Iterable[str], rescue: Iterable[str], mark: Iterable[str], fallback: bool
    ) -> None:
        statuses = bytearray(600)
        conditions = dict.fromkeys(("connect", "reset", "timeout"), FALLBACK if fallback else 0)
        wanted = ((RETRY, retry), (RESCUE, rescue), (MARK, mark))
        for bit, names in (*wanted, (FALLBACK, UNAVAILABLE if fallback else ())):
            for name in names:
                if name in conditions:
                    conditions[name] |= bit
                    continue
                for status in _statuses(name):
                    # A client's mistake is never the backend's failure.
                    statuses[status] |= bit if bit != MARK or status >= 500 else 0
        self.statuses = bytes(statuses)
        self.failures = {
            kind: _any(conditions[name] for name in names) for kind, names in MEANING.items()
        } | dict.fromkeys(UNASKED, FALLBACK if fallback else 0)

    def of(self, kind: str) -> int:
        """Return the bits for a kind of failure; none for one that is not a backend's."""
        return self.failures.get(kind, 0)


def _any(bits: Iterable[int]) -> int:
    result = 0
    for each in bits:
        result |= each
    return result


def _statuses(name: str) -> Iterable[int]:
    if name.endswith("xx"):
        first = int(name[0]) * 100
        return range(first, first + 100)
    return (int(name),)


class Budget:
    """How many retries may be made: ``share`` of the requests, or ``floor`` a second where that is
    more. What is not used is saved for ``SAVED`` seconds, so that the burst of failures when a
    backend dies has what the time before has earned, and no more.
    """

    __slots__ = ("_attempts", "_floor", "_rate", "_saved", "_second", "_share", "_then")

    def __init__(self, share: float, floor: float) -> None:
        self._share = share
        self._floor = floor
        # Nothing is earned yet, and failures may come with the first requests.
        self._saved = 3.0 * floor
        self._rate = floor
        self._attempts = -1
        self._second = 0
        self._then = 0.0

    def change(self, share: float, floor: float) -> None:
        """Take other bounds from now on; what was saved under the old ones is given up."""
        if (share, floor) != (self._share, self._floor):
            self._share = share
            self._floor = floor
            self._rate = floor
            self._saved = 3.0 * floor

    def take(self, attempts: int, now: float) -> bool:
        """Take one retry; False where none is left.

        ``attempts`` counts those that have been begun so far, second tries among them (it only
        grows, but for a new count after a change of pools), ``now`` is in seconds.
        """
        if self._attempts < 0 or attempts < self._attempts:
            self._begin(attempts, now)
        elif now - self._then >= LOOK:
            requests = max(attempts - self._attempts - self._second, 0)
            self._earn(requests, now - self._then)
            self._begin(attempts, now)
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        self._second += 1
        return True

    def leave_out(self) -> None:
        """Note an attempt that is a second try by another right: it earns nothing."""
        self._second += 1

    def _begin(self, attempts: int, now: float) -> None:
        self._attempts, self._then, self._second = attempts, now, 0

    def _earn(self, requests: int, passed: float) -> None:
        rate = max(requests * self._share / passed, self._floor)
        # What may be saved follows the rate by and by: one busy instant is no busy minute.
        self._rate += (rate - self._rate) * min(1.0, passed / SAVED)
        earned = rate * min(passed, SAVED)
        self._saved = min(self._saved + earned, max(self._rate * SAVED, 1.0))
