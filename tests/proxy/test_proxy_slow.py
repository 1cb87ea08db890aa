"""Slow clients: octets do not buy time without end, and an honest slow line is not cut.

The bounds on silence stand in ``test_proxy_time.py`` and ``test_proxy_pressure.py``; these are
about clients that break every silence just in time (slow headers, slow bodies, slow reading).
"""

from __future__ import annotations

import pytest

from gateway.config.snapshot import Limits, Timeouts
from tests.support.rig import Rig, service, topology

PIECE = 64 * 1024
POST = b"POST / HTTP/1.1\r\nHost: a.example\r\n"


def _serve(rig: Rig, rate: int = 240, *, between: float = 10.0, total: float = 10_000.0) -> None:
    timeouts = Timeouts(between_bytes=between, total=total, first_byte=total)
    rig.serve(
        topology(limits=Limits(min_rate=rate, await_body=0), services=[service(timeouts=timeouts)])
    )


def test_a_head_has_its_time_however_it_comes(whole: Rig) -> None:
    """Slowloris: one field line a second, for ever."""
    whole.client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n")
    seconds = 0
    while not whole.client.received and seconds < 60:
        whole.client.send(b"X-a: b\r\n")
        whole.advance(1.0)
        seconds += 1
    assert whole.client.answer().status == 408
    assert seconds <= 11
    whole.over([408])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_trickles_is_408(whole: Rig, *, chunked: bool) -> None:
    """An octet before each silence is over, under a total of hours."""
    _serve(whole)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000"
    whole.client.send(POST + framing + b"\r\n\r\n")
    backend = whole.backend()
    seconds = 0
    while not whole.client.received and seconds < 60:
        whole.client.send(b"1\r\nx\r\n" if chunked else b"x")
        whole.advance(1.0)
        seconds += 1
    answer = whole.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (408, b"body-timeout")
    assert seconds <= 12
    assert backend.cut
    whole.over([408])


def test_a_body_at_the_least_rate_is_taken(whole: Rig) -> None:
    _serve(whole)
    whole.client.send(POST + b"Content-Length: 25000\r\n\r\n")
    backend = whole.backend()
    for _ in range(100):
        whole.client.send(b"x" * 250)
        whole.advance(1.0)
    backend.ok()
    assert whole.client.answer().status == 200
    whole.over([200])


def test_without_a_least_rate_a_body_may_trickle(whole: Rig) -> None:
    _serve(whole, 0)
    whole.client.send(POST + b"Content-Length: 100\r\n\r\n")
    backend = whole.backend()
    for _ in range(100):
        whole.client.send(b"x")
        whole.advance(5.0)
    backend.ok()
    assert whole.client.answer().status == 200
    whole.over([200])


def test_a_backend_that_takes_its_time_is_not_held_against_the_client(whole: Rig) -> None:
    _serve(whole)
    whole.client.send(POST + b"Content-Length: %d\r\n\r\n" % (40 * PIECE))
    backend = whole.backend()
    backend.take()
    backend.transport.stuck = True
    for _ in range(40):
        whole.client.send(b"x" * PIECE)
    for _ in range(41):
        whole.advance(2.0)
        backend.transport.drain(PIECE)
    backend.transport.stuck = False
    backend.transport.drain()
    backend.ok()
    assert whole.client.answer().status == 200
    whole.over([200])


@pytest.mark.parametrize("endless", [False, True])
def test_a_reader_that_trickles_is_cut(whole: Rig, *, endless: bool) -> None:
    """It reads an octet before each silence is over; an answer of unknown length has no total."""
    _serve(whole)
    whole.client.get()
    framing = "Transfer-Encoding: chunked" if endless else f"Content-Length: {4 * PIECE}"
    backend = whole.backend()
    backend.answers(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
    whole.client.transport.stuck = True
    piece = b"%x\r\n%b\r\n" % (PIECE, b"x" * PIECE) if endless else b"x" * PIECE
    for _ in range(3):
        backend.answers(piece)
    seconds = 0
    while whole.client.open and seconds < 60:
        whole.client.transport.drain(1)
        whole.advance(1.0)
        seconds += 1
    assert whole.client.cut
    assert backend.cut
    assert seconds <= 21
    assert whole.log[0]["error"] == "client-slow"
    whole.over([200])


def test_a_reader_at_the_least_rate_is_served(whole: Rig) -> None:
    _serve(whole)
    whole.client.get()
    backend = whole.backend()
    backend.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * PIECE))
    whole.client.transport.stuck = True
    for _ in range(4):
        backend.answers(b"x" * PIECE)
    while whole.client.transport.buffered:
        whole.client.transport.drain(260)
        whole.advance(1.0)
        assert whole.client.open
    assert len(whole.client.answer().body) == 4 * PIECE
    whole.over([200])


def test_an_answer_that_is_over_is_not_held_for_a_trickle(whole: Rig) -> None:
    """Behind the last octet no exchange is left, and so no total: the rate is the bound."""
    _serve(whole)
    whole.client.transport.stuck = True
    whole.client.get(fields="Connection: close\r\n")
    whole.backend().ok(b"x" * 50_000)
    seconds = 0
    while whole.client.open and seconds < 60:
        whole.client.transport.drain(1)
        whole.advance(1.0)
        seconds += 1
    assert whole.client.cut
    assert seconds <= 31
    whole.over([200])


# --- content is awaited ---------------------------------------------------------------------------


def _await(rig: Rig, octets: int = 1000, **more: float) -> None:
    timeouts = Timeouts(**{"between_bytes": 10.0, **more})
    limits = Limits(await_body=octets, min_rate=0)
    rig.serve(topology(limits=limits, services=[service(timeouts=timeouts, max_in_flight=1)]))


@pytest.mark.parametrize("framing", ["Content-Length: 500", "Transfer-Encoding: chunked"])
def test_slow_bodies_take_none_of_a_services_places(rig: Rig, framing: str) -> None:
    """R-U-Dead-Yet: without it a few hundred of them were all that a service may have in flight."""
    _await(rig)
    slow = [rig.connect() for _ in range(20)]
    for client in slow:
        client.send(POST + framing.encode() + b"\r\n\r\n" + b"1\r\nx\r\n")
    assert rig.dialling == 0
    rig.connect().get()
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.advance(11.0)
    assert [client.answer().status for client in slow] == [408] * 20
    rig.over([200] + [408] * 20)


def test_a_body_that_is_whole_goes_on(rig: Rig) -> None:
    _await(rig)
    rig.client.send(POST + b"Content-Length: 4\r\n\r\nab")
    assert rig.dialling == 0
    rig.client.send(b"cd")
    backend = rig.backend()
    assert backend.request.startswith(b"POST / ")
    assert backend.take() == b"abcd"
    backend.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_chunks_and_trailers_that_were_awaited_go_on_whole(rig: Rig) -> None:
    _await(rig)
    rig.client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    rig.client.send(b"2\r\ncd\r\n0\r\nX-Sum: 1\r\n\r\n")
    backend = rig.backend()
    backend.request  # noqa: B018  takes the head
    assert backend.sent.endswith(b"0\r\nx-sum: 1\r\n\r\n")
    backend.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_a_large_body_streams_once_there_is_enough_of_it(whole: Rig) -> None:
    _await(whole)
    whole.client.send(POST + b"Content-Length: 3000\r\n\r\n" + b"x" * 999)
    assert whole.dialling == 0
    whole.client.send(b"x")
    backend = whole.backend()
    backend.request  # noqa: B018  takes the head
    assert len(backend.take()) == 1000
    whole.client.send(b"x" * 2000)
    assert len(backend.take()) == 2000
    backend.ok()
    whole.over([200])


def test_a_client_that_wants_to_be_told_to_go_on_is(rig: Rig) -> None:
    _await(rig)
    rig.client.send(POST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    backend = rig.backend()
    backend.answers(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert rig.client.answer().status == 100
    rig.client.send(b"abcd")
    backend.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_a_body_that_was_awaited_can_be_sent_again(rig: Rig) -> None:
    _await(rig)
    rig.client.get()
    first = rig.backend()
    first.ok()
    rig.client.answer()
    rig.client.send(POST.replace(b"POST", b"PUT") + b"Content-Length: 4\r\n\r\nabcd")
    first.resets()
    if rig.dialling:
        again = rig.backend()
        again.request  # noqa: B018  takes the head
        assert again.take() == b"abcd"
        again.ok()
    assert rig.client.answer().status in {200, 502}
    rig.over()


@pytest.mark.parametrize("broken", [b"zz\r\n", b"1\r\nxyz"])
def test_a_broken_body_that_was_awaited_reaches_nobody(rig: Rig, broken: bytes) -> None:
    _await(rig)
    rig.client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n" + broken)
    assert rig.client.answer().status == 400
    assert rig.dialling == 0
    rig.over([400])


def test_a_client_that_leaves_while_it_is_awaited(rig: Rig) -> None:
    _await(rig)
    rig.client.send(POST + b"Content-Length: 4\r\n\r\nab")
    rig.client.leaves()
    assert rig.dialling == 0
    rig.over([499])


def test_an_awaited_body_has_the_total_for_its_time(rig: Rig) -> None:
    _await(rig, total=15.0)
    rig.client.send(POST + b"Content-Length: 100\r\n\r\n")
    for _ in range(5):
        rig.advance(4.0)
        if rig.client.received:
            break
        rig.client.send(b"x" * 3)
    assert rig.client.answer().status in {408, 504}
    assert rig.dialling == 0
    rig.over()
