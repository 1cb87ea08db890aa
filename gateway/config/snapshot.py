"""The frozen snapshot: what control intends and every worker serves from.

Two parts. *Topology* (routes, services, pools, policies) is large and moves rarely; *traffic*
(roles, weights, salt, flags) is tiny and moves often, and moving it never re-sends topology. Each
carries a number that only grows; a worker acknowledges the pair that it serves.

Everything is a frozen ``msgspec.Struct`` and travels as msgpack. Durations are seconds (float),
sizes octets, weights hundredths of a percent (0-10,000). Nothing here reads a clock or a socket.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Color = Literal["blue", "green"]
Role = Literal["stable", "candidate"]
Balance = Literal["least_request", "round_robin", "hash"]

COLORS: tuple[Color, Color] = ("blue", "green")

#: A split's fixed denominator: weights are counted in these.
BUCKETS = 10_000


def other(color: Color) -> Color:
    """Return the color across from ``color``."""
    return "green" if color == "blue" else "blue"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One address that serves a service.

    ``id`` is unique for the life of the state store and names the endpoint in the API
    (``ivor-blue-3-0``: service, color, generation, position). ``cell`` is its place on the board,
    never given to another endpoint while requests to this one are in flight.
    """

    id: str
    cell: int
    url: str
    scheme: Literal["http", "https"]
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The ``Host`` of a request to it: port left out where it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoints in one slot of a service. Each replacement is a new generation."""

    service: str
    color: Color
    generation: int
    source: Literal["file", "api"]
    endpoints: tuple[Endpoint, ...]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one request's stages, in seconds. ``total`` ends at the response head for event
    streams, upgrades and bodies of unknown length; ``stream_idle`` bounds silence on those.
    """

    connect: float = 2.0
    first_byte: float = 10.0
    between_bytes: float = 30.0
    total: float = 60.0
    stream_idle: float = 600.0


#: Failures without an answer that a retry, a rescue or a breaker can name; statuses come beside.
CONDITIONS = ("connect", "reset", "timeout")


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """What another endpoint is tried for. ``attempts`` 0: nothing is.

    ``on`` holds conditions, statuses (``503``) and classes (``5xx``). ``budget`` is a share of the
    service's requests, ``floor`` retries a second of the whole machine that it never goes below;
    ``body`` the octets of a request's content that are kept to be sent again.
    """

    attempts: int = 0
    on: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    budget: float = 0.2
    floor: float = 10.0
    body: int = 64 * 1024
    #: ``off``: not even where an idle connection turns out to be closing.
    never: bool = False


class Rescue(msgspec.Struct, frozen=True, kw_only=True):
    """What stable is asked for instead of a candidate that failed. ``methods`` empty: nothing."""

    on: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """When an endpoint is left alone. ``failures`` 0: never. Durations in seconds.

    ``share`` of failures (None: not counted) over ``window`` with at least ``minimum`` requests.
    ``probed`` tells whether a health path is asked, so that a passed probe says something about
    more than the socket.
    """

    failures: int = 5
    share: float | None = None
    window: float = 10.0
    minimum: int = 20
    on: tuple[str, ...] = ("connect", "reset", "timeout", "502", "503", "504")
    reset_after: float = 60.0
    reset_at_most: float = 600.0
    probed: bool = False


class Outlier(msgspec.Struct, frozen=True, kw_only=True):
    """When an endpoint is left out because it fails far more than its peers. Seconds, shares."""

    above: float = 0.2
    minimum: int = 20
    eject_for: float = 30.0
    eject_at_most: float = 300.0
    share: float = 0.5


class Fallback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What answers for a service where nothing else can, in its place among others.

    ``stale``: a stored copy of at most ``max_age`` seconds; ``static``: ``Topology.files[file]``.
    """

    kind: Literal["stale", "static"]
    #: Path patterns as ``Topology.assets``; none: every path.
    paths: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("GET", "HEAD")
    max_age: float = 86_400.0
    shared: bool = False
    status: int = 200
    type: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    file: int = 0
    template: bool = False


class PageForm(msgspec.Struct, frozen=True, kw_only=True):
    """One form of an error page: a content type and ``Topology.files[file]``."""

    type: str
    file: int
    template: bool = False


class ErrorPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page for statuses (``404``) or classes of them (``5xx``)."""

    on: tuple[str, ...]
    forms: tuple[PageForm, ...]
    #: Also instead of the backend's own answers.
    intercept: bool = False


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream application. ``row`` is its place in each worker's slab of the board."""

    name: str
    row: int
    critical: bool = False
    balance: Balance = "least_request"
    timeouts: Timeouts = Timeouts()
    max_in_flight: int = 256
    #: Requests beyond these that may wait, and for how many seconds.
    queue_length: int = 32
    queue_wait: float = 0.5
    drain_timeout: float = 30.0
    #: ``keep`` sends the client's Host upstream; ``rewrite`` the endpoint's own authority.
    host: Literal["keep", "rewrite"] = "keep"
    #: A PEM file of authorities for ``https`` endpoints; None: the system's.
    tls_ca: str | None = None
    retry: Retry = Retry()
    rescue: Rescue = Rescue()
    breaker: Breaker = Breaker()
    #: None: no endpoint is ever left out.
    outlier: Outlier | None = None
    #: Seconds over which the share of an endpoint that comes up grows.
    slow_start: float = 30.0
    #: Services that it calls: with one of them down it is degraded.
    depends_on: tuple[str, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    error_pages: tuple[ErrorPage, ...] = ()


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``count`` requests in ``period`` seconds and ``burst`` more at once, of the whole machine.

    ``key``: what clients are told apart by, in order. ``dry_run``: it only counts.
    """

    count: int
    period: float
    burst: int = 0
    key: tuple[str, ...] = ("client",)
    dry_run: bool = False
    #: What clients see it called; empty: by its keys.
    name: str = ""


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Host and path prefix to a service, with what the route overrides.

    ``host`` is lower case: exact (``blkout.example``), a wildcard (``*.blkout.example``: exactly
    one or more labels in front) or empty for any. ``path`` begins with ``/`` and is matched on
    segment boundaries; ``strip`` takes it off the target that goes upstream.
    """

    path: str
    service: str
    host: str = ""
    strip: bool = False
    #: None: the global limit.
    body_limit: int | None = None
    #: None: the service's.
    timeouts: Timeouts | None = None
    #: Name of a security profile, empty for none.
    security: str = ""
    #: None: the service's.
    retry: Retry | None = None
    rescue: Rescue | None = None
    #: Whether answers are stored and served again.
    cache: bool = False
    rate_limits: tuple[RateLimit, ...] = ()
    #: Name of a CORS profile, empty for none.
    cors: str = ""
    #: Names of the schemes that are accepted; none: nobody is asked who they are.
    auth: tuple[str, ...] = ()
    #: Whether a request without credentials passes, as anonymous.
    auth_optional: bool = False
    scopes: tuple[str, ...] = ()
    #: Networks (CIDR) of clients; ``deny`` wins, and ``allow`` without any is everybody.
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Whose an API key is. ``digest`` is the key's SHA-256."""

    name: str
    digest: bytes
    scopes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Say whose it is and no more."""
        return f"ApiKey({self.name!r})"


class ApiKeys(msgspec.Struct, frozen=True, kw_only=True):
    """API keys, from ``Authorization: Bearer`` and from ``field``; ``name_field`` goes upstream."""

    keys: tuple[ApiKey, ...] = ()
    field: str | None = None
    name_field: str | None = None


class Jwt(msgspec.Struct, frozen=True, kw_only=True):
    """What a signed token must be. ``leeway`` in seconds.

    ``source`` is the URL of its issuer's keys (facts: see ``messages.KeySets``); without one
    ``keys`` is the key set itself. ``claims`` are (claim, field).
    """

    issuer: str
    audience: tuple[str, ...] = ()
    source: str = ""
    refresh: float = 600.0
    keys: bytes = b""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    leeway: float = 30.0
    require: tuple[str, ...] = ("exp",)
    type: str = ""
    subject: str = "sub"
    scopes: str = "scope"
    claims: tuple[tuple[str, str], ...] = ()


class AuthScheme(msgspec.Struct, frozen=True, kw_only=True):
    """A way to tell who asks, by name: exactly one of the two."""

    name: str
    api_keys: ApiKeys | None = None
    jwt: Jwt | None = None


class SecurityProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Response fields that a profile sets where the backend has not, as (name, value).

    ``{nonce}`` in a value stands for a number that each answer has another of.
    """

    name: str
    fields: tuple[tuple[str, str], ...] = ()
    #: Sent over TLS only (Strict-Transport-Security).
    tls_fields: tuple[tuple[str, str], ...] = ()
    #: Lower-case names of fields that replace the backend's.
    override: tuple[str, ...] = ()
    #: Names of fields that are taken off the backend's answers, besides ``Topology.removed``.
    remove: tuple[str, ...] = ()


class Cors(msgspec.Struct, frozen=True, kw_only=True):
    """Which other origins' pages may read a route's answers (Fetch, "CORS protocol").

    ``origins``: exact (``https://app.example``), with a wildcard for one label or more
    (``https://*.example``), or ``*`` alone. ``max_age`` in seconds.
    """

    name: str
    origins: tuple[str, ...]
    methods: tuple[str, ...] = ("GET", "HEAD", "POST")
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int = 600
    private_network: bool = False
    #: Whether an upgrade (a WebSocket) from another origin is refused.
    upgrades: bool = False


class CspReports(msgspec.Struct, frozen=True, kw_only=True):
    """How reports of violations are taken: octets of one, and so many a minute of one client."""

    body: int = 64 * 1024
    per_minute: int = 60


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may take: octets, connections (the machine's), seconds, octets a second."""

    head: int = 32 * 1024
    body: int = 10 * 1024 * 1024
    connections: int = 10_000
    header_timeout: float = 10.0
    idle_timeout: float = 75.0
    min_rate: int = 240
    #: Octets of a body that are awaited before a backend is asked.
    await_body: int = 16 * 1024
    #: Met by the requests of all routes together.
    rates: tuple[RateLimit, ...] = ()


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """How a client is told apart. ``secret`` signs testers' overrides; None: there are none.

    ``probe_secret`` signs those of the gateway's own integration checks. It is made by control, of
    chance, and goes no further than to the workers.
    """

    cookie: str = "gw_cohort"
    header: str | None = None
    max_age: int = 30 * 86_400
    domain: str | None = None
    secret: bytes | None = None
    probe_secret: bytes | None = None

    def __repr__(self) -> str:
        """Say everything but the secrets."""
        secret = "set" if self.secret else "none"
        return f"Cohort(cookie={self.cookie!r}, header={self.header!r}, secret={secret})"


class CacheStore(msgspec.Struct, frozen=True, kw_only=True):
    """Where answers are stored: a folder, octets of all of it and of one answer."""

    path: str = ""
    size: int = 256 * 1024 * 1024
    entry: int = 8 * 1024 * 1024


class OnControlLost(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker does once control has been silent for ``after`` seconds."""

    after: float = 60.0
    do: Literal["hold", "stable"] = "hold"


class TlsCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate with its chain and its private key, read and found to fit.

    The octets travel, not the files' names: a worker that starts while the files are half replaced
    still has a pair that fits (docs/adr/0015-certificates-travel-as-octets.md). ``place`` is where
    the configuration names them.
    """

    place: str
    #: Lower case, from the certificate: host names, ``*.`` and a name, IP addresses.
    names: tuple[str, ...]
    #: PEM: the certificate, then its chain.
    chain: bytes
    #: PEM, without a passphrase.
    key: bytes
    #: Seconds since the epoch: valid until then.
    expires: int
    #: ``RSA``, ``EC`` or ``Ed``: certificates of two kinds for the same names stand side by side.
    kind: str
    #: The files, for control to watch; a worker opens neither.
    certificate_file: str = ""
    key_file: str = ""

    def __repr__(self) -> str:
        """Say what it is for, never the key."""
        return f"TlsCertificate({self.place}: {', '.join(self.names)}, {self.kind})"


class ListenerTls(msgspec.Struct, frozen=True, kw_only=True):
    """What a listener speaks TLS with; the first certificate is the default."""

    certificates: tuple[TlsCertificate, ...]
    min_version: Literal["1.2", "1.3"] = "1.2"


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """One public address, by its position in the configuration."""

    address: str
    #: None: plain HTTP.
    tls: ListenerTls | None = None
    #: The public port of the https side; None: no redirect.
    redirect_to_https: int | None = None


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """Routes, services, pools and policies under one number.

    ``routes`` holds msgpack-encoded chunks of ``list[Route]`` (see ``pack_routes``): a worker
    decodes them a slice at a time, so that ten thousand routes stall no loop, and compares the
    bytes, so that routes that did not change are not compiled again.
    """

    number: int
    services: tuple[Service, ...] = ()
    pools: tuple[Pool, ...] = ()
    routes: tuple[bytes, ...] = ()
    profiles: tuple[SecurityProfile, ...] = ()
    auth: tuple[AuthScheme, ...] = ()
    listeners: tuple[Listener, ...] = ()
    limits: Limits = Limits()
    cohort: Cohort = Cohort()
    #: Networks (CIDR) whose ``X-Forwarded-*`` and identity fields count.
    trusted_proxies: tuple[str, ...] = ()
    #: Networks of service-to-service callers, by the connection's own peer address.
    internal_callers: tuple[str, ...] = ()
    #: Path patterns (a trailing ``*`` matches the rest) of a page's hashed assets.
    assets: tuple[str, ...] = ()
    assets_keep: float = 7 * 86_400.0
    behind_cdn: bool = False
    on_control_lost: OnControlLost = OnControlLost()
    cache: CacheStore = CacheStore()
    #: Folder of an ACME client's challenges; empty: they are a route's like any other.
    acme_folder: str = ""
    access_log: str = "-"
    #: For statuses that a service has no page of its own for.
    error_pages: tuple[ErrorPage, ...] = ()
    cors: tuple[Cors, ...] = ()
    #: Names of fields that are taken off every backend's answers.
    removed: tuple[str, ...] = ()
    #: None: reports of violations are not taken here.
    csp_reports: CspReports | None = None
    #: Contents of the files that answers are made of, each of them once.
    files: tuple[bytes, ...] = ()

    def pool(self, service: str, color: Color) -> Pool | None:
        """Return one slot's pool, None where it has none."""
        for pool in self.pools:
            if pool.service == service and pool.color == color:
                return pool
        return None


class ServiceTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """Where one service's requests go. ``weight`` is the candidate's share in buckets."""

    service: str
    stable: Color
    weight: int = 0
    #: Colors that nothing is sent to until lifted (drained or isolated).
    closed: tuple[Color, ...] = ()
    #: Those of them that are isolated: their tunnels are closed, too.
    isolated: tuple[Color, ...] = ()
    #: Retry-After in seconds where the service is in maintenance; None: it is not.
    maintenance: float | None = None
    #: Rolled back: tunnels to the candidate are closed once this time (CLOCK_MONOTONIC, seconds)
    #: has come; 0: they stay.
    tunnels_until: float = 0.0

    @property
    def candidate(self) -> Color:
        """The color that is not stable."""
        return other(self.stable)


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What a running release wants to hear of one service's latencies (seconds to the head).

    A request slower than ``thresholds[i]`` (rising) is told, once for each cohort key; one slower
    than ``objective`` is counted. ``candidates[i]`` stands in for the first where the candidate
    answered: how slow it may be without being worse (empty: as slow as stable). ``cold_until``
    (CLOCK_MONOTONIC, seconds): no latency of the candidate counts before, its pool warms up.
    ``looked``: how often a person has looked at what was told and gone on; then all keys are told
    of anew. ``csp``: violations of content policies are told, once for each address.
    """

    service: str
    thresholds: tuple[float, ...] = ()
    candidates: tuple[float, ...] = ()
    objective: float = 2.0
    cold_until: float = 0.0
    looked: int = 0
    csp: bool = False


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Roles, weights, salt and flags under one revision.

    ``salt`` belongs to the split in force, so that each release has other guinea pigs and one
    client has one side on every service. ``release`` is the id that internal callers quote.
    ``watch`` has the services of a running release; for those of ``forward_only`` nobody is rescued
    by stable.
    """

    revision: int
    services: tuple[ServiceTraffic, ...] = ()
    salt: bytes = b""
    release: str = ""
    watch: tuple[Watch, ...] = ()
    forward_only: bool = False

    def of(self, service: str) -> ServiceTraffic | None:
        """Return one service's traffic, None for a name that it does not know."""
        for traffic in self.services:
            if traffic.service == service:
                return traffic
        return None

    @property
    def split(self) -> bool:
        """Whether any service has both sides in play."""
        return any(0 < service.weight < BUCKETS for service in self.services)


#: Routes per chunk: about a millisecond of compiling.
CHUNK = 250

_encoder = msgspec.msgpack.Encoder()
_routes_decoder = msgspec.msgpack.Decoder(list[Route])


def pack_routes(routes: list[Route]) -> tuple[bytes, ...]:
    """Encode routes, in their order, into chunks of ``CHUNK``."""
    return tuple(_encoder.encode(routes[at : at + CHUNK]) for at in range(0, len(routes), CHUNK))


def unpack_routes(chunk: bytes) -> list[Route]:
    """Decode one chunk. Raises msgspec.ValidationError where it is not one."""
    return _routes_decoder.decode(chunk)
