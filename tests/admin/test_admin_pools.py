"""Pool calls: a new build on trial, the file's endpoints, drain, isolation, reload."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.board import layout
from tests.control.world import ADMIN, OPERATOR, VIEWER, World, client, running, settings

NEW = "http://127.0.0.1:5001"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


async def test_a_new_build_takes_the_candidates_slot_once_it_is_healthy(world: World) -> None:
    world.probes.bodies[NEW] = b'{"version": "7", "extra": {"a": 1}}'
    body = {"endpoints": [NEW + "/"], "wait": "5s", "expect": {"json": {"version": "7"}}}
    async with client(world, OPERATOR) as api:
        async with api.put("/v1/services/ivor/pools/candidate", json=body) as answer:
            done = await answer.json()
            assert answer.status == 200, done
        async with api.get("/v1/status") as answer:
            status = await answer.json()
        # It is known to be healthy in the moment that it is there.
        async with api.put("/v1/traffic", json={"green": 1, "services": ["ivor"]}) as answer:
            assert answer.status == 200
    assert done["pool"]["source"] == "api"
    assert done["pool"]["generation"] == 3
    assert [(each["id"], each["health"]) for each in done["pool"]["endpoints"]] == [
        ("ivor-green-3-0", "up")
    ]
    assert [each["url"] for each in status["services"][1]["pools"][1]["endpoints"]] == [NEW]
    assert [each["field"] for each in status["drift"]] == ["green.endpoints"]
    topology = world.workers[0].topology
    assert topology is not None
    pool = topology.pool("ivor", "green")
    assert pool is not None
    assert [each.url for each in pool.endpoints] == [NEW]


@pytest.mark.parametrize(
    ("down", "expect", "said"),
    [
        (True, None, "connection refused"),
        (False, {"json": {"version": "8"}}, "not as expected"),
    ],
)
async def test_a_build_that_stays_unhealthy_is_409_with_its_evidence(
    world: World, down: bool, expect: object, said: str
) -> None:
    if down:
        world.probes.down.add(NEW)
    before = world.workers[0].topology
    body = {"endpoints": [NEW], "wait": "50ms", "expect": expect}
    path = "/v1/services/ivor/pools/green"
    async with client(world, OPERATOR) as api, api.put(path, json=body) as answer:
        problem = await answer.json(content_type="application/problem+json")
        assert answer.status == 409
    assert problem["type"] == "urn:gateway:pool-unhealthy"
    assert said in problem["detail"]
    (seen,) = problem["endpoints"]
    assert seen["url"] == NEW
    assert seen["probes"][0]["ok"] is not down
    if not down:
        assert seen["probes"][1]["body"] == '{"version": "1"}'
    assert world.workers[0].topology is before


async def test_stable_and_what_carries_traffic_or_tunnels_are_not_replaced(world: World) -> None:
    body = {"endpoints": [NEW], "wait": None}
    async with client(world) as api:

        async def refused(slot: str) -> str:
            async with api.put(f"/v1/services/ivor/pools/{slot}", json=body) as answer:
                assert answer.status == 409
                return str((await answer.json(content_type=None))["type"])

        assert await refused("stable") == "urn:gateway:pool-is-stable"
        assert await refused("blue") == "urn:gateway:pool-is-stable"
        await api.put("/v1/traffic", json={"candidate": 1})
        assert await refused("green") == "urn:gateway:pool-carries-traffic"
        await api.post("/v1/rollback")
        topology = world.workers[0].topology
        assert topology is not None
        pool = topology.pool("ivor", "green")
        assert pool is not None
        cell = pool.endpoints[0].cell
        tunnels = layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS + layout.ENDPOINT_TUNNELS
        world.board.slab(0)[tunnels] = 1
        assert await refused("green") == "urn:gateway:pool-has-tunnels"
        world.board.slab(0)[tunnels] = 0


async def test_a_new_generation_is_new_even_with_the_same_urls(world: World) -> None:
    same = {"endpoints": ["http://127.0.0.1:4001"], "wait": None}
    async with client(world) as api:
        first = await (await api.put("/v1/services/ivor/pools/green", json=same)).json()
        second = await (await api.put("/v1/services/ivor/pools/green", json=same)).json()
    assert second["pool"]["generation"] == first["pool"]["generation"] + 1
    assert first["pool"]["endpoints"][0]["id"] != second["pool"]["endpoints"][0]["id"]


async def test_delete_returns_to_the_file(world: World) -> None:
    async with client(world) as api:
        async with api.delete("/v1/services/ivor/pools/green") as answer:
            assert (await answer.json())["changed"] is False
        await api.put("/v1/services/ivor/pools/green", json={"endpoints": [NEW], "wait": None})
        async with api.delete("/v1/services/ivor/pools/green?reason=back") as answer:
            body = await answer.json()
    assert body["pool"]["source"] == "file"
    assert [each["url"] for each in body["pool"]["endpoints"]] == ["http://127.0.0.1:4001"]


async def test_unknown_services_and_slots_are_404_and_wrong_urls_422(world: World) -> None:
    body = {"endpoints": [NEW], "wait": None}
    async with client(world) as api:
        assert (await api.put("/v1/services/nope/pools/green", json=body)).status == 404
        assert (await api.put("/v1/services/ivor/pools/purple", json=body)).status == 404
        wrong = {"endpoints": [NEW, "http://x/path", "ftp://x"]}
        async with api.put("/v1/services/ivor/pools/green", json=wrong) as answer:
            problem = await answer.json(content_type=None)
            assert answer.status == 422
    assert [each["field"] for each in problem["errors"]] == ["endpoints.1", "endpoints.2"]


async def test_drain_answers_when_nothing_is_in_flight(world: World) -> None:
    topology = world.workers[0].topology
    assert topology is not None
    pool = topology.pool("ivor", "green")
    assert pool is not None
    cell = pool.endpoints[0].cell
    word = layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS + layout.ENDPOINT_IN_FLIGHT
    world.board.slab(1)[word] = 2
    async with client(world) as api:
        await api.put("/v1/traffic", json={"candidate": 50})
        path = "/v1/services/ivor/pools/green/drain"
        async with api.post(path, json={"timeout": "1ms"}) as answer:
            problem = await answer.json(content_type=None)
            assert answer.status == 409
        assert (problem["type"], problem["in_flight"]) == ("urn:gateway:still-in-flight", 2)
        call = asyncio.ensure_future(api.post(path, json={"timeout": "30s"}))
        await asyncio.sleep(0)
        world.board.slab(1)[word] = 0
        answer = await call
        body = await answer.json()
        assert answer.status == 200
        assert body["color"] == "green"
        async with api.get("/v1/traffic") as answer:
            ivor = (await answer.json())["services"][1]
        assert ivor["weight"] == 0
        assert ivor["closed"] == ["green"]
        assert (await api.post("/v1/services/ivor/pools/blue/drain")).status == 409


async def test_isolation_holds_until_it_is_lifted(world: World) -> None:
    path = "/v1/services/ivor/isolate"
    async with client(world) as api:
        async with api.post(path, json={"color": "candidate"}) as answer:
            body = await answer.json()
        assert body["services"][1]["closed"] == ["green"]
        assert (await api.post(path, json={"color": "blue"})).status == 409
        async with api.post(path, json={"color": "red"}) as answer:
            problem = await answer.json(content_type="application/problem+json")
            assert (answer.status, problem["field"]) == (422, "color")
            assert [each["field"] for each in problem["errors"]] == ["color"]
        async with api.put("/v1/traffic", json={"candidate": 5}) as answer:
            assert answer.status == 409
        async with api.delete(f"{path}?color=green") as answer:
            assert (await answer.json())["services"][1]["closed"] == []
        assert (await api.delete(f"{path}?colour=green")).status == 422
        assert (await api.put("/v1/traffic", json={"candidate": 5})).status == 200


async def test_maintenance_holds_until_it_is_lifted(world: World) -> None:
    path = "/v1/services/ivor/maintenance"
    async with client(world, OPERATOR) as api:
        body = {"retry_after": "2m", "reason": "a migration"}
        async with api.post(path, json=body) as answer:
            done = await answer.json()
            assert answer.status == 200
            assert done["changed"]
            assert answer.headers["ETag"] == f'"{done["revision"]}"'
        assert [each["maintenance"] for each in done["services"]] == [None, 120.0]
        traffic = world.workers[0].traffic
        assert traffic is not None
        assert [each.maintenance for each in traffic.services] == [None, 120.0]
        async with api.post(path, json=body) as answer:
            again = await answer.json()
        assert (again["changed"], again["revision"]) == (False, done["revision"])
        async with api.get("/v1/status") as answer:
            status = await answer.json()
        ivor = status["services"][1]
        assert (ivor["state"], ivor["maintenance"]) == ("down", 120.0)
        assert (status["services"][0]["state"], status["platform"]) == ("up", "degraded")
        # The default, under a stale and the right revision.
        stale = {"If-Match": f'"{done["revision"] - 1}"'}
        assert (await api.post(path, headers=stale)).status == 412
        async with api.post(path, headers={"If-Match": f'"{done["revision"]}"'}) as answer:
            assert (await answer.json())["services"][1]["maintenance"] == 300.0
        async with api.delete(f"{path}?reason=over") as answer:
            assert (await answer.json())["services"][1]["maintenance"] is None
        async with api.delete(path) as answer:
            assert not (await answer.json())["changed"]
        assert (await api.post("/v1/services/nobody/maintenance")).status == 404
        for wrong in ("0s", "5", "500ms", "1d", "", None):
            async with api.post(path, json={"retry_after": wrong}) as answer:
                assert answer.status == 422
                assert (await answer.json())["field"] == "retry_after"
        async with api.get("/v1/audit?limit=3") as answer:
            rows = (await answer.json())["rows"]
    assert [(row["action"], row["reason"]) for row in rows] == [
        ("maintenance.end", "over"),
        ("maintenance", ""),
        ("maintenance", "a migration"),
    ]
    assert rows[0]["before"]["services"]["ivor"]["maintenance"] == 300.0
    assert rows[0]["after"]["services"]["ivor"]["maintenance"] is None


async def test_maintenance_and_isolation_outlive_control(world: World) -> None:
    async with client(world, OPERATOR) as api:
        assert (await api.post("/v1/services/ivor/maintenance")).status == 200
        body = {"color": "green"}
        assert (await api.post("/v1/services/events/isolate", json=body)).status == 200
    await world.stop()
    await world.start()
    async with client(world, OPERATOR) as api, api.get("/v1/status") as answer:
        events, ivor = (await answer.json())["services"]
    assert ivor["maintenance"] == 300.0
    assert [pool["isolated"] for pool in events["pools"]] == [False, True]


async def test_a_viewer_may_not_maintain(world: World) -> None:
    async with client(world, VIEWER) as api:
        assert (await api.post("/v1/services/ivor/maintenance")).status == 403
        assert (await api.delete("/v1/services/ivor/maintenance")).status == 403


async def test_reload_says_what_changed_and_the_drift(world: World) -> None:
    async with client(world, ADMIN) as api:
        await api.put("/v1/services/ivor/pools/green", json={"endpoints": [NEW], "wait": None})
        fresh = settings(world.path, "events", "ivor", "website")
        services = list(fresh.services)
        services[0] = dataclasses.replace(services[0], green=("http://127.0.0.1:4999",))
        world.settings = dataclasses.replace(fresh, services=tuple(services))
        async with api.post("/v1/config/reload") as answer:
            body = await answer.json()
            assert answer.status == 200, body
        assert body["changes"][:2] == [
            "service website: added",
            "service events: green has 1 other endpoints",
        ]
        assert [(each["service"], each["field"]) for each in body["drift"]] == [
            ("ivor", "green.endpoints")
        ]
        async with api.get("/v1/audit") as answer:
            row = (await answer.json())["rows"][0]
        assert (row["action"], row["after"]["changes"]) == ("config.reload", body["changes"])
        async with api.post("/v1/config/reload") as answer:
            assert (await answer.json())["changed"] is False
        topology = world.workers[0].topology
        assert topology is not None
        assert [each.name for each in topology.services] == ["events", "ivor", "website"]
        assert len({each.row for each in topology.services}) == 3


async def test_a_wrong_file_is_422_with_all_errors_and_the_old_one_stays(world: World) -> None:
    world.faults = (("gateway.yaml:1:1", "version: missing"), ("gateway.yaml:9:3", "x: unknown"))
    number = world.workers[0].numbers[-1]
    async with client(world, ADMIN) as api, api.post("/v1/config/reload") as answer:
        problem = await answer.json(content_type=None)
        assert answer.status == 422
    assert [each["field"] for each in problem["errors"]] == [
        "gateway.yaml:1:1",
        "gateway.yaml:9:3",
    ]
    assert world.workers[0].numbers[-1] == number
