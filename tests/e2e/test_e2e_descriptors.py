"""A worker without descriptors left: it waits, burns nothing, and serves again."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import children_of, wait_until
from tests.support.upstream import Upstream, always

pytestmark = pytest.mark.slow


def _worker(gateway: GatewayProcess) -> int:
    for pid in children_of(gateway.pid):
        if b"gateway.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no worker")


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    with Upstream(always(b"x")) as upstream:
        services: dict[str, tuple[list[str], list[str]]] = {"web": ([upstream.url], [])}
        with GatewayProcess.for_services(tmp_path, services) as gateway:
            soft, hard = resource.prlimit(_worker(gateway), resource.RLIMIT_NOFILE)
            assert soft == min(hard, 1 << 20) or soft == resource.RLIM_INFINITY


def test_accept_at_the_limit_of_descriptors_spins_no_core(tmp_path: Path) -> None:
    with Upstream(always(b"x")) as upstream, contextlib.ExitStack() as stack:
        services: dict[str, tuple[list[str], list[str]]] = {"web": ([upstream.url], [])}
        gateway = stack.enter_context(GatewayProcess.for_services(tmp_path, services))
        worker = _worker(gateway)
        used = len(list(Path(f"/proc/{worker}/fd").iterdir()))
        _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 20, hard))
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=5))
            for _ in range(100)
        ]
        time.sleep(0.5)
        before = _processor_time(worker)
        time.sleep(2.0)
        assert _processor_time(worker) - before < 1.0
        for client in clients:
            client.close()

        def served() -> bool | None:
            try:
                with urllib.request.urlopen(gateway.url, timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return None

        wait_until(served, lambda: "it serves again once there are descriptors")
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (hard, hard))
