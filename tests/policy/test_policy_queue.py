"""Who may take a place: the machine's bound, and an even part among workers that all want some."""

from __future__ import annotations

import pytest

from gateway.policy.queue import even_part, may_enter, may_join


@pytest.mark.parametrize(
    ("bound", "rivals", "part"), [(8, 0, 8), (8, 1, 4), (5, 1, 3), (1, 1, 1), (0, 3, 0)]
)
def test_an_even_part_is_rounded_up(bound: int, rivals: int, part: int) -> None:
    assert even_part(bound, rivals) == part
    assert part * (1 + rivals) >= bound  # else a place would be nobody's


def test_alone_a_worker_may_have_all() -> None:
    assert may_enter(7, 7, 8, 0, 0)
    assert not may_enter(8, 8, 8, 0, 0)


def test_one_that_holds_all_leaves_a_place_to_those_who_wait() -> None:
    assert not may_enter(7, 7, 8, 1, 1)
    assert may_enter(0, 7, 8, 1, 5)  # the other one takes it
    assert may_enter(5, 5, 8, 1, 2)  # three are free, two wait
    assert not may_enter(5, 5, 8, 1, 3)


@pytest.mark.parametrize("limit", range(1, 9))
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_no_place_stays_empty_while_all_wait(limit: int, workers: int) -> None:
    """Wherever a place is free and everybody has waiters, somebody may take it."""
    for own in range(limit):  # as evenly as can be: the worst case for "beyond its part"
        held = [own // workers + (1 if at < own % workers else 0) for at in range(workers)]
        assert any(may_enter(each, own, limit, workers - 1, 99) for each in held)


def test_the_queue_is_shared_too() -> None:
    assert may_join(31, 31, 32, 0)
    assert not may_join(32, 32, 32, 0)
    assert not may_join(16, 16, 32, 1)
    assert may_join(15, 31, 32, 1)
    assert not may_join(0, 32, 32, 1)
    assert not may_join(0, 0, 0, 0)
