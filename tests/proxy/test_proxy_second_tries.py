"""Retries on another endpoint, rescue by stable, and what never happens twice."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.board import layout
from gateway.config.snapshot import Breaker, Cohort, Rescue, Retry, Route, ServiceTraffic, Timeouts
from tests.support.rig import Backend, Rig, endpoint, pool, service, topology, traffic

RETRY = Retry(
    attempts=1,
    on=("connect", "reset", "timeout", "502", "503", "504"),
    methods=("GET", "HEAD", "OPTIONS"),
)
RESCUE = Rescue(on=("connect", "reset", "timeout", "5xx"), methods=("GET", "HEAD"))
GREEN = ServiceTraffic(service="web", stable="blue", weight=10_000)


def _pools(blue: int = 2, green: int = 0) -> list[Any]:
    pools = [pool("web", "blue", *(endpoint(cell) for cell in range(blue)))]
    if green:
        cells = range(blue, blue + green)
        pools.append(pool("web", "green", *(endpoint(cell, color="green") for cell in cells)))
    return pools


def _serve(rig: Rig, *, blue: int = 2, retry: Retry = RETRY, **more: Any) -> None:
    rig.serve(topology(number=2, services=[service(retry=retry, **more)], pools=_pools(blue)))


def _candidate(rig: Rig, *, green: int = 1, retry: Retry = RETRY, rescue: Rescue = RESCUE) -> None:
    services = [service(retry=retry, rescue=rescue)]
    rig.serve(topology(number=2, services=services, pools=_pools(1, green)), traffic(GREEN))


def _post(rig: Rig, body: bytes, *, length: int | None = None) -> None:
    size = len(body) if length is None else length
    rig.client.send(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % size + body
    )


def _error(rig: Rig) -> tuple[int, bytes | None]:
    answer = rig.client.answer()
    return answer.status, answer.field(b"x-gateway-error")


# --- another endpoint -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refused", "reset", "garbage", "503"])
def test_another_endpoint_answers_what_the_first_failed(rig: Rig, how: str) -> None:
    _serve(rig)
    rig.client.get()
    first = rig.core.dials[0].endpoint.id
    if how == "refused":
        rig.refuses()
    elif how == "reset":
        rig.backend().resets()
    elif how == "garbage":
        rig.backend().answers(b"nonsense\r\n\r\n")
    else:
        rig.backend().ok(status=503)
    second = rig.accept()
    assert second.endpoint.id != first
    second.ok(b"here")
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (200, b"here")
    assert answer.field(b"x-gateway-served-by") is None
    assert rig.row(layout.ROW_RETRIES) == 1
    (line,) = rig.log
    assert line["first"] == {"refused": "connect", "garbage": "bad-answer"}.get(how, how)
    rig.over([200])


def test_where_all_fail_the_last_answer_stands(rig: Rig) -> None:
    _serve(rig)
    rig.client.get()
    rig.backend().ok(b"one", status=503)
    rig.accept().ok(b"two", status=502)
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (502, b"two")
    rig.over([502])


def test_an_answer_stands_where_the_next_endpoint_cannot_be_reached(rig: Rig) -> None:
    _serve(rig)
    rig.client.get()
    rig.backend().ok(b"sorry", status=503)
    rig.refuses()
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (503, b"sorry")
    assert answer.field(b"x-gateway-error") is None
    rig.over([503])


def test_as_many_attempts_as_are_configured_and_no_more(rig: Rig) -> None:
    _serve(rig, blue=3, retry=Retry(attempts=4, on=("503",), methods=("GET",), budget=1.0))
    rig.client.get()
    seen = []
    for _ in range(5):
        backend = rig.backend()
        seen.append(backend.endpoint.id)
        backend.ok(status=503)
    assert rig.client.answer().status == 503
    assert set(seen[:3]) == {"web-blue-1-0", "web-blue-1-1", "web-blue-1-2"}
    assert rig.row(layout.ROW_RETRIES) == 4
    rig.over([503])


def test_a_status_that_is_not_named_is_passed_on(rig: Rig) -> None:
    _serve(rig)
    for status in (500, 404, 429):
        rig.client.get()
        rig.backend().ok(status=status)
        assert rig.client.answer().status == status
    assert rig.row(layout.ROW_RETRIES) == 0
    rig.over([500, 404, 429])


def test_no_second_attempt_after_an_octet_went_to_the_client(rig: Rig) -> None:
    _serve(rig)
    rig.client.get()
    backend = rig.backend()
    backend.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    backend.resets()
    assert rig.client.cut
    assert rig.dialling == 0
    assert rig.row(layout.ROW_RETRIES) == 0
    rig.over([200])


def test_a_method_with_effects_is_repeated_only_where_nothing_was_sent(rig: Rig) -> None:
    _serve(rig)
    _post(rig, b"body")
    rig.refuses()
    second = rig.accept()
    assert second.sent.endswith(b"\r\n\r\nbody")
    second.resets()
    assert _error(rig) == (502, b"reset")
    assert rig.dialling == 0
    assert rig.row(layout.ROW_RETRIES) == 1
    rig.over([502])


def test_a_named_method_is_repeated_with_its_whole_body(rig: Rig) -> None:
    _serve(rig, retry=Retry(attempts=1, on=("503",), methods=("POST",)))
    _post(rig, b"first half", length=21)
    first = rig.backend()
    rig.client.send(b", last half")
    assert first.sent.endswith(b"\r\n\r\nfirst half, last half")
    first.ok(status=503)
    second = rig.accept()
    assert second.sent.endswith(b"\r\n\r\nfirst half, last half")
    second.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_a_body_that_is_still_coming_goes_to_the_next(rig: Rig) -> None:
    _serve(rig, retry=Retry(attempts=1, on=("503",), methods=("POST",)))
    _post(rig, b"one", length=6)
    first = rig.backend()
    assert first.sent.endswith(b"one")
    first.answers(b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n")
    rig.client.send(b"two")
    second = rig.accept()
    assert second.sent.endswith(b"\r\n\r\nonetwo")
    second.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_a_chunked_body_is_repeated_octet_for_octet(rig: Rig) -> None:
    _serve(rig, retry=Retry(attempts=1, on=("reset",), methods=("POST",)))
    rig.client.send(
        b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    first = rig.backend()
    sent = first.sent
    first.resets()
    second = rig.accept()
    assert second.sent.partition(b"\r\n\r\n")[2] == sent.partition(b"\r\n\r\n")[2]
    second.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_a_body_beyond_the_bound_is_sent_once(whole: Rig) -> None:
    rig = whole
    retry = Retry(attempts=1, on=("connect", "503"), methods=("POST",), body=8)
    _serve(rig, retry=retry)
    _post(rig, b"x" * 9)
    rig.backend().ok(status=503)
    assert rig.client.answer().status == 503
    _post(rig, b"x" * 8)
    rig.backend().ok(status=503)
    rig.backend().ok()
    assert rig.client.answer().status == 200
    rig.over([503, 200])


def test_a_route_says_off(rig: Rig) -> None:
    routes = [
        Route(path="/", service="web"),
        Route(path="/auth/", service="web", retry=Retry(), rescue=Rescue()),
    ]
    services = [service(retry=RETRY, rescue=RESCUE)]
    rig.serve(
        topology(number=2, services=services, pools=_pools(1, 2), routes=routes), traffic(GREEN)
    )
    rig.client.get("/auth/callback")
    rig.refuses()
    assert _error(rig) == (502, b"connect")
    assert rig.dialling == 0
    rig.over([502])


def test_a_whole_timeout_is_given_to_another_endpoint_and_never_to_the_same(rig: Rig) -> None:
    timeouts = Timeouts(first_byte=1.0)
    _serve(rig, retry=Retry(attempts=3, on=("timeout",), methods=("GET",)), timeouts=timeouts)
    rig.client.get()
    first = rig.backend()
    rig.advance(1.3)
    assert first.cut
    second = rig.accept()
    assert second.endpoint is not first.endpoint
    rig.advance(1.3)
    assert _error(rig) == (504, b"first-byte-timeout")
    assert rig.dialling == 0
    rig.over([504])


def test_the_requests_own_timeout_bounds_all_attempts(rig: Rig) -> None:
    timeouts = Timeouts(first_byte=1.0, total=1.5)
    _serve(rig, timeouts=timeouts)
    rig.client.get()
    rig.backend()
    rig.advance(1.3)
    rig.accept()
    rig.advance(0.5)
    assert _error(rig) == (504, b"total-timeout")
    rig.over([504])


def test_a_client_that_leaves_is_no_failure(rig: Rig) -> None:
    _serve(rig)
    rig.client.get()
    rig.backend()
    rig.client.leaves()
    assert rig.dialling == 0
    assert rig.row(layout.ROW_RETRIES) == 0
    assert rig.cell(0, layout.ENDPOINT_FAILURES) == rig.cell(1, layout.ENDPOINT_FAILURES) == 0
    rig.over([499])


def test_retries_end_with_their_budget(rig: Rig) -> None:
    retry = Retry(attempts=1, on=("503",), methods=("GET",), budget=0.2, floor=1.0)
    _serve(rig, retry=retry, breaker=Breaker(failures=0))
    for _ in range(10):
        rig.client.get()
        rig.backend().ok(status=503)
        if not rig.client.received:
            rig.backend().ok(status=503)
        assert rig.client.answer().status == 503
    assert rig.row(layout.ROW_RETRIES) == 3
    rig.over([503] * 10)


# --- rescue -----------------------------------------------------------------------------------


def _color(backend: Backend) -> tuple[bytes, bytes]:
    fields = backend.fields
    return fields[b"x-release-color"], fields[b"x-release-role"]


@pytest.mark.parametrize("how", ["refused", "reset", "500", "503"])
def test_stable_answers_what_the_candidate_failed(rig: Rig, how: str) -> None:
    _candidate(rig)
    rig.client.get()
    if how == "refused":
        rig.refuses()
        # A retry first: the only endpoint once more.
        rig.refuses()
    else:
        first = rig.backend()
        assert _color(first) == (b"green", b"candidate")
        first.resets() if how == "reset" else first.ok(status=int(how))
        if how != "500":
            again = rig.backend()
            again.resets() if how == "reset" else again.ok(status=int(how))
    stable = rig.accept()
    assert _color(stable) == (b"blue", b"stable")
    stable.ok(b"safe")
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (200, b"safe")
    assert answer.field(b"x-gateway-served-by") == b"rescue"
    assert rig.row(layout.ROW_RESCUES) == 1
    (line,) = rig.log
    # It counts against the candidate all the same.
    assert (line["color"], line["role"], line["served_by"]) == ("green", "candidate", "rescue")
    assert line["first"] == {"refused": "connect"}.get(how, how)
    rig.over([200])


@pytest.mark.parametrize("status", [404, 500, 503])
def test_where_stable_fails_too_the_candidates_answer_stands(rig: Rig, status: int) -> None:
    _candidate(rig, retry=Retry())
    rig.client.get()
    rig.backend().ok(b"mine", status=500)
    rig.accept().ok(b"theirs", status=status)
    answer = rig.client.answer()
    assert (answer.status, answer.body) == (500, b"mine")
    assert answer.field(b"x-gateway-served-by") is None
    assert rig.row(layout.ROW_RESCUES) == 0
    rig.over([500])


def test_where_neither_can_be_reached_the_candidates_failure_is_told(rig: Rig) -> None:
    _candidate(rig, retry=Retry())
    rig.client.get()
    rig.backend().resets()
    rig.refuses()
    assert _error(rig) == (502, b"reset")
    rig.over([502])


def test_stable_knows_better_than_no_answer_what_is_not_there(rig: Rig) -> None:
    _candidate(rig, retry=Retry())
    rig.client.get()
    rig.refuses()
    rig.accept().ok(status=404)
    answer = rig.client.answer()
    assert (answer.status, answer.field(b"x-gateway-served-by")) == (404, b"rescue")
    rig.over([404])


def test_a_write_is_rescued_only_where_nothing_was_sent(rig: Rig) -> None:
    _candidate(rig, retry=Retry())
    _post(rig, b"body")
    rig.refuses()
    stable = rig.accept()
    assert b"X-Release-Color: blue" in stable.sent
    assert stable.sent.endswith(b"\r\n\r\nbody")
    stable.ok()
    assert rig.client.answer().status == 200
    _post(rig, b"body")
    rig.backend().ok(status=500)
    assert rig.client.answer().status == 500
    rig.over([200, 500])


def test_a_dead_candidate_at_any_weight_is_rescued_each_time(rig: Rig) -> None:
    _candidate(rig, retry=Retry(attempts=1, on=("connect",), methods=("GET",), floor=1.0))
    for _ in range(40):
        rig.client.get()
        while rig.dialling and rig.core.dials[0].endpoint.id.startswith("web-green"):
            rig.refuses()
        rig.backend().ok(b"safe")
        assert rig.client.answer().body == b"safe"
    assert rig.row(layout.ROW_RESCUES) == 40
    assert {line["role"] for line in rig.log} == {"candidate"}
    # Its breaker has opened meanwhile: nobody has waited for it any more.
    assert rig.cell(1, layout.ENDPOINT_REQUESTS) == 5
    rig.over([200] * 40)


def test_what_stable_fails_is_nobodys_to_rescue(rig: Rig) -> None:
    services = [service(retry=Retry(), rescue=RESCUE)]
    rig.serve(topology(number=2, services=services, pools=_pools(1, 1)))
    rig.client.get()
    rig.backend().ok(status=500)
    assert rig.client.answer().status == 500
    assert rig.dialling == 0
    rig.over([500])


def test_a_large_body_that_nothing_of_was_sent_is_not_lost(whole: Rig) -> None:
    rig = whole
    _serve(rig, retry=Retry(attempts=1, on=("connect",), methods=("GET",), body=8))
    _post(rig, b"x" * 40_000, length=90_000)
    rig.refuses()
    rig.client.send(b"x" * 50_000)
    second = rig.accept()
    assert len(second.sent.partition(b"\r\n\r\n")[2]) == 90_000
    second.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_a_testers_token_is_in_no_attempts_target(rig: Rig) -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    rig.serve(
        topology(
            number=2,
            services=[service(retry=RETRY)],
            pools=_pools(2),
            cohort=Cohort(secret=secret),
        )
    )
    rig.client.get("/page?gw_override=token&a=1")
    rig.backend().ok(status=503)
    second = rig.backend()
    assert second.sent.startswith(b"GET /page?a=1 HTTP/1.1\r\n")
    second.ok()
    assert rig.client.answer().status == 200
    rig.over([200])


def test_an_asset_that_the_next_endpoint_lacks_is_asked_of_the_other_color(rig: Rig) -> None:
    services = [service(retry=RETRY)]
    rig.serve(topology(number=2, services=services, pools=_pools(2, 1), assets=("/a/*",)))
    rig.client.get("/a/x.js")
    rig.backend().ok(status=503)
    rig.backend().ok(b"no", status=404)
    other = rig.accept()
    assert b"X-Release-Color: green" in other.sent
    other.ok(b"yes")
    assert rig.client.answer().body == b"yes"
    rig.over([200])


def test_a_backend_that_content_went_past_is_never_sent_more_of_it(whole: Rig) -> None:
    """Else it would read the next request on its connection as the rest of this one."""
    rig = whole
    _serve(rig, retry=Retry(attempts=1, on=("503", "reset"), methods=("POST",)))
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n01234")
    first = rig.backend()
    first.answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nso")
    second = rig.accept()
    rig.client.send(b"567")
    second.resets()
    rig.client.send(b"89")
    first.answers(b"ry")
    assert bytes(first.transport.sent).endswith(b"01234")
    assert first.closed
    assert rig.client.answer().status == 503
    rig.over([503])


def test_off_means_that_nothing_is_ever_sent_twice(rig: Rig) -> None:
    routes = [
        Route(path="/", service="web"),
        Route(path="/auth/", service="web", retry=Retry(never=True), rescue=Rescue()),
    ]
    services = [service(retry=RETRY)]
    rig.serve(topology(number=2, services=services, pools=_pools(1), routes=routes))
    rig.client.get()
    idle = rig.backend()
    idle.ok()
    assert rig.client.answer().status == 200
    rig.client.get("/auth/callback")
    # Not over the idle connection: it may be closing, and then who knows.
    own = rig.accept()
    assert own is not idle
    own.resets()
    assert _error(rig) == (502, b"reset")
    assert rig.dialling == 0
    rig.over([200, 502])


def test_what_may_have_arrived_is_not_tried_elsewhere_by_any_method(whole: Rig) -> None:
    rig = whole
    _serve(rig, blue=2, retry=Retry(attempts=1, on=("connect",), methods=("GET",)))
    rig.client.get()
    rig.backend().ok()
    rig.client.answer()
    rig.client.send(b"DELETE / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    rig.backend().resets()
    # The idle connection was closing: the same endpoint is dialled anew, which is refused.
    rig.refuses()
    assert _error(rig) == (502, b"connect")
    assert rig.dialling == 0
    rig.over([200, 502])
