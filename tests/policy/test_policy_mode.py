"""Platform mode: states from facts, one word from states."""

from __future__ import annotations

from typing import Literal

import pytest

from gateway.config.snapshot import Endpoint, Pool, Service, ServiceTraffic, Topology, Traffic
from gateway.policy.mode import (
    LATELY,
    Facts,
    Lately,
    Platform,
    carrying,
    picture,
    watched,
)

BOTH = frozenset(("blue", "green"))


def facts(name: str, *depends_on: str, serves: bool = True, critical: bool = False) -> Facts:
    return Facts(name=name, critical=critical, depends_on=depends_on, serves=serves)


def test_all_up_is_full() -> None:
    assert picture([facts("a"), facts("b", "a")]).mode == "full"
    assert picture([]).mode == "full"


def test_a_service_that_cannot_serve_is_down_and_who_depends_on_it_degraded() -> None:
    shown = picture(
        [facts("web", "api"), facts("api", "db"), facts("db", serves=False), facts("x")]
    )
    assert shown.states == {"web": "degraded", "api": "degraded", "db": "down", "x": "up"}
    assert shown.mode == "degraded"


def test_a_degraded_dependency_is_no_reason() -> None:
    shown = picture(
        [
            facts("web", "api"),
            Facts("api", critical=False, depends_on=(), serves=True, fell_back=True),
        ]
    )
    assert shown.states == {"web": "up", "api": "degraded"}
    assert shown.mode == "degraded"


def test_maintenance_is_down() -> None:
    shown = picture([Facts("a", critical=False, depends_on=(), serves=True, maintenance=True)])
    assert shown.states == {"a": "down"}


def test_circles_and_unknown_names_end() -> None:
    assert picture([facts("a", "b"), facts("b", "a", "nobody")]).mode == "full"
    shown = picture([facts("a", "b"), facts("b", "a"), facts("c", "a", serves=False)])
    assert shown.states == {"a": "up", "b": "up", "c": "down"}


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        ([facts("a", serves=False), facts("b", serves=False)], "read_only"),
        ([facts("a", serves=False), facts("b")], "degraded"),
        ([facts("a", serves=False, critical=True), facts("b")], "read_only"),
        ([facts("a", serves=False, critical=True), facts("b", critical=True)], "degraded"),
        ([facts("a", critical=True), facts("b", serves=False)], "degraded"),
    ],
)
def test_read_only_is_when_every_critical_service_is_down(
    services: list[Facts], expected: str
) -> None:
    assert picture(services).mode == expected


# --- which pools --------------------------------------------------------------------------------

Color = Literal["blue", "green"]


@pytest.mark.parametrize(
    ("weight", "closed", "filled", "forced", "expected"),
    [
        (0, (), BOTH, False, ("blue",)),
        (1, (), BOTH, False, ("blue", "green")),
        (10_000, (), BOTH, False, ("green",)),
        (10_000, (), BOTH, True, ("blue",)),
        # The data plane sends to the other side where the assigned one is closed or empty.
        (0, ("blue",), BOTH, False, ("green",)),
        (500, ("green",), BOTH, False, ("blue",)),
        (0, (), frozenset(("green",)), False, ("green",)),
        (0, ("blue", "green"), BOTH, False, ()),
        (0, (), frozenset(), False, ()),
    ],
)
def test_the_pools_that_carry_traffic(
    weight: int,
    closed: tuple[Color, ...],
    filled: frozenset[Color],
    forced: bool,
    expected: tuple[Color, ...],
) -> None:
    traffic = ServiceTraffic(service="a", stable="blue", weight=weight, closed=closed)
    assert carrying(traffic, filled, forced=forced) == expected


def endpoint(cell: int) -> Endpoint:
    return Endpoint(id=f"e{cell}", cell=cell, url="", scheme="http", host="h", port=1)


def pool(service: str, color: Color, *cells: int) -> Pool:
    endpoints = tuple(endpoint(cell) for cell in cells)
    return Pool(service=service, color=color, generation=1, source="file", endpoints=endpoints)


TOPOLOGY = Topology(
    number=1,
    services=(
        Service(name="web", row=1, depends_on=("api",)),
        Service(name="api", row=2, critical=True),
    ),
    pools=(pool("web", "blue", 0), pool("web", "green", 1), pool("api", "blue", 2, 3)),
)


def test_what_is_looked_at_comes_from_the_snapshot() -> None:
    traffic = Traffic(
        revision=1,
        services=(
            ServiceTraffic(service="web", stable="green"),
            ServiceTraffic(service="api", stable="blue", maintenance=60.0),
        ),
    )
    web, api = watched(TOPOLOGY, traffic, forced=False)
    assert (web.cells, web.depends_on, web.critical, web.maintenance) == (
        (1,),
        ("api",),
        False,
        False,
    )
    assert (api.cells, api.row, api.critical, api.maintenance) == ((2, 3), 2, True, True)
    assert watched(TOPOLOGY, Traffic(revision=0), forced=False)[0].cells in {(0, 1), (1, 0)}


# --- lately -------------------------------------------------------------------------------------


def test_a_counter_that_grew_counts_for_a_while() -> None:
    lately = Lately()
    assert not lately.look(1, 7, 100.0)  # the base: nobody knows how old these are
    assert lately.look(1, 8, 101.0)
    assert lately.look(1, 8, 101.0 + LATELY - 0.1)
    assert not lately.look(1, 8, 101.0 + LATELY)
    assert not lately.look(1, 0, 120.0)  # a board begun anew
    assert lately.look(1, 1, 121.0)
    assert not lately.look(2, 1, 121.0)


def test_a_platform_is_looked_at_from_the_board() -> None:
    platform = Platform()
    assert platform.look(lambda _: True, lambda _: 0, 0.0).mode == "full"
    platform.serve(TOPOLOGY, Traffic(revision=0), forced=False)
    down: set[int] = set()
    counts = {1: 0, 2: 0}

    def look(now: float) -> dict[str, str]:
        return dict(platform.look(lambda cell: cell not in down, counts.__getitem__, now).states)

    assert look(1.0) == {"web": "up", "api": "up"}
    counts[1] = 1
    assert look(2.0) == {"web": "degraded", "api": "up"}
    down.add(2)
    assert look(20.0) == {"web": "up", "api": "up"}
    down.add(3)
    assert look(21.0) == {"web": "degraded", "api": "down"}
    assert platform.look(lambda _: False, counts.__getitem__, 22.0).mode == "read_only"
