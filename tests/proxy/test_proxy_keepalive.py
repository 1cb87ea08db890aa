"""Requests one after the other on one connection: keep-alive, pipelining, half-close."""

from __future__ import annotations

import pytest

from tests.support.rig import Rig


def test_one_request_goes_there_and_back(rig: Rig) -> None:
    rig.client.get("/a?b=c")
    assert rig.backend().request.startswith(b"GET /a?b=c HTTP/1.1\r\n")
    rig.backend().ok(b"hello", "X-A: b\r\n")
    answer = rig.client.answer()
    assert (answer.status, answer.body, answer.field(b"x-a")) == (200, b"hello", b"b")
    assert rig.client.open
    rig.over([200])


def test_the_connections_are_reused_on_both_sides(rig: Rig) -> None:
    for body in (b"1", b"22", b"333"):
        rig.client.get()
        rig.backend().take()
        rig.backend().ok(body)
        assert rig.client.answer().body == body
    assert len(rig.backends) == 1
    rig.over([200] * 3)


def test_connection_close_is_obeyed(rig: Rig) -> None:
    rig.client.get(fields="Connection: close\r\n")
    rig.backend().ok()
    answer = rig.client.answer()
    assert answer.field(b"connection") == b"close"
    assert rig.client.closed
    assert not rig.client.cut
    # The backend's connection has nothing to do with it.
    assert rig.backend().open
    rig.over([200])


@pytest.mark.parametrize("fields", ["", "Host: a.example\r\n"])
def test_http_1_0_closes_by_itself(rig: Rig, fields: str) -> None:
    rig.client.send(f"GET / HTTP/1.0\r\n{fields}\r\n".encode())
    head = rig.backend().request
    assert head.startswith(b"GET / HTTP/1.1\r\n")
    assert b"Host: " in head
    rig.backend().ok()
    assert rig.client.answer().status == 200
    assert rig.client.closed
    rig.over([200])


def test_http_1_0_may_be_kept_alive(rig: Rig) -> None:
    for _ in range(2):
        rig.client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        rig.backend().take()
        rig.backend().ok()
        assert rig.client.answer().field(b"connection") == b"keep-alive"
    rig.over([200, 200])


def test_http_1_0_gets_chunks_until_close(rig: Rig) -> None:
    rig.client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    rig.backend().answers(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n"
    )
    assert rig.client.closed
    answer = rig.client.answer()
    assert answer.body == b"ab"
    assert answer.field(b"transfer-encoding") is None
    assert answer.field(b"connection") == b"close"
    rig.over([200])


def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: a.example\r\n\r\n" % i for i in range(5))
    rig.client.send(requests)
    for i in range(5):
        # Never two at a time: the next one waits for its turn.
        assert rig.backend().request.startswith(b"GET /%d " % i)
        assert rig.backend().take() == b""
        rig.backend().ok(b"%d" % i)
    assert [answer.body for answer in rig.client.answers()] == [b"0", b"1", b"2", b"3", b"4"]
    assert len(rig.backends) == 1
    rig.over([200] * 5)


def test_refusals_between_pipelined_requests_keep_the_order(rig: Rig) -> None:
    get = b"GET %b HTTP/1.1\r\nHost: a.example\r\n\r\n"
    options = b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n"
    rig.client.send(options + get % b"/1" + options + options + get % b"/2" + options)
    assert rig.client.answer().status == 204
    assert rig.client.received == b""
    rig.backend().ok(b"1")
    assert [a.status for a in rig.client.answers()] == [200, 204, 204]
    rig.backend().ok(b"2")
    assert [a.status for a in rig.client.answers()] == [200, 204]
    rig.over([204, 200, 204, 204, 200, 204])


def test_a_thousand_pipelined_refusals_need_no_recursion(rig: Rig) -> None:
    rig.client.send(b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n" * 1000)
    assert [a.status for a in rig.client.answers()] == [204] * 1000
    rig.over([204] * 1000)


def test_a_thousand_pipelined_requests_need_no_recursion(whole: Rig) -> None:
    rig = whole
    rig.client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" * 1000)
    for _ in range(1000):
        rig.backend().ok()
    assert [a.status for a in rig.client.answers()] == [200] * 1000
    rig.over([200] * 1000)


def test_pipelined_bodies_are_told_from_the_requests_behind_them(rig: Rig) -> None:
    rig.client.send(
        b"POST /1 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc"
        b"POST /2 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nde\r\n0\r\n\r\n"
        b"GET /3 HTTP/1.1\r\nHost: a.example\r\n\r\n"
    )
    assert rig.backend().request.startswith(b"POST /1 ")
    assert rig.backend().take() == b"abc"
    rig.backend().ok()
    assert rig.backend().request.startswith(b"POST /2 ")
    assert rig.backend().take().endswith(b"0\r\n\r\n")
    rig.backend().ok()
    assert rig.backend().request.startswith(b"GET /3 ")
    rig.backend().ok()
    assert [a.status for a in rig.client.answers()] == [200] * 3
    assert len(rig.backends) == 1
    rig.over([200] * 3)


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n", b"\r\n" * 20])
def test_empty_lines_before_a_request_are_ignored(rig: Rig, lines: bytes) -> None:
    rig.client.send(lines + b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    rig.backend().ok()
    rig.client.send(lines + b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" + lines)
    rig.backend().ok()
    assert [a.status for a in rig.client.answers()] == [200, 200]
    assert rig.client.open
    rig.over([200, 200])


def test_a_client_that_ends_its_sending_still_gets_its_answer(rig: Rig) -> None:
    rig.client.get()
    rig.client.ends()
    rig.backend().ok(b"late")
    answer = rig.client.answer()
    assert (answer.body, answer.field(b"connection")) == (b"late", b"close")
    assert rig.client.closed
    rig.over([200])


def test_a_client_that_ends_after_several_requests_gets_all_answers(rig: Rig) -> None:
    rig.client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" * 3)
    rig.client.ends()
    for body in (b"1", b"2", b"3"):
        assert rig.client.open
        rig.backend().take()
        rig.backend().ok(body)
    answers = rig.client.answers()
    assert [a.body for a in answers] == [b"1", b"2", b"3"]
    assert [a.field(b"connection") for a in answers] == [None, None, b"close"]
    assert rig.client.closed
    rig.over([200] * 3)


def test_refusals_at_the_end_of_a_half_closed_pipeline_are_answered(rig: Rig) -> None:
    options = b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n"
    rig.client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" + options * 3)
    rig.client.ends()
    rig.backend().ok()
    assert [a.status for a in rig.client.answers()] == [200, 204, 204, 204]
    assert rig.client.closed
    rig.over([200, 204, 204, 204])


def test_half_a_request_behind_a_half_close_is_dropped(rig: Rig) -> None:
    rig.client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\nGET /never HT")
    rig.client.ends()
    rig.backend().ok()
    assert rig.client.answer().status == 200
    assert rig.client.closed
    rig.over()
    assert [line["status"] for line in rig.log] in ([200], [200, 499])


def test_a_client_that_connects_and_ends_is_closed(rig: Rig) -> None:
    rig.client.ends()
    assert rig.client.closed
    rig.over([])


def test_a_client_that_ends_within_a_head_is_recorded_and_closed(rig: Rig) -> None:
    rig.client.send(b"GET / HTTP/1.1\r\nHo")
    rig.client.ends()
    assert rig.client.closed
    assert rig.client.received == b""
    rig.over([499])


def test_a_client_that_ends_within_its_body_has_left(rig: Rig) -> None:
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\nabc")
    backend = rig.backend()
    rig.client.ends()
    assert rig.client.closed
    # The backend must not take a part for the whole.
    assert backend.cut
    rig.over([499])
