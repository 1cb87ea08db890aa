"""Back-pressure: the slow side sets the pace, and nothing is held beyond a bound."""

from __future__ import annotations

from gateway.config.snapshot import Limits, Timeouts
from tests.support.rig import Rig, service, topology

PIECE = 64 * 1024
#: What may be held for a slow peer: a high-water mark, and a read.
BOUND = 64 * 1024 + PIECE + 100
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


def _big(rig: Rig, length: int) -> None:
    rig.client.get()
    rig.backend().answers(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())


def test_a_slow_client_slows_the_backend(whole: Rig) -> None:
    rig = whole
    _big(rig, 20 * PIECE)
    rig.client.transport.stuck = True
    for _ in range(20):
        rig.backend().answers(b"x" * PIECE)
    assert not rig.backend().transport.is_reading()
    assert rig.client.transport.most_buffered <= BOUND
    for _ in range(30):
        rig.client.transport.drain(PIECE)
    assert rig.client.transport.most_buffered <= BOUND
    assert len(rig.client.answer().body) == 20 * PIECE
    assert rig.client.open
    assert rig.backend().transport.is_reading()
    # Neither side remembers the pause.
    rig.client.transport.stuck = False
    rig.client.get()
    rig.backend().ok()
    assert rig.client.answer().body == b"ok"
    rig.over([200, 200])


def test_a_slow_backend_slows_the_client(whole: Rig) -> None:
    rig = whole
    rig.client.send(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % (20 * PIECE)
    )
    rig.serve()
    backend = rig.backend()
    backend.request  # noqa: B018  takes the head
    backend.transport.stuck = True
    for _ in range(20):
        rig.client.send(b"x" * PIECE)
    assert not rig.client.transport.is_reading()
    assert backend.transport.most_buffered <= BOUND
    for _ in range(30):
        backend.transport.drain(PIECE)
    assert len(backend.take()) == 20 * PIECE
    assert rig.client.transport.is_reading()
    backend.transport.stuck = False
    backend.ok()
    assert rig.client.answer().status == 200
    rig.client.get()
    backend.ok()
    assert rig.client.answer().status == 200
    rig.over([200, 200])


def test_a_client_waits_for_the_connection_to_the_backend(whole: Rig) -> None:
    rig = whole
    rig.client.send(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % (20 * PIECE)
    )
    for _ in range(20):
        rig.client.send(b"x" * PIECE)
    assert not rig.client.transport.is_reading()
    assert rig.dialling == 1
    backend = rig.backend()
    assert rig.client.transport.is_reading()
    assert backend.sent.count(b"x" * PIECE) == 20
    backend.ok()
    rig.over([200])


def test_a_client_that_pipelines_too_much_is_not_read(whole: Rig) -> None:
    rig = whole
    rig.client.get()
    for _ in range(10_000):
        rig.client.send(GET)
    assert not rig.client.transport.is_reading()
    for _ in range(10_001):
        rig.backend().ok()
    assert rig.client.transport.is_reading()
    assert len(rig.client.answers()) == 10_001
    rig.over([200] * 10_001)


def test_answers_do_not_pile_up_for_a_client_that_does_not_read(whole: Rig) -> None:
    rig = whole
    rig.client.transport.stuck = True
    rig.client.send(GET * 100)
    served = 0
    while served < 100 and len(rig.backend().sent) > 0:
        rig.backend().take()
        rig.backend().ok(b"x" * 30_000)
        served += 1
    assert served < 10
    assert rig.client.transport.most_buffered <= BOUND
    # It reads on: so do the answers come.
    while served < 100:
        rig.client.transport.drain()
        if rig.backend().take():
            rig.backend().ok(b"x" * 30_000)
            served += 1
    rig.client.transport.drain()
    assert len(rig.client.answers()) == 100
    assert rig.client.open
    rig.over([200] * 100)


def test_requests_that_wait_for_a_full_client_survive_its_half_close(whole: Rig) -> None:
    rig = whole
    rig.client.transport.stuck = True
    rig.client.send(GET * 5)
    for _ in range(3):
        rig.backend().take()
        rig.backend().ok(b"x" * 30_000)
    assert rig.backend().sent == b""
    rig.client.ends()
    assert rig.client.open
    rig.client.transport.drain()
    for _ in range(2):
        rig.backend().take()
        rig.backend().ok(b"x")
    rig.client.transport.drain()
    assert [len(a.body) for a in rig.client.answers()] == [30_000] * 3 + [1] * 2
    assert rig.client.closed
    rig.over([200] * 5)


def test_a_client_that_stops_reading_is_cut(whole: Rig) -> None:
    rig = whole
    rig.serve(topology(services=[service(timeouts=Timeouts(between_bytes=3.0))]))
    _big(rig, 20 * PIECE)
    rig.client.transport.stuck = True
    for _ in range(4):
        rig.backend().answers(b"x" * PIECE)
    rig.advance(2.5)
    assert rig.client.open
    rig.advance(1.0)
    assert rig.client.cut
    assert rig.backend().cut
    assert rig.log[0]["error"] == "client-slow"
    rig.over([200])


def test_a_client_that_reads_slowly_is_not_cut(whole: Rig) -> None:
    """Draining from one mark to the other may take many times the bound on a silence."""
    rig = whole
    rig.serve(topology(services=[service(timeouts=Timeouts(between_bytes=3.0, total=1000.0))]))
    _big(rig, 4 * PIECE)
    rig.client.transport.stuck = True
    for _ in range(4):
        rig.backend().answers(b"x" * PIECE)
    while rig.client.transport.buffered:
        rig.advance(2.5)
        assert rig.client.open
        rig.client.transport.drain(5_000)
    assert len(rig.client.answer().body) == 4 * PIECE
    rig.over([200])


def test_the_total_is_in_force_for_a_slow_client(whole: Rig) -> None:
    rig = whole
    rig.serve(topology(services=[service(timeouts=Timeouts(between_bytes=30.0, total=10.0))]))
    _big(rig, 4 * PIECE)
    rig.client.transport.stuck = True
    rig.advance(5.0)
    for _ in range(4):
        rig.backend().answers(b"x" * PIECE)
    rig.advance(5.5)
    assert rig.client.cut
    assert rig.log[0]["error"] == "total-timeout"
    rig.over([200])


def test_a_backend_that_waited_for_the_client_has_its_time_again(whole: Rig) -> None:
    rig = whole
    rig.serve(topology(services=[service(timeouts=Timeouts(between_bytes=4.0, total=1000.0))]))
    _big(rig, 4 * PIECE)
    rig.client.transport.stuck = True
    for _ in range(2):
        rig.backend().answers(b"x" * PIECE)
    for _ in range(8):
        rig.advance(3.0)
        rig.client.transport.drain(10_000)
    while rig.client.transport.buffered:
        rig.client.transport.drain(10_000)
    rig.advance(3.0)
    assert rig.client.open
    rig.backend().answers(b"x" * (2 * PIECE))
    rig.client.transport.drain()
    assert len(rig.client.answer().body) == 4 * PIECE
    rig.over([200])


def test_a_closing_connection_that_nobody_reads_is_cut(whole: Rig) -> None:
    rig = whole
    rig.client.transport.stuck = True
    rig.client.get(fields="Connection: close\r\n")
    rig.backend().ok(b"x" * 50_000)
    assert rig.client.open
    rig.advance(31.0)
    assert rig.client.cut
    rig.over([200])


def test_a_closing_connection_is_not_cut_while_it_is_read(whole: Rig) -> None:
    rig = whole
    rig.client.transport.stuck = True
    rig.client.get(fields="Connection: close\r\n")
    rig.backend().ok(b"x" * 50_000)
    while not rig.client.closed:
        rig.advance(25.0)
        rig.client.transport.drain(10_000)
    assert not rig.client.cut
    assert len(rig.client.answer().body) == 50_000
    rig.over([200])


def test_an_idle_connection_with_an_unread_answer_is_cut(whole: Rig) -> None:
    rig = whole
    rig.serve(topology(limits=Limits(idle_timeout=10.0)))
    rig.client.transport.stuck = True
    rig.client.get()
    rig.backend().ok(b"x" * 100_000)
    rig.advance(60.0)
    assert rig.client.cut
    rig.over([200])


def test_a_backend_that_stops_reading_is_given_up(whole: Rig) -> None:
    rig = whole
    rig.serve(topology(services=[service(timeouts=Timeouts(between_bytes=3.0))]))
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 900000\r\n\r\n")
    backend = rig.backend()
    backend.transport.stuck = True
    for _ in range(3):
        rig.client.send(b"x" * PIECE)
    rig.advance(3.5)
    assert rig.client.answer().status == 504
    assert backend.cut
    rig.over([504])


def test_both_directions_at_once(whole: Rig) -> None:
    """An answer that has begun keeps its own bound while the content still goes up slowly."""
    rig = whole
    rig.serve(topology(services=[service(timeouts=Timeouts(between_bytes=3.0))]))
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 900000\r\n\r\n")
    backend = rig.backend()
    backend.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    backend.transport.stuck = True
    for _ in range(3):
        rig.client.send(b"x" * PIECE)
    for _ in range(4):
        rig.advance(2.0)
        backend.answers(b"1\r\nx\r\n")
        assert rig.client.open
    backend.transport.drain()
    rig.client.send(b"x")
    # Silence after the backend has read on is a silence still.
    for _ in range(4):
        rig.advance(1.0)
        rig.client.send(b"x")
    assert rig.client.closed
    assert rig.log[0]["error"] == "between-bytes-timeout"
    rig.over([200])


def test_a_connection_with_unsent_content_is_not_used_again(whole: Rig) -> None:
    rig = whole
    rig.client.send(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % (2 * PIECE)
    )
    backend = rig.backend()
    backend.transport.stuck = True
    rig.client.send(b"x" * (2 * PIECE))
    backend.ok()
    assert rig.client.answer().status == 200
    rig.client.get()
    assert rig.dialling == 1
    rig.backend().ok()
    backend.transport.drain()
    assert backend.closed
    rig.over([200, 200])
