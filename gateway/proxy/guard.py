"""Phase 4, guard: what is asked of a request before it is assigned to a side. The seam.

A route has a ``RouteGuard`` where anything is to be asked (``checks`` puts it together). In order:

1. CORS fields: first, so that a page of another origin can read any refusal that follows. An
   upgrade from an origin that is not allowed ends here.
2. The address's lists: who is not let in at all costs nothing more.
3. The address's limits: a flood is turned away before a signature is verified; preflights count.
4. Preflights: answered before authentication, for they never have any.
5. Authentication.
6. The subject's limits: counted for whom was verified just now.

Each is a ``Check`` with one decision; a refusal is a ``Failure``, and its answer bears the
admission's lines, too. What a check adds to the answer, whoever gives it, and to the request that
goes upstream is collected in the request's ``Admission``.

Compiled where a compiler is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import cython

if TYPE_CHECKING:
    from gateway.wire.head import Head


@cython.final
@cython.cclass
class Admission:
    """What the guard made of one request.

    ``lines`` go to the client with whatever answer it gets (complete, CRLF included), ``upstream``
    to the backend; ``subject`` is the authenticated identity (empty: none), by which the client is
    told apart and its answers are its own, ``shown`` what stands for it in the access log.
    ``spent`` are lower-case names of fields that have served their purpose and go no further.
    ``status`` above 0: answered here, with ``lines`` and without a body.
    """

    lines: bytes = cython.declare(bytes, visibility="public")
    upstream: bytes = cython.declare(bytes, visibility="public")
    subject: bytes = cython.declare(bytes, visibility="public")
    shown: str = cython.declare(str, visibility="public")
    spent: tuple[bytes, ...] = cython.declare(tuple, visibility="public")
    status: cython.int = cython.declare(cython.int, visibility="public")

    def __init__(self) -> None:
        self.lines = b""
        self.upstream = b""
        self.subject = b""
        self.shown = ""
        self.spent = ()
        self.status = 0

    def __repr__(self) -> str:
        who = f" for {self.shown!r}" if self.subject else ""
        return f"<Admission{who} status={self.status}>"


@cython.final
@cython.cclass
class Asked:
    """A request as the checks see it. Times are seconds: ``now`` monotonic, ``wall`` the epoch's.

    ``client`` is the address behind trusted proxies, ``internal`` whether who asks is of
    the platform's own, ``identity`` what a trusted peer vouches for (None: nothing).
    """

    head: Head = cython.declare(object, visibility="readonly")
    method: bytes = cython.declare(bytes, visibility="readonly")
    path: bytes = cython.declare(bytes, visibility="readonly")
    host: bytes = cython.declare(bytes, visibility="readonly")
    client: str = cython.declare(str, visibility="readonly")
    tls: cython.bint = cython.declare(cython.bint, visibility="readonly")
    internal: cython.bint = cython.declare(cython.bint, visibility="readonly")
    identity: bytes | None = cython.declare(object, visibility="readonly")
    now: cython.double = cython.declare(cython.double, visibility="readonly")
    wall: cython.double = cython.declare(cython.double, visibility="readonly")

    def __init__(  # noqa: PLR0913, PLR0917 - one call with everything is what makes it cheap
        self,
        head: Head,
        method: bytes,
        path: bytes,
        host: bytes,
        client: str,
        tls: cython.bint,
        internal: cython.bint,
        identity: bytes | None,
        now: cython.double,
        wall: cython.double,
    ) -> None:
        self.head = head
        self.method = method
        self.path = path
        self.host = host
        self.client = client
        self.tls = tls
        self.internal = internal
        self.identity = identity
        self.now = now
        self.wall = wall


class Check(Protocol):
    """One question. Raises Failure for a no; ends the guard by setting ``admission.status``."""

    def check(self, asked: Asked, admission: Admission) -> None:
        """Decide, and add what there is to add."""


@cython.final
@cython.cclass
class RouteGuard:
    """A route's checks, in their order."""

    checks: tuple[Check, ...] = cython.declare(tuple, visibility="readonly")

    def __init__(self, checks: tuple[Check, ...]) -> None:
        self.checks = checks

    def __repr__(self) -> str:
        return f"<RouteGuard {', '.join(type(each).__name__ for each in self.checks)}>"

    def admit(self, asked: Asked, admission: Admission) -> None:
        """Ask everything, until one refuses (Failure) or answers."""
        for each in self.checks:
            each.check(asked, admission)
            if admission.status:
                return
