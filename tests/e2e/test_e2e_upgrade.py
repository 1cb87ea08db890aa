"""``gateway upgrade`` with real processes: to another version and back, under every load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.version import VERSION
from tests.supervisor.supervised import copy_of_package
from tests.support.gateway import GatewayProcess
from tests.support.mixed import Backend, Clients
from tests.support.processes import ROOT, alive, children_of, wait_until

KEYS = "    drain_timeout: 2s"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with Backend() as backend:
        made = GatewayProcess.for_services(
            tmp_path, {"web": ([backend.url], [backend.url])}, workers=2, service_keys=KEYS
        )
        with made:
            yield made


def upgrade(
    gateway: GatewayProcess, root: Path = ROOT, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run the verb of the version in ``root``, in a shell that has none of the secrets."""
    env = {**os.environ, "PYTHONPATH": str(root)}
    env.pop("GATEWAY_TEST_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gateway", "upgrade", "--config", gateway.path, *more],
        env=env,
        cwd=gateway.folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    gateway._remember()
    return done


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_to_another_version_and_back_loses_nothing(gateway: GatewayProcess, tmp_path: Path) -> None:
    newer = copy_of_package(tmp_path / "newer", "99.0.0")
    supervisor, first = gateway.pid, children_of(gateway.pid)
    clients = Clients(gateway.port)
    try:
        wait_until(lambda: clients.done["message"] > 5, "the clients to have begun")
        there = answer(upgrade(gateway, newer, "--json"))
        assert (there["state"], there["old"], there["new"]) == ("done", VERSION, "99.0.0")
        wait_until(lambda: not any(map(alive, first)), "the first children to end")
        back = answer(upgrade(gateway, ROOT, "--json"))
        assert (back["state"], back["old"], back["new"]) == ("done", "99.0.0", VERSION)
        before = Counted(clients)
        wait_until(lambda: before.grown(20), "requests after the upgrades")
    finally:
        clients.stop()
    print(f"seconds {there['seconds']} {back['seconds']}, {clients.done}, {clients.closes}")
    assert clients.lost == []
    assert gateway.pid == supervisor
    assert gateway.process is not None
    assert gateway.process.popen.poll() is None
    assert gateway.is_ready()


class Counted:
    """What clients had done at a moment."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.before = dict(clients.done)

    def grown(self, by: int) -> bool:
        return all(
            self.clients.done[kind] >= self.before.get(kind, 0) + by for kind in ("kept", "fresh")
        )
