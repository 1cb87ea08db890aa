"""Platform mode in a worker: from the board, without control."""

from __future__ import annotations

from array import array

import orjson

from gateway.board import layout
from gateway.config.snapshot import Service, ServiceTraffic, Topology, Traffic
from gateway.proxy.platform import INTERVAL, PlatformView
from tests.support.rig import SLABS, endpoint, pool

TOPOLOGY = Topology(
    number=1,
    services=(Service(name="web", row=1), Service(name="api", row=2, critical=True)),
    pools=(
        pool("web", "blue", endpoint(0)),
        pool("web", "green", endpoint(2)),
        pool("api", "blue", endpoint(1)),
    ),
)


def traffic(*, maintenance: float | None = None, weight: int = 0) -> Traffic:
    return Traffic(
        revision=1,
        services=(
            ServiceTraffic(service="web", stable="blue", weight=weight),
            ServiceTraffic(service="api", stable="blue", maintenance=maintenance),
        ),
    )


class World:
    def __init__(self) -> None:
        self.words = memoryview(array("Q", bytes(layout.board_bytes(SLABS))))
        self.view = PlatformView(self.words, SLABS)

    def down(self, cell: int, word: int = layout.DOWN) -> None:
        self.words[layout.CELLS_AT + cell * layout.CELL_WORDS + layout.CELL_HEALTH] = word

    def mode(self) -> str:
        return self.view.mode

    def document(self) -> object:
        return orjson.loads(self.view.document)


def test_before_a_snapshot_nothing_is_missing() -> None:
    world = World()
    world.view.turn(1.0, forced=False)
    assert world.document() == {"mode": "full", "services": {}}


def test_a_look_is_due_from_time_to_time_only() -> None:
    world = World()
    world.view.serve(TOPOLOGY, traffic(), 10.0)
    world.down(1)
    world.view.turn(10.1, forced=False)
    assert world.mode() == "full"
    world.view.turn(10.0 + INTERVAL, forced=False)
    assert world.mode() == "read_only"
    assert world.document() == {"mode": "read_only", "services": {"web": "up", "api": "down"}}
    assert world.view.refuses("api")
    assert not world.view.refuses("web")
    world.down(1, layout.UP)
    world.view.turn(11.0, forced=False)
    assert world.mode() == "full"
    assert not world.view.refuses("api")


def test_out_of_read_only_nothing_is_refused() -> None:
    world = World()
    world.view.serve(TOPOLOGY, traffic(), 1.0)
    world.down(0)
    world.view.look(2.0)
    assert world.document() == {"mode": "degraded", "services": {"web": "down", "api": "up"}}
    assert not world.view.refuses("web")


def test_maintenance_shows_as_soon_as_it_is_served() -> None:
    world = World()
    world.view.serve(TOPOLOGY, traffic(), 1.0)
    world.view.serve(TOPOLOGY, traffic(maintenance=60.0), 1.0)
    assert world.mode() == "read_only"


def test_forced_to_stable_the_candidate_carries_nothing() -> None:
    world = World()
    world.view.serve(TOPOLOGY, traffic(weight=10_000), 1.0)
    world.down(2)
    world.view.look(1.0)
    assert world.view.down == {"web"}
    world.view.turn(1.0, forced=True)
    assert world.view.down == frozenset()
    world.view.turn(1.1, forced=False)
    assert world.view.down == {"web"}


def test_a_fallback_by_any_worker_makes_its_service_degraded_for_a_while() -> None:
    world = World()
    world.view.serve(TOPOLOGY, traffic(), 1.0)
    place = layout.ROWS_AT + layout.ROW_WORDS + layout.ROW_FALLBACKS
    world.words[layout.slab_at(1) + place] += 1
    world.view.look(2.0)
    assert world.document() == {"mode": "degraded", "services": {"web": "degraded", "api": "up"}}
    world.view.look(12.0)
    assert world.mode() == "full"
