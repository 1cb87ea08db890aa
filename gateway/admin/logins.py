"""Failed logins: limited by address, and told in a few rows whatever their number.

A guess is a bearer token that nobody has. Each address has a burst of them and then one in a while
(a bucket that leaks); beyond it every call from there is 429, right or wrong, so that guessing
learns nothing. Two things keep that from being a way to lock somebody out: the buckets are the
addresses' own, and a token that was good from an address is good from there on, whatever else
comes from it (a monitor with an old token on the same machine as the pipeline).

Memory is bounded by ``MAX_ADDRESSES``; the one that failed longest ago is forgotten first. What is
told grows with the logarithm of an attack's length, not with its rate.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Guesses that an address has at once, and seconds until it has one more.
BURST: Final = 10
SECONDS_PER_GUESS: Final = 6.0
#: Addresses that are kept, and pairs of address and token that were good.
MAX_ADDRESSES: Final = 1024
MAX_KNOWN: Final = 1024
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
        #: By bucket: when it will have leaked empty, in the order of the last failure.
        self._empty_at: OrderedDict[str, float] = OrderedDict()
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._since: Counter[str] = Counter()
        self._others = 0
        self._refused = 0
        self._tell_at = -math.inf
        self._pause = REPORT_AFTER

    def __repr__(self) -> str:
        return f"<Logins {len(self._empty_at)} addresses, {self.failed} failed>"

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """Failed logins since the start by result: nobody's token, or one not looked at."""
        return ("unknown", self.failed - self.limited), ("limited", self.limited)

    def wait(self, address: str, token: bytes) -> float:
        """Return for how many seconds this token is not looked at from there; 0: it is."""
        bucket = _bucket(address)
        now = self._clock()
        empty_at = self._empty_at.get(bucket)
        if empty_at is None or (bucket, _digest(token)) in self._known:
            return 0.0
        over = (empty_at - now) - (self.burst - 1) * SECONDS_PER_GUESS
        if over <= 0:
            return 0.0
        self._count(bucket, refused=True)
        return over

    def succeeded(self, address: str, token: bytes) -> None:
        """Remember that a token was good from an address."""
        key = (_bucket(address), _digest(token))
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def failed_from(self, address: str) -> None:
        """Count a guess."""
        bucket = _bucket(address)
        now = self._clock()
        empty_at = max(self._empty_at.pop(bucket, now), now) + SECONDS_PER_GUESS
        self._empty_at[bucket] = empty_at
        if len(self._empty_at) > MAX_ADDRESSES:
            self._empty_at.popitem(last=False)
        self._count(bucket, refused=False)

    def turn(self) -> None:
        """Tell what is due; call it now and then."""
        now = self._clock()
        if self._since and now >= self._tell_at:
            self._tell(now)
        elif not self._since and now >= self._tell_at + self._pause:
            self._pause = REPORT_AFTER

    def _count(self, bucket: str, *, refused: bool) -> None:
        self.failed += 1
        self.limited += refused
        self._refused += refused
        if bucket in self._since or len(self._since) < MAX_ADDRESSES:
            self._since[bucket] += 1
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


def _bucket(address: str) -> str:
    """Return what an address is counted under: an IPv6 host has a whole /64 to come from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        if not parsed.is_loopback:
            return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
