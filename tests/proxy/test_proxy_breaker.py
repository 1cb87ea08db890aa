"""Breakers, ejection and slow start, as requests meet them."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pybreaker
import pytest

from gateway.board import layout
from gateway.board.judge import can_serve
from gateway.board.locks import OwnLocks
from gateway.config.snapshot import Breaker, Outlier, Retry, Service
from gateway.proxy.breaker import Breakers, CellStorage, Guard
from tests.support.rig import Rig, endpoint, pool, service, topology


def _serve(rig: Rig, count: int = 1, number: int = 2, **more: Any) -> None:
    values: dict[str, Any] = {"slow_start": 0.0, **more}
    pools = [pool("web", "blue", *(endpoint(cell) for cell in range(count)))]
    rig.serve(topology(number=number, services=[service(**values)], pools=pools))


def _word(rig: Rig, word: int, cell: int = 0) -> int:
    return rig.words[layout.cell_at(cell) + word]


def _set(rig: Rig, word: int, value: int, cell: int = 0) -> None:
    rig.words[layout.cell_at(cell) + word] = value


def _breaker(rig: Rig, cell: int = 0) -> str:
    return layout.BREAKER_NAMES[_word(rig, layout.CELL_BREAKER, cell)]


def _fails(rig: Rig, times: int = 1) -> None:
    for _ in range(times):
        rig.client.get()
        rig.refuses()
        assert rig.client.answer().status == 502


def _works(rig: Rig) -> None:
    rig.client.get()
    rig.backend().ok()
    assert rig.client.answer().status == 200


def _left_alone(rig: Rig) -> int:
    """Make a request that reaches nobody; return its Retry-After."""
    rig.client.get()
    assert rig.dialling == 0
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (503, b"breaker-open")
    return int(answer.field(b"retry-after") or b"0")


def test_five_failures_in_a_row_open_it_and_one_request_tries_again(rig: Rig) -> None:
    _serve(rig)
    _fails(rig, 4)
    _works(rig)  # in a row
    rig.backend().resets()
    _fails(rig, 4)
    assert _breaker(rig) == "closed"
    _fails(rig)
    assert _breaker(rig) == "open"
    assert _left_alone(rig) == 60
    rig.advance(50.5)
    assert _left_alone(rig) == 10
    rig.advance(9.8)
    rig.client.get()
    assert _breaker(rig) == "half_open"
    second = rig.connect()
    second.get()
    assert second.answer().field(b"x-gateway-error") == b"breaker-open"
    rig.backend().ok()
    assert rig.clients[0].answer().status == 200
    assert _breaker(rig) == "closed"
    assert rig.moves == [
        ("web-blue-1-0", "closed", "open"),
        ("web-blue-1-0", "open", "half_open"),
        ("web-blue-1-0", "half_open", "closed"),
    ]
    rig.over()


def test_a_failed_probe_doubles_the_wait(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=1, reset_after=10.0, reset_at_most=35.0))
    _fails(rig)
    for wait in (10, 20, 35, 35):
        assert _left_alone(rig) == wait
        rig.advance(wait + 0.1)
        _fails(rig)
    assert _word(rig, layout.CELL_OPENED) == 5
    rig.advance(36.0)
    _works(rig)
    # Back for long enough: the next opening is a first one.
    rig.backend().resets()
    rig.advance(71.0)
    _fails(rig)
    assert _left_alone(rig) == 10
    rig.over()


def test_soon_after_it_closed_the_wait_goes_on_growing(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=1, reset_after=10.0))
    _fails(rig)
    rig.advance(10.1)
    _works(rig)
    rig.backend().resets()
    _fails(rig)
    assert _left_alone(rig) == 20
    rig.over()


def test_a_probe_whose_client_leaves_has_said_nothing(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=1, reset_after=1.0))
    _fails(rig)
    rig.advance(1.1)
    other = rig.connect()
    other.get()
    other.leaves()
    assert _breaker(rig) == "half_open"
    # At once: whoever comes next tries.
    rig.refuses()
    rig.connect()
    _works(rig)
    assert _breaker(rig) == "closed"
    rig.over()


def test_failures_of_a_client_are_none(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=1, on=("connect", "404", "4xx", "503")))
    for status in (404, 429, 500):
        rig.client.get()
        rig.backend().ok(status=status)
        assert rig.client.answer().status == status
    rig.client.get()
    rig.backend()
    rig.client.leaves()
    assert _breaker(rig) == "closed"
    rig.connect().get()
    rig.backend().ok(status=503)
    assert rig.client.answer().status == 503
    assert _breaker(rig) == "open"
    rig.over()


def test_silence_for_the_whole_request_counts(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=1))
    rig.client.get()
    rig.backend()
    rig.advance(10.3)
    assert rig.client.answer().status == 504
    assert _breaker(rig) == "open"
    rig.over([504])


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_answers_that_break_off_open_it(rig: Rig, framing: str) -> None:
    _serve(rig)
    part = b"0123" if framing.startswith("C") else b"4\r\n0123\r\n"
    for _ in range(5):
        assert _breaker(rig) == "closed"
        rig.connect().get()
        backend = rig.backend()
        backend.answers(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + part)
        backend.resets()
        assert rig.client.cut
    assert _breaker(rig) == "open"
    rig.over([200] * 5)


def test_an_attempt_fails_once(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=2))
    rig.client.get()
    backend = rig.backend()
    backend.answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 10\r\n\r\nso")
    backend.resets()
    assert (_word(rig, layout.CELL_RUN), _breaker(rig)) == (1, "closed")
    rig.over([503])


def test_an_event_stream_has_done_well_once_it_has_begun(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=2))
    _fails(rig)
    rig.client.get()
    rig.backend().answers(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert _word(rig, layout.CELL_RUN) == 0
    rig.client.leaves()
    rig.over()


def test_a_probe_that_says_nothing_gives_way(whole: Rig) -> None:
    rig = whole
    _serve(rig, breaker=Breaker(failures=1, reset_after=1.0))
    _fails(rig)
    rig.advance(1.1)
    slow = rig.connect()
    slow.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 99\r\n\r\n")
    trickle = rig.backend()
    for _ in range(3):
        rig.advance(9.0)
        slow.send(b"x")
    rig.connect().get()
    assert rig.client.answer().field(b"x-gateway-error") == b"breaker-open"
    rig.advance(4.0)
    rig.connect().get()
    rig.accept().ok()
    assert rig.client.answer().status == 200
    assert _breaker(rig) == "closed"
    trickle.resets()
    assert _breaker(rig) in {"closed", "open"}
    rig.over()


def test_off_means_never(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=0))
    _fails(rig, 30)
    assert _breaker(rig) == "closed"
    rig.over()


def test_a_share_of_failures_opens_it_too(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=100, share=0.5, minimum=10, window=10.0))
    for _ in range(5):
        _fails(rig)
        _works(rig)
        rig.backend().resets()
    assert _breaker(rig) == "closed"
    _fails(rig)
    assert _breaker(rig) == "open"
    rig.over()


def test_two_passed_probes_let_a_request_try_early(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=1, probed=True))
    _set(rig, layout.CELL_PASSES, 9)
    _fails(rig)
    # It passed all the time while real requests failed: that says nothing.
    assert _left_alone(rig) == 60
    _set(rig, layout.CELL_PASSES, 10)
    assert _left_alone(rig) == 60
    _set(rig, layout.CELL_PASSES, 11)
    _works(rig)
    assert _breaker(rig) == "closed"
    rig.over()


def test_an_early_try_that_fails_costs_passes_and_no_longer_wait(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=1, probed=True, reset_after=600.0, reset_at_most=9000.0))
    _fails(rig)
    passes = 0
    for needed in (2, 4, 8):
        for _ in range(needed):
            _left_alone(rig)
            passes += 1
            _set(rig, layout.CELL_PASSES, passes)
        assert can_serve(rig.words, 0)
        _fails(rig)
        assert not can_serve(rig.words, 0)
        # What is told is the wait of a first opening, each time.
        assert _left_alone(rig) == 600
    _set(rig, layout.CELL_PASSES, passes + 16)
    _works(rig)
    assert _word(rig, layout.CELL_EARLY) == 0
    rig.over()


def test_a_second_try_is_no_breakers_probe(rig: Rig) -> None:
    retry = Retry(attempts=1, on=("503",), methods=("GET",))
    _serve(rig, 2, breaker=Breaker(failures=3, reset_after=1.0), retry=retry)
    rig.client.get()
    first = rig.backend()
    other = 1 if first.endpoint.id == "web-blue-1-0" else 0
    _set(rig, layout.CELL_BREAKER, layout.BREAKER_OPEN, other)
    first.ok(status=503)
    # The same endpoint once more: it is the only one that can be asked.
    assert rig.backend().endpoint is first.endpoint
    rig.backend().ok(status=503)
    assert rig.client.answer().status == 503
    assert _breaker(rig, other) == "open"
    rig.over([503])


def test_forced_by_hand_it_stays_open(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=1, reset_after=1.0, probed=True))
    _set(rig, layout.CELL_BREAKER, layout.BREAKER_FORCED)
    _set(rig, layout.CELL_PASSES, 99)
    rig.advance(100.0)
    _left_alone(rig)
    _set(rig, layout.CELL_BREAKER, layout.BREAKER_CLOSED)
    _works(rig)
    rig.over()


def test_it_survives_another_snapshot(rig: Rig) -> None:
    _serve(rig, breaker=Breaker(failures=2))
    _fails(rig, 1)
    _serve(rig, number=3, breaker=Breaker(failures=2))
    _fails(rig, 1)
    assert _breaker(rig) == "open"
    _serve(rig, number=4, breaker=Breaker(failures=2, reset_after=5.0))
    assert _left_alone(rig) == 5
    rig.over()


def test_an_open_one_is_passed_over_for_its_peers(rig: Rig) -> None:
    _serve(rig, 2, breaker=Breaker(failures=1, reset_after=5.0))
    _set(rig, layout.CELL_BREAKER, layout.BREAKER_OPEN)
    _set(rig, layout.CELL_BREAKER_CHANGED, int(rig.now * 1e9))
    for _ in range(5):
        rig.client.get()
        backend = rig.backend()
        assert backend.endpoint.id == "web-blue-1-1"
        backend.ok()
        assert rig.client.answer().status == 200
    rig.advance(5.1)
    # A write is not what a doubtful endpoint is tried with, as long as another can take it.
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
    assert rig.backend().endpoint.id == "web-blue-1-1"
    rig.backend().ok()
    rig.client.answer()
    rig.client.get()
    assert rig.accept().endpoint.id == "web-blue-1-0"
    rig.backend().ok()
    assert rig.client.answer().status == 200
    assert _breaker(rig) == "closed"
    rig.over()


def test_a_probe_that_fails_is_retried_elsewhere(rig: Rig) -> None:
    retry = Retry(attempts=1, on=("connect",), methods=("GET",))
    _serve(rig, 2, breaker=Breaker(failures=1, reset_after=5.0), retry=retry)
    _set(rig, layout.CELL_BREAKER, layout.BREAKER_OPEN)
    rig.client.get()
    assert rig.core.dials[0].endpoint.id == "web-blue-1-0"
    rig.refuses()
    backend = rig.accept()
    assert backend.endpoint.id == "web-blue-1-1"
    backend.ok()
    assert rig.client.answer().status == 200
    assert _breaker(rig) == "open"
    rig.over([200])


# --- outliers -----------------------------------------------------------------------------------


def _counts(rig: Rig, cell: int, requests: int, failed: int) -> None:
    at = layout.slab_at(0) + layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS
    rig.words[at + layout.ENDPOINT_REQUESTS] += requests
    rig.words[at + layout.ENDPOINT_FAILURES] += failed


def _guards(rig: Rig, count: int, **more: Any) -> list[Guard]:
    _serve(rig, count, breaker=Breaker(failures=0), outlier=Outlier(**more))
    return [rig.builder.endpoints[f"web-blue-1-{cell}"].guard for cell in range(count)]  # type: ignore[misc]


def _bad_while(rig: Rig, guards: list[Guard], cell: int, share: float) -> None:
    """Have every endpoint take 40 requests, one of them failing a share of them."""
    for guard in guards:
        guard.failed(False)  # the window begins
    for other in range(len(guards)):
        _counts(rig, other, 40, int(40 * share) if other == cell else 0)
    guards[cell].failed(False)


def test_an_outlier_is_ejected_longer_each_time_and_comes_back(whole: Rig) -> None:
    rig = whole
    guards = _guards(rig, 3)
    for length in (30, 60, 90):
        _bad_while(rig, guards, 1, 0.5)
        until = _word(rig, layout.CELL_EJECTED_UNTIL, 1)
        assert until == int(rig.now * 1e9) + length * 10**9
        seen = set()
        for _ in range(12):
            rig.client.get()
            seen.add(rig.backend().endpoint.id)
            rig.backend().ok()
            rig.client.answer()
        assert "web-blue-1-1" not in seen
        rig.advance(length + 0.2)
    assert {move[1:] for move in rig.moves} == {("in_service", "ejected")}
    rig.over()


def test_alike_failures_eject_nobody(whole: Rig) -> None:
    rig = whole
    guards = _guards(rig, 3)
    for guard in guards:
        guard.failed(False)
    for cell in range(3):
        _counts(rig, cell, 40, 12)
    for guard in guards:
        guard.failed(False)
    assert not any(_word(rig, layout.CELL_EJECTED_UNTIL, cell) for cell in range(3))
    rig.over()


def test_the_last_one_is_never_ejected(whole: Rig) -> None:
    rig = whole
    guards = _guards(rig, 2, share=1.0)
    _set(rig, layout.CELL_HEALTH, layout.DOWN, 0)
    _bad_while(rig, guards, 1, 0.9)
    assert _word(rig, layout.CELL_EJECTED_UNTIL, 1) == 0
    _set(rig, layout.CELL_HEALTH, layout.UP, 0)
    _bad_while(rig, guards, 1, 0.9)
    assert _word(rig, layout.CELL_EJECTED_UNTIL, 1) > 0
    rig.over()


# --- slow start -----------------------------------------------------------------------------------


def _chosen(rig: Rig, times: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for n in range(times):
        rig.draws.append((n * 0x9E3779B1) & 0xFFFFFFFF)
        rig.client.get()
        backend = rig.backend()
        seen[backend.endpoint.id] += 1
        backend.ok()
        rig.client.answer()
        rig.draws.clear()
    return seen


@pytest.mark.parametrize("balance", ["least_request", "round_robin"])
def test_one_that_comes_up_is_warmed(whole: Rig, balance: Any) -> None:
    rig = whole
    _serve(rig, 2, slow_start=30.0, balance=balance)
    _set(rig, layout.CELL_WARM_FROM, int(rig.now * 1e9), 1)
    shares = []
    for _ in range(4):
        shares.append(_chosen(rig, 400)["web-blue-1-1"] / 400)
        rig.advance(10.0)
    # A part w of an equal share: w / (1 + w).
    for share, part in zip(shares, (0.1, 1 / 3, 2 / 3, 1.0), strict=True):
        assert abs(share - part / (1 + part)) < 0.03
    rig.over()


def test_a_pool_that_comes_back_as_a_whole_is_not_run_over(whole: Rig) -> None:
    rig = whole
    _serve(rig, slow_start=30.0, max_in_flight=100)
    _set(rig, layout.CELL_WARM_FROM, int(rig.now * 1e9))
    clients = [rig.connect() for _ in range(40)]
    for client in clients:
        client.get()
    assert rig.dialling == 10
    assert clients[-1].answer().field(b"x-gateway-error") == b"overload"
    rig.advance(15.0)
    more = [rig.connect() for _ in range(60)]
    for client in more:
        client.get()
    assert rig.in_flight(0) == 50
    rig.over()


# --- pybreaker over a cell ------------------------------------------------------------------------


def _shared(rig: Rig) -> Breakers:
    return Breakers(rig.words, 2, OwnLocks(), lambda: int(rig.now * 1e9), lambda *_: None)


@pytest.mark.parametrize("jump", [-86_400 * 365, 86_400 * 365])
def test_the_wall_clock_does_not_matter(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(real.timestamp() + jump, tz)

    real = datetime.now(UTC)
    storage = CellStorage(_shared(rig), 0, Breaker())
    machine = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=60, state_storage=storage)
    machine.open()
    monkeypatch.setattr("gateway.proxy.breaker.datetime", Jumping)
    monkeypatch.setattr(pybreaker, "datetime", Jumping)
    rig.now += 59.0
    with pytest.raises(pybreaker.CircuitBreakerError):
        machine.call(lambda: None)
    rig.now += 1.1
    machine.call(lambda: None)
    assert machine.current_state == pybreaker.STATE_CLOSED
    rig.over()


def test_two_workers_see_one_breaker(rig: Rig) -> None:
    shared = _shared(rig)
    mine, theirs = (Guard(shared, "e", 0) for _ in range(2))
    for guard in (mine, theirs):
        guard.policy = Breaker(failures=4, reset_after=1.0)
    for guard in (mine, theirs, mine, theirs):
        guard.failed(True)
    assert _breaker(rig) == "open"
    rig.now += 1.1
    assert mine.may_probe()
    assert not theirs.may_probe()
    mine.end_probe(False)
    assert not theirs.may_probe()
    rig.now += 2.1
    assert theirs.may_probe()
    theirs.end_probe(True)
    assert _breaker(rig) == "closed"
    assert not mine.may_probe()
    rig.over()


def test_a_late_failure_does_not_reopen_what_is_being_probed(rig: Rig) -> None:
    shared = _shared(rig)
    guard = Guard(shared, "e", 0)
    guard.policy = Breaker(failures=1, reset_after=1.0)
    guard.failed(False)
    guard.failed(False)
    assert _word(rig, layout.CELL_OPENED) == 1
    rig.now += 1.1
    assert guard.may_probe()
    guard.failed(False)
    assert _breaker(rig) == "half_open"
    guard.end_probe(True)
    assert _breaker(rig) == "closed"
    rig.over()


def test_a_reset_by_hand_during_a_probe_stands(rig: Rig) -> None:
    guard = Guard(_shared(rig), "e", 0)
    guard.policy = Breaker(failures=1, reset_after=1.0)
    guard.failed(False)
    rig.now += 1.1
    assert guard.may_probe()
    _set(rig, layout.CELL_BREAKER, layout.BREAKER_CLOSED)
    guard.end_probe(False)
    assert _breaker(rig) == "closed"
    rig.over()


class Meanwhile(OwnLocks):
    """Somebody does something by hand just before the short lock is taken."""

    def __init__(self, what: Callable[[], object]) -> None:
        super().__init__()
        self.what = what

    def counting(self, cell: int) -> contextlib.AbstractContextManager[None]:
        self.what()
        return super().counting(cell)


@pytest.mark.parametrize("by_hand", [layout.BREAKER_FORCED, layout.BREAKER_CLOSED])
@pytest.mark.parametrize("good", [True, False])
def test_what_is_done_by_hand_in_the_last_moment_is_not_lost(
    rig: Rig, by_hand: int, good: bool
) -> None:
    shared = _shared(rig)
    guard = Guard(shared, "e", 0)
    guard.policy = Breaker(failures=1, reset_after=1.0)
    guard.failed(False)
    rig.now += 1.1
    plain = shared.locks
    shared.locks = Meanwhile(lambda: _set(rig, layout.CELL_BREAKER, by_hand))
    assert not guard.may_probe()
    assert _word(rig, layout.CELL_BREAKER) == by_hand
    shared.locks = plain
    _set(rig, layout.CELL_BREAKER, layout.BREAKER_OPEN)
    assert guard.may_probe()
    shared.locks = Meanwhile(lambda: _set(rig, layout.CELL_BREAKER, by_hand))
    guard.end_probe(good)
    assert _word(rig, layout.CELL_BREAKER) == by_hand
    rig.over()


def test_a_service_made_by_hand_has_a_breaker() -> None:
    assert Service(name="web", row=1).breaker.failures == 5


def test_a_service_that_is_only_written_to_comes_back_by_itself(whole: Rig) -> None:
    """Read-only for want of it, yet a write is what its open breaker waits for."""
    rig = whole
    _serve(rig)
    write = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx"
    for _ in range(5):
        rig.connect().send(write)
        rig.refuses()
        assert rig.client.answer().status == 502
    rig.advance(5.0)
    rig.connect().send(write)
    assert rig.client.answer().field(b"x-gateway-error") == b"read-only"
    rig.advance(56.0)
    rig.connect().send(write)
    rig.accept().ok()
    assert rig.client.answer().status == 200
    rig.over()


def test_a_failure_leaves_nothing_to_the_collector(rig: Rig) -> None:
    _serve(rig)
    _fails(rig)
    gc.collect()
    _fails(rig, 4)
    assert _breaker(rig) == "open"
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        assert not any(isinstance(one, pybreaker.CircuitBreaker) for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
