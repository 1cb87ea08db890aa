"""Breakers by hand, over the real application with two fake workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.board import layout
from gateway.channel.messages import BreakerMoved
from gateway.control.store import Store, StoreError
from tests.control.world import OPERATOR, VIEWER, World, client, running

PATH = "/v1/breakers/ivor-blue-1-0"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


def cell(world: World, endpoint: str = "ivor-blue-1-0") -> int:
    assert world.control is not None
    topology = world.control.switchboard.parts.hub.topology
    return next(e.cell for pool in topology.pools for e in pool.endpoints if e.id == endpoint)


def state(world: World) -> str:
    return layout.BREAKER_NAMES[world.board.breaker(cell(world))]


def events(world: World) -> list[dict[str, Any]]:
    assert world.control is not None
    return [
        json.loads(each.data)
        for each in world.control.events.since("none of these")
        if each.kind == "breaker"
    ]


async def post(world: World, verb: str, **body: object) -> tuple[int, dict[str, Any]]:
    async with client(world, OPERATOR) as api, api.post(f"{PATH}/{verb}", json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def seen(world: World) -> dict[str, Any]:
    async with client(world, VIEWER) as api, api.get("/v1/breakers") as answer:
        assert answer.status == 200
        found = {each["endpoint"]: each for each in (await answer.json())["breakers"]}
    assert sorted(found) == ["events-blue-1-0", "events-green-2-0", "ivor-blue-1-0",
                             "ivor-green-2-0"]  # fmt: skip
    one: dict[str, Any] = found["ivor-blue-1-0"]
    return one


async def test_opened_by_hand_it_is_open_on_the_board_and_in_every_picture(world: World) -> None:
    numbers = list(world.workers[0].numbers)
    status, answer = await post(world, "open", force=True, reason="its disk")
    assert (status, answer["changed"], answer["breaker"]["state"]) == (200, True, "forced_open")
    assert state(world) == "forced_open"
    one = await seen(world)
    assert (one["state"], one["role"], one["service"]) == ("forced_open", "stable", "ivor")
    async with client(world, VIEWER) as api, api.get("/v1/status") as got:
        (endpoint,) = (await got.json())["services"][1]["pools"][0]["endpoints"]
    assert (endpoint["breaker"], endpoint["ejected"]) == ("forced_open", False)
    assert events(world) == [
        {
            "endpoint": "ivor-blue-1-0",
            "service": "ivor",
            "color": "blue",
            "state": "forced_open",
            "was": "closed",
            "actor": "pipeline",
            "reason": "its disk",
        }
    ]
    async with client(world, VIEWER) as api, api.get("/v1/audit?limit=1") as got:
        (row,) = (await got.json())["rows"]
    assert (row["action"], row["actor"], row["reason"]) == ("breaker.open", "pipeline", "its disk")
    assert row["before"]["breaker"] == "closed"
    assert row["after"] == {"endpoint": "ivor-blue-1-0", "breaker": "forced_open", "ejected": False}
    assert world.workers[0].numbers == numbers  # shared memory says it all


async def test_what_is_done_already_changes_nothing(world: World) -> None:
    assert (await post(world, "reset"))[1]["changed"] is False
    assert (await post(world, "open", force=True))[1]["changed"] is True
    assert (await post(world, "open"))[1]["changed"] is False
    assert (await post(world, "reset"))[1]["changed"] is True
    assert (await post(world, "reset"))[1]["changed"] is False
    assert len(events(world)) == 2
    async with client(world, VIEWER) as api, api.get("/v1/audit") as got:
        rows = (await got.json())["rows"]
    assert [row["action"] for row in rows] == ["breaker.reset", "breaker.open"]


async def test_it_outlives_control_and_the_board(world: World) -> None:
    await post(world, "open", force=True)
    await world.stop()
    for at in range(8):
        world.board.reset_breaker(at, 1)  # as on a new board
    await world.start()
    assert state(world) == "forced_open"
    assert (await post(world, "reset"))[0] == 200
    await world.stop()
    world.board.force_breaker(0, 1)
    world.board.force_breaker(2, 1)
    await world.start()
    assert state(world) == "closed"


async def test_a_lost_store_puts_nothing_back_into_service(world: World) -> None:
    await post(world, "open", force=True)
    await world.stop()
    for part in world.path.glob("gateway.db*"):
        part.unlink()
    await world.start()
    assert state(world) == "forced_open"
    assert (await post(world, "reset"))[1]["changed"] is True


async def test_a_new_generation_begins_closed(world: World) -> None:
    path = "/v1/breakers/ivor-green-2-0/open"
    new = {"endpoints": ["http://127.0.0.1:4001"], "wait": None}
    async with client(world) as api:
        assert (await api.post(path, json={})).status == 200  # nothing is sent there: no force
        async with api.put("/v1/traffic", json={"candidate": 1, "services": ["ivor"]}) as answer:
            assert answer.status == 409
        assert (await api.put("/v1/services/ivor/pools/green", json=new)).status == 200
        async with api.post(path, json={}) as answer:
            problem = await answer.json(content_type=None)
            assert answer.status == 404
    assert problem["type"] == "urn:gateway:unknown-endpoint"
    assert problem["hint"] == "did you mean ivor-green-3-0?"
    assert world.board.breaker(cell(world, "ivor-green-3-0")) == layout.BREAKER_CLOSED


async def test_the_last_endpoint_of_a_pool_with_traffic_needs_force(world: World) -> None:
    status, problem = await post(world, "open")
    assert (status, problem["type"]) == (409, "urn:gateway:last-endpoint")
    assert "force" in problem["hint"]
    assert state(world) == "closed"


async def test_a_reset_closes_what_opened_by_itself_and_ends_an_ejection(world: World) -> None:
    at = layout.cell_at(cell(world))
    world.board.words[at + layout.CELL_BREAKER] = layout.BREAKER_OPEN
    world.board.words[at + layout.CELL_OPENED] = 2
    one = await seen(world)
    assert (one["state"], one["openings"]) == ("open", 2)
    assert one["next_try"] is not None
    status, answer = await post(world, "reset", reason="mended")
    assert (status, answer["changed"], state(world)) == (200, True, "closed")
    world.board.words[at + layout.CELL_EJECTED_UNTIL] = 2**63
    assert (await seen(world))["ejected"] is True
    assert (await post(world, "reset"))[1]["changed"] is True
    assert (await seen(world))["ejected_for"] is None
    assert [each["was"] for each in events(world)] == ["open", "ejected"]


@pytest.mark.parametrize(("until", "value"), [(1, "0.0"), (2**63, "1.0")])
async def test_the_metric_knows_when_an_ejection_is_over(
    world: World, until: int, value: str
) -> None:
    world.board.words[layout.cell_at(cell(world)) + layout.CELL_EJECTED_UNTIL] = until
    async with client(world) as api, api.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = [
        each.rpartition(" ")[2]
        for each in lines
        if each.startswith("gateway_endpoint_ejected{") and 'endpoint="ivor-blue-1-0"' in each
    ]
    assert found == [value]


async def test_a_stale_if_match_changes_nothing(world: World) -> None:
    body = {"force": True}
    async with client(world) as api:
        async with api.post(f"{PATH}/open", json=body, headers={"If-Match": '"999"'}) as answer:
            assert answer.status == 412
        async with api.post(f"{PATH}/open", json={}, headers={"If-Match": '"999"'}) as answer:
            assert answer.status == 412  # what is a conflict now may be none in that revision
    assert state(world) == "closed"


async def test_a_store_that_fails_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise StoreError("disk full")

    store: Store | None = world.store
    monkeypatch.setattr(store, "save", fails)
    status, problem = await post(world, "open", force=True)
    assert (status, problem["type"]) == (503, "urn:gateway:store-unavailable")
    assert state(world) == "closed"
    world.board.words[layout.cell_at(cell(world)) + layout.CELL_BREAKER] = layout.BREAKER_OPEN
    assert (await post(world, "reset"))[0] == 503
    assert state(world) == "open"
    assert events(world) == []


async def test_workers_news_are_told_with_service_and_color(world: World) -> None:
    assert world.control is not None
    told = world.control.switchboard.parts.hub.breaker_moved
    told(BreakerMoved(endpoint="ivor-green-2-0", was="closed", now="open"))
    told(BreakerMoved(endpoint="ivor-green-1-0", was="closed", now="open"))
    assert [(e["endpoint"], e["service"], e["color"], e["state"]) for e in events(world)] == [
        ("ivor-green-2-0", "ivor", "green", "open"),
        ("ivor-green-1-0", None, None, "open"),
    ]


async def test_what_comes_back_from_a_fall_begins_its_slow_start(world: World) -> None:
    url, warm = "http://127.0.0.1:3001", layout.cell_at(cell(world)) + layout.CELL_WARM_FROM
    async with asyncio.timeout(5):
        world.probes.down.add(url)
        while world.board.health(cell(world)) != layout.DOWN:
            await asyncio.sleep(0.005)
        assert world.board.words[warm] == 0
        world.probes.down.discard(url)
        while world.board.words[warm] == 0:
            await asyncio.sleep(0.005)


async def test_a_build_that_is_new_as_a_whole_is_not_held_back(world: World) -> None:
    new = {"endpoints": ["http://127.0.0.1:4001"], "wait": "5s"}
    async with client(world) as api:
        assert (await api.put("/v1/services/ivor/pools/green", json=new)).status == 200
    warm = layout.CELL_WARM_FROM
    assert world.board.words[layout.cell_at(cell(world, "ivor-green-3-0")) + warm] == 0
    assert world.board.words[layout.cell_at(cell(world)) + warm] == 0
