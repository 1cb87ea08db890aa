"""Whether an answer may be kept, for how long it is fresh, and when it may be served stale.

RFC 9111 sections 3, 3.5, 4.2 and 5.2.2; RFC 5861. Stricter than these in three ways: an answer with
``Set-Cookie`` is kept only where it says ``public`` or ``s-maxage``, and then without that field
(one visitor's session is not another's); freshness by heuristics is for requests without cookies;
a qualified ``private`` is read as the unqualified one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.policy.caching.dates import http_date
from gateway.policy.caching.directives import MAX_SECONDS, Directives, parse
from gateway.policy.caching.fields import first

if TYPE_CHECKING:
    from gateway.policy.caching.fields import Fields

#: RFC 9110 section 15.1, less 206: part of an answer is not kept.
HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
#: What answers one request's condition or range: it says nothing of the URL. A 416 that was kept
#: would be everybody's answer.
_ONE_REQUESTS = frozenset({206, 304, 412, 416})
#: Statuses whose caching requirements are met here (``must-understand``, section 5.2.2.3).
UNDERSTOOD = HEURISTIC | frozenset({302, 303, 307, 400, 403, 500, 502, 503, 504})
#: Section 4.2.2: this share of the time since Last-Modified, at most a day.
HEURISTIC_SHARE = 0.1
MAX_HEURISTIC = 86_400.0
#: Section 4.2.4 lets a disconnected cache serve stale; nothing here does for longer than this.
MAX_DISCONNECTED = 86_400.0

#: Never part of a copy (section 3.1), beside hop-by-hop fields and what Connection names.
LEFT_OUT = frozenset(
    {b"age", b"content-length", b"proxy-authentication-info", b"trailer", b"x-request-id"}
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request bears on keeping its answer. ``time`` is when it was forwarded.

    ``authorized``: it carries ``Authorization``, or an identity that a trusted proxy vouches for.
    ``cookies``: it carries others than the gateway's own. ``no_store``: its own Cache-Control.
    """

    time: float
    authorized: bool = False
    cookies: bool = False
    no_store: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an answer is kept. Times in seconds.

    ``age`` is its corrected initial age at ``time`` (section 4.2.3), ``lifetime`` its freshness
    lifetime. ``no_cache``: never used without validation. ``strict``: never served stale on the
    cache's own account. ``while_revalidate`` and ``if_error`` are RFC 5861's, 0 where not allowed.
    ``drop`` are fields that are no part of the copy.
    """

    time: float
    age: float
    lifetime: float
    heuristic: bool
    no_cache: bool
    strict: bool
    while_revalidate: int
    if_error: int
    drop: frozenset[bytes]


def terms(status: int, fields: Fields, asked: Asked, now: float) -> Terms | None:
    """Return the terms on which an answer to GET is kept, None where it may not be."""
    control = parse(fields.get(b"cache-control", ()))
    if asked.no_store or not _allowed(status, fields, control, asked):
        return None
    lifetime, heuristic = _lifetime(status, fields, control, now)
    if heuristic and asked.cookies:
        return None
    validator = b"etag" in fields or b"last-modified" in fields
    strict = control.must_revalidate or control.proxy_revalidate or control.no_cache
    swr, sie = control.stale_while_revalidate or 0, control.stale_if_error or 0
    if lifetime <= 0 and not validator and (strict or not max(swr, sie)):
        return None  # of no use
    drop = LEFT_OUT.union(control.no_cache_fields)
    if b"set-cookie" in fields or b"set-cookie2" in fields:
        drop |= {b"set-cookie", b"set-cookie2"}
    return Terms(
        time=now,
        age=initial_age(fields, asked.time, now),
        lifetime=lifetime,
        heuristic=heuristic,
        no_cache=control.no_cache,
        # s-maxage means proxy-revalidate too (section 5.2.2.10), but for who also says RFC 5861's.
        strict=strict or control.s_maxage is not None,
        while_revalidate=0 if strict else swr,
        if_error=0 if strict else sie,
        drop=drop,
    )


def _allowed(status: int, fields: Fields, control: Directives, asked: Asked) -> bool:
    if status in _ONE_REQUESTS or status < 200 or control.private:
        return False
    if control.must_understand:
        if status not in UNDERSTOOD:
            return False
    elif control.no_store:
        return False
    explicit = control.public or control.s_maxage is not None
    if asked.authorized and not (explicit or control.must_revalidate):
        return False
    if (b"set-cookie" in fields or b"set-cookie2" in fields) and not explicit:
        return False
    return (
        explicit
        or control.max_age is not None
        or b"expires" in fields
        or (status in HEURISTIC and (b"last-modified" in fields or b"etag" in fields))
    )


def _lifetime(status: int, fields: Fields, control: Directives, now: float) -> tuple[float, bool]:
    """Return the freshness lifetime (section 4.2.1), and whether it is a guess."""
    if control.s_maxage is not None:
        return float(control.s_maxage), False
    if control.max_age is not None:
        return float(control.max_age), False
    date = http_date(first(fields, b"date"), now)
    since = now if date is None else float(date)
    expires = fields.get(b"expires")
    if expires:
        until = http_date(expires[0], now) if len(set(expires)) == 1 else None
        return (0.0 if until is None else max(0.0, until - since)), False
    if status in HEURISTIC or control.public:
        modified = http_date(first(fields, b"last-modified"), now)
        if modified is not None and modified < since:
            return min((since - modified) * HEURISTIC_SHARE, MAX_HEURISTIC), True
    return 0.0, False


def initial_age(fields: Fields, request_time: float, now: float) -> float:
    """Return the corrected initial age (section 4.2.3) of an answer that has come just now.

    An ``Age`` that is not one number makes it as old as can be.
    """
    date = http_date(first(fields, b"date"), now)
    apparent = 0.0 if date is None else max(0.0, now - date)
    values = fields.get(b"age")
    said = 0.0
    if values:
        alone = values[0] if len(values) == 1 and values[0].isdigit() else None
        said = float(MAX_SECONDS if alone is None else min(int(alone[:12]), MAX_SECONDS))
    return max(apparent, said + max(0.0, now - request_time))


#: A whole answer, good enough to be shown in an outage.
_GOOD = 200


def may_fall_back(status: int, fields: Fields, asked: Asked, *, shared: bool) -> bool:
    """Tell whether an answer to GET may be kept for a ``stale`` fallback alone.

    The operator has asked for it, so what only bounds its use while all is well (``no-cache``,
    ``must-revalidate``, no freshness at all) does not matter. What says that it is one person's
    does: without ``shared`` so does a request with credentials or cookies.
    """
    if status != _GOOD or b"set-cookie" in fields or b"set-cookie2" in fields:
        return False
    control = parse(fields.get(b"cache-control", ()))
    if control.no_store or control.private:
        return False
    return shared or not (asked.authorized or asked.cookies)
