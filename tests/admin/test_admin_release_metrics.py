"""What Prometheus sees of releases and rollbacks, over the real application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.control.world import OPERATOR, World, client, running

STEPS = [{"weight": 5, "hold": "1h"}, {"weight": 100, "hold": "1h"}]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


async def scraped(world: World) -> dict[tuple[str, str], float]:
    """Values by name and the values of their labels."""
    async with aiohttp.ClientSession(world.url) as api, api.get("/metrics") as answer:
        text = await answer.text()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("gateway_release_", "gateway_rollbacks_"))
    }


async def send(world: World, method: str, path: str, body: object) -> int:
    async with client(world, OPERATOR) as api, api.request(method, path, json=body) as answer:
        await answer.read()
        return answer.status


async def stepping(world: World) -> None:
    assert world.control is not None
    assert await send(world, "POST", "/v1/releases", {"steps": STEPS}) == 201
    switch = world.control.switchboard
    async with asyncio.timeout(10):
        while switch.state.run is None or switch.state.run.state != "stepping":
            await asyncio.sleep(0.02)


async def test_no_release_yet(world: World) -> None:
    found = await scraped(world)
    assert found["gateway_release_state", "none"] == 1
    assert found["gateway_release_step", ""] == 0
    assert ("gateway_release_evidence", "*") not in found


async def test_a_release_is_seen_while_it_runs_and_how_it_ended_afterwards(world: World) -> None:
    await stepping(world)
    found = await scraped(world)
    assert found["gateway_release_state", "stepping"] == 1
    assert found["gateway_release_step", ""] == 1
    # Two services and the whole share alpha: 3 / 0.01.
    for scope in ("events", "ivor", "*"):
        assert found["gateway_release_evidence", scope] == pytest.approx(1)
        assert found["gateway_release_evidence_threshold", scope] == 300
    assert found["gateway_release_requests", "candidate,ivor"] == 0
    assert found["gateway_rollbacks_total", "manual"] == 0

    assert await send(world, "POST", "/v1/rollback", {}) == 200
    assert world.control is not None
    async with asyncio.timeout(10):
        while (run := world.control.switchboard.state.run) is None or not run.over:
            await asyncio.sleep(0.02)
    found = await scraped(world)
    assert found["gateway_release_state", "aborted"] == 1
    assert found["gateway_release_step", ""] == 0
    assert ("gateway_release_evidence", "*") not in found
    assert found["gateway_rollbacks_total", "manual"] == 1


async def test_a_rollback_without_a_release_counts_once_where_it_moved_something(
    world: World,
) -> None:
    assert await send(world, "PUT", "/v1/traffic", {"candidate": 20}) == 200
    assert await send(world, "POST", "/v1/rollback", {}) == 200
    assert await send(world, "POST", "/v1/rollback", {}) == 200
    assert (await scraped(world))["gateway_rollbacks_total", "manual"] == 1
