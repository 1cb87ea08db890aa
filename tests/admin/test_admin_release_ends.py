"""How a release ends when it is not well, by the API: back, held, or out of lease."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.control.stage import PERSON, Stage, alerts, ask, client, post, staged
from tests.control.world import OPERATOR


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        yield stage


@pytest.fixture
async def api(stage: Stage) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(stage.world, OPERATOR) as session:
        yield session


# --- the way back ---------------------------------------------------------------------------------


async def into(stage: Stage, state: str) -> None:
    """Bring a release into a state."""
    verbs = stage.control.release_calls
    if state == "validating":
        await stage.lost("green", "ivor")
        await stage.begins()
    elif state in {"stepping", "paused", "rolling_back"}:
        await stage.at(20)
        if state == "paused":
            await verbs.pause(PERSON, "current")
        if state == "rolling_back":
            await verbs.abort(PERSON, "current")
    elif state == "held":
        await stage.at(5)
        await stage.until(lambda: stage.run.state == "held")
    elif state == "baking":
        await stage.at(100)
    assert stage.run.state == state


STATES = ("validating", "stepping", "paused", "held", "baking", "rolling_back")


@pytest.mark.parametrize("state", STATES)
async def test_a_rollback_by_hand_ends_a_release_in_every_state(
    stage: Stage, api: aiohttp.ClientSession, state: str
) -> None:
    await into(stage, state)
    for _ in range(2):
        status, body = await post(api, "/v1/rollback", {"services": ["ivor"]})
        assert status == 200, body
        assert stage.weights == {0}
        assert stage.run.state == "rolling_back"
    await stage.until(lambda: stage.run.over)
    assert stage.run.state == "aborted"
    assert {each.stable for each in stage.state.services} == {"blue"}
    assert stage.state.release == ""
    stage.recovers()
    await stage.world.until_up("green")
    assert (await post(api, "/v1/releases"))[0] == 201  # nothing is condemned by it


@pytest.mark.parametrize("state", STATES)
async def test_nothing_else_moves_what_a_release_has_in_its_hands(
    stage: Stage, api: aiohttp.ClientSession, state: str
) -> None:
    await into(stage, state)
    before = stage.state
    pool = {"endpoints": ["http://127.0.0.1:4999"]}
    async with client(stage.world) as admin:
        for method, path, body in (
            ("PUT", "/v1/traffic", {"candidate": 10}),
            ("PUT", "/v1/traffic", {"candidate": 0}),
            ("POST", "/v1/traffic/finalize", {}),
            ("POST", "/v1/adopt", {"color": "green"}),
            ("PUT", "/v1/services/ivor/pools/candidate", pool),
            ("PUT", "/v1/services/ivor/pools/blue", pool),
            ("POST", "/v1/services/ivor/pools/green/drain", {}),
            ("POST", "/v1/services/ivor/pools/blue/drain", {}),
            ("POST", "/v1/rollback", {"to": "previous"}),
            ("POST", "/v1/releases", {}),
        ):
            status, problem = await ask(admin, method, path, body)
            assert (status, problem["type"]) == (409, "urn:gateway:release-running"), path
            assert problem["release"] == stage.run.id
    assert stage.state.services == before.services


async def test_a_service_that_is_not_in_the_release_takes_new_builds(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.begins(services=("ivor",))
    body = {"endpoints": ["http://127.0.0.1:4999"]}
    status, _ = await ask(api, "PUT", "/v1/services/events/pools/green", body)
    assert status == 200


async def test_a_service_whose_stable_is_dead_stays_and_is_taken_back_once_it_can(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(20)
    # Before the release can be held for it.
    stage.control.releases._holding = True
    await stage.lost("blue", "ivor")
    # Another's candidate fails: what of ivor's does is compared with nobody now.
    await stage.fails(*range(1, 12), service="events")
    await stage.really(lambda: stage.run.state == "held")
    weights = {each.name: each.weight for each in stage.state.services}
    assert weights == {"events": 0, "ivor": 2000}
    assert stage.run.wants_back
    stage.control.releases._holding = False
    await stage.passes(5.0)
    assert stage.run.state == "held"
    status, problem = await post(api, "/v1/releases/current/abort")
    assert (status, problem["type"]) == (409, "urn:gateway:stable-unavailable")
    await stage.restarted()
    await stage.passes(2.0)
    assert stage.run.state == "held"
    stage.recovers()
    await stage.world.until_up("blue")
    await stage.until(lambda: stage.run.over, 10.0)
    assert (stage.run.state, stage.run.trigger, stage.weights) == (
        "rolled_back",
        "regression",
        {0},
    )


async def test_force_takes_it_back_onto_a_dead_stable(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(20)
    await stage.lost("blue")
    await stage.until(lambda: stage.run.state == "held")
    assert (await post(api, "/v1/rollback"))[0] == 409
    status, _ = await post(api, "/v1/rollback", {"force": True})
    assert (status, stage.weights) == (200, {0})


async def test_promoted_after_a_part_went_back_all_of_it_goes_on(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(100)
    stage.control.releases._holding = True
    await stage.lost("blue", "ivor")
    # At 100 % there is nobody to compare with: the objective speaks.
    for key in range(30):
        await stage.fails(key)
    await stage.counts(30, failed=30)
    await stage.passes(0.5)
    await stage.really(lambda: stage.run.state == "held")
    assert {each.name: each.weight for each in stage.state.services} == {
        "events": 0,
        "ivor": 10_000,
    }
    status, body = await post(api, "/v1/releases/current/promote")
    assert (status, body["state"]) == (200, "baking")
    assert stage.weights == {10_000}


async def test_a_forward_only_release_is_held_and_alerts_and_goes_on_after_a_person_looked(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, forward_only=True) as stage, client(stage.world) as api:
        await stage.at(20)
        assert all(worker.traffic.forward_only for worker in stage.world.workers if worker.traffic)
        await stage.fails(*range(1, 12))
        await stage.until(lambda: stage.run.state == "held", 1.0)
        assert "forward only" in stage.run.because
        assert stage.weights == {2000}
        assert alerts(stage)[-1]["severity"] == "critical"
        assert (await post(api, "/v1/releases/current/abort"))[1]["type"].endswith("forward-only")
        await post(api, "/v1/releases/current/resume")
        await stage.passes(1.0)
        assert stage.run.state == "stepping"
        # Another time it is held again: what was looked at is not what comes later.
        await stage.fails(*range(101, 112))
        await stage.until(lambda: stage.run.state == "held", 1.0)
        status, _ = await post(api, "/v1/releases/current/abort", {"force": True})
        assert (status, stage.weights) == (200, {0})


# --- outages --------------------------------------------------------------------------------------


async def test_stable_that_dies_during_a_release_holds_it_with_a_critical_alert(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(20)
    await stage.lost("blue", "ivor")
    await stage.until(lambda: stage.run.state == "held", 2.0)
    assert stage.weights == {2000}
    assert "stable cannot serve" in stage.run.because
    (alert,) = alerts(stage)
    assert (alert["severity"], alert["state"], alert["id"]) == ("critical", "held", stage.run.id)
    stage.recovers()
    await stage.world.until_up("blue")
    await stage.passes(5.0)
    assert stage.run.state == "held", "what leaves held is a person"
    status, body = await post(api, "/v1/releases/current/resume")
    assert (status, body["state"]) == (200, "stepping")


async def test_a_person_goes_on_though_what_held_it_is_still_so(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(20)
    await stage.lost("blue", "ivor")
    await stage.until(lambda: stage.run.state == "held", 2.0)
    await post(api, "/v1/releases/current/resume")
    await stage.passes(5.0)
    assert stage.run.state == "stepping"
    stage.recovers()
    await stage.world.until_up("blue")
    await stage.passes(1.0)
    await stage.lost("blue", "ivor")
    await stage.until(lambda: stage.run.state == "held", 2.0)


async def test_failures_while_stable_cannot_serve_are_compared_with_nobody(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        await stage.lost("blue", "ivor")
        await stage.really(lambda: stage.run.state == "held")
        # Its breakers are open: it does not fail any more, and the candidate does.
        await stage.fails(*range(20))
        assert stage.judgement.known.scopes["ivor"].errors.candidate == 0
        assert stage.judgement.known.scopes["*"].errors.candidate == 0
        await stage.fails(*range(100, 103), service="events")
        assert stage.judgement.known.scopes["events"].errors.candidate == 3
        stage.recovers()
        await stage.until(lambda: stage.control.switchboard.parts.facts.able("ivor", "blue"))
        await stage.fails(*range(3))
        assert stage.judgement.known.scopes["ivor"].errors.candidate == 3


async def test_an_outage_of_both_colors_is_held_and_not_rolled_back(tmp_path: Path) -> None:
    async with staged(tmp_path, critical=("ivor",)) as stage:
        await stage.at(20)
        # Stable has been heard of: it gets a moment to show the same, whichever is seen first.
        await stage.counts(candidate=False)
        stage.loses("blue", "ivor")
        await stage.lost("green", "ivor")
        await stage.lost("blue", "ivor")
        await stage.until(lambda: stage.run.state == "held", 5.0)
        assert stage.weights == {2000}
        assert alerts(stage)[-1]["severity"] == "critical"


async def test_a_dead_candidate_of_a_critical_service_goes_back_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path, critical=("ivor",)) as stage:
        await stage.at(20)
        await stage.lost("green", "ivor")
        await stage.until(lambda: stage.run.over, 5.0)
        assert (stage.run.state, stage.run.trigger) == ("rolled_back", "critical_down")


async def test_probes_that_fail_for_30_seconds_take_it_back(tmp_path: Path) -> None:
    async with staged(tmp_path, max_hold="1h") as stage:
        await stage.at(20)
        await stage.lost("green", "ivor")
        await stage.passes(29.0)
        assert stage.run.state == "stepping"
        await stage.passes(2.0)
        await stage.until(lambda: stage.run.over)
        assert (stage.run.state, stage.run.trigger) == ("rolled_back", "unhealthy")


async def test_an_error_rate_over_5_percent_for_two_minutes_takes_it_back(tmp_path: Path) -> None:
    async with staged(tmp_path, max_hold="1h") as stage:
        await stage.at(20)
        began = stage.clock.now
        while stage.run.state == "stepping":
            await stage.counts(20, failed=2, keys=0)
            await stage.passes(1.0, 1.0)
        assert 119 <= stage.clock.now - began <= 123
        await stage.until(lambda: stage.run.over)
        assert stage.run.trigger == "error_rate"


# --- leases ---------------------------------------------------------------------------------------


async def test_there_is_no_lease_unless_asked_for(stage: Stage, api: aiohttp.ClientSession) -> None:
    await stage.at(5)
    status, problem = await post(api, "/v1/releases/current/renew")
    assert (status, problem["type"]) == (409, "urn:gateway:no-lease")
    assert (await ask(api, "GET", "/v1/releases/current"))[1]["lease"] is None


@pytest.mark.parametrize(("lost", "state"), [("rollback", "rolled_back"), ("hold", "held")])
@pytest.mark.parametrize("validating", [True, False])
async def test_a_lease_that_runs_out_takes_it_back_or_holds_it(
    tmp_path: Path, lost: str, state: str, validating: bool
) -> None:
    async with (
        staged(tmp_path, validate_within="1h", max_hold="1h") as stage,
        client(stage.world) as api,
    ):
        if validating:
            await stage.lost("green", "ivor")
        await post(api, "/v1/releases", {"lease": "4s", "on_lease_lost": lost})
        for _ in range(3):
            await stage.passes(3.5)
            status, body = await post(api, "/v1/releases/current/renew")
            assert (status, body["lease"]["left"]) == (200, 4.0)
        assert stage.run.state == ("validating" if validating else "stepping")
        await stage.passes(3.5)
        assert stage.run.running
        await stage.until(lambda: stage.run.state == state, 3.0)
        assert stage.run.trigger == "lease"
        status, problem = await post(api, "/v1/releases/current/renew")
        assert status == (409 if lost == "rollback" else 200), problem


async def test_a_lease_rests_while_paused_and_held_and_is_full_after(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, lease="6s", max_hold="3s") as stage, client(stage.world) as api:
        await stage.at(5)
        await post(api, "/v1/releases/current/pause")
        await stage.passes(60.0)
        assert stage.run.state == "paused"
        _, body = await post(api, "/v1/releases/current/resume")
        assert body["lease"]["left"] == 6.0
        await stage.until(lambda: stage.run.state == "held", 4.0)
        assert stage.run.trigger == "inconclusive"
        await stage.passes(60.0)
        assert stage.run.state == "held"
        _, body = await post(api, "/v1/releases/current/resume")
        assert body["lease"]["left"] == 6.0


async def test_a_lease_gets_one_full_period_after_controls_absence(tmp_path: Path) -> None:
    async with staged(tmp_path, lease="6s", max_hold="1h") as stage:
        await stage.at(5)
        await stage.passes(4.0)
        stage.clock.now += 3600.0
        await stage.restarted()
        await stage.passes(5.0)
        assert stage.run.state == "stepping"
        await stage.until(lambda: stage.run.state == "rolled_back", 3.0)


async def test_a_lease_that_runs_out_while_baking_only_holds(tmp_path: Path) -> None:
    async with staged(tmp_path, lease="30s", max_hold="1h") as stage:
        await stage.at(100)
        await stage.until(lambda: stage.run.state != "baking", 31.0)
        assert (stage.run.state, stage.run.trigger, stage.weights) == ("held", "lease", {10_000})


# --- isolation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["stepping", "paused", "held", "baking"])
async def test_an_isolated_candidate_takes_its_release_back(
    stage: Stage, api: aiohttp.ClientSession, state: str
) -> None:
    await into(stage, state)
    status, body = await post(api, "/v1/services/ivor/isolate", {"color": "candidate"})
    assert status == 200, body
    await stage.until(lambda: stage.run.over, 5.0)
    run = stage.run
    assert (run.state, run.trigger, run.by_hand) == ("aborted", "manual", True)
    assert "isolated by hand: green of ivor" in run.because
    assert stage.weights == {0}
    # It stays out, and its build is not condemned: lifted, it may be released again.
    assert (await post(api, "/v1/releases", {}))[1]["type"] == "urn:gateway:isolated"
    await ask(api, "DELETE", "/v1/services/ivor/isolate")
    assert (await post(api, "/v1/releases", {}))[0] == 201


async def test_a_release_that_exposes_nobody_yet_waits_for_an_isolated_candidate(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await into(stage, "validating")
    await post(api, "/v1/services/ivor/isolate", {"color": "green"})
    await stage.passes(1.0)
    assert stage.run.state == "validating"
    _, shown = await ask(api, "GET", "/v1/releases/current")
    assert "ivor: green is closed (drained or isolated)" in str(shown)


async def test_without_a_way_back_an_isolated_candidate_is_a_hold(tmp_path: Path) -> None:
    async with staged(tmp_path, forward_only=True) as stage, client(stage.world) as api:
        await stage.at(20)
        await post(api, "/v1/services/ivor/isolate", {"color": "green"})
        await stage.until(lambda: stage.run.state == "held", 5.0)
        assert stage.weights == {2000}
        assert "isolated by hand: green of ivor" in stage.run.because


async def test_stable_of_a_running_release_is_isolated_by_force_alone(
    stage: Stage, api: aiohttp.ClientSession
) -> None:
    await stage.at(20)
    path, body = "/v1/services/ivor/isolate", {"color": "stable"}
    status, problem = await post(api, path, body)
    assert (status, problem["type"]) == (409, "urn:gateway:release-running")
    assert problem["release"] == stage.run.id
    assert (await post(api, path, {**body, "force": True}))[0] == 200
    await stage.until(lambda: stage.run.state == "held", 5.0)
