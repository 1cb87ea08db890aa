"""The gateway as process 1 of a container: signals, orphans, a state that outlives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from loadtests.mixed.backend import Backend
from loadtests.mixed.clients import Clients
from tests.support.container import UNSHARE, Container, need_namespaces
from tests.support.processes import ROOT, alive, children_of, start, wait_until
from tests.support.rawclient import RawClient

pytestmark = [pytest.mark.outside, pytest.mark.timeout(120)]


@pytest.fixture
def backend() -> Iterator[Backend]:
    need_namespaces()
    with Backend() as made:
        yield made


def container(folder: Path, backend: Backend, shutdown: str = "{timeout: 2s}") -> Container:
    return Container.for_services(
        folder, {"web": ([backend.url], [])}, workers=2, extra=f"shutdown: {shutdown}\n"
    )


def about(folder: Path) -> dict[str, object]:
    told: dict[str, object] = json.loads((folder / "run" / "supervisor.json").read_text())
    return told


def refused_beside(running: Container) -> str:
    """Start another container on the same state; return what it says, which is no."""
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "gateway", "run", "--config", running.path],
        env={**os.environ, **running.env}, cwd=running.folder,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done
    return done.stderr


def test_sigterm_ends_process_1_in_order(tmp_path: Path, backend: Backend) -> None:
    with container(tmp_path, backend) as gateway:
        assert gateway.inside("cat", "/proc/1/comm").stdout.startswith("python")
        clients = Clients(gateway.port, kept=0, fresh=0, others=2)
        try:
            wait_until(lambda: clients.done["message"] > 3 and clients.done["event"] > 3, "a start")
            with RawClient(gateway.port) as slow:
                slow.send(b"GET /slow?for=1 HTTP/1.1\r\nHost: x.example\r\n\r\n")
                time.sleep(0.1)
                clients.give_up()
                began = time.monotonic()
                gateway.send(signal.SIGTERM)
                assert (slow.answer().status, gateway.ended_within(7)) == (200, 0)
                print(f"ended after {time.monotonic() - began:.1f} s")
        finally:
            clients.stop()
    assert clients.lost == []


def test_sigterm_while_it_starts_is_not_lost(tmp_path: Path, backend: Backend) -> None:
    """Process 1 has no default action: the kernel drops what it neither handles nor holds."""
    gateway = container(tmp_path, backend)
    command = [*UNSHARE, sys.executable, "-m", "gateway", "run", "--config", str(gateway.path)]
    began = time.monotonic()
    gateway.process = start("gateway", command, tmp_path, gateway.env)
    try:
        wait_until(lambda: holds_sigterm(gateway), "it to hold signals")
        held = time.monotonic()
        gateway.send(signal.SIGTERM)
        assert gateway.ended_within(15) == 0
        print(
            f"held {held - began:.2f} s after the start, ended {time.monotonic() - held:.2f} s on"
        )
    finally:
        gateway.stop(signal.SIGKILL)
    assert "ending: workers have 2 s" in gateway.said()


def holds_sigterm(gateway: Container) -> bool:
    """Tell whether process 1 is there and has SIGTERM wait."""
    assert gateway.process is not None
    if not children_of(gateway.process.pid):
        return False
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    held = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(held.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_reload_orphans_and_numbers(tmp_path: Path, backend: Backend) -> None:
    with container(tmp_path, backend) as gateway:
        namespace = namespace_of(gateway.pid)
        assert (tmp_path / "run" / "lock").read_text() == "1\n"
        assert (about(tmp_path)["pid"], about(tmp_path)["namespace"]) == (1, namespace)
        # An orphan becomes process 1's child, and is not left a zombie.
        done = gateway.inside("sh", "-c", "(sleep 0.2; exit 3) & (sleep 0.4) & echo $$")
        assert done.returncode == 0
        time.sleep(0.6)
        wait_until(lambda: "Z" not in states(gateway), lambda: f"no zombie: {states(gateway)}")
        assert len(states(gateway)) == 5
        good = gateway.path.read_text()
        gateway.path.write_text(good.replace("routes:", "routes:\n  - {path: /x/, service: web}"))
        gateway.send(signal.SIGHUP)
        wait_until(lambda: "reload" in gateway.said(), lambda: f"a reload: {gateway.said()}")
        # Numbers that are shown are those of the container.
        state = gateway.inside(sys.executable, "-c", ASK, str(tmp_path / "run" / "worker-0.sock"))
        assert 1 < json.loads(state.stdout)["pid"] < 100, state


ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1])
    s.sendall(b'{"ask": "state"}\\n')
    print(s.makefile().readline())
"""


def namespace_of(pid: int | str) -> str:
    """Name the process namespace of a process; empty where it has ended."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except FileNotFoundError:
        return ""


def states(gateway: Container) -> list[str]:
    """Return the states of the container's processes, but for those that ask."""
    namespace = namespace_of(gateway.pid)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if namespace_of(folder.name) == namespace or _zombie_of(folder, gateway.pid):
                found.append((folder / "stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return found


def _zombie_of(folder: Path, pid: int) -> bool:
    """Tell whether a process that has ended (it has no namespace any more) is a child of ours."""
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return fields[0] == "Z" and fields[1] == str(pid)


def test_an_upgrade_within_and_none_from_elsewhere(tmp_path: Path, backend: Backend) -> None:
    """Number 1 out here is a stranger, whom SIGUSR2 would end."""
    verb = [sys.executable, "-m", "gateway", "upgrade", "--config"]
    with container(tmp_path, backend) as gateway:
        outside = subprocess.run(
            [*UNSHARE, *verb, str(gateway.path)],
            env={**os.environ, **gateway.env}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert outside.returncode == 4
        assert "runs in another container (its process 1)" in outside.stderr
        clients = Clients(gateway.port)
        try:
            inside = gateway.inside(*verb, str(gateway.path))
            assert inside.returncode == 0, inside.stderr
        finally:
            clients.stop()
        assert clients.lost == []
        assert about(tmp_path)["pid"] == 1


def test_one_state_has_one_container(tmp_path: Path, backend: Backend) -> None:
    expected = "another gateway (process 1 of another container) runs on this state"
    with container(tmp_path, backend, "{delay: 1s, timeout: 3s}") as gateway:
        assert expected in refused_beside(gateway)
        with RawClient(gateway.port) as slow:
            slow.send(b"GET /slow?for=3 HTTP/1.1\r\nHost: x.example\r\n\r\n")
            gateway.send(signal.SIGTERM)
            assert expected in refused_beside(gateway)
            assert slow.answer().status == 200
        assert gateway.ended_within(10) == 0
        gateway.start()
        with RawClient(gateway.port) as client:
            assert client.get().status == 200


def test_after_a_kill_the_next_one_takes_nobody_for_a_child(
    tmp_path: Path, backend: Backend
) -> None:
    """Numbers that the dead one left are given to others meanwhile: 1 is the next one itself."""
    with container(tmp_path, backend) as gateway:
        first = list(map(int, gateway.inside("pgrep", "-f", "gateway[.]worker").stdout.split()))
        gateway.send(signal.SIGKILL)
        assert gateway.ended_within(5) is not None
        left = sorted(path.name for path in (tmp_path / "run").iterdir())
        assert {"lock", "supervisor.json", "control.sock", "worker-0.sock"} <= set(left), left
        began = time.monotonic()
        os.truncate(tmp_path / "gateway.out", 0)
        gateway.start()
        print(f"first workers {first}; ready again after {time.monotonic() - began:.1f} s; {left}")
        for word in ("taken over", "killed", "hangs", "does not answer", "another"):
            assert word not in gateway.said(), gateway.said()
        assert alive(gateway.pid)
        assert about(tmp_path)["namespace"] == namespace_of(gateway.pid)
        assert gateway.stop() == 0
    assert "supervisor.json" not in {path.name for path in (tmp_path / "run").iterdir()}


def seconds(text: object) -> float:
    found = re.fullmatch(r"([0-9.]+)s", str(text))
    assert found, text
    return float(found[1])


def test_the_image_leaves_process_1_to_the_gateway_and_gives_it_time() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    final = lines[max(at for at, line in enumerate(lines) if line.startswith("FROM ")) :]
    said = dict(line.split(None, 1) for line in final if line and not line.startswith((" ", "#")))
    assert json.loads(said["ENTRYPOINT"])[:2] == ["gateway", "run"]
    assert said["STOPSIGNAL"] == "SIGTERM"
    _, _, command = said["HEALTHCHECK"].partition("CMD ")
    assert json.loads(command)[0] == "python"
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    config = yaml.safe_load((ROOT / "config" / "container.yaml").read_text())
    service = compose["services"]["gateway"]
    assert "init" not in service
    shutdown = config.get("shutdown", {})
    # 30 s is what `drain_timeout` is unless said.
    least = seconds(shutdown.get("delay", "0s")) + seconds(shutdown.get("timeout", "30s")) + 5
    assert seconds(service["stop_grace_period"]) > least
