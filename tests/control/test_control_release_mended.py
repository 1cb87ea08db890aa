"""What a release must not do to the next one, to a person's wish, or without anybody being told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from gateway.control.desk import Refused
from tests.control.stage import PERSON, Stage, alerts, client, post, staged

replace = msgspec.structs.replace


async def is_held_as_inconclusive(stage: Stage) -> None:
    await stage.at(20)
    await stage.until(lambda: stage.run.state == "held", seconds=30)
    assert stage.run.trigger == "inconclusive"


# --- the next release -----------------------------------------------------------------------------


async def test_a_release_is_not_ended_by_how_long_the_one_before_was_held(tmp_path: Path) -> None:
    async with staged(tmp_path, validate_within="2s") as stage:
        await stage.at(100)
        await stage.is_over()
        await stage.lost("blue", "ivor")  # the candidate of the next one
        former = stage.judgement.known.release
        run = await stage.begins(force=True)
        assert stage.judgement.known.release == run.id != former
        await stage.control._walk.look()
        assert stage.run.state == "validating"
        await stage.until(lambda: stage.run.state == "aborted", 4.0)


async def test_a_walk_before_any_look_judges_the_release_by_its_own(tmp_path: Path) -> None:
    async with staged(tmp_path, validate_within="2s") as stage:
        await stage.at(100)
        await stage.is_over()
        former = stage.judgement
        await stage.lost("blue", "ivor")
        await stage.begins(force=True)
        stage.control.releases.judgement = former
        assert stage.control.releases.gate(stage.run) is None
        await stage.control._walk.look()
        assert stage.run.state == "validating"


# --- held already ---------------------------------------------------------------------------------


async def test_stable_that_dies_while_a_release_is_held_is_told_once(tmp_path: Path) -> None:
    async with staged(tmp_path, critical=["ivor"]) as stage:
        await is_held_as_inconclusive(stage)
        before = len(alerts(stage))
        await stage.lost("blue", "ivor")
        await stage.passes(5.0)
        new = alerts(stage)[before:]
        assert [each["trigger"] for each in new] == ["critical_down"]
        assert new[0]["severity"] == "critical"
        assert new[0]["hint"]
        assert "stable cannot serve" in stage.run.because
        rows = [each for each in await stage.decisions() if each.what == "held"]
        assert len(rows) == 2
        # Another service's is news again, and told with the first.
        await stage.lost("blue", "events")
        await stage.passes(5.0)
        assert len(alerts(stage)) == before + 2
        assert "events: stable cannot serve" in stage.run.because
        assert "ivor: stable cannot serve" in stage.run.because
        # So is the same, once it was over for a while.
        stage.recovers()
        await stage.world.until_up("blue")
        await stage.passes(65.0, step=5.0)
        await stage.lost("blue", "ivor")
        await stage.passes(5.0)
        assert len(alerts(stage)) == before + 3


async def test_a_hold_for_a_dead_stable_is_told_once_and_not_again_by_the_next_control(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, critical=["ivor"]) as stage:
        await stage.at(20)
        await stage.lost("blue", "ivor")
        await stage.passes(5.0)
        assert stage.run.state == "held"
        assert len(alerts(stage)) == 1
        await stage.restarted()
        await stage.lost("blue", "ivor")
        await stage.passes(3.0)
        assert alerts(stage) == []


async def test_evidence_against_one_that_is_held_and_cannot_go_back_is_told(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await is_held_as_inconclusive(stage)
        stage.control.releases._going_back = True  # not before stable is down
        await stage.fails(*range(1, 12), service="events")
        await stage.lost("blue")
        before = len(alerts(stage))
        stage.control.releases._going_back = False
        await stage.passes(3.0)
        assert stage.run.wants_back
        assert stage.run.trigger == "regression"
        assert any(each["trigger"] == "regression" for each in alerts(stage)[before:])
        many = len(alerts(stage))
        await stage.passes(5.0)
        assert len(alerts(stage)) == many
        stage.recovers()
        await stage.world.until_up("blue")
        await stage.until(lambda: stage.run.over)
        assert (stage.run.state, stage.run.trigger) == ("rolled_back", "regression")


async def test_a_forward_only_release_that_is_held_tells_of_evidence(tmp_path: Path) -> None:
    async with staged(tmp_path, forward_only=True) as stage:
        await is_held_as_inconclusive(stage)
        before = len(alerts(stage))
        await stage.fails(*range(1, 12))
        await stage.passes(3.0)
        assert [each["trigger"] for each in alerts(stage)[before:]] == ["regression"]
        assert stage.run.state == "held"


# --- resumed --------------------------------------------------------------------------------------


async def test_what_a_person_went_on_from_holds_again_only_after_it_was_over(
    tmp_path: Path,
) -> None:
    rule = {"error_rate": {"above": "5%", "for": "5s"}}
    async with staged(tmp_path, forward_only=True, max_hold="600s", triggers=rule) as stage:
        await stage.at(20)

        async def goes_on(failed: int, seconds: float) -> None:
            end = stage.clock.now + seconds
            while stage.clock.now < end and stage.run.state != "held":
                await stage.counts(20, keys=0, failed=failed, seconds=0.1)
                await stage.counts(20, candidate=False)
                await stage.passes(0.5)

        await goes_on(10, 30.0)
        assert (stage.run.state, stage.run.trigger) == ("held", "error_rate")
        await stage.control.release_calls.resume(PERSON, "current")
        await goes_on(10, 30.0)
        assert stage.run.state == "stepping"
        assert ("error_rate", "ivor") in stage.judgement.known.seen_to
        await goes_on(0, 70.0)
        assert ("error_rate", "ivor") not in stage.judgement.known.seen_to
        assert stage.run.state == "stepping"
        await goes_on(10, 60.0)
        assert (stage.run.state, stage.run.trigger) == ("held", "error_rate")


# --- verbs on releases before the last ------------------------------------------------------------


async def test_verbs_on_a_release_before_the_last_say_how_it_ended(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        calls = stage.control.release_calls
        first = await stage.begins()
        await calls.abort(PERSON, first.id)
        await stage.until(lambda: stage.run.over)
        second = await stage.at(100)
        await stage.is_over()
        await stage.begins(force=True)
        running = stage.run

        done = await calls.abort(PERSON, first.id)
        assert (done.changed, done.state.run.id, done.state.run.state) == (
            False,
            first.id,
            "aborted",
        )
        for verb, args in ((calls.finalize, ()), (calls.promote, (None,))):
            done = await verb(PERSON, second.id, *args)
            assert (done.changed, done.state.run.id) == (False, second.id)
            with pytest.raises(Refused) as refused:
                await verb(PERSON, first.id, *args)
            assert (refused.value.kind, refused.value.status) == ("release-over", 409)
        for verb in (calls.pause, calls.resume, calls.renew):
            with pytest.raises(Refused) as refused:
                await verb(PERSON, first.id)
            assert (refused.value.kind, refused.value.status) == ("release-over", 409)
            with pytest.raises(Refused) as refused:
                await verb(PERSON, "nobody")
            assert (refused.value.kind, refused.value.status) == ("unknown-release", 404)
        with pytest.raises(Refused, match="finalized"):
            await calls.abort(PERSON, second.id)
        assert stage.run == running


async def test_the_api_shows_the_release_that_was_asked_for(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.world) as api:
        first = await stage.begins()
        await stage.control.release_calls.abort(PERSON, first.id)
        await stage.until(lambda: stage.run.over)
        second = await stage.begins(force=True)
        status, body = await post(api, f"/v1/releases/{first.id}/abort")
        assert (status, body["id"], body["state"], body["changed"]) == (
            200,
            first.id,
            "aborted",
            False,
        )
        status, body = await post(api, f"/v1/releases/{first.id}/finalize")
        assert (status, body["type"], body["release"]) == (
            409,
            "urn:gateway:release-over",
            first.id,
        )
        assert stage.run.id == second.id
        assert stage.run.running


# --- the way back ---------------------------------------------------------------------------------


async def test_a_rollback_is_not_over_while_a_worker_does_not_take_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        deaf = stage.world.workers[1]
        deaf.answers = False
        # Without waiting for the worker, as the gateway's own way back does.
        await stage.fails(*range(1, 13))
        await stage.really(lambda: stage.run.state == "rolling_back")
        now = stage.clock.now
        for _ in range(60):
            stage.clock.now += 0.5
            await stage.control._walk.look()
        assert stage.clock.now - now > 5.0 + 5.0
        assert stage.run.state == "rolling_back"
        late = [each for each in alerts(stage) if "has not gone back" in each["because"]]
        assert len(late) == 1
        assert late[0]["severity"] == "critical"
        deaf.answers = True
        deaf.acknowledge(deaf.numbers[-1])
        hub = stage.control.switchboard.parts.hub
        await stage.really(hub.current)
        await stage.control._walk.look()
        assert stage.run.state == "rolled_back"
        await stage.settled()
        await stage.passes(2.0)
        said = await stage.decisions()
        assert any("has not gone back" in each.text for each in said)
        assert [each.text for each in said if each.what == "ended"] == ["every worker is on stable"]


async def test_what_is_still_in_flight_at_the_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        monkeypatch.setattr(stage.control._facts, "in_flight", lambda run: 3)
        await stage.control.release_calls.abort(PERSON, "current")
        await stage.passes(9.0)
        assert stage.run.state == "rolling_back"
        await stage.until(lambda: stage.run.over, 5.0)
        assert "3 requests still in flight" in (await stage.decisions())[-1].text


async def test_what_a_person_takes_back_stays_theirs_though_a_part_had_to_wait(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, critical=["ivor"], forward_only=True) as stage:
        run = await stage.at(20)
        await stage.lost("blue", "ivor")
        await stage.until(lambda: stage.run.state == "held")
        written = await stage.control.release_calls.take_back(PERSON, stage.run)
        assert written.refused
        assert (stage.run.wants_back, stage.run.by_hand) == (True, True)
        await stage.fails(*range(1, 12), service="events", weight=2000)
        await stage.passes(3.0)
        assert stage.run.by_hand
        stage.recovers()
        await stage.world.until_up("blue")
        await stage.until(lambda: stage.run.over)
        assert (stage.run.state, stage.run.trigger) == ("aborted", "manual")
        assert not stage.control.releases.condemned
        assert not await stage.store.inner.condemned()
        assert run.id == stage.run.id


# --- the end of a step ----------------------------------------------------------------------------


async def test_nothing_is_promoted_at_the_last_step_that_a_person_is_to_finalize(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, on_inconclusive="promote", finalize="manual") as stage:
        await stage.at(100)
        await stage.until(lambda: stage.run.state != "baking", 30.0)
        assert (stage.run.state, stage.run.trigger) == ("held", "inconclusive")


# --- taken up -------------------------------------------------------------------------------------


async def test_a_hold_made_at_the_start_is_told_and_says_what_to_do(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        world = stage.world
        template = world.settings.template
        left = tuple(each for each in template.services if each.name == "ivor")
        world.settings = dataclasses.replace(
            world.settings,
            services=tuple(each for each in world.settings.services if each.name == "ivor"),
            template=replace(template, services=left),
        )
        await stage.restarted()
        assert stage.run.state == "held"
        told = [each for each in alerts(stage) if each["trigger"] == "configuration"]
        assert len(told) == 1
        assert "events" in told[0]["because"]
        assert "file" in told[0]["hint"]
        await stage.restarted()
        assert alerts(stage) == []  # stored as it is by now


# --- the lease ------------------------------------------------------------------------------------


async def test_the_first_and_late_renewals_leave_a_row_and_no_other(tmp_path: Path) -> None:
    async with staged(tmp_path, lease="8s", max_hold="600s") as stage:
        await stage.at(5)
        calls = stage.control.release_calls

        async def rows() -> list[str]:
            await stage.passes(1.5)
            return [each.text for each in await stage.decisions() if each.what == "lease"]

        await calls.renew(PERSON, "current")
        assert len(await rows()) == 1
        await calls.renew(PERSON, "current")
        assert len(await rows()) == 1
        await stage.passes(5.0)
        await calls.renew(PERSON, "current")
        found = await rows()
        assert len(found) == 2
        assert "of 8 s left" in found[1]


async def test_renewing_looks_at_no_if_match_and_at_what_is_there_first(tmp_path: Path) -> None:
    async with staged(tmp_path, lease="8s") as stage:
        await stage.at(5)
        stale = dataclasses.replace(PERSON, revisions=frozenset({1}))
        assert stage.state.revision != 1
        await stage.passes(2.0)
        await stage.control.release_calls.renew(stale, "current")
        assert stage.judgement.known.lease == 8.0


async def test_a_build_is_not_condemned_for_what_nobody_knows(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        stage.store.at, stage.store.before = stage.store.saves, True
        await stage.fails(*range(1, 13))
        await stage.really(stage.store.dead.is_set)  # applied, but not stored
        await stage.restarted()
        assert (stage.run.state, stage.run.by_hand, stage.run.trigger) == ("rolling_back", True, "")
        assert [each["severity"] for each in alerts(stage)] == ["warning"]
        await stage.until(lambda: stage.run.over)
        assert stage.run.state == "aborted"
        assert not await stage.store.inner.condemned()
        assert not stage.control.releases.condemned
        stage.recovers()
        await stage.begins()
