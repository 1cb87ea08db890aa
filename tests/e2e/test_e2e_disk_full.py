"""The disk is full: requests are served, what is lost is counted and told, until there is room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.ports import free_ports
from tests.support.disk import SmallDisk, small_disk
from tests.support.gateway import GatewayProcess, config_for
from tests.support.processes import alive, children_of, wait_until
from tests.support.upstream import Upstream, always

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SIZE = 24 << 20


@dataclass
class Place:
    """A gateway whose state, log and cache are on a disk that can be full."""

    gateway: GatewayProcess
    disk: SmallDisk
    urls: dict[str, str]

    def get(self, path: str = "/") -> tuple[int, bytes]:
        with urllib.request.urlopen(self.gateway.url + path, timeout=10) as answer:
            return answer.status, answer.read()

    def metric(self, name: str) -> float:
        text = self.gateway.api("GET", "/metrics").body
        [line] = [each for each in text.splitlines() if each.startswith(f"{name} ")]
        return float(line.rpartition(" ")[2])

    def status(self) -> Any:
        return self.gateway.api("GET", "/v1/status").body

    def warned(self, text: str) -> bool:
        return any(text in each for each in self.status()["warnings"])

    def pids(self, role: str) -> list[int]:
        return [
            pid
            for pid in children_of(self.gateway.pid)
            if f"gateway.{role}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def restart(self, role: str) -> None:
        """Kill a role's processes with -9; wait until others are ready."""
        old = self.pids(role)
        for pid in old:
            os.kill(pid, signal.SIGKILL)

        def replaced() -> bool | None:
            new = self.pids(role)
            fresh = len(new) == len(old) and not set(new) & set(old)
            return (fresh and self.gateway.is_ready()) or None

        wait_until(replaced, lambda: f"another {role}:\n{self.gateway.said()[-3000:]}")
        assert not any(alive(pid) for pid in old)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    fields = "Cache-Control: max-age=60\r\n"
    with (
        small_disk(tmp_path, SIZE) as disk,
        Upstream(always(b"blue" * 4096, fields=fields)) as blue,
        Upstream(always(b"green" * 4096, fields=fields)) as green,
    ):
        port, admin = free_ports(2)
        text = config_for(
            {"web": ([blue.url], [green.url])},
            port=port,
            admin=admin,
            folder=disk.path,
            workers=2,
            extra="cache: {size: 8MiB, entry: 64KiB}\n",
        ).replace("path: /, service: web", "path: /, service: web, cache: on")
        gateway = GatewayProcess(text, tmp_path, port=port, admin=admin)
        with gateway:
            yield Place(gateway, disk, {"blue": blue.url, "green": green.url})


def test_requests_are_served_and_lost_lines_are_counted_and_told(place: Place) -> None:
    log = place.disk.path / "access.log"
    place.get("/before")
    wait_until(lambda: (log.exists() and log.stat().st_size > 0) or None, "the first line")
    place.disk.fill()
    count = 300
    for number in range(count):
        assert place.get(f"/full/{number}")[0] == 200
    wait_until(lambda: place.metric("gateway_log_lines_lost_total") > 0 or None, "lines are lost")
    wait_until(lambda: place.warned("access log were lost") or None, "status says so")
    wait_until(
        lambda: place.metric("gateway_cache_write_failures_total") > 0 or None,
        "what the cache cannot keep is counted",
    )
    wait_until(lambda: place.warned("cache cannot be written") or None, "status says so, too")
    place.disk.empty()
    for number in range(50):
        assert place.get(f"/after/{number}")[0] == 200
    wait_until(lambda: b'"/after/49"' in log.read_bytes() or None, "lines are written again")

    def all_told() -> bool | None:
        lines = [line for line in log.read_bytes().splitlines() if line.endswith(b"}")]
        lost = place.metric("gateway_log_lines_lost_total")
        return len(lines) + lost == 1 + count + 50 or None

    # A scrape may be a second old, and the other worker's last lines are on their way.
    wait_until(all_told, "each request to have its line or be counted as lost", timeout=5)
    assert "access log were lost" in place.gateway.said()


def test_a_split_is_refused_and_a_rollback_works_and_is_stored_later(place: Place) -> None:
    place.gateway.set_weight(50)
    place.disk.fill()
    answer = place.gateway.api("PUT", "/v1/traffic", {"candidate": 60})
    assert answer.status == 503, answer
    assert answer.body["type"].endswith("store-unavailable")
    answer = place.gateway.api("POST", "/v1/rollback", {})
    assert answer.status == 200, answer
    assert answer.body["persisted"] is False
    for number in range(40):
        assert place.get(f"/rolled/{number}")[1].startswith(b"blue")
    assert place.warned("not stored")
    assert place.metric("gateway_state_unstored") == 1
    # Whoever starts now serves what is in force, too: workers, then control.
    place.restart("worker")
    for number in range(40):
        assert place.get(f"/again/{number}")[1].startswith(b"blue")
    place.disk.empty()
    wait_until(lambda: place.metric("gateway_state_unstored") == 0 or None, "it is stored")
    wait_until(lambda: place.metric("gateway_snapshot_unwritten") == 0 or None, "and the file")
    assert not place.warned("not stored")
    place.restart("control")
    assert place.status()["services"][0]["weights"]["candidate"] == 0


def test_control_that_starts_on_a_full_disk_keeps_the_store(place: Place) -> None:
    place.gateway.set_weight(25)
    revision = place.status()["traffic_revision"]
    place.disk.fill()
    place.restart("control")
    assert place.status()["services"][0]["weights"]["candidate"] == 25
    assert place.get()[0] == 200
    place.disk.empty()
    assert not list(place.disk.path.glob("gateway.db.broken-*")), "the store was moved aside"
    # All of it once more, with nobody left who would remember.
    place.gateway.stop()
    place.gateway.start()
    shown = place.status()
    assert shown["services"][0]["weights"]["candidate"] == 25
    assert shown["traffic_revision"] == revision


def test_a_gateway_starts_on_a_full_disk_with_the_state_it_has(place: Place) -> None:
    place.gateway.set_weight(25)
    place.gateway.stop()
    place.disk.fill()
    place.gateway.start()
    assert place.status()["services"][0]["weights"]["candidate"] == 25
    assert place.get()[0] == 200
    assert place.metric("gateway_state_fallback") == 1
    assert place.warned("the state store is in memory")
    place.disk.empty()
    wait_until(lambda: place.metric("gateway_state_fallback") == 0 or None, "it has its file again")
    place.gateway.set_weight(30)
    place.gateway.stop()
    place.gateway.start()
    assert place.status()["services"][0]["weights"]["candidate"] == 30
    actions = [row["action"] for row in place.gateway.api("GET", "/v1/audit").body["rows"]]
    assert actions.count("traffic.set") == 2  # the one from before is there, too


def test_a_local_rollback_works_on_a_full_disk(place: Place) -> None:
    place.gateway.set_weight(50)
    place.disk.fill()
    command = [sys.executable, "-m", "gateway", "rollback", "--local", "--config"]
    done = subprocess.run(
        [*command, str(place.gateway.path)],
        env={**os.environ, **place.gateway.env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done
    for number in range(40):
        assert place.get(f"/local/{number}")[1].startswith(b"blue")
