"""Traffic calls over the real application, with two fake workers on a real socket."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.world import ADMIN, OPERATOR, VIEWER, World, client, running

Json = dict[str, object]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


async def test_put_traffic_answers_once_every_worker_serves_it(world: World) -> None:
    change = {"candidate": 20.05, "reason": "try"}
    async with client(world, OPERATOR) as api, api.put("/v1/traffic", json=change) as answer:
        body = await answer.json()
        assert answer.status == 200, body
        assert answer.headers["ETag"] == f'"{body["revision"]}"'
    assert body["mode"] == "split"
    assert body["applied_in_ms"] >= 0
    for worker in world.workers:
        assert worker.traffic is not None
        assert {each.weight for each in worker.traffic.services} == {2005}
        assert worker.traffic.revision == body["revision"]
        assert len(worker.traffic.salt) == 16


async def test_the_same_again_changes_nothing(world: World) -> None:
    async with client(world) as api:
        first = await (await api.put("/v1/traffic", json={"candidate": 20})).json()
        second = await (await api.put("/v1/traffic", json={"green": 20})).json()
    assert not second["changed"]
    assert second["revision"] == first["revision"]
    assert second["applied_in_ms"] is None


async def test_a_stale_if_match_is_412_and_tells_the_revision_in_force(world: World) -> None:
    async with client(world) as api:
        async with api.get("/v1/traffic") as answer:
            etag = answer.headers["ETag"]
        async with api.put(
            "/v1/traffic", json={"candidate": 5}, headers={"If-Match": etag}
        ) as answer:
            assert answer.status == 200
            current = answer.headers["ETag"]
        async with api.put(
            "/v1/traffic", json={"candidate": 6}, headers={"If-Match": etag}
        ) as answer:
            problem = await answer.json(content_type="application/problem+json")
            assert answer.status == 412
        async with api.put(
            "/v1/traffic", json={"candidate": 6}, headers={"If-Match": f'"1", {current}'}
        ) as answer:
            assert answer.status == 200
    assert problem["type"] == "urn:gateway:stale-revision"
    assert f'"{problem["revision"]}"' == current


async def test_probes_do_not_move_the_revision(world: World) -> None:
    async with client(world) as api:
        before = (await api.get("/v1/traffic")).headers["ETag"]
        world.probes.down.add("http://127.0.0.1:4000")
        control = world.control
        assert control is not None
        async with asyncio.timeout(5):
            while control.switchboard.parts.facts.able("events", "green"):
                await asyncio.sleep(0.005)
        assert (await api.get("/v1/traffic")).headers["ETag"] == before


async def test_a_candidate_that_cannot_serve_is_409_unless_forced(world: World) -> None:
    world.probes.down.add("http://127.0.0.1:4000")
    control = world.control
    assert control is not None
    async with asyncio.timeout(5):
        while control.switchboard.parts.facts.proven("events", "green"):
            await asyncio.sleep(0.005)
    async with client(world) as api:
        async with api.put("/v1/traffic", json={"candidate": 20}) as answer:
            problem = await answer.json(content_type=None)
            assert answer.status == 409
        async with api.put("/v1/traffic", json={"candidate": 20, "services": ["ivor"]}) as answer:
            assert answer.status == 200
        async with api.put("/v1/traffic", json={"candidate": 20, "force": True}) as answer:
            assert answer.status == 200
    assert problem["type"] == "urn:gateway:candidate-unavailable"
    assert [each["service"] for each in problem["services"]] == ["events"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"candidate": 20, "sevices": None}, "sevices"),
        ({"candidate": 101}, "candidate"),
        ({"candidate": "20"}, "candidate"),
        ({"candidate": True}, "candidate"),
        ({"candidate": 20.001}, None),
        ({"candidate": 20, "green": 20}, None),
        ({"green": None}, None),
        ({}, None),
        ({"candidate": 20, "services": ["nope"]}, "services.0"),
        ({"candidate": 20, "services": []}, "services"),
    ],
)
async def test_a_wrong_body_is_422_and_names_the_field(
    world: World, body: Json, field: str | None
) -> None:
    async with client(world) as api, api.put("/v1/traffic", json=body) as answer:
        problem = await answer.json(content_type="application/problem+json")
        assert answer.status == 422
        assert problem.get("field") == field


async def test_what_is_no_json_is_400_and_what_says_so_is_415(world: World) -> None:
    async with client(world) as api:
        json = {"Content-Type": "application/json"}
        async with api.put("/v1/traffic", data=b"{", headers=json) as answer:
            assert answer.status == 400
        async with api.put("/v1/traffic", data=b"{}") as answer:
            assert answer.status == 415
        large = io.BytesIO(b" " * (1 << 20) + b"{}")
        async with api.put("/v1/traffic", data=large, headers=json) as answer:
            assert answer.status == 413
        async with api.put("/v1/traffic") as answer:
            assert answer.status == 400


async def test_finalize_swaps_and_previous_undoes_it(world: World) -> None:
    async with client(world) as api:
        async with api.post("/v1/traffic/finalize") as answer:
            assert (await answer.json())["changed"] is False
        await api.put("/v1/traffic", json={"candidate": 50})
        async with api.post("/v1/traffic/finalize") as answer:
            assert answer.status == 409
        await api.put("/v1/traffic", json={"candidate": 100})
        async with api.post("/v1/traffic/finalize", json={"reason": "done"}) as answer:
            body = await answer.json()
            assert answer.status == 200
        assert {each["stable"] for each in body["services"]} == {"green"}
        assert body["mode"] == "stable"
        async with api.post("/v1/rollback", json={}) as answer:
            problem = await answer.json(content_type=None)
            assert answer.status == 409
        assert problem["hint"] == '{"to": "previous"}'
        async with api.post("/v1/rollback", json={"to": "previous"}) as answer:
            body = await answer.json()
            assert answer.status == 200
        assert {each["stable"] for each in body["services"]} == {"blue"}
        async with api.post("/v1/rollback", json={"to": "previous"}) as answer:
            assert (await answer.json())["changed"] is False


async def test_rollback_replays_nothing(world: World) -> None:
    headers = {"Idempotency-Key": "same", "If-Match": '"99999"'}
    async with client(world) as api:
        for _ in range(2):
            await api.put("/v1/traffic", json={"candidate": 20})
            async with api.post("/v1/rollback", headers=headers, json={}) as answer:
                body = await answer.json()
                assert body["changed"]
                assert body["rolled_back"] == ["events", "ivor"]
                assert body["persisted"]


async def test_an_idempotency_key_gives_the_first_answer_again(world: World) -> None:
    key = {"Idempotency-Key": "k1"}
    async with client(world) as api:
        first = await api.put("/v1/traffic", json={"candidate": 20}, headers=key)
        await api.put("/v1/traffic", json={"candidate": 0})
        again = await api.put("/v1/traffic", json={"candidate": 20}, headers=key)
        assert await again.read() == await first.read()
        assert again.headers["ETag"] == first.headers["ETag"]
        assert again.headers["Idempotency-Replayed"] == "true"
        async with api.put("/v1/traffic", json={"candidate": 30}, headers=key) as other:
            assert other.status == 422
        async with api.get("/v1/traffic") as now:
            assert (await now.json())["mode"] == "stable"
    async with client(world, OPERATOR) as somebody_else:
        answer = await somebody_else.put("/v1/traffic", json={"candidate": 9}, headers=key)
        assert answer.status == 200


async def test_a_refused_call_may_be_repeated_under_its_key(world: World) -> None:
    key = {"Idempotency-Key": "k2"}
    async with client(world) as api:
        async with api.put("/v1/traffic", json={"blue": 20}, headers=key) as answer:
            assert answer.status == 409
        await api.put("/v1/traffic", json={"candidate": 100})
        await api.post("/v1/traffic/finalize")
        async with api.put("/v1/traffic", json={"blue": 20}, headers=key) as answer:
            assert answer.status == 200


async def test_a_worker_that_lags_is_named_and_the_revision_stands(world: World) -> None:
    world.workers[1].answers = False
    hub = world.control.switchboard.parts.hub if world.control else None
    assert hub is not None
    async with client(world) as api:
        call = asyncio.ensure_future(api.put("/v1/traffic", json={"candidate": 20}))
        await world.workers[1].until(hub.number + 1)
        await asyncio.sleep(0)
        assert not call.done()
        world.workers[1].acknowledge(world.workers[1].numbers[-1])
        assert (await call).status == 200


async def test_a_worker_that_dies_is_not_waited_for(world: World) -> None:
    world.workers[1].answers = False
    hub = world.control.switchboard.parts.hub if world.control else None
    assert hub is not None
    async with client(world) as api:
        call = asyncio.ensure_future(api.put("/v1/traffic", json={"candidate": 20}))
        await world.workers[1].until(hub.number + 1)
        await world.workers[1].stop()
        assert (await call).status == 200


async def test_every_write_leaves_a_row(world: World) -> None:
    async with client(world, OPERATOR) as api:
        await api.put("/v1/traffic", json={"candidate": 20, "reason": "a try"})
        await api.post("/v1/rollback", json={"reason": "oh"})
    async with client(world, VIEWER) as api:
        async with api.get("/v1/audit?limit=1") as answer:
            page = await answer.json()
        async with api.get(f"/v1/audit?limit=1&before={page['next']}") as answer:
            following = await answer.json()
    (row,) = page["rows"]
    assert (row["actor"], row["action"], row["reason"]) == ("pipeline", "rollback", "oh")
    (row,) = following["rows"]
    assert row["action"] == "traffic.set"
    assert row["address"] == "127.0.0.1"
    assert row["before"]["services"]["ivor"]["weight"] == 0
    assert row["after"]["services"]["ivor"]["weight"] == 20
    assert following["next"] is None


async def test_adopt_says_which_color_production_is(world: World) -> None:
    async with client(world, ADMIN) as api:
        async with api.post("/v1/adopt", json={"color": "green", "services": ["ivor"]}) as answer:
            body = await answer.json()
        assert {each["name"]: each["stable"] for each in body["services"]} == {
            "events": "blue",
            "ivor": "green",
        }
        async with api.get("/v1/status") as answer:
            status = await answer.json()
    assert [(each["service"], each["field"]) for each in status["drift"]] == [("ivor", "stable")]
