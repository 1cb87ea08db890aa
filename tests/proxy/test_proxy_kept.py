"""Copies of stable's assets: what is kept, for whom, for how long, and within which bounds."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.proxy import kept
from gateway.proxy.kept import KeptAssets
from gateway.wire.head import Head, parse_request, parse_response


class Loop:
    """Stands for the loop: callbacks from the thread are run by the test."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue()

    def soon(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def turn(self) -> None:
        self._calls.get(timeout=10)()


class Store:
    def __init__(self, folder: Path) -> None:
        self.now = 1_000_000.0
        self.folder = folder
        self.loop = Loop()
        self.assets = KeptAssets(folder, 3600.0 * 24, lambda: self.now, self.loop.soon)

    def offer(self, target: bytes, body: bytes, fields: bytes = b"", request: bytes = b"") -> bool:
        keeper = self.assets.keeper(b"x", target, get(target, request), ok(fields, len(body)))
        if keeper is None:
            return False
        half = len(body) // 2
        keeper.take(body[:half], False)
        keeper.take(body[half:], True)
        return True

    def ask(self, target: bytes, accepted: bytes = b"") -> bytes | None:
        found: list[bytes | None] = []
        self.assets.read(b"x", target, accepted, found.append)
        self.loop.turn()
        return found[0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "assets")
    yield made
    made.assets.close()


def get(target: bytes, fields: bytes = b"") -> Head:
    head = parse_request(b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (target, fields))
    assert head is not None
    return head


def ok(fields: bytes, length: int, status: bytes = b"200 OK") -> Head:
    head = parse_response(
        b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: keep-alive\r\n%b\r\n"
        % (status, length, fields)
    )
    assert head is not None
    return head


def body_of(copy: bytes | None) -> bytes | None:
    if copy is None:
        return None
    head = parse_response(copy)
    assert head is not None
    assert head.length == len(copy) - head.end
    return copy[head.end :]


def test_a_copy_is_a_whole_answer_without_hop_by_hop_fields(store: Store) -> None:
    assert store.offer(b"/assets/a.js", b"let a = 1", b"Content-Type: text/javascript\r\n")
    copy = store.ask(b"/assets/a.js")
    assert body_of(copy) == b"let a = 1"
    assert copy is not None
    assert b"Content-Type: text/javascript\r\n" in copy
    assert b"Connection" not in copy


def test_what_was_never_seen_is_not_there(store: Store) -> None:
    assert store.ask(b"/assets/none.js") is None


def test_the_query_is_part_of_the_name(store: Store) -> None:
    store.offer(b"/assets/a.js?v=1", b"one")
    assert store.ask(b"/assets/a.js?v=2") is None


@pytest.mark.parametrize(
    ("fields", "request_fields"),
    [
        (b"Set-Cookie: a=b\r\n", b""),
        (b"Cache-Control: no-store\r\n", b""),
        (b"Cache-Control: max-age=60, Private\r\n", b""),
        (b"Content-Encoding: compress\r\n", b""),
        (b"", b"Authorization: Bearer x\r\n"),
    ],
)
def test_what_belongs_to_one_user_is_not_kept(
    store: Store, fields: bytes, request_fields: bytes
) -> None:
    assert not store.offer(b"/assets/a.js", b"secret", fields, request_fields)


def test_only_a_whole_200_is_kept(store: Store) -> None:
    request = get(b"/assets/a.js")
    for status in (b"206 Partial Content", b"304 Not Modified", b"404 Not Found"):
        assert store.assets.keeper(b"x", b"/assets/a.js", request, ok(b"", 3, status)) is None
    keeper = store.assets.keeper(b"x", b"/assets/a.js", request, ok(b"", 3))
    assert keeper is not None
    keeper.take(b"on", False)
    assert store.ask(b"/assets/a.js") is None, "half of a body was kept"


def test_a_coding_is_given_to_those_who_understand_it(store: Store) -> None:
    store.offer(b"/assets/a.js", b"brotli", b"Content-Encoding: br\r\n")
    assert store.ask(b"/assets/a.js", b"gzip") is None
    assert store.ask(b"/assets/a.js", b"br;q=0, gzip") is None
    assert body_of(store.ask(b"/assets/a.js", b"gzip, br")) == b"brotli"
    store.offer(b"/assets/a.js", b"plain")
    assert body_of(store.ask(b"/assets/a.js", b"gzip")) == b"plain"


def test_a_copy_grows_too_old_unless_it_is_asked_for(store: Store) -> None:
    assert store.offer(b"/assets/a.js", b"one")
    assert store.ask(b"/assets/a.js") is not None
    os.utime(next(store.folder.iterdir()), (store.now, store.now))
    assert not store.offer(b"/assets/a.js", b"one"), "written again within the hour"
    store.now += kept.REFRESH + 1
    assert store.ask(b"/assets/a.js") is not None
    store.now += store.assets.keep
    assert store.ask(b"/assets/a.js") is None
    assert store.offer(b"/assets/a.js", b"one")


def test_a_large_body_is_let_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_COPY", 10)
    assert not store.offer(b"/assets/a.js", b"0123456789a")
    keeper = store.assets.keeper(b"x", b"/b.js", get(b"/b.js"), ok(b"", 5))
    assert keeper is not None
    assert keeper.take(b"0123456789", False)
    assert not keeper.take(b"more than was said", False)


def test_all_copies_together_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_TOTAL", 2000)
    monkeypatch.setattr(kept, "PRUNE_EVERY", 2)
    for at in range(9):
        assert store.offer(b"/assets/%d.js" % at, b"x" * 500)
        assert store.ask(b"/assets/%d.js" % at) is not None, "the newest is there"
    assert sum(path.stat().st_size for path in store.folder.iterdir()) <= 2000 + 1200


def test_a_disk_that_refuses_costs_nothing_else(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    store = Store(in_the_way / "assets")
    try:
        assert store.offer(b"/assets/a.js", b"one")
        assert store.ask(b"/assets/a.js") is None
        assert store.ask(b"/assets/a.js") is None, "the thread lives on"
    finally:
        store.assets.close()
