"""Backends that misbehave: resets, lies, garbage, answers that nobody asked for."""

from __future__ import annotations

import pytest

from gateway.board import layout
from tests.support.rig import Rig

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


def _used(rig: Rig) -> None:
    """Leave one connection that has served already."""
    rig.client.get()
    rig.backend().ok()
    rig.backend().take()
    assert rig.client.answer().status == 200


def test_a_reset_before_the_answer_is_502(rig: Rig) -> None:
    rig.client.get()
    rig.backend().resets()
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"reset")
    assert rig.dialling == 0
    assert rig.client.open
    assert rig.cell(0, layout.ENDPOINT_FAILURES) == 1
    rig.over([502])


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_reset_on_a_reused_connection_is_tried_again_on_a_fresh_one(
    rig: Rig, method: str
) -> None:
    _used(rig)
    rig.client.send(f"{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
    first = rig.backend()
    request = first.take()
    first.resets()
    assert rig.client.received == b""
    assert rig.dialling == 1
    assert rig.backend().sent == request
    rig.backend().answers(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert rig.client.answer().status == 204
    # It was the gateway's own guess about the connection that was wrong.
    assert rig.cell(0, layout.ENDPOINT_FAILURES) == 0
    rig.over([200, 204])


def test_it_is_tried_again_once_only(rig: Rig) -> None:
    _used(rig)
    rig.client.get()
    rig.backend().resets()
    rig.backend().resets()
    assert rig.dialling == 0
    assert rig.client.answer().status == 502
    rig.over([200, 502])


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"PATCH / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nok",
        b"PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_request_that_may_not_be_sent_twice_is_not(rig: Rig, request_: bytes) -> None:
    _used(rig)
    rig.client.send(request_)
    rig.backend().resets()
    assert rig.dialling == 0
    assert rig.client.answer().status == 502
    rig.over([200, 502])


def test_a_reset_after_some_of_the_answer_is_not_tried_again(rig: Rig) -> None:
    _used(rig)
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200")
    rig.backend().resets()
    assert rig.dialling == 0
    assert rig.client.answer().status == 502
    rig.over([200, 502])


def test_a_backend_that_ended_its_idle_connection_is_not_sent_a_request(rig: Rig) -> None:
    _used(rig)
    first = rig.backend()
    first.ends()
    assert first.closed
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert rig.dialling == 1
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([200, 200])


def test_a_request_in_the_same_turn_as_the_end_of_an_idle_connection(rig: Rig) -> None:
    """Between its end of sending and its loss a connection must not be taken."""
    _used(rig)
    first = rig.backend()
    assert not first.connection.eof_received()
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert rig.dialling == 1
    rig.backend().ok()
    first.transport.close()
    rig.soon.run()
    rig.over([200, 200])


def test_a_connection_that_is_lost_as_soon_as_it_is_made(rig: Rig) -> None:
    rig.client.get()
    dial = rig.core.dials[0]
    backend = rig.meet(dial)
    backend.resets()
    rig.introduce(dial, backend)
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"connect")
    rig.over([502])


@pytest.mark.parametrize("body", [b"", b"half"])
def test_an_answer_shorter_than_it_says_is_cut(rig: Rig, body: bytes) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + body)
    rig.backend().ends()
    assert rig.client.cut
    assert rig.client.received.endswith(b"\r\n\r\n" + body)
    assert rig.log[0]["error"] == "truncated"
    rig.over([200])


def test_a_chunked_answer_without_its_end_is_cut(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    rig.backend().ends()
    assert rig.client.cut
    assert b"0\r\n\r\n" not in rig.client.received
    rig.over([200])


def test_http_1_0_clients_see_a_cut_too(rig: Rig) -> None:
    rig.client.send(b"GET / HTTP/1.0\r\n\r\n")
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    rig.backend().ends()
    assert rig.client.cut
    rig.over([200])


def test_an_answer_longer_than_it_says_is_never_passed_on(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n")
    answer = rig.client.answer()
    # In one read it is a lie that is seen; else what follows comes over an idle connection.
    assert answer.status == (200 if rig.octets else 502)
    assert rig.client.received == b""
    assert rig.backend().cut
    rig.client.get()
    assert rig.dialling == 1
    rig.backend().ok()
    assert rig.client.answer().body == b"ok"
    rig.over([answer.status, 200])


def test_octets_behind_the_last_chunk_never_reach_the_next_answer(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + b"body"
    )
    assert rig.backend().cut
    if rig.octets:
        assert rig.client.answer().status == 200
        assert rig.client.received == b""
    else:
        assert rig.client.closed  # the head has gone out already
    rig.over([200])


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 431 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
def test_content_that_may_not_be_is_left_out_and_opens_no_breaker(
    rig: Rig, method: str, head: bytes
) -> None:
    """A client asks for HEAD, or with a condition, as often as it likes (RFC 9110 section 6.4.1).

    The backend that breaks the rule is right about all else. Its connection ends there: what came
    behind the head is nobody's answer.
    """
    rig.client.send(f"{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
    rig.backend().answers(head + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    status = int(head[9:12])
    assert rig.client.answer(to_head=method == "HEAD").status == status
    assert rig.client.received == b""
    assert rig.client.open
    assert not rig.backend().open
    assert rig.cell(0, layout.ENDPOINT_FAILURES) == 0
    rig.client.get()
    assert rig.dialling == 1
    rig.backend().ok(b"fine")
    assert rig.client.answer().body == b"fine"
    rig.over([status, 200])


def test_an_answer_nobody_asked_for_is_thrown_away_with_its_connection(rig: Rig) -> None:
    _used(rig)
    first = rig.backend()
    first.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    assert first.cut
    rig.client.get()
    assert rig.dialling == 1
    rig.backend().ok(b"fine")
    assert rig.client.answer().body == b"fine"
    rig.over([200, 200])


def test_an_answer_before_it_was_asked_for(rig: Rig) -> None:
    """A banner, as of a mail server: the connection is dropped before it is used."""
    rig.client.get()
    dial = rig.core.dials[0]
    backend = rig.meet(dial)
    backend.answers(b"220 mail.example ESMTP\r\n")
    assert backend.cut
    rig.introduce(dial, backend)
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"connect")
    rig.over([502])


GARBAGE = [
    b"hello\r\n\r\n",
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\nA: b\n\n",
    b"HTTP/1.1 200 OK\r\nA b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
    b"\x16\x03\x01",
]


@pytest.mark.parametrize("data", GARBAGE, ids=[repr(g[:50]) for g in GARBAGE])
def test_an_answer_that_cannot_be_understood_is_502(rig: Rig, data: bytes) -> None:
    rig.client.get()
    rig.backend().answers(data)
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"bad-answer")
    assert rig.client.received == b""
    assert rig.backend().cut
    assert rig.client.open
    rig.over([502])


@pytest.mark.parametrize("chunk", [b"x\r\n", b"-1\r\n", b"1\r\nabc\r\n", b"1\nab\r\n"])
def test_a_broken_chunk_cuts_the_answer(rig: Rig, chunk: bytes) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    rig.backend().answers(chunk)
    assert rig.client.cut
    assert rig.backend().cut
    assert rig.log[0]["error"] == "bad-answer"
    rig.over([200])


def test_101_that_was_not_asked_for_is_502(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert rig.client.answer().status == 502
    assert rig.backend().cut
    rig.over([502])


def test_a_backend_that_says_close_is_not_used_again(rig: Rig) -> None:
    rig.client.get()
    rig.backend().ok(fields="Connection: close\r\n")
    answer = rig.client.answer()
    assert answer.field(b"connection") is None
    assert rig.backend().closed
    assert rig.client.open
    rig.client.get()
    assert rig.dialling == 1
    rig.backend().ok()
    rig.over([200, 200])


def test_a_backend_of_http_1_0_is_used_again_only_where_it_says_so(rig: Rig) -> None:
    rig.client.get()
    rig.backend().answers(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert rig.client.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rig.backend().closed
    rig.client.get()
    rig.backend().answers(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
    assert rig.backend().open
    rig.over([200, 200])


def test_two_clients_never_share_a_connection_at_once(rig: Rig) -> None:
    one, two = rig.connect(), rig.connect()
    one.get("/1")
    two.get("/2")
    first, second = rig.accept(), rig.accept()
    assert first.request.startswith(b"GET /1 ")
    assert second.request.startswith(b"GET /2 ")
    second.ok(b"2")
    first.ok(b"1")
    assert (one.answer().body, two.answer().body) == (b"1", b"2")
    rig.over([200, 200])
