"""Conversations with browsers: security fields, nonces, CORS, reports of violations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from gateway.board import layout
from gateway.channel.messages import Failures
from gateway.config.snapshot import (
    ApiKeys,
    AuthScheme,
    Cors,
    CspReports,
    ErrorPage,
    Fallback,
    PageForm,
    Route,
    SecurityProfile,
    ServiceTraffic,
    Watch,
)
from gateway.proxy.reports import MAX_OPEN, ReportDesk
from tests.support.rig import Answer, Rig, board, service, topology, traffic

APP = Cors(
    name="app",
    origins=("https://app.example", "https://*.example.org"),
    credentials=True,
    upgrades=True,
)
PAGE = SecurityProfile(
    name="page",
    fields=(
        ("Content-Security-Policy", "script-src 'nonce-{nonce}'"),
        ("X-Content-Type-Options", "nosniff"),
    ),
)
ORIGIN = "Origin: https://app.example\r\n"
PREFLIGHT = "Access-Control-Request-Method: PUT\r\n"
ALLOWED = b"access-control-allow-origin"
CSP = b"content-security-policy"
HTML = "Content-Type: text/html\r\n"
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
REPORTS = "/.well-known/gateway/csp-reports"


def serve(rig: Rig, *, cors: Cors | None = APP, cache: bool = False, **more: Any) -> None:
    """Serve one route; without ``cors`` the profile is the whole of it."""
    name = "" if cors is None else cors.name
    routes = [Route(path="/", service="web", cors=name, cache=cache, security="page")]
    profile = SecurityProfile(name="page")
    values: dict[str, Any] = {"routes": routes, "profiles": [profile]}
    values["cors"] = () if cors is None else (cors,)
    rig.serve(topology(**(values | more)))


def asked(rig: Rig, fields: str = "", answer: str = "") -> Answer:
    rig.client.get(fields=fields)
    rig.backend().ok(fields=answer)
    return rig.client.answer()


# --- security fields ------------------------------------------------------------------------------


def test_what_leaks_is_taken_off_on_routes_without_a_profile(rig: Rig) -> None:
    rig.serve(topology(removed=("Server", "X-Powered-By")))
    answer = asked(rig, answer="Server: leaky/1.0\r\nX-Powered-By: luck\r\nX-Other: kept\r\n")
    names = {name for name, _ in answer.fields}
    assert b"x-other" in names
    assert not names & {b"server", b"x-powered-by"}
    rig.over([200])


def test_a_profile_may_override_the_backend(rig: Rig) -> None:
    profile = SecurityProfile(
        name="page", fields=(("X-Frame-Options", "DENY"),), override=("x-frame-options",)
    )
    serve(rig, cors=None, profiles=[profile])
    answer = asked(rig, answer="X-Frame-Options: ALLOWALL\r\nx-frame-options: SAMEORIGIN\r\n")
    assert answer.all(b"x-frame-options") == [b"DENY"]
    rig.over([200])


def test_the_gateways_own_errors_have_the_fields(rig: Rig) -> None:
    serve(rig, cors=None, profiles=[SecurityProfile(name="page", fields=(("X-A", "b"),))])
    rig.client.get()
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-a")) == (502, b"b")
    assert answer.field(b"content-type") == b"application/problem+json"
    rig.over([502])


def test_a_trusted_proxy_says_whether_it_is_https(rig: Rig) -> None:
    profile = SecurityProfile(name="page", tls_fields=(("Strict-Transport-Security", "a=b"),))
    serve(rig, cors=None, profiles=[profile], trusted_proxies=("192.0.2.1/32",))
    for proto, sent in (("https", b"a=b"), ("http", None), ("https", b"a=b"), ("", None)):
        field = f"X-Forwarded-Proto: {proto}\r\n" if proto else ""
        assert asked(rig, field).field(b"strict-transport-security") == sent
    rig.connect("192.0.2.2")
    answer = asked(rig, "X-Forwarded-Proto: https\r\n")
    assert answer.field(b"strict-transport-security") is None
    rig.over([200] * 5)


# --- nonces ---------------------------------------------------------------------------------------


def test_each_request_has_a_number_of_its_own_in_both_places(rig: Rig) -> None:
    serve(rig, cors=None, profiles=[PAGE])
    seen = set()
    for spelled in ("X-CSP-Nonce", "x_csp_nonce", "X-Csp_Nonce"):
        rig.client.get(fields=f"{spelled}: mine\r\n")
        sent = rig.backend().request
        assert b"mine" not in sent
        (nonce,) = re.findall(rb"\r\nX-CSP-Nonce: ([0-9a-f]{32})\r\n", sent)
        rig.backend().ok(fields=HTML)
        answer = rig.client.answer()
        assert answer.all(CSP) == [b"script-src 'nonce-" + nonce + b"'"]
        seen.add(nonce)
    assert len(seen) == 3
    rig.over([200] * 3)


def test_a_page_with_a_number_is_kept_by_nobody(rig: Rig) -> None:
    serve(rig, cors=None, profiles=[PAGE])
    public = "Cache-Control: public, max-age=60\r\nCDN-Cache-Control: max-age=60\r\n"
    answer = asked(rig, answer=HTML + public)
    assert answer.all(b"cache-control") == [b"no-store"]
    assert answer.field(b"cdn-cache-control") is None
    # What is no page says no number.
    answer = asked(rig, answer="Content-Type: text/css\r\n" + public)
    assert answer.all(b"cache-control") == [b"public, max-age=60"]
    rig.over([200, 200])


def test_what_is_not_modified_keeps_the_policy_that_it_was_stored_with(rig: Rig) -> None:
    serve(rig, cors=None, profiles=[PAGE])
    rig.client.get(fields='If-None-Match: "a"\r\n')
    rig.backend().answers(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')
    answer = rig.client.answer()
    assert (answer.status, answer.field(CSP)) == (304, None)
    assert answer.field(b"x-content-type-options") == b"nosniff"
    rig.over([304])


def test_a_page_with_a_number_is_not_stored_here_either(rig: Rig, tmp_path: Path) -> None:
    rig.caches(tmp_path / "cache")
    stale = service(fallbacks=(Fallback(kind="stale"),))
    serve(rig, cors=None, cache=True, profiles=[PAGE], services=[stale])
    policies = {asked(rig, answer=HTML + "Cache-Control: max-age=60\r\n").field(CSP)}
    policies.add(asked(rig, answer=HTML).field(CSP))
    assert len(policies) == 2
    rig.client.get()
    rig.backend().resets()
    while rig.dialling:
        rig.refuses()
    assert rig.client.answer().status == 502
    rig.over([200, 200, 502])


def test_a_page_of_the_gateways_own_has_no_hole_in_its_policy(rig: Rig) -> None:
    serve(
        rig,
        cors=None,
        profiles=[PAGE],
        error_pages=(ErrorPage(on=("5xx",), forms=(PageForm(type="text/html", file=0),)),),
        files=(b"sorry",),
    )
    rig.client.get(fields="Accept: text/html\r\n")
    rig.refuses()
    policy = rig.client.answer().field(CSP)
    assert policy is not None
    assert re.fullmatch(rb"script-src 'nonce-[0-9a-f]{32}'", policy)
    rig.over([502])


# --- CORS -----------------------------------------------------------------------------------------


def test_an_allowed_origin_may_read(rig: Rig) -> None:
    serve(rig)
    answer = asked(rig, ORIGIN, "Vary: Accept\r\n")
    assert answer.field(ALLOWED) == b"https://app.example"
    assert answer.field(b"access-control-allow-credentials") == b"true"
    assert answer.all(b"vary") == [b"Accept", b"Origin"]
    rig.over([200])


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "https://app.example.evil"])
def test_another_origin_is_answered_and_may_not_read(rig: Rig, origin: str) -> None:
    serve(rig)
    answer = asked(rig, f"Origin: {origin}\r\n")
    assert (answer.status, answer.field(ALLOWED)) == (200, None)
    assert answer.all(b"vary") == [b"Origin"]
    rig.over([200])


def test_two_origins_are_none(rig: Rig) -> None:
    serve(rig)
    assert asked(rig, ORIGIN + ORIGIN).field(ALLOWED) is None
    rig.over([200])


def test_what_the_backend_says_of_it_is_the_gateways_to_say(rig: Rig) -> None:
    serve(rig)
    said = (
        "Access-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\n"
        "Access-Control-Expose-Headers: X-Secret\r\n"
    )
    answer = asked(rig, "Origin: https://evil.example\r\n", said)
    assert not [name for name, _ in answer.fields if name.startswith(b"access-control")]
    assert asked(rig, ORIGIN, said).all(ALLOWED) == [b"https://app.example"]
    rig.over([200, 200])


def test_without_a_profile_it_is_the_backends_to_say(rig: Rig) -> None:
    rig.serve(topology())
    answer = asked(rig, ORIGIN, "Access-Control-Allow-Origin: *\r\n")
    assert answer.all(ALLOWED) == [b"*"]
    rig.over([200])


def preflight(rig: Rig, fields: str) -> Answer:
    rig.client.send(f"OPTIONS /a HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n".encode())
    assert not rig.dialling
    return rig.client.answer()


def test_a_preflight_is_answered_here(rig: Rig) -> None:
    serve(rig)
    answer = preflight(rig, ORIGIN + PREFLIGHT)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.field(ALLOWED) == b"https://app.example"
    assert answer.field(b"access-control-allow-methods") == b"GET, HEAD, POST"
    assert answer.field(b"access-control-max-age") == b"600"
    assert answer.field(b"content-length") is None
    vary = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    assert answer.all(b"vary") == [vary]
    refused = preflight(rig, "Origin: https://evil.example\r\n" + PREFLIGHT)
    assert (refused.status, refused.field(ALLOWED)) == (204, None)
    assert refused.all(b"vary") == [vary]
    rig.over([204, 204])


@pytest.mark.parametrize("fields", [ORIGIN, PREFLIGHT, ""])
def test_an_options_that_is_no_preflight_is_the_backends(rig: Rig, fields: str) -> None:
    serve(rig)
    rig.client.send(f"OPTIONS /a HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n".encode())
    rig.backend().ok(fields="Allow: GET\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"allow")) == (200, b"GET")
    assert answer.all(b"vary") == [b"Origin"]
    rig.over([200])


def test_an_error_may_be_read_too(rig: Rig) -> None:
    serve(rig)
    rig.client.get(fields=ORIGIN)
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.status, answer.field(ALLOWED)) == (502, b"https://app.example")
    rig.over([502])


def test_so_may_a_fallback(rig: Rig) -> None:
    static = Fallback(kind="static", status=200, type="text/plain", file=0)
    serve(rig, services=[service(fallbacks=(static,))], files=(b"sorry",))
    rig.client.get(fields=ORIGIN)
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.body, answer.field(ALLOWED)) == (b"sorry", b"https://app.example")
    rig.over([200])


def test_a_stored_answer_names_each_asker_and_no_other(rig: Rig, tmp_path: Path) -> None:
    rig.caches(tmp_path / "cache")
    serve(rig, cache=True, removed=("Server",))
    said = "Cache-Control: max-age=60\r\nAccess-Control-Allow-Origin: *\r\nServer: leaky\r\n"
    assert asked(rig, ORIGIN, said).field(ALLOWED) == b"https://app.example"
    sent = sum(len(backend.transport.sent) for backend in rig.backends)
    for origin, told in (
        ("https://a.example.org", b"https://a.example.org"),
        ("https://evil.example", None),
        ("https://app.example", b"https://app.example"),
    ):
        rig.client.get(fields=f"Origin: {origin}\r\n")
        answer = rig.client.answer()
        assert answer.all(ALLOWED) == ([] if told is None else [told])
        assert answer.all(b"vary") == [b"Origin"]
        assert answer.field(b"server") is None
        assert b"hit" in (answer.field(b"cache-status") or b"")
    rig.client.get()
    assert rig.client.answer().field(ALLOWED) is None
    assert sum(len(backend.transport.sent) for backend in rig.backends) == sent
    rig.over([200] * 5)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        (ORIGIN + ORIGIN, 403),
        (ORIGIN, 101),
        ("Origin: http://a.example\r\n", 101),
        ("", 101),
    ],
)
def test_a_websocket_is_opened_to_pages_that_may(rig: Rig, origin: str, status: int) -> None:
    serve(rig)
    rig.client.get(fields=UPGRADE + origin)
    if status == 101:
        rig.backend().answers(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
    answer = rig.client.answer()
    assert answer.status == status
    if status == 403:
        assert answer.field(b"x-gateway-error") == b"cross-origin"
    rig.over([status])


def test_where_that_is_not_checked_any_page_may(rig: Rig) -> None:
    serve(rig, cors=msgspec.structs.replace(APP, upgrades=False))
    rig.client.get(fields=UPGRADE + "Origin: https://evil.example\r\n")
    assert b"websocket" in rig.backend().request
    rig.client.leaves()
    rig.over()


# --- reports of violations ------------------------------------------------------------------------


def takes_reports(rig: Rig, weight: int = 0, *, csp: bool = True, **settings: int) -> None:
    watch = Watch(service="web", csp=csp)
    moved = traffic(ServiceTraffic(service="web", stable="blue", weight=weight), release="r-1")
    rig.serve(
        topology(csp_reports=CspReports(**settings)), msgspec.structs.replace(moved, watch=(watch,))
    )


def report(
    rig: Rig,
    body: bytes,
    type_: str = "application/csp-report",
    *,
    path: str = REPORTS,
    fields: str = "",
) -> Answer:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Type: {type_}\r\n"
        f"{fields}Content-Length: {len(body)}\r\n\r\n"
    )
    rig.client.send(head.encode() + body)
    assert not rig.dialling
    return rig.client.answer()


def violation(document: str = "https://a.example/p", directive: str = "script-src-elem") -> bytes:
    return orjson.dumps(
        {"csp-report": {"document-uri": document, "effective-directive": directive}}
    )


def counted(rig: Rig, color: str, directive: str) -> int:
    at = layout.ROW_CSP + layout.CSP_DIRECTIVES.index(directive)
    return rig.row(at + (len(layout.CSP_DIRECTIVES) if color == "green" else 0))


def told(rig: Rig) -> list[tuple[str, str, bool, str]]:
    return [
        (each.metric, each.kind, each.candidate, each.color)
        for message in rig.told
        if isinstance(message, Failures)
        for each in message.failures
    ]


@pytest.mark.parametrize("weight", [0, 10_000])
def test_a_report_counts_for_the_side_that_the_reporter_is_on(rig: Rig, weight: int) -> None:
    takes_reports(rig, weight)
    color, away = ("green", "blue") if weight else ("blue", "green")
    for _ in range(3):
        assert report(rig, violation()).status == 204
    assert counted(rig, color, "script-src") == 3
    assert counted(rig, away, "script-src") == 0
    rig.advance(1.0)
    # Without a split nobody has a key; with one a key is told of once.
    assert told(rig) == ([("csp", "script-src", True, "green")] if weight else [])
    assert [line["status"] for line in rig.log] == [204] * 3
    assert rig.row(layout.SIDE_REQUESTS) == 0
    rig.over([204] * 3)


def test_nobody_is_told_who_does_not_want_to_know(rig: Rig) -> None:
    takes_reports(rig, 10_000, csp=False)
    assert report(rig, violation()).status == 204
    rig.advance(1.0)
    assert told(rig) == []
    assert counted(rig, "green", "script-src") == 1
    rig.over([204])


def test_the_reporting_apis_form_counts_each_of_its_reports(rig: Rig) -> None:
    takes_reports(rig)
    body = orjson.dumps(
        [
            {"type": "csp-violation", "body": {"documentURL": url, "effectiveDirective": name}}
            for url, name in (
                ("https://a.example/", "img-src"),
                ("https://a.example/x?y", "img-src"),
                ("https://other.example/", "img-src"),
                ("https://a.example/%zz", "img-src"),
                ("about:blank", "img-src"),
                ("https://a.example/", "made-up"),
            )
        ]
    )
    assert report(rig, body, "application/reports+json").status == 204
    assert counted(rig, "blue", "img-src") == 2
    assert counted(rig, "blue", "other") == 1
    rig.over([204])


@pytest.mark.parametrize(
    ("body", "type_", "status"),
    [
        (violation(), "text/plain", 415),
        (b"{}", "application/csp-report", 400),
        (b"nonsense", "application/reports+json", 400),
        (b"", "application/csp-report", 400),
        (b"[" + b" " * 2000 + b"]", "application/csp-report", 413),
    ],
)
def test_what_is_no_report_is_refused(rig: Rig, body: bytes, type_: str, status: int) -> None:
    takes_reports(rig, body=1000)
    assert report(rig, body, type_).status == status
    rig.over([status])


def test_it_is_posted(rig: Rig) -> None:
    takes_reports(rig)
    rig.client.get(REPORTS)
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"allow")) == (405, b"POST")
    rig.over([405])


def test_one_client_may_report_so_often(rig: Rig) -> None:
    takes_reports(rig, per_minute=2)
    statuses = [report(rig, violation()).status for _ in range(3)]
    assert statuses == [204, 204, 429]
    rig.connect("192.0.2.9")
    assert report(rig, violation()).status == 204
    rig.clients[-1].leaves()
    rig.advance(61.0)
    rig.connect()
    assert report(rig, violation()).status == 204
    assert counted(rig, "blue", "script-src") == 4
    rig.over([204, 204, 429, 204, 204])


def test_a_report_that_never_comes_whole_holds_nothing(rig: Rig) -> None:
    takes_reports(rig)
    head = f"POST {REPORTS} HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/csp-report\r\n"
    rig.client.send(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    rig.advance(11.0)
    assert rig.client.answer().status == 408
    assert "open=0" in repr(rig.core.reports)
    rig.connect().send(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    assert "open=1" in repr(rig.core.reports)
    rig.client.leaves()
    assert "open=0" in repr(rig.core.reports)
    rig.over([408, 499])


def test_where_reports_are_not_taken_the_path_is_like_any(rig: Rig) -> None:
    rig.client.send(f"POST {REPORTS} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_each_services_weight_is_its_own(rig: Rig) -> None:
    weights = [ServiceTraffic(service="web", stable="blue", weight=10_000)]
    weights.append(ServiceTraffic(service="other", stable="blue"))
    rig.serve(
        topology(
            services=[service(), service("other", 2)],
            routes=[Route(path="/", service="web"), Route(path="/o", service="other")],
            csp_reports=CspReports(),
        ),
        traffic(*weights, release="r-1"),
    )
    reports = [
        {"type": "csp-violation", "body": {"documentURL": f"https://a.example{path}"}}
        for path in ("/", "/o")
    ]
    assert report(rig, orjson.dumps(reports), "application/reports+json").status == 204
    other = layout.ROW_CSP + len(layout.CSP_DIRECTIVES) - 1
    assert rig.row(other, 2) == 1
    assert counted(rig, "green", "other") == 1
    rig.over([204])


def test_what_is_not_modified_may_be_kept_as_before(rig: Rig) -> None:
    serve(rig, cors=None, profiles=[PAGE])
    rig.client.get(fields='If-None-Match: "a"\r\n')
    rig.backend().answers(
        f"HTTP/1.1 304 Not Modified\r\n{HTML}Cache-Control: max-age=5\r\n\r\n".encode()
    )
    assert rig.client.answer().all(b"cache-control") == [b"max-age=5"]
    rig.over([304])


def test_another_cors_profile_is_in_force_at_once(rig: Rig) -> None:
    serve(rig)
    assert asked(rig, ORIGIN).field(ALLOWED) == b"https://app.example"
    serve(rig, cors=msgspec.structs.replace(APP, origins=("https://b.example",)))
    assert asked(rig, ORIGIN).field(ALLOWED) is None
    rig.over([200, 200])


def test_so_many_clients_and_reports_at_a_time() -> None:
    words = board()
    desk = ReportDesk(words)
    assert [take(desk, 1) for _ in range(60)] == [""] * 60
    assert take(desk, 1) == "too-many-reports"
    assert [take(desk, 2) for _ in range(60)] == [""] * 60
    assert [take(desk, 3) for _ in range(9)] == [""] * (MAX_OPEN - 120) + ["overload"]
    for _ in range(MAX_OPEN):
        desk.leave()
    # Who was refused for want of room has not used up anything of its own.
    assert [take(desk, 3) for _ in range(60)] == [""] * 52 + ["too-many-reports"] * 8


def test_a_clients_reports_are_the_machines_not_each_workers() -> None:
    words = board()
    one, other = ReportDesk(words), ReportDesk(words)
    answers = [take(each, 1) for _ in range(40) for each in (one, other)]
    assert answers == [""] * 60 + ["too-many-reports"] * 20
    assert take(other, 2) == ""
    assert take(other, 1, now=102.0) == ""  # one a second comes back
    assert take(one, 1, now=102.0) == ""
    assert take(one, 1, now=102.0) == "too-many-reports"


def take(desk: ReportDesk, client: int, now: float = 100.0) -> str:
    failure = desk.refusal(
        CspReports(), b"POST", b"application/csp-report", f"192.0.2.{client}", now
    )
    return "" if failure is None else failure.name


def test_whoever_makes_up_cookies_is_one_reporter_all_the_same(rig: Rig) -> None:
    takes_reports(rig, 10_000)
    for letter in "abc":
        cookie = f"Cookie: gw_cohort={letter * 21}A\r\n"
        assert report(rig, violation(), fields=cookie).status == 204
    rig.advance(1.0)
    assert told(rig) == [("csp", "script-src", True, "green")]
    rig.connect("192.0.2.9")
    assert report(rig, violation(), fields=cookie).status == 204
    rig.advance(1.0)
    assert len(told(rig)) == 2
    rig.over([204] * 4)


def test_a_preflight_needs_no_key_and_what_follows_it_does(rig: Rig) -> None:
    route = Route(path="/", service="web", cors="app", auth=("partners",))
    scheme = AuthScheme(name="partners", api_keys=ApiKeys())
    rig.serve(topology(routes=[route], cors=(APP,), auth=(scheme,)))
    rig.client.send(f"OPTIONS / HTTP/1.1\r\nHost: a\r\n{ORIGIN}{PREFLIGHT}\r\n".encode())
    answer = rig.client.answer()
    assert (answer.status, answer.field(ALLOWED)) == (204, b"https://app.example")
    # The page may read why it was refused. An OPTIONS that is no preflight is a request like any.
    answer = rig.client.get(fields=ORIGIN).answer()
    assert (answer.status, answer.field(ALLOWED)) == (401, b"https://app.example")
    assert answer.field(b"vary") == b"Origin"
    rig.client.send(f"OPTIONS / HTTP/1.1\r\nHost: a\r\n{ORIGIN}\r\n".encode())
    assert rig.client.answer().status == 401
    assert not rig.dialling
    rig.over([204, 401, 401])
