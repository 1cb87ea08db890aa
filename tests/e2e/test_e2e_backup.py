"""Backups of a real gateway, under load and during a release, and what a restore brings back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import ROOT, wait_until
from tests.support.rawclient import RawClient
from tests.support.upstream import Upstream, always

RELEASES = """
releases:
  steps: [{weight: 20, hold: 10m}, {weight: 100, hold: 10m}]
"""


def verb(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )


def weight(gateway: GatewayProcess, name: str) -> float:
    services = gateway.api("GET", "/v1/status").body["services"]
    (found,) = (each["weights"]["candidate"] for each in services if each["name"] == name)
    return float(found)


def picture(gateway: GatewayProcess) -> dict[str, object]:
    """What somebody has set, and what must be as it was."""
    body = gateway.api("GET", "/v1/status").body
    return {
        each["name"]: {
            "stable": each["stable"],
            "weights": each["weights"],
            "previous": each["previous"],
            "pools": {
                pool["color"]: (
                    pool["generation"],
                    pool["source"],
                    pool["isolated"],
                    [end["url"] for end in pool["endpoints"]],
                )
                for pool in each["pools"]
            },
        }
        for each in body["services"]
    }


def visitors(gateway: GatewayProcess, count: int) -> dict[str, bytes]:
    """Cookies that the gateway gives, with the color that each is served by."""
    found = {}
    for _ in range(count):
        with RawClient(gateway.port) as client:
            answer = client.get("/", "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n")
        cookie = (answer.field("set-cookie") or "").partition(";")[0]
        assert cookie.startswith("gw_cohort="), answer
        found[cookie] = side(gateway, cookie)
    return found


def side(gateway: GatewayProcess, cookie: str) -> bytes:
    with RawClient(gateway.port) as client:
        return client.get("/", f"Cookie: {cookie}\r\n").body


class Mover:
    """Moves traffic all the time: a backup has one of the moments, never a mixture."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.moves = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Mover:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.is_set():
            weight = (self.moves % 50) + 1
            answer = self.gateway.api(
                "PUT", "/v1/traffic", {"candidate": weight, "services": ["web", "api"]}
            )
            assert answer.status == 200, answer
            self.moves += 1


@pytest.mark.timeout(120)
def test_a_backup_during_a_release_is_restored_on_an_empty_machine(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    with Upstream(always(b"blue")) as blue, Upstream(always(b"green")) as green:
        services = {name: ([blue.url], [green.url]) for name in ("web", "api", "shop")}
        first = GatewayProcess.for_services(old, services, workers=2, extra=RELEASES)
        with first:
            first.set_weight(10)
            # shop: finalized, with a way back; api's candidate is another build, isolated.
            body: dict[str, object] = {"services": ["shop"]}
            first.api("PUT", "/v1/traffic", {**body, "candidate": 100})
            assert first.api("POST", "/v1/traffic/finalize", body).status == 200
            assert first.api("POST", "/v1/rollback", {}).status == 200
            answer = first.api(
                "PUT", "/v1/services/api/pools/candidate", {"endpoints": [green.url], "wait": "20s"}
            )
            assert answer.status == 200, answer
            assert first.api("POST", "/v1/services/api/isolate", {"color": "green"}).status == 200
            answer = first.api("POST", "/v1/releases", {"services": ["web"], "version": "1.9"})
            assert answer.status == 201, answer
            wait_until(lambda: weight(first, "web") == 20, "the first step is in force")
            was = picture(first)
            sides = visitors(first, 30)
            assert set(sides.values()) == {b"blue", b"green"}
            made = verb("backup", "--config", first.path, tmp_path / "b.tgz")
            assert made.returncode == 0, made.stderr
            assert "runs)" in made.stdout, made.stdout
            # The state moves on after it: that is what a backup does not have.
            assert first.api("POST", "/v1/rollback", {"services": ["web"]}).status == 200
            refused = verb("restore", "--config", first.path, tmp_path / "b.tgz")
            assert refused.returncode == 4
            assert "another gateway" in refused.stderr
        text = first.path.read_text().replace(f"{old}/", f"{new}/")
        second = GatewayProcess(text, new, port=first.port, admin=first.admin)
        done = verb("restore", "--config", second.path, tmp_path / "b.tgz")
        assert done.returncode == 0, done.stderr
        with second:
            assert picture(second) == was
            assert {cookie: side(second, cookie) for cookie in sides} == sides
            release = second.api("GET", "/v1/releases/current").body
            assert (release["state"], release["version"]) == ("stepping", "1.9")
            actions = [row["action"] for row in second.api("GET", "/v1/audit").body["rows"]]
            assert "state.restored" in actions
            assert "traffic.finalize" in actions
            assert second.api("POST", "/v1/releases/current/abort", {}).status == 200
            # shop's way back is as open as it was.
            way = {"to": "previous", "services": ["shop"]}
            wait_until(
                lambda: second.api("POST", "/v1/rollback", way).status == 200,
                "the release is over and shop goes back",
            )


@pytest.mark.timeout(120)
def test_backups_while_traffic_is_moved_are_each_of_one_moment(tmp_path: Path) -> None:
    with Upstream(always(b"blue")) as blue, Upstream(always(b"green")) as green:
        services = {name: ([blue.url], [green.url]) for name in ("web", "api")}
        with GatewayProcess.for_services(tmp_path, services) as gateway:
            gateway.set_weight(1)
            with Mover(gateway) as mover:
                for n in range(5):
                    made = verb("backup", "--config", gateway.path, tmp_path / f"{n}.tgz")
                    assert made.returncode == 0, made.stderr
            assert mover.moves > 5
            # Control killed, and then everything: the store is read all the same.
            (control,) = [
                each["pid"]
                for each in gateway.api("GET", "/v1/status").body["processes"]
                if each["role"] == "control"
            ]
            os.kill(control, signal.SIGSTOP)
            began = time.monotonic()
            made = verb("backup", "--config", gateway.path, tmp_path / "control-hangs.tgz")
            os.kill(control, signal.SIGKILL)
            assert made.returncode == 0, made.stderr
            assert time.monotonic() - began < 20
            wait_until(gateway.is_ready, "control is back")
        for n in range(5):
            done = verb("restore", "--config", gateway.path, tmp_path / f"{n}.tgz")
            assert done.returncode == 0, done.stderr
            with gateway:
                weights = {weight(gateway, name) for name in ("web", "api")}
                assert len(weights) == 1, "two services that were moved as one"
