"""What the cache does on its own account, or beside an answer, has an end and a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.snapshot import RateLimit, Route
from gateway.proxy.cache import COLLECTED_ENTRIES, MAX_COLLECTED, MAX_REFRESHES, Cache
from tests.support.rig import Backend, Rig, topology

FRESH = "Cache-Control: max-age=60\r\n"
STALE = 'Cache-Control: public, max-age=1, stale-while-revalidate=600\r\nETag: "a"\r\n'
CHUNK = b"8000\r\n" + bytes(0x8000) + b"\r\n"


@pytest.fixture
def cached(rig: Rig, tmp_path: Path) -> Rig:
    rig.caches(tmp_path / "cache", entry=0x10000)
    return rig


def cache_of(rig: Rig) -> Cache:
    assert rig.core.cache is not None
    return rig.core.cache


def stale(rig: Rig, fields: str = STALE) -> None:
    """Have a copy that is stale."""
    rig.client.get("/a")
    rig.backend().ok(b"one", fields + "Connection: close\r\n")
    rig.client.answer()
    cache_of(rig).store.flush()
    rig.advance(5)


def refreshing(rig: Rig) -> Backend:
    """Have a copy served stale, and its validation come to the backend."""
    stale(rig)
    rig.client.get("/a")
    assert rig.client.answer().body == b"one"
    return rig.accept()


def all_room(rig: Rig) -> int:
    return max(MAX_COLLECTED, COLLECTED_ENTRIES * cache_of(rig).store.entry)


# --- validations beside -------------------------------------------------------------------------


def test_a_validation_is_nobodys_request_to_pay_for(cached: Rig) -> None:
    limit = RateLimit(count=1, period=1000.0, burst=1)
    route = Route(path="/", service="web", cache=True, rate_limits=(limit,))
    cached.serve(topology(number=2, routes=[route]))
    backend = refreshing(cached)
    assert cached.client.get("/a").answer().status == 429  # the client's two are used up
    backend.answers(f"HTTP/1.1 304 Not Modified\r\n{FRESH}\r\n".encode())
    assert cached.log[-1]["status"] == 200
    cached.over()


def test_a_validation_ends_where_nothing_of_its_answer_is_kept(cached: Rig) -> None:
    backend = refreshing(cached)
    backend.answers(f"HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n".encode())
    backend.answers(CHUNK)
    assert cached.in_flight() == 1
    backend.answers(CHUNK + CHUNK)
    assert not backend.open
    assert cached.in_flight() == 0
    cached.client.get("/a")
    assert cached.client.answer().body == b"one"
    assert cached.dialling == 1, "the next one is asked for"


def test_a_validation_without_an_end_is_bounded_in_time(cached: Rig) -> None:
    backend = refreshing(cached)
    backend.answers(f"HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n".encode())
    for _ in range(7):
        assert backend.open
        cached.advance(10)
        backend.answers(b"1\r\nx\r\n")
    assert not backend.open
    assert cached.in_flight() == 0


@pytest.mark.parametrize("fields", ["", "Authorization: Bearer t\r\n"])
def test_one_validation_at_a_time_whoever_asks(cached: Rig, fields: str) -> None:
    stale(cached)
    for _ in range(5):
        client = cached.connect()
        client.get("/a", fields)
        assert client.answer().body == b"one"
    assert cached.dialling == 1
    cached.accept().ok(b"two", STALE + "Connection: close\r\n")
    cached.advance(5)
    cached.client.get("/a", fields)
    assert cached.client.answer().body == b"two"
    assert cached.dialling == 1, "the next one after it has ended"


def test_a_validation_that_fails_is_followed_by_another(cached: Rig) -> None:
    refreshing(cached).resets()
    cached.client.get("/a")
    assert cached.client.answer().body == b"one"
    assert cached.dialling == 1


def test_validations_are_bounded_in_number(cached: Rig) -> None:
    cache = cache_of(cached)
    started = [cache.begin_refresh(b"%d" % number) for number in range(MAX_REFRESHES + 1)]
    assert started == [True] * MAX_REFRESHES + [False]
    cache.end_refresh(b"0")
    assert cache.begin_refresh(b"new")


# --- bodies that are collected ------------------------------------------------------------------


def test_nothing_of_an_event_stream_is_collected(cached: Rig) -> None:
    first, second = cached.connect(), cached.connect()
    first.get("/a")
    second.get("/a")
    backend = cached.accept()
    backend.answers(
        f"HTTP/1.1 200 OK\r\n{FRESH}Content-Type: text/event-stream\r\n"
        "Transfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n".encode()
    )
    assert cached.dialling == 1, "nobody waits for its end"
    assert cache_of(cached).collect(all_room(cached))
    backend.answers(b"0\r\n\r\n")
    assert b"stored" not in (first.answer().field(b"cache-status") or b"")


def test_beyond_the_bound_answers_are_passed_on_only(cached: Rig) -> None:
    cache = cache_of(cached)
    assert cache.collect(all_room(cached))
    cached.client.get("/a")
    cached.backend().ok(b"one", FRESH)
    answer = cached.client.answer()
    assert (answer.body, answer.field(b"cache-status")) == (b"one", b"gateway; fwd=uri-miss")
    cache.collect(-2)
    cached.client.get("/a")
    cached.backend().answers(
        f"HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n"
        "3\r\ntwo\r\n0\r\n\r\n".encode()
    )
    assert cached.client.answer().body == b"two"
    cache.collect(-1)
    cached.client.get("/a")
    cached.backend().ok(b"333", FRESH)
    assert b"stored" in (cached.client.answer().field(b"cache-status") or b"")
    cached.over([200, 200, 200])


@pytest.mark.parametrize("how", ["whole", "left", "cut", "large"])
@pytest.mark.parametrize("framing", ["Content-Length: 40000", "Transfer-Encoding: chunked"])
def test_what_was_collected_gives_its_room_back(cached: Rig, how: str, framing: str) -> None:
    cache = cache_of(cached)
    chunked = "chunked" in framing
    cached.client.get("/a")
    backend = cached.backend()
    backend.answers(f"HTTP/1.1 200 OK\r\n{FRESH}{framing}\r\n\r\n".encode())
    backend.answers(CHUNK if chunked else bytes(0x8000))
    assert not cache.collect(all_room(cached))
    if how == "whole":
        backend.answers(b"0\r\n\r\n" if chunked else bytes(40000 - 0x8000))
    elif how == "left":
        cached.client.leaves()
    elif how == "cut" or not chunked:
        backend.resets()
    else:
        backend.answers(CHUNK * 2)
    assert cache.collect(all_room(cached))
    assert not cache.collect(1)
