"""Health as the API shows it: levels, dependencies, events, a new build's trial."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.config.snapshot import Listener
from gateway.control.settings import Settings
from gateway.health.answers import Request
from gateway.health.policy import BusinessCheck, HealthPolicy, IntegrationCheck
from tests.control.world import ADMIN, OPERATOR, POLICY, VIEWER, World, client, settings

NEW = "http://127.0.0.1:5001"


def policy(service: str, *depends_on: str) -> HealthPolicy:
    return dataclasses.replace(
        POLICY,
        rise=1,
        fall=2,
        business=BusinessCheck(request=Request(path="/selftest")),
        integration=IntegrationCheck(requests=(Request(path=f"/{service}/"),), interval=0.05),
        depends_on=depends_on,
    )


def platform(path: Path) -> Settings:
    """Two services with all levels; ivor needs events."""
    base = settings(path, "events", "ivor")
    asked = dataclasses.replace(
        base,
        services=tuple(
            dataclasses.replace(
                each, health=policy(each.name, *(["events"] if each.name == "ivor" else []))
            )
            for each in base.services
        ),
    )
    template = msgspec.structs.replace(
        asked.template, listeners=(Listener(address="127.0.0.1:8080"),)
    )
    return dataclasses.replace(asked, template=template)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, base=platform(tmp_path))
    try:
        await world.start()
        await world.worker()
        await world.until_up("blue")
        await world.until_up("green")
        yield world
    finally:
        await world.close()


async def health(world: World, service: str) -> dict[str, Any]:
    async with (
        client(world, VIEWER) as api,
        api.get(f"/v1/services/{service}/health") as answer,
    ):
        assert answer.status == 200
        found = await answer.json()
        assert isinstance(found, dict)
        return found


async def until(
    world: World, service: str, good: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    last: dict[str, Any] = {}
    try:
        async with asyncio.timeout(5):
            while not good(last := await health(world, service)):
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"{service}: {last}")
    return last


def words(found: dict[str, Any], color: str = "blue") -> list[str]:
    (pool,) = [each for each in found["pools"] if each["color"] == color]
    return [each["health"] for each in pool["endpoints"]]


async def test_every_level_is_shown(world: World) -> None:
    found = await health(world, "ivor")
    assert found["depends_on"] == ["events"]
    assert found["dependency_down"] == []
    endpoint = found["pools"][0]["endpoints"][0]
    assert endpoint["levels"] == {"L1": "up", "L2": "up", "L3": "up", "L4": "up"}
    assert [each["level"] for each in endpoint["probes"]] == ["L1", "L2", "L3", "L4"]
    assert {"green", "blue"} == {color for name, color in world.probes.through if name == "ivor"}
    async with client(world, VIEWER) as api:
        assert (await api.get("/v1/services/nobody/health")).status == 404
    async with aiohttp.ClientSession(world.url) as api:
        assert (await api.get("/v1/services/ivor/health")).status == 401


async def test_a_dependency_that_is_down_is_shown_where_it_is(world: World) -> None:
    world.probes.broken |= {"http://127.0.0.1:3000", "http://127.0.0.1:4000"}
    await until(world, "events", lambda found: words(found) == ["down"])
    found = await until(world, "ivor", lambda found: found["dependency_down"] == ["events"])
    assert words(found) == ["up"]
    assert found["pools"][0]["waiting"] == ["events"]
    async with client(world, VIEWER) as api, api.get("/v1/status") as answer:
        status = await answer.json()
    by_name = {each["name"]: each for each in status["services"]}
    assert by_name["ivor"]["dependency_down"] == ["events"]
    assert by_name["events"]["dependency_down"] == []
    world.probes.broken.clear()
    await until(world, "ivor", lambda found: not found["dependency_down"])


async def test_events_name_the_level_and_why(world: World) -> None:
    seen: list[dict[str, Any]] = []
    connected = asyncio.Event()

    async def read(api: aiohttp.ClientSession) -> None:
        async with api.get("/v1/events") as answer:
            connected.set()  # the head is sent once the stream is watched
            async for line in answer.content:
                seen.extend(json.loads(data) for data in [line[6:]] if line[:6] == b"data: ")

    async with client(world, VIEWER) as api:
        reading = asyncio.ensure_future(read(api))
        async with asyncio.timeout(5):
            await connected.wait()
        world.probes.apart.add(("events", "blue"))
        await until(world, "ivor", lambda found: found["dependency_down"] == ["events"])
        async with asyncio.timeout(5):
            while not any(each.get("health") == "waiting" for each in seen):
                await asyncio.sleep(0.01)
        reading.cancel()
    (down,) = [each for each in seen if each.get("health") == "down"]
    assert down["endpoint"] == "events-blue-1-0"
    assert (down["service"], down["color"], down["level"]) == ("events", "blue", "L4")
    assert (down["status"], down["detail"]) == (500, "(GET /): answered 500, expected 200")
    (waiting,) = [
        each for each in seen if each.get("health") == "waiting" and each["color"] == "blue"
    ]
    assert (waiting["service"], waiting["dependency_down"]) == ("ivor", ["events"])


async def test_a_build_whose_l4_fails_goes_and_the_former_one_is_back(world: World) -> None:
    world.probes.apart.add(("ivor", "green"))
    body = {"endpoints": [NEW], "wait": "500ms"}
    path = "/v1/services/ivor/pools/green"
    async with client(world, OPERATOR) as api:
        async with api.get("/v1/traffic") as answer:
            tag = answer.headers["ETag"]
        async with api.put(path, json=body, headers={"If-Match": tag}) as answer:
            problem = await answer.json(content_type="application/problem+json")
            assert answer.status == 409, problem
    assert problem["type"] == "urn:gateway:pool-unhealthy"
    assert "what was in green is back" in problem["detail"]
    (seen,) = problem["endpoints"]
    assert seen["url"] == NEW
    assert seen["health"] != "up"
    (last,) = [each for each in seen["probes"] if each["level"] == "L4"]
    assert (last["ok"], last["status"], last["body"]) == (False, 500, "no")
    world.probes.apart.clear()
    found = await until(world, "ivor", lambda found: words(found, "green") == ["up"])
    (pool,) = [each for each in found["pools"] if each["color"] == "green"]
    assert (pool["endpoints"][0]["url"], pool["source"]) == ("http://127.0.0.1:4001", "file")
    assert pool["generation"] > 3
    async with client(world, ADMIN) as api, api.get("/v1/audit") as answer:
        actions = [row["action"] for row in (await answer.json())["rows"]]
    assert actions[:2] == ["pool.put-back", "pool.put"]


async def test_a_build_is_not_taken_for_healthy_before_its_l4(world: World) -> None:
    world.probes.apart.add(("ivor", "green"))
    body = {"endpoints": [NEW], "wait": "2s"}
    async with client(world, OPERATOR) as api:
        putting = asyncio.ensure_future(api.put("/v1/services/ivor/pools/green", json=body))
        await until(world, "ivor", lambda found: found["pools"][1]["endpoints"][0]["url"] == NEW)
        async with api.put("/v1/traffic", json={"green": 1, "services": ["ivor"]}) as answer:
            assert answer.status == 409
        world.probes.apart.clear()
        answer = await putting
        assert answer.status == 200
        pool = (await answer.json())["pool"]
        assert [each["health"] for each in pool["endpoints"]] == ["up"]
        async with api.put("/v1/traffic", json={"green": 1, "services": ["ivor"]}) as answer:
            assert answer.status == 200


async def test_a_drained_pool_that_fell_and_is_back_is_opened_by_traffic(world: World) -> None:
    url = "http://127.0.0.1:4001"
    async with client(world, OPERATOR) as api:
        async with api.post("/v1/services/ivor/pools/green/drain", json={}) as answer:
            assert answer.status == 200
        world.probes.down.add(url)
        await until(world, "ivor", lambda found: words(found, "green") == ["down"])
        world.probes.down.clear()
        found = await until(world, "ivor", lambda found: words(found, "green") == ["up"])
        assert set(found["pools"][1]["endpoints"][0]["levels"]) == {"L1", "L2", "L3"}
        share = {"candidate": 10, "services": ["ivor"]}
        async with api.put("/v1/traffic", json=share) as answer:
            assert answer.status == 200, await answer.text()
    await until(
        world, "ivor", lambda found: found["pools"][1]["endpoints"][0]["levels"].get("L4") == "up"
    )


async def test_a_build_put_back_has_its_breakers_open_as_they_were(world: World) -> None:
    world.probes.apart.add(("ivor", "green"))
    async with client(world, OPERATOR) as api:
        body: dict[str, Any] = {"reason": "bad disk"}
        async with api.post("/v1/breakers/ivor-green-2-0/open", json=body) as answer:
            assert answer.status == 200
        body = {"endpoints": [NEW], "wait": "300ms"}
        async with api.put("/v1/services/ivor/pools/green", json=body) as answer:
            assert answer.status == 409
        async with api.get("/v1/breakers") as answer:
            rows = (await answer.json())["breakers"]
    (green,) = [each for each in rows if each["endpoint"].startswith("ivor-green")]
    assert (green["url"], green["state"]) == ("http://127.0.0.1:4001", "forced_open")


async def test_a_pool_of_the_file_that_is_put_back_is_the_files_of_now(world: World) -> None:
    world.probes.apart.add(("ivor", "green"))
    body = {"endpoints": [NEW], "wait": "1s"}
    moved = "http://127.0.0.1:4999"
    async with client(world, ADMIN) as api:
        putting = asyncio.ensure_future(api.put("/v1/services/ivor/pools/green", json=body))
        await until(world, "ivor", lambda found: found["pools"][1]["endpoints"][0]["url"] == NEW)
        services = [
            dataclasses.replace(each, green=(moved,)) if each.name == "ivor" else each
            for each in world.settings.services
        ]
        world.settings = dataclasses.replace(world.settings, services=tuple(services))
        async with api.post("/v1/config/reload") as answer:
            assert answer.status == 200
        answer = await putting
        assert answer.status == 409
        async with api.get("/v1/status") as answer:
            assert (await answer.json())["drift"] == []
    pool = (await health(world, "ivor"))["pools"][1]
    assert (pool["source"], pool["endpoints"][0]["url"]) == ("file", moved)


async def test_a_build_for_an_isolated_slot_is_refused_at_once(world: World) -> None:
    path = "/v1/services/ivor/pools/green"
    async with client(world, ADMIN) as api:
        async with api.post("/v1/services/ivor/isolate", json={"color": "green"}) as answer:
            assert answer.status == 200
        body = {"endpoints": [NEW], "wait": "9s"}
        async with asyncio.timeout(5), api.put(path, json=body) as answer:
            problem = await answer.json(content_type="application/problem+json")
            assert answer.status == 409
        assert problem["type"] == "urn:gateway:pool-isolated"
        assert "isolate?color=green" in problem["hint"]
        assert NEW not in world.probes.asked
        # Nobody waits for a check here.
        async with api.put(path, json={"endpoints": [NEW], "wait": None}) as answer:
            assert answer.status == 200


async def test_a_slot_that_is_isolated_meanwhile_is_no_pass(world: World) -> None:
    world.probes.apart.add(("ivor", "green"))
    body = {"endpoints": [NEW], "wait": "500ms"}
    async with client(world, ADMIN) as api:
        putting = asyncio.ensure_future(api.put("/v1/services/ivor/pools/green", json=body))
        await until(world, "ivor", lambda found: found["pools"][1]["endpoints"][0]["url"] == NEW)
        async with api.post("/v1/services/ivor/isolate", json={"color": "green"}) as answer:
            assert answer.status == 200
        answer = await putting
        assert answer.status == 409
        detail = (await answer.json(content_type="application/problem+json"))["detail"]
    assert "is not run: green is drained or isolated" in detail


async def test_a_build_that_no_check_gets_to_is_told_so(world: World) -> None:
    assert world.control is not None
    world.control.switchboard.parts.prober.integration.door = None
    body = {"endpoints": [NEW], "wait": "300ms"}
    path = "/v1/services/ivor/pools/green"
    async with client(world, OPERATOR) as api, api.put(path, json=body) as answer:
        problem = await answer.json(content_type="application/problem+json")
        assert answer.status == 409
    assert "the gateway has no listener" in problem["detail"]


async def test_a_build_on_trial_is_gone_when_control_is_stopped(world: World) -> None:
    world.probes.apart.add(("ivor", "green"))
    body = {"endpoints": [NEW], "wait": "60s"}
    async with client(world, OPERATOR) as api:
        putting = asyncio.ensure_future(api.put("/v1/services/ivor/pools/green", json=body))
        await until(world, "ivor", lambda found: found["pools"][1]["endpoints"][0]["url"] == NEW)
        async with asyncio.timeout(10):
            await world.stop()
        answer = await putting
        assert answer.status == 409
        detail = (await answer.json(content_type="application/problem+json"))["detail"]
    assert "not healthy before control was stopped; what was in green is back" in detail
    await world.start()
    pool = (await health(world, "ivor"))["pools"][1]
    assert (pool["source"], pool["endpoints"][0]["url"]) == ("file", "http://127.0.0.1:4001")


async def test_a_build_waits_for_a_dependency_and_says_so(world: World) -> None:
    world.probes.broken |= {"http://127.0.0.1:3000"}
    await until(world, "events", lambda found: words(found) == ["down"])
    body = {"endpoints": [NEW], "wait": "300ms"}
    path = "/v1/services/ivor/pools/green"
    async with client(world, OPERATOR) as api, api.put(path, json=body) as answer:
        problem = await answer.json(content_type="application/problem+json")
        assert answer.status == 409
    assert "waits for events" in problem["detail"]


async def test_a_build_that_traffic_was_forced_to_stays(world: World) -> None:
    world.probes.apart.add(("ivor", "green"))
    body = {"endpoints": [NEW], "wait": "500ms"}
    async with client(world, OPERATOR) as api:
        putting = asyncio.ensure_future(api.put("/v1/services/ivor/pools/green", json=body))
        await until(world, "ivor", lambda found: found["pools"][1]["endpoints"][0]["url"] == NEW)
        forced = {"green": 1, "services": ["ivor"], "force": True}
        async with api.put("/v1/traffic", json=forced) as answer:
            assert answer.status == 200
        answer = await putting
        problem = await answer.json(content_type="application/problem+json")
        assert answer.status == 409
    assert "it stays in green" in problem["detail"]
    assert (await health(world, "ivor"))["pools"][1]["endpoints"][0]["url"] == NEW


async def test_the_probes_secret_lasts_and_is_shown_nowhere(world: World) -> None:
    topology = world.workers[0].topology
    assert topology is not None
    secret = topology.cohort.probe_secret
    assert secret is not None
    assert len(secret) >= 16
    assert repr(secret) not in repr(topology)
    assert world.control is not None
    assert repr(secret) not in repr(world.control.switchboard.parts)
    number = topology.number
    await world.stop()
    await world.start()
    hub = world.control.switchboard.parts.hub
    assert hub.topology.cohort.probe_secret == secret
    assert hub.topology.number == number, "no new topology for a restart"
    async with client(world, VIEWER) as api, api.get("/v1/status") as answer:
        assert secret.hex() not in await answer.text()


async def test_probes_are_counted_for_the_metrics(world: World) -> None:
    world.probes.apart.add(("ivor", "green"))
    await until(world, "ivor", lambda found: words(found, "green") == ["down"])
    async with aiohttp.ClientSession(world.url) as api, api.get("/metrics") as answer:
        text = await answer.text()
    for wanted in (
        'gateway_probes_total{color="blue",level="L1",result="pass",service="events"}',
        'gateway_probes_total{color="green",level="L4",result="fail",service="ivor"}',
        'gateway_probe_seconds_count{color="green",level="L4",service="ivor"}',
    ):
        assert wanted in text
    only_events = dataclasses.replace(
        world.settings,
        services=world.settings.services[:1],
        template=world.settings.template,
    )
    assert world.control is not None
    world.control.news.forget({each.name for each in only_events.services})
    assert {key[0] for key in world.control.news.counts} == {"events"}


async def test_a_reload_changes_what_is_asked(world: World) -> None:
    shallow = tuple(dataclasses.replace(each, health=POLICY) for each in world.settings.services)
    world.settings = dataclasses.replace(world.settings, services=shallow)
    async with client(world, ADMIN) as api, api.post("/v1/config/reload") as answer:
        assert answer.status == 200
        assert (await answer.json())["changes"] == [
            "service events: changed",
            "service ivor: changed",
        ]
    found = await until(
        world,
        "ivor",
        lambda found: set(found["pools"][0]["endpoints"][0]["levels"]) == {"L1", "L2"},
    )
    assert found["depends_on"] == []
    assert words(found) == ["up"]
