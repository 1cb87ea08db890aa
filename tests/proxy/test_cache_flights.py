"""One request for many: who waits for whose answer, and what ends the wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.board import layout
from gateway.config.snapshot import ErrorPage, PageForm, Retry, Route
from gateway.proxy.flight import Flight
from gateway.proxy.wheel import Wheel
from tests.support.rig import Rig, endpoint, pool, service, topology

FRESH = "Cache-Control: max-age=60\r\n"
STATUS = b"cache-status"


@pytest.fixture
def cached(rig: Rig, tmp_path: Path) -> Rig:
    rig.caches(tmp_path / "cache")
    return rig


def later(rig: Rig, seconds: float) -> None:
    """Let time pass, by the clock on the wall to the second."""
    rig.advance(seconds)
    rig.wall = float(round(rig.wall))


def test_many_clients_wait_for_one_answer(cached: Rig) -> None:
    clients = [cached.connect(f"192.0.2.{n}") for n in range(1, 6)]
    for client in clients:
        client.get("/a")
    assert cached.dialling == 1
    cached.backend().ok(b"one", FRESH)
    answers = [client.answer() for client in clients]
    assert [answer.body for answer in answers] == [b"one"] * 5
    assert answers[0].field(STATUS) == b"gateway; fwd=uri-miss; stored"
    assert answers[1].field(STATUS) == b"gateway; fwd=uri-miss; collapsed; ttl=60"
    assert cached.row(layout.ROW_CACHE + layout.CACHE_RESULTS.index("coalesced")) == 4
    cached.over([200] * 5)


def test_who_waited_for_what_is_not_kept_asks_for_itself(cached: Rig) -> None:
    first, second = cached.connect(), cached.connect()
    first.get("/a")
    second.get("/a")
    cached.backend().ok(b"first's", "Cache-Control: private\r\n")
    assert first.answer().body == b"first's"
    cached.backend().ok(b"second's", "Cache-Control: private\r\n")
    assert second.answer().body == b"second's"
    # From now on nobody waits for such an answer.
    first.get("/a")
    second.get("/a")
    assert cached.in_flight() == 2
    cached.over()


def test_a_wait_is_bounded(cached: Rig) -> None:
    first, second = cached.connect(), cached.connect()
    first.get("/a")
    slow = cached.backend()
    second.get("/a")
    assert cached.dialling == 0
    later(cached, 6)
    cached.accept().ok(b"second's", FRESH)
    assert second.answer().body == b"second's"
    slow.ok(b"first's", FRESH)
    assert first.answer().body == b"first's"
    cached.over([200, 200])


def test_where_the_first_client_leaves_the_next_one_asks(cached: Rig) -> None:
    clients = [cached.connect() for _ in range(3)]
    for client in clients:
        client.get("/a")
    clients[0].leaves()
    assert cached.dialling == 2
    cached.refuses()  # nobody's any more
    cached.accept().ok(b"one", FRESH)
    assert [client.answer().body for client in clients[1:]] == [b"one"] * 2


def test_who_leaves_while_waiting_is_forgotten(cached: Rig) -> None:
    first, second = cached.connect(), cached.connect()
    first.get("/a")
    second.get("/a")
    second.leaves()
    cached.backend().ok(b"one", FRESH)
    assert first.answer().body == b"one"
    cached.over([499, 200])


def test_a_forced_validation_waits_for_nobodys_older_request(cached: Rig) -> None:
    first, second = cached.connect(), cached.connect()
    first.get("/a")
    cached.accept()
    second.get("/a", "Cache-Control: no-cache\r\n")
    assert cached.dialling == 1
    cached.over()


def test_where_the_first_request_fails_all_go_on_at_once(cached: Rig) -> None:
    clients = [cached.connect() for _ in range(6)]
    for client in clients:
        client.get("/a")
    backend = cached.accept()
    cached.advance(3)
    backend.resets()
    assert cached.dialling == 5
    cached.over()


def intercept_404(cached: Rig) -> None:
    page = ErrorPage(on=("404",), forms=(PageForm(type="text/plain", file=0),), intercept=True)
    cached.serve(
        topology(
            number=3,
            services=[service(error_pages=(page,))],
            routes=[Route(path="/", service="web", cache=True)],
            files=(b"nothing here",),
        )
    )


def test_a_page_is_put_in_place_of_a_stored_error_too(cached: Rig) -> None:
    cached.client.get("/a", "Accept: text/plain\r\n")
    cached.accept().ok(b"raw", FRESH, status=404)
    assert cached.client.answer().body == b"raw"
    intercept_404(cached)
    cached.client.get("/a", "Accept: text/plain\r\n")
    assert cached.client.answer().body == b"nothing here"
    cached.over([404, 404])


def test_where_a_page_is_put_in_place_of_the_answer_all_go_on_at_once(cached: Rig) -> None:
    intercept_404(cached)
    clients = [cached.connect() for _ in range(4)]
    for client in clients:
        client.get("/a", "Accept: text/plain\r\n")
    cached.accept().answers(f"HTTP/1.1 404 No\r\n{FRESH}Content-Length: 9\r\n\r\nhalf".encode())
    assert clients[0].answer().body == b"nothing here"
    assert cached.dialling == 3
    cached.over()


def test_one_request_that_cannot_go_on_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Waiter:
        def __init__(self, error: Exception | None) -> None:
            self.error = error
            self.told = 0

        def go_on(self, again: bool) -> None:
            del again
            self.told += 1
            if self.error is not None:
                raise self.error

    flights: dict[bytes, Flight] = {}
    flight = Flight(flights, b"a", Wheel(0.0), 0.0)
    waiters = [Waiter(None), Waiter(ValueError("broken")), Waiter(None)]
    for waiter in waiters:
        flight.wait(waiter)
    flight.land(again=False)
    assert [waiter.told for waiter in waiters] == [1, 1, 1]
    assert not flights
    assert "could not go on" in caplog.text


def test_the_time_of_waiting_is_not_the_backends(cached: Rig) -> None:
    first, second = cached.connect(), cached.connect()
    first.get("/a")
    second.get("/a")
    cached.advance(3)
    cached.accept().ok(b"his", "Cache-Control: private\r\n")
    first.answer()
    cached.backend().ok(b"hers", "Cache-Control: private\r\n")
    second.answer()
    assert [line["upstream_ms"] for line in cached.log] == [3000.0, 0.0]
    cached.over([200, 200])


def test_an_answer_that_was_held_is_told_as_it_is(cached: Rig) -> None:
    retry = Retry(attempts=1, on=("connect", "503"), methods=("GET",))
    cached.serve(
        topology(
            number=3,
            services=[service(retry=retry)],
            routes=[Route(path="/", service="web", cache=True)],
            pools=[pool("web", "blue", endpoint(0), endpoint(1))],
        )
    )
    for how in (b"gateway; fwd=uri-miss", b"gateway; fwd=stale; fwd-status=503"):
        cached.client.get("/a")
        cached.accept().ok(b"no", "Connection: close\r\n", status=503)
        cached.refuses()
        answer = cached.client.answer()
        assert (answer.status, answer.field(STATUS)) == (503, how)
        cached.client.get("/a")
        while len(cached.core.dials) > 1:
            cached.refuses()
        cached.accept().ok(b"one", 'Cache-Control: max-age=1\r\nETag: "a"\r\nConnection: close\r\n')
        assert cached.client.answer().status == 200
        cached.advance(60)


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        ('If-None-Match: "x"\r\n', "304 Not Modified\r\n"),
        ("Range: bytes=0-1\r\n", "206 Partial Content\r\nContent-Length: 0\r\n"),
        ("Range: bytes=9-\r\n", "416 Range Not Satisfiable\r\nContent-Length: 0\r\n"),
        ("Authorization: Bearer t\r\n", "200 OK\r\nContent-Length: 0\r\n"),
    ],
)
def test_an_answer_to_one_clients_own_terms_ends_no_waiting(
    cached: Rig, asks: str, says: str
) -> None:
    cached.client.get("/a", asks)
    cached.accept().answers(f"HTTP/1.1 {says}{FRESH}Connection: close\r\n\r\n".encode())
    cached.client.answer()
    for _ in range(5):
        cached.connect().get("/a")
    assert cached.dialling == 1
    cached.over()


def test_once_an_answer_is_stored_others_are_waited_for_again(cached: Rig) -> None:
    cached.client.get("/a")
    cached.accept().ok(b"his", "Cache-Control: private\r\nConnection: close\r\n")
    cached.client.answer()
    cached.client.get("/a")
    cached.accept().ok(b"all's", "Cache-Control: max-age=1\r\nConnection: close\r\n")
    cached.client.answer()
    cached.advance(5)
    for _ in range(5):
        cached.connect().get("/a")
    assert cached.dialling == 1
    cached.over()
