"""Four levels of health with the real command: colors forced through the gateway itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.ports import free_ports
from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.upstream import Conversation, Upstream


@dataclass
class Backend:
    """A small application: health, a self-test, a login whose token an order needs."""

    name: str
    broken: set[str] = field(default_factory=set)
    heads: list[str] = field(default_factory=list)

    def __call__(self, say: Conversation) -> None:
        while True:
            head = say.read_head().decode()
            body = say.read_body(head.encode()).decode()
            _, target, _ = head.split("\r\n")[0].split(" ")
            path = target.partition("?")[0]
            self.heads.append(head)
            if path in self.broken or "all" in self.broken:
                say.answer(b'{"status": "broken on purpose"}', "500 Broken")
            elif path == "/login":
                token = f"of {self.name}"
                say.answer(
                    json.dumps({"user": {"token": token}}).encode(),
                    "201 Created",
                    "Content-Type: application/json; charset=utf-8\r\n",
                )
            elif path.startswith("/orders/"):
                wanted = f"/orders/of%20{self.name}"
                good = path == wanted and json.loads(body) == {"by": f"of {self.name}"}
                say.answer(json.dumps({"items": [{"name": "tea", "n": 2}], "good": good}).encode())
            else:
                say.answer(b'{"status": "ok", "version": "2"}')

    def asked(self, path: str) -> list[str]:
        """The heads of requests for a path."""
        return [head for head in self.heads if head.split(" ")[1].startswith(path)]


HEALTH = """\
      interval: 300ms
      interval_down: 200ms
      L2: {path: /health}
      L3:
        path: /selftest?deep=1
        fields: {X-Why: probe}
        status: 2xx
        json: {status: ok, version: {present: true}}
"""

WEB = """\
      L4:
        interval: 500ms
        requests:
          - method: POST
            path: /login
            body: '{}'
            status: [200, 201]
            answer_fields: {Content-Type: "application/json*"}
            capture: {token: user.token}
          - method: PUT
            path: /orders/{token}
            fields: {Content-Type: application/json, X-Token: "{token}"}
            body: '{"by": "{token}"}'
            json: {good: true, items.0.name: tea, /items/0/n: {above: 1, below: 3}}
          - {path: /shop/stock}
"""


class Platform:
    """Two services in two colors; the web's check asks the shop, too."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.backends = {
            (service, color): Backend(f"{service}-{color}")
            for service in ("web", "shop")
            for color in ("blue", "green")
        }
        self.upstreams = {
            key: stack.enter_context(Upstream(backend)) for key, backend in self.backends.items()
        }
        port, admin = free_ports(2)
        lines = [
            "version: 1",
            f'listen: [{{address: "0.0.0.0:{port}"}}]',
            "workers: 2",
            f"state: {{path: {folder}/gateway.db}}",
            f"access_log: {folder}/access.log",
            "admin:",
            f"  address: 127.0.0.1:{admin}",
            "  tokens: [{name: test, role: admin, token_env: GATEWAY_TEST_TOKEN}]",
            "services:",
        ]
        for service, more in (("web", WEB), ("shop", "")):
            lines += [f"  {service}:"]
            lines += [
                f"    {color}: {{endpoints: [{self.upstreams[service, color].url}]}}"
                for color in ("blue", "green")
            ]
            lines += ["    depends_on: [shop]"] if more else []
            lines += ["    health:", HEALTH + more]
        lines += ["routes:", "  - {path: /shop/, service: shop}", "  - {path: /, service: web}", ""]
        self.gateway = stack.enter_context(
            GatewayProcess("\n".join(lines), folder, port=port, admin=admin)
        )

    def service(self, name: str) -> dict[str, Any]:
        found = self.gateway.api("GET", f"/v1/services/{name}/health")
        assert found.status == 200, found
        assert isinstance(found.body, dict)
        return found.body

    def endpoint(self, service: str, color: str) -> dict[str, Any]:
        (pool,) = [each for each in self.service(service)["pools"] if each["color"] == color]
        endpoint = pool["endpoints"][0]
        assert isinstance(endpoint, dict)
        return endpoint

    def until(self, service: str, color: str, health: str) -> dict[str, Any]:
        last: list[dict[str, Any]] = []

        def there() -> dict[str, Any] | None:
            last.append(self.endpoint(service, color))
            return last[-1] if last[-1]["health"] == health else None

        return wait_until(there, lambda: f"{service} {color} {health}: {last[-1]}")


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with ExitStack() as stack:
        yield Platform(stack, tmp_path)


def probe(endpoint: dict[str, Any], level: str) -> dict[str, Any]:
    (found,) = [each for each in endpoint["probes"] if each["level"] == level]
    assert isinstance(found, dict)
    return found


def _lines(platform: Platform, what: str) -> list[str]:
    """Whole lines of the access log with ``what`` in them."""
    text = (platform.gateway.folder / "access.log").read_text()
    return [line for line in text.splitlines(keepends=True) if what in line and line[-1] == "\n"]


def test_l4_goes_through_the_gateway_to_a_color_without_weight(platform: Platform) -> None:
    for color in ("blue", "green"):
        endpoint = platform.until("web", color, "up")
        assert endpoint["levels"] == dict.fromkeys(("L1", "L2", "L3", "L4"), "up")
        last = probe(endpoint, "L4")
        assert (last["ok"], last["status"]) == (True, 200)
        assert last["duration_ms"] > 0
        assert last["at"] > 1.7e9
        assert json.loads(last["body"])["status"] == "ok"
        backend = platform.backends["web", color]
        orders = backend.asked("/orders/")
        assert orders
        assert all(f"X-Release-Color: {color}\r\n" in head for head in orders)
        assert all(f"X-Token: of web-{color}\r\n" in head for head in orders)
        # Also on the way to another service.
        assert platform.backends["shop", color].asked("/shop/stock")
    assert platform.gateway.api("GET", "/v1/traffic").body["services"][0]["weight"] == 0
    heads = [head for backend in platform.backends.values() for head in backend.heads]
    assert not any("override" in head.lower() for head in heads)
    selftests = platform.backends["web", "blue"].asked("/selftest?deep=1")
    assert "X-Why: probe\r\n" in selftests[0]
    log = wait_until(lambda: _lines(platform, "/orders/"), "the checks are in the log")
    assert {json.loads(line)["override"] for line in log} == {True}
    metrics = platform.gateway.api("GET", "/metrics").body
    assert 'gateway_probes_total{color="green",level="L4",result="pass",service="web"}' in metrics
    said = platform.gateway.said() + (platform.gateway.folder / "access.log").read_text()
    assert "gw_override" not in said


def test_a_failing_l4_takes_its_color_down_and_says_why(platform: Platform) -> None:
    platform.until("web", "green", "up")
    platform.backends["web", "green"].broken.add("/login")
    endpoint = platform.until("web", "green", "down")
    assert endpoint["levels"]["L4"] == "down"
    assert endpoint["levels"]["L3"] == "up"
    last = probe(endpoint, "L4")
    assert (last["ok"], last["status"]) == (False, 500)
    assert last["detail"] == "request 1 of 3, POST /login: answered 500, expected 200 or 201"
    assert last["body"] == '{"status": "broken on purpose"}'
    assert platform.endpoint("web", "blue")["health"] == "up"
    refused = platform.gateway.api("PUT", "/v1/traffic", {"candidate": 10, "services": ["web"]})
    assert refused.status == 409
    platform.backends["web", "green"].broken.clear()
    platform.until("web", "green", "up")


def test_a_service_waits_for_a_dependency_that_is_down(platform: Platform) -> None:
    for color in ("blue", "green"):
        platform.until("web", color, "up")
    for color in ("blue", "green"):
        platform.backends["shop", color].broken.add("all")
    platform.until("shop", "blue", "down")
    web = wait_until(
        lambda: found if (found := platform.service("web"))["dependency_down"] else None,
        "the web waits for the shop",
    )
    assert web["depends_on"] == web["dependency_down"] == ["shop"]
    assert [pool["waiting"] for pool in web["pools"]] == [["shop"], ["shop"]]
    assert platform.endpoint("web", "blue")["health"] == "up"
    (shown, _) = sorted(
        platform.gateway.api("GET", "/v1/status").body["services"],
        key=lambda each: each["name"] != "web",
    )
    assert shown["dependency_down"] == ["shop"]
    for color in ("blue", "green"):
        platform.backends["shop", color].broken.clear()
    platform.until("shop", "blue", "up")
    wait_until(lambda: not platform.service("web")["dependency_down"], "the web waits no more")
    assert platform.endpoint("web", "blue")["health"] == "up"


def test_a_new_build_needs_its_l4(platform: Platform) -> None:
    platform.until("web", "green", "up")
    bad, good = Backend("web-bad", {"/login"}), Backend("web-good")
    path = "/v1/services/web/pools/green"
    with Upstream(bad) as bad_one, Upstream(good) as good_one:
        answer = platform.gateway.api("PUT", path, {"endpoints": [bad_one.url], "wait": "3s"})
        assert answer.status == 409, answer
        assert answer.body["type"] == "urn:gateway:pool-unhealthy"
        assert "what was in green is back" in answer.body["detail"]
        (seen,) = answer.body["endpoints"]
        assert seen["url"] == bad_one.url
        last = probe(seen, "L4")
        assert (last["status"], last["body"]) == (500, '{"status": "broken on purpose"}')
        former = platform.until("web", "green", "up")
        assert former["url"] == platform.upstreams["web", "green"].url
        assert bad.asked("/login"), "it was asked in its place"
        answer = platform.gateway.api("PUT", path, {"endpoints": [good_one.url], "wait": "10s"})
        assert answer.status == 200, answer
        (endpoint,) = answer.body["pool"]["endpoints"]
        assert (endpoint["url"], endpoint["health"]) == (good_one.url, "up")
        assert good.asked("/orders/of%20web-good")
        # A slot of a dependency that serves nobody is in nobody's way: its stable answers.
        platform.backends["shop", "green"].broken.add("all")
        platform.until("shop", "green", "down")
        answer = platform.gateway.api("PUT", path, {"endpoints": [good_one.url], "wait": "10s"})
        assert answer.status == 200, answer
        # Where the check cannot be run, nothing is known: a dependency is down.
        platform.backends["shop", "blue"].broken.add("all")
        platform.until("shop", "blue", "down")
        answer = platform.gateway.api("PUT", path, {"endpoints": [bad_one.url], "wait": "1s"})
        assert answer.status == 409
        assert "waits for shop" in answer.body["detail"]
