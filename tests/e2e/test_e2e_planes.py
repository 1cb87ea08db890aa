"""The planes outlive each other: processes killed with -9 under real requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from tests.e2e.conftest import Platform
from tests.support.processes import ROOT, alive, wait_until
from tests.support.rawclient import RawClient

COMMAND = (sys.executable, "-m", "gateway")


def processes(platform: Platform) -> dict[str, list[int]]:
    rows = platform.gateway.api("GET", "/v1/status").body["processes"]
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row["role"], []).append(row["pid"])
    return found


class Visitor:
    """Sends requests one after the other on a connection each, and keeps what went wrong."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.good = 0
        self.bad: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with RawClient(self.port) as client:
                    for _ in range(3):
                        answer = client.get()
                        assert answer.status == 200, answer
                        self.good += 1
                        if answer.field("connection") == "close":
                            break  # as every client does: a draining worker says so
            except (OSError, AssertionError) as error:
                self.bad.append(repr(error))


def test_nobody_notices_that_control_is_killed(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.set_weight(100)
    with Visitor(gateway.port) as visitor:
        for _ in range(3):
            (control,) = processes(platform)["control"]
            os.kill(control, signal.SIGKILL)
            killed = time.monotonic()
            wait_until(gateway.is_ready, "control is back", timeout=10)
            assert time.monotonic() - killed < 5, "control was away for long"
        after = gateway.api("GET", "/v1/traffic").body["services"][0]["weight"]
    assert after == 100
    assert visitor.bad == []
    assert visitor.good > 10


def test_a_killed_worker_is_replaced_and_remembers_the_weight(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.set_weight(100)
    before = processes(platform)["worker"]
    os.kill(before[0], signal.SIGKILL)

    def replaced() -> bool:
        with RawClient(gateway.port) as client:
            assert client.get().body == b"green"
        return len(set(processes(platform)["worker"]) - {before[0]}) == 2

    wait_until(replaced, "a second worker again", timeout=10)


def test_a_worker_starts_without_control(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.set_weight(100)
    found = processes(platform)
    (control,) = found["control"]
    os.kill(control, signal.SIGSTOP)
    try:
        for pid in found["worker"]:
            os.kill(pid, signal.SIGKILL)
        for _ in range(10):
            with RawClient(gateway.port) as client:
                assert client.get().body == b"green"
    finally:
        os.kill(control, signal.SIGCONT)


def test_the_next_run_takes_over_from_a_killed_supervisor(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.set_weight(100)
    old = processes(platform)
    with Visitor(gateway.port) as visitor:
        os.kill(gateway.pid, signal.SIGKILL)
        assert gateway.process is not None
        gateway.process.popen.wait(10)
        time.sleep(0.3)  # a moment in which the workers are on their own
        gateway.start()

        def only_new() -> bool:
            return not any(alive(pid) for pid in old["worker"] + old["control"])

        wait_until(only_new, "the old processes are gone", timeout=40)
        with RawClient(gateway.port) as client:
            assert client.get().body == b"green"
    assert visitor.bad == []
    assert visitor.good > 10


def test_a_second_run_on_the_same_state_is_refused(platform: Platform) -> None:
    gateway = platform.gateway
    second = subprocess.run(
        [*COMMAND, "run", "--config", gateway.path],
        env={**os.environ, **gateway.env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 4
    assert len(second.stderr.strip().splitlines()) == 1
    assert gateway.is_ready()


def test_the_local_rollback_works_without_control(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.set_weight(100)
    found = processes(platform)
    os.kill(gateway.pid, signal.SIGSTOP)  # nobody brings control back
    try:
        os.kill(found["control"][0], signal.SIGKILL)

        def local(*more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*COMMAND, "rollback", "--local", "--config", gateway.path, *more],
                env={**os.environ, **gateway.env},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )

        done = local()
        assert done.returncode == 0, done.stdout + done.stderr
        for _ in range(6):
            with RawClient(gateway.port) as client:
                assert client.get().body == b"blue"
        undone = local("--undo")
        assert undone.returncode == 0, undone.stdout + undone.stderr
        for _ in range(6):
            with RawClient(gateway.port) as client:
                assert client.get().body == b"green"
    finally:
        os.kill(gateway.pid, signal.SIGCONT)


def test_stopping_finishes_what_is_under_way_and_leaves_nothing(platform: Platform) -> None:
    gateway = platform.gateway
    pids = [pid for some in processes(platform).values() for pid in some]
    assert gateway.stop() == 0
    assert not any(alive(pid) for pid in pids)
