"""What is counted of requests, and which of them are told one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel.histogram import bucket_of
from gateway.channel.messages import Counted, Failures, RequestFailed, Tally
from gateway.config.snapshot import (
    Breaker,
    Cohort,
    Limits,
    Rescue,
    Retry,
    Route,
    ServiceTraffic,
    Timeouts,
    Topology,
    Watch,
)
from gateway.policy.override import mint, mint_probe
from gateway.proxy import tally
from gateway.proxy.errors import Failure
from gateway.proxy.tally import ServiceTally, Tallies
from tests.support.rig import EPOCH, START, Rig, endpoint, pool, service, topology, traffic

SECRET = b"0123456789abcdef0123456789abcdef"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
FRESH = "Cache-Control: max-age=60\r\n"
#: Nothing of what the gateway does about failures.
BARE = {"retry": Retry(), "rescue": Rescue(), "breaker": Breaker(failures=0)}
RETRY = Retry(attempts=1, on=("connect", "reset", "timeout", "503"), methods=("GET",))
RESCUE = Rescue(on=("connect", "reset", "timeout", "5xx"), methods=("GET",))


def split(
    rig: Rig,
    weight: int = 10_000,
    *,
    what: Topology | None = None,
    release: str = "r-1",
    watch: Watch | None = None,
    **more: Any,
) -> None:
    """Serve ``web`` with this share on green; without ``more`` nothing is done about failures."""
    moved = traffic(ServiceTraffic(service="web", stable="blue", weight=weight), release=release)
    if watch is not None:
        moved = msgspec.structs.replace(moved, watch=(watch,))
    rig.serve(what or topology(number=2, services=[service(**(BARE | more))]), moved)


def counted(rig: Rig) -> list[Counted]:
    """Return the rows that are told of now, without those of before."""
    rig.tallies.flush()
    rows = [row for message in rig.told if isinstance(message, Tally) for row in message.rows]
    rig.told[:] = [message for message in rig.told if not isinstance(message, Tally)]
    return rows


def row(rig: Rig) -> Counted:
    """Return the one row that there is."""
    (only,) = counted(rig)
    return only


def failures(rig: Rig) -> list[RequestFailed]:
    """Return the failures told so far, and forget them."""
    rig.soon.run()
    found = [
        one for message in rig.told if isinstance(message, Failures) for one in message.failures
    ]
    rig.told[:] = [message for message in rig.told if not isinstance(message, Failures)]
    return found


def kinds(rig: Rig) -> list[tuple[str, str]]:
    return [(one.metric, one.kind) for one in failures(rig)]


def nothing(rig: Rig) -> None:
    """Assert that nobody is told anything."""
    assert counted(rig) == []
    assert failures(rig) == []


# --- counts -----------------------------------------------------------------------------------


def test_a_request_is_counted_for_its_side_with_its_key_and_its_time(rig: Rig) -> None:
    split(rig)
    rig.client.get()
    backend = rig.backend()
    key = backend.fields[b"x-release-key"]
    rig.now += 0.25
    backend.ok()
    assert row(rig) == Counted(
        service="web",
        color="green",
        candidate=True,
        weight=10_000,
        requests=1,
        failed=0,
        timed=1,
        slow=0,
        judged=1,
        keys=(int(key, 16),),
        histogram=((bucket_of(0.25), 1),),
    )
    assert failures(rig) == []
    rig.over([200])


def test_a_key_is_told_once_and_stables_never(rig: Rig) -> None:
    split(rig)
    for _ in range(2):
        rig.client.get()
        rig.backend().ok()
    rig.connect("192.0.2.2").get()
    rig.backend().ok()
    first = row(rig)
    assert (first.requests, first.judged, len(set(first.keys))) == (3, 3, 2)
    rig.client.get()
    rig.backend().ok()
    assert row(rig).keys == ()
    split(rig, weight=1)
    rig.connect("192.0.2.3").get()
    rig.backend().ok()
    stable = row(rig)
    assert (stable.color, stable.candidate, stable.weight) == ("blue", False, 1)
    assert (stable.judged, stable.keys) == (1, ())
    rig.over()


def test_each_weight_has_its_row(rig: Rig) -> None:
    for weight in (10_000, 9_999):
        split(rig, weight)
        rig.client.get()
        rig.backend().ok()
    assert [(each.weight, each.requests) for each in counted(rig)] == [(10_000, 1), (9_999, 1)]
    rig.over()


def test_where_nothing_is_split_requests_are_only_counted(rig: Rig) -> None:
    split(rig, 0, release="")
    for status in (200, 500, 404):
        rig.client.get()
        rig.backend().ok(status=status)
    only = row(rig)
    assert (only.candidate, only.weight, only.requests, only.failed) == (False, 0, 3, 1)
    assert (only.timed, only.judged, only.keys) == (3, 0, ())
    assert failures(rig) == []
    rig.over()


# --- what a failure is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("refused", "connect"),
        ("unresolved", "unresolved"),
        ("no connection in time", "connect-timeout"),
        ("reset", "reset"),
        ("garbage", "bad-answer"),
        ("500", "500"),
        ("503", "503"),
        ("599", "599"),
        ("no head in time", "first-byte-timeout"),
        ("cut", "truncated"),
        ("cut after an error's head", "502"),
        ("stalled", "between-bytes-timeout"),
        ("a broken chunk", "bad-answer"),
    ],
)
def test_what_a_backend_does_wrong_is_told(rig: Rig, how: str, kind: str) -> None:
    split(rig)
    rig.client.get()
    if how in {"refused", "unresolved", "no connection in time"}:
        rig.refuses(Failure(kind))
    elif how == "reset":
        rig.backend().resets()
    elif how == "garbage":
        rig.backend().answers(b"nonsense\r\n\r\n")
    elif how == "no head in time":
        rig.backend()
        rig.advance(10.2)
    elif how.startswith("cut"):
        status = 502 if "error" in how else 200
        rig.backend().answers(b"HTTP/1.1 %d X\r\nContent-Length: 9\r\n\r\nhal" % status).resets()
    elif how == "stalled":
        rig.backend().answers(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhal")
        rig.advance(31.0)
    elif how == "a broken chunk":
        rig.backend().answers(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    else:
        rig.backend().ok(status=int(how))
    (told,) = failures(rig)
    assert (told.service, told.color, told.candidate) == ("web", "green", True)
    assert (told.weight, told.metric, told.kind, told.slower) == (10_000, "error", kind, 0)
    assert rig.wall - 1.5 <= told.at <= rig.wall
    only = row(rig)
    assert (only.requests, only.failed, only.judged) == (1, 1, 1)
    assert only.keys == (told.key,)
    assert only.timed == (
        0
        if kind in {"connect", "unresolved", "reset", "bad-answer"} and (how != "a broken chunk")
        else 1
    )
    rig.over()


def test_a_backend_that_takes_all_of_the_time_has_failed(rig: Rig) -> None:
    split(rig, timeouts=Timeouts(first_byte=50.0, total=5.0))
    rig.client.get()
    rig.backend()
    rig.advance(5.3)
    assert kinds(rig) == [("error", "total-timeout")]
    assert row(rig).failed == 1
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhal")
    rig.advance(5.3)
    assert row(rig).failed == 1
    rig.over([504, 200])


def test_a_client_that_takes_all_of_the_time_is_nobodys_failure(rig: Rig) -> None:
    split(rig, timeouts=Timeouts(total=5.0))
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhal")
    rig.backend()
    rig.advance(5.3)
    assert rig.client.answer().status == 504
    nothing(rig)
    rig.over([504])


def test_one_that_reads_its_answer_slowly_is_neither(whole: Rig) -> None:
    split(whole, timeouts=Timeouts(total=5.0))
    whole.client.transport.stuck = True
    whole.client.get()
    whole.backend().answers(b"HTTP/1.1 200 X\r\nContent-Length: 400000\r\n\r\n" + bytes(200_000))
    whole.advance(5.3)
    assert failures(whole) == []
    assert row(whole).failed == 0
    whole.over([200])


def test_a_stale_idle_connection_is_no_failure(rig: Rig) -> None:
    split(rig)
    rig.client.get()
    rig.backend().ok()
    rig.client.get()
    rig.backend().resets()
    rig.accept().ok()
    only = row(rig)
    assert (only.requests, only.failed) == (2, 0)
    rig.over([200, 200])


# --- the first attempt counts -------------------------------------------------------------------


@pytest.mark.parametrize(("how", "kind"), [("503", "503"), ("500", "500"), ("reset", "reset")])
def test_a_rescued_request_failed_at_the_candidate(rig: Rig, how: str, kind: str) -> None:
    split(rig, rescue=RESCUE)
    rig.client.get()
    if how == "reset":
        rig.backend().resets()
    else:
        rig.backend().ok(status=int(how))
    rig.now += 3.0
    rig.accept().ok()
    assert rig.client.answer().field(b"x-gateway-served-by") == b"rescue"
    only = row(rig)
    assert (only.color, only.candidate, only.requests, only.failed) == ("green", True, 1, 1)
    assert only.slow == 0
    assert kinds(rig) == [("error", kind)]
    rig.over([200])


def test_a_retried_request_failed_whatever_comes_then(rig: Rig) -> None:
    pools = [
        pool("web", "blue", endpoint(0)),
        pool("web", "green", *(endpoint(cell, color="green") for cell in (1, 2))),
    ]
    services = [service(retry=RETRY, breaker=Breaker(failures=0))]
    split(rig, what=topology(number=2, services=services, pools=pools))
    rig.client.get()
    rig.backend().ok(status=503)
    rig.accept().answers(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhal").resets()
    assert kinds(rig) == [("error", "503")]
    only = row(rig)
    assert (only.requests, only.failed) == (1, 1)
    rig.over()


def test_what_stable_does_wrong_in_a_rescue_is_not_the_candidates_nor_counted(rig: Rig) -> None:
    split(rig, rescue=RESCUE)
    rig.client.get()
    rig.backend().ok(status=500)
    rig.accept().answers(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhal").resets()
    assert kinds(rig) == [("error", "500")]
    assert [each.color for each in counted(rig)] == ["green"]
    rig.over()


@pytest.mark.parametrize("then", ["reset", "total-timeout"])
def test_what_becomes_of_the_second_attempt_changes_nothing(rig: Rig, then: str) -> None:
    split(rig, rescue=RESCUE, timeouts=Timeouts(first_byte=50.0, total=5.0))
    rig.client.get()
    rig.backend().answers(b"nonsense\r\n\r\n")
    stable = rig.accept()
    if then == "reset":
        stable.resets()
    else:
        rig.advance(5.3)
    assert kinds(rig) == [("error", "bad-answer")]
    only = row(rig)
    assert (only.failed, only.timed) == (1, 0)
    rig.over()


def test_an_asset_that_the_other_color_has_is_no_refusal(rig: Rig) -> None:
    split(rig, what=topology(number=2, assets=("/assets/*",)))
    rig.client.get("/assets/a.css")
    rig.backend().ok(status=404)
    rig.accept().ok()
    only = row(rig)
    assert (only.color, only.requests, only.failed, only.judged) == ("green", 1, 0, 1)
    rig.client.get("/assets/b.css")
    rig.backend().ok(status=403)
    assert kinds(rig) == []
    rig.client.get("/other")
    rig.backend().ok(status=404)
    assert kinds(rig) == [("refusal", "404")]
    rig.over([200, 403, 404])


# --- the second metric ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_refusals_are_a_metric_of_their_own(rig: Rig, status: int) -> None:
    split(rig)
    rig.client.get()
    rig.backend().ok(status=status)
    assert kinds(rig) == [("refusal", str(status))]
    only = row(rig)
    assert (only.failed, only.judged) == (0, 1)
    rig.over([status])


@pytest.mark.parametrize("status", [200, 204, 304, 400, 402, 405, 410, 423])
def test_other_answers_are_not(rig: Rig, status: int) -> None:
    split(rig)
    rig.client.get()
    rig.backend().answers(
        b"HTTP/1.1 %d X\r\n%b\r\n"
        % (status, b"" if status in {204, 304} else b"Content-Length: 0\r\n")
    )
    assert kinds(rig) == []
    assert row(rig).judged == 1
    rig.over([status])


def test_a_key_is_told_of_once_a_metric(rig: Rig) -> None:
    split(rig)
    for status in (404, 403, 500, 503, 401):
        rig.client.get()
        rig.backend().ok(status=status)
    assert kinds(rig) == [("refusal", "404"), ("error", "500")]
    only = row(rig)
    # The first failure of a key is the last request that the sides are compared by.
    assert (only.requests, only.failed, only.judged) == (5, 2, 3)
    rig.connect("192.0.2.2").get()
    rig.backend().ok(status=503)
    assert kinds(rig) == [("error", "503")]
    rig.over()


# --- what is left out ---------------------------------------------------------------------------


def test_a_testers_requests_are_left_out(rig: Rig) -> None:
    split(rig, 1, what=topology(number=2, cohort=Cohort(secret=SECRET)))
    token = mint(SECRET, host="a.example", release="r-1", side="candidate", expires=int(EPOCH) + 60)
    rig.client.get(fields=f"gw_override: {token}\r\n")
    assert rig.backend().fields[b"x-release-color"] == b"green"
    rig.backend().ok(status=500)
    nothing(rig)
    rig.over([500])


def test_integration_checks_are_left_out(rig: Rig) -> None:
    split(rig, 1, what=topology(number=2, cohort=Cohort(probe_secret=SECRET)))
    token = mint_probe(SECRET, "green", int(EPOCH) + 30)
    rig.client.get(fields=f"gw_override: {token}\r\n")
    rig.backend().ok(status=500)
    nothing(rig)
    rig.over([500])


def test_a_backends_429_is_left_out(rig: Rig) -> None:
    split(rig)
    rig.client.get()
    rig.backend().ok(status=429)
    nothing(rig)
    rig.over([429])


@pytest.mark.parametrize("stage", ["before the head", "within the body", "within the request"])
def test_clients_that_left_are_left_out(rig: Rig, stage: str) -> None:
    split(rig)
    if stage == "within the request":
        rig.client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhal")
    else:
        rig.client.get()
    backend = rig.backend()
    if stage == "within the body":
        backend.answers(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhal")
    rig.client.leaves()
    nothing(rig)
    rig.over()


def test_a_client_that_stopped_reading_is_left_out(whole: Rig) -> None:
    split(whole)
    whole.client.transport.stuck = True
    whole.client.get()
    whole.backend().answers(b"HTTP/1.1 200 X\r\nContent-Length: 400000\r\n\r\n" + bytes(200_000))
    whole.advance(31.0)
    assert whole.log[0]["error"] == "client-slow"
    nothing(whole)
    whole.over()


def test_a_client_that_gives_up_after_a_truncated_answer_did_not_leave(rig: Rig) -> None:
    split(rig)
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhal").resets()
    rig.client.leaves()
    assert kinds(rig) == [("error", "truncated")]
    rig.over()


@pytest.mark.parametrize("what", ["no-route", "no-endpoint", "overload", "body-too-large", "bad"])
def test_the_gateways_own_refusals_are_left_out(rig: Rig, what: str) -> None:
    if what == "no-route":
        split(rig, what=topology(number=2, routes=[Route(path="/", host="b", service="web")]))
    elif what == "no-endpoint":
        split(rig, what=topology(number=2, pools=[]))
    elif what == "overload":
        split(rig, max_in_flight=0)
    elif what == "body-too-large":
        split(rig, what=topology(number=2, limits=Limits(await_body=0, body=4)))
    if what == "body-too-large":
        rig.client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhal")
    elif what == "bad":
        split(rig)
        rig.client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    else:
        rig.client.get()
    assert rig.client.answer().status >= 400
    nothing(rig)
    rig.over()


@pytest.mark.parametrize("how", ["full", "waited"])
def test_what_is_shed_is_left_out(rig: Rig, how: str) -> None:
    split(rig, max_in_flight=1, queue_length=1, queue_wait=0.3)
    rig.connect().get()
    waiting = rig.connect().get()
    last = rig.connect().get()
    assert last.answer().status == 503
    if how == "waited":
        rig.advance(0.5)
        assert waiting.answer().status == 503
    nothing(rig)
    rig.over()


def test_a_wait_in_the_queue_is_not_the_sides(rig: Rig) -> None:
    split(rig, max_in_flight=1, queue_length=1, queue_wait=5.0)
    rig.connect().get()
    waiting = rig.connect().get()
    rig.now += 1.0
    rig.backend().ok()
    rig.soon.run()
    assert row(rig).histogram == ((bucket_of(1.0), 1),)
    rig.now += 0.25
    rig.backend().ok()
    assert waiting.answer().status == 200
    assert row(rig).histogram == ((bucket_of(0.25), 1),)
    rig.over([200, 200])


def test_maintenance_is_left_out(rig: Rig) -> None:
    moved = ServiceTraffic(service="web", stable="blue", weight=10_000, maintenance=5.0)
    rig.serve(topology(number=2), traffic(moved, release="r-1"))
    rig.client.get()
    assert rig.client.answer().status == 503
    nothing(rig)
    rig.over([503])


def test_an_open_breaker_is_no_backends_answer(rig: Rig) -> None:
    split(rig, breaker=Breaker(failures=1), slow_start=0.0)
    rig.client.get()
    rig.refuses()
    assert kinds(rig) == [("error", "connect")]
    assert row(rig).failed == 1
    rig.client.get()
    assert rig.client.answers()[-1].field(b"x-gateway-error") == b"breaker-open"
    nothing(rig)
    rig.over([502, 503])


@pytest.mark.parametrize(("method", "told"), [("FROB", []), ("POST", [("error", "501")])])
def test_a_method_of_a_strangers_own_is_no_failure_of_the_candidates(
    rig: Rig, method: str, told: list[tuple[str, str]]
) -> None:
    """Many servers say 501 to a word that they do not know: anybody can have that said."""
    split(rig)
    rig.client.send(f"{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
    rig.backend().ok(status=501)
    assert rig.client.answer().status == 501
    assert kinds(rig) == told
    assert [each.failed for each in counted(rig)] == [1] * len(told)
    rig.over([501])


@pytest.mark.parametrize("how", ["200", "500", "reset", "total-timeout"])
def test_stable_in_place_of_an_open_breaker_is_nobodys_first_attempt(rig: Rig, how: str) -> None:
    breaker, timeouts = Breaker(failures=1), Timeouts(first_byte=50.0, total=5.0)
    split(rig, rescue=RESCUE, breaker=breaker, slow_start=0.0, timeouts=timeouts)
    rig.client.get()
    rig.refuses()
    rig.accept().ok()
    assert kinds(rig) == [("error", "connect")]
    assert row(rig).failed == 1
    rig.connect("192.0.2.2").get()
    if how == "reset":
        rig.backend().resets()
        rig.accept().resets()
    elif how == "total-timeout":
        rig.advance(5.3)
    else:
        rig.backend().ok(status=int(how))
    nothing(rig)
    rig.over()


def test_where_the_other_side_was_asked_the_request_is_only_counted(rig: Rig) -> None:
    split(rig, what=topology(number=2, pools=[pool("web", "blue", endpoint(0))]))
    rig.client.get()
    rig.backend().ok(status=500)
    only = row(rig)
    assert (only.color, only.candidate, only.requests, only.failed) == ("blue", False, 1, 1)
    assert (only.judged, only.keys) == (0, ())
    assert failures(rig) == []
    rig.over([500])


def test_stables_clients_on_the_candidate_are_none_of_its_own(rig: Rig) -> None:
    pools = [pool("web", "green", endpoint(1, color="green"))]
    split(rig, 1, what=topology(number=2, pools=pools))
    rig.client.get()
    rig.backend().ok(status=500)
    only = row(rig)
    assert (only.color, only.candidate, only.requests, only.failed) == ("green", True, 1, 1)
    assert (only.judged, only.keys) == (0, ())
    assert failures(rig) == []
    rig.over([500])


def test_a_connection_that_our_own_end_gave_up_is_left_out(rig: Rig) -> None:
    split(rig)
    rig.client.get()
    rig.refuses(Failure("draining"))
    nothing(rig)
    rig.over([503])


# --- caches -------------------------------------------------------------------------------------


def test_what_a_cache_might_have_answered_is_only_counted(rig: Rig, tmp_path: Path) -> None:
    rig.caches(tmp_path)
    split(rig, what=rig.topology, watch=Watch(service="web", thresholds=(0.1,)))
    rig.client.get()
    rig.now += 3.0
    rig.backend().ok(status=500)
    rig.client.get("/missing")
    rig.backend().ok(status=404)
    only = row(rig)
    assert (only.requests, only.failed, only.timed, only.slow) == (2, 1, 2, 1)
    assert only.judged == 0
    assert failures(rig) == []
    rig.client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
    rig.backend().ok(status=500)
    assert kinds(rig) == [("error", "500")]
    assert row(rig).judged == 1
    rig.over([500, 404, 500])


def test_a_copy_asks_nobody_and_is_not_counted(rig: Rig, tmp_path: Path) -> None:
    store = rig.caches(tmp_path)
    split(rig, what=rig.topology)
    rig.client.get()
    rig.backend().ok(fields=FRESH)
    store.flush()
    rig.soon.run()
    assert row(rig).requests == 1
    rig.client.get()
    assert rig.client.answers()[-1].field(b"cache-status") is not None
    assert rig.dialling == 0
    nothing(rig)
    rig.client.get("/other", fields="Cache-Control: only-if-cached\r\n")
    assert rig.client.answer().status == 504
    nothing(rig)
    rig.over([200, 200, 504])


# --- latency ------------------------------------------------------------------------------------


WATCH = Watch(service="web", thresholds=(0.1, 0.2, 2.0), objective=1.0)


def _takes(rig: Rig, seconds: float, status: int = 200) -> None:
    rig.client.get()
    backend = rig.backend()
    rig.now += seconds
    backend.ok(status=status)


def test_a_key_is_told_of_once_a_threshold(rig: Rig) -> None:
    split(rig, watch=WATCH)
    for seconds in (0.05, 0.15, 0.12, 3.0, 0.25):
        _takes(rig, seconds)
    told = failures(rig)
    assert [(one.metric, one.kind, one.slower) for one in told] == [
        ("slow", "200", 0b001),
        ("slow", "200", 0b110),
    ]
    only = row(rig)
    assert (only.timed, only.slow, only.judged) == (5, 1, 5)
    assert only.histogram == tuple(
        (bucket_of(seconds), 1) for seconds in (0.05, 0.12, 0.15, 0.25, 3.0)
    )
    rig.over()


def test_the_candidate_has_thresholds_of_its_own(rig: Rig) -> None:
    watch = msgspec.structs.replace(WATCH, candidates=(0.3, 0.25, 2.0))
    split(rig, watch=watch)
    for seconds in (0.15, 0.24, 0.26, 0.4):
        _takes(rig, seconds)
    assert [(one.candidate, one.slower) for one in failures(rig)] == [(True, 0b010), (True, 0b001)]
    split(rig, 1, release="r-2", watch=watch)
    rig.told.clear()
    _takes(rig, 0.15)
    assert [(one.candidate, one.slower) for one in failures(rig)] == [(False, 0b001)]
    rig.over()


def test_the_body_takes_its_own_time(rig: Rig) -> None:
    split(rig, watch=WATCH)
    rig.client.get()
    rig.backend().answers(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhal")
    rig.advance(5.0)
    rig.backend().answers(b"f done")
    assert row(rig).slow == 0
    assert failures(rig) == []
    rig.over([200])


def test_a_timeout_is_slower_than_everything(rig: Rig) -> None:
    watch = Watch(service="web", thresholds=(0.5, 500.0), objective=500.0)
    split(rig, watch=watch, timeouts=Timeouts(first_byte=1.0))
    rig.client.get()
    rig.backend()
    rig.advance(1.2)
    told = failures(rig)
    assert [(one.metric, one.kind, one.slower) for one in told] == [
        ("error", "first-byte-timeout", 0),
        ("slow", "first-byte-timeout", 0b11),
    ]
    only = row(rig)
    assert (only.timed, only.slow) == (1, 1)
    ((bucket, _),) = only.histogram
    assert bucket_of(0.9) < bucket < bucket_of(1.4)
    rig.over([504])


def test_event_streams_have_no_latency(rig: Rig) -> None:
    split(rig, watch=WATCH)
    rig.client.get()
    backend = rig.backend()
    rig.now += 5.0
    backend.answers(EVENTS + b"data: x\n\n").ends()
    only = row(rig)
    assert (only.requests, only.judged, only.timed, only.histogram) == (1, 1, 0, ())
    assert failures(rig) == []
    rig.over([200])


@pytest.mark.parametrize("status", [101, 200, 500])
def test_upgrades_have_no_latency(rig: Rig, status: int) -> None:
    split(rig, watch=WATCH)
    rig.client.get(fields=UPGRADE)
    backend = rig.backend()
    rig.now += 5.0
    if status == 101:
        backend.answers(SWITCH)
    else:
        backend.ok(status=status)
    # A tunnel is counted as soon as it is open.
    only = row(rig)
    assert (only.requests, only.judged, only.timed) == (1, 1, 0)
    assert kinds(rig) == ([("error", "500")] if status == 500 else [])
    rig.client.leaves()
    nothing(rig)
    rig.over([status])


def test_a_cold_candidate_has_no_latency_but_errors(rig: Rig) -> None:
    split(rig, watch=msgspec.structs.replace(WATCH, cold_until=START + 10.0))
    _takes(rig, 5.0, status=500)
    assert kinds(rig) == [("error", "500")]
    only = row(rig)
    assert (only.requests, only.failed, only.judged, only.timed) == (1, 1, 1, 0)
    rig.now = START + 10.0
    _takes(rig, 5.0)
    assert [one.slower for one in failures(rig)] == [0b111]
    assert row(rig).timed == 1
    rig.over()


def test_stable_is_never_cold(rig: Rig) -> None:
    split(rig, 1, watch=msgspec.structs.replace(WATCH, cold_until=START + 10.0))
    _takes(rig, 5.0)
    assert [(one.color, one.slower) for one in failures(rig)] == [("blue", 0b111)]
    assert row(rig).slow == 1
    rig.over()


def test_what_is_watched_may_change_within_a_release(rig: Rig) -> None:
    split(rig, watch=WATCH)
    _takes(rig, 0.15)
    split(rig, watch=Watch(service="web", thresholds=(0.1, 0.2)))
    _takes(rig, 0.25)
    assert [one.slower for one in failures(rig)] == [0b01, 0b10]
    rig.over()


# --- one release and the next -------------------------------------------------------------------


def test_another_release_begins_anew(rig: Rig) -> None:
    split(rig)
    _takes(rig, 0.1, status=500)
    assert kinds(rig) == [("error", "500")]
    split(rig, release="r-2")
    # What was counted for the former is told first.
    assert [each.release for each in rig.told if isinstance(each, Tally)] == ["r-1"]
    assert row(rig).requests == 1
    _takes(rig, 0.1, status=500)
    (message,) = (each for each in rig.told if isinstance(each, Failures))
    assert message.release == "r-2"
    only = row(rig)
    assert (only.requests, only.judged, len(only.keys)) == (1, 1, 1)
    rig.over()


def test_who_began_under_the_former_release_says_nothing_of_this_one(rig: Rig) -> None:
    split(rig)
    rig.client.get()
    backend = rig.backend()
    split(rig, release="r-2")
    backend.ok(status=500)
    nothing(rig)
    rig.over([500])


def test_a_step_of_the_same_release_goes_on(rig: Rig) -> None:
    split(rig, 9_999)
    rig.client.get()
    backend = rig.backend()
    split(rig, 10_000)
    backend.ok(status=500)
    (told,) = failures(rig)
    assert told.weight == 9_999
    _takes(rig, 0.1, status=500)
    assert failures(rig) == []
    assert [each.weight for each in counted(rig)] == [9_999, 10_000]
    rig.over()


def test_a_service_that_is_gone_says_nothing(rig: Rig) -> None:
    split(rig)
    rig.client.get()
    backend = rig.backend()
    rig.serve(
        topology(
            number=3,
            services=[service("shop")],
            pools=[pool("shop", "blue", endpoint(0, name="shop"))],
            routes=[Route(path="/", service="shop")],
        )
    )
    backend.ok(status=500)
    nothing(rig)
    rig.over([500])


# --- forward only -------------------------------------------------------------------------------


@pytest.mark.parametrize(("watched", "status"), [("web", 500), ("shop", 200)])
def test_nobody_is_rescued_from_a_release_that_cannot_go_back(
    rig: Rig, watched: str, status: int
) -> None:
    moved = traffic(ServiceTraffic(service="web", stable="blue", weight=10_000), release="r-1")
    moved = msgspec.structs.replace(moved, forward_only=True, watch=(Watch(service=watched),))
    rig.serve(topology(number=2, services=[service(rescue=RESCUE)]), moved)
    rig.client.get()
    rig.backend().ok(status=500)
    if status == 200:
        rig.accept().ok()
    assert rig.dialling == 0
    assert rig.client.answer().status == status
    rig.over([status])


def test_without_that_it_may_go_back(rig: Rig) -> None:
    split(rig, rescue=RESCUE, watch=Watch(service="web"))
    rig.client.get()
    rig.backend().ok(status=500)
    rig.accept().ok()
    assert rig.client.answer().status == 200
    rig.over([200])


# --- when it is told ----------------------------------------------------------------------------


class Line:
    """A tally of ``web`` with a loop and a control that are lists."""

    def __init__(self) -> None:
        self.soon: list[Any] = []
        self.told: list[Failures | Tally] = []
        self.away = False
        self.tallies = Tallies(lambda: 7.0, self.soon.append, self._tell)
        self.web: ServiceTally = self.tallies.serve("r-1", ["web"], ())["web"]

    def _tell(self, message: Failures | Tally) -> bool:
        if not self.away:
            self.told.append(message)
        return not self.away

    def fails(self, key: int = 1, status: int = 500) -> None:
        self.web.ended(3, 500, b"%016x" % key, status, "", 1.0, 1.1, 0)

    def turn(self) -> None:
        calls, self.soon[:] = list(self.soon), []
        for call in calls:
            call()

    def failures(self) -> list[Failures]:
        return [message for message in self.told if isinstance(message, Failures)]

    def rows(self) -> list[Counted]:
        return [row for each in self.told if isinstance(each, Tally) for row in each.rows]


def test_failures_of_one_turn_go_in_one_message_as_it_ends() -> None:
    line = Line()
    for key in range(3):
        line.fails(key)
    assert len(line.soon) == 1
    assert line.told == []
    line.turn()
    (message,) = line.failures()
    assert [one.key for one in message.failures] == [0, 1, 2]
    assert (message.release, message.dropped, message.failures[0].at) == ("r-1", 0, 7.0)
    line.fails(4)
    line.turn()
    assert [one.key for one in line.failures()[1].failures] == [4]
    line.turn()
    assert len(line.told) == 2


def test_counts_go_every_half_second() -> None:
    line = Line()
    line.fails(status=200)
    line.tallies.turn(100.0)
    line.fails(status=200)
    line.tallies.turn(100.1)
    assert [row.requests for row in line.rows()] == [1]
    line.fails(status=200)
    line.tallies.turn(100.5)
    assert [row.requests for row in line.rows()] == [1, 2]
    line.tallies.turn(101.0)
    assert len(line.told) == 2


def test_while_control_is_away_failures_wait_and_counts_add_up() -> None:
    line = Line()
    line.away = True
    for number in range(4):
        line.fails(number)
        line.turn()
        line.tallies.turn(100.0 + number)
    assert line.told == []
    line.away = False
    line.tallies.turn(110.0)
    (message,) = line.failures()
    assert [one.key for one in message.failures] == [0, 1, 2, 3]
    (only,) = line.rows()
    assert (only.requests, only.failed, only.keys) == (4, 4, (0, 1, 2, 3))
    assert sum(count for _, count in only.histogram) == 4
    line.fails(9)
    line.turn()
    assert len(line.failures()) == 2


def test_what_waits_is_bounded_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    line.away = True
    for number in range(tally.MAX_WAITING + 5):
        line.fails(number)
    line.away = False
    line.tallies.turn(100.0)
    (message,) = line.failures()
    assert (len(message.failures), message.dropped) == (tally.MAX_WAITING, 5)
    line.fails(tally.MAX_WAITING + 6)
    line.turn()
    assert line.failures()[1].dropped == 0


def test_keys_are_bounded_and_nothing_new_is_told_beyond() -> None:
    line = Line()
    for number in range(tally.MAX_TOLD + 3):
        line.fails(number, 404)
        if number % 1000 == 0:
            line.turn()
    line.turn()
    assert sum(len(message.failures) for message in line.failures()) == tally.MAX_TOLD
    line.tallies.flush()
    assert sum(message.dropped for message in line.failures()) == 3
    (only,) = line.rows()
    assert len(only.keys) == tally.MAX_KEYS
    # Who asks for what is not there, however often, leaves failures their room.
    line.told.clear()
    line.fails(0, 500)
    line.fails(tally.MAX_TOLD + 1, 500)
    line.turn()
    (message,) = line.failures()
    assert [(one.key, one.metric) for one in message.failures] == [
        (0, "error"),
        (tally.MAX_TOLD + 1, "error"),
    ]
    assert message.dropped == 0


def test_a_row_is_whole_in_itself_with_the_failures_among_what_is_judged() -> None:
    line = Line()
    for number, status in ((1, 200), (2, 500), (2, 500), (2, 200), (1, 500), (3, 404)):
        line.fails(number, status)
    line.tallies.flush()
    (only,) = line.rows()
    assert (only.requests, only.failed) == (6, 3)
    # Of 2 the first only; 1 succeeded once and failed once; a refusal is no failure.
    assert (only.judged, only.spoiled) == (4, 2)


class Beside:
    """A stable pool that can serve, or not."""

    def __init__(self) -> None:
        self.well = True

    def serves(self) -> bool:
        return self.well


def test_while_stable_can_serve_nobody_a_key_is_not_used_up() -> None:
    line = Line()
    stable = Beside()
    line.web.follow(stable)
    watch = Watch(service="web", thresholds=(0.05,))
    line.tallies.serve("r-1", ["web"], (watch,))
    stable.well = False
    for status in (500, 404, 200):
        line.fails(7, status)
    line.turn()
    assert line.failures() == []
    stable.well = True
    for status in (404, 500):
        line.fails(7, status)
    line.turn()
    (message,) = line.failures()
    assert [one.metric for one in message.failures] == ["refusal", "slow", "error"]
    # Alone at 100 % there is nobody to compare with anyway.
    line.told.clear()
    stable.well = False
    line.web.ended(3, 10_000, b"%016x" % 8, 500, "", 1.0, 1.1, 0)
    line.turn()
    (message,) = line.failures()
    assert [one.key for one in message.failures][:1] == [8]


def test_each_weight_meets_its_clients_anew_and_a_late_request_of_the_one_before_none() -> None:
    line = Line()
    for number in range(tally.MAX_KEYS + 1):
        line.fails(number, 200)
    line.tallies.flush()
    for weight, number in ((2000, 0), (2000, 0), (500, 5000), (2000, 1)):
        line.web.ended(3, weight, b"%016x" % number, 200, "", 1.0, 1.1, 0)
    line.told.clear()
    line.tallies.flush()
    assert {row.weight: row.keys for row in line.rows()} == {500: (), 2000: (0, 1)}


def test_once_a_person_has_looked_keys_are_told_of_anew() -> None:
    line = Line()
    for looked in (0, 0, 1, 1, 2):
        watch = Watch(service="web", thresholds=(0.05,), looked=looked)
        line.tallies.serve("r-1", ["web"], (watch,))
        line.fails(1)
        line.turn()
    told = [one.metric for message in line.failures() for one in message.failures]
    assert told == ["error", "slow"] * 3
    line.tallies.serve("r-1", ["web"], ())
    line.fails(1)
    line.turn()
    assert len(line.failures()) == 3


def test_slow_keys_have_a_bound_of_their_own() -> None:
    line = Line()
    line.tallies.serve("r-1", ["web"], (Watch(service="web", thresholds=(0.05,)),))
    for number in range(tally.MAX_TOLD + 1):
        line.fails(number, 200)
        if number % 1000 == 0:
            line.turn()
    line.tallies.flush()
    assert sum(message.dropped for message in line.failures()) == 1
    line.told.clear()
    line.fails(tally.MAX_TOLD + 1, 500)
    line.turn()
    assert [one.metric for one in line.failures()[0].failures] == ["error"]


@given(st.lists(st.sampled_from(["ok", "bad", "turn", "wheel", "away", "back"]), max_size=60))
def test_whatever_becomes_of_control_all_is_told_once(steps: list[str]) -> None:
    line = Line()
    requests = failed = 0
    now = 100.0
    for step in steps:
        now += 0.3
        if step in {"ok", "bad"}:
            requests += 1
            failed += step == "bad"
            line.fails(requests, 500 if step == "bad" else 200)
        elif step == "turn":
            line.turn()
        elif step == "wheel":
            line.tallies.turn(now)
        else:
            line.away = step == "away"
    line.away = False
    line.turn()
    line.tallies.turn(now + 1.0)
    assert sum(row.requests for row in line.rows()) == requests
    assert sum(row.failed for row in line.rows()) == failed
    keys = [one.key for message in line.failures() for one in message.failures]
    assert len(keys) == len(set(keys)) == failed
    assert sorted(key for row in line.rows() for key in row.keys) == list(range(1, requests + 1))
    assert not any(message.dropped for message in line.failures())


def test_more_thresholds_than_there_are_bits_are_not_looked_at() -> None:
    line = Line()
    thresholds = tuple(0.001 * (1 + number) for number in range(100))
    line.tallies.serve("r-1", ["web"], (Watch(service="web", thresholds=thresholds),))
    line.fails(1, 200)
    line.turn()
    assert line.failures()[0].failures[0].slower == 2**tally.MAX_THRESHOLDS - 1


def test_they_say_what_they_have() -> None:
    line = Line()
    line.fails()
    assert repr(line.web) == "<ServiceTally web rows=1 failed=1>"
    assert repr(line.tallies) == "<Tallies of 'r-1' waiting=1>"
