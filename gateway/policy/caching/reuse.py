"""Whether a copy answers a request as it is (RFC 9111 section 4, RFC 5861)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.policy.caching.storing import MAX_DISCONNECTED

if TYPE_CHECKING:
    from gateway.policy.caching.directives import Directives

#: Serve it; serve it and validate it beside; validate it first; do not even look at it.
FRESH, STALE_WHILE_REVALIDATE, STALE, VALIDATE = range(4)


def use(  # noqa: PLR0911 - one rule after the other, as the RFC has them
    age: float,
    lifetime: float,
    *,
    no_cache: bool,
    strict: bool,
    while_revalidate: float,
    asked: Directives,
) -> int:
    """Return FRESH, STALE_WHILE_REVALIDATE, STALE (the client takes it stale) or VALIDATE.

    ``no_cache``, ``strict`` and ``while_revalidate`` are the copy's terms.
    """
    if no_cache or asked.no_cache:
        return VALIDATE
    # Section 5.2.1.1: unless it is willing to take stale ones, a client wants none older.
    if asked.max_age is not None and age > asked.max_age and asked.max_stale is None:
        return VALIDATE
    left = lifetime - age
    if left > 0 and left >= (asked.min_fresh or 0):
        return FRESH
    # Nobody who names an age, or the freshness that is to be left, wants it staler than that.
    if asked.min_fresh is not None:
        return VALIDATE
    if asked.max_stale is not None and not strict and -left <= asked.max_stale:
        return STALE
    if asked.max_age is None and -left < while_revalidate:
        return STALE_WHILE_REVALIDATE
    return VALIDATE


def in_error(
    age: float, lifetime: float, *, strict: bool, if_error: float, disconnected: bool
) -> bool:
    """Tell whether a stale copy stands for an error of the backend (RFC 5861 section 4).

    ``disconnected``: no answer could be had at all, where section 4.2.4 allows it without
    being asked to.
    """
    staleness = age - lifetime
    if staleness < if_error:
        return True
    return disconnected and not strict and staleness < MAX_DISCONNECTED
