"""One private address that makes nearly all requests, with real processes: said, and taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.gateway import TOKEN, GatewayProcess
from tests.support.processes import wait_until
from tests.support.upstream import Upstream, always


def _ask(gateway: GatewayProcess, times: int, **fields: str) -> None:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    for _ in range(4):  # connections, so that each worker has some
        with httpx.Client(headers=named) as client:
            for _ in range(times // 4):
                assert client.get(gateway.url).status_code == 200


def _shared(gateway: GatewayProcess) -> dict[str, object] | None:
    found: dict[str, object] | None = gateway.api("GET", "/v1/status").body["shared_address"]
    return found


def test_a_proxy_that_is_not_trusted_is_told_of_until_it_is(tmp_path: Path) -> None:
    with Upstream(always(b"ok")) as upstream:
        gateway = GatewayProcess.for_services(tmp_path, {"web": ([upstream.url], [])}, workers=2)
        with gateway:
            _ask(gateway, 400)  # somebody tries it out on this machine
            _ask(gateway, 600, X_Forwarded_For="203.0.113.9")
            found = wait_until(lambda: _shared(gateway), "the address is told of", 30)
            assert (found["address"], found["forwards"]) == ("127.0.0.1", True)
            shown = subprocess.run(
                [sys.executable, "-m", "gateway", "status", "--admin", gateway.admin_url],
                env={**gateway.env, "GATEWAY_TOKEN": TOKEN},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert "127.0.0.1 makes" in shown.stderr
            wait_until(lambda: "one cohort and one rate limit" in gateway.said(), "it is logged")

            text = gateway.path.read_text()
            gateway.path.write_text(text + 'trusted_proxies: ["127.0.0.1/32"]\n')
            assert gateway.api("POST", "/v1/config/reload").status == 200
            assert _shared(gateway) is None
            _ask(gateway, 400, X_Forwarded_For="10.9.8.7")  # a second one, behind the first
            second = wait_until(lambda: _shared(gateway), "the second one is told of", 30)
            assert second["address"] == "10.9.8.7"
