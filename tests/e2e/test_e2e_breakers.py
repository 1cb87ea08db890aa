"""Breakers over the real command: one that opens by itself, one opened by hand and its restart."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import TOKEN, GatewayProcess
from tests.support.processes import wait_until
from tests.support.rawclient import RawClient
from tests.support.upstream import Upstream, always

FIRST, SECOND = "web-blue-1-0", "web-blue-1-1"


@pytest.fixture
def first() -> Iterator[Upstream]:
    with Upstream(always(b"first")) as upstream:
        yield upstream


@pytest.fixture
def second() -> Iterator[Upstream]:
    with Upstream(always(b"second")) as upstream:
        yield upstream


@pytest.fixture
def gateway(tmp_path: Path, first: Upstream, second: Upstream) -> Iterator[GatewayProcess]:
    made = GatewayProcess.for_services(
        tmp_path,
        {"web": ([first.url, second.url], [])},
        workers=2,
        # Probes must not be quicker than the breaker.
        service_keys="    health: {interval: 30s, interval_down: 30s}\n    slow_start: 0s\n",
    )
    with made:
        yield made


def breaker(gateway: GatewayProcess, endpoint: str) -> dict[str, Any]:
    found = gateway.api("GET", "/v1/breakers").body["breakers"]
    return {each["endpoint"]: each for each in found}[endpoint]  # type: ignore[no-any-return]


def metric(gateway: GatewayProcess, name: str, endpoint: str = "") -> float:
    """The value of one sample, found by how its line begins."""
    text: str = gateway.api("GET", "/metrics").body
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith(name + "{") and (not endpoint or f'endpoint="{endpoint}"' in line)
    ]
    return float(line.rpartition(" ")[2])


def events(gateway: GatewayProcess, kind: str, count: int) -> list[dict[str, Any]]:
    """The first ``count`` events of a kind since control's start."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {TOKEN}", "Last-Event-ID": "none-of-these"}
        connection.request("GET", "/v1/events", headers=headers)
        answer = connection.getresponse()
        found: list[dict[str, Any]] = []
        of_kind = False
        while len(found) < count:
            line = answer.readline().decode().strip()
            if line.startswith("event: "):
                of_kind = line == f"event: {kind}"
            elif line.startswith("data: ") and of_kind:
                found.append(json.loads(line.removeprefix("data: ")))
        return found
    finally:
        connection.close()


def bodies(gateway: GatewayProcess, times: int) -> set[bytes]:
    """Who has answered: each request on a connection of its own, for both workers to see some."""
    found = set()
    for _ in range(times):
        with RawClient(gateway.port) as client:
            answer = client.get()
            assert answer.status == 200, answer
            found.add(answer.body)
    return found


def test_the_breaker_of_a_dead_endpoint_opens_and_is_seen_everywhere(
    gateway: GatewayProcess, second: Upstream
) -> None:
    assert bodies(gateway, 40) == {b"first", b"second"}
    second.__exit__(None, None, None)

    def opened() -> bool:
        assert bodies(gateway, 10) == {b"first"}  # nobody sees a failure
        return bool(breaker(gateway, SECOND)["state"] == "open")

    wait_until(opened, lambda: str(breaker(gateway, SECOND)))
    seen = breaker(gateway, SECOND)
    assert seen["openings"] == 1
    assert 0 < seen["next_try"] <= 60
    assert metric(gateway, "gateway_breaker_state", SECOND) == 2
    assert metric(gateway, "gateway_breaker_state", FIRST) == 0
    assert metric(gateway, "gateway_breaker_openings_total", SECOND) == 1
    assert metric(gateway, "gateway_retries_total") >= 5
    (event,) = events(gateway, "breaker", 1)
    assert event == {
        "endpoint": SECOND,
        "service": "web",
        "color": "blue",
        "state": "open",
        "was": "closed",
    }
    (pool, _) = gateway.api("GET", "/v1/status").body["services"][0]["pools"]
    assert [each["breaker"] for each in pool["endpoints"]] == ["closed", "open"]
    assert gateway.api("POST", f"/v1/breakers/{SECOND}/reset").body["changed"] is True
    assert breaker(gateway, SECOND)["state"] == "closed"


def test_opened_by_hand_it_stays_open_across_a_restart_until_it_is_reset(
    gateway: GatewayProcess, first: Upstream
) -> None:
    answer = gateway.api("POST", f"/v1/breakers/{FIRST}/open", {"reason": "its disk"})
    assert (answer.status, answer.body["changed"]) == (200, True)
    assert bodies(gateway, 20) == {b"second"}
    refused = gateway.api("POST", f"/v1/breakers/{SECOND}/open", {})
    assert (refused.status, refused.body["type"]) == (409, "urn:gateway:last-endpoint")
    assert gateway.stop() == 0
    asked = len(first.heads)
    gateway.start()
    assert breaker(gateway, FIRST)["state"] == "forced_open"
    assert metric(gateway, "gateway_breaker_state", FIRST) == 3
    assert gateway.api("POST", "/v1/config/reload").status == 200
    assert bodies(gateway, 20) == {b"second"}
    assert len(first.heads) == asked
    assert gateway.api("POST", f"/v1/breakers/{FIRST}/reset").status == 200
    assert bodies(gateway, 40) == {b"first", b"second"}


def test_with_all_of_them_opened_by_force_visitors_are_told_so(gateway: GatewayProcess) -> None:
    for endpoint in (FIRST, SECOND):
        opened = gateway.api("POST", f"/v1/breakers/{endpoint}/open", {"force": True})
        assert opened.status == 200
    with RawClient(gateway.port) as client:
        answer = client.get()
    assert (answer.status, answer.field("x-gateway-error")) == (503, "breaker-open")
