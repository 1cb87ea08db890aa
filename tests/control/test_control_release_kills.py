"""Control killed at every save of a release's life: before it is stored, and before it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gateway.config.snapshot import BUCKETS
from gateway.control.releasedesk import Ask
from gateway.release.record import Release
from tests.control.stage import PERSON, Stage, staged

replace = msgspec.structs.replace
Scenario = Callable[[Stage], Awaitable[None]]


async def verb(stage: Stage, name: str, *arguments: object) -> None:
    """Call a verb as a pipeline does: what control did not live to answer is asked again."""
    call = getattr(stage.control.release_calls, name)
    task = asyncio.ensure_future(call(PERSON, *arguments))
    death = asyncio.ensure_future(stage.store.dead.wait())
    await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
    death.cancel()
    if task.done():
        task.result()
        return
    task.cancel()


async def begin(stage: Stage) -> None:
    if stage.state.run is None:
        await verb(stage, "start", Ask(actor="person"))


async def on(stage: Stage, done: Callable[[], bool]) -> None:
    """Go on by the release's own steps until something is so, or the store is dead."""
    while not stage.store.dead.is_set() and not done():
        if stage.run.running and stage.run.weight:
            await stage.counts()
        await stage.passes(0.5)


async def whole(stage: Stage) -> None:
    await begin(stage)
    if stage.state.run is not None:
        await on(stage, lambda: stage.run.over)
    assert stage.store.dead.is_set() or stage.run.state == "finalized"


async def regressing(stage: Stage) -> None:
    """A candidate that fails everything from 20 % on."""
    await begin(stage)
    if stage.state.run is not None:
        await on(stage, lambda: stage.run.weight == 2000 or not stage.run.running)
    if not stage.store.dead.is_set() and stage.run.running:
        await stage.fails(*range(1, 13))
        await stage.really(lambda: stage.store.dead.is_set() or not stage.run.running)
    await on(stage, lambda: stage.run.over)
    # Killed before it was stored, nobody knows whose doing it was.
    assert stage.store.dead.is_set() or stage.run.state == (
        "aborted" if "was not stored" in stage.run.because else "rolled_back"
    )


async def aborted(stage: Stage) -> None:
    await begin(stage)
    if stage.state.run is not None:
        await on(stage, lambda: stage.run.weight >= 500 or not stage.run.running)
    if not stage.store.dead.is_set() and stage.run.running:
        await verb(stage, "abort", "current")
    await on(stage, lambda: stage.run.over)
    assert stage.store.dead.is_set() or stage.run.state in {"aborted", "rolled_back"}


async def paused(stage: Stage) -> None:
    """Paused and resumed by hand, promoted to 100, finalized by hand."""
    await begin(stage)
    if stage.state.run is None:
        return
    await on(stage, lambda: stage.run.weight >= 500 or stage.run.over)
    moves: tuple[tuple[str, tuple[object, ...], Callable[[], bool]], ...] = (
        ("pause", (), lambda: stage.run.state == "stepping" and stage.run.weight == 500),
        ("resume", (), lambda: stage.run.state == "paused"),
        ("promote", (BUCKETS,), lambda: stage.run.weight < BUCKETS and stage.run.running),
        ("finalize", (), lambda: stage.run.running),
    )
    for name, arguments, due in moves:
        if not stage.store.dead.is_set() and due():
            await verb(stage, name, "current", *arguments)
    assert stage.store.dead.is_set() or stage.run.state == "finalized"


async def held(stage: Stage) -> None:
    """Too few requests: held at 5 %, taken on by hand, too few again, taken back by hand."""
    await begin(stage)
    for _ in range(2):
        while not stage.store.dead.is_set() and stage.run.state not in {"held", "aborted"}:
            if stage.run.state == "rolled_back":
                return
            await stage.passes(0.5)
        if not stage.store.dead.is_set() and stage.run.state == "held":
            await verb(stage, "resume" if stage.run.step == 0 else "abort", "current")
        if not stage.store.dead.is_set() and stage.run.running and stage.run.step == 0:
            await verb(stage, "promote", "current", None)
    await on(stage, lambda: stage.run.over)
    assert stage.store.dead.is_set() or stage.run.state in {"aborted", "rolled_back"}


SCENARIOS: tuple[tuple[Scenario, int], ...] = (
    (whole, 6),
    (regressing, 5),
    (aborted, 4),
    (paused, 6),
    (held, 8),
)
POINTS = [
    pytest.param(scenario, place, before, id=f"{scenario.__name__}-{place}-{moment}")
    for scenario, saves in SCENARIOS
    for place in range(saves)
    for before, moment in ((True, "before it is stored"), (False, "before it is sent"))
]


@pytest.mark.parametrize(("scenario", "saves"), SCENARIOS)
async def test_so_many_saves_has_each_life(tmp_path: Path, scenario: Scenario, saves: int) -> None:
    async with staged(tmp_path, workers=1) as stage:
        before = stage.store.saves
        await scenario(stage)
        assert stage.store.saves - before == saves


def where(run: Release | None) -> tuple[object, ...]:
    return () if run is None else (run.id, run.state, run.where, run.step)


@pytest.mark.parametrize(("scenario", "place", "before"), POINTS)
async def test_killed_there_it_is_found_where_it_was_or_one_further_and_goes_on(
    tmp_path: Path, scenario: Scenario, place: int, before: bool
) -> None:
    async with staged(tmp_path, workers=1) as stage:
        stage.store.at, stage.store.before = stage.store.saves + place, before
        await scenario(stage)
        assert stage.store.dead.is_set()
        memory, asked = stage.state, stage.store.asked
        applied_first = memory == asked  # a rollback: it is in force before it is stored
        await stage.restarted()
        found = stage.state
        if applied_first or not before:
            assert asked is not None
            assert where(found.run) == where(asked.run)
        else:
            assert where(found.run) == where(memory.run)
        # What is stored is what workers serve.
        (served,) = (each.traffic for each in stage.world.workers)
        assert served == found.traffic()
        kept = await stage.store.inner.load()
        assert kept is not None
        tunnels = [replace(each, tunnels_until=0.0) for each in found.services]
        assert kept.traffic() == found.replaced(*tunnels).traffic()
        assert where(kept.run) == where(found.run)
        if applied_first:
            assert stage.weights == {0}
        if found.running is not None:
            assert stage.weights == {found.running.weight}
        await scenario(stage)
        assert not stage.store.dead.is_set()
        assert stage.run.over
        assert stage.weights == {0}
        # The ledger has the whole story, also of what was decided and not stored.
        said = [each.what for each in await stage.decisions()]
        assert said[0] == "started"
        assert said[-1] == "ended"
        assert said.count("rolling_back") == (stage.run.state != "finalized")
