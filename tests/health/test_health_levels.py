"""Levels and their order, in virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from gateway.board import layout
from gateway.health.answers import Request
from gateway.health.machine import Health
from gateway.health.policy import BusinessCheck, HealthPolicy, HttpCheck, IntegrationCheck, Pace
from tests.health.virtual import World, targets

L3 = BusinessCheck(request=Request(path="/selftest"))


def policy(
    service: str = "",
    *depends_on: str,
    l3: BusinessCheck | None = L3,
    interval: float = 5.0,
    every: float = 30.0,
) -> HealthPolicy:
    """All levels; L4 where a service is named."""
    check = IntegrationCheck(requests=(Request(path=f"/{service}"),), interval=every)
    return HealthPolicy(
        interval=interval,
        http=HttpCheck(path="/health"),
        business=l3,
        integration=check if service else None,
        depends_on=depends_on,
    )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.tasks.close()


# --- one endpoint's levels ------------------------------------------------------------------------


async def test_each_level_is_asked_while_the_one_below_holds(world: World) -> None:
    world.prober.watch(targets("a", policy()))
    await world.time.run(0.1)
    assert [what for _, what in world.asked] == ["L1 a-blue-1-0", "L2 a-blue-1-0", "L3 a-blue-1-0"]
    assert world.word("a-blue-1-0") == "up"
    world.asked.clear()
    with world.failing("L2"):
        await world.time.run(60)
        assert world.times("L3 a-blue-1-0") == []
        assert world.word("a-blue-1-0") == "down"
        change = world.changes[-1]
        assert (change.level, change.result and change.result.detail) == ("L2", "bad")


async def test_what_a_level_said_before_one_below_failed_is_void(world: World) -> None:
    world.prober.watch(targets("a", policy()))
    await world.time.run(1)
    with world.failing("L1"):
        await world.time.run(30)
        monitor = world.prober.monitor("a-blue-1-0")
        assert monitor is not None
        words = [monitor.level(level).health.word for level in ("L1", "L2", "L3")]
        assert words == ["down", "unknown", "unknown"]


async def test_l3_alone_takes_an_endpoint_down(world: World) -> None:
    world.prober.watch(targets("a", policy()))
    await world.time.run(1)
    with world.failing("L3"):
        await world.time.run(20)
        assert world.word("a-blue-1-0") == "down"
        assert world.changes[-1].level == "L3"
        monitor = world.prober.monitor("a-blue-1-0")
        assert monitor is not None
        assert [(each.level, each.good) for each in monitor.results()] == [
            ("L1", True),
            ("L2", True),
            ("L3", False),
        ]


async def test_a_level_has_an_interval_of_its_own(world: World) -> None:
    slow = BusinessCheck(request=Request(path="/selftest"), pace=Pace(interval=20))
    world.prober.watch(targets("a", policy(l3=slow)))
    await world.time.run(100)
    assert 16 <= len(world.times("L1 a-blue-1-0")) <= 26
    assert 4 <= len(world.times("L3 a-blue-1-0")) <= 7
    # While it is down, all levels are asked at the shorter one.
    with world.failing("L3"):
        await world.time.run(80)
        assert world.word("a-blue-1-0") == "down"
        world.asked.clear()
        await world.time.run(10)
        assert len(world.times("L3 a-blue-1-0")) >= 8


async def test_one_failure_of_a_slow_level_makes_nobody_busy(world: World) -> None:
    slow = BusinessCheck(request=Request(path="/selftest"), pace=Pace(interval=60))
    world.prober.watch(targets("a", policy(l3=slow)))
    await world.time.run(1)
    with world.failing("L1"):
        await world.time.run(6)  # one or two failures: still up
        assert world.word("a-blue-1-0") == "up"
    await world.time.run(54)
    assert len(world.asked) < 40


@pytest.mark.parametrize("failed", ["L1", "L2", "L3", "L4"])
async def test_coming_back_takes_rise_rounds_whatever_had_failed(world: World, failed: str) -> None:
    world.prober.watch(targets("a", policy("a")))
    await world.time.run(5)
    assert world.word("a-blue-1-0") == "up"
    with world.failing(failed):
        await world.time.run(300)
        assert world.word("a-blue-1-0") == "down"
    await world.time.run(4.0)
    assert world.word("a-blue-1-0") == "up"
    assert world.cells.healths == {0: layout.UP}


@pytest.mark.parametrize("outage", [17, 20, 33, 60])
async def test_a_platform_of_four_is_whole_again_within_ten_seconds(
    world: World, outage: float
) -> None:
    # Checked rarely: it must not take until the next turn.
    everything = [
        *targets(
            "website", policy("website", "ivor", "events", "newsroom", every=300), first_cell=0
        ),
        *targets("ivor", policy("ivor", "events", every=300), count=2, first_cell=1),
        *targets("events", policy("events", every=300), first_cell=3),
        *targets("newsroom", policy("newsroom", every=300), first_cell=4),
    ]
    world.prober.watch(everything)
    await world.time.run(10)
    assert set(world.cells.healths.values()) == {layout.UP}
    with world.failing("L1", "L4"):
        await world.time.run(outage)
        assert set(world.cells.healths.values()) == {layout.DOWN}
    for _ in range(100):
        await world.time.run(0.1)
        if set(world.cells.healths.values()) == {layout.UP}:
            break
    assert set(world.cells.healths.values()) == {layout.UP}
    # Once down, who depends on nobody was nothing else before all of its levels were up.
    words = [change.health for change in world.changes if change.target.service == "events"]
    assert words[-2:] == [Health.DOWN, Health.UP]
    assert world.changes[-1].target.service == "website", "below first"


async def test_passes_in_a_row_are_on_the_board(world: World) -> None:
    world.prober.watch(targets("a", policy()) + targets("b", HealthPolicy(), first_cell=7))
    await world.time.run(11)
    assert world.cells.passes[0] == len(world.times("L2 a-blue-1-0"))
    assert world.cells.passes[7] == len(world.times("L1 b-blue-1-0"))
    with world.failing("L2"):
        await world.time.run(6)
        assert world.cells.passes[0] == 0
        assert world.cells.passes[7] > 0
    await world.time.run(20)
    assert world.cells.passes[0] > 1
    with world.failing("L1"):
        await world.time.run(6)
        assert (world.cells.passes[0], world.cells.passes[7]) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
async def test_at_most_one_of_an_endpoint_and_level_is_under_way(seed: int) -> None:
    """Slow probes, failures, new snapshots at any time: never two at once."""
    world, chance = World(seed), random.Random(seed)
    names = ("a", "b", "c")
    everything = [
        target
        for at, name in enumerate(names)
        for target in targets(name, policy(name, *names[:at]), count=2, first_cell=2 * at)
    ]
    levels = ["L1", "L2", "L3", "L4"]
    for _ in range(60):
        world.slow = {level: chance.choice([0, 0.5, 7]) for level in levels}
        world.bad = {level for level in levels if chance.random() < 0.2}
        world.prober.watch([each for each in everything if chance.random() < 0.9])
        await world.time.run(chance.uniform(0, 10))
    await world.tasks.close()
    assert {what[:2] for _, what in world.asked} == set(levels)
    assert world.most == 1
    assert set(world.under_way.values()) == {0}


async def test_slow_probes_never_overlap(world: World) -> None:
    world.slow = {"L1": 3, "L2": 3, "L3": 3, "L4": 9}
    world.prober.watch(targets("a", policy("a", interval=1, every=1), count=3))
    await world.time.run(200)
    assert world.most == 1
    assert len(world.times("L4 a-blue")) > 10
    # A new snapshot with the same endpoints changes nothing of that.
    world.prober.watch(targets("a", policy("a", interval=1, every=1), count=3))
    await world.time.run(50)
    assert world.most == 1


# --- the pool's own -------------------------------------------------------------------------------


async def test_l4_runs_once_for_a_pool_and_counts_for_all_of_it(world: World) -> None:
    world.prober.watch(targets("a", policy("a", every=10), count=3))
    await world.time.run(100)
    assert 8 <= len(world.times("L4 a-blue")) <= 13
    assert all(world.word(f"a-blue-1-{at}") == "up" for at in range(3))
    with world.failing("L4"):
        await world.time.run(40)
        assert {world.word(f"a-blue-1-{at}") for at in range(3)} == {"down"}
        assert {change.level for change in world.changes[-3:]} == {"L4"}
    # An endpoint that fails by itself does not wait for the pool, nor the pool for it.
    with world.failing("L1 a-blue-1-0"):
        await world.time.run(40)
        assert [world.word(f"a-blue-1-{at}") for at in range(3)] == ["down", "up", "up"]


async def test_l4_is_not_run_while_no_endpoint_holds_the_levels_below(world: World) -> None:
    with world.failing("L2"):
        world.prober.watch(targets("a", policy("a")))
        await world.time.run(100)
        assert world.times("L4 a-blue") == []
    await world.time.run(5)
    assert world.word("a-blue-1-0") == "up"


async def test_an_endpoint_is_not_up_before_its_pools_l4_was_seen(world: World) -> None:
    world.slow["L4"] = 4
    world.prober.watch(targets("a", policy("a")))
    await world.time.run(3)
    assert world.word("a-blue-1-0") == "unknown"
    await world.time.run(3)
    assert world.word("a-blue-1-0") == "up"


async def test_a_new_generation_begins_again(world: World) -> None:
    world.prober.watch(targets("a", policy("a")))
    await world.time.run(5)
    world.bad.add("L4")
    world.prober.watch(targets("a", policy("a"), generation=2, first_cell=5))
    await world.time.run(1)
    assert world.word("a-blue-2-0") == "unknown"
    await world.time.run(9)
    assert world.word("a-blue-2-0") == "down"


async def test_a_closed_color_is_not_asked(world: World) -> None:
    world.shut.add(("a", "blue"))
    world.prober.watch(targets("a", policy("a")))
    await world.time.run(60)
    assert world.times("L4 a-blue") == []
    assert world.word("a-blue-1-0") == "up", "by the levels below"
    world.shut.clear()
    world.bad.add("L4")
    await world.time.run(10)
    assert world.word("a-blue-1-0") == "down"


async def test_a_closed_color_comes_back_by_the_levels_below(world: World) -> None:
    world.prober.watch(targets("a", policy("a")))
    await world.time.run(5)
    world.shut.add(("a", "blue"))
    world.prober.integration.reconsider()
    with world.failing("L1"):
        await world.time.run(30)
        assert world.word("a-blue-1-0") == "down"
    await world.time.run(5)
    assert (world.word("a-blue-1-0"), world.cells.healths[0]) == ("up", layout.UP)
    asked = len(world.times("L4 a-blue"))
    world.shut.clear()
    world.prober.integration.reconsider()
    await world.time.run(1)
    assert len(world.times("L4 a-blue")) > asked, "it counts again, so it is run"
    assert world.word("a-blue-1-0") == "up"


async def test_what_is_the_gateways_own_fault_counts_against_nobody(world: World) -> None:
    world.prober.watch(targets("a", policy("a", every=2)))
    await world.time.run(5)
    world.own_fault.add("L4 a-blue")
    with world.failing("L4"):
        await world.time.run(60)
        assert world.word("a-blue-1-0") == "up"


async def test_a_restarted_control_goes_on_with_what_the_board_knows(world: World) -> None:
    world.cells.healths[0] = layout.UP
    world.bad.add("L4")
    world.prober.watch(targets("a", policy("a", every=5)))
    await world.time.run(4)
    assert world.word("a-blue-1-0") == "up"
    await world.time.run(20)
    assert world.word("a-blue-1-0") == "down"


# --- dependencies ---------------------------------------------------------------------------------


def chain(world: World, every: float = 5) -> None:
    """The website needs ivor, ivor needs events."""
    world.prober.watch(
        [
            *targets("website", policy("website", "ivor", every=every), first_cell=0),
            *targets("ivor", policy("ivor", "events", every=every), first_cell=1),
            *targets("events", policy("events", every=every), first_cell=2),
        ]
    )


async def test_a_service_waits_for_what_is_below_it(world: World) -> None:
    chain(world)
    await world.time.run(10)
    first = [world.times(f"L4 {name}-blue")[0] for name in ("events", "ivor", "website")]
    assert first == sorted(first), "below first"
    with world.failing("L2 events-blue-1-0", "L4"):
        await world.time.run(60)
        assert world.word("events-blue-1-0") == "down"
        assert world.word("ivor-blue-1-0") == "up"
        assert world.word("website-blue-1-0") == "up"
        for name in ("ivor", "website"):
            assert world.prober.integration.below(name, "blue").down == ("events",)
        assert set(world.waits_told) == {("ivor-blue", ("events",)), ("website-blue", ("events",))}
        before = len(world.times("L4 website-blue"))
        await world.time.run(60)
        assert len(world.times("L4 website-blue")) == before, "not run meanwhile"
    await world.time.run(10)
    assert world.waits_told[-1][1] == ()
    assert [change.target.service for change in world.changes if change.health is Health.DOWN] == [
        "events"
    ]


async def test_a_failing_l4_below_is_its_own_services_failure(world: World) -> None:
    chain(world)
    await world.time.run(10)
    with world.failing("L4 events-blue", "L4 ivor-blue", "L4 website-blue"):
        await world.time.run(90)
        assert world.word("events-blue-1-0") == "down"
        assert {world.word("ivor-blue-1-0"), world.word("website-blue-1-0")} <= {"up", "unknown"}
    await world.time.run(10)
    assert {world.word(f"{name}-blue-1-0") for name in ("website", "ivor", "events")} == {"up"}


async def test_its_own_failure_is_its_own(world: World) -> None:
    chain(world)
    await world.time.run(10)
    with world.failing("L4 website-blue"):
        await world.time.run(60)
        assert world.word("website-blue-1-0") == "down"
        assert world.word("ivor-blue-1-0") == "up"


async def test_who_was_down_and_now_waits_is_no_longer_failing_by_itself(world: World) -> None:
    chain(world)
    await world.time.run(10)
    world.bad.add("L4 website-blue")
    await world.time.run(60)
    assert world.word("website-blue-1-0") == "down"
    world.bad.add("L1 events-blue-1-0")
    await world.time.run(60)
    assert world.word("website-blue-1-0") == "unknown"
    assert world.changes[-1].waiting == ("events",)
    # Its own lower levels are another matter.
    world.bad.add("L1 website-blue-1-0")
    await world.time.run(60)
    assert world.word("website-blue-1-0") == "down"


async def test_which_colors_of_a_dependency_matter(world: World) -> None:
    world.prober.watch(
        [
            *targets("website", policy("website", "ivor"), "blue", first_cell=0),
            *targets("website", policy("website", "ivor"), "green", first_cell=1),
            *targets("ivor", policy("ivor"), "blue", first_cell=2),
            *targets("ivor", policy("ivor"), "green", first_cell=3),
        ]
    )
    await world.time.run(10)
    below = world.prober.integration.below
    with world.failing("L1 ivor-green-1-0"):
        await world.time.run(30)
        # Green carries nothing and could serve nothing: blue answers checks of either color.
        assert below("website", "blue").down == ()
        assert below("website", "green").down == ()
        world.carried["ivor"] = frozenset({"blue", "green"})
        assert below("website", "blue").down == ("ivor",)
        world.carried.clear()
        world.shut.add(("ivor", "green"))
        assert below("website", "green").down == (), "it is closed: blue answers"


async def test_a_dependency_that_nothing_is_asked_of_holds_nobody_up(world: World) -> None:
    silent = HealthPolicy(tcp=False)
    world.prober.watch(
        [*targets("a", policy("a", "b"), first_cell=0), *targets("b", silent, first_cell=1)]
    )
    await world.time.run(3)
    assert world.word("a-blue-1-0") == "up"
    assert world.word("b-blue-1-0") == "unknown"


# --- open breakers --------------------------------------------------------------------------------


async def test_an_endpoint_whose_breaker_opens_is_asked_at_once_and_often(world: World) -> None:
    targeted = targets("a", policy())
    world.prober.watch(targeted)
    await world.time.run(20.0)
    world.asked.clear()
    world.cells.open.add(targeted[0].endpoint.cell)
    began = world.time.now
    world.prober.hasten("a-blue-1-0")
    await world.time.run(5.0)
    asked = world.times("L2 a-blue-1-0")
    assert asked[0] == began
    # At interval_down (1 s) although it has never failed a probe.
    assert len(asked) >= 5
    world.cells.open.clear()
    await world.time.run(1.5)
    world.asked.clear()
    await world.time.run(20.0)
    assert len(world.times("L2 a-blue-1-0")) <= 5


async def test_a_dependency_behind_an_open_breaker_is_down_for_those_above(world: World) -> None:
    chain(world)
    await world.time.run(10)
    with world.failing("L4 ivor-blue", "L4 website-blue"):
        world.cells.open.add(2)
        world.prober.integration.reconsider()
        assert world.waits_told[-2:] == [("website-blue", ("events",)), ("ivor-blue", ("events",))]
        await world.time.run(90)
        assert [world.word(f"{name}-blue-1-0") for name in ("website", "ivor")] == ["up", "up"]
    world.cells.open.clear()
    world.prober.integration.reconsider()
    assert world.waits_told[-1][1] == ()


async def test_while_a_breaker_below_is_on_trial_a_failure_counts_against_nobody(
    world: World,
) -> None:
    chain(world)
    await world.time.run(10)
    world.cells.trial.add(2)
    with world.failing("L4 ivor-blue"):
        await world.time.run(90)
        assert world.prober.integration.below("ivor", "blue").doubtful == ("events",)
        assert world.word("ivor-blue-1-0") == "up"
    world.cells.trial.clear()
    with world.failing("L4 ivor-blue"):
        await world.time.run(30)
        assert world.word("ivor-blue-1-0") == "down"


async def test_who_is_not_watched_is_not_hastened(world: World) -> None:
    world.prober.hasten("nobody")
    assert world.asked == []


# --- another policy -------------------------------------------------------------------------------


async def test_a_level_that_a_reload_takes_away_says_nothing_any_more(world: World) -> None:
    world.prober.watch(targets("a", policy()))
    await world.time.run(2)
    world.bad.add("L3")
    await world.time.run(30)
    assert world.word("a-blue-1-0") == "down"
    told = len(world.changes)
    world.prober.watch(targets("a", policy(l3=None)))
    assert [change.health for change in world.changes[told:]] == [Health.UP]
    assert world.cells.healths[0] == layout.UP
    assert [each.level for each in world.prober.last("a-blue-1-0")] == ["L1", "L2"]
    # Back again, it begins anew.
    world.prober.watch(targets("a", policy()))
    assert world.word("a-blue-1-0") == "unknown"


async def test_what_another_check_of_a_level_had_said_is_void(world: World) -> None:
    world.prober.watch(targets("a", policy()))
    await world.time.run(2)
    other = BusinessCheck(request=Request(path="/other"))
    world.bad.add("L3")
    world.prober.watch(targets("a", policy(l3=other)))
    assert world.word("a-blue-1-0") == "unknown", "nobody has seen it pass this one"
    await world.time.run(10)
    assert world.word("a-blue-1-0") == "down"
    world.prober.watch(targets("a", policy(l3=L3)))
    assert world.word("a-blue-1-0") == "down", "until it passes"


async def test_another_pace_changes_nothing_that_is_known(world: World) -> None:
    world.prober.watch(targets("a", policy("a")))
    await world.time.run(20)
    slower = BusinessCheck(request=L3.request, pace=Pace(interval=20))
    world.prober.watch(targets("a", policy("a", l3=slower, every=60)))
    assert world.word("a-blue-1-0") == "up"
    assert world.cells.passes[0] > 1


async def test_other_requests_of_l4_are_another_check(world: World) -> None:
    world.prober.watch(targets("a", policy("a")))
    await world.time.run(5)
    world.prober.watch(targets("a", policy("b")))
    assert world.word("a-blue-1-0") == "unknown"
    await world.time.run(1)
    assert world.word("a-blue-1-0") == "up"


async def test_passes_of_another_level_are_not_counted_on(world: World) -> None:
    world.prober.watch(targets("a", policy()))
    await world.time.run(20)
    assert world.cells.passes[0] > 1
    world.prober.watch(targets("a", HealthPolicy()))
    assert world.cells.passes[0] == 0


async def test_production_does_not_wait_for_a_slot_that_serves_nobody(world: World) -> None:
    """Mixed roles: the website is finalized to green, ivor stays on blue and its green is gone."""
    world.carried = {"website": frozenset({"green"}), "ivor": frozenset({"blue"})}
    world.bad.add("L1 ivor-green-1-0")
    world.prober.watch(
        [
            *targets("ivor", policy("ivor"), "blue", first_cell=0),
            *targets("ivor", policy("ivor"), "green", first_cell=1),
            *targets("website", policy("website", "ivor"), "green", first_cell=2),
        ]
    )
    await world.time.run(60)
    assert (world.word("ivor-green-1-0"), world.word("website-green-1-0")) == ("down", "up")
