"""What a release loses by a disk that is full, a file that was edited, a rollback in between."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import msgspec
import pytest

from gateway.control.desk import Refused
from gateway.control.store import StoreError
from tests.control.stage import PERSON, Clock, staged
from tests.control.world import client

replace = msgspec.structs.replace


async def test_evidence_and_counted_keys_survive_a_kill(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        await stage.fails(1, 2)
        await stage.counts(7, keys=3, failed=2)
        await stage.passes(1.0)
        await stage.control._walk.store()  # as it does each second
        before = stage.judgement
        document = msgspec.msgpack.encode(before.known)
        await stage.restarted()
        after = stage.judgement
        assert after is not before
        assert msgspec.msgpack.encode(after.known) == document
        assert after.keys == before.keys
        assert after.dirty == {}
        await stage.fails(1, 2)
        assert msgspec.msgpack.encode(after.known) == document  # they were counted before
        assert stage.run.state == "stepping"
        await stage.fails(*range(3, 9))
        await stage.really(lambda: stage.run.state == "rolling_back")
        assert stage.run.trigger == "regression"


async def test_a_hold_is_as_long_as_it_says_through_kills_and_absences(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        await stage.counts()
        await stage.passes(2.0)
        held = stage.judgement.known.seen.held
        stage.clock.now += 600.0  # nobody looked
        await stage.restarted()
        assert held - 1.0 <= stage.judgement.known.seen.held <= held
        assert (stage.run.state, stage.run.step) == ("stepping", 0)
        await stage.until(lambda: stage.run.step == 1, seconds=3.0 - held + 1.5)


@pytest.mark.parametrize("hour", [3600.0, -3600.0])
async def test_a_wall_clock_that_jumps_moves_no_hold_and_ends_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hour: float
) -> None:
    off = [0.0]
    monkeypatch.setattr(Clock, "wall", lambda self: 1_800_000_000.0 + self.now + off[0])
    async with staged(tmp_path) as stage:
        await stage.at(5)
        await stage.counts()
        await stage.passes(1.5)
        held = stage.judgement.known.seen.held
        off[0] = hour
        await stage.passes(0.5)
        assert stage.judgement.known.seen.held <= held + 1.0
        assert (stage.run.state, stage.run.step) == ("stepping", 0)
        await stage.restarted()
        assert stage.judgement.known.seen.held <= held + 1.0
        assert (stage.run.state, stage.run.step) == ("stepping", 0)
        await stage.until(lambda: stage.run.step == 1, seconds=3.0)
        assert stage.judgement.known.lease is None or stage.judgement.known.lease > 0


async def test_a_full_disk_keeps_no_rollback_back_and_it_is_stored_later(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        run = await stage.at(20)
        stage.store.full = True
        await stage.fails(*range(1, 13))
        await stage.really(lambda: stage.weights == {0})
        assert stage.run.state == "rolling_back"
        await stage.passes(4.0)
        kept = await stage.store.inner.load()
        assert kept is not None
        assert kept.run is not None
        assert kept.run.state == "stepping"
        assert any("not stored" in each for each in stage.control.switchboard.warnings)
        stage.store.full = False
        await stage.until(lambda: stage.run.over)
        assert stage.run.state == "rolled_back"
        assert await stage.store.inner.condemned() == {(p.service, p.generation) for p in run.parts}
        said = [each.what for each in await stage.decisions()]
        assert said.count("rolling_back") == said.count("ended") == 1


async def test_a_full_disk_keeps_a_step_back_and_it_is_tried_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        await stage.counts()
        stage.store.full = True
        await stage.passes(4.0)
        assert (stage.run.step, stage.weights) == (0, {500})
        with pytest.raises(StoreError):
            await stage.control.release_calls.pause(PERSON, "current")
        stage.store.full = False
        await stage.until(lambda: stage.run.step == 1, seconds=7.0)
        assert stage.weights == {2000}


async def test_what_a_full_disk_did_not_take_is_stored_once_it_does(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        stage.store.full = True
        await stage.fails(1)
        await stage.passes(2.0)
        await stage.fails(2)
        await stage.fails(1, metric="refusal", kind="404")
        await stage.passes(2.0)
        stage.store.full = False
        await stage.passes(1.0)
        keys = dict(stage.judgement.keys)
        assert len(keys) == 4
        await stage.restarted()
        assert stage.judgement.keys == keys


async def test_a_hold_that_a_full_disk_refuses_is_tried_again_but_not_all_the_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with staged(tmp_path, lease="2s", on_lease_lost="hold") as stage:
        await stage.at(5)
        stage.store.full = True
        await stage.passes(9.0)
        assert stage.run.state == "stepping"
        assert sum("is to be held" in each.message for each in caplog.records) == 2
        stage.store.full = False
        await stage.until(lambda: stage.run.state == "held", seconds=5.0)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_rollback_during_the_storing_of_a_step_wins_also_after_a_kill(
    tmp_path: Path, killed: bool
) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        stage.store.gate = asyncio.Event()
        promotion = asyncio.ensure_future(
            stage.control.release_calls.promote(PERSON, "current", None)
        )
        await stage.really(stage.control.switchboard.lock.locked)
        await asyncio.sleep(0)
        stage.store.at, stage.store.before = stage.store.saves + 1, True
        if not killed:
            stage.store.at = None
        rollback = asyncio.ensure_future(stage.control.release_calls.abort(PERSON, "current"))
        await stage.really(lambda: stage.weights == {0})
        revision = stage.state.revision
        stage.store.gate.set()
        stage.store.gate = None
        with pytest.raises(Refused, match="rollback came in between"):
            await promotion
        if killed:
            await stage.really(stage.store.dead.is_set)
            kept = await stage.store.inner.load()
            assert kept is not None
            assert kept.services[0].weight == 2000  # the step is what the store has
            await stage.restarted()
            rollback.cancel()
        else:
            await rollback
        assert stage.weights == {0}
        assert stage.state.revision == revision
        assert stage.run.state == "rolling_back"
        await stage.until(lambda: stage.run.over)
        kept = await stage.store.inner.load()
        assert kept is not None
        assert {each.weight for each in kept.services} == {0}


async def test_a_start_that_a_rollback_overtakes_leaves_no_release_behind(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        async with client(stage.world) as api:
            await stage.at(5)
            await stage.is_over()
            stage.store.gate = asyncio.Event()
            start = asyncio.ensure_future(stage.begins())
            await stage.really(stage.control.switchboard.lock.locked)
            await asyncio.sleep(0)
            first = stage.run.id
            back = asyncio.ensure_future(api.post("/v1/rollback", json={"to": "previous"}))
            await stage.really(lambda: {each.stable for each in stage.state.services} == {"blue"})
            stage.store.gate.set()
            stage.store.gate = None
            with pytest.raises(Refused, match="came in between"):
                await start
            assert (await back).status == 200
        await stage.really(lambda: not stage.control.switchboard.lock.locked())
        await stage.restarted()
        assert stage.run.id == first
        assert (await stage.begins()).id != first


async def test_an_edited_file_takes_no_pool_from_a_release_when_control_comes_back(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        before = stage.state
        world = stage.world
        edited = [
            dataclasses.replace(each, blue=("http://127.0.0.1:3901",), green=())
            for each in world.settings.services
        ]
        world.settings = dataclasses.replace(world.settings, services=tuple(edited))
        async with client(world) as api, api.post("/v1/config/reload") as answer:
            assert answer.status == 422
            problem = await answer.json(content_type=None)
        assert len(problem["errors"]) == 4
        await stage.restarted()
        assert stage.state.services == before.services
        assert stage.weights == {2000}
        assert stage.run.state == "stepping"


async def test_a_service_that_the_file_lost_holds_its_release_when_control_comes_back(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        world = stage.world
        template = world.settings.template
        world.settings = dataclasses.replace(
            world.settings,
            services=tuple(each for each in world.settings.services if each.name == "ivor"),
            template=replace(
                template, services=tuple(e for e in template.services if e.name == "ivor")
            ),
        )
        await stage.restarted()
        assert stage.run.state == "held"
        assert "events: no longer configured" in stage.run.because
        await stage.control.release_calls.abort(PERSON, "current")
        await stage.until(lambda: stage.run.over)
        assert stage.weights == {0}


async def test_tunnels_are_closed_in_time_though_control_was_killed_meanwhile(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        await stage.control.release_calls.abort(PERSON, "current")
        until = stage.state.services[0].tunnels_until
        assert until == stage.clock.now + 5.0
        await stage.restarted()
        assert {each.tunnels_until for each in stage.state.services} == {until}
        for worker in stage.world.workers:
            assert worker.traffic is not None
            assert {each.tunnels_until for each in worker.traffic.services} == {until}


async def test_a_machine_that_began_anew_has_no_pool_cold_for_days(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        assert stage.run.cold_until > stage.clock.now
        stage.clock.now = 10.0
        await stage.restarted()
        assert stage.run.cold_until == 0.0


async def test_an_undone_finalize_is_found_undone(tmp_path: Path) -> None:
    """Applied, but not stored: what is found must not be undoable once more, forwards."""
    async with staged(tmp_path) as stage:
        await stage.at(5)
        await stage.is_over()
        stage.store.at = stage.store.saves
        async with client(stage.world) as api:
            call = asyncio.ensure_future(api.post("/v1/rollback", json={"to": "previous"}))
            await stage.really(stage.store.dead.is_set)
            await stage.restarted()
            call.cancel()
        assert {(each.stable, each.previous) for each in stage.state.services} == {
            ("blue", "taken")
        }
        assert stage.run.state == "finalized"
