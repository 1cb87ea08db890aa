"""Who waits for whom."""

from __future__ import annotations

import pytest

from gateway.config.snapshot import Color
from gateway.health.machine import Health
from gateway.health.order import Below, PoolSeen, ServiceSeen, below, names_below

UP, DOWN, UNKNOWN = Health.UP, Health.DOWN, Health.UNKNOWN
BLUE: frozenset[Color] = frozenset({"blue"})


def test_names_below_come_once_and_near_ones_first() -> None:
    depends = {"a": ("b", "c"), "b": ("d",), "c": ("d", "e"), "d": ("f",)}
    assert list(names_below("a", depends)) == ["b", "c", "d", "e", "f"]
    assert list(names_below("f", depends)) == []
    # A circle is refused in a file; here it must still end.
    assert list(names_below("a", {"a": ("b",), "b": ("a",)})) == ["b"]


@pytest.mark.parametrize(
    ("health", "down", "unsettled"),
    [
        ((UP,), False, False),
        ((UP, DOWN, UNKNOWN), False, False),
        ((DOWN, DOWN), True, False),
        ((DOWN, UNKNOWN), False, True),
        ((UNKNOWN,), False, True),
        ((), False, True),
    ],
)
def test_a_pool(health: tuple[Health, ...], down: bool, unsettled: bool) -> None:
    pool = PoolSeen(health)
    assert (pool.down, pool.unsettled) == (down, unsettled)
    assert not PoolSeen(health, probed=False).unsettled


def test_only_pools_that_would_answer_matter() -> None:
    seen = ServiceSeen({"blue": PoolSeen((UP,)), "green": PoolSeen((DOWN,))}, BLUE)
    assert below("blue", [("d", seen)]) == Below()
    assert below("green", [("d", seen)]).clear, "down and carrying nothing: blue answers"
    seen = ServiceSeen({"blue": PoolSeen((UP,)), "green": PoolSeen((UNKNOWN,))}, BLUE)
    assert below("green", [("d", seen)]) == Below(unsettled=("d",))
    seen = ServiceSeen({"blue": PoolSeen((DOWN,)), "green": PoolSeen((UP,))}, BLUE)
    assert below("green", [("d", seen)]) == Below(down=("d",))
    empty = ServiceSeen({"blue": PoolSeen((UP,)), "green": PoolSeen(())}, BLUE)
    assert below("green", [("d", empty)]).clear


def test_doubt_is_told_apart_from_being_down() -> None:
    found = below("blue", [("d", ServiceSeen({"blue": PoolSeen((UP,), doubtful=True)}, BLUE))])
    assert (found.clear, found.doubtful) == (True, ("d",))
