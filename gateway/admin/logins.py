"""Failed logins: limited by address, and told in a few rows whatever their number.

A guess is a bearer token that nobody has. Each address has a burst of them and then one in a while
(a bucket that leaks); beyond it every call from there is 429, right or wrong, so that guessing
learns nothing. Three things keep that from being a way to lock somebody out: the buckets are the
addresses' own; a token that is good and was so from an address is looked at from there, whatever
else comes from it; and the same wrong token again is no guess, so that a monitor with an old token
on the same machine as the pipeline takes one guess of theirs, however often it asks.

Memory is bounded by ``MAX_ADDRESSES``; the one that failed longest ago is forgotten first. What is
told grows with the logarithm of an attack's length, not with its rate.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.admin.sources import source_of

if TYPE_CHECKING:
    from collections.abc import Callable

#: Guesses that an address has at once, and seconds until it has one more.
BURST: Final = 10
SECONDS_PER_GUESS: Final = 6.0
#: Addresses that are kept, and pairs of address and token that were good.
MAX_ADDRESSES: Final = 1024
MAX_KNOWN: Final = 1024
#: Wrong tokens of an address that are told from new ones, as digests.
MAX_WRONG: Final = 16
#: Seconds from one report to the next: the first, doubled while it goes on, up to the second.
REPORT_AFTER: Final = 60.0
REPORT_AT_MOST: Final = 3600.0
#: Addresses that a report names.
NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Report:
    """Failed logins since the last report: ``refused`` of ``attempts`` were over the limit.

    ``addresses`` are those with most of them and how many, ``others`` what is left out.
    """

    attempts: int
    refused: int
    addresses: tuple[tuple[str, int], ...]
    others: int


@dataclass(slots=True)
class _Bucket:
    """``empty_at`` is when it will have leaked empty; ``wrong``'s last was presented last."""

    empty_at: float
    wrong: OrderedDict[bytes, None] = field(default_factory=OrderedDict)


class Logins:
    """The buckets. ``clock`` is monotonic, in seconds; ``report`` is called with what to tell."""

    def __init__(
        self, report: Callable[[Report], None], clock: Callable[[], float], *, burst: int = BURST
    ) -> None:
        self.burst = burst
        self._clock = clock
        #: Failed logins since the start, and how many of them were over the limit.
        self.failed = 0
        self.limited = 0
        self._report = report
        #: By source, in the order of the last failure.
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._since: Counter[str] = Counter()
        self._others = 0
        self._refused = 0
        self._tell_at = -math.inf
        self._pause = REPORT_AFTER

    def __repr__(self) -> str:
        return f"<Logins {len(self._buckets)} addresses, {self.failed} failed>"

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """Failed logins since the start by result: nobody's token, or one not looked at."""
        return ("unknown", self.failed - self.limited), ("limited", self.limited)

    def wait(self, address: str, token: bytes) -> float:
        """Return for how many seconds this token is not looked at from there; 0: it is."""
        source = source_of(address)
        bucket = self._buckets.get(source)
        if bucket is None:
            return 0.0
        over = (bucket.empty_at - self._clock()) - (self.burst - 1) * SECONDS_PER_GUESS
        if over <= 0:
            return 0.0
        digest = _digest(token)
        if (source, digest) in self._known or digest in bucket.wrong:
            return 0.0
        self._count(source, refused=True)
        return over

    def succeeded(self, address: str, token: bytes) -> None:
        """Remember that a token was good from an address."""
        key = (source_of(address), _digest(token))
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def failed_from(self, address: str, token: bytes) -> None:
        """Count a token that nobody has: a guess, unless it was wrong from there before."""
        source, digest = source_of(address), _digest(token)
        self._known.pop((source, digest), None)
        now = self._clock()
        bucket = self._buckets.pop(source, None) or _Bucket(now)
        self._buckets[source] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if digest in bucket.wrong:
            bucket.wrong.move_to_end(digest)
        else:
            bucket.wrong[digest] = None
            if len(bucket.wrong) > MAX_WRONG:
                bucket.wrong.popitem(last=False)
            # Whatever is made of it: nobody waits for longer than a bucket takes to empty.
            full = now + self.burst * SECONDS_PER_GUESS
            bucket.empty_at = min(max(bucket.empty_at, now) + SECONDS_PER_GUESS, full)
        self._count(source, refused=False)

    def turn(self) -> None:
        """Tell what is due; call it now and then."""
        now = self._clock()
        if self._since and now >= self._tell_at:
            self._tell(now)
        elif not self._since and now >= self._tell_at + self._pause:
            self._pause = REPORT_AFTER

    def _count(self, source: str, *, refused: bool) -> None:
        self.failed += 1
        self.limited += refused
        self._refused += refused
        if source in self._since or len(self._since) < MAX_ADDRESSES:
            self._since[source] += 1
        else:
            self._others += 1
        self.turn()

    def _tell(self, now: float) -> None:
        named = self._since.most_common(NAMED)
        attempts = self._since.total() + self._others
        told = Report(
            attempts, self._refused, tuple(named), attempts - sum(count for _, count in named)
        )
        self._since.clear()
        self._others = self._refused = 0
        self._tell_at = now + self._pause
        self._pause = min(self._pause * 2, REPORT_AT_MOST)
        self._report(told)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
