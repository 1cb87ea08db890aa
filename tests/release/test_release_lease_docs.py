"""docs/releases.md's table of leases, line by line, in a real control process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from gateway.control import releasedesk
from gateway.control.desk import Facts, Outcome
from gateway.control.releases import TICK, by_itself
from gateway.control.state import State
from gateway.release.record import Release
from tests.control.world import OPERATOR, World, client, running
from tests.support.processes import ROOT

TABLE = (ROOT / "docs" / "releases.md").read_text().partition("## The lease")[2]
ROWS = re.findall(r"^\| `(\w+)` \| (goes back|held|rests) \| (\w+) \|$", TABLE, re.MULTILINE)
CASES = [(state, "rollback", ends) for state, ends, _ in ROWS]
CASES += [(state, "hold", ends) for state, _, ends in ROWS]


def run_of(world: World) -> Release:
    assert world.control is not None
    run = world.control.switchboard.state.run
    assert run is not None
    return run


async def until(world: World, fact: Callable[[Release], bool]) -> None:
    async with asyncio.timeout(10):
        while not fact(run_of(world)):
            await asyncio.sleep(0.01)


async def brought_to(world: World, state: str, lost: str) -> None:
    """Start a release and bring it into a state."""
    if state == "validating":
        world.probes.down.update(f"http://127.0.0.1:{port}" for port in (4000, 4001))
        assert world.control is not None
        facts = world.control.switchboard.parts.facts
        async with asyncio.timeout(10):
            while facts.proven("ivor", "green") or facts.proven("events", "green"):
                await asyncio.sleep(0.01)
    steps = [{"weight": 100, "hold": "1h"}]
    if state != "baking":
        steps.insert(0, {"weight": 5, "hold": "1h"})
    body = {"steps": steps, "lease": "60s", "on_lease_lost": lost}
    async with client(world, OPERATOR) as api, api.post("/v1/releases", json=body) as answer:
        assert answer.status == 201
    if state == "baking":
        await until(world, lambda run: run.state == "baking")
    elif state != "validating":
        await until(world, lambda run: run.state == "stepping")
    if state in {"paused", "held"}:
        await rested(world, "pause" if state == "paused" else "hold")
    assert run_of(world).state == state


async def rested(world: World, event: Literal["pause", "hold"]) -> None:
    assert world.control is not None
    switch = world.control.switchboard

    def decide(state: State, facts: Facts) -> Outcome:
        del facts
        return releasedesk.plainly(state, event, 0.0, switch.parts.fresh)

    await switch.write(by_itself("a look"), event, decide)


def test_the_table_has_every_state_in_which_a_release_runs() -> None:
    assert [state for state, *_ in ROWS] == ["validating", "stepping", "baking", "paused", "held"]


@pytest.mark.parametrize(("state", "lost", "ends"), CASES)
async def test_a_lost_lease(state: str, lost: str, ends: str, tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await brought_to(world, state, lost)
        assert world.control is not None
        judgement = world.control.releases.judged(run_of(world))
        judgement.known.lease = TICK  # seconds that are left
        if ends == "rests":
            world.control.releases._watched -= 10.0  # time passes
            world.control.releases.look()
            assert (run_of(world).state, judgement.known.lease) == (state, TICK)
            return
        back = {"rolling_back", "rolled_back"}
        wanted = back if ends == "goes back" else {"held"}
        await until(world, lambda run: run.state in wanted)
        assert run_of(world).trigger == "lease"
