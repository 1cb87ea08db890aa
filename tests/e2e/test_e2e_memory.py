"""A worker that the kernel kills for want of memory is replaced; others have served meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import alive, wait_until
from tests.support.upstream import Upstream, always

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

#: What a worker may take beyond what it has.
MORE = 6 << 20


@contextmanager
def memory_limit(pid: int, octets: int) -> Iterator[None]:
    """Limit what a process takes from now on, or skip the test where that cannot be done."""
    group = Path("/sys/fs/cgroup/memory") / f"gateway-test-{os.getpid()}"
    limit = "memory.limit_in_bytes"
    if not group.parent.is_dir():
        group, limit = Path("/sys/fs/cgroup") / group.name, "memory.max"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group of processes can be made: {error}")
    try:
        try:
            (group / limit).write_text(str(octets))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            pytest.skip(f"memory cannot be limited here: {error}")
        yield
    finally:
        with contextlib.suppress(OSError):
            wait_until(lambda: not alive(pid) or None, "the limited process is gone")
            group.rmdir()


def _workers(gateway: GatewayProcess) -> list[int]:
    """Return those that serve; the spare is none of them."""
    rows = gateway.api("GET", "/v1/status").body["processes"]
    return [row["pid"] for row in rows if (row["role"], row["state"]) == ("worker", "ready")]


def test_a_worker_killed_for_want_of_memory_is_replaced(tmp_path: Path) -> None:
    with Upstream(always(b"x" * (4 << 20))) as upstream:
        services: dict[str, tuple[list[str], list[str]]] = {"web": ([upstream.url], [])}
        with (
            GatewayProcess.for_services(tmp_path, services, workers=2) as gateway,
            contextlib.ExitStack() as stack,
        ):
            first = _workers(gateway)[0]
            with memory_limit(first, MORE):
                # Slow readers, until there is no room for what they do not read.
                deadline = time.monotonic() + 30
                while alive(first) and time.monotonic() < deadline:
                    client = stack.enter_context(socket.socket())
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    client.connect(("127.0.0.1", gateway.port))
                    client.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
                    time.sleep(0.02)
                assert not alive(first), "it was not killed"
            stack.close()

            def again() -> bool | None:
                found = _workers(gateway)
                return (len(found) == 2 and first not in found and gateway.is_ready()) or None

            wait_until(again, lambda: f"another worker:\n{gateway.said()[-2000:]}")
            assert "ended by SIGKILL" in gateway.said()
            for _ in range(20):
                with urllib.request.urlopen(gateway.url, timeout=10) as answer:
                    assert len(answer.read()) == 4 << 20
            text = gateway.api("GET", "/metrics").body
            assert 'gateway_process_restarts_total{process="worker"} 1.0' in text
