"""Nothing fails visibly: real processes, a backend that is not there, and no control either."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from tests.e2e.conftest import Platform
from tests.e2e.test_e2e_planes import processes
from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.rawclient import RawClient
from tests.support.upstream import Upstream, always

STATUS = "/.well-known/gateway/status"
KEYS = """\
    health: {{interval: 200ms, interval_down: 200ms, rise: 1, fall: 1}}
    breaker: {{reset_after: 1s}}
    fallback: [{{static: {{file: {file}}}}}]
"""


@pytest.fixture
def away(tmp_path: Path) -> Iterator[tuple[GatewayProcess, int, Path]]:
    """A gateway whose only backend listens nowhere, its port, and the file that stands in."""
    (port,) = free_ports(1)
    file = tmp_path / "static.json"
    file.write_text('{"static": 1}')
    gateway = GatewayProcess.for_services(
        tmp_path,
        {"web": ([f"http://127.0.0.1:{port}"], [])},
        workers=2,
        service_keys=KEYS.format(file=file),
    )
    with gateway:
        yield gateway, port, file


def mode(gateway: GatewayProcess) -> object:
    with RawClient(gateway.port) as client:
        return json.loads(client.get(STATUS).body)["mode"]


def test_workers_that_start_without_control_have_files_and_mode(
    away: tuple[GatewayProcess, int, Path],
) -> None:
    gateway, _, file = away
    wait_until(lambda: mode(gateway) == "read_only", "read only", timeout=10)
    found = processes(Platform(gateway, None, None))  # type: ignore[arg-type]  # not asked
    (control,) = found["control"]
    os.kill(control, signal.SIGSTOP)
    try:
        file.unlink()
        for pid in found["worker"]:
            os.kill(pid, signal.SIGKILL)
        for _ in range(6):
            with RawClient(gateway.port) as client:
                answer = client.get()
                assert (answer.status, answer.body) == (200, b'{"static": 1}')
                assert answer.field("x-gateway-served-by") == "static"
        assert mode(gateway) == "read_only"
        with RawClient(gateway.port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            answer = client.answer()
            assert (answer.status, answer.field("x-gateway-error")) == (503, "read-only")
    finally:
        os.kill(control, signal.SIGCONT)


def test_a_backend_that_returns_ends_it_and_a_reload_takes_the_new_file(
    away: tuple[GatewayProcess, int, Path],
) -> None:
    gateway, port, file = away
    file.write_text('{"static": 2}')
    assert gateway.api("POST", "/v1/config/reload").body["changes"] == ["files: changed"]
    with RawClient(gateway.port) as client:
        assert client.get().body == b'{"static": 2}'
    file.unlink()
    refused = gateway.api("POST", "/v1/config/reload")
    assert refused.status == 422
    assert "cannot be read" in refused.body["errors"][0]["detail"]
    with Upstream(always(b"back"), port=port):

        def back() -> bool:
            with RawClient(gateway.port) as client:
                return client.get().body == b"back"

        wait_until(back, "the backend is asked again", timeout=10)
        # A fallback answered lately: degraded for a few seconds more.
        wait_until(lambda: mode(gateway) == "full", "full again", timeout=10)
