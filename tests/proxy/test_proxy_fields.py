"""Fields: what goes on, what is rebuilt, what is dropped, both ways."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

import pytest

from gateway.config.snapshot import Cohort, Route, SecurityProfile
from tests.support.rig import EPOCH, Rig, endpoint, pool, service, topology, traffic

HOP_BY_HOP = (
    "Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n"
    "Proxy-Authorization: Basic eDp5\r\nTE: gzip, trailers\r\nX-Hop: 1\r\n"
)
SPOOFED = (
    "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n"
    "Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: mine\r\n"
    "X-Release-Color: green\r\nX-Release-Role: candidate\r\nX-Release-Id: r1\r\n"
    "X-Release-Key: 0123456789abcdef\r\nGW_Override: x\r\nx-forwarded-for: 7.7.7.7\r\n"
)


def test_hop_by_hop_fields_stay_on_their_hop(rig: Rig) -> None:
    rig.client.get(fields=HOP_BY_HOP + "Accept: */*\r\n")
    fields = rig.backend().fields
    assert fields[b"connection"] == b"TE"
    assert fields[b"te"] == b"trailers"
    assert fields[b"accept"] == b"*/*"
    for name in (b"keep-alive", b"proxy-connection", b"proxy-authorization", b"x-hop"):
        assert name not in fields
    rig.backend().answers(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Up\r\nKeep-Alive: timeout=1\r\n"
        b"Proxy-Authenticate: Basic\r\nX-Up: 1\r\nUpgrade: h2\r\nX-Down: 1\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    answer = rig.client.answer()
    assert answer.field(b"x-down") == b"1"
    for name in (b"connection", b"keep-alive", b"proxy-authenticate", b"x-up", b"upgrade"):
        assert answer.field(name) is None
    rig.over([200])


def test_fields_that_frame_cannot_be_named_away(rig: Rig) -> None:
    rig.client.send(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nConnection: Content-Length, Host\r\n"
        b"Content-Length: 2\r\n\r\nok"
    )
    fields = rig.backend().fields
    assert (fields[b"content-length"], fields[b"host"]) == (b"2", b"a.example")
    rig.backend().ok()
    rig.over([200])


def test_what_an_untrusted_client_says_of_itself_is_replaced(rig: Rig) -> None:
    rig.client.get(fields=SPOOFED)
    fields = rig.backend().fields
    assert fields[b"x-forwarded-for"] == b"192.0.2.1"
    assert fields[b"x-forwarded-proto"] == b"http"
    assert fields[b"x-forwarded-host"] == b"a.example"
    assert fields[b"forwarded"] == b"for=192.0.2.1;host=a.example;proto=http"
    assert fields[b"x-release-color"] == b"blue"
    assert fields[b"x-release-role"] == b"stable"
    assert fields[b"via"] == b"1.1 gateway"
    assert re.fullmatch(rb"[0-9a-f]{32}", fields[b"x-request-id"])
    for name in (b"x-real-ip", b"gw_override", b"x-release-id", b"x-release-key"):
        assert name not in fields
    rig.backend().ok(
        fields="X-Request-Id: theirs\r\nX-Gateway-Error: x\r\nX-Gateway-Served-By: rescue\r\n"
    )
    answer = rig.client.answer()
    assert answer.all(b"x-request-id") == [fields[b"x-request-id"]]
    assert answer.field(b"x-gateway-error") is None
    assert answer.field(b"x-gateway-served-by") is None
    assert rig.log[0]["request_id"].encode() == fields[b"x-request-id"]
    rig.over([200])


def test_what_a_trusted_proxy_says_counts(rig: Rig) -> None:
    rig.serve(topology(trusted_proxies=("192.0.2.0/24",)))
    rig.client.get(
        fields="X-Forwarded-For: 6.6.6.6, 198.51.100.7\r\nX-Forwarded-For: 192.0.2.9\r\n"
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.example\r\nX-Request-Id: abc-1\r\n"
    )
    fields = rig.backend().fields
    assert fields[b"x-forwarded-for"] == b"198.51.100.7, 192.0.2.9, 192.0.2.1"
    assert fields[b"x-forwarded-proto"] == b"https"
    assert fields[b"x-forwarded-host"] == b"b.example"
    assert fields[b"forwarded"] == (
        b"for=198.51.100.7;host=b.example;proto=https, for=192.0.2.9, for=192.0.2.1"
    )
    assert fields[b"x-request-id"] == b"abc-1"
    rig.backend().ok()
    assert rig.client.answer().field(b"x-request-id") == b"abc-1"
    assert rig.log[0]["client"] == "198.51.100.7"
    rig.over([200])


def test_trust_that_moves_counts_on_kept_connections(rig: Rig) -> None:
    header = Cohort(header="X-User")
    rig.client.get(fields="X-Request-Id: abc\r\n")
    assert rig.backend().fields[b"x-request-id"] != b"abc"
    rig.backend().ok()
    rig.serve(topology(number=2, trusted_proxies=("192.0.2.0/24",), cohort=header))
    rig.client.get(fields="X-Request-Id: abc\r\n")
    assert rig.backend().fields[b"x-request-id"] == b"abc"
    rig.backend().ok()
    rig.serve(topology(number=3))
    rig.client.get(fields="X-Request-Id: abc\r\n")
    assert rig.backend().fields[b"x-request-id"] != b"abc"
    rig.backend().ok()
    rig.over()
    assert len(rig.log) == 3


def test_tls_is_told(rig: Rig) -> None:
    rig.connect(tls=True).get()
    fields = rig.backend().fields
    assert fields[b"x-forwarded-proto"] == b"https"
    assert fields[b"forwarded"].endswith(b";proto=https")
    rig.backend().ok()
    rig.over([200])


def test_an_ipv6_client(rig: Rig) -> None:
    rig.connect("2001:db8::1").get()
    fields = rig.backend().fields
    assert fields[b"x-forwarded-for"] == b"2001:db8::1"
    assert fields[b"forwarded"].startswith(b'for="[2001:db8::1]";')
    rig.backend().ok()
    rig.over([200])


def test_each_request_of_a_connection_has_its_own_host(rig: Rig) -> None:
    for host in ("a.example", "b.example:8080", "a.example"):
        rig.client.get(host=host)
        fields = rig.backend().fields
        assert fields[b"host"] == fields[b"x-forwarded-host"] == host.encode()
        rig.backend().ok()
    rig.client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    fields = rig.backend().fields
    # The one before it had a Host, this one has none.
    assert fields[b"host"] == b"10.0.0.1:8000"
    assert b"a.example" not in fields[b"forwarded"]
    assert fields[b"x-forwarded-host"] == b""
    rig.backend().ok()
    rig.over([200] * 4)


def test_an_absolute_target_of_http_1_0_says_the_host(rig: Rig) -> None:
    rig.serve(topology(routes=[Route(path="/", service="web", host="a.example")]))
    rig.client.send(b"GET http://A.example/x?y HTTP/1.0\r\n\r\n")
    backend = rig.backend()
    assert backend.sent.startswith(b"GET /x?y HTTP/1.1\r\n")
    fields = backend.fields
    assert fields[b"host"] == fields[b"x-forwarded-host"] == b"A.example"
    backend.ok()
    rig.over([200])


@pytest.mark.parametrize(
    ("target", "origin"),
    [
        (b"http://a.example", b"/"),
        (b"http://A.EXAMPLE:80/", None),
        (b"http://a.example?q=1", b"/?q=1"),
        (b"https://a.example/x%2fy", b"/x%2fy"),
    ],
)
def test_absolute_form(rig: Rig, target: bytes, origin: bytes | None) -> None:
    rig.client.send(b"GET " + target + b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
    if origin is None:
        assert rig.client.answer().status == 400
        rig.over([400])
        return
    assert rig.backend().request.startswith(b"GET " + origin + b" HTTP/1.1\r\nHost: a.example\r\n")
    rig.backend().ok()
    rig.over([200])


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a/b?c=d&e",
        b"/%41%7e?%zz=%",
        b"/a;b=c,d",
        b"/?",
        b"/a?b?c#".rstrip(b"#"),
        b"//a",
        b"/a//b",
        b"/x?a=%2e%2e/../b",
        b"/" + b"a" * 5000,
    ],
    ids=lambda t: repr(t[:20]),
)
def test_targets_go_on_byte_for_byte(rig: Rig, target: bytes) -> None:
    rig.client.send(b"GET " + target + b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert rig.backend().request.split(b" ")[1] == target
    rig.backend().ok()
    rig.over([200])
    assert rig.log[0]["target"] == target.decode()[:1024]


@pytest.mark.parametrize(
    ("target", "stripped"),
    [
        (b"/api/ivor", b"/"),
        (b"/api/ivor/", b"/"),
        (b"/api/ivor?x=1", b"/?x=1"),
        (b"/api/ivor/a%20b?x=/api/ivor", b"/a%20b?x=/api/ivor"),
        (b"/%61pi/ivor/a/", b"/a/"),
        (b"/api/ivor/api/ivor", b"/api/ivor"),
    ],
)
def test_a_prefix_is_stripped(rig: Rig, target: bytes, stripped: bytes) -> None:
    rig.serve(topology(routes=[Route(path="/api/ivor/", service="web", strip=True)]))
    rig.client.send(b"GET " + target + b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert rig.backend().request.startswith(b"GET " + stripped + b" HTTP/1.1\r\n")
    rig.backend().ok()
    rig.over([200])
    # The log tells what the client asked for.
    assert rig.log[0]["target"] == target.decode()


def test_host_may_be_rewritten(rig: Rig) -> None:
    rig.serve(topology(services=[service(host="rewrite")]))
    rig.client.get()
    fields = rig.backend().fields
    assert (fields[b"host"], fields[b"x-forwarded-host"]) == (b"10.0.0.1:8000", b"a.example")
    rig.backend().ok()
    rig.over([200])


def test_a_trace_is_continued_or_begun(rig: Rig) -> None:
    trace = b"4bf92f3577b34da6a3ce929d0e0e4736"
    rig.client.get(
        fields=f"traceparent: 00-{trace.decode()}-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n"
    )
    fields = rig.backend().fields
    assert fields[b"traceparent"].startswith(b"00-" + trace + b"-")
    assert b"00f067aa0ba902b7" not in fields[b"traceparent"]
    assert fields[b"tracestate"] == b"a=b"
    rig.backend().ok()
    assert rig.log[0]["trace"].encode() == trace
    rig.client.get(fields="traceparent: nonsense\r\n")
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", rig.backend().fields[b"traceparent"])
    rig.backend().ok()
    rig.over([200, 200])


def test_security_fields_are_added_where_the_backend_says_nothing(rig: Rig) -> None:
    profile = SecurityProfile(
        name="page",
        fields=(("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer")),
        tls_fields=(("Strict-Transport-Security", "max-age=300"),),
    )
    rig.serve(
        topology(routes=[Route(path="/", service="web", security="page")], profiles=[profile])
    )
    rig.client.get()
    rig.backend().ok(fields="x-frame-options: SAMEORIGIN\r\n")
    answer = rig.client.answer()
    assert answer.all(b"x-frame-options") == [b"SAMEORIGIN"]
    assert answer.all(b"referrer-policy") == [b"no-referrer"]
    assert answer.field(b"strict-transport-security") is None
    rig.connect(tls=True).get()
    rig.backend().ok()
    assert rig.client.answer().field(b"strict-transport-security") == b"max-age=300"
    rig.over([200, 200])


def test_the_release_is_told(rig: Rig) -> None:
    rig.serve(moved=traffic(release="r-42"))
    rig.client.get()
    assert rig.backend().fields[b"x-release-id"] == b"r-42"
    rig.backend().ok()
    rig.over([200])


def test_cookies_of_the_gateway_are_its_own(rig: Rig) -> None:
    cookie = "gw_cohort=AAAAAAAAAAAAAAAAAAAAAA; a=1; gw_override=x; b=2"
    rig.client.get(fields=f"Cookie: {cookie}\r\n")
    assert rig.backend().fields[b"cookie"] == b"a=1; b=2"
    rig.backend().ok()
    rig.client.get(fields="Cookie: gw_cohort=AAAAAAAAAAAAAAAAAAAAAA\r\n")
    assert b"cookie" not in rig.backend().fields
    rig.backend().ok()
    rig.client.get(fields="Cookie: a=1\r\nCookie: gw_cohort=x; c=3\r\n")
    assert rig.backend().fields[b"cookie"] == b"a=1; c=3"
    rig.backend().ok()
    rig.over([200] * 3)


def test_repeated_fields_keep_their_order(rig: Rig) -> None:
    rig.client.get(fields="X-A: 1\r\nx-b: 2\r\nX-A: 3\r\n")
    head = rig.backend().request
    assert b"X-A: 1\r\nx-b: 2\r\nX-A: 3\r\n" in head
    rig.backend().ok(fields="Set-Cookie: a=1\r\nX: y\r\nSet-Cookie: b=2\r\n")
    assert rig.client.answer().all(b"set-cookie") == [b"a=1", b"b=2"]
    rig.over([200])


def test_the_endpoints_authority_leaves_the_default_port_out(rig: Rig) -> None:
    rig.serve(
        topology(
            services=[service(host="rewrite")],
            pools=[pool("web", "blue", endpoint(0, host="2001:db8::5", port=80))],
        )
    )
    rig.client.get()
    assert rig.backend().fields[b"host"] == b"[2001:db8::5]"
    rig.backend().ok()
    rig.over([200])


def test_the_state_of_a_trace_goes_on_with_its_trace_alone(rig: Rig) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    rig.client.get(fields=f"traceparent: {parent}\r\ntracestate: a=1\r\n")
    assert rig.backend().fields[b"tracestate"] == b"a=1"
    rig.backend().ok()
    rig.client.answer()
    rig.client.get(fields="traceparent: nonsense\r\ntracestate: a=1\r\n")
    assert b"tracestate" not in rig.backend().fields
    rig.backend().ok()
    rig.over([200, 200])


def test_ipv4_on_a_dual_stack_socket_is_told_as_ipv4(rig: Rig) -> None:
    rig.connect("::ffff:192.0.2.7").get()
    assert rig.backend().fields[b"x-forwarded-for"] == b"192.0.2.7"
    rig.backend().ok()
    rig.over([200])


def test_an_answer_without_a_date_is_given_one(rig: Rig) -> None:
    rig.client.get()
    rig.backend().ok()
    date = rig.client.answer().field(b"date")
    assert date is not None
    assert parsedate_to_datetime(date.decode()).timestamp() == int(EPOCH)
    rig.client.get()
    rig.backend().ok(fields="Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n")
    assert rig.client.answers()[-1].all(b"date") == [b"Thu, 01 Jan 1970 00:00:00 GMT"]
    rig.over([200, 200])


def test_an_answer_of_ours_has_a_date(rig: Rig) -> None:
    rig.client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(rig.client.answer().all(b"date")) == 1
    rig.connect().send(b"GET /../x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(rig.client.answer().all(b"date")) == 1


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("TE: trailers", True),
        ("TE: gzip;q=0.5, Trailers", True),
        ("TE: gzip\r\nTE: trailers", True),
        ("TE: xtrailers", False),
        ("TE: gzip", False),
    ],
)
def test_of_te_only_trailers_is_passed_on(rig: Rig, sent: str, told: bool) -> None:
    rig.client.get(fields=f"{sent}\r\n")
    fields = rig.backend().fields
    assert fields.get(b"te") == (b"trailers" if told else None)
    rig.backend().ok()
    rig.over([200])
