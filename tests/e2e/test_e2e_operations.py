"""What docs/operations.md promises: signals to every process, log files that are rotated."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Platform
from tests.support.processes import wait_until
from tests.support.rawclient import RawClient


def pids(platform: Platform) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for each in platform.gateway.api("GET", "/v1/status").body["processes"]:
        found.setdefault(each["role"], set()).add(each["pid"])
    return found


def metric(platform: Platform, line: str) -> float:
    text = str(platform.gateway.api("GET", "/metrics").body)
    (found,) = (each for each in text.splitlines() if each.startswith(line + " "))
    return float(found.rpartition(" ")[2])


def test_signals_that_are_anothers_end_nobody(platform: Platform) -> None:
    before = pids(platform)
    with RawClient(platform.gateway.port) as client:
        assert client.get().status == 200
        for role in ("worker", "control"):
            for pid in before[role]:
                for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
                    os.kill(pid, number)
        os.kill(platform.gateway.pid, signal.SIGUSR1)
        # SIGHUP is a reload for control, as it is for the supervisor.
        wait_until(
            lambda: metric(platform, 'gateway_config_reloads_total{result="ok"}') >= 1,
            "control has reloaded",
        )
        assert client.get().status == 200, "the connection was open all the time"
    assert pids(platform) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("role", ["worker", "control"])
def test_a_child_that_is_ended_by_hand_is_replaced(
    platform: Platform, role: str, number: signal.Signals
) -> None:
    before = pids(platform)
    one = min(before[role])
    os.kill(one, number)

    def replaced() -> bool:
        if not platform.gateway.is_ready():
            return False
        now = pids(platform)[role]
        return one not in now and len(now) == len(before[role])

    wait_until(replaced, f"another {role}")
    with RawClient(platform.gateway.port) as client:
        assert client.get().status == 200
    assert pids(platform)["supervisor"] == before["supervisor"]


def test_a_log_that_is_rotated_is_opened_anew_by_every_worker(platform: Platform) -> None:
    log: Path = platform.gateway.folder / "access.log"
    rotated = log.with_name("access.log.1")
    asked = 0

    def ask() -> None:
        nonlocal asked
        with RawClient(platform.gateway.port) as client:
            assert client.get().status == 200
        asked += 1

    ask()
    wait_until(log.read_bytes, "the first line")
    log.rename(rotated)

    def moved() -> bool:
        ask()
        return log.exists() and log.read_bytes().count(b"\n") > 20

    wait_until(moved, "a new file with lines")

    def lines() -> int:
        return sum(each.read_bytes().count(b"\n") for each in (log, rotated))

    wait_until(lambda: lines() == asked, lambda: f"{lines()} lines of {asked} requests")
