"""Scripted client and server around the gateway, octet by octet: Debian's varnishtest.

Each ``vtc/*.vtc`` plays a backend on the gateway's only endpoint and a client of its public side.
Health is probed once, by a server that leaves the port to the scripts then: a probe's connection
would be taken for the gateway's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import need, wait_until
from tests.support.upstream import Upstream, always

pytestmark = pytest.mark.outside

SCRIPTS = sorted((Path(__file__).parent / "vtc").glob("*.vtc"))


@dataclass(frozen=True, slots=True)
class Stage:
    """The gateway's public port, and the port of its only endpoint."""

    gateway: GatewayProcess
    backend: int


def healths(gateway: GatewayProcess) -> set[str]:
    text = str(gateway.api("GET", "/v1/status").body)
    return {word for word in ("'up'", "'unknown'", "'down'") if f"'health': {word}" in text}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    need("varnishtest")
    folder = tmp_path_factory.mktemp("varnishtest")
    with Upstream(always(b"probed")) as placeholder:
        services: dict[str, tuple[list[str], list[str]]] = {"app": ([placeholder.url], [])}
        keys = "    health: {interval: 1h, rise: 1}\n    timeouts: {first_byte: 5s}\n"
        gateway = GatewayProcess.for_services(folder, services, service_keys=keys)
        gateway.start()
        try:
            wait_until(lambda: healths(gateway) == {"'up'"}, lambda: f"{healths(gateway)}")
        except BaseException:
            gateway.stop()
            raise
    try:
        yield Stage(gateway, placeholder.port)
    finally:
        gateway.stop()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_plays_to_its_end(stage: Stage, script: Path) -> None:
    defined = [f"-Dgateway={stage.gateway.port}", f"-Dbackend={stage.backend}"]
    done = subprocess.run(
        [need("varnishtest"), "-t", "30", *defined, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
