"""Reported violations of content policies as a trigger: the candidate's beside stable's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.control.stage import Stage, alerts, client, staged

ON: dict[str, Any] = {"triggers": {"csp_violations": {}}}


async def reports(stage: Stage, *keys: int, **more: Any) -> None:
    await stage.fails(*keys, metric="csp", kind="script-src", **more)


def watched(stage: Stage) -> bool:
    traffic = stage.world.workers[0].traffic
    assert traffic is not None
    return any(each.csp for each in traffic.watch)


async def test_a_candidate_whose_pages_break_their_policy_is_taken_back(tmp_path: Path) -> None:
    async with staged(tmp_path, **ON) as stage:
        await stage.at(5)
        assert watched(stage)
        await stage.counts(100)
        await reports(stage, *range(1, 8))
        await stage.until(lambda: stage.run.over)
        assert (stage.run.state, stage.run.trigger) == ("rolled_back", "csp_violations")
        assert stage.weights == {0}
        assert "clients of the candidate and 0 of stable's reported violations" in stage.run.because
        assert stage.control.releases.rollbacks["csp_violations"] == 1
        assert alerts(stage)[-1]["trigger"] == "csp_violations"


async def test_extensions_are_as_noisy_on_both_sides_and_it_goes_on(tmp_path: Path) -> None:
    async with staged(tmp_path, **ON) as stage:
        await stage.at(5)
        for block in range(6):
            start = 1000 * (block + 1)
            await reports(stage, *range(start, start + 19), candidate=False)
            await reports(stage, start + 500)
        await stage.passes(1.0)
        assert stage.judgement.known.violations["ivor"].candidate == 6
        assert (await stage.is_over()).state == "finalized"


async def test_off_by_default_nothing_is_told_and_nothing_counts(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        assert not watched(stage)
        await reports(stage, *range(1, 30))
        await stage.passes(1.0)
        assert stage.judgement.known.violations == {}
        assert stage.judgement.keys == {}
        assert (await stage.is_over()).state == "finalized"


async def test_one_reporter_counts_once_and_two_prove_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path, **ON) as stage:
        await stage.at(5)
        await reports(stage, *[1, 2] * 20)
        await stage.passes(1.0)
        assert stage.judgement.known.violations["ivor"].candidate == 2
        assert stage.run.state == "stepping"


async def test_a_violation_is_no_failure_of_the_other_tests(tmp_path: Path) -> None:
    async with staged(tmp_path, triggers={"csp_violations": {"alpha": 1e-9}}) as stage:
        await stage.at(5)
        before = msgspec.msgpack.encode(stage.judgement.known.scopes)
        await reports(stage, *range(1, 6))
        assert msgspec.msgpack.encode(stage.judgement.known.scopes) == before
        assert stage.judgement.known.violations["ivor"].evidence > 1000


async def test_a_step_does_not_pass_while_it_is_near(tmp_path: Path) -> None:
    async with staged(tmp_path, triggers={"csp_violations": {"alpha": 1e-5}}) as stage:
        await stage.at(5)
        step = stage.run.step
        await stage.counts()
        await reports(stage, 1, 2, 3, 4)
        await stage.passes(5.0)
        assert (stage.run.state, stage.run.step) == ("stepping", step)


async def test_a_tolerance_is_heeded(tmp_path: Path) -> None:
    async with staged(tmp_path, triggers={"csp_violations": {"tolerance": 1000.0}}) as stage:
        await stage.at(5)
        await reports(stage, *range(1, 8))
        await stage.passes(1.0)
        assert stage.run.state == "stepping"


async def test_it_survives_a_kill(tmp_path: Path) -> None:
    async with staged(tmp_path, **ON) as stage:
        await stage.at(5)
        await reports(stage, 1, 2)
        await stage.passes(1.0)
        await stage.control._walk.store()  # as it does each second
        before = msgspec.msgpack.encode(stage.judgement.known.violations)
        await stage.restarted()
        assert msgspec.msgpack.encode(stage.judgement.known.violations) == before
        await reports(stage, 1, 2)
        assert stage.judgement.known.violations["ivor"].candidate == 2
        await reports(stage, *range(3, 9))
        await stage.until(lambda: stage.run.over)
        assert stage.run.trigger == "csp_violations"


@pytest.mark.parametrize("weight", [5, 100])
async def test_the_api_and_explain_have_it(tmp_path: Path, weight: int) -> None:
    async with staged(tmp_path, **ON) as stage:
        await stage.at(weight)
        await reports(stage, 1, weight=weight * 100)
        async with client(stage.world) as api, api.get("/v1/releases/current") as answer:
            found = await answer.json()
        scopes = {each["scope"]: each for each in found["scopes"]}
        tests = {each["name"]: each for each in scopes["ivor"]["tests"]}
        said = tests["csp_violations"]
        assert said["speaks"] == (weight == 5)
        assert ("1 clients" in said["text"]) == (weight == 5)
        assert "csp_violations" not in {each["name"] for each in scopes["*"]["tests"]}
