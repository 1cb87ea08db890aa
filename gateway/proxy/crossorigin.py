"""CORS as checks of the guard.

There are two, with the address's limits between them: the fields come first, so that a page
of another origin can read a refusal, too; a preflight is answered after them, and before
authentication, for a preflight never has any (Fetch, "CORS-preflight fetch").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.proxy.errors import Failure

if TYPE_CHECKING:
    from gateway.policy.cors import CorsRules
    from gateway.proxy.guard import Admission, Asked
    from gateway.wire.head import Head

_METHOD = b"access-control-request-method"
_PRIVATE = b"access-control-request-private-network"


def origin_of(head: Head) -> bytes | None:
    """Return a request's Origin; of several, none: no browser sends them. An empty one is none."""
    values = head.find_all(b"origin")
    return values[0] if len(values) == 1 and values[0] else None


class CorsFields:
    """Adds what an answer says to pages of the request's origin; refuses nobody but upgrades.

    An upgrade is not what CORS is about: a browser opens a WebSocket to whomever, cookies
    included, and leaves it to the server to look at the origin (RFC 6455 section 10.2).
    """

    __slots__ = ("_rules",)

    def __init__(self, rules: CorsRules) -> None:
        self._rules = rules

    def check(self, asked: Asked, admission: Admission) -> None:
        """Add the lines. Raises Failure for an upgrade from an origin that is not allowed."""
        origin = origin_of(asked.head)
        if _is_preflight(asked, origin):
            return  # what it is told is CorsPreflight's to say
        admission.lines += self._rules.answer(origin)
        if self._rules.upgrades and asked.head.upgrade and asked.head.find(b"origin") is not None:
            own = origin is not None and _is_own(origin, asked.head)
            if origin is None or not (own or self._rules.allows(origin)):
                raise Failure("cross-origin")


class CorsPreflight:
    """Answers preflights, with 204 and without asking the backend."""

    __slots__ = ("_rules",)

    def __init__(self, rules: CorsRules) -> None:
        self._rules = rules

    def check(self, asked: Asked, admission: Admission) -> None:
        """Answer, where it is a preflight."""
        if asked.method != b"OPTIONS":
            return
        origin = origin_of(asked.head)
        if origin is not None and _is_preflight(asked, origin):
            private = asked.head.find(_PRIVATE) == b"true"
            admission.lines += self._rules.preflight(origin, private)
            admission.status = 204


def _is_own(origin: bytes, head: Head) -> bool:
    """Tell whether a page of the very host that is asked opens it."""
    host = head.find(b"host")
    return host is not None and origin.partition(b"://")[2] == host.lower()


def _is_preflight(asked: Asked, origin: bytes | None) -> bool:
    return (
        asked.method == b"OPTIONS" and origin is not None and asked.head.find(_METHOD) is not None
    )
