"""slowhttptest in all its modes: a normal client hardly notices, and nothing is held for long.

The long form: ``GATEWAY_SLOW_CONNECTIONS=2000 GATEWAY_SLOW_SECONDS=30``. It holds the ratio of the
two p99s to 2; the short form, which shares a machine with other tests, only looks for an outage.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from tests.outside.conftest import HERE
from tests.support.gateway import GatewayProcess
from tests.support.processes import start_listening, wait_until

pytestmark = pytest.mark.outside

CONNECTIONS = int(os.environ.get("GATEWAY_SLOW_CONNECTIONS", "300"))
SECONDS = int(os.environ.get("GATEWAY_SLOW_SECONDS", "4"))
LONG = CONNECTIONS >= 2000
#: Seconds that the gateway under test gives a client.
PATIENCE = 15.0 if LONG else 3.0
#: Seconds in which all of them connect: what is measured is holding them, not accepting them.
RAMP = 10 if LONG else 1

MODES = {
    "headers": ["-H", "-i", "1", "-x", "24"],
    "bodies": ["-B", "-i", "1", "-s", "8192", "-x", "8"],
    "ranges": ["-R", "-a", "5", "-b", "800"],
    "reading": ["-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "3"],
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    if shutil.which("slowhttptest") is None:
        pytest.skip("slowhttptest is not installed (Debian: slowhttptest)")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < CONNECTIONS * 2:
        pytest.skip(f"{CONNECTIONS} connections need more open files than this machine allows")
    folder = tmp_path_factory.mktemp("slow")
    with ExitStack() as stack:
        (port,) = free_ports(1)
        command = [sys.executable, str(HERE / "serve_sizes.py"), str(port)]
        stack.callback(start_listening("sizes", command, folder, port).stop)
        yield stack.enter_context(
            GatewayProcess.for_services(
                folder,
                {"app": ([f"http://127.0.0.1:{port}"], [])},
                service_keys=(
                    f"    timeouts: {{between_bytes: {PATIENCE}s, total: 20s}}\n"
                    "    health: {interval: 2s, timeout: 2s}"
                ),
                extra=f"limits: {{header_timeout: {PATIENCE}s, idle_timeout: {PATIENCE}s}}\n",
            )
        )


def _p99(gateway: GatewayProcess, seconds: float) -> float:
    """Return the p99 of a client that asks again and again on one connection, in seconds."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    ) as connection:
        return _asked(connection, seconds)


def _asked(connection: http.client.HTTPConnection, seconds: float) -> float:
    times = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        connection.request("GET", "/small")
        answer = connection.getresponse()
        assert len(answer.read()) == 1024
        assert answer.status == 200
        times.append(time.perf_counter() - began)
        time.sleep(0.002)
    return sorted(times)[int(len(times) * 0.99)]


def _connections(gateway: GatewayProcess) -> int:
    text = str(gateway.api("GET", "/metrics").body)
    found = re.findall(r"^gateway_connections(?:\{[^}]*\})? ([0-9.e+]+)$", text, re.MULTILINE)
    assert found, text[:2000]
    return int(sum(float(each) for each in found))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_normal_client_hardly_notices(gateway: GatewayProcess, mode: str, tmp_path: Path) -> None:
    unloaded = _p99(gateway, SECONDS / 2)
    command = [
        "slowhttptest",
        *MODES[mode],
        *("-c", str(CONNECTIONS), "-r", str(CONNECTIONS // RAMP), "-l", str(SECONDS + RAMP + 1)),
        *("-u", f"{gateway.url}/large", "-p", "5", "-v", "1"),
    ]
    attack = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        time.sleep(RAMP)
        most = _connections(gateway)
        loaded = _p99(gateway, SECONDS)
    finally:
        said, _ = attack.communicate(timeout=SECONDS + RAMP + 60)
    print(f"{mode}: p99 {unloaded * 1e3:.2f} ms, under attack {loaded * 1e3:.2f} ms, {most} held")
    assert most > 10 or mode == "ranges", said  # those are answered at once
    assert loaded < (2 * unloaded + 0.002 if LONG else 0.5), (unloaded, loaded)

    def let_go() -> bool | None:
        return _connections(gateway) <= 2 or None

    wait_until(let_go, lambda: f"{_connections(gateway)} connections are held after the attack")
    assert gateway.api("GET", "/readyz").status == 200
