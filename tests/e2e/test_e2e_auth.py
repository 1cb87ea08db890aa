"""Authentication with real processes: keys that an issuer's server rotates, and its outage."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import GatewayProcess
from tests.support.issuer import AUDIENCE, ISSUER, claims, jwk, key_set, token
from tests.support.processes import wait_until
from tests.support.upstream import Conversation, PeerGoneError, Upstream, always


class KeySource:
    """An issuer's server."""

    def __init__(self) -> None:
        self.body = key_set(jwk("ES256", "ES256", 1))
        self.down = False

    def __call__(self, say: Conversation) -> None:
        try:
            say.read_head()
        except PeerGoneError:
            return
        if self.down:
            say.reset()
            return
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        say.send(head % len(self.body) + self.body)


def bearer(which: int) -> dict[str, str]:
    now = time.time()
    made = token(which=which, body=claims(exp=now + 600, iat=now))
    return {"Authorization": f"Bearer {made.decode()}"}


@pytest.mark.slow
def test_keys_are_rotated_and_outlast_source_and_control(tmp_path: Path) -> None:
    source = KeySource()
    with Upstream(always(b"blue")) as blue, Upstream(source) as issuer:
        gateway = GatewayProcess.for_services(tmp_path, {"web": ([blue.url], [])}, workers=2)
        text = gateway.path.read_text()
        route = "{path: /, service: web}"
        assert route in text
        gateway.path.write_text(
            text.replace(route, "{path: /, service: web, auth: users}")
            + f"auth: {{users: {{jwt: {{issuer: '{ISSUER}', audience: [{AUDIENCE}], "
            f"jwks_url: '{issuer.url}/jwks'}}}}}}\n"
        )

        def status(which: int) -> int:
            return httpx.get(gateway.url, headers=bearer(which)).status_code

        with gateway:
            assert httpx.get(gateway.url).status_code == 401
            assert status(1) == 200
            assert status(0) == 401  # another key's, which control is told of
            source.down = True
            assert status(1) == 200
            states = gateway.api("GET", "/v1/status").body["processes"]
            control = next(each["pid"] for each in states if each["role"] == "control")
            os.kill(control, signal.SIGKILL)
            assert status(1) == 200
            wait_until(gateway.is_ready, "control is back")
            assert status(1) == 200  # the last keys, whatever has become of their source
            source.body = key_set(jwk("ES256", "ES256", 0))
            source.down = False
            wait_until(lambda: status(0) == 200, "the new key counts", 60)
            assert status(1) == 401  # taken back


@pytest.mark.slow
def test_a_start_without_the_issuer_lets_nobody_in_and_logs_nobody_out(tmp_path: Path) -> None:
    source = KeySource()
    source.down = True
    with Upstream(always(b"blue")) as blue, Upstream(source) as issuer:
        gateway = GatewayProcess.for_services(tmp_path, {"web": ([blue.url], [])})
        text = gateway.path.read_text()
        route = "{path: /, service: web}"
        gateway.path.write_text(
            text.replace(route, f"{{path: /account/, service: web, auth: users}}\n  - {route}")
            + f"auth: {{users: {{jwt: {{issuer: '{ISSUER}', audience: [{AUDIENCE}], "
            f"jwks_url: '{issuer.url}/jwks'}}}}}}\n"
        )
        with gateway:
            account = f"{gateway.url}/account/"
            assert httpx.get(gateway.url).status_code == 200
            assert httpx.get(account).status_code == 401
            answer = httpx.get(account, headers=bearer(1))
            assert (answer.status_code, answer.json()["type"]) == (
                503,
                "urn:gateway:error:auth-unavailable",
            )
            assert int(answer.headers["Retry-After"]) > 0
            metrics = str(gateway.api("GET", "/metrics").body)
            assert 'gateway_issuer_keys_timestamp_seconds{scheme="users"} 0.0' in metrics
            assert 'gateway_issuer_readings_total{result="failed",scheme="users"}' in metrics
            source.down = False
            wait_until(
                lambda: httpx.get(account, headers=bearer(1)).status_code == 200, "it is read", 40
            )
            assert httpx.get(account, headers=bearer(0)).status_code == 401
            metrics = str(gateway.api("GET", "/metrics").body)
            assert 'gateway_issuer_keys_timestamp_seconds{scheme="users"} 0.0' not in metrics
