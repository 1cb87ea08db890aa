"""Releases that rest: until somebody finalizes them, or while everybody is on stable by force."""

from __future__ import annotations

from pathlib import Path

from gateway.board import layout
from tests.control.stage import PERSON, alerts, client, post, staged


async def test_what_waits_to_be_finalized_by_hand_does_not_end_inconclusive(tmp_path: Path) -> None:
    async with staged(tmp_path, finalize="manual") as stage:
        await stage.at(100)
        await stage.counts()
        await stage.passes(11.0)  # beyond max_hold
        stage.loses("green", "ivor")
        await stage.world.until_down("green", "ivor")
        await stage.passes(2.0)
        assert stage.run.state == "baking"
        stage.recovers()
        await stage.control.release_calls.finalize(PERSON, "current")
        assert stage.run.state == "finalized"


async def test_a_way_back_is_one_alert(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        await stage.control.release_calls.abort(PERSON, "current")
        await stage.until(lambda: stage.run.state == "aborted")
        assert [each["state"] for each in alerts(stage)] == ["rolling_back"]


async def test_no_step_passes_while_everybody_is_on_stable_by_force(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        await stage.counts()
        words = stage.world.board.slab(0)
        words[layout.S_FORCED_STABLE] = 1
        await stage.passes(5.0)
        assert stage.run.weight == 500
        gate = stage.control.releases.gate(stage.run)
        assert any("rollback --local" in each for each in gate.waits)
        async with client(stage.world) as api:
            status, problem = await post(api, "/v1/releases/current/promote")
            assert (status, problem["type"]) == (409, "urn:gateway:forced-stable")
        words[layout.S_FORCED_STABLE] = 0
        await stage.until(lambda: stage.run.weight == 2000, 3.0)
