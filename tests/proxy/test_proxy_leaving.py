"""A client that leaves, a drain, a snapshot that moves: in every phase of a conversation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.board import layout
from gateway.proxy.errors import Failure
from tests.support.rig import Rig, endpoint, pool, topology

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n"


def _dialling(rig: Rig) -> None:
    rig.client.send(GET)


def _waiting(rig: Rig) -> None:
    rig.client.send(GET)
    rig.backend()


def _sending(rig: Rig) -> None:
    rig.client.send(POST + b"ab")
    rig.backend()


def _sending_unconnected(rig: Rig) -> None:
    rig.client.send(POST + b"ab")


def _interim(rig: Rig) -> None:
    rig.client.send(GET)
    rig.backend().answers(b"HTTP/1.1 103 Early Hints\r\n\r\n")


def _half_a_head(rig: Rig) -> None:
    rig.client.send(GET)
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nConte")


def _half_an_answer(rig: Rig) -> None:
    rig.client.send(GET)
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")


def _half_a_chunk(rig: Rig) -> None:
    rig.client.send(GET)
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc")


def _early(rig: Rig) -> None:
    rig.client.send(POST + b"ab")
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")


def _pipelined(rig: Rig) -> None:
    rig.client.send(GET * 3)
    rig.backend()


def _paused(rig: Rig) -> None:
    rig.client.transport.stuck = True
    rig.client.send(GET)
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n" + b"x" * 100_000)


PHASES: list[tuple[Callable[[Rig], None], int]] = [
    (_dialling, 499),
    (_waiting, 499),
    (_sending, 499),
    (_sending_unconnected, 499),
    (_interim, 499),
    (_half_a_head, 499),
    (_half_an_answer, 200),
    (_half_a_chunk, 200),
    (_early, 200),
    (_pipelined, 499),
    (_paused, 200),
]


@pytest.mark.parametrize(("phase", "status"), PHASES, ids=[p[0].__name__ for p in PHASES])
def test_a_client_that_leaves(rig: Rig, phase: Callable[[Rig], None], status: int) -> None:
    phase(rig)
    assert rig.in_flight() == 1
    rig.client.leaves()
    rig.at_rest()
    for backend in rig.backends:
        assert backend.cut
    assert rig.log[-1]["error"] == "client-left"
    # It is no mark against the backend.
    assert rig.cell(0, layout.ENDPOINT_FAILURES) == 0
    if rig.dialling:
        backend = rig.accept()
        assert backend.sent == b""
        assert backend.open
    rig.over([status])


@pytest.mark.parametrize(("phase", "status"), PHASES, ids=[p[0].__name__ for p in PHASES])
def test_a_worker_whose_drain_ran_out(rig: Rig, phase: Callable[[Rig], None], status: int) -> None:
    phase(rig)
    rig.core.draining = True
    assert not rig.client.connection.close_when_idle()
    rig.client.connection.cut()
    rig.soon.run()
    rig.at_rest()
    rig.over([status])


@pytest.mark.parametrize(("phase", "status"), PHASES, ids=[p[0].__name__ for p in PHASES])
def test_a_backend_that_is_gone(rig: Rig, phase: Callable[[Rig], None], status: int) -> None:
    phase(rig)
    if rig.dialling:
        rig.refuses()
    else:
        rig.backend().resets()
    if status == 200:
        assert rig.client.cut
    else:
        answers = [a.status for a in rig.client.answers()]
        assert answers[-1] == 502
    while rig.dialling:
        rig.backend().ok()
    rig.over()
    assert [line["status"] for line in rig.log][:1] == [200 if status == 200 else 502]


def test_a_drain_closes_idle_connections_at_once(rig: Rig) -> None:
    rig.connect()
    rig.core.draining = True
    assert rig.client.connection.close_when_idle()
    rig.soon.run()
    assert rig.client.closed
    rig.over([])


def test_a_drain_closes_after_the_answer(rig: Rig) -> None:
    rig.client.send(GET * 2)
    rig.backend()
    rig.core.draining = True
    assert not rig.client.connection.close_when_idle()
    rig.backend().ok()
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"connection")) == (200, b"close")
    assert rig.client.received == b""
    rig.advance(2.5)
    assert rig.client.closed
    rig.over([200])


def test_a_drain_that_begins_within_an_answer(rig: Rig) -> None:
    rig.client.send(GET)
    rig.backend().answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    rig.core.draining = True
    rig.backend().answers(b"cd")
    assert rig.client.answer().body == b"abcd"
    assert rig.client.closed
    rig.over([200])


def test_a_drain_while_a_connection_is_dialled(rig: Rig) -> None:
    rig.client.send(GET)
    rig.core.draining = True
    rig.refuses(Failure("draining"))
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"connection")) == (503, b"close")
    assert rig.client.closed
    rig.over([503])


def test_a_request_pins_the_snapshot_that_it_began_with(rig: Rig) -> None:
    rig.client.send(GET)
    backend = rig.backend()
    rig.serve(topology(number=2, pools=[pool("web", "blue", endpoint(2), generation=2)]))
    backend.ok(b"old")
    assert rig.client.answer().body == b"old"
    # No snapshot names its endpoint any more.
    assert backend.closed
    rig.client.send(GET)
    assert rig.backend().endpoint.id == "web-blue-1-2"
    rig.backend().ok(b"new")
    assert rig.client.answer().body == b"new"
    rig.over([200, 200])


def test_a_snapshot_that_comes_within_a_dial(rig: Rig) -> None:
    rig.client.send(GET)
    rig.serve(topology(number=2, pools=[pool("web", "blue", endpoint(2), generation=2)]))
    backend = rig.backend()
    backend.ok(b"old")
    assert rig.client.answer().body == b"old"
    assert backend.closed
    rig.over([200])


def test_a_snapshot_leaves_idle_connections_of_unchanged_endpoints_alone(rig: Rig) -> None:
    rig.client.send(GET)
    rig.backend().ok()
    rig.serve(topology(number=2))
    rig.client.send(GET)
    assert rig.dialling == 0
    rig.backend().ok()
    rig.over([200, 200])


def test_a_retired_endpoints_idle_connections_are_closed(rig: Rig) -> None:
    rig.client.send(GET)
    rig.backend().ok()
    rig.serve(topology(number=2, pools=[pool("web", "blue", endpoint(2), generation=2)]))
    rig.soon.run()
    assert rig.backend().closed
    rig.over([200])


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _goes_away(rig: Rig) -> None:
    rig.core.draining = True
    for connection in list(rig.core.connections):
        connection.leave()
    rig.soon.run()


@pytest.mark.parametrize("first", [b"", b"data: 1\n\n", b"data: 1\r\n\r\n", b"data: 1\r\r"])
def test_an_event_stream_ends_in_order_between_two_events(rig: Rig, first: bytes) -> None:
    rig.client.send(GET)
    backend = rig.backend()
    backend.answers(STREAM + (_chunk(first) if first else b""))
    _goes_away(rig)
    answer = rig.client.answer()
    assert answer.body == first
    assert rig.client.closed
    assert backend.closed
    rig.over([200])


def test_an_event_stream_ends_after_the_event_that_has_begun(rig: Rig) -> None:
    rig.client.send(GET)
    backend = rig.backend()
    backend.answers(STREAM + _chunk(b"data: 1\n\nda"))
    _goes_away(rig)
    backend.answers(_chunk(b"ta: 2\n"))
    assert rig.in_flight() == 1
    backend.answers(_chunk(b"\ndata: 3\n\ndata: 4"))
    assert backend.closed
    # Octet by octet it ends before the third has come.
    third = b"" if rig.octets else b"data: 3\n\n"
    assert rig.client.answer().body == b"data: 1\n\ndata: 2\n\n" + third
    assert rig.client.closed
    rig.over([200])


@pytest.mark.parametrize("lines", [b"Content-Type: text/plain", None])
def test_what_cannot_end_in_order_is_not_shortened(rig: Rig, lines: bytes | None) -> None:
    rig.client.send(GET)
    backend = rig.backend()
    coded = b"Content-Type: text/event-stream\r\nContent-Encoding: gzip"
    head = STREAM.replace(b"Content-Type: text/event-stream", lines or coded)
    backend.answers(head + _chunk(b"data: 1\n\n"))
    _goes_away(rig)
    assert not rig.client.closed
    assert not backend.closed
    backend.answers(_chunk(b"data: 2\n\n") + b"0\r\n\r\n")
    assert rig.client.answer().body == b"data: 1\n\ndata: 2\n\n"
    rig.over([200])


def test_an_event_stream_that_ends_by_itself_while_it_leaves(rig: Rig) -> None:
    rig.client.send(GET)
    backend = rig.backend()
    backend.answers(STREAM + _chunk(b"da"))
    _goes_away(rig)
    backend.answers(_chunk(b"ta: 2") + b"0\r\n\r\n")
    assert rig.client.answer().body == b"data: 2"
    rig.over([200])
