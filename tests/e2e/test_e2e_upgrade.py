"""``gateway upgrade`` with real processes: to another version and back, under every load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import upgrade as module
from gateway.version import VERSION
from loadtests.chaos.versions import other_version, this_version
from loadtests.mixed.backend import Backend
from loadtests.mixed.clients import Clients
from tests.supervisor.supervised import copy_of_package
from tests.support.gateway import GatewayProcess
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
    newer = other_version(tmp_path / "newer").root
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
    wait_until(lambda: len(audited(gateway)) == 6, lambda: f"audit rows: {audited(gateway)}")
    by = f"uid {os.getuid()} ({module.who()})"
    there_and_back = [(VERSION, "99.0.0"), ("99.0.0", VERSION)]
    assert audited(gateway) == [
        (by, f"upgrade.{step}", old, new if step != "asked" else "")
        for old, new in there_and_back
        for step in ("asked", "tried", "done")
    ]
    shown = gateway.api("GET", "/v1/status").body["upgrade"]
    assert (shown["step"], shown["before"], shown["after"]) == ("done", "99.0.0", VERSION)
    assert (shown["by"], shown["way_back"]) == (by, True)
    assert 'gateway_upgrades_total{result="done"} 2.0' in str(gateway.api("GET", "/metrics").body)
    assert gateway.pid == supervisor
    assert gateway.process is not None
    assert gateway.process.popen.poll() is None
    assert gateway.is_ready()


def audited(gateway: GatewayProcess) -> list[tuple[str, str, str, str]]:
    """Return what the audit log has of upgrades, oldest first."""
    rows = gateway.api("GET", "/v1/audit").body["rows"]
    return [
        (row["actor"], row["action"], row["before"]["version"], row["after"]["version"])
        for row in reversed(rows)
        if row["action"].startswith("upgrade.")
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_there_and_back_again_and_again_loses_nothing(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    versions = [other_version(tmp_path / "newer"), this_version()]
    clients = Clients(gateway.port)
    took: list[float] = []
    try:
        wait_until(lambda: clients.done["message"] > 5, "the clients to have begun")
        for _ in range(3):
            for version in versions:
                told = version.take_over(gateway.path, "--hold", "0s", cwd=gateway.folder)
                gateway._remember()
                assert told["new"] == version.name
                took.append(told["seconds"])
        before = Counted(clients)
        wait_until(lambda: before.grown(20), "requests after the upgrades")
    finally:
        clients.stop()
    print(f"seconds {took}, {clients.done}, {clients.closes}")
    assert clients.lost == []
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


def test_new_workers_that_do_not_live_leave_the_old_ones_serving(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    """It loads and does not run: the trial cannot know."""
    edits = {"worker/__main__": ("    spec = ", '    raise SystemExit("sick")\n    spec = ')}
    sick = copy_of_package(tmp_path / "sick", "99.0.0", **edits)
    before = set(children_of(gateway.pid))
    clients = Clients(gateway.port, kept=2, fresh=1, others=1)
    try:
        done = upgrade(gateway, sick)
        assert done.returncode == 6, done.stderr
        assert "version 99.0.0 does not serve: its children end right at start" in done.stderr
        wait_until(gateway.is_ready, "control to be back")
        counted = Counted(clients)
        wait_until(lambda: counted.grown(5), "requests afterwards")
    finally:
        clients.stop()
    assert clients.lost == []
    # Control is another; the workers are the same.
    assert len(before & set(children_of(gateway.pid))) == 2


def test_what_cannot_be_is_refused_and_nothing_changes(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    before = set(children_of(gateway.pid))
    broken = copy_of_package(
        tmp_path / "broken", "99.0.0", worker__app=("import asyncio", "import no_such_module")
    )
    done = upgrade(gateway, broken, "--json")
    assert done.returncode == 4
    told = json.loads(done.stdout)
    assert told["state"] == "refused"
    assert "no_such_module" in told["text"]

    text = gateway.path.read_text()
    gateway.path.write_text(text.replace("services:", "servces:"))
    done = upgrade(gateway)
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    # One that only the gateway itself can find: a variable that its environment does not have.
    gateway.path.write_text(text.replace("GATEWAY_TEST_TOKEN", "GATEWAY_NO_TOKEN"))
    done = upgrade(gateway)
    assert done.returncode == 4
    assert "token_env: the environment variable that is named here is not set" in done.stderr
    gateway.path.write_text(text)

    done = upgrade(gateway, ROOT, "--python", str(tmp_path / "python"))
    assert done.returncode == 2
    assert before <= set(children_of(gateway.pid))  # a spare worker may have come
    assert gateway.is_ready()


def test_a_release_goes_on_and_weights_breakers_and_counts_stay(tmp_path: Path) -> None:
    with Backend() as backend:
        made = GatewayProcess.for_services(
            tmp_path,
            {"web": ([backend.url, backend.url.replace("127.0.0.1", "localhost")], [backend.url])},
            workers=1,
            service_keys=KEYS,
            extra="releases: {steps: [{weight: 20, hold: 2m}, {weight: 100, hold: 2m}]}\n",
        )
        with made as gateway:
            started: list[object] = []

            def start() -> bool:
                answer = gateway.api("POST", "/v1/releases", {"version": "two"})
                started[:] = [answer.body]
                return answer.status == 201

            wait_until(start, lambda: f"the release to start: {started}")

            def stepped() -> bool:
                weights = gateway.api("GET", "/v1/status").body["services"][0]["weights"]
                return bool(weights["candidate"] == 20)

            wait_until(stepped, "the first step")
            before = gateway.api("GET", "/v1/status").body
            endpoint = before["services"][0]["pools"][0]["endpoints"][0]
            opened = gateway.api("POST", f"/v1/breakers/{endpoint['id']}/open")
            assert opened.status == 200, opened
            told = answer(upgrade(gateway, ROOT, "--json"))
            assert told["board"] == "kept"
            wait_until(gateway.is_ready, "control to be back")
            after = gateway.api("GET", "/v1/status").body
            release = gateway.api("GET", f"/v1/releases/{before['release']}").body
    assert after["release"] == before["release"]
    assert (release["state"], release["weight"]) == ("stepping", 20)
    service = after["services"][0]
    assert service["weights"] == before["services"][0]["weights"]
    assert service["pools"][0]["endpoints"][0]["breaker"] == "forced_open"
    assert service["pools"][0]["generation"] == before["services"][0]["pools"][0]["generation"]


def test_a_store_that_a_newer_version_brought_on_is_kept_for_it(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    """It migrates, and goes back all the same: the older control has to do without."""
    migrates = (
        "    releaserows.MIGRATION,",
        '    releaserows.MIGRATION,\n    "CREATE TABLE later (a);",',
    )
    sick = copy_of_package(
        tmp_path / "sick",
        "99.0.0",
        **{
            "control/database": migrates,
            "worker/__main__": ("    spec = ", '    raise SystemExit("sick")\n    spec = '),
        },
    )
    well = copy_of_package(tmp_path / "well", "99.0.1", **{"control/database": migrates})
    assert gateway.set_weight(30).status == 200
    rows = len(gateway.api("GET", "/v1/audit").body["rows"])
    assert upgrade(gateway, sick).returncode == 6
    wait_until(gateway.is_ready, "control to be back")
    status = gateway.api("GET", "/v1/status").body
    assert any("written by a newer one" in each for each in status["warnings"])
    assert status["services"][0]["weights"]["candidate"] == 30
    assert gateway.set_weight(40).status == 200
    # Back again is refused before anything happens, and there is the newer one's store.
    assert list(gateway.folder.glob("gateway.db.broken-*")) == []
    assert answer(upgrade(gateway, well, "--json"))["state"] == "done"
    wait_until(gateway.is_ready, "control to be back")
    status = gateway.api("GET", "/v1/status").body
    assert status["services"][0]["weights"]["candidate"] == 40
    assert len(gateway.api("GET", "/v1/audit").body["rows"]) > rows
    done = upgrade(gateway, ROOT)
    assert done.returncode == 4
    assert "it was written by a newer one" in done.stderr


def test_what_a_reload_cannot_do_an_upgrade_to_itself_does(gateway: GatewayProcess) -> None:
    text = gateway.path.read_text()
    gateway.path.write_text(text.replace("workers: 2", "workers: 3"))
    first = subprocess.Popen(
        [sys.executable, "-P", "-m", "gateway", "upgrade", "--config", gateway.path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=gateway.folder,
    )
    run_dir = gateway.folder / "run"
    wait_until(lambda: list(run_dir.glob("upgrade-*.json")), "the first to be asked for")
    second = upgrade(gateway)
    assert (second.returncode, second.stderr) == (4, "gateway: another upgrade is under way\n")
    assert first.wait(60) == 0
    rows = gateway.api("GET", "/v1/status").body["processes"]
    assert sum(row["role"] == "worker" for row in rows) >= 3
    gateway._remember()
