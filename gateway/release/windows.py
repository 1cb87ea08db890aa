"""Rates over trailing time, and how long one has been too high. Pure.

``now`` is CLOCK_MONOTONIC in seconds, so what a control process stored is good for its successor
on the same machine; of a clock that began anew with the machine, nothing is believed.
"""

from __future__ import annotations

import math

import msgspec

#: Seconds that a rate is taken over where they hold ``ENOUGH`` requests.
TRAILING = 60
ENOUGH = 20
#: Seconds that it stretches back to, at most, for that many.
LONGEST = 600
#: Seconds without a look, or without a known rate, after which "at every second" begins anew.
GAP = 5.0

#: Buckets that are kept before the oldest are dropped: rarely, and many at once.
_KEPT = LONGEST + 120


class Rate(msgspec.Struct, frozen=True):
    """A share from 0 to 1, what it was made of, and the whole seconds that it spans."""

    share: float
    requests: int
    bad: int
    seconds: int


class Window(msgspec.Struct):
    """Requests by the second, and how many of them were bad; ten minutes of them and little more.

    Counts go into the second in which they are told: a batch belongs to a second ago, at most.
    """

    #: (second, requests, bad), rising, none of them without requests.
    buckets: list[tuple[int, int, int]] = []
    #: All that ever came in.
    requests: int = 0
    bad: int = 0

    def add(self, now: float, requests: int, bad: int) -> None:
        """Count ``requests``, ``bad`` of them. ValueError where these are no such counts."""
        if not 0 <= bad <= requests:
            raise ValueError(f"{bad} of {requests} requests, expected 0 <= bad <= requests")
        self.requests += requests
        self.bad += bad
        if requests == 0:
            return
        second = math.floor(now)
        if self.buckets and self.buckets[-1][0] > second + GAP:
            self.buckets.clear()
        if self.buckets and self.buckets[-1][0] >= second:
            at, before, bad_before = self.buckets[-1]
            self.buckets[-1] = (at, before + requests, bad_before + bad)
            return
        self.buckets.append((second, requests, bad))
        if len(self.buckets) > _KEPT:
            self.buckets = [each for each in self.buckets if each[0] > second - LONGEST]

    def rate(self, now: float) -> Rate | None:
        """Return the rate over the last minute, the present second included.

        Where that holds fewer than ``ENOUGH`` requests: over the seconds back to the last so many,
        ten minutes at most; None where these hold fewer as well.
        """
        return self._back(now, TRAILING, LONGEST, ENOUGH)

    def over(self, now: float, seconds: int, least: int = 1) -> Rate | None:
        """Return the rate over the last ``seconds``; None with fewer than ``least`` requests."""
        return self._back(now, seconds, seconds, least)

    def _back(self, now: float, span: int, longest: int, least: int) -> Rate | None:
        """Walk back ``span`` seconds, then on until there are ``least`` requests."""
        second = math.floor(now)
        oldest, requests, bad = second, 0, 0
        for at, more, more_bad in reversed(self.buckets):
            if at > second + GAP:
                continue
            if at <= second - longest or (at <= second - span and requests >= least):
                break
            oldest, requests, bad = at, requests + more, bad + more_bad
        if requests < max(least, 1):
            return None
        return Rate(bad / requests, requests, bad, max(span, second - oldest + 1))


class Sustained(msgspec.Struct):
    """A share that is above a bound at every look for ``for_`` seconds.

    It serves errors and latency alike, for a quantile is a share seen from the other side: the 95th
    percentile is above 2000 ms exactly where more than 5 % (1 - 0.95) of the requests took longer.

    A share that is not known neither begins it nor ends it; but after ``GAP`` seconds without a
    known one (too few requests, or nobody looked: control was away) "at every second" is more than
    anybody can say, and it begins anew.
    """

    above: float
    for_: float
    since: float | None = None
    #: The last look at a known share.
    known: float | None = None

    def look(self, now: float, share: float | None) -> float | None:
        """Take in the share of this moment; return since when it has been above, None: it is not.

        It must be called once a second or more often.
        """
        if self._stale(now):
            self.since = None
        if share is None:
            return self.since
        self.known = now
        if share <= self.above:
            self.since = None
        elif self.since is None:
            self.since = now
        return self.since

    def over(self, now: float) -> bool:
        """Tell whether it is above its bound, for however short."""
        return self.since is not None and not self._stale(now)

    def up(self, now: float) -> bool:
        """Tell whether it has been above for long enough, seen so from end to end."""
        if self.since is None or self.known is None or self._stale(now):
            return False
        return self.known - self.since >= self.for_

    def fresh(self) -> None:
        """Begin anew."""
        self.since = None

    def _stale(self, now: float) -> bool:
        return self.known is not None and not 0.0 <= now - self.known <= GAP


class Unhealthy(msgspec.Struct):
    """Probes that fail for ``for_`` seconds, counted from the first that failed.

    When that was is a fact, so looks that are missing do not matter: what no prober saw (control
    was away) has no first failed probe.
    """

    for_: float
    since: float | None = None
    #: Nothing counts from before; set by the first look after ``fresh``.
    not_before: float | None = None
    restart: bool = False

    def look(self, now: float, failing_since: float | None) -> float | None:
        """Take in the facts; return since when it counts, None: probes pass."""
        if self.restart or (self.not_before is not None and self.not_before > now):
            self.not_before = now if self.restart else None
            self.restart = False
        self.since = failing_since
        if failing_since is not None and self.not_before is not None:
            self.since = max(failing_since, self.not_before)
        return self.since

    def up(self, now: float) -> bool:
        """Tell whether probes have failed for long enough."""
        return self.since is not None and now - self.since >= self.for_

    def fresh(self) -> None:
        """Begin anew with the next look."""
        self.since, self.restart = None, True
