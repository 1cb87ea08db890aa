"""What is refused: with which status, and whether the connection goes on."""

from __future__ import annotations

import orjson
import pytest

from gateway.config.snapshot import Limits, Route
from tests.support.rig import Rig, service, topology

HOST = b"Host: a.example\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST

#: What came, its status, the kind.
BROKEN = [
    (b"GET / HTTP/1.1\r\n\r\n", 400, "bad-request"),
    (GET + HOST + b"\r\n", 400, "bad-request"),
    (b"GET / HTTP/1.1\r\nHost: \r\n\r\n", 400, "bad-request"),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "bad-request"),
    (b"GET / HTTP/1.1\r\nHost: u@a.example\r\n\r\n", 400, "bad-request"),
    (GET + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400, "bad-request"),
    (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400, "bad-request"),
    (GET + b"Content-Length: +1\r\n\r\nx", 400, "bad-request"),
    (GET + b"Content-Length: 1, 1\r\n\r\nx", 400, "bad-request"),
    (GET + b"Content-Length: 18446744073709551621\r\n\r\nx", 400, "bad-request"),
    (
        GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad-request",
    ),
    (b"GET / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", 400, "bad-request"),
    (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "bad-request"),
    (GET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad-request"),
    (GET + b"X: a\r\n b\r\n\r\n", 400, "bad-request"),
    (GET + b"X : a\r\n\r\n", 400, "bad-request"),
    (GET + b"X: a\x00b\r\n\r\n", 400, "bad-request"),
    (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400, "bad-request"),
    (GET + b"X: a\n\r\n", 400, "bad-request"),
    (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET /\x80 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET /a/../b HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET /a/%2e%2E/b HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET /%zz HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET http://b.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET http://a.example:81/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET ftp://a.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505, "bad-request"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "bad-request"),
    (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505, "bad-request"),
    (b"GET / HTXP/1.1\r\n" + HOST + b"\r\n", 400, "bad-request"),
    (GET + b"Expect: 200-ok\r\n\r\n", 417, "bad-request"),
    (b"X" * 33 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "bad-request"),
    (GET + b"A: b\r\n" * 120 + b"\r\n", 431, "head-too-large"),
    (GET + b"A: " + b"b" * 3000 + b"\r\n\r\n", 431, "head-too-large"),
    (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "target-too-long"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad-request"),
    (b"CONNECT b.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501, "method"),
    (b"CONNECT /a HTTP/1.1\r\n" + HOST + b"\r\n", 501, "method"),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 101\r\n\r\nx", 413, "body-too-large"),
    (
        b"POST /none HTTP/1.1\r\nHost: b.example\r\nContent-Length: 3\r\n\r\nGET",
        404,
        "no-route",
    ),
]


@pytest.mark.parametrize(("data", "status", "kind"), BROKEN, ids=[repr(b[0][:40]) for b in BROKEN])
def test_what_is_refused_ends_the_connection(rig: Rig, data: bytes, status: int, kind: str) -> None:
    rig.serve(
        topology(
            routes=[Route(path="/", service="web", host="a.example", body_limit=100)],
            limits=Limits(head=2048),
        )
    )
    # Whatever follows is never taken for a request.
    rig.client.send(data + b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n")
    answer = rig.client.answer()
    assert answer.status == status
    assert answer.field(b"x-gateway-error") == kind.encode()
    assert answer.field(b"connection") == b"close"
    assert answer.field(b"cache-control") == b"no-store"
    assert answer.field(b"content-type") == b"application/problem+json"
    problem = orjson.loads(answer.body)
    assert (problem["type"], problem["status"]) == (f"urn:gateway:error:{kind}", status)
    assert rig.client.received == b""
    assert rig.dialling == 0
    rig.advance(2.5)
    assert rig.client.closed
    assert rig.log[0]["error"] == kind
    rig.over([status])


@pytest.mark.parametrize(
    "chunks",
    [b"x\r\n", b"+1\r\na", b" 1\r\na", b"1 \r\na", b"0x1\r\na", b"1\nab", b"1\r\nabc", b"f" * 17],
    ids=repr,
)
def test_a_broken_chunk_is_400_and_cuts_the_backend_off(rig: Rig, chunks: bytes) -> None:
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    rig.client.send(head + b"2\r\nok\r\n")
    backend = rig.backend()
    rig.client.send(chunks + b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert rig.client.answer().status == 400
    assert rig.client.received == b""
    assert backend.cut
    assert b"smuggled" not in backend.sent
    assert not backend.sent.endswith(b"0\r\n\r\n")
    rig.over([400])


def test_content_that_grows_past_the_limit_is_413(rig: Rig) -> None:
    rig.serve(topology(routes=[Route(path="/", service="web", body_limit=4)]))
    rig.client.send(
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n"
    )
    backend = rig.backend()
    rig.client.send(b"1\r\ne\r\n0\r\n\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (413, b"body-too-large")
    assert backend.cut
    rig.over([413])


def test_content_of_exactly_the_limit_passes(rig: Rig) -> None:
    rig.serve(topology(routes=[Route(path="/", service="web", body_limit=4)]))
    rig.client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nabcd")
    rig.backend().ok()
    rig.over([200])


def test_a_head_of_exactly_the_limit_passes(rig: Rig) -> None:
    head = GET + b"\r\n"
    for limit, status in ((len(head), 200), (len(head) - 1, 431)):
        rig.serve(topology(limits=Limits(head=limit)))
        rig.connect().send(head)
        if status == 200:
            rig.backend().ok()
        assert rig.client.answer().status == status
    rig.over([200, 431])


def test_no_route_goes_on_where_there_is_no_content(rig: Rig) -> None:
    rig.serve(topology(routes=[Route(path="/api", service="web")]))
    rig.client.get("/apix").get("/api/x")
    rig.backend().ok()
    answers = rig.client.answers()
    assert [a.status for a in answers] == [404, 200]
    assert answers[0].field(b"connection") is None
    rig.over([404, 200])


def test_a_refusal_of_head_has_no_content(rig: Rig) -> None:
    rig.serve(topology(routes=[Route(path="/api", service="web")]))
    rig.client.send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
    answer = rig.client.answer(to_head=True)
    assert answer.status == 404
    assert rig.client.received == b""
    # The next one, which is none, gets its own content again.
    rig.client.send(b"@\r\n\r\n")
    assert orjson.loads(rig.client.answer().body)["status"] == 400
    rig.over([404, 400])


def test_refusals_to_http_1_0(rig: Rig) -> None:
    rig.serve(topology(routes=[Route(path="/api", service="web")]))
    rig.client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert rig.client.answer().field(b"connection") == b"keep-alive"
    rig.client.send(b"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert rig.client.answer().field(b"connection") == b"keep-alive"
    rig.client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert rig.client.answer().field(b"connection") == b"close"
    assert rig.client.closed
    rig.over([404, 204, 404])


def test_what_the_gateway_says_of_the_backend_stays_in_the_log(rig: Rig) -> None:
    rig.client.get()
    rig.refuses()
    answer = rig.client.answer()
    assert answer.status == 502
    assert b"refused" not in answer.body
    rig.over([502])


def test_the_machines_bound_on_a_service(rig: Rig) -> None:
    rig.serve(topology(services=[service(max_in_flight=2)]))
    for _ in range(3):
        rig.connect().get()
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (503, b"overload")
    assert answer.field(b"retry-after") == b"1"
    assert rig.client.open
    assert rig.dialling == 2
    first = rig.accept().ok()
    rig.client.get()
    first.ok()
    assert rig.client.answer().status == 200
    rig.accept().ok()
    rig.over([503, 200, 200, 200])


def test_connections_over_the_machines_bound_are_closed_at_once(rig: Rig) -> None:
    rig.serve(topology(limits=Limits(connections=2)))
    first, second, third = rig.connect(), rig.connect(), rig.connect()
    assert first.open
    assert second.open
    assert third.closed
    told = third.answer()
    assert (told.status, told.field(b"retry-after")) == (503, b"1")
    # Control's own checks know it by this: no request was read, so that it is about no color.
    assert (told.field(b"x-gateway-error"), told.field(b"x-request-id")) == (b"overload", None)
    first.leaves()
    assert rig.connect().open
    rig.over([])
