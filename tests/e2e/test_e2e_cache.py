"""The cache with real processes: shared by the workers, and there after a restart."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.rawclient import RawClient
from tests.support.upstream import Conversation, PeerGoneError, Upstream


@dataclass
class Counting:
    """A backend that numbers its answers; each may be kept for an hour."""

    count: int = 0
    fields: bytes = b"Cache-Control: max-age=3600\r\n"
    down: bool = False

    def __call__(self, say: Conversation) -> None:
        while True:
            try:
                say.read_head()
            except PeerGoneError:
                return
            if self.down:
                say.reset()
                return
            self.count += 1
            body = b"%d" % self.count
            say.send(
                b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b"
                % (self.fields, len(body), body)
            )


@dataclass
class Place:
    gateway: GatewayProcess
    backend: Counting


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    backend = Counting()
    with Upstream(backend) as upstream:
        gateway = GatewayProcess.for_services(
            tmp_path,
            {"web": ([upstream.url], [])},
            workers=2,
            service_keys="    fallback: [{stale: {max_age: 1h, paths: [/kept*]}}]\n",
        )
        text = gateway.path.read_text()
        gateway.path.write_text(
            text.replace(
                "  - {path: /, service: web}",
                "  - {path: /, service: web, cache: on}\n  - {path: /kept, service: web}",
            )
        )
        with gateway:
            yield Place(gateway, backend)


def bodies(port: int, target: str, times: int) -> set[bytes]:
    """Ask on as many connections: the kernel spreads them over the workers."""
    found = set()
    for _ in range(times):
        with RawClient(port) as client:
            found.add(client.get(target).body)
    return found


def settled(port: int, target: str) -> bytes:
    """Ask until every worker answers with the same copy; return that."""

    def one() -> bytes | None:
        found = bodies(port, target, 16)
        return found.pop() if len(found) == 1 else None

    return wait_until(one, lambda: "every worker answers with the one copy")


def test_the_workers_share_copies_and_a_restart_keeps_them(place: Place) -> None:
    gateway, backend = place.gateway, place.backend
    copy = settled(gateway.port, "/a")
    asked = backend.count
    assert asked <= 2, "each worker at most once"
    assert gateway.stop() == 0
    gateway.start()
    assert bodies(gateway.port, "/a", 16) == {copy}
    assert backend.count == asked


def test_killed_workers_lose_no_copy(place: Place) -> None:
    gateway, backend = place.gateway, place.backend
    copy = settled(gateway.port, "/a")
    asked = backend.count
    before = workers(gateway)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: (gateway.is_ready() and not workers(gateway) & before) or None,
        lambda: "new workers serve",
    )
    assert bodies(gateway.port, "/a", 16) == {copy}
    assert backend.count == asked


def workers(gateway: GatewayProcess) -> set[int]:
    processes = gateway.api("GET", "/v1/status").body["processes"]
    return {each["pid"] for each in processes if each["role"] == "worker"}


def test_a_write_through_one_worker_ends_the_copy_of_all(place: Place) -> None:
    gateway = place.gateway
    copy = settled(gateway.port, "/a")
    with RawClient(gateway.port) as client:
        client.send(b"DELETE /a HTTP/1.1\r\nHost: test.example\r\n\r\n")
        assert client.answer().status == 200
    wait_until(
        lambda: copy not in bodies(gateway.port, "/a", 16) or None,
        lambda: "nobody has the old copy",
    )


def test_an_outage_that_begins_after_a_restart_has_its_last_good_answers(place: Place) -> None:
    gateway, backend = place.gateway, place.backend
    backend.fields = b"Cache-Control: no-cache\r\n"
    first = bodies(gateway.port, "/kept/page", 1)
    assert gateway.stop() == 0
    gateway.start()
    backend.down = True
    with RawClient(gateway.port) as client:
        answer = client.get("/kept/page")
        assert {answer.body} == first
        assert answer.field("X-Gateway-Served-By") == "stale"
        assert client.get("/elsewhere").status >= 500
