"""Control's view of the platform's mode: from the board, told once for each change."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from gateway.board import judge, layout
from gateway.board.board import Board
from gateway.config.snapshot import Endpoint, Pool, Service, ServiceTraffic, Topology, Traffic
from gateway.control.events import Events
from gateway.control.platform import PlatformWatch


def pool(service: str, cell: int) -> Pool:
    endpoint = Endpoint(id=service, cell=cell, url="", scheme="http", host="h", port=1)
    return Pool(service=service, color="blue", generation=1, source="file", endpoints=(endpoint,))


TOPOLOGY = Topology(
    number=1,
    services=(
        Service(name="web", row=1, depends_on=("api",)),
        Service(name="api", row=2, critical=True),
    ),
    pools=(pool("web", 0), pool("api", 1)),
)
TRAFFIC = Traffic(
    revision=1,
    services=tuple(ServiceTraffic(service=name, stable="blue") for name in ("web", "api")),
)


class World:
    def __init__(self) -> None:
        self.board = Board.create(2)
        self.events = Events("e")
        self.now = 100.0
        self.traffic = TRAFFIC
        self.watch = PlatformWatch(
            self.board, lambda: (TOPOLOGY, self.traffic), self.events, lambda: self.now
        )

    def health(self, cell: int, word: int) -> None:
        self.board.words[layout.CELLS_AT + cell * layout.CELL_WORDS + layout.CELL_HEALTH] = word

    def told(self) -> list[object]:
        return [msgspec.json.decode(event.data) for event in self.events.since("unknown")]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.board.close()


def test_an_event_for_each_change_of_mode_and_none_for_the_first_look(world: World) -> None:
    world.watch.tell()
    world.watch.tell()
    assert world.told() == []
    world.health(1, layout.DOWN)
    world.watch.tell()
    world.watch.tell()
    world.health(1, layout.UP)
    world.watch.tell()
    assert world.told() == [
        {
            "mode": "read_only",
            "former": "full",
            "services": {"web": "degraded", "api": "down"},
        },
        {"mode": "full", "former": "read_only", "services": {"web": "up", "api": "up"}},
    ]


def test_fallbacks_of_all_workers_count_and_maintenance_too(world: World) -> None:
    assert world.watch.look().mode == "full"
    place = layout.ROWS_AT + 2 * layout.ROW_WORDS + layout.ROW_FALLBACKS + 1
    world.board.slab(1)[place] = 3
    assert world.watch.look().states == {"web": "up", "api": "degraded"}
    assert judge.fallbacks(world.board.words, 2, 2) == 3
    world.now += 11
    assert world.watch.look().mode == "full"
    world.traffic = msgspec.structs.replace(
        TRAFFIC,
        services=(
            ServiceTraffic(service="web", stable="blue", maintenance=60.0),
            ServiceTraffic(service="api", stable="blue"),
        ),
    )
    assert world.watch.look().states == {"web": "down", "api": "up"}


def test_everything_forced_to_stable_is_judged_by_stable(world: World) -> None:
    world.traffic = msgspec.structs.replace(
        TRAFFIC,
        services=(
            ServiceTraffic(service="web", stable="green", weight=10_000),
            ServiceTraffic(service="api", stable="blue"),
        ),
    )
    # Blue, the candidate, has all; green has no endpoints, so blue stands in for it too.
    assert world.watch.look().states["web"] == "up"
    world.board.slab(0)[layout.S_STATE] = layout.STATE_READY
    world.board.slab(0)[layout.S_FORCED_STABLE] = 1
    assert world.watch.look().states["web"] == "up"
    world.health(0, layout.DOWN)
    assert world.watch.look().states["web"] == "down"
