"""Who begins a slow start when."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.config.snapshot import Color, Endpoint, Pool, Topology
from gateway.control.warming import Warming
from gateway.health.machine import Health


class Cells:
    """Health by cell, and which cells were warmed."""

    def __init__(self) -> None:
        self.words: dict[int, Health] = {}
        self.warmed: list[int] = []

    def health(self, cell: int) -> int:
        return self.words.get(cell, Health.UNKNOWN).value

    def warm(self, cell: int, now: int) -> None:
        assert now == 7
        self.warmed.append(cell)


def endpoint(cell: int) -> Endpoint:
    return Endpoint(id=f"e{cell}", cell=cell, url=f"http://e{cell}", scheme="http", host="", port=1)


def topology(*cells: int, color: Color = "blue") -> Topology:
    pool = Pool(
        service="a",
        color=color,
        generation=1,
        source="file",
        endpoints=tuple(endpoint(cell) for cell in cells),
    )
    return Topology(number=1, pools=(pool,))


@pytest.fixture
def cells() -> Cells:
    return Cells()


@pytest.fixture
def warming(cells: Cells) -> Warming:
    return Warming(cells, lambda: 7)


def test_the_gateways_start_is_no_fall(cells: Cells, warming: Warming) -> None:
    warming.watch(topology(0, 1))
    warming.moved(endpoint(0), Health.UP)
    assert cells.warmed == []


def test_what_comes_up_after_a_fall_is_warmed_each_time(cells: Cells, warming: Warming) -> None:
    warming.watch(topology(0))
    for health in (Health.UP, Health.DOWN, Health.UP, Health.UP, Health.DOWN, Health.UNKNOWN):
        warming.moved(endpoint(0), health)
    assert cells.warmed == [0]
    warming.moved(endpoint(0), Health.UP)
    assert cells.warmed == [0, 0]


def test_what_was_down_at_the_start_of_control_is_warmed(cells: Cells, warming: Warming) -> None:
    cells.words = {0: Health.DOWN, 1: Health.UP}
    warming.watch(topology(0, 1))
    warming.moved(endpoint(0), Health.UP)
    assert cells.warmed == [0]


def test_a_new_one_is_warmed_when_it_is_first_seen_up(cells: Cells, warming: Warming) -> None:
    warming.watch(topology(0))
    warming.watch(topology(0, 1))
    warming.watch(topology(0, 1))  # another snapshot in between
    assert cells.warmed == []
    warming.moved(endpoint(1), Health.UP)
    warming.moved(endpoint(0), Health.UP)
    assert cells.warmed == [1]


def test_a_new_one_that_its_trial_has_seen_up_is_warmed_at_once(
    cells: Cells, warming: Warming
) -> None:
    warming.watch(topology(0))
    cells.words = {1: Health.UP}
    warming.watch(topology(0, 1))
    warming.watch(topology(0, 1))
    assert cells.warmed == [1]


def test_what_is_gone_is_forgotten(cells: Cells, warming: Warming) -> None:
    warming.watch(topology(0))
    warming.moved(endpoint(0), Health.DOWN)
    warming.watch(topology(1))
    warming.moved(endpoint(0), Health.UP)
    assert cells.warmed == []


def test_a_build_that_is_new_as_a_whole_is_not_held_back(cells: Cells, warming: Warming) -> None:
    """Nobody else could take over from it meanwhile: what it may not have would be refused."""
    warming.watch(topology(0, 1))
    cells.words = {2: Health.UP}
    warming.watch(topology(2, 3))
    warming.moved(endpoint(3), Health.DOWN)  # it does not listen yet
    warming.moved(endpoint(3), Health.UP)
    assert cells.warmed == []
    # Once it has been up, a fall is one.
    for health in (Health.DOWN, Health.UP):
        warming.moved(endpoint(3), health)
    assert cells.warmed == [3]


def test_a_backend_under_another_generation_is_no_new_one(cells: Cells, warming: Warming) -> None:
    def renamed(cell: int) -> Endpoint:
        return replace(endpoint(cell), id=f"later-{cell}", cell=cell + 10)

    warming.watch(topology(0, 1))
    cells.words = {10: Health.UP, 11: Health.DOWN, 12: Health.UP}
    (pool,) = topology(0, 1, 2).pools
    again = tuple(renamed(cell) for cell in (0, 1, 2))
    warming.watch(Topology(number=2, pools=(replace(pool, endpoints=again),)))
    assert cells.warmed == [12], "it joins the others"
    warming.moved(again[1], Health.UP)
    assert cells.warmed == [12, 11]
