"""One request, from its head to its record, as the phases of docs/architecture.md.

An exchange has one downstream stream and one answer source, an ``Attempt`` at an endpoint. It never
touches a transport. Each phase is a function with one decision; what goes wrong is a ``Failure``
that ``fail`` turns into an answer, or into the connection's end where an answer has begun.

Compiled where a compiler is there: no ``async def`` here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.board import layout
from gateway.policy.assets import wrong_type
from gateway.policy.caching.saying import hit_lines
from gateway.policy.cohort import address_key, strip_cookies
from gateway.policy.fallback import SAFE
from gateway.policy.forwarded import forwarded_block, forwarded_host, forwarded_proto
from gateway.policy.override import strip_target
from gateway.policy.retry import FALLBACK, MARK, RESCUE, RETRY
from gateway.policy.security import NONCE, NONCE_DIGITS, NONCE_FIELD, NONCE_LENGTHS, NONCE_NAMES
from gateway.policy.trace import continue_or_begin, continues, valid_request_id
from gateway.proxy.answer import (
    between_events,
    cookie_lines,
    is_events,
    is_page,
    last_event,
    tail_of,
)
from gateway.proxy.assign import (
    Assignment,
    assign_cohort,
    assign_internal,
    assign_override,
    assign_probe,
)
from gateway.proxy.cache import Ready, Shelf
from gateway.proxy.degraded import accept_of, kept_lines, retry_after_of, title_of, values
from gateway.proxy.errors import KINDS, Failure, Source, status_of
from gateway.proxy.guard import Admission, Asked
from gateway.proxy.platform import (
    LEAVING,
    READ_ONLY_RETRY,
    READY,
    READY_LINES,
    READY_PATH,
    STATUS_LINES,
    STATUS_PATH,
)
from gateway.proxy.quiet import QuietStream
from gateway.proxy.record import Outcome
from gateway.proxy.reports import REPORTS_PATH, TIMEOUT, violations_of
from gateway.proxy.shared import Shared
from gateway.proxy.stream import ClientStream
from gateway.proxy.tally import ASSET, CACHED, STRAY, UNTIMED
from gateway.proxy.tunnel import Tunnel
from gateway.proxy.visit import INSTEAD, REFUSE, SERVE, WAIT, Visit
from gateway.proxy.wellknown import CHALLENGE_LINES, CHALLENGES, challenge, https_location
from gateway.proxy.wheel import NEVER
from gateway.wire.body import encode_chunk, encode_last_chunk
from gateway.wire.errors import WireError
from gateway.wire.fields import (
    AUTHORIZATION,
    CACHE_CONTROL,
    CDN_CACHE_CONTROL,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    DATE,
    EXPECT,
    FORWARDED,
    GW_OVERRIDE,
    HOP_BY_HOP,
    HOST,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    PRAGMA,
    RANGE,
    TE,
    TRACEPARENT,
    TRACESTATE,
    UPGRADE,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    X_REAL_IP,
    X_RELEASE_COLOR,
    X_RELEASE_ID,
    X_RELEASE_KEY,
    X_RELEASE_ROLE,
    X_REQUEST_ID,
    mask,
)
from gateway.wire.head import BODY_CHUNKED, BODY_NONE, Head
from gateway.wire.target import match_path, split_absolute, valid_host

if TYPE_CHECKING:
    from gateway.policy.assets import AssetPaths
    from gateway.policy.fallback import ErrorPages, FallbackPlan, Rule, StaticAnswer
    from gateway.policy.forwarded import ProxyTrust
    from gateway.policy.security import SecurityFields
    from gateway.policy.sharing import Requests
    from gateway.proxy.core import Core
    from gateway.proxy.endpoint import Endpoint, Pool
    from gateway.proxy.guard import RouteGuard
    from gateway.proxy.kept import Keeper
    from gateway.proxy.links import Passage, Stream
    from gateway.proxy.queue import ServiceQueue
    from gateway.proxy.serving import RouteRun, SecondTries, ServiceRun, Serving
    from gateway.proxy.tally import ServiceTally
    from gateway.proxy.upstream import UpstreamConnection

#: Octets of a request's body that wait for a connection to be made.
MAX_PENDING = 64 * 1024
#: Octets of a stored body that are written at a time.
SLICE = 64 * 1024

_MAX_PENDING = cython.declare(cython.Py_ssize_t, MAX_PENDING)
_SLICE = cython.declare(cython.Py_ssize_t, SLICE)
_SERVE = cython.declare(cython.int, SERVE)
_WAIT = cython.declare(cython.int, WAIT)
_REFUSE = cython.declare(cython.int, REFUSE)
_INSTEAD = cython.declare(cython.int, INSTEAD)
_AUTHORIZATION_BIT = cython.declare(cython.ulonglong, mask(AUTHORIZATION))
_TLS = (b"https", b"s")
#: What a request asks of a cache beyond a fresh copy.
_UNUSUAL = cython.declare(
    cython.ulonglong,
    mask(
        CACHE_CONTROL,
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_UNMODIFIED_SINCE,
        PRAGMA,
        RANGE,
    ),
)

#: Of a request that is made once more to validate a copy: what was only the client's business.
_QUIET_DROP = HOP_BY_HOP | mask(
    CACHE_CONTROL, EXPECT, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, PRAGMA, RANGE, X_REQUEST_ID
)
_QUIET_DROP_MASK = cython.declare(cython.ulonglong, _QUIET_DROP)
_NEVER = cython.declare(cython.double, NEVER)
#: More requests in flight than a machine has: no bound.
_UNBOUNDED = cython.declare(cython.ulonglong, 1 << 62)
_RETRY = cython.declare(cython.int, RETRY)
_RESCUE = cython.declare(cython.int, RESCUE)
_MARK = cython.declare(cython.int, MARK)
_FALLBACK = cython.declare(cython.int, FALLBACK)
_CACHED = cython.declare(cython.int, CACHED)
_STRAY = cython.declare(cython.int, STRAY)
_UNTIMED = cython.declare(cython.int, UNTIMED)
_ASSET = cython.declare(cython.int, ASSET)
#: What a client did itself: it left, stopped reading, or sent what is no request's content.
_CLIENTS_OWN = frozenset(kind.name for kind in KINDS.values() if kind.source is Source.DOWNSTREAM)
#: Methods that a metric has a label for.
_METHODS = frozenset(name.encode() for name in layout.METHODS[:-1])
_BODY_NONE = cython.declare(cython.int, BODY_NONE)
_BODY_CHUNKED = cython.declare(cython.int, BODY_CHUNKED)
_TRACEPARENT = cython.declare(cython.int, TRACEPARENT)
_HOST = cython.declare(cython.int, HOST)
_UPGRADE = cython.declare(cython.int, UPGRADE)
_COOKIE = cython.declare(cython.int, COOKIE)
_GW_OVERRIDE = cython.declare(cython.int, GW_OVERRIDE)
_COOKIE_BIT = cython.declare(cython.ulonglong, mask(COOKIE))
_FORWARDED_BITS = cython.declare(cython.ulonglong, mask(X_FORWARDED_FOR, FORWARDED))
#: Requests of a connection that are told of at once, in the policy's ``Requests``.
_RUN = cython.declare(cython.int, 16)
_HOST_BIT = cython.declare(cython.ulonglong, mask(HOST))
_DATE_BIT = cython.declare(cython.ulonglong, mask(DATE))
_CACHE_CONTROL_BITS = cython.declare(cython.ulonglong, mask(CACHE_CONTROL, CDN_CACHE_CONTROL))
_TRACESTATE_BIT = cython.declare(cython.ulonglong, mask(TRACESTATE))
_TE_BIT = cython.declare(cython.ulonglong, mask(TE))
_CONTENT_LENGTH_BIT = cython.declare(cython.ulonglong, mask(CONTENT_LENGTH))
#: Random hex digits for a request's id, and for a trace that begins here (trace id, parent id).
_ID_DIGITS = cython.declare(cython.Py_ssize_t, 32)
_TRACE_DIGITS = cython.declare(cython.Py_ssize_t, 48)
_ALLOW = b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\nX-Request-Id: "

#: Never passed on from a client: hop-by-hop, and what the gateway says itself.
_DROP = HOP_BY_HOP | mask(
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    X_REAL_IP,
    FORWARDED,
    X_REQUEST_ID,
    TRACEPARENT,
    X_RELEASE_COLOR,
    X_RELEASE_ROLE,
    X_RELEASE_ID,
    X_RELEASE_KEY,
    GW_OVERRIDE,
)
_DROP_MASK = cython.declare(cython.ulonglong, _DROP)

#: RFC 9110 section 9.2.2: sending them twice is sending them once.
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

_STATUS_PATH = cython.declare(bytes, STATUS_PATH)
_READY_PATH = cython.declare(bytes, READY_PATH)
_REPORTS_PATH = cython.declare(bytes, REPORTS_PATH)
_CSP_COLORS = cython.declare(cython.Py_ssize_t, len(layout.CSP_DIRECTIVES))

#: Protocols that a client may not switch to: ``h2c`` would walk past every policy in the tunnel.
_FORBIDDEN_UPGRADES = (b"h2c", b"http/", b"tls/")


@cython.final
@cython.cclass
class RouteView:
    """A route of one snapshot, unpacked: what the phases read of it costs them nothing.

    A connection's requests mostly go to the same route, so its memo keeps the last one's view.
    """

    serving: Serving
    route: RouteRun
    service: ServiceRun
    row: cython.Py_ssize_t
    blue: Pool
    green: Pool
    stable_green: cython.bint
    any_closed: cython.bint
    weight: cython.int
    max_in_flight: cython.int
    queue: ServiceQueue
    rewrite_host: cython.bint
    release_lines: tuple[bytes, ...]
    strip: cython.int
    body_limit: cython.longlong
    first_byte: cython.double
    between: cython.double
    total: cython.double
    security: SecurityFields | None
    overridable: cython.bint
    split: cython.bint
    behind_cdn: cython.bint
    own_cookies: tuple[bytes, ...]
    assets: AssetPaths | None
    shelf: Shelf | None
    again: SecondTries
    statuses: bytes
    replay: cython.Py_ssize_t
    plan: FallbackPlan
    pages: ErrorPages
    intercepts: cython.bint
    maintenance: cython.double
    caches: cython.bint
    forward_only: cython.bint
    tally: ServiceTally | None
    guard: RouteGuard | None
    nonce: cython.bint
    tls: cython.bint

    def __init__(self, serving: Serving, route: RouteRun, tls: cython.bint) -> None:
        service = serving.services[route.service]
        self.serving = serving
        self.route = route
        self.service = service
        self.row = service.row
        self.blue, self.green = service.pools
        self.stable_green = service.stable_green
        self.any_closed = self.blue.closed or self.green.closed
        self.weight = service.weight
        self.max_in_flight = service.max_in_flight
        self.queue = service.queue
        self.rewrite_host = service.rewrite_host
        self.release_lines = service.release_lines
        self.strip = route.strip
        self.body_limit = route.body_limit
        self.first_byte = route.timeouts.first_byte
        self.between = route.timeouts.between_bytes
        self.total = route.timeouts.total
        self.security = None if route.security is None else route.security[1 if tls else 0]
        self.tls = tls
        self.nonce = self.security is not None and self.security.nonce
        self.overridable = serving.overridable
        self.split = serving.split
        self.behind_cdn = serving.behind_cdn
        self.own_cookies = serving.own_cookies
        self.assets = serving.assets
        self.shelf = None
        plan = service.degraded.plan
        # A stored page says another request's number: its scripts would not run.
        if (route.cache or plan.stale) and not self.nonce:
            self.shelf = Shelf(
                route.cache,
                service.row,
                service.scopes,
                plan if plan.stale else None,
                serving.unwanted,
            )
        self.again = route.again
        self.statuses = route.again.verdicts.statuses
        self.replay = route.again.replay
        self.plan = service.degraded.plan
        self.pages = service.degraded.pages
        self.intercepts = service.degraded.pages.intercepts
        self.maintenance = service.maintenance
        self.caches = route.cache and not self.nonce
        self.forward_only = service.forward_only
        self.tally = service.tally
        self.guard = route.guard

    @cython.cfunc
    @cython.exceptval(-1)
    def calls_for(self, status: cython.int) -> cython.int:
        """Return what an answer's status calls for, as bits of ``policy.retry``."""
        return self.statuses[status] if 0 <= status < 600 else 0


@cython.final
@cython.cclass
class PeerMemo:
    """What one connection's requests share: who the peer is, and the fields that say so."""

    trust: ProxyTrust = cython.declare(object, visibility="readonly")
    callers: ProxyTrust = cython.declare(object, visibility="readonly")
    peer: str
    tls: cython.bint
    trusted: cython.bint
    internal: cython.bint
    view: RouteView | None
    host_field: bytes
    host: bytes
    block: bytes
    own_cookies: tuple[bytes, ...]
    cookie: bytes
    stripped: bytes
    #: Requests since the last that were told, whose they are, whether a proxy says for whom.
    asked: cython.int
    asker: str
    forwarded: cython.bint

    def __init__(self, serving: Serving, peer: str, tls: cython.bint) -> None:
        self.trust = serving.trust
        self.callers = serving.internal
        self.peer = peer
        self.tls = tls
        self.view = None
        self.trusted = serving.trust.trusts(peer)
        self.internal = serving.internal.trusts(peer)
        self.host_field = b""
        self.host = b""
        self.block = b""
        self.own_cookies = ()
        self.cookie = b""
        self.stripped = b""
        self.asked = 0
        self.asker = peer
        self.forwarded = False

    def tell(self, requests: Requests) -> None:
        """Tell of the requests that were not told of yet: the connection is at its end."""
        if self.asked:
            requests.add(self.asker, self.asked, self.forwarded)
            self.asked = 0

    @cython.cfunc
    def without_own(self, cookie: bytes, own_cookies: tuple[bytes, ...]) -> bytes:
        """Return a Cookie field without the gateway's; a browser sends the same one each time."""
        if cookie != self.cookie or own_cookies is not self.own_cookies:
            self.stripped = strip_cookies(cookie, own_cookies)
            self.cookie = cookie
            self.own_cookies = own_cookies
        return self.stripped


@cython.final
@cython.cclass
class Attempt:
    """One try at one endpoint. ``request_sent`` once all of the request has been written.

    ``_first``: it is the one that its side is judged by.
    """

    endpoint: Endpoint = cython.declare(object, visibility="readonly")
    request_sent: cython.bint = cython.declare(cython.bint, visibility="readonly")
    wants_upgrade: cython.bint = cython.declare(cython.bint, visibility="readonly")
    connection: UpstreamConnection | None = cython.declare(object, visibility="readonly")
    _exchange: Exchange
    _over: cython.bint
    _redialled: cython.bint
    _probe: cython.int
    _good: cython.bint
    _marked: cython.bint
    _first: cython.bint

    def __init__(self, exchange: Exchange, endpoint: Endpoint, wants_upgrade: cython.bint) -> None:
        self.endpoint = endpoint
        self.request_sent = False
        self.wants_upgrade = wants_upgrade
        self.connection = None
        self._exchange = exchange
        self._over = False
        self._redialled = False
        self._probe = endpoint.take_probe() if endpoint.probed else 0
        self._good = False
        self._marked = False
        self._first = False

    def __repr__(self) -> str:
        return f"<Attempt at {self.endpoint.id} sent={self.request_sent} over={self._over}>"

    @cython.cfunc
    @cython.exceptval(check=True)
    def begin(self) -> cython.bint:
        """Take an idle connection, or have one made.

        A request that may not be repeated at all gets one of its own: an idle one may be closing.
        """
        connection = None
        if self._exchange._view.again.reuses:
            connection = self.endpoint.take_idle()
        if connection is not None:
            self._send(connection)
        else:
            self._exchange.core.dial(self.endpoint, self, self._exchange.route.timeouts.connect)
        return True

    def asked_for(self, protocol: bytes | None) -> bool:
        """Tell whether the client asked to switch to this protocol (RFC 9110 section 7.8)."""
        asked = self._exchange.head.get(_UPGRADE)
        if not self.wants_upgrade or protocol is None or asked is None:
            return False
        return protocol.lower() in [each.strip(b" \t") for each in asked.lower().split(b",")]

    def on_connected(self, connection: UpstreamConnection) -> None:
        """Send over a connection made for this attempt, or keep it for another one."""
        if self._over:
            connection.rest()
        elif connection.closed:
            self.on_dial_failed(Failure("connect", "closed as soon as it was made"))
        else:
            self._send(connection)

    def on_dial_failed(self, failure: Failure) -> None:
        """No connection could be made."""
        if not self._over:
            self.on_fail(failure)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _send(self, connection: object) -> cython.bint:
        exchange = self._exchange
        self.connection = connection  # type: ignore[assignment]
        exchange.send_request(self)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def over(self, good: cython.bint) -> cython.bint:
        """Count it out of the endpoint's in-flight, once."""
        if not self._over:
            self._over = True
            self.endpoint.release(good)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def mark(self, unreached: cython.bint) -> cython.bint:
        """Hold a failure against the endpoint, once."""
        probe: cython.int = self._probe
        if not self._marked:
            self._marked = True
            self._probe = 0
            self.endpoint.failed(unreached, probe)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def pass_probe(self) -> cython.bint:
        """Where it was the breaker's probe: it has passed."""
        return self._end_probe(True)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _end_probe(self, good: object) -> cython.bint:
        guard = self.endpoint.guard
        if self._probe and guard is not None:
            guard.end_probe(good, self._probe)  # type: ignore[arg-type]  # bool or None
        self._probe = 0
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def abandon(self) -> cython.bint:
        """Stop: nobody waits for its answer any more."""
        if self._over:
            return True
        connection = self.connection
        if connection is not None:
            connection.abort()
            self.endpoint.forget(connection)
        self._end_probe(None)
        self.over(False)
        return True

    # --- what the upstream connection tells -----------------------------------------------------

    def on_inform(self, head: Head) -> None:
        """A 1xx answer: passed on."""
        exchange = self._exchange
        if exchange._view.security is not None:
            exchange._view.security.undress(head)
        exchange.downstream.inform(head)

    def on_head(self, head: Head, body: bytes, ended: bool) -> None:
        """The final answer's head, with what there is of its body."""
        exchange = self._exchange
        good: cython.bint = not exchange._view.calls_for(head.status) & _MARK
        if not good:
            self.mark(False)
        elif self._probe:
            self.pass_probe()
        self._good = good
        if ended:
            self.over(good)
        elif good and head.length < 0 and is_events(head):
            # It may go on for hours; others have done well once they are whole.
            self.endpoint.passed()
        exchange.on_head(self, head, body, ended)

    def on_data(self, payload: bytes, ended: bool, trailers: Head | None) -> None:
        """More of the answer's body."""
        if ended:
            self.over(self._good)
        self._exchange.on_data(self, payload, ended, trailers)

    def on_switch(self, head: Head, rest: bytes) -> None:
        """101: the connection is a tunnel from now on."""
        self.pass_probe()
        self.endpoint.passed()
        self._exchange.on_switch(self, head, rest)

    def on_fail(self, failure: Failure) -> None:
        """The backend failed. One that had just closed its idle connection gets a fresh one."""
        exchange = self._exchange
        connection = self.connection
        if (
            connection is not None
            and failure.name == "reset"
            and connection.served > 0
            and not connection.received
            and not self._redialled
            and exchange.repeatable
        ):
            self._redialled = True
            self.connection = None
            self.request_sent = False
            exchange.core.dial(self.endpoint, self, exchange.route.timeouts.connect)
            return
        if exchange._view.again.verdicts.of(failure.name) & MARK:
            self.mark(failure.retry_safe)
        self._end_probe(None)
        self.over(False)
        # What was sent over a first connection may have arrived, whatever became of the second.
        exchange.on_attempt_failed(self, failure, failure.retry_safe and not self._redialled)

    def on_full(self) -> None:
        """The backend reads slowly: the client waits."""
        exchange = self._exchange
        exchange.downstream.pause()
        # Once it answers, the answer's own bound is in force.
        if exchange.waits_for(self) and self.connection is not None:
            self.connection.expect_within(
                "between-bytes-timeout",
                exchange.core.wheel.now + exchange.route.timeouts.between_bytes,
                0.0,
            )

    def on_ready(self) -> None:
        """The backend has read on."""
        exchange = self._exchange
        if exchange.waits_for(self) and self.connection is not None:
            self.connection.expect_within("first-byte-timeout", _NEVER, 0.0)
        exchange.downstream.resume()


@cython.final
@cython.cclass
class HeldAnswer:
    """An answer that waits while a better one is looked for; it stands where there is none."""

    attempt: Attempt
    head: Head
    body: bytes
    ended: cython.bint
    failure: Failure | None
    green: cython.bint
    candidate: cython.bint
    asset: cython.bint

    def __init__(
        self,
        attempt: Attempt,
        head: Head,
        body: bytes,
        ended: cython.bint,
        green: cython.bint,
        candidate: cython.bint,
        asset: cython.bint,
    ) -> None:
        self.attempt = attempt
        self.head = head
        self.body = body
        self.ended = ended
        self.failure = None
        self.green = green
        self.candidate = candidate
        self.asset = asset
        if not ended and attempt.connection is not None:
            attempt.connection.pause()


@cython.final
@cython.cclass
class Exchange:
    """One request and its answer. The snapshot it began with is pinned in ``serving``."""

    core: Core = cython.declare(object, visibility="readonly")
    _shared: Shared
    downstream: Stream = cython.declare(object, visibility="readonly")
    _stream: ClientStream
    serving: Serving = cython.declare(object, visibility="readonly")
    head: Head = cython.declare(object, visibility="readonly")
    route: RouteRun = cython.declare(object, visibility="readonly")
    deadline: cython.double = cython.declare(cython.double, visibility="readonly")
    to_head: cython.bint = cython.declare(cython.bint, visibility="readonly")
    repeatable: cython.bint = cython.declare(cython.bint, visibility="readonly")
    _view: RouteView
    _seen: cython.ulonglong
    _repeated: cython.ulonglong
    _minor: cython.int
    _framing: cython.int
    _absolute: cython.bint
    _method: bytes
    _target: bytes
    _path: bytes
    _host: bytes
    _authority: bytes
    _client: str
    _chain: tuple[str, ...]
    _memo: PeerMemo
    _cookie: bytes | None
    _request_id: bytes
    _trace: bytes
    _admission: Admission | None
    _nonce: bytes
    _report: list[bytes] | None
    _assignment: Assignment | None
    _green: cython.bint
    _candidate: cython.bint
    _attempt: Attempt | None
    _held: HeldAnswer | None
    _keeper: Keeper | None
    _visit: Visit | None
    _stored_lines: bytes
    _rest: bytes
    _rest_at: cython.Py_ssize_t
    #: An event stream is being passed on; it ends after the next event; what it said last.
    _events: cython.bint
    _leaving: cython.bint
    _tail: bytes
    _endpoint: str
    _request: bytes
    _pending: list[bytes]
    _pending_size: cython.Py_ssize_t
    _replay: list[bytes] | None
    _replay_size: cython.Py_ssize_t
    _tried: list[Endpoint] | None
    _retries: cython.int
    _rescuing: cython.bint
    _only: cython.bint
    _failure: Failure | None
    _counted_as: cython.int
    _deaf: cython.bint
    #: Whether content is awaited before the request goes on.
    _awaits: cython.bint
    _body_ended: cython.bint
    _whole_at: cython.double
    _entered: cython.bint
    #: Whether it waits for a place in flight; since when, then for how long (below 0: it did not).
    _waits: cython.bint
    _queued: cython.double
    _recorded: cython.bint
    _at_once: cython.bint
    _status: cython.int
    _error: str
    _served_by: str
    _first: object
    #: What came of the first attempt: the side that it was made at, the answer's status (0: nothing
    #: yet; below 0: none came), the failure's name, and when; with the tally's flags.
    _asked: cython.int
    _heard: cython.int
    _fault: str
    _heard_at: cython.double
    _apart: cython.int
    _strayed: cython.bint
    _started: cython.double
    _turn: cython.double
    _forwarded_at: cython.double
    _answered_at: cython.double

    def __init__(  # noqa: PLR0915 - an exchange has that many parts
        self, downstream: Stream, core: Core, head: Head, started: cython.double
    ) -> None:
        self.core = core
        self._shared = core
        self.downstream = downstream
        self._stream = downstream  # type: ignore[assignment]  # every Stream is one
        self.serving = self._shared.serving
        self.head = head
        self.route = None  # type: ignore[assignment]  # set by the route phase, before use
        self.deadline = _NEVER
        self._method = head.cut_method()
        self.to_head = self._method == b"HEAD"
        self.repeatable = False
        self._view = None  # type: ignore[assignment]  # set by the route phase
        self._seen = head.seen
        self._repeated = head.repeated
        self._minor = head.minor
        self._framing = head.body
        self._absolute = False
        self._target = head.cut_target()
        self._path = b""
        self._host = b""
        self._authority = b""
        self._client = self._stream.peer
        self._chain = ()
        self._cookie = None
        self._request_id = b""
        self._trace = b""
        self._admission = None
        self._nonce = b""
        self._report = None
        self._assignment = None
        self._green = False
        self._candidate = False
        self._attempt = None
        self._held = None
        self._keeper = None
        self._visit = None
        self._stored_lines = b""
        self._rest = b""
        self._rest_at = 0
        self._events = False
        self._leaving = False
        self._tail = b""
        self._endpoint = ""
        self._request = b""
        self._pending = []
        self._pending_size = 0
        self._replay = None
        self._replay_size = 0
        self._tried = None
        self._retries = 0
        self._rescuing = False
        self._only = False
        self._failure = None
        self._counted_as = -1
        self._deaf = False
        self._awaits = False
        self._body_ended = self._framing == _BODY_NONE
        self._whole_at = started
        self._entered = False
        self._waits = False
        self._queued = -1.0
        self._recorded = False
        self._at_once = False
        self._status = 0
        self._error = ""
        self._served_by = ""
        self._first = None
        self._asked = 0
        self._heard = 0
        self._fault = ""
        self._heard_at = 0.0
        self._apart = 0
        self._strayed = False
        self._started = started
        self._turn = started
        self._forwarded_at = 0.0
        self._answered_at = 0.0

    def __repr__(self) -> str:
        return f"<Exchange {self._method!r} {self._target!r} status={self._status}>"

    # --- the phases -----------------------------------------------------------------------------

    @cython.ccall
    def begin(self) -> None:
        """Go from the head to an attempt, or to a refusal."""
        try:
            self._identify()
            if not self._route():
                return
            if not self._guard():
                return
            if (
                self._framing != _BODY_NONE
                and self.serving.limits.await_body > 0
                and not self.head.expect_continue
            ):
                self._awaits = True
                return
            self._go_on()
        except Failure as failure:
            self._give_up(failure)
        except WireError as error:
            self.fail(Failure("bad-request", str(error), status=error.status, cause=error))

    @cython.cfunc
    @cython.exceptval(check=True)
    def _go_on(self) -> cython.bint:
        """Phases 5 to 8."""
        self._assign()
        if self._view.shelf is not None and not self._only and self._recall():
            return True
        if self._select():
            self._forward()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _await(self, framed: bytes, ended: cython.bint) -> cython.bint:
        """Keep content until it is whole, or enough that its client is no slow one: until then it
        takes no place in the service's in-flight limit and no connection of a backend's.
        """
        if framed:
            self._pending.append(framed)
            self._pending_size += len(framed)
            if len(self._pending) > 64:  # an object for each octet would be fifty times as much
                self._pending = [b"".join(self._pending)]
        if self._waits:
            if self._pending_size > _MAX_PENDING and not ended:
                self.downstream.pause()
            return True
        if not ended and self._pending_size < self.serving.limits.await_body:
            return True
        self._awaits = False
        self._turn = self._shared.clock()
        try:
            self._go_on()
        except Failure as failure:
            self._give_up(failure)
        return True

    def on_recalled(self) -> None:
        """Go on where another request's answer was waited for: serve it, or forward."""
        if self._recorded:
            return
        self._turn = self._shared.clock()
        try:
            if self._look():
                return
            if self._select():
                self._forward()
        except Failure as failure:
            self._give_up(failure)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _identify(self) -> cython.bint:
        """Phase 2: the client behind trusted proxies, the request's id, its place in a trace."""
        head: Head = self.head
        serving = self.serving
        memo: PeerMemo | None = self._stream.memo
        if memo is None or memo.trust is not serving.trust or memo.callers is not serving.internal:
            memo = PeerMemo(serving, self._stream.peer, self._stream.tls)
            self._stream.memo = memo
        self._memo = memo
        if self._memo.trusted:
            self._chain = serving.trust.chain(
                self.downstream.peer,
                b", ".join(head.get_all(X_FORWARDED_FOR)) or None,
                b", ".join(head.get_all(FORWARDED)) or None,
            )
            self._client = self._chain[0]
            given = head.get(X_REQUEST_ID)
            if given is not None and valid_request_id(given):
                self._request_id = given
        hexes = self._shared.hexes
        if not self._request_id:
            self._request_id = hexes.take(_ID_DIGITS)
        self._trace = continue_or_begin(head.get(_TRACEPARENT), hexes.take(_TRACE_DIGITS))
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _route(self) -> cython.bint:
        """Phase 3: host and path to a route. False where it is answered here already."""
        head: Head = self.head
        memo: PeerMemo = self._memo
        target: bytes = self._target
        field = head.get(_HOST)
        if field is None:
            self._remember_host(b"", b"")
        elif field != memo.host_field or not field:
            self._remember_host(field, valid_host(field)[0])
        self._host = memo.host
        if self._method == b"CONNECT":
            raise Failure("method", "CONNECT")
        if not target.startswith(b"/"):
            if target == b"*" and self._method == b"OPTIONS":
                self.downstream.reply(204, _ALLOW + self._request_id + b"\r\n")
                return False
            target = self._origin_form(target)
        self._path = match_path(target)
        if self._answered_here():
            return False
        route = self.serving.router.lookup(self._host, self._path)
        if route is None:
            raise Failure("no-route")
        view = memo.view
        tls: cython.bint = memo.tls
        if memo.trusted:
            # Where a trusted proxy ends TLS, it is the proxy who knows.
            tls = self._proto_told(b"s" if tls else b"") in _TLS
        if (
            view is None
            or view.route is not route
            or view.serving is not self.serving
            or view.tls != tls
        ):
            # The router holds what it was given.
            view = RouteView(self.serving, route, tls)  # type: ignore[arg-type]
            memo.view = view
        self._view = view
        self.route = view.route
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _answered_here(self) -> cython.bint:
        """Answer what is the gateway's own to answer, whatever the host. False: it has a route.

        A listener that only redirects does so last: the others' clients follow no redirect.
        """
        if self._path in (_STATUS_PATH, _READY_PATH):
            self._tell_status()
            return True
        if self._path == _REPORTS_PATH and self.serving.reports is not None:
            self._begin_report()
            return True
        if self._path.startswith(CHALLENGES):
            if not self.serving.acme_folder:
                return False
            self._tell_challenge()
            return True
        return len(self._shared.redirects) > 0 and not self._memo.tls and self._redirect()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _tell_status(self) -> cython.bint:
        """Answer with the platform's public status, or whether the gateway goes on being there.

        Whatever the host, and before any route.
        """
        extra: bytes = b"X-Request-Id: " + self._request_id + b"\r\n"
        leaving: cython.bint
        if self._path == _READY_PATH and (self.to_head or self._method == b"GET"):
            leaving = self.core.platform.leaving
            self._status = 503 if leaving else 200
            body = LEAVING if leaving else READY
            self.downstream.answer(self._status, READY_LINES + extra, body)
            return True
        if self.to_head or self._method == b"GET":
            self._status = 200
            self.downstream.answer(200, STATUS_LINES + extra, self.core.platform.document)
            return True
        failure = Failure("not-allowed")
        self._error = failure.name
        self._status = status_of(failure)
        self.downstream.refuse(failure, b"Allow: GET, HEAD\r\n" + extra)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _tell_challenge(self) -> cython.bint:
        """Answer an authority that asks for an ACME challenge, whatever the host."""
        if not self.to_head and self._method != b"GET":
            raise Failure("not-allowed")
        found = challenge(self.serving.acme_folder, self._path)
        if found is None:
            raise Failure("no-route")
        self._status = 200
        extra: bytes = b"X-Request-Id: " + self._request_id + b"\r\n"
        self.downstream.answer(200, CHALLENGE_LINES + extra, found)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _redirect(self) -> cython.bint:
        """Send a plain request to https, where its listener says so. False: it is served here.

        Served too where a trusted proxy took it in over https: it would be sent in circles.
        """
        port = self._shared.redirects.get(self.downstream.listener)
        if port is None:
            return False
        if self._memo.trusted and self._proto_told(b"") == b"https":
            return False
        if not self._host:
            raise Failure("bad-request", "no host to redirect to")
        self._status = 308
        extra: bytes = b"X-Request-Id: " + self._request_id + b"\r\n"
        self.downstream.reply(308, https_location(self._host, port, self._target) + extra)
        return True

    @cython.cfunc
    def _origin_form(self, target: bytes) -> bytes:
        """Take an absolute-form target (RFC 9112 section 3.2.2) that names the Host it came to."""
        _, authority, origin = split_absolute(target)
        field = self.head.get(_HOST)
        if field is None:
            self._authority = authority
            self._remember_host(authority, valid_host(authority)[0])
            self._host = self._memo.host
        elif valid_host(authority) != valid_host(field):
            raise WireError("bad-host", "the target names another host than the Host field")
        self._target = origin
        self._absolute = True
        return origin

    @cython.cfunc
    @cython.exceptval(check=True)
    def _remember_host(self, field: bytes, host: bytes) -> cython.bint:
        """Keep a Host, as it came and as it is compared, for the connection's next request."""
        memo: PeerMemo = self._memo
        if field != memo.host_field:
            memo.block = b""
        memo.host_field = field
        memo.host = host
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _guard(self) -> cython.bint:
        """Phase 4: bounds in size and time, the route's guard, maintenance, the platform's mode.

        False where it is answered here already.
        """
        view = self._view
        if self._framing != _BODY_NONE:
            self.downstream.limit_body(view.body_limit)
        self.deadline = self._started + view.total
        self._stream.expect(self.deadline, view.between)
        if view.nonce:
            self._nonce = self._shared.hexes.take(NONCE_DIGITS)
            self.head.sift(0, NONCE_LENGTHS, NONCE_NAMES)
        if (self._seen >> _GW_OVERRIDE) & 1:
            self._assignment = assign_probe(
                self.serving,
                self.core,
                self.head,
                self.route.service_name,
                view.blue,
                view.green,
                view.stable_green,
                view.weight,
            )
            # An integration check: the color that it names answers, or the gateway's error does.
            # Nothing that keeps visitors away keeps it away: how else would a service come back?
            self._only = self._assignment is not None
            if self._only:
                return True
        if not self._memo.internal:
            self._count_asker()
        if view.guard is not None and not self._admitted():
            return False
        if view.maintenance >= 0.0:
            name = self.route.service_name
            raise Failure("maintenance", name, retry_after=view.maintenance)
        if self._method != b"GET" and not self.to_head and self._refuses_write():
            raise Failure("read-only", self.route.service_name, retry_after=READ_ONLY_RETRY)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _count_asker(self) -> cython.bint:
        """Count the request for its client: one that all are behind is told of.

        The first of a run of requests of the connection stands for all of the run.
        """
        memo = self._memo
        if memo.asked == 0:
            memo.asker = self._client
            memo.forwarded = bool(self._seen & _FORWARDED_BITS)
        memo.asked += 1
        if memo.asked == _RUN:
            memo.tell(self.core.requests)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _admitted(self) -> cython.bint:
        """Have the route's guard decide; False where it has answered."""
        view = self._view
        memo = self._memo
        guard = view.guard
        assert guard is not None
        admission = self._admission = Admission()
        asked = Asked(
            self.head,
            self._method,
            self._path,
            self._host,
            self._client,
            memo.tls,
            # What the gateway asks on its own account, nobody is to pay for.
            memo.internal or self.downstream.listener < 0,
            self._identity() if memo.trusted or memo.internal else None,
            self._started,
            self.core.wall(),
        )
        guard.admit(asked, admission)
        if not admission.status:
            return True
        self._status = admission.status
        if self._status == 204:
            self.downstream.reply(204, self._own_lines())
        else:
            self.downstream.answer(self._status, self._own_lines(), b"")
        return False

    @cython.cfunc
    def _own_lines(self) -> bytes:
        """Return the lines of an answer that the gateway makes itself, the guard's included."""
        lines: bytes = b"X-Request-Id: " + self._request_id + b"\r\n"
        admission = self._admission
        return lines if admission is None else lines + admission.lines

    @cython.cfunc
    @cython.exceptval(check=True)
    def _refuses_write(self) -> cython.bint:
        """Tell whether the platform's mode has no writes to the service."""
        view = self._view
        if self._method in SAFE or not self.core.platform.refuses(self.route.service_name):
            return False
        # An open breaker's one try may be a write: it may be all that ever comes.
        return not view.blue.due() and not view.green.due()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _assign(self) -> cython.bint:
        """Phase 5: the side."""
        head: Head = self.head
        view = self._view
        memo = self._memo
        forced: cython.bint = self._shared.forced_stable
        weight: cython.int = 0 if forced else view.weight
        assignment: Assignment | None = self._assignment
        if (self._seen >> _COOKIE) & 1:
            if (self._repeated >> _COOKIE) & 1:
                self._cookie = b"; ".join(head.get_all(COOKIE))
            else:
                self._cookie = head.get(_COOKIE)
        if assignment is None and view.overridable:
            assignment = assign_override(
                self.serving, self.core, head, self._cookie, self._host, memo.tls
            )
        if assignment is None and memo.internal:
            assignment = assign_internal(self.serving, head, weight)
        if assignment is None and (weight > 0 or view.split):
            identity: bytes | None = None
            if memo.trusted or memo.internal:
                identity = self._identity()
            if identity is None and self._admission is not None and self._admission.subject:
                identity = self._admission.subject
            assignment = assign_cohort(
                self.serving,
                self.core,
                head,
                self._cookie,
                identity,
                self._client,
                weight,
                memo.tls,
            )
        self._assignment = assignment
        # The rollback's flag is about visitors: what is on the candidate may still be looked at.
        self._candidate = (
            assignment is not None and assignment.candidate and (not forced or self._only)
        )
        self._green = view.stable_green != self._candidate
        # A color that was taken out answers nothing, by its copies neither.
        if view.any_closed and not self._only:
            self._stray()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _stray(self) -> cython.bint:
        """Go over to the other side where this one's color is closed and the other's is not."""
        view = self._view
        pool: Pool = view.green if self._green else view.blue
        across: Pool = view.blue if self._green else view.green
        if pool.closed and across.members and not across.closed:
            self._green = not self._green
            self._candidate = not self._candidate
            self._strayed = True
        return True

    @cython.cfunc
    def _identity(self) -> bytes | None:
        """Return the identity that a trusted proxy or internal caller vouches for."""
        name = self.serving.cohort.header
        return None if name is None else self.head.find(name)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _is_somebodys(self) -> cython.bint:
        """Tell whether who asks has an identity: verified here, or vouched for by a peer."""
        if self._admission is not None and self._admission.subject:
            return True
        return (self._memo.trusted or self._memo.internal) and self._identity() is not None

    @cython.cfunc
    @cython.exceptval(check=True)
    def _recall(self) -> cython.bint:
        """Phase 6: a copy of that side. True where it answers, or where one is waited for."""
        cache = self.core.cache
        view = self._view
        memo = self._memo
        head: Head = self.head
        if cache is None or head.upgrade:
            return False
        host: bytes = memo.host_field or self._authority
        secure: cython.bint = memo.tls
        authorized: cython.bint = self._seen & _AUTHORIZATION_BIT != 0
        if memo.trusted:
            secure = self._proto_told(b"s" if secure else b"") in _TLS
            told = forwarded_host(head.get(X_FORWARDED_HOST), host)
            if told != host:
                host = host + b"," + told
        authorized = authorized or self._is_somebodys()
        host = host.lower()
        target: bytes = strip_target(self._target) if view.overridable else self._target
        cookie: bytes = b""
        if self._cookie is not None:
            cookie = memo.without_own(self._cookie, view.own_cookies)
        shelf = view.shelf
        assert shelf is not None
        if (
            shelf.cached
            and not self._seen & _UNUSUAL
            and self._framing == _BODY_NONE
            and (self.to_head or self._method == b"GET")
        ):
            ready = cache.ready(
                shelf,
                self._green,
                secure,
                host,
                target,
                head,
                cookie,
                authorized or cookie != b"",
                view.security,
            )
            if ready is not None:
                return self._serve_ready(ready)
        self._visit = Visit(
            cache,
            shelf,
            self,
            head,
            self._method,
            self._framing != _BODY_NONE,
            self._green,
            secure,
            host,
            target,
            self._path,
            cookie,
            authorized,
        )
        return self._look()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _serve_ready(self, ready: Ready) -> cython.bint:
        """Answer with a fresh copy; where nothing about it is special, with what is built of it."""
        view = self._view
        assignment = self._assignment
        body: bytes = b"" if self.to_head else ready.body
        if (
            len(body) > _SLICE
            or (view.intercepts and ready.status >= 400)
            or (assignment is not None and (view.behind_cdn or assignment.set_cookie))
        ):
            copy = ready.copy
            assert copy is not None
            self._stored_lines = ready.lines
            return self._send_stored(copy.head, body)
        self._status = ready.status
        self.downstream.deliver(
            ready.block,
            self._own_lines(),
            body,
        )
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _look(self) -> cython.bint:
        visit = self._visit
        assert visit is not None
        verdict: cython.int = visit.recall()
        if verdict == _SERVE:
            self._serve_copy()
            return True
        if verdict == _REFUSE:
            raise Failure("only-if-cached")
        return verdict == _WAIT

    @cython.cfunc
    @cython.exceptval(check=True)
    def _select(self) -> cython.bint:
        """Phase 7: an endpoint of the side, counted against in the same step.

        False where there is none to ask, which is answered then.
        """
        view = self._view
        # An integration check is told what the color can do, however many others there are.
        if self._only:
            self._shared.recorder.enter(view.row, _UNBOUNDED)
        elif (
            view.queue.waiting or not self._shared.recorder.enter(view.row, view.max_in_flight)
        ) and not self._queue_up():
            return False
        self._entered = True
        return self._pick()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _queue_up(self) -> cython.bint:
        """Wait for a place in flight (False); True where there is one after all.

        What the gateway asks on its own account does not wait.
        """
        view = self._view
        queue = view.queue
        others: cython.bint = queue.waiting > 0
        if self.downstream.listener >= 0:
            if queue.join(self, self.core, self._turn):
                self._waits = True
                self._queued = self._turn
                return False
            # Those who were in front may have been given their places only now.
            if (
                others
                and not queue.waiting
                and self._shared.recorder.enter(view.row, view.max_in_flight)
            ):
                return True
        queue.refused(0, self._turn)
        raise Failure("overload", self.route.service_name)

    def on_turn(self) -> None:
        """Go on with the place in flight that it has waited for: the queue has counted it in."""
        self._waits = False
        self._entered = True
        self._turn = self.core.clock()
        self._queued = self._turn - self._queued
        try:
            if self._pick():
                self._forward()
        except Failure as failure:
            self._give_up(failure)

    def on_waited(self) -> None:
        """No place came in time: the queue has let it go."""
        self._waits = False
        self._queued = self.core.clock() - self._queued
        self._give_up(Failure("overload", f"waited for {self.route.service_name}"))

    @cython.cfunc
    @cython.exceptval(check=True)
    def _wait_no_more(self) -> cython.bint:
        """Leave the queue: the client is gone, or its time is over."""
        self._waits = False
        self._queued = self.core.clock() - self._queued
        self._view.queue.leave(self)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _pick(self) -> cython.bint:
        """Make the attempt at one of the side's endpoints; where it has none, at the other's."""
        view = self._view
        pool: Pool = view.green if self._green else view.blue
        if self._attempt_at(pool):
            return self._judge_by(_STRAY if self._strayed else 0)
        if pool.closed or not pool.members:
            if self._only:
                raise Failure("no-endpoint", self.route.service_name)
            # Taken out by hand, or not deployed: the other side serves.
            self._green = not self._green
            self._candidate = not self._candidate
            pool = view.green if self._green else view.blue
            if self._attempt_at(pool):
                return self._judge_by(_STRAY)
            if pool.closed or not pool.members:
                raise Failure("no-endpoint", self.route.service_name)
        wait = pool.left_alone()
        failure = (
            Failure("overload", f"{self.route.service_name} is warming up")
            if wait is None
            else Failure("breaker-open", self.route.service_name, retry_after=wait)
        )
        self._first = failure.name
        self._failure = failure
        if self._may_rescue(_RESCUE, True) and self._rescue():
            return True
        # Not raised: it would hold this frame, and this exchange it.
        self._give_up(failure)
        return False

    @cython.cfunc
    @cython.exceptval(check=True)
    def _judge_by(self, apart: cython.int) -> cython.bint:
        """Have the attempt that was just made be the one that its side is judged by."""
        attempt = self._attempt
        assert attempt is not None
        attempt._first = True
        self._asked = (2 if self._candidate else 0) + (1 if self._green else 0)
        self._apart = apart | _UNTIMED if attempt.wants_upgrade else apart
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _attempt_at(self, pool: Pool) -> cython.bint:
        """Make an attempt at one of a pool's endpoints; False where it has none to give."""
        endpoint = pool.claim(
            self._shared.draw(32),
            self._client,
            self._tried,
            self._turn if self._tried is None else self._shared.clock(),
            self.to_head or self._method == b"GET",
        )
        if endpoint is None:
            return False
        self._endpoint = endpoint.id
        self._attempt = Attempt(self, endpoint, self._upgrades())
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _upgrades(self) -> cython.bint:
        """Tell whether the client asks for a protocol that it may switch to."""
        if not (self._seen >> _UPGRADE) & 1 or self._framing != _BODY_NONE:
            return False
        head: Head = self.head
        wanted = head.get(_UPGRADE)
        if not head.upgrade or wanted is None or (self._repeated >> _UPGRADE) & 1:
            return False
        for protocol in wanted.lower().split(b","):
            if protocol.strip(b" \t").startswith(_FORBIDDEN_UPGRADES):
                return False
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _forward(self) -> cython.bint:
        """Phase 8: the head that goes upstream, and the attempt's begin."""
        framed: bytes
        attempt = self._attempt
        assert attempt is not None
        self._request = self._render(attempt)
        self.repeatable = self._framing == _BODY_NONE and self._method in _IDEMPOTENT
        if self._framing != _BODY_NONE and self._view.replay > 0:
            self._replay = []
            for framed in self._pending:
                self._keep_for_replay(framed)
        self._forwarded_at = self._turn  # this turn of the loop
        attempt.begin()
        return True

    @cython.cfunc
    def _render(self, attempt: Attempt) -> bytes:  # noqa: PLR0912 - what differs, one by one
        """Build the upstream head: the client's lines, less what is the gateway's to say."""
        head: Head = self.head
        view = self._view
        drop: cython.ulonglong = _DROP_MASK
        parts: list[bytes] = [
            self._forwarded(),
            b"X-Request-Id: ",
            self._request_id,
            b"\r\nTraceparent: ",
            self._trace,
            b"\r\n",
            view.release_lines[(2 if self._candidate else 0) + (1 if self._green else 0)],
        ]
        if self._admission is not None and self._admission.upstream:
            parts.append(self._admission.upstream)
        if self._nonce:
            parts.append(NONCE_FIELD + b": " + self._nonce + b"\r\n")
        self._leave_out()
        assignment = self._assignment
        if assignment is not None and assignment.key:
            parts.append(b"X-Release-Key: ")
            parts.append(assignment.key)
            parts.append(b"\r\n")
        cookie = self._cookie
        if cookie is not None:
            left = self._memo.without_own(cookie, view.own_cookies)
            if len(left) != len(cookie) or (self._repeated >> _COOKIE) & 1:
                drop |= _COOKIE_BIT
                if left:
                    parts.append(b"Cookie: ")
                    parts.append(left)
                    parts.append(b"\r\n")
        if self._seen & _TRACESTATE_BIT and not continues(head.get(TRACEPARENT) or b""):
            drop |= _TRACESTATE_BIT  # it belongs to a trace that is not continued
        if view.rewrite_host or not self._seen & _HOST_BIT or not self._memo.host_field:
            drop |= _HOST_BIT
            if self._authority and not view.rewrite_host:
                parts.append(b"Host: " + self._authority + b"\r\n")
            else:
                parts.append(attempt.endpoint.host_line)
        visit = self._visit
        if visit is not None and visit.lines and visit.green == self._green:
            drop |= visit.drop
            parts.append(visit.lines)
        if attempt.wants_upgrade:
            parts.append(b"Connection: Upgrade\r\nUpgrade: ")
            parts.append(head.get(_UPGRADE) or b"")
            parts.append(b"\r\n")
        elif self._seen & _TE_BIT and _wants_trailers(head):
            parts.append(b"Connection: TE\r\nTE: trailers\r\n")
        if self._framing == _BODY_CHUNKED:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        return head.render(self._first_line(), drop, b"".join(parts))

    @cython.cfunc
    @cython.exceptval(check=True)
    def _leave_out(self) -> cython.bint:
        """Take off what the client may not say of itself, and credentials that are spent.

        Internal callers may, unless who asks was verified here; a trusted proxy may say whom it
        vouches for, and nothing that the gateway says itself: what it did not remove of its own
        clients' would be believed.
        """
        admission = self._admission
        memo = self._memo
        serving = self.serving
        names: tuple[bytes, ...] = serving.unwanted
        if memo.trusted or memo.internal:
            if admission is not None and admission.subject:
                names = serving.said
            else:
                names = () if memo.internal else serving.said_here
        if names:
            self.head.leave_out(names)
        if admission is not None and admission.spent:
            self.head.leave_out(admission.spent)
        return True

    @cython.cfunc
    def _first_line(self) -> bytes:
        """Build the request line: the client's own wherever nothing about it changes."""
        view = self._view
        target: bytes = self._target
        if view.overridable:
            # The log must not hold the token either.
            target = strip_target(target)
            self._target = target
        if view.strip:
            target = _stripped(target, view.strip)
        # Nothing makes a target other than by taking something off it.
        if self._minor == 1 and not self._absolute and len(target) == len(self.head.target):
            return self.head.cut_line()
        return self._method + b" " + target + b" HTTP/1.1\r\n"

    @cython.cfunc
    def _forwarded(self) -> bytes:
        """Return the X-Forwarded-* and Forwarded lines; the same for all of a direct client's."""
        memo: PeerMemo = self._memo
        head: Head = self.head
        proto: bytes = b"https" if memo.tls else b"http"
        if not memo.trusted:
            if not memo.block:
                memo.block = forwarded_block(memo.peer, memo.peer, proto, memo.host_field)
            return memo.block
        chain = self._chain
        return forwarded_block(
            self._client,
            chain[len(chain) - 1],
            self._proto_told(proto),
            forwarded_host(head.get(X_FORWARDED_HOST), memo.host_field),
            b"",
            chain[1 : len(chain) - 1],
        )

    @cython.cfunc
    def _proto_told(self, own: bytes) -> bytes:
        """Return what a trusted proxy says that the client speaks, else ``own``."""
        return forwarded_proto(self.head.get(X_FORWARDED_PROTO), own, len(self._chain) - 1)

    # --- reports of violations ------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _begin_report(self) -> cython.bint:
        """Take a browser's report of a content policy's violation: it is read here."""
        settings = self.serving.reports
        assert settings is not None
        self.downstream.limit_body(settings.body)
        self.deadline = self._started + TIMEOUT
        self._stream.expect(self.deadline, TIMEOUT)
        failure = self.core.reports.refusal(
            settings, self._method, self.head.get(CONTENT_TYPE), self._client, self._started
        )
        if failure is not None:
            allow: bytes = b"Allow: POST\r\n" if failure.name == "not-allowed" else b""
            self._error = failure.name
            self._status = status_of(failure)
            self.downstream.refuse(failure, allow + self._own_lines())
            return True
        self._report = []
        if self._framing == _BODY_NONE:
            self._take_report(b"", True)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _take_report(self, payload: bytes, ended: cython.bint) -> cython.bint:
        """Keep more of a report; once it is whole, count what it says."""
        pieces = self._report
        assert pieces is not None
        pieces.append(payload)
        if not ended or self._status != 0:
            return True
        try:
            found = violations_of(b"".join(pieces), self._host)
        except Failure as failure:
            self.fail(failure)
            return True
        for violation in found:
            self._count_violation(violation.document, violation.directive)
        self._status = 204
        self.downstream.reply(204, self._own_lines())
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _count_violation(self, path: bytes, directive: cython.Py_ssize_t) -> cython.bint:
        """Count a violation for the page's service and for the side that the reporter is on.

        The report's request is assigned as a request for the page would be, and is none itself.
        Told it is once for an address, not for a cohort key: cookies are the client's to make up.
        """
        route = self.serving.router.lookup(self._host, path)
        if route is None:
            return True
        view = RouteView(self.serving, route, self._memo.tls)  # type: ignore[arg-type]
        self._view = view
        self._assign()
        green: cython.Py_ssize_t = _CSP_COLORS if self._green else 0
        self._shared.recorder.count(view.row, layout.ROW_CSP + green + directive)
        assignment = self._assignment
        if view.tally is not None and assignment is not None and not assignment.override:
            reporter: bytes = self.serving.splitter.assign(address_key(self._client))[1]
            view.tally.violated(
                self._side(), assignment.weight, reporter, layout.CSP_DIRECTIVES[directive]
            )
        # The report itself is nobody's request.
        self._view = None  # type: ignore[assignment]
        self._assignment = None
        return True

    # --- the request's body ---------------------------------------------------------------------

    @cython.ccall
    def on_body(self, payload: bytes, ended: bool, trailers: Head | None) -> None:
        """Pass the client's content on, framed for the backend; before a connection, keep it."""
        attempt = self._attempt
        framed: bytes = payload
        if self._report is not None:
            self._take_report(payload, ended)
            return
        if (attempt is None and not self._awaits and not self._waits) or self._deaf:
            return
        if self._framing == _BODY_CHUNKED:
            framed = _chunked(payload, ended, trailers, self.serving.private)
        if ended:
            self._body_ended = True
            self._whole_at = self.core.clock()
        if attempt is None:
            self._await(framed, ended)
            return
        if self._replay is not None:
            self._keep_for_replay(framed)
        if attempt.connection is None:
            if framed:
                self._pending.append(framed)
                self._pending_size += len(framed)
            if self._pending_size > _MAX_PENDING and not ended:
                self.downstream.pause()
            return
        if framed:
            attempt.connection.write(framed)
        if ended:
            attempt.request_sent = True
            if self._answered_at == 0.0:
                self._expect_answer(attempt)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _keep_for_replay(self, framed: bytes) -> cython.bint:
        """Keep content to send it again; what is too large is sent once."""
        self._replay_size += len(framed)
        if self._replay_size > self._view.replay:
            self._replay = None
        elif self._replay is not None:
            self._replay.append(framed)
        return True

    def waits_for(self, attempt: Attempt) -> bool:
        """Tell whether the request is still being sent and nothing has been answered."""
        return attempt is self._attempt and not attempt.request_sent and self._answered_at == 0.0

    @cython.cfunc
    @cython.exceptval(check=True)
    def _expect_answer(self, attempt: Attempt) -> cython.bint:
        connection = attempt.connection
        if connection is not None:
            connection.expect_within(
                "first-byte-timeout", self._shared.wheel.now + self._view.first_byte, 0.0
            )
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def send_request(self, attempt: Attempt) -> cython.bint:
        """Write the head and what has come of the body over the attempt's connection."""
        data: bytes = self._request
        connection = attempt.connection
        assert connection is not None
        deadline: cython.double = _NEVER
        if self._pending:
            data = data + b"".join(self._pending)
            self._pending = []
            if self._pending_size > _MAX_PENDING:
                self.downstream.resume()
            self._pending_size = 0
        if self._body_ended:
            attempt.request_sent = True
            deadline = self._shared.wheel.now + self._view.first_byte
        connection.start(attempt, data, self.to_head, deadline)
        return True

    # --- the answer -----------------------------------------------------------------------------

    def on_head(self, attempt: Attempt, head: Head, body: bytes, ended: bool) -> None:
        """Phase 9: the answer's head goes to the client, or the other color is asked first."""
        if attempt is not self._attempt:
            attempt.abandon()
            return
        self._answered_at = self._shared.clock()
        if attempt._first and self._heard == 0:
            self._heard = head.status
            self._heard_at = self._answered_at
        bits: cython.int = self._view.calls_for(head.status)
        if (bits or self._rescuing) and self._is_bad(attempt, head, body, ended, bits):
            return
        if self._view.assets is not None and not self._only and self._is_asset():
            second: cython.bint = self._held is not None and self._held.asset
            if second and head.status >= 400:
                attempt.abandon()
                self._ask_kept()
                return
            if self._is_missing(head):
                if not second:
                    self._drop_held()
                    self._held = HeldAnswer(
                        attempt, head, body, ended, self._green, self._candidate, True
                    )
                    self._ask_other_color()
                else:
                    attempt.abandon()
                    self._ask_kept()
                return
            if (
                self.core.kept is not None
                and not self._candidate
                and not self.to_head
                and not self._is_somebodys()
            ):
                self._keeper = self.core.kept.keeper(self._host, self._target, self.head, head)
                if self._keeper is not None and not self._keeper.take(body, ended):
                    self._keeper = None
        if self._held is not None:
            self._drop_held()
        if self._visit is not None and self._tell_visit(attempt, head, body, ended):
            return
        self._respond(head, body, ended)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _tell_visit(
        self, attempt: Attempt, head: Head, body: bytes, ended: cython.bint
    ) -> cython.bint:
        """Have the cache see an answer; True where a copy is sent in its place."""
        visit = self._visit
        assert visit is not None
        keep: cython.bint = (
            visit.green == self._green and not self._rescuing and not self._served_by
        )
        if visit.on_head(head, keep) == _INSTEAD:
            if not ended:
                attempt.abandon()
            self._serve_copy()
            return True
        visit.take(body, ended)
        return False

    @cython.cfunc
    @cython.exceptval(check=True)
    def _serve_copy(self) -> cython.bint:
        """Answer with what the visit chose of a copy; a large one as fast as the client reads."""
        visit = self._visit
        assert visit is not None
        if visit.degraded:
            self._answered_at = 0.0  # no backend has
            self._served_by = "stale"
            self._shared.recorder.count(self._view.row, layout.ROW_FALLBACKS)
        refresh: cython.bint = visit.refresh
        self._send_stored(visit.answer_head, visit.answer_body)
        if refresh:
            self._refresh(visit)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _refresh(self, visit: Visit) -> cython.bint:
        """Validate a copy that was served stale: the same request, with nobody to answer."""
        memo = self._memo
        stream = QuietStream(self._shared.wheel, memo.peer, memo.tls, visit.on_refreshed)
        line: bytes = b"GET %b HTTP/1.%d\r\n" % (self.head.target, self._minor)
        head = Head(self.head.render(line, _QUIET_DROP_MASK, b"Cache-Control: max-age=0\r\n"), 0)
        head.read_request()
        exchange = Exchange(stream, self.core, head, self._shared.clock())
        stream.exchange = exchange
        try:
            exchange.begin()
        except Exception:
            visit.on_refreshed()
            raise
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _send_stored(self, head: Head, body: bytes) -> cython.bint:
        self._attempt = None
        if len(body) <= _SLICE:
            return self._respond(head, body, True)
        self._rest = body
        self._rest_at = _SLICE
        self._respond(head, body[:_SLICE], False)
        return self._send_rest()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _send_rest(self) -> cython.bint:
        """Send more of a stored body, until the client has enough for now."""
        rest = self._rest
        size: cython.Py_ssize_t = len(rest)
        at: cython.Py_ssize_t
        while self._rest_at < size and not self.downstream.full and not self._recorded:
            at = self._rest_at
            self._rest_at = at + _SLICE
            if self._rest_at < size:
                self.downstream.write(rest[at : self._rest_at])
            else:
                self.downstream.end(rest[at:], None)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _respond(  # noqa: PLR0912 - what is added to an answer, one after the other
        self, head: Head, body: bytes, ended: cython.bint
    ) -> cython.bint:
        extra: bytes = self._own_lines()
        drop: cython.ulonglong = 0
        assignment = self._assignment
        view = self._view
        seen: cython.ulonglong = head.seen
        if view.intercepts and not self._only and head.status >= 400 and self._intercept(head):
            return True
        self._status = head.status
        self._at_once = ended
        if view.security is not None:
            lines = view.security.dress(head)
            if view.nonce:
                lines = lines.replace(NONCE, self._nonce)
                drop |= self._unkept(head)
            extra += lines
        if not seen & _DATE_BIT:
            extra += self.core.date_line()
        if self._served_by:
            extra += b"X-Gateway-Served-By: " + self._served_by.encode() + b"\r\n"
            drop |= _CACHE_CONTROL_BITS
        if self._served_by or drop:
            extra += b"Cache-Control: no-store\r\n"
        if self._visit is not None:
            extra += self._visit.status_lines()
        elif self._stored_lines:
            extra += self._stored_lines
        if assignment is not None and (view.behind_cdn or assignment.set_cookie):
            unwanted, lines = cookie_lines(head, assignment.set_cookie, self.serving)
            drop |= unwanted
            extra += lines
        if not ended:
            streams: cython.bint = False
            between: cython.double = view.between
            if head.length < 0:
                streams = True
                if is_events(head):
                    between = self.route.timeouts.stream_idle
                    self._apart |= _UNTIMED
                    # Where its events end cannot be seen through a coding.
                    self._events = head.find(b"content-encoding") is None
                    self._tail = tail_of(b"", body)
            if streams:
                self.deadline = _NEVER
                self._stream.expect(_NEVER, between)
            attempt = self._attempt
            if attempt is not None and attempt.connection is not None:
                attempt.connection.expect_within(
                    "between-bytes-timeout", self._shared.wheel.now + between, between
                )
        self._stream.respond(head, drop, extra, body, ended)
        if not ended and self.downstream.full:
            self.on_client_full()
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def _unkept(self, head: Head) -> cython.ulonglong:
        """Return what is dropped of a page with a number of its own: what lets anybody keep it.

        Whoever is given another's page knows its number, and what is allowed to run there.
        """
        if head.status == 304 or not is_page(head):
            return 0
        return _CACHE_CONTROL_BITS

    def on_data(self, attempt: Attempt, payload: bytes, ended: bool, trailers: Head | None) -> None:
        """Pass on more of the answer's body."""
        if attempt is not self._attempt:
            held = self._held
            if held is not None and attempt is held.attempt:
                held.body += payload
                held.ended = ended
            return
        if self._keeper is not None and not self._keeper.take(payload, ended):
            self._keeper = None
        if self._visit is not None:
            self._visit.take(payload, ended)
        if self._events:
            self._pass_events(payload, ended, trailers)
        elif ended:
            self.downstream.end(payload, trailers)
        else:
            self.downstream.write(payload)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _pass_events(
        self, payload: bytes, ended: cython.bint, trailers: Head | None
    ) -> cython.bint:
        """Pass on more of an event stream; one that leaves ends with the last event in it."""
        end: cython.Py_ssize_t
        if ended:
            self._events = False
            self.downstream.end(payload, trailers)
            return True
        if self._leaving:
            end = last_event(self._tail, payload)
            if end >= 0:
                return self._end_events(payload[:end])
        self._tail = tail_of(self._tail, payload)
        self.downstream.write(payload)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _end_events(self, payload: bytes) -> cython.bint:
        attempt = self._attempt
        self._events = False
        if attempt is not None:
            attempt.abandon()
        self.downstream.end(payload, None)
        return True

    def leave(self) -> None:
        """Drain, at its end: an event stream ends in order, after a whole event.

        Its client asks again, and whom it reaches then goes on where it was. Other answers cannot
        end before their end.
        """
        if self._events and not self._leaving:
            self._leaving = True
            if between_events(self._tail):
                self._end_events(b"")

    def leave_color(self, service: str, green: bool, until: float) -> bool:
        """As ``leave``, where an event stream comes from this color of this service; tells whether.

        A tester's that was asked for since ``until`` (seconds, monotonic) is let be.
        """
        view = self._view
        if view is None or not self._events or self._leaving:
            return False
        if self._green != green or view.service.name != service:
            return False
        if self._assignment is not None and self._assignment.override and self._started > until:
            return False
        self.leave()
        return True

    def is_collecting(self) -> bool:
        """Tell whether anything of the answer is being kept."""
        if self._attempt is None:
            return True  # it is a copy, and at hand
        return self._visit is not None and self._visit.collecting

    @cython.ccall
    def on_client_full(self) -> None:
        """The client reads slowly: the backend waits."""
        attempt = self._attempt
        if attempt is not None and attempt.connection is not None and not attempt._over:
            attempt.connection.pause()

    @cython.ccall
    def on_client_ready(self) -> None:
        """The client has read on."""
        attempt = self._attempt
        if attempt is not None and attempt.connection is not None and not attempt._over:
            attempt.connection.resume()
        elif self._rest_at < len(self._rest):
            self._send_rest()

    # --- assets: the other color ----------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _is_asset(self) -> cython.bint:
        """Tell whether a page's asset is asked for."""
        assets = self._view.assets
        assert assets is not None
        if (self._method != b"GET" and not self.to_head) or self._framing != _BODY_NONE:
            return False
        return bool(assets.matches(self._path))

    @cython.cfunc
    @cython.exceptval(check=True)
    def _is_missing(self, head: Head) -> cython.bint:
        """Tell whether an answer says that the color does not have the asset."""
        if head.status == 404:
            return True
        return head.status == 200 and wrong_type(self._path, head.get(CONTENT_TYPE) or b"")

    @cython.cfunc
    @cython.exceptval(check=True)
    def _ask_other_color(self) -> cython.bint:
        """Ask the other color for an asset; where there is none, look for a kept copy."""
        view = self._view
        if not self._attempt_at(view.blue if self._green else view.green):
            return self._ask_kept()
        self._shared.recorder.count(view.row, layout.ROW_ASSET_SECOND_TRIES)
        view.service.budget.leave_out()
        self._green = not self._green
        self._candidate = not self._candidate
        return self._begin_again()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _ask_kept(self) -> cython.bint:
        """Neither color has it: look for a copy of an earlier version's."""
        self._attempt = None
        if self.core.kept is None:
            return self._restore_held()
        accepted = self.head.find(b"accept-encoding") or b""
        self.core.kept.read(self._host, self._target, accepted, self.on_kept)
        return True

    def on_kept(self, copy: bytes | None) -> None:
        """Answer with the copy that was looked for, or with the answer that is held."""
        if self._recorded or self._held is None:
            return
        if copy is None:
            self._restore_held()
            return
        head = Head(copy, 0)
        if not _is_whole(head, self.to_head):
            self._restore_held()
            return
        self._drop_held()
        self._served_by = "stale"
        self._answered_at = self._shared.clock()
        self._respond(head, b"" if self.to_head else copy[head.end :], True)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _restore_held(self) -> cython.bint:
        """Nobody has it: the first answer stands."""
        held = self._held
        assert held is not None
        self._held = None
        self._attempt = held.attempt
        self._endpoint = held.attempt.endpoint.id
        self._green = held.green
        self._candidate = held.candidate
        # Some of the request's content may have gone to another backend meanwhile: what this one is
        # owed of it would follow a hole, and the next request be read as its rest.
        self._deaf = not held.attempt.request_sent
        if held.failure is not None:
            self.fail(held.failure)
            return True
        if self._visit is not None and self._tell_visit(
            held.attempt, held.head, held.body, held.ended
        ):
            return True
        self._respond(held.head, held.body, held.ended)
        if not held.ended and held.attempt.connection is not None and not self.downstream.full:
            held.attempt.connection.resume()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _drop_held(self) -> cython.bint:
        """Let go of the answer that is held: another one is taken."""
        held = self._held
        self._held = None
        if held is not None:
            held.attempt.abandon()
        return True

    # --- tunnels --------------------------------------------------------------------------------

    def on_switch(self, attempt: Attempt, head: Head, rest: bytes) -> None:
        """Join the two connections into a tunnel."""
        connection = attempt.connection
        if attempt is not self._attempt or connection is None:
            attempt.abandon()
            return
        assignment = self._assignment
        weight: cython.int = 0
        key: bytes = b""
        override: cython.bint = False
        if assignment is not None:
            weight = assignment.weight
            key = assignment.key
            override = assignment.override
        self._answered_at = self._shared.clock()
        self._status = 101
        if attempt._first:
            self._heard = 101
        if self._view.security is not None:
            self._view.security.undress(head)
        # Now: it may stay open for hours.
        self._tell_tally(weight, key, override)
        tunnel = Tunnel(
            self.core,
            self,
            self.downstream.transport(),
            connection.transport(),
            self.route.timeouts.stream_idle,
            self.route.service_name,
            self._green,
            override,
        )
        if (head.find(b"upgrade") or b"").lower() == b"websocket":
            tunnel.follow_frames()
        connection.tunnel = tunnel
        attempt.endpoint.tunnel(1)
        self._shared.recorder.tunnel(1)
        self.core.tunnels.add(tunnel)
        extra = b"X-Request-Id: " + self._request_id + b"\r\n"
        self.downstream.switch(head, extra, tunnel)
        if rest:
            tunnel.from_backend(rest)

    def on_tunnel_closed(self, tunnel: Passage) -> None:
        """Count the tunnel out and record it."""
        attempt = self._attempt
        self.core.tunnels.discard(tunnel)
        self._shared.recorder.tunnel(-1)
        if attempt is not None:
            attempt.endpoint.tunnel(-1)
            connection = attempt.connection
            if connection is not None:
                attempt.endpoint.forget(connection)
            attempt.over(False)
        self._record(tunnel.up, tunnel.down, True)

    # --- ends -----------------------------------------------------------------------------------

    def on_attempt_failed(self, attempt: Attempt, failure: Failure, unsent: bool) -> None:
        """An attempt failed: another is made, or a fallback found, as long as nothing was sent.

        ``unsent``: the request surely never reached the backend.
        """
        held = self._held
        if held is not None and attempt is held.attempt:
            # Should nobody else have it either, half an answer must not pass for a whole one.
            held.failure = failure
            return
        if attempt is not self._attempt:
            return
        if attempt._first and failure.kind.source is Source.UPSTREAM:
            self._hear_fault(failure)
        if held is not None and held.asset:
            self._ask_kept()
            return
        if self._first is None:
            self._first = failure.name
        if self._status == 0:
            self._answered_at = 0.0
            if self._failure is None:
                self._failure = failure
            bits: cython.int = self._view.again.verdicts.of(failure.name)
            if self._again(attempt, bits, unsent, failure.kind.status == 504):
                return
            if self._rescuing:
                failure = self._failure
        self._give_up(failure)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _hear_fault(self, failure: Failure) -> cython.bint:
        """Note how the first attempt failed, before its head or behind it."""
        self._fault = failure.name
        if self._heard == 0:
            self._heard = -1
            self._heard_at = self._shared.clock()
        return True

    # --- second tries ---------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _is_bad(
        self, attempt: Attempt, head: Head, body: bytes, ended: cython.bint, bits: cython.int
    ) -> cython.bint:
        """Take an answer that calls for another one; False where this one goes to the client."""
        held = self._held
        if held is not None and held.asset:
            return False
        if self._rescuing:
            if head.status < 400 or (head.status < 500 and held is None):
                self._served_by = "rescue"
                self._shared.recorder.count(self._view.row, layout.ROW_RESCUES)
                return False
            # Stable has nothing better: what the candidate said stands.
            attempt.abandon()
            self._give_up(self._failure or Failure("no-endpoint", self.route.service_name))
            return True
        if self._first is None and bits & (_MARK | _RESCUE | _RETRY):
            self._first = str(head.status)
        green: cython.bint = self._green
        candidate: cython.bint = self._candidate
        if self._again(attempt, bits, False, False):
            self._drop_held()
            self._held = HeldAnswer(attempt, head, body, ended, green, candidate, False)
            return True
        if bits & _FALLBACK and self._fall_back(None):
            attempt.abandon()
            self._drop_held()
            return True
        return False

    @cython.cfunc
    @cython.exceptval(check=True)
    def _again(
        self, attempt: Attempt, bits: cython.int, unsent: cython.bint, slow: cython.bint
    ) -> cython.bint:
        """Ask another endpoint of the color, then stable; False where neither may be asked.

        ``unsent``: the request surely never reached the backend, so that any method may be tried;
        ``slow``: it took a whole timeout, which the same endpoint is not given twice.
        """
        view = self._view
        again = view.again
        if self._framing != _BODY_NONE and self._replay is None and attempt.connection is not None:
            return False  # some of its content is gone
        if self._tried is None:
            self._tried = []
        self._tried.append(attempt.endpoint)
        if (
            bits & _RETRY
            and not self._rescuing
            and self._retries < again.retries
            and (unsent or self._method in again.retry_methods)
        ):
            pool: Pool = view.green if self._green else view.blue
            if (
                not (slow and len(self._tried) >= len(pool.members))
                and self._within_budget()
                and self._attempt_at(pool)
            ):
                self._retries += 1
                self._shared.recorder.count(view.row, layout.ROW_RETRIES)
                return self._begin_again()
        if self._may_rescue(bits, unsent) and self._rescue():
            return self._begin_again()
        return False

    @cython.cfunc
    @cython.exceptval(check=True)
    def _within_budget(self) -> cython.bint:
        """Take one from the service's budget of retries, if there is one left."""
        view = self._view
        attempts = view.blue.requests() + view.green.requests()
        return bool(view.service.budget.take(attempts, self._shared.clock()))

    @cython.cfunc
    @cython.exceptval(check=True)
    def _may_rescue(self, bits: cython.int, unsent: cython.bint) -> cython.bint:
        """Tell whether stable may answer for the candidate, which failed so."""
        view = self._view
        methods = view.again.rescue_methods
        if not self._candidate or self._rescuing or self._only or not bits & _RESCUE or not methods:
            return False
        if view.forward_only:
            return False
        return unsent or self._method in methods

    @cython.cfunc
    @cython.exceptval(check=True)
    def _rescue(self) -> cython.bint:
        """Make an attempt at stable. Each request of the candidate has one: that is the budget.

        The request goes on counting as the candidate's.
        """
        view = self._view
        tried = self._tried
        self._tried = None
        if not self._attempt_at(view.green if view.stable_green else view.blue):
            self._tried = tried
            return False
        view.service.budget.leave_out()
        self._counted_as = 2 + (1 if self._green else 0)
        self._green = view.stable_green
        self._candidate = False
        self._rescuing = True
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _begin_again(self) -> cython.bint:
        """Send the request once more, over the attempt that was just made."""
        attempt = self._attempt
        assert attempt is not None
        self._answered_at = 0.0
        self._request = self._render(attempt)
        replay = self._replay
        if replay is not None:
            self._pending = replay.copy()
            self._pending_size = self._replay_size
        self.downstream.resume()
        attempt.begin()
        return True

    # --- what answers where nobody can ------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _fall_back(self, failure: Failure | None) -> cython.bint:
        """Answer with a stale copy or a static file; False where there is none.

        ``failure``: what it hides; None: a backend's answer.
        """
        if self._only:
            return False
        visit = self._visit
        silent: cython.bint = failure is not None
        if visit is not None and visit.green == self._green and visit.on_failure(silent):
            self._serve_copy()
            return True
        plan = self._view.plan
        attempt = self._attempt
        # Who wants a tunnel can do nothing with a page.
        if not plan or (attempt.wants_upgrade if attempt is not None else self._upgrades()):
            return False
        hidden: str = self._error
        # Now: the answer may be recorded before this returns.
        self._error = hidden if failure is None else failure.name
        for rule in plan.rules(self._method, self._path):
            if not rule.stale:
                self._serve_static(rule, failure)
                return True
            if self._serve_stale(rule):
                return True
        self._error = hidden
        return False

    @cython.cfunc
    @cython.exceptval(check=True)
    def _serve_stale(self, rule: Rule) -> cython.bint:
        """Answer with a last good answer's copy; False where none is kept."""
        visit = self._visit
        if visit is None:
            return False
        copy = visit.last_good(self._view.stable_green, rule.max_age)
        if copy is None:
            return False
        age: cython.longlong = int(copy.age_at(self.core.wall()))
        self._visit = None
        visit.leave()
        self._stored_lines = hit_lines(age, -age)
        self._served_by = "stale"
        self._shared.recorder.count(self._view.row, layout.ROW_FALLBACKS)
        return self._send_stored(copy.head, b"" if self.to_head else copy.body)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _serve_static(self, rule: Rule, failure: Failure | None) -> cython.bint:
        """Answer with a file."""
        title: str = ""
        wait: cython.double = 0.0
        if failure is None:
            title = title_of(self._first, rule.status)
        else:
            title = failure.kind.title
            wait = failure.retry_after
        self._served_by = "static"
        self._shared.recorder.count(self._view.row, layout.ROW_FALLBACKS + 1)
        answer = rule.answer(self._values(rule.status, title, wait))
        self._status = answer.status
        self.downstream.answer(answer.status, answer.lines + self._page_lines(), answer.body)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _intercept(self, head: Head) -> cython.bint:
        """Put a page in place of a backend's error; False where there is none for it."""
        page = self._view.pages.find(head.status, accept_of(self.head), intercepted=True)
        if page is None:
            return False
        attempt = self._attempt
        status: cython.int = head.status
        lines: bytes = kept_lines(head) + self._page_lines()
        if attempt is not None:
            attempt.abandon()
        if self._visit is not None:
            self._visit.leave()
        self._status = status
        answer = page.answer(status, self._values(status, title_of(None, status), 0.0))
        lines += b"X-Gateway-Error: intercepted\r\n"
        self.downstream.answer(status, answer.lines + lines, answer.body)
        return True

    @cython.cfunc
    def _error_page(self, failure: Failure) -> StaticAnswer | None:
        """Return the page for the gateway's own error, None: its problem document."""
        view = self._view
        pages = self.serving.pages if view is None else view.pages
        if not pages:
            return None
        status: cython.int = status_of(failure)
        page = pages.find(status, accept_of(self.head))
        if page is None:
            return None
        wait = retry_after_of(status, failure.retry_after)
        return page.answer(status, self._values(status, failure.kind.title, wait))

    @cython.cfunc
    def _values(self, status: cython.int, title: str, retry_after: cython.double) -> dict[str, str]:
        """Return what a template is filled with."""
        core = self.core
        return values(
            status=status,
            title=title,
            service="" if self._view is None else self._view.service.name,
            request_id=self._request_id,
            retry_after=retry_after,
            mode=core.platform.mode,
            now=core.wall(),
        )

    @cython.cfunc
    def _page_lines(self) -> bytes:
        """Return the lines that a page of ours has beside its own."""
        lines: bytes = self._own_lines()
        view = self._view
        if view is not None and view.security is not None:
            block: bytes = view.security.block(0)
            if view.nonce:
                # Refused before there was one: a page of ours has nothing that it would allow.
                nonce: bytes = self._nonce or self._shared.hexes.take(NONCE_DIGITS)
                block = block.replace(NONCE, nonce)
            lines += block
        return lines

    @cython.cfunc
    @cython.exceptval(check=True)
    def _give_up(self, failure: Failure) -> cython.bint:
        """Nobody can serve: a fallback answers, else what was answered first, else the error."""
        held = self._held
        attempt = self._attempt
        if self._view is not None and self._status == 0:
            bits: cython.int = self._view.again.verdicts.of(failure.name)
            if held is not None:
                bits = self._view.calls_for(held.head.status)
            if bits & _FALLBACK and self._fall_back(failure if held is None else None):
                if attempt is not None:
                    attempt.abandon()
                self._drop_held()
                return True
            if held is not None and not held.asset:
                if attempt is not None:
                    attempt.abandon()
                return self._restore_held()
        self.fail(failure)
        return True

    @cython.ccall
    def fail(self, failure: Failure) -> None:
        """Answer with the gateway's error, or cut the connection where an answer has begun."""
        attempt = self._attempt
        if attempt is not None:
            attempt.abandon()
        self._drop_held()
        if self._visit is not None:
            self._visit.leave()
        self._error = failure.name
        if self._status != 0:
            self.downstream.refuse(failure, b"")  # an answer has begun: it is cut
            return
        self._status = status_of(failure)
        self.downstream.refuse(failure, self._page_lines(), self._error_page(failure))

    @cython.ccall
    def on_total_timeout(self) -> None:
        """The whole request took too long."""
        attempt = self._attempt
        failure = Failure("total-timeout")
        if self._waits:
            # Nobody has been asked: it is no backend's silence.
            self._wait_no_more()
            failure = Failure("overload", f"waited for {self.route.service_name}")
        elif self._first is None:
            self._first = failure.name
        if attempt is not None and attempt._first and self._kept_waiting(attempt):
            self._hear_fault(failure)
        if attempt is not None and self._status == 0:
            # A client that takes its time with its content opens no breaker by it.
            if self._took_longer(attempt) and self._view.again.verdicts.of(failure.name) & MARK:
                attempt.mark(False)
            attempt.abandon()
        if self._report is not None:
            self.fail(Failure("body-timeout"))  # a report that never came whole
            return
        if self._status == 0:
            # What is answered now has its own time to be sent in.
            self.deadline = self._shared.clock() + self._view.total
            self._stream.expect(self.deadline, self._view.between)
        self._give_up(failure)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _kept_waiting(self, attempt: Attempt) -> cython.bint:
        """Tell whether it is the backend, and not the client, who took the time."""
        if self._heard == 0:
            return self._took_longer(attempt)
        return not self.downstream.full

    @cython.cfunc
    @cython.exceptval(check=True)
    def _took_longer(self, attempt: Attempt) -> cython.bint:
        """Tell whether a backend that has said nothing took more of the time than the client, who
        had content to send first.
        """
        now: cython.double = self.core.clock()
        if attempt.connection is None:
            return True
        if not self._body_ended:
            return self.downstream.held
        return now - self._whole_at >= self._whole_at - self._started

    @cython.ccall
    def on_client_left(self, failure: Failure) -> None:
        """The client is gone: nothing more to do for it, and no mark against the backend."""
        attempt = self._attempt
        if attempt is not None:
            attempt.abandon()
        self._drop_held()
        if not self._error:
            self._error = failure.name
        if self._status == 0:
            self._status = 499
        visit, self._visit = self._visit, None
        self._record(self._stream.taken, self._stream.sent, False)
        if visit is not None:
            visit.leave(True)

    @cython.ccall
    def on_answered(self) -> None:
        """Phase 10: the answer is complete."""
        if self._status == 0:
            self._status = 204
        attempt = self._attempt
        if attempt is not None and not attempt._over:
            # It answered before it had been sent all, or a held one was not taken.
            attempt.abandon()
        self._record(self._stream.taken, self._stream.sent, False)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _record(
        self, received: cython.longlong, sent: cython.longlong, tunnel: cython.bint
    ) -> cython.bint:
        view = self._view
        assignment = self._assignment
        recorder = self._shared.recorder
        row: cython.Py_ssize_t = 0
        weight: cython.int = 0
        key: bytes = b""
        override: cython.bint = False
        if self._recorded:
            return True
        self._recorded = True
        if self._waits:
            self._wait_no_more()
        if self._forwarded_at == 0.0 and self.serving.overridable:
            # Refused, redirected or answered from here: no request line was made of it.
            self._target = strip_target(self._target)
        if self._report is not None:
            self._report = None
            self.core.reports.leave(self._client)
        if view is not None:
            row = view.row
            if self._entered:
                recorder.leave(row)
                if view.queue.waiting:
                    view.queue.wake(self.core)
        if assignment is not None:
            weight = assignment.weight
            key = assignment.key
            override = assignment.override
        # An answer that came whole ends in the turn that it came in.
        ended: cython.double = self._answered_at if self._at_once else 0.0
        if ended <= 0.0:
            ended = self._shared.clock()
        outcome: Outcome = Outcome.__new__(Outcome)
        outcome.fill(
            self.head,
            self._method,
            self._host,
            self._target,
            self._client,
            self._status,
            received,
            sent,
            self._started,
            self._forwarded_at,
            self._answered_at,
            # An answer that came whole ends in the turn that it came in.
            self._answered_at
            if self._at_once and self._answered_at > 0.0
            else self._shared.clock(),
            "" if view is None else view.service.name,
            row,
            -1 if view is None else self._side(),
            self._endpoint,
            self._request_id,
            self._trace,
            weight,
            key,
            override,
            self._first,
            self._error,
            self._served_by,
            tunnel,
        )
        if self._admission is not None:
            outcome.subject = self._admission.shown
        outcome.queued = self._queued
        recorder.record(outcome)
        if self._heard != 0:
            self._tell_tally(weight, key, override)
        # No cycle is left behind: what is over is freed at once, without the collector.
        self._attempt = None
        self._failure = None
        self._tried = None
        self._drop_held()
        self._keeper = None
        self._rest_at = len(self._rest)
        visit = self._visit
        if visit is not None:
            self._visit = None
            visit.leave()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _tell_tally(self, weight: cython.int, key: bytes, override: cython.bint) -> cython.bint:
        """Have the first attempt counted, once, where it says anything of its side."""
        view = self._view
        tally = view.tally
        heard: cython.int = self._heard
        flags: cython.int = self._apart
        self._heard = 0
        # 429: a limit was met, which whoever has more of the traffic meets more often.
        if tally is None or override or heard in {0, 429}:
            return True
        # 501 to a word that no application knows: a stranger says it where a release is to go back.
        if heard == 501 and self._method not in _METHODS:
            return True
        if self._error and self._error in _CLIENTS_OWN:
            return True
        if view.caches and (self.to_head or self._method == b"GET"):
            flags |= _CACHED
        if heard >= 400 and view.assets is not None and view.assets.matches(self._path):
            flags |= _ASSET
        tally.ended(
            self._asked,
            weight,
            key,
            heard if heard > 0 else 0,
            self._fault,
            self._forwarded_at,
            self._heard_at,
            flags,
        )
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _side(self) -> cython.int:
        """Return the side that the request counts for: the one that it was assigned to."""
        if self._counted_as >= 0:
            return self._counted_as
        return (2 if self._candidate else 0) + (1 if self._green else 0)


def _chunked(
    payload: bytes, ended: bool, trailers: Head | None, private: frozenset[bytes]
) -> bytes:
    """Return content as the next chunk, and the last one where it has ended."""
    framed: bytes = encode_chunk(payload) if payload else b""
    return framed + encode_last_chunk(trailers, private) if ended else framed


def _is_whole(head: Head, to_head: cython.bint) -> bool:
    """Read a copy's head; tell whether all of its body is behind it. A power cut may leave less."""
    try:
        found = head.read_response(to_head)
    except WireError:
        return False
    return bool(found and head.length == len(head.data) - head.end)


def _wants_trailers(head: Head) -> bool:
    """Tell whether a TE field lists ``trailers`` (RFC 9110 section 10.1.4)."""
    return any(
        member.strip(b" \t").lower() == b"trailers"
        for value in head.get_all(TE)
        for member in value.split(b",")
    )


def _stripped(target: bytes, segments: cython.int) -> bytes:
    """Take a route's prefix of that many segments off a target, which keeps its other octets."""
    path, mark, query = target.partition(b"?")
    rest = path.split(b"/", segments + 1)
    left = b"/" + rest[segments + 1] if len(rest) > segments + 1 else b"/"
    return left + mark + query
