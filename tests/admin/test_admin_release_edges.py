"""Edges of a release's life: its first answer, and what leaves a hold at the last step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.control import releasedesk
from gateway.control.desk import Facts, Outcome
from gateway.control.releases import by_itself
from gateway.control.state import State
from tests.control.world import OPERATOR, World, client, running


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


async def post(world: World, path: str, **body: object) -> tuple[int, dict[str, Any]]:
    async with client(world, OPERATOR) as api, api.post(path, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def held_at_the_end(world: World) -> None:
    assert world.control is not None
    switch = world.control.switchboard
    steps = [{"weight": 100, "hold": "1h"}]
    assert (await post(world, "/v1/releases", steps=steps))[0] == 201
    async with asyncio.timeout(10):
        while switch.state.run is None or switch.state.run.state != "baking":
            await asyncio.sleep(0.02)

    def hold(state: State, facts: Facts) -> Outcome:
        del facts
        return releasedesk.plainly(state, "hold", 0.0, switch.parts.fresh, because="look")

    await switch.write(by_itself("look"), "release.hold", hold)


async def test_promoting_from_a_hold_at_the_last_step_is_the_end(world: World) -> None:
    await held_at_the_end(world)
    status, answer = await post(world, "/v1/releases/current/promote")
    assert (status, answer["state"]) == (200, "finalized")
    assert world.control is not None
    assert {each.stable for each in world.control.switchboard.state.services} == {"green"}


async def test_a_hold_is_not_left_by_finalizing(world: World) -> None:
    await held_at_the_end(world)
    status, problem = await post(world, "/v1/releases/current/finalize")
    assert (status, problem["type"]) == (409, "urn:gateway:not-in-this-state")
    assert "promote" in problem["hint"]


async def test_a_lease_is_full_at_the_start(world: World) -> None:
    status, answer = await post(world, "/v1/releases", lease="60s")
    assert status == 201
    assert answer["lease"]["left"] > 59
