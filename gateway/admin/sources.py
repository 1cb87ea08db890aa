"""Whom connections of the admin API come from: an address, of IPv6 a /64."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def oldest_of_the_most(places: Mapping[T, str]) -> T:
    """Return the first place of the source that holds most of them; there is one at least.

    ``places`` are in the order in which they were taken, with the source of each. Of sources that
    hold as many, the one that took one first gives way.
    """
    most = Counter(places.values()).most_common(1)[0][0]
    return next(place for place, source in places.items() if source == most)


def source_of(address: str) -> str:
    """Return what an address counts under: an IPv6 host has a whole /64 to come from."""
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
