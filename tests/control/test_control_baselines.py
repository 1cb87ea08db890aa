"""Stable's past: what thresholds are made of, for which pool, and how long it is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.channel.histogram import bucket_of
from gateway.channel.messages import Counted, Tally
from gateway.control.baselines import LEAST_TIMED, SLOT, SLOTS, Baselines
from gateway.control.state import PoolState, ServiceState, State
from gateway.release.record import OBJECTIVE
from tests.control.stage import Stage, staged


def state(stable: int = 1) -> State:
    service = ServiceState(
        name="ivor",
        stable="blue",
        generation=2,
        blue=PoolState(generation=stable),
        green=PoolState(generation=2),
    )
    return State(services=(service,))


def tally(seconds: float, count: int, *, candidate: bool = False, service: str = "ivor") -> Tally:
    row = Counted(
        service=service,
        color="green" if candidate else "blue",
        candidate=candidate,
        weight=0,
        requests=count,
        failed=0,
        timed=count,
        slow=0,
        judged=count,
        histogram=((bucket_of(seconds), count),),
    )
    return Tally(release="", rows=(row,))


def seen(found: Baselines, *latencies: tuple[float, int]) -> None:
    for seconds, count in latencies:
        found.take(state(), tally(seconds, count))


SPREAD = ((0.01, 700), (0.1, 175), (0.5, 100), (3.0, 25))


def test_thresholds_are_quantiles_of_the_past_and_the_objective_rising() -> None:
    found = Baselines()
    seen(found, *SPREAD)
    thresholds, cold = found.thresholds("ivor", 2.0)
    assert not cold
    assert [each.name for each in thresholds] == ["p75", "p90", "p95", OBJECTIVE, "p99"]
    assert [each.seconds for each in thresholds] == pytest.approx([0.1, 0.5, 0.5, 2.0, 3.0], 0.011)


def test_without_a_past_it_is_cold_and_watches_the_objective_alone() -> None:
    found = Baselines()
    assert found.thresholds("ivor", 2.0)[1]
    assert found.rate("ivor") == 0.0
    seen(found, (0.1, LEAST_TIMED - 1))
    thresholds, cold = found.thresholds("ivor", 2.0)
    assert (cold, [each.name for each in thresholds]) == (True, [OBJECTIVE])
    seen(found, (0.1, 1))
    assert not found.thresholds("ivor", 2.0)[1]


def test_only_stable_makes_stables_past() -> None:
    found = Baselines()
    found.take(state(), tally(0.1, 1000, candidate=True))
    found.take(state(), tally(0.1, 1000, service="website"))
    assert found.thresholds("ivor", 2.0)[1]
    assert found.changed() == {}


def test_another_stable_pool_has_no_past() -> None:
    found = Baselines()
    seen(found, *SPREAD)
    found.turn(state(stable=7), 1.0)
    assert found.thresholds("ivor", 2.0)[1]


def test_it_is_remembered_for_an_hour_and_five_minutes() -> None:
    found = Baselines()
    seen(found, *SPREAD)
    for _ in range(int(SLOT) * (SLOTS - 1)):
        found.turn(state(), 1.0)
    assert not found.thresholds("ivor", 2.0)[1]
    for _ in range(int(SLOT)):
        found.turn(state(), 1.0)
    assert found.thresholds("ivor", 2.0)[1]


def test_the_rate_is_that_of_the_last_minutes() -> None:
    found = Baselines()
    for _ in range(int(SLOT) + 100):
        found.turn(state(), 1.0)
        seen(found, (0.1, 3))
    assert found.rate("ivor") == pytest.approx(3.0, 0.01)


def test_what_was_stored_is_taken_up_and_what_is_of_no_use_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Baselines()
    seen(found, *SPREAD)
    documents = found.changed()
    assert found.changed() == {}
    again = Baselines()
    again.load(documents | {"website": b"\xc1"})
    assert again.thresholds("ivor", 2.0) == found.thresholds("ivor", 2.0)
    assert "website" in caplog.text
    found.unstored(documents)
    assert found.changed() == documents


def test_a_service_that_is_gone_is_not_stored_any_more() -> None:
    found = Baselines()
    seen(found, *SPREAD)
    found.turn(State(), 1.0)
    assert found.changed() == {}


# --- with a release -------------------------------------------------------------------------------


async def past(stage: Stage, seconds: float) -> None:
    await stage.counts(1000, candidate=False, seconds=seconds, release="", weight=0)


async def test_a_release_is_measured_by_what_stable_was_before_it_began(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await past(stage, 0.1)
        run = await stage.at(5)
        part = {each.service: each for each in run.parts}
        assert part["events"].cold
        assert not part["ivor"].cold
        quantiles = [each.seconds for each in part["ivor"].thresholds if each.name != OBJECTIVE]
        assert quantiles == pytest.approx([0.1] * 4, 0.011)
        await stage.counts(1000, candidate=False, seconds=9.0)
        assert stage.run.parts == run.parts
        (watch,) = [each for each in stage.world.workers[0].traffic.watch if each.service == "ivor"]  # type: ignore[union-attr]
        assert watch.thresholds == tuple(each.seconds for each in part["ivor"].thresholds)
        # A fifth and 5 ms slower is no worse; of the objective both have the same.
        assert watch.candidates == pytest.approx([0.125] * 4 + [2.0], 0.011)


async def test_a_finalized_candidate_brings_its_latencies_along_also_through_a_kill(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        await past(stage, 0.1)
        await stage.at(100)
        await stage.counts(1000, seconds=0.4)
        await stage.is_over()
        await stage.passes(1.0)
        await stage.restarted()
        thresholds, cold = stage.control.releases.baselines.thresholds("ivor", 2.0)
        assert not cold
        assert {each.name: each.seconds for each in thresholds}["p95"] == pytest.approx(0.4, 0.011)


async def test_a_past_is_kept_through_a_stop_and_every_minute(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await past(stage, 0.1)
        await stage.passes(61.0, 1.0)
        await stage.restarted()
        assert not stage.control.releases.baselines.thresholds("ivor", 2.0)[1]


async def test_a_cold_pool_is_said_to_be_cold(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        run = await stage.begins()
        assert all(each.cold for each in run.parts)
        await stage.until(lambda: stage.run.weight > 0)
        assert stage.run.cold_until == pytest.approx(stage.clock.now + 5.0, abs=1.0)
        first = stage.run.cold_until
        await stage.counts()
        await stage.until(lambda: stage.run.step == 1)
        assert stage.run.cold_until == first, "the pool is warm by its second step"
