"""A service's queue: who waits for a place in flight, for how long, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.board import layout
from gateway.config.snapshot import (
    Breaker,
    Limits,
    Rescue,
    Retry,
    Route,
    ServiceTraffic,
    Timeouts,
)
from tests.support.rig import (
    SLABS,
    Client,
    Rig,
    endpoint,
    pool,
    service,
    topology,
    traffic,
)

ROW = layout.ROWS_AT + layout.ROW_WORDS


def serve(rig: Rig, limit: int = 1, length: int = 2, wait: float = 0.5, **more: Any) -> None:
    """Have ``web`` with so many places in flight and in its queue."""
    web = service(max_in_flight=limit, queue_length=length, queue_wait=wait, **more)
    rig.serve(topology(services=[web]))


def other(rig: Rig, word: int, value: int) -> None:
    """Have another worker's slab say so of ``web``."""
    rig.words[layout.slab_at(1) + ROW + word] = value


def shed(rig: Rig) -> tuple[int, int]:
    """Return how many were refused: for want of room, after a wait."""
    return rig.row(layout.ROW_SHED), rig.row(layout.ROW_SHED + 1)


def get(rig: Rig, target: str = "/") -> Client:
    return rig.connect().get(target)


def test_one_beyond_the_bound_waits_and_is_next(rig: Rig) -> None:
    serve(rig)
    first, second = get(rig, "/1"), get(rig, "/2")
    assert (rig.dialling, rig.row(layout.ROW_WAITING)) == (1, 1)
    backend = rig.accept()
    rig.now += 0.02
    backend.ok(b"one")
    rig.soon.run()
    assert first.answer().body == b"one"
    # Over the connection that has just become idle: no second one is made.
    assert rig.dialling == 0
    assert rig.row(layout.ROW_WAITING) == 0
    backend.ok(b"two")
    assert second.answer().body == b"two"
    assert rig.log[0].get("queued_ms") is None
    assert rig.log[1]["queued_ms"] == pytest.approx(20, abs=0.1)
    rig.over([200, 200])


def test_first_come_first_served(rig: Rig) -> None:
    serve(rig, length=8)
    clients = [get(rig, f"/{at}") for at in range(5)]
    backend = rig.accept()
    for at in range(5):
        assert backend.request.startswith(b"GET /%d " % at)
        backend.ok(b"%d" % at)
        rig.soon.run()
    assert [client.answer().body for client in clients] == [b"0", b"1", b"2", b"3", b"4"]
    rig.over([200] * 5)


def test_beyond_the_queue_it_is_503_at_once(rig: Rig) -> None:
    serve(rig, limit=1, length=2)
    for _ in range(3):
        get(rig)
    answer = get(rig).answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (503, b"overload")
    assert answer.field(b"retry-after") == b"1"
    assert rig.client.open
    assert shed(rig) == (1, 0)
    # Others see that this worker has more than it may serve.
    assert rig.row(layout.ROW_REFUSED_AT) == int(rig.now * 1e9)
    for client in rig.clients:
        client.leaves()
    rig.over()


def test_no_queue_at_all(rig: Rig) -> None:
    serve(rig, length=0)
    get(rig)
    assert get(rig).answer().status == 503
    serve(rig, length=4, wait=0.0)
    assert get(rig).answer().status == 503
    rig.over()


def test_a_wait_ends(rig: Rig) -> None:
    serve(rig, wait=0.5)
    get(rig)
    waiting = get(rig)
    rig.advance(0.4)
    assert not waiting.received
    rig.advance(0.3)
    answer = waiting.answer()
    assert (answer.status, answer.field(b"retry-after")) == (503, b"1")
    assert shed(rig) == (0, 1)
    assert rig.row(layout.ROW_WAITING) == 0
    assert rig.log[0]["error"] == "overload"
    assert 500 <= rig.log[0]["queued_ms"] <= 700
    rig.backend().ok()
    rig.over([503, 200])


def test_who_has_waited_too_long_is_not_served_late(rig: Rig) -> None:
    """The wheel turns ten times a second; a place that comes in between is for the next one."""
    serve(rig, length=4, wait=0.15)
    get(rig)
    late = get(rig, "/late")
    rig.now += 0.1
    fresh = get(rig, "/fresh")
    rig.now += 0.08
    backend = rig.accept()
    backend.take()
    backend.ok()
    rig.soon.run()
    assert late.answer().status == 503
    assert backend.request.startswith(b"GET /fresh")
    backend.ok()
    assert fresh.answer().status == 200
    rig.over([200, 503, 200])


def test_a_full_queue_of_those_whose_wait_is_over_has_room(rig: Rig) -> None:
    serve(rig, length=1, wait=0.15)
    get(rig)
    late = get(rig)
    rig.now += 0.2
    get(rig)
    assert late.answer().status == 503
    assert not rig.client.received
    assert shed(rig) == (0, 1)
    rig.over()


def test_a_client_that_leaves_makes_room(rig: Rig) -> None:
    serve(rig, length=1)
    get(rig)
    get(rig).leaves()
    assert rig.row(layout.ROW_WAITING) == 0
    assert rig.log[0]["status"] == 499
    waiting = get(rig)
    assert not waiting.received
    rig.backend().ok()
    rig.soon.run()
    rig.backend().ok()
    assert waiting.answer().status == 200
    rig.over([499, 200, 200])


def test_the_wait_is_part_of_the_total_and_no_backends_silence(rig: Rig) -> None:
    serve(rig, wait=60.0, timeouts=Timeouts(total=1.0, first_byte=30.0), retry=Retry())
    get(rig)
    waiting = get(rig)
    rig.backend()
    rig.advance(1.3)
    answer = waiting.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (503, b"overload")
    assert rig.row(layout.ROW_WAITING) == 0
    assert sorted(line["status"] for line in rig.log) == [503, 504]
    rig.over()


def test_nobody_overtakes_whoever_waits(rig: Rig) -> None:
    """Between a place's end and the next turn of the loop comes another request."""
    serve(rig, length=4)
    get(rig, "/1")
    waiting = get(rig, "/2")
    third = rig.connect()
    backend = rig.accept()
    backend.take()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    backend.connection.data_received(head)  # the loop has not turned since
    third.connection.data_received(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert backend.sent == b""
    rig.soon.run()
    assert backend.request.startswith(b"GET /2")
    backend.ok()
    rig.soon.run()
    assert waiting.answer().status == 200
    assert backend.request.startswith(b"GET /3")
    backend.ok()
    rig.over([200, 200, 200])


def test_content_that_comes_meanwhile_is_kept_and_bounded(rig: Rig) -> None:
    serve(rig, length=4, wait=60.0)
    get(rig)
    waiting = rig.connect().send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
    reads = []
    for letter in b"ab":
        waiting.send(bytes([letter]) * 60_000)
        reads.append(waiting.transport.reading)
    assert reads == [True, False]
    waiting.send(b"c" * 80_000)
    backend = rig.accept()
    backend.take()
    backend.ok()
    rig.soon.run()
    head, _, body = backend.take().partition(b"\r\n\r\n")
    assert head.startswith(b"POST /up")
    assert body == b"a" * 60_000 + b"b" * 60_000 + b"c" * 80_000
    assert waiting.transport.reading
    backend.ok()
    assert waiting.answer().status == 200
    rig.over([200, 200])


def test_a_bad_request_does_not_go_on_waiting(rig: Rig) -> None:
    serve(rig, length=4, wait=60.0)
    get(rig)
    waiting = rig.connect().send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert rig.row(layout.ROW_WAITING) == 1
    waiting.send(b"no chunk\r\n")
    assert waiting.answer().status == 400
    assert rig.row(layout.ROW_WAITING) == 0
    rig.over()


# --- releases, retries, rescues -------------------------------------------------------------------


def _released(rig: Rig, **more: Any) -> None:
    web = service(
        max_in_flight=1,
        queue_length=4,
        rescue=Rescue(on=("5xx",), methods=("GET",)),
        breaker=Breaker(failures=0),
        **more,
    )
    moved = ServiceTraffic(service="web", stable="blue", weight=10_000)
    rig.serve(topology(services=[web]), traffic(moved, release="r-1"))


def test_a_rescue_needs_no_second_place(rig: Rig) -> None:
    """The candidate's queue cannot starve it: it goes on in the place that it has."""
    _released(rig)
    first = get(rig, "/1")
    for _ in range(3):
        get(rig)
    rig.accept().ok(status=500)
    assert rig.dialling == 1  # stable, though others wait
    assert rig.row(layout.ROW_WAITING) == 3
    rig.accept().ok(b"stable")
    assert first.answer().body == b"stable"
    for client in rig.clients:
        client.leaves()
    rig.over()


def test_a_retry_needs_no_second_place(rig: Rig) -> None:
    web = service(
        max_in_flight=1,
        queue_length=4,
        retry=Retry(attempts=1, on=("connect",), methods=("GET",), floor=10.0),
    )
    rig.serve(
        topology(services=[web], pools=[pool("web", "blue", endpoint(0), endpoint(1))]),
    )
    first = get(rig)
    get(rig)
    rig.refuses()
    assert rig.row(layout.ROW_WAITING) == 1
    rig.accept().ok()
    assert first.answer().status == 200
    rig.over()


def test_an_endpoint_is_picked_when_the_turn_comes(rig: Rig) -> None:
    web = service(max_in_flight=1, queue_length=4)
    rig.serve(topology(services=[web], pools=[pool("web", "blue", endpoint(0), endpoint(1))]))
    get(rig)
    get(rig)
    assert rig.in_flight(0) + rig.in_flight(1) == 1
    busy = 0 if rig.in_flight(0) else 1
    # The endpoint goes down meanwhile.
    rig.words[layout.cell_at(busy)] = layout.DOWN
    rig.words[layout.cell_at(1 - busy)] = layout.UP
    rig.backend().ok()
    rig.soon.run()
    assert rig.in_flight(1 - busy) == 1
    rig.over()


# --- snapshots and other workers ------------------------------------------------------------------


def test_who_waits_outlives_a_snapshot_and_gets_what_it_has_more(rig: Rig) -> None:
    serve(rig, limit=1, length=4)
    get(rig)
    get(rig)
    serve(rig, limit=3, length=4)
    assert rig.dialling == 1
    rig.advance(0.1)
    assert rig.dialling == 2
    assert rig.row(layout.ROW_WAITING) == 0
    rig.over()


def test_a_place_that_another_worker_leaves_is_found(rig: Rig) -> None:
    """Nobody tells: the wheel's next turn looks, or the next request does."""
    serve(rig, limit=2, length=4)
    other(rig, layout.ROW_IN_FLIGHT, 2)
    first = get(rig)
    assert rig.dialling == 0
    assert not first.received
    other(rig, layout.ROW_IN_FLIGHT, 1)
    rig.advance(0.1)
    assert rig.dialling == 1
    second = get(rig)
    assert (rig.dialling, rig.row(layout.ROW_WAITING)) == (1, 1)
    other(rig, layout.ROW_IN_FLIGHT, 0)
    get(rig)
    assert (rig.dialling, rig.row(layout.ROW_WAITING)) == (2, 1)
    assert not second.received
    rig.over()


def test_the_queue_is_the_machines(rig: Rig) -> None:
    serve(rig, limit=1, length=3)
    other(rig, layout.ROW_IN_FLIGHT, 1)
    other(rig, layout.ROW_WAITING, 3)
    assert get(rig).answer().status == 503
    other(rig, layout.ROW_WAITING, 2)
    assert not get(rig).received
    assert get(rig).answer().status == 503
    other(rig, layout.ROW_WAITING, 0)
    other(rig, layout.ROW_IN_FLIGHT, 0)
    rig.over()


def test_a_worker_that_holds_all_leaves_places_to_one_that_waits(rig: Rig) -> None:
    serve(rig, limit=2, length=8)
    for _ in range(4):
        get(rig)
    backends = [rig.accept(), rig.accept()]
    other(rig, layout.ROW_WAITING, 1)
    backends[0].ok()
    rig.soon.run()
    assert rig.row(layout.ROW_IN_FLIGHT) == 1  # one place is left free
    rig.advance(0.1)
    assert rig.row(layout.ROW_IN_FLIGHT) == 1
    # The other one has taken it, and waits no more.
    other(rig, layout.ROW_WAITING, 0)
    other(rig, layout.ROW_IN_FLIGHT, 1)
    backends[1].ok()
    rig.soon.run()
    assert rig.row(layout.ROW_IN_FLIGHT) == 1
    other(rig, layout.ROW_IN_FLIGHT, 0)
    rig.over()


def test_one_that_others_crowd_out_gets_its_part_of_the_queue(rig: Rig) -> None:
    serve(rig, limit=1, length=4)
    for _ in range(3):
        get(rig)
    other(rig, layout.ROW_REFUSED_AT, int(rig.now * 1e9))
    assert get(rig).answer().status == 503  # two wait already: half of the queue
    rig.now += 0.3
    assert not get(rig).received
    rig.over()


def test_slabs_are_as_the_test_thinks() -> None:
    assert SLABS == 2


# --- what is not shed -----------------------------------------------------------------------------


def test_a_background_refresh_does_not_take_a_clients_place(rig: Rig, tmp_path: Any) -> None:
    rig.caches(tmp_path)
    web = service(max_in_flight=1, queue_length=4)
    rig.serve(
        topology(services=[web], routes=[Route(path="/", service="web", cache=True)], number=2)
    )
    lines = "Cache-Control: max-age=1, stale-while-revalidate=60\r\n"
    get(rig, "/page")
    rig.backend().ok(fields=lines)
    assert rig.client.answer().status == 200
    rig.wall += 5
    get(rig, "/busy")
    stale = get(rig, "/page")
    assert stale.answer().status == 200
    assert rig.row(layout.ROW_WAITING) == 0
    assert shed(rig) == (1, 0)
    rig.over()


def test_what_is_the_gateways_own_is_answered_while_all_places_are_taken(rig: Rig) -> None:
    serve(rig, length=0)
    get(rig)
    assert get(rig).answer().status == 503
    assert get(rig, "/.well-known/gateway/status").answer().status == 200
    rig.over()


def test_connections_over_the_bound_are_counted(rig: Rig) -> None:
    rig.serve(topology(limits=Limits(connections=1)))
    rig.connect()
    rig.connect()
    assert rig.slab(layout.S_CONNECTIONS_SHED) == 1
    rig.over([])
