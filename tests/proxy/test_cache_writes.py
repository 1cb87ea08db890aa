"""What a write through the gateway does to copies, and to answers that are under way."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.proxy.copies import Copies
from tests.support.rig import Backend, Client, Rig

FRESH = "Cache-Control: max-age=60\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def cached(rig: Rig, tmp_path: Path) -> Rig:
    rig.caches(tmp_path / "cache")
    return rig


def store_of(rig: Rig) -> Copies:
    assert rig.core.cache is not None
    return rig.core.cache.store


def write(rig: Rig) -> Client:
    """Have a POST go well, over a client of its own."""
    client = rig.connect()
    client.send(POST)
    rig.accept().ok(b"done", "Connection: close\r\n")
    assert client.answer().status == 200
    rig.advance(1)
    return client


def begin(rig: Rig, fields: str = "") -> tuple[Client, Backend]:
    """Have a GET go to the backend, over a client and a connection of its own."""
    client = rig.connect()
    client.get("/a", fields)
    backend = rig.accept()
    rig.advance(1)
    return client, backend


def half(backend: Backend, fields: str = FRESH) -> None:
    backend.answers(f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 3\r\n\r\no".encode())


@pytest.mark.parametrize("vary", ["", "Vary: Accept\r\n"])
def test_who_reads_after_a_write_waits_for_no_older_request(cached: Rig, vary: str) -> None:
    if vary:
        _, backend = begin(cached)
        backend.ok(b"one", "Cache-Control: max-age=1\r\nConnection: close\r\n" + vary)
        store_of(cached).flush()
        cached.advance(5)
    reader, slow = begin(cached, "Cache-Control: max-age=0\r\n")
    waiting = cached.connect()
    waiting.get("/a")
    assert not cached.dialling
    writer = write(cached)
    writer.get("/a")
    writers = cached.backend()
    assert writers is not slow
    slow.ok(b"old", FRESH + vary)
    assert reader.answer().body == b"old"
    assert not writer.received
    writers.ok(b"new", FRESH + vary)
    assert writer.answer().body == b"new"
    writer.get("/a")
    assert writer.answer().body == b"new"


@pytest.mark.parametrize("vary", ["", "Vary: Accept\r\n"])
def test_an_answer_from_before_a_write_replaces_no_newer_one(cached: Rig, vary: str) -> None:
    _, slow = begin(cached)
    half(slow, FRESH + vary)
    writer = write(cached)
    store_of(cached).flush()
    _, backend = begin(cached, "Cache-Control: no-cache\r\n")
    backend.ok(b"new", FRESH + vary)
    store_of(cached).flush()
    slow.answers(b"ld")
    store_of(cached).flush()
    writer.get("/a")
    assert writer.answer().body == b"new"


def test_a_write_is_heeded_however_much_waits_for_the_thread(
    cached: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, backend = begin(cached)
    backend.ok(b"old", FRESH + "Connection: close\r\n")
    store_of(cached).flush()
    monkeypatch.setattr("gateway.proxy.copies.MAX_JOBS", -1)
    monkeypatch.setattr("gateway.proxy.copies.MAX_PENDING", -1)
    writer = write(cached)
    writer.get("/a")
    assert not writer.received
