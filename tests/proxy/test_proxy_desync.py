"""Two sides that lose count of each other: early answers, expectations, answers nobody asked for.

The families of "client-side", "pause-based" and "0.CL" desynchronisation (Kettle 2022 and 2025):
an answer is given before the content was read, and what follows is taken for a request, or for the
next answer. The promise: behind an answer that came early nothing on that connection is ever read
as a request, and a backend's connection whose request was not whole is not used again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.config.snapshot import (
    Endpoint,
    Fallback,
    Limits,
    RateLimit,
    Route,
    ServiceTraffic,
    Timeouts,
)
from tests.support.rig import Rig, pool, service, topology, traffic

SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n"


def _redirects(rig: Rig, folder: Path) -> str:
    del folder
    rig.core.redirects = {0: 443}
    return "/"


def _no_route(rig: Rig, folder: Path) -> str:
    del folder
    rig.serve(topology(routes=[Route(host="b.example", path="/", service="web")]))
    return "/"


def _challenges(rig: Rig, folder: Path) -> str:
    (folder / "token").write_bytes(b"token.digest")
    rig.serve(replace(topology(), acme_folder=str(folder)))
    return "/.well-known/acme-challenge/token"


def _status(rig: Rig, folder: Path) -> str:
    del rig, folder
    return "/.well-known/gateway/status"


def _limits(rig: Rig, folder: Path) -> str:
    del folder
    limit = RateLimit(count=1, period=1000.0, burst=0)
    rig.serve(topology(routes=[Route(path="/", service="web", rate_limits=(limit,))]))
    for _ in range(3):
        rig.client.get()
        if rig.dialling or (rig.backends and rig.backends[-1].open and rig.client.received == b""):
            rig.backend().ok()
        rig.client.answer()
    return "/"


def _maintenance(rig: Rig, folder: Path) -> str:
    del folder
    rig.serve(None, traffic(ServiceTraffic(service="web", stable="blue", maintenance=60)))
    return "/"


def _nobody(rig: Rig, folder: Path) -> str:
    """A fallback's file: GET with content is answered without a backend."""
    del folder
    static = Fallback(kind="static", type="application/json", file=0)
    no_one: tuple[Endpoint, ...] = ()
    rig.serve(
        topology(
            services=[service(fallbacks=(static,))],
            pools=[pool("web", "blue", *no_one), pool("web", "green", *no_one)],
            files=(b"{}",),
        )
    )
    return "/"


LOCAL: dict[str, Callable[[Rig, Path], str]] = {
    "the way to https": _redirects,
    "no route": _no_route,
    "a challenge": _challenges,
    "the public status": _status,
    "a limit": _limits,
    "maintenance": _maintenance,
    "a static fallback": _nobody,
}


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", LOCAL)
def test_content_of_what_is_answered_here_is_nobodys_request(
    rig: Rig, tmp_path: Path, how: str, method: str, late: bool
) -> None:
    """CL.0 in a browser's hands: every answer that the gateway makes without reading content."""
    target = LOCAL[how](rig, tmp_path)
    asked = len(rig.log)
    head = f"{method} {target} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {len(SMUGGLED)}\r\n"
    rig.client.send(head.encode() + b"\r\n")
    if late and not rig.client.closed:
        rig.client.answers()
    if not rig.client.closed:
        rig.client.send(SMUGGLED)
    if rig.client.open and rig.client.transport.eof_sent is False:
        # It has read the content: the next request is a request.
        rig.client.get("/.well-known/gateway/status")
    rig.advance(3.0)
    lines = rig.log[asked:]
    assert all(line["target"] in {target, "/.well-known/gateway/status"} for line in lines), lines
    assert b"/admin" not in b"".join(bytes(each.transport.sent) for each in rig.backends)
    assert rig.dialling == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_client_that_was_not_told_to_go_on(rig: Rig, answer: bytes) -> None:
    """Expect desync (Kettle, 2025): whether the content still comes is anybody's guess."""
    rig.client.send(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 40\r\n\r\n"
    )
    backend = rig.backend()
    backend.answers(answer)
    told = rig.client.answer()
    assert told.status == int(answer[9:12])
    assert told.field(b"connection") == b"close"
    assert backend.closed
    if not rig.client.closed:
        rig.client.send(SMUGGLED)
    rig.advance(3.0)
    assert len(rig.log) == 1
    assert rig.dialling == 0


def test_100_to_head_is_no_final_answer(rig: Rig) -> None:
    """Kettle, 2025: servers that forgot that the answer to come is one to HEAD."""
    rig.client.send(
        b"HEAD / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    backend = rig.backend()
    backend.answers(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert rig.client.answer().status == 100
    rig.client.send(b"ab")
    backend.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    assert rig.client.answer(to_head=True).status == 200
    rig.client.get("/next")
    backend.ok(b"next")
    assert rig.client.answer().body == b"next"
    rig.over([200, 200])


@pytest.mark.parametrize(
    "fields",
    [
        "Expect: 100-continue\r\nExpect: 100-continue\r\n",
        "Expect: 100-continue\r\nExpect: x\r\n",
        "Expect:\r\n",
        "Expect: \x0b100-continue\r\n",
        "Expect : 100-continue\r\n",
        " Expect: 100-continue\r\n",
        'Expect: "100-continue"\r\n',
        "Expect: 100-continue;q=1\r\n",
        "Expect: 100_continue\r\n",
    ],
)
def test_an_expectation_in_disguise_is_refused(rig: Rig, fields: str) -> None:
    """ "Vanilla" and "obfuscated" expectations that two servers read in two ways (Kettle, 2025)."""
    rig.client.send(
        f"POST / HTTP/1.1\r\nHost: a.example\r\n{fields}Content-Length: 40\r\n\r\n".encode(
            "latin-1"
        )
    )
    if rig.dialling:
        # One that is the same in all readings is passed on as one line.
        backend = rig.backend()
        assert bytes(backend.transport.sent).lower().count(b"expect:") <= 1
        backend.ok()
        assert rig.client.answer().status == 200
        return
    assert rig.client.answer().status in {400, 417}
    assert not rig.backends
    rig.over()


def test_content_that_comes_after_its_time_is_nobodys_request(rig: Rig) -> None:
    """Pause-based desync (Kettle, 2022): a head, silence until somebody gives up, then the rest."""
    timeouts = Timeouts(between_bytes=5.0, total=60.0)
    rig.serve(
        topology(limits=Limits(await_body=0, min_rate=0), services=[service(timeouts=timeouts)])
    )
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 200\r\n\r\n")
    backend = rig.backend()
    rig.advance(5.5)
    assert rig.client.answer().status == 408
    assert backend.cut
    if not rig.client.closed:
        rig.client.send(SMUGGLED)
    rig.advance(3.0)
    assert rig.client.closed
    assert rig.dialling == 0
    rig.over([408])


def test_a_backend_that_gives_up_first_is_not_asked_again_there(rig: Rig) -> None:
    """The same from the other side: the backend would take the rest for a request of its own."""
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 200\r\n\r\nab")
    backend = rig.backend()
    backend.answers(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    assert rig.client.answer().status == 408
    assert backend.closed
    if not rig.client.closed:
        rig.client.send(SMUGGLED)
    assert b"/admin" not in backend.transport.sent
    rig.connect().get("/other")
    assert rig.dialling == 1
    rig.backend().ok()
    rig.advance(3.0)
    rig.over([408, 200])


def test_answers_are_not_exchanged_by_one_too_many(rig: Rig) -> None:
    """Response queue poisoning: two answers to one request, the second for whoever comes next."""
    rig.client.get("/victim-of-nobody")
    backend = rig.backend()
    backend.ok(b"first")
    assert rig.client.answer().body == b"first"
    backend.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    other = rig.connect().get("/next")
    assert rig.dialling == 1
    rig.backend().ok(b"fine")
    assert other.answer().body == b"fine"
    rig.over([200, 200])


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0, 0\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n Content-Length: 0\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n",
    ],
)
def test_an_answer_with_two_readings_reaches_nobody(rig: Rig, head: str) -> None:
    rig.client.get()
    backend = rig.backend()
    backend.answers(head.encode() + b"\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert rig.client.answer().status == 502
    assert rig.client.received == b""
    assert backend.cut
    rig.over([502])


@pytest.mark.parametrize("lines", [[b"\r\n"], [b"\r", b"\n"], [b"\r\n\r\n\r", b"\n"]])
def test_empty_lines_before_a_request_buy_no_time(whole: Rig, lines: list[bytes]) -> None:
    """RFC 9112 section 2.2 has them ignored: the silence before a request is not broken by them."""
    whole.serve(topology(limits=Limits(header_timeout=4.0, idle_timeout=9.0)))
    whole.client.get()
    whole.backend().ok()
    assert whole.client.answer().status == 200
    seconds = 0
    while not whole.client.closed and seconds < 40:
        for each in lines:
            whole.client.send(each)
        whole.advance(1.0)
        seconds += 1
    assert 9 <= seconds <= 10
    assert whole.client.received == b""
    whole.over([200])


def test_a_request_behind_an_empty_line_has_its_own_time(whole: Rig) -> None:
    whole.serve(topology(limits=Limits(header_timeout=4.0, idle_timeout=9.0)))
    whole.client.send(b"\r")
    whole.advance(3.0)
    whole.client.send(b"\n")
    whole.advance(3.0)
    whole.client.send(b"GET / HTTP/1.1\r\n")
    whole.advance(3.0)
    whole.client.send(b"Host: a.example\r\n\r\n")
    whole.backend().ok()
    assert whole.client.answer().status == 200
    whole.over([200])


def test_empty_lines_without_end_take_no_room(whole: Rig) -> None:
    whole.serve(topology(limits=Limits(head=2048, min_rate=0, await_body=0)))
    for _ in range(100):
        whole.client.send(b"\r\n" * 5000 + b"\r")
        whole.client.send(b"\n")
    whole.client.get()
    whole.backend().ok()
    assert whole.client.answer().status == 200
    whole.over([200])
