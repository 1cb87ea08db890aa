"""Request smuggling through the whole data plane: every published family, by its name and source.

``tests/wire/test_wire_smuggling.py`` has the shapes one by one as the parser sees them. Here each
family is played against the gateway with a backend behind it, as it is written and octet by octet:
either it is refused and not an octet reaches a backend, or the backend is sent exactly the one
request that was meant, framed anew, and what lies behind is the next request or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11
import pytest

from tests.support.rig import Rig

SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: a.example\r\nX: "


@dataclass(frozen=True, slots=True)
class Vector:
    """``source``: where it was published. ``statuses``: what a refusal may be."""

    source: str
    data: bytes
    statuses: tuple[int, ...] = (400,)


def _post(*lines: str | bytes, body: bytes = SMUGGLED, version: str = "1.1") -> bytes:
    encoded = [line if isinstance(line, bytes) else line.encode("latin-1") for line in lines]
    head = [f"POST / HTTP/{version}".encode(), b"Host: a.example", *encoded]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


WATCHFIRE = "Linhart, Klein, Heled, Orrin: HTTP Request Smuggling (2005)"
KETTLE_2019 = "Kettle: HTTP Desync Attacks (2019)"
KETTLE_2022 = "Kettle: Browser-Powered Desync Attacks (2022)"
KETTLE_2025 = "Kettle: HTTP/1.1 Must Die (2025)"
TRENCH = "Jeppe Bonde Weikop: Funky Chunks (2025)"
TREQS = "Jabiyev and others: T-Reqs (2021)"
GUDIFU = "Kallus and others: HTTP Garden (2024)"

REFUSED: dict[str, Vector] = {
    "CL.TE": Vector(
        KETTLE_2019,
        _post("Content-Length: 49", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    ),
    "TE.CL": Vector(
        KETTLE_2019,
        _post("Transfer-Encoding: chunked", "Content-Length: 4", body=b"5c\r\n" + SMUGGLED),
    ),
    "CL.CL": Vector(WATCHFIRE, _post("Content-Length: 0", "Content-Length: 44")),
    "CL.CL, alike": Vector(WATCHFIRE, _post("Content-Length: 44", "Content-Length: 44")),
    "CL.CL in a list": Vector("CVE-2023-25690 and RFC 9112 6.3", _post("Content-Length: 0, 44")),
    "TE.TE, cow": Vector(
        KETTLE_2019, _post("Transfer-Encoding: chunked", "Transfer-encoding: cow")
    ),
    "TE.TE, a blank before the colon": Vector(
        "CVE-2019-16869 (Netty)", _post("Transfer-Encoding : chunked", "Content-Length: 4")
    ),
    "TE.TE, xchunked": Vector(KETTLE_2019, _post("Transfer-Encoding: xchunked")),
    "TE.TE, a tab in front of the name": Vector(
        KETTLE_2019, _post("X: y", "\tTransfer-Encoding: chunked")
    ),
    "TE.TE, a bare line feed": Vector(
        KETTLE_2019, _post(b"X: y\nTransfer-Encoding: chunked", "Content-Length: 4")
    ),
    "TE.TE, a bare carriage return": Vector(
        "CVE-2023-30589 (Node.js)", _post(b"X: y\rTransfer-Encoding: chunked", "Content-Length: 4")
    ),
    "TE.TE, folded": Vector(
        "CVE-2022-32215 (Node.js)", _post("Transfer-Encoding: chunked", " , identity")
    ),
    "TE.TE, identity": Vector(
        "CVE-2022-24766 (mitmproxy)", _post("Transfer-Encoding: chunked, identity")
    ),
    "TE.TE, identity alone": Vector("RFC 2616 4.4", _post("Transfer-Encoding: identity")),
    "TE.TE, a control in the value": Vector(
        "CVE-2021-40346 and HAProxy's errata", _post(b"Transfer-Encoding: \x0bchunked")
    ),
    "an unknown coding": Vector(
        "RFC 9112 6.1", _post("Transfer-Encoding: gzip, chunked"), (501, 400)
    ),
    "TE in HTTP/1.0": Vector(
        "RFC 9112 6.1; CVE-2020-11724",
        _post("Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED, version="1.0"),
    ),
    "a length with a sign": Vector("CVE-2022-32214 and others", _post("Content-Length: +44")),
    "a length of 2**64 + 5": Vector(
        "CVE-2021-40346 (HAProxy)", _post("Content-Length: 18446744073709551621")
    ),
    "a length with an underscore": Vector(GUDIFU, _post("Content-Length: 4_4")),
    "a length with nothing": Vector(GUDIFU, _post("Content-Length:")),
    "0.CL, a length behind a blank": Vector(KETTLE_2025, _post("Content-Length : 44")),
    "0.CL, a length that is folded": Vector(KETTLE_2025, _post("Content-Length:", " 44")),
    "0.CL, a hidden name": Vector(KETTLE_2025, _post("X: y", " Content-Length: 44")),
    "CL.0, obfuscated expectation": Vector(
        KETTLE_2025, _post("Expect: y 100-continue", "Content-Length: 44"), (400, 417)
    ),
    "CL.0, an expectation in a list": Vector(
        KETTLE_2025, _post("Expect: 100-continue, x", "Content-Length: 44"), (400, 417)
    ),
    "two hosts": Vector(WATCHFIRE, b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b\r\n\r\n"),
    "host against an absolute target": Vector(
        "Chen and others: Host of Troubles (2016)",
        b"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ),
    "a host with a path": Vector(
        "Chen and others: Host of Troubles (2016)", b"GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n"
    ),
    "a field without a name": Vector(GUDIFU, _post(": x", "Content-Length: 44")),
    "a line without a colon": Vector(TREQS, _post("Content-Length 44", "X: y")),
    "NUL in a name": Vector("CVE-2023-25725 (HAProxy) and T-Reqs", _post(b"Content-Length\0: 44")),
    "an empty name": Vector("CVE-2023-25725 (HAProxy)", _post(":", "Content-Length: 44")),
    "the version of HTTP/2's preface": Vector(
        "h2c by prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)
    ),
    "a request line that ends in a line feed": Vector(
        GUDIFU, b"GET / HTTP/1.1\nHost: a.example\r\n\r\n"
    ),
    "a request line of HTTP/0.9": Vector(WATCHFIRE, b"GET /\r\n\r\n", (400, 505)),
}

#: A chunked body, broken: the head has gone to the backend, which is cut off then.
CHUNKS: dict[str, Vector] = {
    "TERM.EXT": Vector(TRENCH, b"2;\nxx\r\n2e\r\n0\r\n\r\n" + SMUGGLED),
    "EXT.TERM": Vector(TRENCH, b"2;a\nxx\r\n2e\r\n0\r\n\r\n" + SMUGGLED),
    "SPILL.TERM": Vector(TRENCH, b"5\r\nAAAAAXX2e\r\n0\r\n\r\n" + SMUGGLED),
    "TERM.SPILL": Vector(TRENCH, b"5\r\nAAAAAX\r\n2e\r\n0\r\n\r\n" + SMUGGLED),
    "ONE.TWO": Vector(TRENCH, b"5\r\nAAAAA\r\r\n0\r\n\r\n" + SMUGGLED),
    "ZERO.TWO": Vector(TRENCH, b"5\r\nAAAAA0\r\n\r\n" + SMUGGLED),
    "a bare line feed behind a size": Vector("CVE-2024-1135 and others", b"0\n\r\n" + SMUGGLED),
    "a quoted line end in an extension": Vector(TRENCH, b'1;a="\r\n"\r\nx\r\n0\r\n\r\n'),
    "a size that overflows": Vector(
        "CVE-2013-2028 (nginx) and others", b"10000000000000005\r\nAAAAA\r\n0\r\n\r\n"
    ),
    "a negative size": Vector("CVE-2013-2028 (nginx)", b"-1\r\nAAAAA\r\n0\r\n\r\n"),
    "a size of ffffffffffffffff": Vector("CVE-2013-2028 (nginx)", b"ffffffffffffffff\r\nA"),
    "a size with 0x": Vector("CVE-2022-24801 (Twisted)", b"0x5\r\nAAAAA\r\n0\r\n\r\n"),
    "a size with a sign": Vector("CVE-2022-24801 (Twisted)", b"+5\r\nAAAAA\r\n0\r\n\r\n"),
    "a size with an underscore": Vector("CVE-2022-24801 (Twisted)", b"0_5\r\nAAAAA\r\n0\r\n\r\n"),
    "a blank behind a size": Vector(GUDIFU, b"5 \r\nAAAAA\r\n0\r\n\r\n"),
    "a request for trailers": Vector("CVE-2024-52304 (aiohttp)", b"0\r\n" + SMUGGLED + b"\r\n\r\n"),
    "a folded trailer": Vector(GUDIFU, b"0\r\na: b\r\n Content-Length: 5\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_smuggler_is_refused_and_nothing_goes_on(rig: Rig, name: str) -> None:
    vector = REFUSED[name]
    rig.client.send(vector.data)
    answer = rig.client.answer()
    assert answer.status in vector.statuses
    assert answer.field(b"connection") == b"close"
    assert rig.dialling == 0
    assert not rig.backends
    # Whatever follows on the connection is nobody's.
    if not rig.client.closed:
        rig.client.send(b"\r\n\r\nGET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert rig.client.received == b""
    assert rig.dialling == 0
    rig.over([answer.status])


@pytest.mark.parametrize("name", CHUNKS)
def test_a_broken_body_cuts_both_sides(rig: Rig, name: str) -> None:
    rig.client.send(_post("Transfer-Encoding: chunked", body=b""))
    backend = rig.backend()
    rig.client.send(CHUNKS[name].data)
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"connection")) == (400, b"close")
    assert backend.cut
    assert b"/admin" not in backend.transport.sent
    # What went on never looks whole: no last chunk.
    assert b"0\r\n\r\n" not in backend.transport.sent
    rig.over([400])


def _requests(data: bytes) -> list[tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]]:
    """Have h11 read what a backend was sent: method, target, content and trailers of each."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    found = []
    method = target = payload = b""
    while True:
        event = server.next_event()
        if isinstance(event, h11.Request):
            method, target, payload = event.method, event.target, b""
        elif isinstance(event, h11.Data):
            payload += event.data
        elif isinstance(event, h11.EndOfMessage):
            trailers = [(key, value) for key, value in event.headers]
            found.append((method, target, payload, trailers))
        elif event is h11.PAUSED:
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            server.start_next_cycle()
        else:
            return found


MEANT: dict[str, tuple[str, bytes, bytes]] = {
    "CL.0, a GET with content": (
        KETTLE_2022,
        b"GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
        SMUGGLED,
    ),
    "CL.0, DELETE with content": (
        KETTLE_2022,
        b"DELETE / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
        SMUGGLED,
    ),
    "CL.0, a length that Connection names": (
        "CVE-2022-1388 and hop-by-hop abuse",
        _post(f"Content-Length: {len(SMUGGLED)}", "Connection: Content-Length", body=b""),
        SMUGGLED,
    ),
    "CL.0, content on an upgrade": (
        KETTLE_2022,
        _post(
            f"Content-Length: {len(SMUGGLED)}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            body=b"",
        ),
        SMUGGLED,
    ),
    "CL.0, content on an upgrade to h2c": (
        "Bishop Fox: h2c Smuggling (2020)",
        _post(
            f"Content-Length: {len(SMUGGLED)}",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            body=b"",
        ),
        SMUGGLED,
    ),
    "a name with an underscore": (
        "Regilero's errata of WSGI and CGI names",
        _post(f"Content-Length: {len(SMUGGLED)}", "Transfer_Encoding: chunked", body=b""),
        SMUGGLED,
    ),
}


@pytest.mark.parametrize("name", MEANT)
def test_content_stays_content(rig: Rig, name: str) -> None:
    _, head, body = MEANT[name]
    rig.client.send(head + body)
    backend = rig.backend()
    sent = bytes(backend.transport.sent)
    assert [request[2] for request in _requests(sent)] == [body]
    lowered = sent.partition(b"\r\n\r\n")[0].lower()
    for never in (b"\nupgrade:", b"http2-settings", b"transfer_encoding", b"transfer-encoding"):
        assert never not in lowered, never
    assert lowered.count(b"\ncontent-length:") == 1
    backend.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_te_0_options_in_chunks(rig: Rig) -> None:
    """TE.0 (Bugcrowd, 2024): a load balancer that sent chunks on without their framing field."""
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    rig.client.send(
        b"OPTIONS / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    )
    backend = rig.backend()
    requests = _requests(bytes(backend.transport.sent))
    assert [(method, payload) for method, _, payload, _ in requests] == [(b"OPTIONS", SMUGGLED)]
    backend.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


@pytest.mark.parametrize(
    "trailer",
    [
        b"Content-Length: 44",
        b"Transfer-Encoding: chunked",
        b"Host: b.example",
        b"Connection: close",
        b"X-Forwarded-For: 6.6.6.6",
        b"Authorization: Basic eDp5",
        b"Upgrade: h2c",
    ],
)
def test_trailers_that_frame_or_route_are_not_passed_on(rig: Rig, trailer: bytes) -> None:
    """RFC 9110 section 6.5.1; CVE-2023-46589 (Tomcat) and others read them as fields."""
    rig.client.send(
        _post(
            "Transfer-Encoding: chunked",
            body=b"1\r\nx\r\n0\r\nX-Sum: 1\r\n" + trailer + b"\r\n\r\n",
        )
    )
    if rig.dialling:
        backend = rig.backend()
        name = trailer.partition(b":")[0].lower()
        behind = bytes(backend.transport.sent).partition(b"\r\n\r\n")[2]
        assert name not in behind.lower()
        if not backend.cut:
            backend.ok()
    assert rig.client.answer().status in {200, 400}
    rig.over()


def test_what_is_pipelined_behind_a_refusal_is_nobodys(rig: Rig) -> None:
    rig.client.send(
        b"GET /one HTTP/1.1\r\nHost: a.example\r\n\r\n"
        b"GET /two HTTP/1.1\r\nHost: a.example\r\nHost: b\r\n\r\n"
        b"GET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n"
    )
    backend = rig.backend()
    assert [target for _, target, _, _ in _requests(bytes(backend.transport.sent))] == [b"/one"]
    backend.ok()
    assert [answer.status for answer in rig.client.answers()] == [200, 400]
    assert b"/admin" not in backend.transport.sent
    rig.over([200, 400])


def test_what_is_pipelined_behind_an_early_answer_is_nobodys(rig: Rig) -> None:
    """0.CL with an early answer (Kettle, 2025): content must not become the next request."""
    rig.client.send(_post("Content-Length: 1000", body=b""))
    backend = rig.backend()
    backend.ok(status=403)
    assert rig.client.answer().status == 403
    if not rig.client.closed:
        rig.client.send(SMUGGLED + b"\r\n\r\n")
    assert b"/admin" not in b"".join(bytes(each.transport.sent) for each in rig.backends)
    assert rig.dialling == 0
    rig.over([403])


def test_every_vector_names_its_source() -> None:
    for vector in (*REFUSED.values(), *CHUNKS.values()):
        assert vector.source
