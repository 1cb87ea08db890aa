"""By whom limits count, with real processes: subjects, identities, addresses, in turn."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx

from gateway.policy.auth.apikeys import mint
from tests.support.gateway import GatewayProcess
from tests.support.issuer import AUDIENCE, ISSUER, claims, jwk, key_set, token
from tests.support.processes import wait_until
from tests.support.upstream import Upstream, always

KEY, KEY_HASH = mint(bytes(range(32)))
OTHER_KEY, OTHER_HASH = mint(bytes(range(1, 33)))
SLOW = "rate: 1/h"  # nothing comes back within a test

ROUTES = f"""\
routes:
  - path: /
    service: web
    auth: [users, partners]
    auth_optional: true
    rate_limit: {{{SLOW}, burst: 2, key: [subject, client]}}
  - {{path: /who/, service: web, rate_limit: {{{SLOW}, burst: 1, key: [identity, client]}}}}
  - path: /two/
    service: web
    rate_limit:
      - {{{SLOW}, burst: 1, name: strict}}
      - {{{SLOW}, burst: 9, name: wide}}
  - {{path: /trial/, service: web, rate_limit: {{{SLOW}, dry_run: true}}}}
  - {{path: /six/, service: web, rate_limit: {{{SLOW}}}}}
"""


def _gateway(folder: Path, url: str, issuer: str) -> GatewayProcess:
    gateway = GatewayProcess.for_services(
        folder,
        {"web": ([url], [])},
        workers=2,
        extra=(
            "limits: {rate: {rate: 1/h, burst: 199, name: all}}\n"
            'trusted_proxies: ["127.0.0.9/32"]\n'
            'internal_callers: ["127.0.0.8/32"]\n'
            "traffic: {cohort: {header: X-User-Id}}\n"
            f"auth:\n  partners: {{api_keys: {{keys: [{{name: acme, hash: '{KEY_HASH}'}},"
            f" {{name: other, hash: '{OTHER_HASH}'}}]}}}}\n"
            f"  users: {{jwt: {{issuer: '{ISSUER}', audience: [{AUDIENCE}],"
            f" jwks_url: '{issuer}/jwks'}}}}\n"
        ),
    )
    text = gateway.path.read_text()
    assert "routes:\n  - {path: /, service: web}\n" in text
    gateway.path.write_text(text.replace("routes:\n  - {path: /, service: web}\n", ROUTES))
    return gateway


class Asking:
    """Requests from addresses of the loopback network, each over a connection of its own."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._url = gateway.url

    def get(self, path: str, source: str = "127.0.0.1", **fields: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as client:
            return client.get(self._url + path, headers=named)

    def statuses(self, times: int, path: str, source: str = "127.0.0.1", **fields: str) -> str:
        """Return the first digits of so many answers."""
        found = [self.get(path, source, **fields).status_code for _ in range(times)]
        return "".join(str(each)[0] for each in found)


def _bearer(subject: str) -> str:
    now = time.time()
    return f"Bearer {token(which=1, body=claims(sub=subject, exp=now + 600, iat=now)).decode()}"


def test_who_has_a_bucket_of_their_own(tmp_path: Path) -> None:
    keys = always(key_set(jwk("ES256", "ES256", 1)))
    with Upstream(always(b"ok")) as upstream, Upstream(keys) as issuer:
        gateway = _gateway(tmp_path, upstream.url, issuer.url)
        with gateway:
            ask = Asking(gateway)
            _subjects(ask)
            _identities(ask)
            _several_and_trials(gateway, ask)
            _killed(gateway, ask)
            _reloaded(gateway, ask)
            _all_routes(ask)


def _subjects(ask: Asking) -> None:
    """Two users and two keys behind one address; who has neither counts by the address."""
    for who in (_bearer("ann"), _bearer("bob"), f"Bearer {KEY}", f"Bearer {OTHER_KEY}"):
        assert ask.statuses(4, "/", Authorization=who) == "2224"
    assert ask.statuses(4, "/") == "2224"
    assert ask.statuses(1, "/", Authorization=_bearer("cid")) == "2"
    # From another address it is the same subject, and another visitor.
    assert ask.statuses(1, "/", "127.0.0.2", Authorization=_bearer("ann")) == "4"
    assert ask.statuses(1, "/", "127.0.0.2") == "2"
    # Credentials that do not count are nobody's: refused, with no way to another's bucket.
    assert ask.get("/", Authorization="Bearer nonsense").status_code == 401


def _identities(ask: Asking) -> None:
    """A trusted proxy's word counts, a client's does not; behind the proxy its client does."""
    for who in ("1", "2"):
        assert ask.statuses(3, "/who/", "127.0.0.9", X_User_Id=who) == "224"
    for who in ("203.0.113.1", "203.0.113.2", "2001:db8::1"):
        assert ask.statuses(3, "/who/", "127.0.0.9", X_Forwarded_For=who) == "224"
    assert ask.statuses(1, "/who/", "127.0.0.9", X_Forwarded_For="2001:db8::2") == "4"
    found = [ask.get("/who/", "127.0.0.3", X_User_Id=f"made-{at}").status_code for at in range(3)]
    assert found == [200, 200, 429]
    assert ask.statuses(5, "/who/", "127.0.0.8") == "22222"  # the platform's own


def _several_and_trials(gateway: GatewayProcess, ask: Asking) -> None:
    assert ask.statuses(2, "/two/", "127.0.0.4") == "22"
    refused = ask.get("/two/", "127.0.0.4")
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:gateway:error:rate-limited"
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    policies = refused.headers["ratelimit-policy"]
    assert policies == '"all";q=200;w=720000, "strict";q=2;w=7200, "wide";q=10;w=36000'
    left = refused.headers["ratelimit"]
    assert '"strict";r=0;t=' in left
    # Both were asked, and the refused request took nothing of the other.
    assert '"wide";r=7;t=' in left
    assert ask.statuses(5, "/trial/", "127.0.0.4") == "22222"
    counted = gateway.api("GET", "/metrics").body
    assert 'gateway_rate_limited_total{mode="dry_run",service="web"} 4.0' in counted


def _killed(gateway: GatewayProcess, ask: Asking) -> None:
    """Limits outlive workers, all of them, and need no control."""
    told = gateway.api("GET", "/v1/status").body["processes"]
    workers = {each["pid"] for each in told if each["role"] == "worker"}
    for pid in workers:
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        now = gateway.api("GET", "/v1/status").body["processes"]
        fresh = [each for each in now if each["role"] == "worker" and each["pid"] not in workers]
        return len([each for each in fresh if each["state"] == "ready"]) == 2

    wait_until(replaced, "the workers are replaced")
    wait_until(gateway.is_ready, "they serve")
    assert ask.statuses(1, "/two/", "127.0.0.4") == "4"
    assert ask.statuses(1, "/", Authorization=_bearer("ann")) == "4"


def _reloaded(gateway: GatewayProcess, ask: Asking) -> None:
    """A wider rate counts at once: nobody waits longer than an interval of the new rate."""
    assert ask.statuses(2, "/six/", "127.0.0.5") == "24"
    text = gateway.path.read_text()
    old = f"{{path: /six/, service: web, rate_limit: {{{SLOW}}}}}"
    assert old in text
    gateway.path.write_text(text.replace(old, old.replace(SLOW, "rate: 20/s")))
    assert gateway.api("POST", "/v1/config/reload").status == 200
    refused = ask.get("/six/", "127.0.0.5")  # now the old time is cut to one of this rate
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    time.sleep(0.06)  # an interval of the new rate
    assert ask.statuses(1, "/six/", "127.0.0.5") == "2"
    # And back: what was asked for under the wide one weighs as little as it did there.
    gateway.path.write_text(text)
    assert gateway.api("POST", "/v1/config/reload").status == 200
    time.sleep(0.06)
    assert ask.statuses(2, "/six/", "127.0.0.5") == "24"


def _all_routes(ask: Asking) -> None:
    """The limit that all routes share counts what was asked of each of them."""
    found = ask.statuses(200, "/trial/", "127.0.0.6")
    assert found == "2" * 200
    assert ask.statuses(1, "/six/", "127.0.0.6") == "4"
