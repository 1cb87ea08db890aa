"""What a release leaves behind: marks on builds, its last picture, words of a reload."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gateway.board import layout
from gateway.config.schema.releases import Releases
from tests.control.stage import PERSON, ask, client, post, staged
from tests.control.world import ADMIN


async def test_a_lease_lost_before_anybody_was_exposed_leaves_no_mark(tmp_path: Path) -> None:
    async with staged(tmp_path, lease="2s") as stage, client(stage.world) as api:
        await stage.lost("green", "ivor")
        await stage.begins()
        await stage.until(lambda: stage.run.over)
        assert (stage.run.state, stage.run.trigger, stage.run.step) == ("rolled_back", "lease", -1)
        assert (await post(api, "/v1/releases"))[0] == 201


async def test_a_build_that_is_finalized_after_all_is_marked_no_more(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.world) as api:
        await stage.at(20)
        await stage.fails(*range(20))
        await stage.until(lambda: stage.run.over)
        assert stage.run.state == "rolled_back"
        assert (await post(api, "/v1/releases"))[0] == 409
        await stage.begins(force=True)
        await stage.is_over()
        assert stage.run.state == "finalized"
        assert (await post(api, "/v1/rollback", {"to": "previous"}))[0] == 200
        assert (await post(api, "/v1/releases"))[0] == 201
        await stage.control.release_calls.abort(PERSON, "current")
        await stage.until(lambda: stage.run.over)
        await stage.restarted()
        assert (await post(api, "/v1/releases"))[0] == 201


async def test_what_was_seen_of_a_release_can_be_read_after_the_next_one(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.world) as api:
        first = await stage.at(20)
        await stage.fails(*range(20))
        await stage.until(lambda: stage.run.over)
        await stage.passes(2.0)
        before = (await ask(api, "GET", f"/v1/releases/{first.id}"))[1]
        await stage.begins(force=True)
        await stage.passes(2.0)
        for _ in range(2):
            found = (await ask(api, "GET", f"/v1/releases/{first.id}"))[1]
            assert found["scopes"]
            assert [each["evidence"] for each in found["scopes"]] == [
                each["evidence"] for each in before["scopes"]
            ]
            await stage.restarted()


async def test_an_open_breaker_whose_endpoint_passes_again_does_not_keep_a_release_from_beginning(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        pool = stage.control.switchboard.parts.hub.topology.pool("ivor", "green")
        at = layout.cell_at(pool.endpoints[0].cell)
        words = stage.world.board.words
        words[at + layout.CELL_BREAKER] = layout.BREAKER_OPEN
        words[at + layout.CELL_PASSES_BEFORE] = words[at + layout.CELL_PASSES] + 1_000_000
        words[at + layout.CELL_EARLY] = 6
        await stage.begins()
        await stage.passes(2.0)
        gate = stage.control.releases.gate(stage.run)
        assert any("gateway breakers reset" in each for each in gate.waits)
        words[at + layout.CELL_PASSES_BEFORE] = 0
        words[at + layout.CELL_EARLY] = 0
        words[at + layout.CELL_PASSES] = 5
        await stage.until(lambda: stage.run.state == "stepping", 3.0)


async def test_a_reload_says_that_releases_go_another_way_from_now_on(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.world, ADMIN) as api:
        other = Releases.model_validate({"min_requests": 21})
        stage.world.settings = dataclasses.replace(stage.world.settings, releases=other)
        status, body = await post(api, "/v1/config/reload")
        assert status == 200
        assert body["changes"] == [
            "releases: changed, for the next one; one under way keeps its plan"
        ]
