"""Every bound in time, turned by hand."""

from __future__ import annotations

import pytest

from gateway.board import layout
from gateway.config.snapshot import Breaker, Limits, Timeouts
from gateway.proxy.errors import Failure
from tests.support.rig import Rig, service, topology

TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, between_bytes=3.0, total=20.0, stream_idle=60.0)
POST = b"POST / HTTP/1.1\r\nHost: a.example\r\n"


@pytest.fixture
def timed(rig: Rig) -> Rig:
    rig.serve(
        topology(
            services=[service(timeouts=TIMEOUTS)],
            limits=Limits(min_rate=0, await_body=0, header_timeout=4.0, idle_timeout=8.0),
        )
    )
    return rig


def test_a_head_that_never_ends_is_408(timed: Rig) -> None:
    timed.client.send(b"GET / HTTP/1.1\r\nHost:")
    timed.advance(3.5)
    timed.client.send(b" a.exam")  # octets that come do not move the bound
    assert timed.client.received == b""
    timed.advance(1.0)
    answer = timed.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (408, b"header-timeout")
    timed.advance(2.5)
    assert timed.client.closed
    timed.over([408])


def test_the_second_head_has_its_own_time(timed: Rig) -> None:
    timed.client.get()
    timed.advance(3.0)
    timed.backend().ok()
    assert timed.client.answer().status == 200
    timed.client.send(b"GET /")
    timed.advance(3.5)
    assert timed.client.received == b""
    timed.advance(1.0)
    assert timed.client.answer().status == 408
    timed.over([200, 408])


def test_an_idle_connection_is_closed_without_a_word(timed: Rig) -> None:
    timed.connect()
    timed.advance(7.5)
    assert timed.client.open
    timed.advance(1.0)
    assert timed.client.closed
    assert timed.client.received == b""
    timed.over([])


def test_an_idle_connection_that_was_used_is_closed_too(timed: Rig) -> None:
    timed.advance(3.0)
    timed.client.get()
    timed.backend().ok()
    timed.client.answer()
    timed.advance(7.5)
    assert timed.client.open
    timed.advance(1.0)
    assert timed.client.closed
    assert timed.client.received == b""
    timed.over([200])


def test_empty_lines_alone_are_idle_not_slow(timed: Rig) -> None:
    timed.client.send(b"\r\n")
    timed.advance(7.5)
    assert timed.client.open
    timed.advance(1.5)
    assert timed.client.closed
    assert timed.client.received == b""
    timed.over([])


def test_content_that_stalls_is_408(timed: Rig) -> None:
    timed.client.send(POST + b"Content-Length: 9\r\n\r\nabc")
    backend = timed.backend()
    for _ in range(3):
        timed.advance(2.5)
        timed.client.send(b"d")
    timed.advance(3.5)
    answer = timed.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (408, b"body-timeout")
    assert answer.field(b"connection") == b"close"
    assert backend.cut
    timed.over([408])


def test_a_backend_that_never_answers_is_504(timed: Rig) -> None:
    timed.client.get()
    backend = timed.backend()
    timed.advance(4.5)
    assert timed.client.received == b""
    timed.advance(1.0)
    answer = timed.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (504, b"first-byte-timeout")
    assert backend.cut
    assert timed.client.open
    assert timed.log[0]["first"] == "first-byte-timeout"
    timed.over([504])


def test_interim_answers_do_not_move_the_bound(timed: Rig) -> None:
    timed.client.get()
    timed.backend()
    for _ in range(5):
        timed.backend().answers(b"HTTP/1.1 102 Processing\r\n\r\n")
        timed.advance(1.1)
    assert [a.status for a in timed.client.answers()] == [102] * 5 + [504]
    timed.over([504])


def test_the_first_byte_is_waited_for_from_the_contents_end(timed: Rig) -> None:
    timed.client.send(POST + b"Content-Length: 4\r\n\r\n")
    timed.backend()
    for octet in (b"a", b"b", b"c", b"d"):
        timed.advance(2.5)
        timed.client.send(octet)
    timed.advance(4.5)
    assert timed.client.received == b""
    timed.advance(1.0)
    assert timed.client.answer().status == 504
    timed.over([504])


def test_an_answer_that_stalls_is_cut(timed: Rig) -> None:
    timed.client.get()
    timed.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    timed.advance(2.5)
    timed.backend().answers(b"d")
    timed.advance(2.5)
    assert timed.client.open
    timed.advance(1.0)
    assert timed.client.cut
    assert timed.log[0]["error"] == "between-bytes-timeout"
    timed.over([200])


def test_the_total_is_a_bound_on_an_answer_of_known_length(timed: Rig) -> None:
    timed.client.get()
    timed.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
    for _ in range(10):
        assert timed.client.open
        timed.advance(2.0)
        timed.backend().answers(b"d")
    timed.advance(0.5)
    assert timed.client.cut
    assert timed.log[0]["error"] == "total-timeout"
    timed.over([200])


def test_the_total_before_an_answer_is_504(timed: Rig) -> None:
    timed.client.send(POST + b"Content-Length: 99\r\n\r\n")
    timed.backend()
    for _ in range(9):
        timed.advance(2.3)
        timed.client.send(b"d")
    answer = timed.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (504, b"total-timeout")
    timed.over([504])


def _patient(rig: Rig) -> None:
    timeouts = Timeouts(first_byte=60.0, between_bytes=60.0, total=20.0)
    breaker = Breaker(failures=1)
    limits = Limits(await_body=0, min_rate=0)
    rig.serve(topology(limits=limits, services=[service(timeouts=timeouts, breaker=breaker)]))


@pytest.mark.parametrize(("whole_after", "blamed"), [(4.0, True), (16.0, False), (99.0, False)])
def test_a_client_that_takes_its_time_opens_no_breaker(
    rig: Rig, whole_after: float, blamed: bool
) -> None:
    """Uploads that are just fast enough, until the total ends them: at nobody's cost.

    Held to have failed is a backend that took more of the time than the client did.
    """
    _patient(rig)
    rig.client.send(POST + b"Content-Length: 2\r\n\r\na")
    rig.backend()
    rig.advance(min(whole_after, 19.0))
    if whole_after < 20.0:
        rig.client.send(b"b")
    rig.advance(20.5 - min(whole_after, 19.0))
    assert rig.client.answer().status == 504
    assert rig.cell(0, layout.ENDPOINT_FAILURES) == int(blamed)
    rig.over([504])


def test_a_backend_that_takes_no_content_is_to_blame(whole: Rig) -> None:
    _patient(whole)
    whole.client.send(POST + b"Content-Length: 9000000\r\n\r\n")
    backend = whole.backend()
    backend.take()
    backend.transport.stuck = True
    while whole.client.transport.is_reading():
        whole.client.send(b"x" * 65536)
    whole.advance(20.5)
    assert whole.client.answer().status == 504
    assert whole.cell(0, layout.ENDPOINT_FAILURES) == 1
    whole.over([504])


@pytest.mark.parametrize("fields", ["Transfer-Encoding: chunked\r\n", ""])
def test_the_total_ends_at_the_head_of_an_answer_of_unknown_length(timed: Rig, fields: str) -> None:
    timed.client.get()
    timed.backend().answers(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode())
    for _ in range(15):
        timed.advance(2.0)
        timed.backend().answers(b"1\r\nx\r\n")
    assert timed.client.open
    timed.advance(3.5)
    assert timed.client.cut
    timed.over([200])


def test_an_event_stream_may_be_silent_for_longer(timed: Rig) -> None:
    timed.client.get()
    timed.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; a=b\r\n\r\n")
    timed.advance(59.0)
    assert timed.client.open
    timed.backend().answers(b"data: x\n\n")
    timed.advance(59.0)
    assert timed.client.open
    timed.advance(2.0)
    assert timed.client.cut
    timed.over([200])


def test_a_refused_connection_is_502(timed: Rig) -> None:
    timed.client.get()
    timed.refuses()
    answer = timed.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"connect")
    assert timed.client.open
    timed.over([502])


def test_a_connection_that_takes_too_long_is_504(timed: Rig) -> None:
    timed.client.get()
    assert timed.core.dials[0].timeout == 2.0
    timed.refuses(Failure("connect-timeout", "2 s"))
    assert timed.client.answer().status == 504
    timed.over([504])


def test_the_total_ends_a_dial_too(timed: Rig) -> None:
    timed.client.get()
    timed.advance(20.5)
    assert timed.client.answer().status == 504
    # It comes after all, and is kept for the next one.
    backend = timed.accept()
    assert backend.sent == b""
    timed.client.get()
    assert timed.dialling == 0
    backend.ok()
    assert timed.client.answer().status == 200
    timed.over([504, 200])


def test_a_connection_that_came_too_late_is_not_kept_for_ever(timed: Rig) -> None:
    timed.client.get()
    timed.client.leaves()
    backend = timed.accept()
    timed.advance(50.0)
    assert backend.open
    timed.advance(6.0)
    assert backend.closed
    timed.over([499])


def test_idle_backend_connections_are_closed_in_time(timed: Rig) -> None:
    timed.client.get()
    timed.backend().ok()
    timed.advance(50.0)
    assert timed.backend().open
    timed.advance(6.0)
    assert timed.backend().closed
    timed.over([200])


def test_a_request_beats_the_idle_timer(timed: Rig) -> None:
    timed.client.get()
    timed.backend().ok()
    timed.advance(7.0)
    timed.client.get()
    timed.advance(4.0)
    timed.backend().ok()
    assert [a.status for a in timed.client.answers()] == [200, 200]
    timed.over([200, 200])
