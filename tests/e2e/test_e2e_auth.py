"""Authentication with real processes: keys that an issuer's server rotates, and its outage."""

from __future__ import annotations

import hashlib
import hmac
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import GatewayProcess
from tests.support.issuer import AUDIENCE, ISSUER, b64, claims, jwk, key_set, public_pem, token
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


def forged() -> dict[str, bytes]:
    """Return tokens of every published kind that must not count, by what is wrong with them."""
    now = time.time()
    good = claims(exp=now + 600, iat=now)

    def made(algorithm: str = "ES256", **more: Any) -> bytes:
        header = more.pop("header", None)
        signature = more.pop("signature", None)
        return token(algorithm, header=header, signature=signature, body={**good, **more})

    hs256 = made("RS256", header={"alg": "HS256"}).rpartition(b".")[0]
    mac = hmac.new(public_pem("RS256"), hs256, hashlib.sha256).digest()
    own = {"jwk": jwk("ES256", "ES256", 1), "jku": "https://evil.example/jwks", "x5u": "https://e/"}
    theirs = token("ES256", header=own, body=good, which=1)
    return {
        "none": made(header={"alg": "none"}, signature=b""),
        "a public key as a secret": hs256 + b"." + b64(mac).encode(),
        "another key that the token brings": theirs,
        "a key's name that is a path": made(header={"kid": "../../../../dev/null"}),
        "a key's name that is a query": made(header={"kid": "ES256' OR '1'='1"}),
        "critical extension": made(header={"crit": ["exp"], "b64": False}),
        "expired": made(exp=now - 3600),
        "not yet": made(nbf=now + 3600),
        "without an end": token("ES256", body={k: v for k, v in good.items() if k != "exp"}),
        "another issuer": made(iss="https://evil.example/"),
        "another audience": made(aud=["others", "more"]),
        "a line break in a claim": made(sub="alice\r\nX-Admin: 1"),
        "a letter no field has": made(sub="al\u00efce"),
        "a claim without end": made(sub="a" * 2000),
        "huge": made(padding="x" * 9000),
        "another algorithm for its key": made("ES256", header={"kid": "RS256"}),
    }


@pytest.mark.slow
def test_no_forged_token_passes_a_gateway_and_good_ones_tell_who_it_is(tmp_path: Path) -> None:
    (tmp_path / "issuer.json").write_bytes(key_set())
    with Upstream(always(b"blue")) as blue:
        gateway = GatewayProcess.for_services(tmp_path, {"web": ([blue.url], [])})
        text = gateway.path.read_text()
        route = "{path: /, service: web}"
        gateway.path.write_text(
            text.replace(route, f"{{path: /account/, service: web, auth: users}}\n  - {route}")
            + f"auth: {{users: {{jwt: {{issuer: '{ISSUER}', audience: [{AUDIENCE}], "
            f"jwks_file: {tmp_path}/issuer.json, claims: {{sub: X-User-Id}}}}}}}}\n"
        )
        with gateway, httpx.Client(base_url=gateway.url) as client:

            def ask(path: str, credential: bytes, **fields: str) -> httpx.Response:
                bearing = {"Authorization": f"Bearer {credential.decode()}"}
                return client.get(path, headers={**bearing, **fields})

            for why, credential in forged().items():
                answer = ask("/account/", credential)
                assert answer.status_code == 401, why
                assert answer.headers["Content-Type"] == "application/problem+json"
                asks = answer.headers["WWW-Authenticate"]
                assert asks.startswith('Bearer realm="gateway", error="invalid_token"'), why
                # Neither is a path spelt otherwise the way past it.
                for path in ("/%61ccount/", "/account/%2e%2e/account/"):
                    assert ask(path, credential).status_code in {400, 401}, (why, path)
            now = time.time()
            body = claims(exp=now + 600, iat=now, aud=["others", AUDIENCE])
            for algorithm in ("RS256", "ES256", "EdDSA"):
                credential = token(algorithm, body=body)
                forge = {"x-user-id": "root", "X_User_Id": "root", "X-USER_ID": "root"}
                assert ask("/account/", credential, **forge).status_code == 200
                head = blue.heads[-1].lower()
                assert b"x-user-id: alice\r\n" in head
                assert b"root" not in head
            assert client.get("/", headers={"X_User_Id": "root"}).status_code == 200
            assert b"root" not in blue.heads[-1]
