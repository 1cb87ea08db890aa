"""Conversations with a cache between client and backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.board import layout
from gateway.config.snapshot import ServiceTraffic
from tests.support.rig import Answer, Backend, Rig, traffic

FRESH = "Cache-Control: max-age=60\r\n"
STATUS = b"cache-status"


@pytest.fixture
def cached(rig: Rig, tmp_path: Path) -> Rig:
    rig.caches(tmp_path / "cache")
    return rig


def miss(rig: Rig, fields: str = FRESH, body: bytes = b"one", target: str = "/a") -> Answer:
    """Have a GET go to the backend, and its answer come."""
    rig.client.get(target)
    backend = rig.backend()
    assert backend.request.startswith(b"GET %b HTTP/1.1\r\n" % target.encode())
    backend.ok(body, fields)
    return rig.client.answer()


def hit(rig: Rig, target: str = "/a", fields: str = "") -> Answer:
    """Have a GET be answered without a backend."""
    before = sum(len(backend.transport.sent) for backend in rig.backends)
    rig.client.get(target, fields)
    answer = rig.client.answer()
    assert not rig.core.dials
    assert sum(len(backend.transport.sent) for backend in rig.backends) == before
    return answer


@dataclass
class Asked:
    """A request that has come to the backend."""

    backend: Backend
    fields: dict[bytes, bytes]

    def ok(self, body: bytes, fields: str = "") -> None:
        self.backend.ok(body, fields)

    def answers(self, data: bytes) -> None:
        self.backend.answers(data)


def asked(rig: Rig, target: str = "/a", fields: str = "") -> Asked:
    """Have a GET go to the backend."""
    rig.client.get(target, fields)
    backend = rig.backend()
    return Asked(backend, backend.fields)


def later(rig: Rig, seconds: float) -> None:
    """Let time pass, by the clock on the wall to the second."""
    rig.advance(seconds)
    rig.wall = float(round(rig.wall))


def results(rig: Rig) -> dict[str, int]:
    """Return the counters of the cache that are not 0."""
    counts = {name: rig.row(layout.ROW_CACHE + at) for at, name in enumerate(layout.CACHE_RESULTS)}
    return {name: count for name, count in counts.items() if count}


def test_a_second_client_is_answered_from_the_first_ones_copy(cached: Rig) -> None:
    first = miss(cached, FRESH + "X-A: 1\r\nAge: 3\r\n")
    assert first.field(STATUS) == b"gateway; fwd=uri-miss; stored"
    later(cached, 5)
    cached.connect("192.0.2.2")
    second = hit(cached)
    assert (second.status, second.body, second.field(b"x-a")) == (200, b"one", b"1")
    assert second.field(b"age") == b"8"
    assert second.field(STATUS) == b"gateway; hit; ttl=52"
    assert second.field(b"date") == b"Tue, 01 Jan 2030 00:00:00 GMT"
    assert second.field(b"x-request-id") not in {None, first.field(b"x-request-id")}
    assert results(cached) == {"miss": 1, "hit": 1}
    cached.over([200, 200])


@pytest.mark.parametrize("hour", [3600.0, -3600.0])
def test_a_clock_that_jumps_makes_no_copy_fresh_for_longer(cached: Rig, hour: float) -> None:
    """FRESH is a minute: after a jump, either way, the backend is asked before anybody is told."""
    miss(cached)
    cached.wall += hour
    cached.client.get("/a")
    cached.backend().ok(b"two", FRESH)
    assert cached.client.answer().body == b"two"
    later(cached, 5)
    assert hit(cached).body == b"two"
    later(cached, 60)
    cached.client.get("/a")
    cached.backend().ok(b"three", FRESH)
    assert cached.client.answer().body == b"three"
    cached.over([200] * 4)


def test_a_hit_keeps_the_connection_as_the_client_wants_it(cached: Rig) -> None:
    miss(cached)
    answer = hit(cached, fields="Connection: close\r\n")
    assert answer.field(b"connection") == b"close"
    assert cached.client.closed
    cached.connect().send(b"GET /a HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n")
    assert cached.client.answer().field(b"connection") == b"keep-alive"
    cached.over([200, 200, 200])


def test_pipelined_requests_are_answered_in_order(cached: Rig) -> None:
    miss(cached)
    request = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
    cached.client.send(request + b"HEAD /a HTTP/1.1\r\nHost: a.example\r\n\r\n" + request)
    assert cached.client.answer().body == b"one"
    head = cached.client.answer(to_head=True)
    assert (head.status, head.field(b"content-length")) == (200, b"3")
    assert cached.client.answer().body == b"one"
    cached.over([200] * 4)


def test_a_route_without_a_cache_says_nothing_of_one(cached: Rig) -> None:
    cached.serve(cached.topology)
    from tests.support.rig import topology

    cached.serve(topology())
    assert miss(cached).field(STATUS) is None
    assert miss(cached).field(STATUS) is None
    assert results(cached) == {}
    cached.over([200, 200])


@pytest.mark.parametrize("other", ["/b", "/a?x", "/a/"])
def test_other_targets_are_other_copies(cached: Rig, other: str) -> None:
    miss(cached)
    miss(cached, target=other)
    cached.over([200, 200])


def test_hosts_and_schemes_are_other_copies(cached: Rig) -> None:
    miss(cached)
    cached.client.get("/a", host="b.example")
    cached.backend().ok(b"two", FRESH)
    assert cached.client.answer().body == b"two"
    cached.connect(tls=True).get("/a")
    cached.backend().ok(b"three", FRESH)
    assert cached.client.answer().body == b"three"
    cached.over([200, 200, 200])


def test_colors_are_kept_apart(cached: Rig) -> None:
    miss(cached, body=b"blue's")
    cached.serve(moved=traffic(ServiceTraffic(service="web", stable="green")))
    assert miss(cached, body=b"green's").body == b"green's"
    cached.serve(moved=traffic(ServiceTraffic(service="web", stable="blue")))
    assert hit(cached).body == b"blue's"
    cached.over([200, 200, 200])


def test_a_color_that_is_closed_leaves_nothing_under_its_name(cached: Rig) -> None:
    """Green answers for blue: what it says is not blue's."""
    out = traffic(ServiceTraffic(service="web", stable="blue", closed=("blue",)))
    cached.serve(moved=out)
    assert miss(cached, body=b"green's").body == b"green's"
    cached.serve(moved=traffic())
    assert miss(cached, body=b"blue's").body == b"blue's"
    # Nor is what it left served while it is out.
    cached.serve(moved=out)
    assert hit(cached).body == b"green's"
    cached.serve(moved=traffic())
    assert hit(cached).body == b"blue's"
    cached.over([200] * 4)


def test_the_gateways_own_cookie_is_no_part_of_it(cached: Rig) -> None:
    miss(cached, FRESH + "Vary: Cookie\r\n")
    assert hit(cached, fields="Cookie: gw_cohort=AAAA\r\n").body == b"one"
    asked(cached, fields="Cookie: gw_cohort=AAAA; a=b\r\n").ok(b"two", FRESH + "Vary: Cookie\r\n")
    assert cached.client.answer().body == b"two"
    assert hit(cached, fields="Cookie: a=b\r\n").body == b"two"
    cached.over([200] * 4)


def test_a_guessed_copy_is_not_for_who_may_be_somebody(cached: Rig) -> None:
    miss(cached, "Last-Modified: Mon, 31 Dec 2029 00:00:00 GMT\r\n")
    assert hit(cached).body == b"one"
    asked(cached, fields="Cookie: sid=1\r\n").ok(b"his")
    assert cached.client.answer().body == b"his"
    assert hit(cached).body == b"one"
    cached.over([200] * 4)


def test_variants_are_told_apart(cached: Rig) -> None:
    fields = FRESH + "Vary: Accept-Encoding\r\n"
    asked(cached, fields="Accept-Encoding: gzip, br\r\n").ok(b"small", fields)
    cached.client.answer()
    asked(cached).ok(b"large", fields)
    answer = cached.client.answer()
    assert answer.field(STATUS) == b"gateway; fwd=vary-miss; stored"
    assert hit(cached).body == b"large"
    assert hit(cached, fields="Accept-Encoding: br,gzip\r\n").body == b"small"
    cached.over([200] * 4)


@pytest.mark.parametrize(
    "fields",
    [
        "Cache-Control: no-store\r\n",
        "Cache-Control: private, max-age=9\r\n",
        FRESH + "Set-Cookie: a=b\r\n",
        FRESH + "Vary: *\r\n",
        "",
    ],
)
def test_what_may_not_be_kept_is_asked_for_again(cached: Rig, fields: str) -> None:
    assert miss(cached, fields).field(STATUS) == b"gateway; fwd=uri-miss"
    miss(cached, fields)
    assert results(cached) == {"miss": 2}
    cached.over([200, 200])


def test_a_public_answer_loses_its_cookie_in_the_copy_only(cached: Rig) -> None:
    first = miss(cached, "Cache-Control: public, max-age=9\r\nSet-Cookie: a=b\r\n")
    assert first.field(b"set-cookie") == b"a=b"
    assert hit(cached).field(b"set-cookie") is None
    cached.over([200, 200])


def test_hop_by_hop_fields_are_no_part_of_a_copy(cached: Rig) -> None:
    miss(cached, FRESH + "Connection: X-A\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\n")
    answer = hit(cached)
    assert answer.field(b"x-a") is None
    assert answer.field(b"keep-alive") is None
    cached.over([200, 200])


# --- completeness -------------------------------------------------------------------------------


def test_a_chunked_answer_is_kept_once_it_is_whole(cached: Rig) -> None:
    backend = asked(cached)
    backend.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + FRESH.encode() + b"\r\n")
    backend.answers(b"3\r\none\r\n")
    backend.answers(b"0\r\n\r\n")
    assert cached.client.answer().body == b"one"
    answer = hit(cached)
    assert (answer.body, answer.field(b"content-length")) == (b"one", b"3")
    cached.over([200, 200])


@pytest.mark.parametrize("head", ["Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n"])
def test_half_an_answer_is_not_kept(cached: Rig, head: str) -> None:
    backend = asked(cached)
    backend.answers(f"HTTP/1.1 200 OK\r\n{head}{FRESH}\r\n".encode() + b"3\r\none\r\n"[:6])
    backend.backend.resets()
    assert cached.client.closed
    cached.connect()
    miss(cached)
    cached.over([200, 200])


def test_an_answer_that_ends_with_its_connection_is_not_kept(cached: Rig) -> None:
    backend = asked(cached)
    backend.answers(f"HTTP/1.1 200 OK\r\n{FRESH}\r\none".encode())
    backend.backend.ends()
    assert cached.client.answer().body == b"one"
    miss(cached)
    cached.over([200, 200])


def test_a_client_that_leaves_leaves_no_copy(cached: Rig) -> None:
    backend = asked(cached)
    backend.answers(f"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n{FRESH}\r\none".encode())
    cached.client.leaves()
    cached.connect()
    miss(cached)
    cached.over([200, 200])


def test_an_answer_larger_than_an_entry_is_passed_on_only(whole: Rig, tmp_path: Path) -> None:
    whole.caches(tmp_path / "cache", entry=100_000)
    body = b"x" * 100_001
    assert miss(whole, body=body).body == body
    assert miss(whole, body=body).body == body
    backend = asked(whole)
    backend.answers(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{FRESH}\r\n".encode())
    for _ in range(3):
        backend.answers(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
    backend.answers(b"0\r\n\r\n")
    assert len(whole.client.answer().body) == 150_000
    miss(whole, body=b"small")
    whole.over([200] * 4)


def test_a_large_copy_is_sent_as_fast_as_the_client_reads(whole: Rig, tmp_path: Path) -> None:
    whole.caches(tmp_path / "cache")
    body = bytes(range(256)) * 2000
    miss(whole, body=body)
    assert hit(whole).body == body
    client = whole.client
    client.transport.stuck = True
    client.get("/a")
    read = b""
    while piece := client.transport.drain(50_000):
        assert client.transport.most_buffered < 3 * 64 * 1024
        read += piece
    client.transport.stuck = False
    assert client.answer().body == body
    whole.over([200, 200, 200])


# --- validation ---------------------------------------------------------------------------------


def test_a_stale_copy_is_validated_and_renewed(cached: Rig) -> None:
    miss(cached, FRESH + 'ETag: "a"\r\nLast-Modified: Mon, 31 Dec 2029 00:00:00 GMT\r\nX: 1\r\n')
    later(cached, 61)
    backend = asked(cached)
    fields = backend.fields
    assert fields[b"if-none-match"] == b'"a"'
    assert fields[b"if-modified-since"] == b"Mon, 31 Dec 2029 00:00:00 GMT"
    backend.answers(f"HTTP/1.1 304 Not Modified\r\n{FRESH}X: 2\r\n\r\n".encode())
    answer = cached.client.answer()
    assert (answer.status, answer.body, answer.field(b"x")) == (200, b"one", b"2")
    assert answer.field(STATUS) == b"gateway; fwd=stale; fwd-status=304; stored"
    again = hit(cached)
    assert (again.body, again.field(b"x"), again.field(b"etag")) == (b"one", b"2", b'"a"')
    assert results(cached) == {"miss": 1, "revalidated": 1, "hit": 1}
    cached.over([200, 200, 200])


def test_a_stale_copy_gives_way_to_a_new_answer(cached: Rig) -> None:
    miss(cached, FRESH + 'ETag: "a"\r\n')
    later(cached, 61)
    asked(cached).ok(b"two", FRESH)
    answer = cached.client.answer()
    assert answer.body == b"two"
    assert answer.field(STATUS) == b"gateway; fwd=stale; fwd-status=200; stored"
    assert hit(cached).body == b"two"
    cached.over([200, 200, 200])


def test_a_304_that_forbids_keeping_ends_the_copy(cached: Rig) -> None:
    miss(cached, FRESH + 'ETag: "a"\r\n')
    later(cached, 61)
    asked(cached).answers(b"HTTP/1.1 304 Not Modified\r\nCache-Control: no-store\r\n\r\n")
    assert cached.client.answer().body == b"one"
    second = asked(cached)
    assert b"if-none-match" not in second.fields
    second.ok(b"two", FRESH)
    cached.client.answer()
    cached.over([200, 200, 200])


def test_no_cache_is_kept_and_always_validated(cached: Rig) -> None:
    miss(cached, 'Cache-Control: no-cache, max-age=60\r\nETag: "a"\r\n')
    asked(cached).answers(b"HTTP/1.1 304 Not Modified\r\nCache-Control: no-cache\r\n\r\n")
    assert cached.client.answer().body == b"one"
    cached.over([200, 200])


def test_a_client_that_has_it_is_told_so(cached: Rig) -> None:
    miss(cached, FRESH + 'ETag: "a"\r\n')
    answer = hit(cached, fields='If-None-Match: "b", "a"\r\n')
    assert (answer.status, answer.body) == (304, b"")
    assert answer.field(b"etag") == b'"a"'
    assert answer.field(b"content-length") is None
    cached.over([200, 304])


def test_a_client_that_has_it_is_told_so_after_validation_too(cached: Rig) -> None:
    miss(cached, FRESH + 'ETag: "a"\r\n')
    later(cached, 61)
    backend = asked(cached, fields='If-None-Match: "a", "b"\r\n')
    assert backend.fields[b"if-none-match"] == b'"a"'
    backend.answers(f"HTTP/1.1 304 Not Modified\r\n{FRESH}\r\n".encode())
    assert cached.client.answer().status == 304
    assert hit(cached).body == b"one"
    cached.over([200, 304, 200])


def test_a_clients_condition_goes_on_where_there_is_no_copy(cached: Rig) -> None:
    backend = asked(cached, fields='If-None-Match: "a"\r\n')
    assert backend.fields[b"if-none-match"] == b'"a"'
    backend.answers(b"HTTP/1.1 304 Not Modified\r\n\r\n")
    assert cached.client.answer().status == 304
    miss(cached)
    cached.over([304, 200])


def test_ranges_come_from_whole_copies(cached: Rig) -> None:
    miss(cached, body=b"0123456789")
    part = hit(cached, fields="Range: bytes=2-4\r\n")
    assert (part.status, part.body) == (206, b"234")
    assert part.field(b"content-range") == b"bytes 2-4/10"
    assert hit(cached, fields="Range: bytes=10-\r\n").status == 416
    assert hit(cached, fields="Range: bytes=0-1,3-4\r\n").body == b"0123456789"
    cached.over([200, 206, 416, 200])


def test_a_part_is_not_kept_as_the_whole(cached: Rig) -> None:
    asked(cached, fields="Range: bytes=0-1\r\n").answers(
        f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\n{FRESH}"
        "Content-Length: 2\r\n\r\n01".encode()
    )
    assert cached.client.answer().status == 206
    miss(cached)
    cached.over([206, 200])


# --- what requests ask for ----------------------------------------------------------------------


@pytest.mark.parametrize("fields", ["Cache-Control: no-cache\r\n", "Pragma: no-cache\r\n"])
def test_a_client_may_want_it_validated(cached: Rig, fields: str) -> None:
    miss(cached)
    asked(cached, fields=fields).ok(b"two", FRESH)
    answer = cached.client.answer()
    assert (answer.body, answer.field(STATUS)) == (b"two", b"gateway; fwd=request; stored")
    assert hit(cached).body == b"two"
    cached.over([200, 200, 200])


def test_a_client_may_want_nothing_stored(cached: Rig) -> None:
    asked(cached, fields="Cache-Control: no-store\r\n").ok(b"one", FRESH)
    assert cached.client.answer().field(STATUS) == b"gateway; fwd=request"
    miss(cached)
    assert results(cached) == {"bypass": 1, "miss": 1}
    cached.over([200, 200])


def test_a_client_may_want_a_copy_or_nothing(cached: Rig) -> None:
    assert hit(cached, fields="Cache-Control: only-if-cached\r\n").status == 504
    miss(cached)
    assert hit(cached, fields="Cache-Control: only-if-cached\r\n").status == 200
    cached.over([504, 200, 200])


def test_a_client_may_take_it_stale(cached: Rig) -> None:
    miss(cached)
    later(cached, 70)
    answer = hit(cached, fields="Cache-Control: max-stale=20\r\n")
    assert answer.field(STATUS) == b"gateway; hit; ttl=-10"
    assert results(cached) == {"miss": 1, "stale": 1}
    cached.over([200, 200])


def test_conditions_that_a_copy_cannot_meet_go_to_the_backend(cached: Rig) -> None:
    miss(cached, FRESH + 'ETag: "a"\r\n')
    asked(cached, fields='If-Match: "b"\r\n').answers(
        b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"
    )
    assert cached.client.answer().field(STATUS) == b"gateway; fwd=bypass"
    cached.over([200, 412])


def test_authorized_requests_keep_nothing_without_leave(cached: Rig) -> None:
    fields = "Authorization: Basic eDp5\r\n"
    asked(cached, fields=fields).ok(b"his", FRESH)
    cached.client.answer()
    asked(cached, fields=fields).ok(b"all's", "Cache-Control: public, max-age=60\r\n")
    cached.client.answer()
    assert hit(cached).body == b"all's"
    cached.over([200, 200, 200])


# --- unsafe methods -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fields", "gone"),
    [
        ("200 OK", "", "/a"),
        ("303 See Other", "Location: /b\r\n", "/b"),
        ("201 Created", "Content-Location: http://a.example/b\r\n", "/b"),
    ],
)
def test_a_write_ends_the_copies_of_what_it_names(
    cached: Rig, status: str, fields: str, gone: str
) -> None:
    miss(cached, target=gone)
    cached.client.send(b"POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx")
    backend = cached.backend()
    assert backend.request.startswith(b"POST")
    backend.take()
    backend.answers(f"HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\n\r\n".encode())
    assert cached.client.answer().field(STATUS) == b"gateway; fwd=method"
    later(cached, 1)
    assert miss(cached, target=gone, body=b"new").body == b"new"
    assert hit(cached, target=gone).body == b"new"
    cached.over([200, int(status[:3]), 200, 200])


def test_a_write_that_fails_ends_nothing(cached: Rig) -> None:
    miss(cached)
    cached.client.send(b"DELETE /a HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert cached.backend().request
    cached.backend().answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    cached.client.answer()
    assert hit(cached).body == b"one"
    cached.over([200, 404, 200])


def test_an_answer_from_before_a_write_is_not_kept(cached: Rig) -> None:
    first = cached.connect()
    reader = asked(cached)
    reader.answers(f"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n{FRESH}\r\no".encode())
    later(cached, 1)
    cached.connect().send(b"DELETE /a HTTP/1.1\r\nHost: a.example\r\n\r\n")
    cached.backend().ok(b"")
    cached.client.answer()
    reader.answers(b"ld")
    assert first.answer().body == b"old"
    assert cached.core.cache is not None
    cached.core.cache.store.flush()
    assert miss(cached, body=b"new").body == b"new"
    cached.over([200, 200, 200])


# --- stale --------------------------------------------------------------------------------------


def test_a_stale_copy_is_served_while_it_is_validated(cached: Rig) -> None:
    miss(cached, 'Cache-Control: max-age=1, stale-while-revalidate=60\r\nETag: "a"\r\n')
    later(cached, 5)
    cached.client.get("/a", 'Cookie: gw_cohort=A\r\nIf-None-Match: "z"\r\n')
    answer = cached.client.answer()
    assert (answer.body, answer.field(STATUS)) == (b"one", b"gateway; hit; ttl=-4")
    backend = cached.backend()
    fields = backend.fields
    assert fields[b"if-none-match"] == b'"a"'
    assert fields[b"cache-control"] == b"max-age=0"
    cached.client.get("/a")  # one validation at a time
    assert cached.client.answer().body == b"one"
    assert not backend.sent
    backend.answers(b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\n\r\n")
    assert hit(cached).field(STATUS) == b"gateway; hit; ttl=60"
    assert results(cached) == {"miss": 1, "stale": 2, "revalidated": 1, "hit": 1}
    cached.over([200, 200, 200, 200, 200])


def test_a_validation_without_a_client_is_bounded_in_time(cached: Rig) -> None:
    miss(cached, "Cache-Control: max-age=1, stale-while-revalidate=600\r\n")
    later(cached, 5)
    cached.client.get("/a")
    cached.client.answer()
    assert cached.backend().request
    later(cached, 61)
    cached.client.get("/a")
    assert cached.client.answer().body == b"one"
    cached.over()


@pytest.mark.parametrize("how", ["refused", "reset", "status"])
def test_a_stale_copy_stands_for_an_error(cached: Rig, how: str) -> None:
    miss(cached, "Cache-Control: max-age=1, stale-if-error=60\r\nConnection: close\r\n")
    later(cached, 5)
    cached.client.get("/a")
    if how == "refused":
        while cached.core.dials:
            cached.refuses()
    elif how == "reset":
        while cached.core.dials:
            cached.accept().resets()
    else:
        while cached.core.dials:
            cached.accept().answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
    answer = cached.client.answer()
    assert (answer.status, answer.body) == (200, b"one")
    assert answer.field(b"x-gateway-served-by") == b"stale"
    assert answer.all(b"cache-control") == [b"no-store"]
    assert cached.row(layout.ROW_FALLBACKS) == 1
    assert results(cached) == {"miss": 1, "stale": 1}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("etag", ["", 'ETag: "a"\r\n'])
@pytest.mark.parametrize("status", [500, 503])
def test_an_allowed_copy_stands_for_an_error_with_or_without_a_validator(
    cached: Rig, method: str, etag: str, status: int
) -> None:
    miss(cached, f"Cache-Control: max-age=1, stale-if-error=60\r\n{etag}Connection: close\r\n")
    later(cached, 5)
    cached.client.send(f"{method} /a HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
    cached.backend().answers(b"HTTP/1.1 %d Oops\r\nContent-Length: 0\r\n\r\n" % status)
    while cached.core.dials:
        cached.accept().answers(b"HTTP/1.1 %d Oops\r\nContent-Length: 0\r\n\r\n" % status)
    answer = cached.client.answer(to_head=method == "HEAD")
    assert (answer.status, answer.field(STATUS)) == (200, b"gateway; hit; ttl=-4")
    assert answer.field(b"content-length") == b"3"
    assert results(cached) == {"miss": 1, "stale": 1}


def test_a_copy_that_must_be_validated_stands_for_nothing(cached: Rig) -> None:
    miss(cached, "Cache-Control: max-age=1, must-revalidate\r\nConnection: close\r\n")
    later(cached, 5)
    cached.client.get("/a")
    while cached.core.dials:
        cached.refuses()
    assert cached.client.answer().status == 502


def test_an_error_without_leave_is_passed_on(cached: Rig) -> None:
    miss(cached, 'Cache-Control: max-age=1\r\nETag: "a"\r\n')
    later(cached, 5)
    asked(cached).answers(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    assert cached.client.answer().status == 500
    cached.over([200, 500])


def test_copies_of_a_generation_that_is_gone_leave_memory_too(cached: Rig) -> None:
    cache = cached.core.cache
    assert cache is not None
    miss(cached)
    assert hit(cached).body == b"one"
    assert cache.in_memory() == 2, "decoded, and ready to be sent"
    run = cached.core.serving.services[0]
    cache.keep_scopes(frozenset(run.scopes))
    assert cache.in_memory() == 2
    cache.keep_scopes(frozenset({b"another!"}))
    assert cache.in_memory() == 0
    cache.store.flush()
    assert miss(cached, body=b"two").body == b"two"
