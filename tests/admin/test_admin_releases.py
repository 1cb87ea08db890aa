"""Releases over the real application: what a pipeline and a person are told, in every state."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.control.stage import PERSON, Stage, ask, client, post, staged
from tests.control.world import OPERATOR, VIEWER

Json = dict[str, Any]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        yield stage


@pytest.fixture
async def api(stage: Stage) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(stage.world, OPERATOR) as session:
        yield session


# --- the start ------------------------------------------------------------------------------------


async def test_a_start_is_201_with_its_id_and_nobody_is_exposed(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    status, body = await post(api, "/v1/releases", {"version": "2.1", "reason": "Tuesday"})
    assert status == 201
    assert (body["state"], body["step"], body["weight"], body["version"]) == (
        "validating",
        0,
        0.0,
        "2.1",
    )
    assert body["services"] == ["events", "ivor"]
    assert body["actor"] == "pipeline"
    assert [each["state"] for each in body["plan"]] == ["ahead"] * 4
    assert stage.weights == {0}
    for worker in stage.world.workers:
        assert worker.traffic is not None
        assert worker.traffic.release == body["id"]
        assert [each.service for each in worker.traffic.watch] == ["events", "ivor"]
    status, found = await ask(api, "GET", f"/v1/releases/{body['id']}")
    assert (status, found["id"]) == (200, body["id"])


async def test_another_start_is_409_with_the_id_of_the_one_under_way(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    run = await stage.begins()
    status, problem = await post(api, "/v1/releases")
    assert status == 409
    assert (problem["type"], problem["release"]) == ("urn:gateway:release-running", run.id)


async def test_a_service_without_a_candidate_is_named(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.world) as api:
        await ask(
            api,
            "PUT",
            "/v1/services/ivor/pools/green",
            {"endpoints": ["http://127.0.0.1:4001"], "wait": "2s"},
        )
        services = [
            dataclasses.replace(each, green=() if each.name == "events" else each.green)
            for each in stage.world.settings.services
        ]
        stage.world.settings = dataclasses.replace(stage.world.settings, services=tuple(services))
        assert (await post(api, "/v1/config/reload"))[0] == 200
        status, problem = await post(api, "/v1/releases")
        assert status == 409
        assert problem["type"] == "urn:gateway:no-candidate"
        assert [each["service"] for each in problem["services"]] == ["events"]
        status, body = await post(api, "/v1/releases", {"services": ["ivor"]})
        assert (status, body["services"]) == (201, ["ivor"])


async def test_an_isolated_candidate_and_a_split_by_hand_are_refused(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await post(api, "/v1/services/ivor/isolate", {"color": "green"})
    status, problem = await post(api, "/v1/releases")
    assert (status, problem["type"]) == (409, "urn:gateway:isolated")
    await ask(api, "DELETE", "/v1/services/ivor/isolate")
    await ask(api, "PUT", "/v1/traffic", {"candidate": 5, "services": ["events"]})
    status, problem = await post(api, "/v1/releases", {"services": ["ivor"]})
    assert (status, problem["type"]) == (409, "urn:gateway:split-in-force")
    assert [each["service"] for each in problem["services"]] == ["events"]
    assert stage.state.run is None


async def test_a_generation_is_412_where_it_is_another(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    generation = stage.state.services[1].green.generation
    status, problem = await post(api, "/v1/releases", {"pools": {"ivor": generation + 1}})
    assert (status, problem["type"]) == (412, "urn:gateway:stale-generation")
    assert problem["field"] == "pools.ivor"
    status, problem = await post(
        api, "/v1/releases", {"services": ["events"], "pools": {"ivor": generation}}
    )
    assert (status, problem["field"]) == (422, "pools.ivor")
    status, _ = await post(api, "/v1/releases", {"pools": {"ivor": generation}})
    assert status == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"steps": [{"weight": 50}]}, "steps.0.weight"),
        ({"steps": [{"weight": 50}, {"weight": 20}, {"weight": 100}]}, "steps.1.weight"),
        ({"steps": []}, "steps"),
        ({"services": ["nope"]}, "services.0"),
        ({"lease": "soon"}, "lease"),
        ({"versoin": "1"}, "versoin"),
    ],
)
async def test_a_wrong_start_is_422_and_names_the_field(
    stage: Stage, api: aiohttp.ClientSession, body: Json, field: str
) -> None:
    status, problem = await post(api, "/v1/releases", body)
    assert (status, problem["field"]) == (422, field)
    assert stage.state.run is None


async def test_a_build_that_was_rolled_back_is_409_unless_forced_and_an_abort_condemns_none(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(20)
    await post(api, "/v1/releases/current/abort")
    await stage.until(lambda: stage.run.over)
    assert stage.run.state == "aborted"
    await stage.at(5)
    await stage.fails(*range(1, 10))
    await stage.until(lambda: stage.run.over)
    assert stage.run.state == "rolled_back"
    status, problem = await post(api, "/v1/releases")
    assert (status, problem["type"]) == (409, "urn:gateway:rolled-back-before")
    assert [each["service"] for each in problem["services"]] == ["events", "ivor"]
    await stage.restarted()
    async with client(stage.world) as again:
        assert (await post(again, "/v1/releases"))[0] == 409
        assert (await post(again, "/v1/releases", {"force": True}))[0] == 201


async def test_a_viewer_looks_and_does_nothing(stage: Stage) -> None:
    async with client(stage.world, VIEWER) as api:
        assert (await post(api, "/v1/releases"))[0] == 403
        await stage.begins()
        for verb in ("pause", "resume", "promote", "abort", "finalize", "renew"):
            assert (await post(api, f"/v1/releases/current/{verb}"))[0] == 403
        for path in ("", "/current", "/current/decisions"):
            assert (await ask(api, "GET", f"/v1/releases{path}"))[0] == 200


async def test_an_unknown_release_is_404_everywhere(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.begins()
    for path in ("/v1/releases/nope", "/v1/releases/nope/decisions"):
        assert (await ask(api, "GET", path))[0] == 404
    for verb in ("pause", "resume", "promote", "abort", "finalize", "renew"):
        status, problem = await post(api, f"/v1/releases/nope/{verb}")
        assert (status, problem["type"]) == (404, "urn:gateway:unknown-release"), verb


# --- its way --------------------------------------------------------------------------------------


async def test_a_healthy_release_goes_0_5_20_50_100_and_the_roles_swap(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    _, begun = await post(api, "/v1/releases")
    weights, salts, ids = [], set(), set()
    while not stage.run.over:
        await stage.until(lambda: stage.run.weight > 0 or stage.run.over)
        if stage.run.over:
            break
        step = stage.run.step
        weights.append(stage.run.weight)
        assert stage.weights == {stage.run.weight}
        salts.add(stage.state.salt)
        ids.add(stage.state.release)
        await stage.passes(stage.run.plan.steps[step].hold + 1.0)
        assert stage.run.step == step, "no requests, no keys: inconclusive"
        await stage.counts(10, keys=1)
        await stage.passes(1.0)
        assert stage.run.step == step, "one client proves nothing"
        await stage.counts(1, keys=1)
        await stage.until(lambda step=step: stage.run.step > step or stage.run.over, 1.0)  # type: ignore[misc]
    assert weights == [500, 2000, 5000, 10000]
    assert (len(salts), ids) == (1, {begun["id"]})
    assert stage.state.release == ""
    assert stage.run.state == "finalized"
    assert {each.stable for each in stage.state.services} == {"green"}
    _, body = await ask(api, "GET", "/v1/releases/current")
    assert [each["state"] for each in body["plan"]] == ["done"] * 4
    assert body["gate"] is None
    _, ledger = await ask(api, "GET", "/v1/releases/current/decisions")
    whats = [each["what"] for each in ledger["decisions"]]
    assert whats[0] == "started"
    assert whats.count("step") == 4
    assert whats[-1] == "ended"
    for row in ledger["decisions"]:
        if row["what"] == "step" and row["step"] > 1:
            assert row["numbers"]["scopes"]["ivor"]["candidate"]["requests"] > 0
    _, another = await post(api, "/v1/releases")
    assert another["id"] != begun["id"]
    assert stage.state.salt not in salts


@pytest.mark.parametrize(
    ("choice", "state", "weight"),
    [("hold", "held", 500), ("promote", "stepping", 2000), ("rollback", "rolled_back", 0)],
)
async def test_an_inconclusive_step_waits_until_max_hold_and_then_does_as_it_was_told(
    tmp_path: Path, choice: str, state: str, weight: int
) -> None:
    async with staged(tmp_path, on_inconclusive=choice) as stage:
        await stage.at(5)
        await stage.passes(9.0)
        assert (stage.run.state, stage.run.step) == ("stepping", 0)
        await stage.passes(2.0)
        await stage.until(lambda: stage.run.state == state, 2.0)
        assert stage.weights == {weight}
        assert choice == "promote" or stage.run.trigger == "inconclusive"


async def test_an_inconclusive_step_is_not_promoted_where_probes_fail(tmp_path: Path) -> None:
    async with staged(tmp_path, on_inconclusive="promote") as stage:
        await stage.at(5)
        stage.world.probes.broken.add("http://127.0.0.1:4000")
        await stage.lost("green", "events")
        await stage.until(lambda: stage.run.state == "held", 12.0)
        assert "probes: events-green" in stage.run.because


async def test_a_step_does_not_pass_while_probes_fail(stage: Stage) -> None:
    await stage.at(5)
    await stage.lost("green", "ivor")
    await stage.counts()
    await stage.passes(5.0)
    assert stage.run.step == 0
    assert any("ivor-green" in each for each in stage.control.releases.gate(stage.run).waits)
    stage.recovers()
    await stage.world.until_up("green")
    await stage.until(lambda: stage.run.step == 1, 2.0)


async def test_a_candidate_that_is_never_healthy_ends_before_anybody_saw_it(stage: Stage) -> None:
    await stage.lost("green", "events")
    await stage.begins()
    await stage.passes(4.0)
    assert stage.run.state == "validating"
    await stage.passes(2.0)
    assert (stage.run.state, stage.run.trigger) == ("aborted", "validation")
    assert "events-green-2-0" in stage.run.because
    stage.recovers()
    await stage.world.until_up("green")
    assert (await stage.begins()).state == "validating"  # it was not rolled back before


async def test_a_paused_release_is_judged_and_taken_back(stage: Stage) -> None:
    await stage.at(20)
    await stage.control.release_calls.pause(PERSON, "current")
    await stage.counts()
    await stage.passes(20.0)
    assert (stage.run.state, stage.run.step, stage.weights) == ("paused", 1, {2000})
    await stage.fails(*range(1, 12))
    await stage.until(lambda: stage.run.over)
    assert (stage.run.state, stage.run.trigger) == ("rolled_back", "regression")


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "finalize"])
async def test_a_verb_that_finds_its_work_done_is_200_and_changes_nothing(
    stage: Stage, api: aiohttp.ClientSession, verb: str
) -> None:
    await stage.at(5)
    if verb == "resume":
        await post(api, "/v1/releases/current/pause")
    if verb == "finalize":
        await post(api, "/v1/releases/current/promote", {"to": 100})
    status, body = await post(api, f"/v1/releases/current/{verb}", {"reason": "so"})
    assert (status, body["changed"]) == (200, True), body
    revision = stage.state.revision
    for _ in range(2):
        status, body = await post(api, f"/v1/releases/current/{verb}")
        assert (status, body["changed"], body["applied_in_ms"]) == (200, False, None), body
    assert stage.state.revision == revision
    if verb in {"abort", "finalize"}:
        await stage.until(lambda: stage.run.over)
        status, body = await post(api, f"/v1/releases/current/{verb}")
        assert (status, body["changed"]) == (200, False)


async def test_promote_goes_to_the_next_step_or_to_a_percentage(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(5)
    for body, weight, changed in (
        ({}, 20.0, True),
        ({"to": 20}, 20.0, False),
        ({"to": 10}, 20.0, False),
        ({"to": 21}, 50.0, True),
        ({"to": 100}, 100.0, True),
        ({"to": 100}, 100.0, False),
    ):
        status, found = await post(api, "/v1/releases/current/promote", body)
        assert (status, found["weight"], found["changed"]) == (200, weight, changed), body
    assert stage.run.state == "baking"
    status, problem = await post(api, "/v1/releases/current/promote")
    assert (status, problem["type"]) == (409, "urn:gateway:not-promotable")


async def test_a_candidate_that_cannot_serve_is_not_promoted_unless_forced(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(5)
    await stage.lost("green", "ivor")
    status, problem = await post(api, "/v1/releases/current/promote")
    assert (status, problem["type"]) == (409, "urn:gateway:candidate-unavailable")
    status, _ = await post(api, "/v1/releases/current/promote", {"force": True})
    assert (status, stage.weights) == (200, {2000})


async def test_what_leaves_held_is_resume_promote_or_abort(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(5)
    await stage.until(lambda: stage.run.state == "held")
    for verb in ("pause", "finalize"):
        assert (await post(api, f"/v1/releases/current/{verb}"))[0] == 409, verb
    status, body = await post(api, "/v1/releases/current/resume")
    assert (status, body["state"], body["because"]) == (200, "stepping", "")
    await stage.passes(5.0)
    assert stage.run.state == "stepping", "its waiting begins anew"
    await stage.until(lambda: stage.run.state == "held")
    status, body = await post(api, "/v1/releases/current/promote")
    assert (status, body["state"], body["weight"]) == (200, "stepping", 20.0)
    await stage.until(lambda: stage.run.state == "held")
    status, body = await post(api, "/v1/releases/current/abort")
    assert (status, body["state"]) == (200, "rolling_back")
    assert stage.weights == {0}


async def test_promoted_from_held_at_its_last_step_it_is_finalized(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(100)
    await stage.until(lambda: stage.run.state == "held")
    assert (await post(api, "/v1/releases/current/finalize"))[0] == 409
    status, body = await post(api, "/v1/releases/current/promote")
    assert (status, body["state"], body["changed"]) == (200, "finalized", True)
    assert {each.stable for each in stage.state.services} == {"green"}


async def test_finalize_needs_everything_and_manual_waits_for_it(tmp_path: Path) -> None:
    async with staged(tmp_path, finalize="manual") as stage, client(stage.world) as api:
        await stage.at(50)
        status, problem = await post(api, "/v1/releases/current/finalize")
        assert (status, problem["type"]) == (409, "urn:gateway:not-at-100")
        await stage.counts()
        await stage.until(lambda: stage.run.weight == 10_000)
        await stage.counts()
        await stage.passes(30.0)
        assert stage.run.state == "baking"
        status, body = await post(api, "/v1/releases/current/finalize")
        assert (status, body["state"]) == (200, "finalized")
