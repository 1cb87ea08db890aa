"""One private address that makes nearly all requests: clients that nobody can tell apart. Pure.

Behind a container bridge, or a load balancer that is not among ``trusted_proxies``, every client
has the same address: one cohort, one limit bucket. Workers count requests by private address
(``Requests``), control decides over a window (``Sharing``).

Loopback is two things: a proxy on the same machine, and whoever tries the gateway out there. The
first says for whom it asks (``X-Forwarded-For``, ``Forwarded``), so that loopback counts where most
of its requests do, and is no news where they do not.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.policy.cohort import address_key

if TYPE_CHECKING:
    from collections.abc import Iterable

#: RFC 1918, 6598, 3927, 1122, 4193, 4291: addresses that no client on the internet has.
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "fc00::/7",
        "fe80::/10",
        "::1/128",
    )
)
#: How the text of each of these begins, and of few others: what costs nothing to rule out.
_BEGINS = ("10.", "172.", "192.168.", "100.", "169.254.", "127.", "fc", "fd", "fe", "::1")
#: Private addresses that a worker tells apart; beyond it the small ones are thinned out.
MAX_ADDRESSES = 64
#: Private addresses whose key is remembered; dropped when full.
MAX_KEYS = 1024

#: Seconds that are looked back on, and the share, and the fewest requests, that say something.
WINDOW = 300.0
MIN_REQUESTS = 200
SHARE = 0.95
#: Below this share it is over: what hovers at the bound is told once.
OVER = 0.90
#: Pieces of a window, whoever tells how often.
_PIECES = 60


def is_private(address: str) -> bool:
    """Tell whether an address, in its one spelling, is one of a private network or loopback."""
    if not address.startswith(_BEGINS):
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in _PRIVATE)


@dataclass(slots=True)
class Counted:
    """Requests of one address; ``forwarded`` of them say for whom they were made."""

    requests: int = 0
    forwarded: int = 0


class Requests:
    """A worker's count since it was last taken. Bounded: Misra and Gries' frequent items.

    So a count is too small by at most one in ``MAX_ADDRESSES`` of all requests, never too large.
    """

    def __init__(self) -> None:
        self.total = 0
        self._by_address: dict[str, Counted] = {}
        #: What private addresses count as; a busy one is asked for again and again.
        self._keys: dict[str, str] = {}

    def add(self, client: str, requests: int, forwarded: bool) -> None:
        """Count requests of a client (an address; of IPv6 its /64 counts)."""
        self.total += requests
        key = self._keys.get(client)
        if key is None:
            if not is_private(client):
                return
            if len(self._keys) >= MAX_KEYS:
                self._keys.clear()
            key = self._keys[client] = address_key(client).decode("ascii")
        counted = self._by_address.get(key)
        if counted is None:
            if len(self._by_address) >= MAX_ADDRESSES:
                requests -= self._thin_out(requests)
                if requests == 0:
                    return
            counted = self._by_address[key] = Counted()
        counted.requests += requests
        counted.forwarded += requests if forwarded else 0

    def _thin_out(self, requests: int) -> int:
        """Take as many of each address, at most ``requests``, as the smallest has; return it.

        The newcomer loses as many: what each loses, all of ``MAX_ADDRESSES`` and one have lost.
        """
        lost = min(requests, *(each.requests for each in self._by_address.values()))
        for each in self._by_address.values():
            each.requests -= lost
            each.forwarded = min(each.forwarded, each.requests)
        self._by_address = {
            key: each for key, each in self._by_address.items() if each.requests > 0
        }
        return lost

    def take(self) -> tuple[int, tuple[str, int, int]]:
        """Return all requests, and (address, requests, forwarded) of the busiest; begin anew.

        An address with less than half of them is nobody's worry: ("", 0, 0).
        """
        total, self.total = self.total, 0
        found, self._by_address = self._by_address, {}
        address = max(found, key=lambda each: found[each].requests, default="")
        if not address or found[address].requests * 2 < total:
            return total, ("", 0, 0)
        return total, (address, found[address].requests, found[address].forwarded)


@dataclass(frozen=True, slots=True)
class Shared:
    """An address that makes nearly all requests: its share (0 to 1) of the window's ``requests``.

    ``forwards``: most of its requests say for whom they were made: it is a proxy.
    """

    address: str
    share: float
    requests: int
    forwards: bool


@dataclass(slots=True)
class _Piece:
    """What was heard in one piece of the window; it began at ``at``."""

    at: float
    total: int
    by_address: dict[str, Counted]


class Sharing:
    """Decides over a window of what all workers tell. Times are seconds, monotonic."""

    def __init__(self) -> None:
        self._pieces: deque[_Piece] = deque()
        self._found: Shared | None = None

    def reset(self) -> None:
        """Forget everything: other addresses are believed from now on."""
        self._pieces.clear()
        self._found = None

    def hear(self, total: int, rows: Iterable[tuple[str, int, int]], now: float) -> None:
        """Take one worker's count: all requests, and (address, requests, forwarded) of some."""
        if not self._pieces or now >= self._pieces[-1].at + WINDOW / _PIECES:
            self._pieces.append(_Piece(now, 0, {}))
        piece = self._pieces[-1]
        piece.total += total
        for address, requests, forwarded in rows:
            if address not in piece.by_address and len(piece.by_address) >= MAX_ADDRESSES:
                continue
            counted = piece.by_address.setdefault(address, Counted())
            counted.requests += requests
            counted.forwarded += forwarded

    def look(self, now: float) -> Shared | None:
        """Return the address that makes nearly all requests, if there is one.

        Too few requests are no evidence for anything: what was found stands for as long.
        """
        while self._pieces and self._pieces[0].at <= now - WINDOW:
            self._pieces.popleft()
        total = sum(each.total for each in self._pieces)
        if total < MIN_REQUESTS:
            return self._found
        self._found = self._busiest(total)
        return self._found

    def _busiest(self, total: int) -> Shared | None:
        sums: dict[str, Counted] = {}
        for piece in self._pieces:
            for address, counted in piece.by_address.items():
                of = sums.setdefault(address, Counted())
                of.requests += counted.requests
                of.forwarded += counted.forwarded
        address = max(sums, key=lambda each: sums[each].requests, default="")
        if not address:
            return None
        counted = sums[address]
        forwards = counted.forwarded * 2 > counted.requests
        known = self._found is not None and self._found.address == address
        if counted.requests < (OVER if known else SHARE) * total:
            return None
        if not forwards and _is_loopback(address):
            return None
        return Shared(address, counted.requests / total, total, forwards)


def _is_loopback(key: str) -> bool:
    return ipaddress.ip_network(key, strict=False).is_loopback or key.startswith("::/")
