"""From a configuration to the topology that workers serve from."""

from __future__ import annotations

import msgspec
import pytest

from gateway.config import snapshot
from gateway.config.build import build_topology, file_endpoints, public_listeners
from gateway.config.load import parse_text
from gateway.config.schema import Config

TEXT = """\
listen:
  - {address: "0.0.0.0:8080"}
  - {address: "0.0.0.0:8443", tls: {certificates: [{certificate: a, key: b}]}}
  - {address: "[::1]:8081"}
trusted_proxies: [10.0.0.1]
internal_callers: [10.0.1.0/24]
limits: {head: 16KiB, body: 1MiB, connections: 5, header_timeout: 1s, idle_timeout: 2s}
access_log: off
on_control_lost: {after: 10s, do: stable}
traffic:
  cohort: {cookie: c, header: X-User, max_age: 1d, domain: Blkout.example}
  assets: {paths: ["/a/*"], keep: 1h}
  behind_cdn: true
services:
  web:
    blue: {endpoints: ["http://127.0.0.1:1"]}
    timeouts: {connect: 1s, total: 20s}
  ivor:
    critical: true
    blue: {endpoints: ["http://127.0.0.1:2", "https://ivor"]}
    green: {endpoints: ["http://127.0.0.1:3"]}
    balance: hash
    max_in_flight: 7
    drain_timeout: 3s
    host: rewrite
    tls: {ca: ca.pem}
routes:
  - {service: web, security: page}
  - {path: /api/, host: "*.A.example", service: ivor, strip: true}
  - {path: /up/, service: web, limits: {body: 1GiB}, timeouts: {total: 10m}}
  - {path: /same/, service: web, timeouts: {total: 20s}}
security:
  profiles:
    page: {}
    bare: {csp_report_only: null, hsts: null, frame: null, referrer: null, permissions: null}
    strict: {csp: "default-src 'none'", csp_report_only: null, frame: sameorigin, hsts: 365d}
"""


def config_of(text: str = TEXT) -> Config:
    return parse_text(text.encode(), "f", {}, read_secrets=False).config


def _without_second_tries(service: snapshot.Service) -> snapshot.Service:
    return msgspec.structs.replace(
        service, retry=snapshot.Retry(), rescue=snapshot.Rescue(), outlier=None
    )


def topology_of(config: Config) -> snapshot.Topology:
    pool = snapshot.Pool(
        service="web",
        color="blue",
        generation=3,
        source="api",
        endpoints=(
            snapshot.Endpoint(
                id="web-blue-3-0", cell=9, url="http://x", scheme="http", host="x", port=80
            ),
        ),
    )
    rows = {name: row for row, name in enumerate(sorted(config.services), start=1)}
    return build_topology(config, number=42, pools=[pool], rows=rows)


def routes_of(topology: snapshot.Topology) -> list[snapshot.Route]:
    return [route for chunk in topology.routes for route in snapshot.unpack_routes(chunk)]


def test_services_carry_what_the_file_says() -> None:
    topology = topology_of(config_of())
    assert topology.number == 42
    assert tuple(_without_second_tries(service) for service in topology.services) == (
        snapshot.Service(
            name="ivor",
            row=1,
            critical=True,
            balance="hash",
            max_in_flight=7,
            queue_length=7,  # not more than it works on
            drain_timeout=3.0,
            host="rewrite",
            tls_ca="ca.pem",
        ),
        snapshot.Service(name="web", row=2, timeouts=snapshot.Timeouts(connect=1.0, total=20.0)),
    )


def test_pools_are_the_ones_that_control_gives() -> None:
    topology = topology_of(config_of())
    pool = topology.pool("web", "blue")
    assert pool is not None
    assert pool.generation == 3
    assert topology.pool("ivor", "blue") is None


def test_routes_are_worked_out() -> None:
    assert routes_of(topology_of(config_of())) == [
        snapshot.Route(path="/", service="web", security="page"),
        snapshot.Route(path="/api/", service="ivor", host="*.a.example", strip=True),
        snapshot.Route(
            path="/up/",
            service="web",
            body_limit=2**30,
            timeouts=snapshot.Timeouts(connect=1.0, total=600.0),
        ),
        # Nothing of its own is left: as the service's.
        snapshot.Route(path="/same/", service="web"),
    ]


def test_the_machines_side_is_carried_over() -> None:
    topology = topology_of(config_of())
    assert topology.limits == snapshot.Limits(
        head=16_384, body=2**20, connections=5, header_timeout=1.0, idle_timeout=2.0
    )
    assert topology.cohort == snapshot.Cohort(
        cookie="c", header="X-User", max_age=86_400, domain="blkout.example"
    )
    assert topology.trusted_proxies == ("10.0.0.1/32",)
    assert topology.internal_callers == ("10.0.1.0/24",)
    assert (topology.assets, topology.assets_keep) == (("/a/*",), 3600.0)
    assert topology.behind_cdn
    assert topology.on_control_lost == snapshot.OnControlLost(after=10.0, do="stable")
    assert topology.access_log == "off"


def test_listeners_with_what_they_speak() -> None:
    listeners = public_listeners(config_of())
    addresses = [listener.address for listener in listeners]
    assert addresses == ["0.0.0.0:8080", "0.0.0.0:8443", "[::1]:8081"]
    # Certificates were not read here: none, and no plain HTTP in their place.
    assert [listener.tls for listener in listeners] == [
        None,
        snapshot.ListenerTls(certificates=()),
        None,
    ]


def test_profiles_are_the_fields_they_send() -> None:
    profiles = {profile.name: profile for profile in topology_of(config_of()).profiles}
    assert profiles["bare"].fields == (("X-Content-Type-Options", "nosniff"),)
    assert profiles["bare"].tls_fields == ()
    assert profiles["page"].fields == (
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy-Report-Only", "default-src 'self'"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "strict-origin-when-cross-origin"),
        ("Permissions-Policy", "geolocation=()"),
    )
    assert profiles["page"].tls_fields == (("Strict-Transport-Security", "max-age=300"),)
    assert ("Content-Security-Policy", "default-src 'none'") in profiles["strict"].fields
    assert ("X-Frame-Options", "SAMEORIGIN") in profiles["strict"].fields
    assert profiles["strict"].tls_fields[0][1] == "max-age=31536000"


def test_the_only_service_needs_no_route() -> None:
    text = "services: {web: {blue: {endpoints: ['http://a']}}}\n"
    assert routes_of(topology_of(config_of(text))) == [snapshot.Route(path="/", service="web")]


def test_the_defaults_of_both_planes_are_the_same() -> None:
    """A default that is written down twice says the same twice."""
    topology = topology_of(config_of("services: {web: {blue: {endpoints: ['http://a']}}}\n"))
    bare = snapshot.Topology(number=42)
    for name in ("limits", "cohort", "on_control_lost", "behind_cdn", "access_log", "assets_keep"):
        assert getattr(topology, name) == getattr(bare, name), name
    (web,) = topology.services
    assert _without_second_tries(web) == snapshot.Service(name="web", row=1)
    # A service made by hand tries nothing twice; a file's does.
    assert web.retry == snapshot.Retry(
        attempts=1,
        on=("connect", "reset", "timeout", "502", "503", "504"),
        methods=("GET", "HEAD", "OPTIONS"),
    )
    assert web.rescue == snapshot.Rescue(
        on=("connect", "reset", "timeout", "5xx"), methods=("GET", "HEAD")
    )
    assert web.outlier == snapshot.Outlier()


@pytest.mark.parametrize(
    ("keys", "length", "wait"),
    [
        ("max_in_flight: 1000", 32, 0.5),
        ("max_in_flight: 4", 4, 0.5),
        ("max_in_flight: 4, queue: {length: 9, wait: 2s}", 9, 2.0),
        ("queue: {length: 0}", 0, 0.5),
    ],
)
def test_a_queue_is_as_long_as_it_can_be_worked_off(keys: str, length: int, wait: float) -> None:
    text = f"services: {{web: {{blue: {{endpoints: ['http://a']}}, {keys}}}}}\n"
    (web,) = topology_of(config_of(text)).services
    assert (web.queue_length, web.queue_wait) == (length, wait)


def test_second_tries_are_the_files() -> None:
    text = """\
services:
  web:
    blue: {endpoints: ['http://a']}
    retries: 4
    retry: {on: [connect, 5xx], methods: [GET, PUT], budget: 60%, floor: 60/min, body: 1MiB}
    rescue: off
    breaker: {failures: 3, share: 50%, on: [500], reset_after: 2s, reset_at_most: 1s}
    outlier: off
    slow_start: 0s
    health: {L2: {path: /health}}
routes:
  - {service: web}
  - {service: web, path: /once/, retry: off, rescue: {methods: [GET]}}
"""
    topology = topology_of(config_of(text))
    (web,) = topology.services
    assert web.retry == snapshot.Retry(
        attempts=4,
        on=("connect", "5xx"),
        methods=("GET", "PUT"),
        budget=0.6,
        floor=1.0,
        body=2**20,
    )
    assert web.rescue == snapshot.Rescue()
    assert web.breaker == snapshot.Breaker(
        failures=3, share=0.5, on=("500",), reset_after=2.0, reset_at_most=2.0, probed=True
    )
    assert (web.outlier, web.slow_start) == (None, 0.0)
    always, once = routes_of(topology)
    assert (always.retry, always.rescue) == (None, None)
    assert once.retry == snapshot.Retry(never=True)
    assert once.rescue is not None
    assert once.rescue.methods == ("GET",)


def test_a_breaker_that_is_off_never_opens() -> None:
    text = "services: {web: {blue: {endpoints: ['http://a']}, breaker: off}}\n"
    assert topology_of(config_of(text)).services[0].breaker.failures == 0


def test_the_files_endpoints_are_given_by_slot() -> None:
    config = config_of()
    ivor = file_endpoints(config, "ivor", "blue")
    assert [(one.scheme, one.host, one.port) for one in ivor] == [
        ("http", "127.0.0.1", 2),
        ("https", "ivor", 443),
    ]
    assert file_endpoints(config, "web", "green") == ()
    with pytest.raises(KeyError):
        file_endpoints(config, "none", "blue")


def test_the_secret_reaches_the_workers_and_no_repr() -> None:
    text = TEXT.replace("cookie: c,", "cookie: c, secret_env: S,").replace(
        '  - {address: "0.0.0.0:8443", tls: {certificates: [{certificate: a, key: b}]}}\n', ""
    )
    text = text.replace("    tls: {ca: ca.pem}\n", "")
    config = parse_text(text.encode(), "f", {"S": "hunter2-hunter2-hunter2"}).config
    topology = topology_of(config)
    assert topology.cohort.secret == b"hunter2-hunter2-hunter2"
    assert "hunter2" not in repr(topology)


def test_a_topology_travels() -> None:
    topology = topology_of(config_of())
    octets = msgspec.msgpack.encode(topology)
    assert msgspec.msgpack.decode(octets, type=snapshot.Topology) == topology
