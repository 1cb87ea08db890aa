"""From a ``Config`` to what workers serve from. Pure.

Control owns what lives longer than a file: generations of pools, places on the board. It gives them
here, and gets the topology in which everything that the file says is worked out: defaults filled
in, a route's timeouts merged with its service's, security profiles as the fields they send.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from gateway.config import snapshot
from gateway.config.browsers import build_cors, build_profile, build_reports, cors_of
from gateway.config.templates import is_template, media_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.config.addresses import EndpointAddress
    from gateway.config.schema import (
        AuthScheme,
        Config,
        ErrorPage,
        Fallback,
        Route,
        Service,
        Timeouts,
    )
    from gateway.config.schema.entry import Tls
    from gateway.config.schema.limits import RateLimit
    from gateway.config.schema.services import Outlier, Rescue, Retry
    from gateway.config.secrets import AuthFiles

__all__ = ["build_topology", "file_endpoints", "listener_tls", "public_listeners", "routes_of"]

#: Requests of a service that wait at most, where the configuration does not say.
MOST_WAITING = 32


def file_endpoints(
    config: Config, service: str, color: snapshot.Color
) -> tuple[EndpointAddress, ...]:
    """Return the endpoints that the file has for one slot, none where it has no pool there.

    Raises KeyError for a service that is not in the file.
    """
    section = config.services[service]
    pool = section.blue if color == "blue" else section.green
    return pool.endpoints if pool is not None else ()


def public_listeners(config: Config) -> tuple[snapshot.Listener, ...]:
    """Return the public addresses, by whose positions sockets are told apart.

    Where certificates were not read, a listener with ``tls`` has none.
    """
    return tuple(
        snapshot.Listener(
            address=str(listener.address),
            tls=listener_tls(config, listener.tls, f"listen[{index}]"),
            redirect_to_https=(
                None if listener.redirect_to_https is None else listener.redirect_to_https.port
            ),
        )
        for index, listener in enumerate(config.listen)
    )


def listener_tls(config: Config, tls: Tls | None, place: str) -> snapshot.ListenerTls | None:
    """Return what a listener at ``place`` (``listen[0]``, ``admin``) speaks TLS with."""
    if tls is None:
        return None
    read = config.secrets.certificates
    places = [f"{place}.tls.certificates[{index}]" for index in range(len(tls.certificates))]
    return snapshot.ListenerTls(
        certificates=tuple(read[each] for each in places if each in read),
        min_version=tls.min_version,
    )


def build_topology(
    config: Config,
    *,
    number: int,
    pools: Sequence[snapshot.Pool],
    rows: Mapping[str, int],
) -> snapshot.Topology:
    """Return the topology that workers serve from.

    ``pools`` are the slots as control has allocated them (of the file or of the API), ``rows``
    each service's place on the board. Raises KeyError where a service has no row.
    """
    files = _Files(config.pages)
    services = tuple(
        _service(name, section, rows[name], files)
        for name, section in sorted(config.services.items())
    )
    timeouts = {service.name: service.timeouts for service in services}
    cohort, assets = config.traffic.cohort, config.traffic.assets
    return snapshot.Topology(
        number=number,
        services=services,
        pools=tuple(pools),
        routes=snapshot.pack_routes(
            [_route(route, timeouts, config) for route in routes_of(config)]
        ),
        profiles=tuple(
            build_profile(name, profile, reports=config.security.csp_reports is not None)
            for name, profile in sorted(config.security.profiles.items())
        ),
        cors=tuple(
            build_cors(name, profile)
            for name, profile in sorted(config.security.cors.profiles.items())
        ),
        removed=config.security.remove,
        csp_reports=build_reports(config.security.csp_reports),
        auth=tuple(
            _auth_scheme(name, scheme, config.auth_files)
            for name, scheme in sorted(config.auth.items())
        ),
        listeners=public_listeners(config),
        limits=snapshot.Limits(
            head=config.limits.head,
            body=config.limits.body,
            connections=config.limits.connections,
            header_timeout=config.limits.header_timeout,
            idle_timeout=config.limits.idle_timeout,
            rates=_rate_limits(config.limits.rate),
            min_rate=config.limits.min_rate,
            await_body=config.limits.await_body,
        ),
        cohort=snapshot.Cohort(
            cookie=cohort.cookie,
            header=cohort.header,
            max_age=int(cohort.max_age),
            domain=cohort.domain,
            secret=config.secrets.cohort,
        ),
        trusted_proxies=config.trusted_proxies,
        internal_callers=config.internal_callers,
        assets=assets.paths,
        assets_keep=assets.keep,
        behind_cdn=config.traffic.behind_cdn,
        on_control_lost=snapshot.OnControlLost(
            after=config.on_control_lost.after, do=config.on_control_lost.do
        ),
        cache=_cache(config),
        acme_folder=config.acme.folder or "",
        access_log=config.access_log,
        error_pages=tuple(_error_page(page, files) for page in config.error_pages),
        files=files.contents,  # last: by now everything that names one has been built
    )


def routes_of(config: Config) -> tuple[Route, ...]:
    """Return the routes; where there are none, one from everywhere to the only service."""
    if config.routes:
        return config.routes
    from gateway.config.schema import Route

    (service,) = config.services
    return (Route(path="/", service=service),)


def _timeouts(section: Timeouts) -> snapshot.Timeouts:
    return snapshot.Timeouts(
        connect=section.connect,
        first_byte=section.first_byte,
        between_bytes=section.between_bytes,
        total=section.total,
        stream_idle=section.stream_idle,
    )


class _Files:
    """The contents that answers are made of, numbered, equal ones once."""

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        self._pages = pages
        self._numbers: dict[bytes, int] = {}

    def number(self, name: str) -> int:
        """Return a file's place among the contents. Raises KeyError where it was not read."""
        return self._numbers.setdefault(self._pages[name], len(self._numbers))

    @property
    def contents(self) -> tuple[bytes, ...]:
        """All contents that were asked for."""
        return tuple(self._numbers)


def _fallback(section: Fallback, files: _Files) -> snapshot.Fallback:
    stale, static = section.stale, section.static
    if stale is not None:
        return snapshot.Fallback(
            kind="stale",
            paths=stale.paths,
            methods=stale.methods,
            max_age=stale.max_age,
            shared=stale.shared,
        )
    assert static is not None  # exactly one of the two (``cross``)
    return snapshot.Fallback(
        kind="static",
        paths=static.paths,
        methods=static.methods,
        status=static.status,
        type=media_type(static.file, static.type),
        fields=tuple(static.fields.items()),
        file=files.number(static.file),
        template=is_template(static.file, static.template),
    )


def _error_page(section: ErrorPage, files: _Files) -> snapshot.ErrorPage:
    return snapshot.ErrorPage(
        on=section.on,
        intercept=section.intercept,
        forms=tuple(
            snapshot.PageForm(
                type=media_type(form.file, form.type),
                file=files.number(form.file),
                template=is_template(form.file, form.template),
            )
            for form in section.files
        ),
    )


def _service(name: str, section: Service, row: int, files: _Files) -> snapshot.Service:
    return snapshot.Service(
        name=name,
        row=row,
        critical=section.critical,
        balance=section.balance,
        timeouts=_timeouts(section.timeouts),
        max_in_flight=section.max_in_flight,
        queue_length=_queue_length(section),
        queue_wait=section.queue.wait,
        drain_timeout=section.drain_timeout,
        host=section.host,
        tls_ca=section.tls.ca,
        retry=_retry(section.retry, section.retries),
        rescue=_rescue(section.rescue),
        breaker=_breaker(section),
        outlier=_outlier(section.outlier),
        slow_start=section.slow_start,
        depends_on=section.depends_on,
        fallbacks=tuple(_fallback(each, files) for each in section.fallback),
        error_pages=tuple(_error_page(page, files) for page in section.error_pages),
    )


def _queue_length(section: Service) -> int:
    length = section.queue.length
    return min(section.max_in_flight, MOST_WAITING) if length is None else length


def _retry(section: Retry | str, attempts: int) -> snapshot.Retry:
    if isinstance(section, str):
        return snapshot.Retry(never=True)
    return snapshot.Retry(
        attempts=attempts,
        on=section.on,
        methods=section.methods,
        budget=section.budget,
        floor=section.floor.per_second,
        body=section.body,
    )


def _rescue(section: Rescue | str) -> snapshot.Rescue:
    if isinstance(section, str):
        return snapshot.Rescue()
    return snapshot.Rescue(on=section.on, methods=section.methods)


def _breaker(section: Service) -> snapshot.Breaker:
    breaker = section.breaker
    if isinstance(breaker, str):
        return snapshot.Breaker(failures=0)
    return snapshot.Breaker(
        failures=breaker.failures,
        share=breaker.share,
        window=breaker.window,
        minimum=breaker.minimum,
        on=breaker.on,
        reset_after=breaker.reset_after,
        reset_at_most=max(breaker.reset_after, breaker.reset_at_most),
        probed=section.health.L2 is not None,
    )


def _outlier(section: Outlier | str) -> snapshot.Outlier | None:
    if isinstance(section, str):
        return None
    return snapshot.Outlier(
        above=section.above,
        minimum=section.minimum,
        eject_for=section.eject_for,
        eject_at_most=max(section.eject_for, section.eject_at_most),
        share=section.share,
    )


def _route(
    route: Route, timeouts: Mapping[str, snapshot.Timeouts], config: Config
) -> snapshot.Route:
    own = route.timeouts
    retries = config.services[route.service].retries
    below = timeouts[route.service]

    def pick(mine: float | None, services: float) -> float:
        return services if mine is None else mine

    merged = snapshot.Timeouts(
        connect=pick(own.connect, below.connect),
        first_byte=pick(own.first_byte, below.first_byte),
        between_bytes=pick(own.between_bytes, below.between_bytes),
        total=pick(own.total, below.total),
        stream_idle=pick(own.stream_idle, below.stream_idle),
    )
    return snapshot.Route(
        path=route.path,
        service=route.service,
        host=route.host or "",
        strip=route.strip,
        body_limit=route.limits.body,
        timeouts=None if merged == below else merged,
        security=route.security or "",
        retry=None if route.retry is None else _retry(route.retry, retries),
        rescue=None if route.rescue is None else _rescue(route.rescue),
        cache=route.cache == "on",
        rate_limits=_rate_limits(route.rate_limit),
        cors=cors_of(route.cors, config.security.cors.default),
        auth=route.auth,
        auth_optional=route.auth_optional,
        scopes=route.scopes,
        allow=route.allow,
        deny=route.deny,
    )


def _auth_scheme(name: str, section: AuthScheme, files: AuthFiles) -> snapshot.AuthScheme:
    if section.api_keys is not None:
        keys = section.api_keys
        inline = tuple(
            snapshot.ApiKey(name=each.name, digest=each.hash, scopes=each.scopes)
            for each in keys.keys
        )
        return snapshot.AuthScheme(
            name=name,
            api_keys=snapshot.ApiKeys(
                keys=inline + files.keys.get(name, ()),
                field=keys.field,
                name_field=keys.name_field,
            ),
        )
    jwt = section.jwt
    assert jwt is not None  # exactly one of the two (``cross_auth``)
    return snapshot.AuthScheme(
        name=name,
        jwt=snapshot.Jwt(
            issuer=jwt.issuer,
            audience=jwt.audience,
            source=jwt.jwks_url or "",
            refresh=jwt.refresh,
            keys=files.jwks.get(name, b""),
            algorithms=jwt.algorithms,
            leeway=jwt.leeway,
            require=jwt.require,
            type=jwt.type,
            subject=jwt.subject,
            scopes=jwt.scopes,
            claims=tuple(jwt.claims.items()),
        ),
    )


def _cache(config: Config) -> snapshot.CacheStore:
    beside = str(PurePath(config.state.path).with_name("cache"))
    return snapshot.CacheStore(
        path=config.cache.path or beside,
        size=config.cache.size,
        entry=config.cache.entry,
    )


def _rate_limits(
    section: RateLimit | Sequence[RateLimit] | None,
) -> tuple[snapshot.RateLimit, ...]:
    if section is None:
        return ()
    sections = section if isinstance(section, tuple) else (section,)
    return tuple(
        snapshot.RateLimit(
            count=each.rate.count,
            period=each.rate.period,
            burst=each.burst,
            key=each.key,
            dry_run=each.dry_run,
            name=each.name or "",
        )
        for each in sections
    )
