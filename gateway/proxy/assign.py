"""Phase 5, assign: which side of a service a request belongs to, and why.

In this order: the color that one of the gateway's own integration checks forces; a tester's signed
override; an internal caller that quotes the split it is part of; the client's own cohort. The
decision is one object that is made only where there is something to decide; without any of these
everything is stable's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.config.snapshot import BUCKETS
from gateway.policy import override
from gateway.policy.cohort import (
    Splitter,
    cohort_key,
    cookie_key,
    is_navigation,
    new_cookie_value,
    set_cookie_field,
)
from gateway.wire.fields import (
    ACCEPT,
    GW_OVERRIDE,
    SEC_FETCH_DEST,
    SEC_FETCH_MODE,
    SEC_FETCH_SITE,
    X_RELEASE_ID,
    X_RELEASE_KEY,
    X_RELEASE_ROLE,
    mask,
)

if TYPE_CHECKING:
    from gateway.proxy.core import Core
    from gateway.proxy.endpoint import Pool
    from gateway.proxy.serving import Serving
    from gateway.wire.head import Head

_SEC_FETCH = cython.declare(cython.ulonglong, mask(SEC_FETCH_MODE, SEC_FETCH_DEST, SEC_FETCH_SITE))
_KEY_LENGTH = 16
_HEX = frozenset(b"0123456789abcdef")


@cython.final
@cython.cclass
class Assignment:
    """The side that a request is on. ``weight`` is the one in force for its service now.

    ``key`` is the opaque cohort key, ``set_cookie`` a complete line or empty. ``probe`` marks an
    integration check (an ``override`` too): the color that it names answers or nobody does; no
    other side, no copy, no fallback, and the answer is not kept.
    """

    candidate: cython.bint = cython.declare(cython.bint, visibility="readonly")
    weight: cython.int = cython.declare(cython.int, visibility="readonly")
    key: bytes = cython.declare(bytes, visibility="readonly")
    set_cookie: bytes = cython.declare(bytes, visibility="readonly")
    override: cython.bint = cython.declare(cython.bint, visibility="readonly")
    probe: cython.bint = cython.declare(cython.bint, visibility="readonly")

    def __init__(
        self,
        candidate: cython.bint,
        weight: cython.int,
        key: bytes,
        set_cookie: bytes,
        override: cython.bint,
        probe: cython.bint = False,
    ) -> None:
        self.fill(candidate, weight, key, set_cookie, override, probe)

    @cython.cfunc
    @cython.exceptval(check=True)
    def fill(
        self,
        candidate: cython.bint,
        weight: cython.int,
        key: bytes,
        set_cookie: bytes,
        override: cython.bint,
        probe: cython.bint,
    ) -> cython.bint:
        """Set everything, from compiled code in C's types."""
        self.candidate = candidate
        self.weight = weight
        self.key = key
        self.set_cookie = set_cookie
        self.override = override
        self.probe = probe
        return True

    def __repr__(self) -> str:
        side = "candidate" if self.candidate else "stable"
        why = " by probe" if self.probe else " by override" if self.override else ""
        return f"<Assignment {side} at {self.weight}{why}>"


def assign_probe(
    serving: Serving,
    core: Core,
    head: Head,
    service: str,
    blue: Pool,
    green: Pool,
    stable_green: cython.bint,
    weight: int,
) -> Assignment | None:
    """Return the side that an integration check forces; None where the request is none.

    Only asked where the field is there at all. The service is the route's, with its two pools.
    Another service than the one that is checked is asked for the same color only where that
    carries traffic or could serve: a slot that serves nobody is in nobody's way.
    """
    token = head.get(GW_OVERRIDE)
    if token is None:
        return None
    color = override.verify_probe(serving.cohort.probe_secret, token, now=core.wall())
    if color is None:
        return None
    candidate: bool = (color == "green") != stable_green
    checked = override.probed_service(token)
    if checked and checked != service:
        carries: bool = weight > 0 if candidate else weight < BUCKETS
        pool = green if color == "green" else blue
        if pool.closed or not (pool.serves() or (carries and pool.members)):
            candidate = not candidate
    return Assignment(candidate, 0, b"", b"", True, True)


def assign_override(
    serving: Serving, core: Core, head: Head, cookie: bytes | None, host: bytes, tls: bool
) -> Assignment | None:
    """Return a tester's side; None where there is no token, or none that holds."""
    secret = serving.cohort.secret
    new = head.get(GW_OVERRIDE)
    if new is None:
        new = override.from_target(head.target)
    token = new if new is not None else override.from_cookie(cookie) if cookie else None
    if token is None or secret is None:
        return None
    now = core.wall()
    side = override.verify(secret, token, host=host, release=serving.release, now=now)
    if side is None:
        return None
    line = b""
    if new is not None:
        left = max(1, int(override.expiry(token) - now))
        line = set_cookie_field(override.PARAMETER, token, left, None, tls)
    return Assignment(side == "candidate", 0, b"", line, True)


def assign_internal(serving: Serving, head: Head, weight: int) -> Assignment | None:
    """Return the side that an internal caller quotes; None where it quotes none of this split.

    A service outside of the split uses its stable.
    """
    release = head.get(X_RELEASE_ID)
    role = head.get(X_RELEASE_ROLE)
    key = head.get(X_RELEASE_KEY)
    if (
        not serving.release
        or release != serving.release_bytes
        or role not in {b"stable", b"candidate"}
        or key is None
        or len(key) != _KEY_LENGTH
        or not _HEX.issuperset(key)
    ):
        return None
    return Assignment(role == b"candidate" and weight > 0, weight, key, b"", False)


@cython.ccall
def assign_cohort(
    serving: Serving,
    core: Core,
    head: Head,
    cookie: bytes | None,
    identity: bytes | None,
    client: str,
    weight: cython.int,
    tls: cython.bint,
) -> Assignment:
    """Return the side of the client's own cohort; a navigation without a cookie is given one."""
    key, kind = cohort_key(cookie, serving.cohort.cookie, identity, client)
    line = b""
    if (
        kind != "cookie"
        and serving.split
        and is_navigation(
            head.method,
            head.get(SEC_FETCH_MODE),
            head.get(ACCEPT),
            (head.seen & _SEC_FETCH) != 0,
        )
    ):
        value = new_cookie_value(bytes.fromhex(core.hexes.take(32).decode("ascii")))
        key = cookie_key(value)
        line = set_cookie_field(
            serving.cohort.cookie, value, serving.cohort.max_age, serving.cohort.domain, tls
        )
    splitter: Splitter = serving.splitter
    assigned: tuple[int, bytes] = splitter.assign(key)
    bucket: cython.int = assigned[0]
    found: Assignment = Assignment.__new__(Assignment)
    found.fill(bucket < weight, weight, assigned[1], line, False, False)
    return found
