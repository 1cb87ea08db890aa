"""From the failure that decides to the workers: nothing is waited for on the way back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from gateway.channel.messages import Failures, RequestFailed
from gateway.release.judgement import MAX_KEYS
from tests.control.stage import PERSON, Stage, staged

#: Seconds that a way back may take here; it is a few milliseconds, on a machine with nothing else.
SOON = 0.25


async def decided(stage: Stage) -> tuple[int, float]:
    """Have the candidate fail until it is taken back; how often it did, seconds since the last."""
    for number in range(1, 30):
        failed = RequestFailed(
            service="ivor",
            color="green",
            candidate=True,
            weight=stage.run.weight,
            key=number,
            metric="error",
            kind="500",
            at=0.0,
        )
        message = Failures(release=stage.state.release or "", failures=(failed,))
        began = time.monotonic()
        stage.world.workers[0].tell(message)
        while time.monotonic() - began < 0.02:
            if stage.weights == {0}:
                return number, time.monotonic() - began
            await asyncio.sleep(0.0002)
    raise AssertionError("it was not taken back")


async def test_four_failures_at_5_percent_take_it_back_within_milliseconds(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, workers=3) as stage:
        await stage.at(5)
        failures, seconds = await decided(stage)
        assert failures in {3, 4}
        assert seconds < SOON


async def test_a_worker_that_does_not_answer_a_step_keeps_no_rollback_waiting(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        deaf = stage.world.workers[1]
        deaf.answers = False
        promotion = asyncio.ensure_future(
            stage.control.release_calls.promote(PERSON, "current", None)
        )
        await stage.really(lambda: stage.weights == {2000})
        assert not promotion.done()
        _, seconds = await decided(stage)
        assert seconds < SOON
        assert stage.run.state == "rolling_back"
        assert stage.control.switchboard.parts.hub.behind(
            stage.control.switchboard.parts.hub.number
        )
        deaf.answers = True
        deaf.acknowledge(deaf.numbers[-1])
        await promotion
        await stage.until(lambda: stage.run.over)


async def test_a_hold_that_waits_for_a_worker_keeps_no_rollback_waiting(tmp_path: Path) -> None:
    async with staged(tmp_path, lease="30s", on_lease_lost="hold") as stage:
        await stage.at(20)
        deaf = stage.world.workers[1]
        deaf.answers = False
        # A worker that is behind already: a hold moves no traffic, and is waited for all the same.
        hub = stage.control.switchboard.parts.hub
        hub.send(traffic=stage.state.traffic())
        for _ in range(35):
            stage.clock.now += 1.0
            stage.control.releases.look()
        await stage.really(lambda: stage.run.state == "held")
        assert stage.control.releases._holding
        _, seconds = await decided(stage)
        assert seconds < SOON
        deaf.answers = True
        deaf.acknowledge(deaf.numbers[-1])
        await stage.until(lambda: stage.run.over)


async def test_a_store_that_takes_long_keeps_no_rollback_waiting(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(5)
        stage.store.gate = asyncio.Event()
        promotion = asyncio.ensure_future(
            stage.control.release_calls.promote(PERSON, "current", None)
        )
        await stage.really(stage.control.switchboard.lock.locked)
        _, seconds = await decided(stage)
        assert seconds < SOON
        stage.store.gate.set()
        stage.store.gate = None
        await asyncio.gather(promotion, return_exceptions=True)
        await stage.until(lambda: stage.run.over)
        assert stage.run.state == "rolled_back"


async def test_as_many_keys_as_there_may_be_block_controls_loop_for_no_time_worth_telling(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        run = await stage.at(5)
        judgement = stage.judgement
        half = MAX_KEYS // 2
        keys = {(scope, key): 1 for scope in ("ivor", "*") for key in range(half)}
        judgement.remember(keys)
        judgement.dirty = dict(keys)
        longest = 0.0
        done = False

        async def beats() -> None:
            nonlocal longest
            last = time.monotonic()
            while not done:
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()

        beating = asyncio.ensure_future(beats())
        began = time.monotonic()
        await stage.control._walk.store()
        took = time.monotonic() - began
        done = True
        await beating
        print(f"{len(keys)} keys stored in {took:.3f} s, the loop stood for {longest:.3f} s")
        assert longest < 0.25
        kept = await stage.store.inner.progress(run.id)
        assert kept is not None
        assert kept[1] == keys
        await stage.fails(half + 1, service="events")
        assert len(judgement.keys) == MAX_KEYS, "those beyond are not remembered"


async def test_what_held_it_does_not_hold_it_again_while_a_resume_waits_for_a_worker(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path, forward_only=True, lease="30s") as stage:
        await stage.at(20)
        await stage.fails(*range(1, 12))
        await stage.until(lambda: stage.run.state == "held", 2.0)
        await stage.lost("blue", "ivor")
        await stage.passes(1.0)
        deaf = stage.world.workers[1]
        deaf.answers = False
        resumed = asyncio.ensure_future(stage.control.release_calls.resume(PERSON, "current"))
        await stage.really(lambda: stage.run.state == "stepping")
        for _ in range(5):
            stage.control.releases.look()
            await asyncio.sleep(0)
        assert not resumed.done()
        assert stage.run.state == "stepping"
        assert stage.judgement.keys == {}
        # Told of anew, before all workers have the resume; ivor has no stable to compare with.
        await stage.fails(1, service="events")
        assert ("events", 1) in stage.judgement.keys
        deaf.answers = True
        deaf.acknowledge(deaf.numbers[-1])
        await resumed
        assert ("events", 1) in stage.judgement.keys
        assert stage.run.state == "stepping"
