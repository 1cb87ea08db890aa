"""From profiles and CORS in the file to what is sent."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import snapshot
from gateway.config.addresses import parse_origin
from gateway.config.browsers import FIELDS, REPORTS_PATH, build_profile, notices
from gateway.config.build import build_topology
from gateway.config.load import ConfigErrors, parse_text
from gateway.config.schema import Config, SecurityProfile
from gateway.config.schema.security import LEAKING, ProfileField
from gateway.proxy import reports

BASE = "services: {web: {blue: {endpoints: ['http://127.0.0.1:1']}}}\n"


def config_of(text: str) -> Config:
    return parse_text((BASE + text).encode(), "f", {}, read_secrets=False).config


def topology_of(text: str) -> snapshot.Topology:
    return build_topology(config_of(text), number=1, pools=(), rows={"web": 1})


def cors_of_routes(text: str) -> list[str]:
    topology = topology_of(text)
    return [route.cors for chunk in topology.routes for route in snapshot.unpack_routes(chunk)]


def profile(**keys: Any) -> snapshot.SecurityProfile:
    return build_profile("p", SecurityProfile(**keys), reports=True)


def test_by_default_leaks_are_taken_off_and_nothing_else_is_done() -> None:
    topology = topology_of("")
    assert topology.removed == LEAKING
    assert (topology.cors, topology.csp_reports) == ((), None)
    routes = [each for chunk in topology.routes for each in snapshot.unpack_routes(chunk)]
    assert [each.security for each in routes] == [""]
    assert topology_of("security: {remove: []}\n").removed == ()


def test_there_is_a_profile_for_pages_where_the_file_has_none() -> None:
    text = "routes: [{service: web, security: page}]\n"
    (profile,) = topology_of(text).profiles
    assert profile == topology_of(text + "security: {profiles: {page: {}}}\n").profiles[0]
    assert profile.name == "page"
    with pytest.raises(ConfigErrors, match="unknown security profile"):
        topology_of(text + "security: {profiles: {}}\n")


def test_every_key_of_a_profile_is_a_field() -> None:
    keys = set(ProfileField.__args__)  # type: ignore[attr-defined]  # a Literal's
    assert set(FIELDS) | {"hsts"} == keys
    assert set(SecurityProfile.model_fields) == keys | {
        "hsts_subdomains",
        "hsts_preload",
        "override",
        "remove",
    }


def test_hsts_has_its_options() -> None:
    (field,) = profile(hsts="365d", hsts_subdomains=True, hsts_preload=True).tls_fields
    assert field == ("Strict-Transport-Security", "max-age=31536000; includeSubDomains; preload")


def test_isolation_is_by_the_usual_names() -> None:
    made = profile(opener="same-origin", resource="same-site", embedder="credentialless")
    fields = dict(made.fields)
    assert fields["Cross-Origin-Opener-Policy"] == "same-origin"
    assert fields["Cross-Origin-Resource-Policy"] == "same-site"
    assert fields["Cross-Origin-Embedder-Policy"] == "credentialless"


def test_what_is_overridden_is_named_as_it_is_sent() -> None:
    made = profile(override=("csp", "hsts", "frame"), remove=("X-Own",))
    assert made.override == (
        "content-security-policy",
        "strict-transport-security",
        "x-frame-options",
    )
    assert made.remove == ("X-Own",)


def test_policies_name_where_reports_go() -> None:
    fields = dict(profile(csp="default-src 'none';").fields)
    where = f"; report-uri {REPORTS_PATH}; report-to gateway"
    assert fields["Content-Security-Policy"] == "default-src 'none'" + where
    assert fields["Content-Security-Policy-Report-Only"] == "default-src 'self'" + where
    assert fields["Reporting-Endpoints"] == f'gateway="{REPORTS_PATH}"'
    assert REPORTS_PATH.encode() == reports.REPORTS_PATH


@pytest.mark.parametrize("own", ["report-uri /mine", "Report-To mine"])
def test_a_policy_that_names_a_place_keeps_it(own: str) -> None:
    policy = f"default-src 'self'; {own}"
    fields = dict(profile(csp=policy, csp_report_only=None).fields)
    assert fields["Content-Security-Policy"] == policy
    assert "Reporting-Endpoints" not in fields


def test_without_reports_policies_stay_as_they_are() -> None:
    made = build_profile("p", SecurityProfile(csp="default-src 'none'"))
    assert dict(made.fields)["Content-Security-Policy"] == "default-src 'none'"
    assert "Reporting-Endpoints" not in dict(made.fields)


def test_a_route_has_its_own_cors_or_the_default_or_none() -> None:
    profiles = "profiles: {a: {origins: ['*']}, b: {origins: ['https://b.example']}}"
    routes = (
        "routes: [{path: /1, service: web}, {path: /2, service: web, cors: b}, "
        "{path: /3, service: web, cors: off}]\n"
    )
    assert cors_of_routes(routes + f"security: {{cors: {{default: a, {profiles}}}}}\n") == [
        "a",
        "b",
        "",
    ]
    assert cors_of_routes(routes + f"security: {{cors: {{{profiles}}}}}\n") == ["", "b", ""]


def test_a_cors_profile_is_carried_over() -> None:
    text = (
        "security: {cors: {profiles: {a: {origins: ['HTTPS://A.Example:443'], methods: [PUT], "
        "headers: [X-A], expose: [X-B], credentials: true, max_age: 1h, private_network: true, "
        "upgrades: any}}}, csp_reports: {body: 1KiB, per_minute: 5}}\n"
    )
    topology = topology_of(text)
    assert topology.cors == (
        snapshot.Cors(
            name="a",
            origins=("https://a.example",),
            methods=("PUT",),
            headers=("X-A",),
            expose=("X-B",),
            credentials=True,
            max_age=3600,
            private_network=True,
            upgrades=False,
        ),
    )
    assert topology.csp_reports == snapshot.CspReports(body=1024, per_minute=5)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("*", "*"),
        ("http://a.example:80", "http://a.example"),
        ("https://a.example:80", "https://a.example:80"),
        ("https://*.a.example:8443", "https://*.a.example:8443"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0::1]", "http://[::1]"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_origins(text: str, origin: str) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "a.example",
        "https://",
        "https://a.example/",
        "https://a.example?",
        "https://u@a.example",
        "https://a.*.example",
        "https://*a.example",
        "https://*",
        "https://*.org",
        "https://*.10.0.0.1",
        "https://a.example:",
        "https://a.example:0x1",
        "https://a.example:65536",
        "https://a.example:-1",
        "https://a.example:8_0",
        "https://a.example: 80",
        "://a.example",
        "ht tp://a.example",
        "https://a.example https://b.example",
    ],
)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_origin(text)


@pytest.mark.parametrize(
    ("hsts", "words"),
    [("5m", "5 minutes"), ("1h", "1 hour"), ("6d", "6 days"), ("90s", "90 seconds")],
)
def test_a_notice_says_how_long(hsts: str, words: str) -> None:
    text = (
        "routes: [{service: web, security: p}]\n"
        f"security: {{profiles: {{p: {{hsts: {hsts}, csp_report_only: null}}}}}}\n"
    )
    (notice,) = notices(config_of(text))
    assert f"HSTS lasts {words};" in notice


def test_a_week_is_no_notice() -> None:
    text = (
        "routes: [{service: web, security: p}]\n"
        "security: {profiles: {p: {hsts: 7d, csp_report_only: null}}}\n"
    )
    assert list(notices(config_of(text))) == []
