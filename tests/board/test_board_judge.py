"""Who can serve, by a cell's words."""

from __future__ import annotations

from array import array

import pytest

from gateway.board import judge, layout

CELL = 3


@pytest.mark.parametrize(
    ("health", "breaker", "passes", "before", "expected"),
    [
        (layout.UNKNOWN, layout.BREAKER_CLOSED, 0, 0, True),
        (layout.UP, layout.BREAKER_CLOSED, 9, 0, True),
        (layout.DOWN, layout.BREAKER_CLOSED, 9, 0, False),
        (layout.UP, layout.BREAKER_OPEN, 9, 9, False),
        (layout.UP, layout.BREAKER_OPEN, 10, 9, False),
        (layout.UP, layout.BREAKER_OPEN, 11, 9, True),
        # Passes begin anew after a failed probe.
        (layout.UP, layout.BREAKER_OPEN, 1, 9, False),
        (layout.UP, layout.BREAKER_OPEN, 2, 9, True),
        (layout.UP, layout.BREAKER_HALF_OPEN, 0, 0, False),
        (layout.UP, layout.BREAKER_HALF_OPEN, 11, 9, True),
        (layout.UP, layout.BREAKER_FORCED, 99, 0, False),
    ],
)
def test_health_and_breaker_are_weighed_in_one_place(
    health: int, breaker: int, passes: int, before: int, expected: bool
) -> None:
    words = array("Q", bytes(layout.board_bytes(1)))
    at = layout.cell_at(CELL)
    words[at + layout.CELL_HEALTH] = health
    words[at + layout.CELL_BREAKER] = breaker
    words[at + layout.CELL_PASSES] = passes
    words[at + layout.CELL_PASSES_BEFORE] = before
    assert judge.can_serve(words, CELL) is expected


def test_fallbacks_are_summed_over_workers_and_kinds() -> None:
    words = array("Q", bytes(layout.board_bytes(2)))
    for slab, kind, count in ((0, 0, 1), (0, 1, 2), (1, 1, 4)):
        at = layout.slab_at(slab) + layout.ROWS_AT + 5 * layout.ROW_WORDS
        words[at + layout.ROW_FALLBACKS + kind] = count
    assert judge.fallbacks(words, 5, 2) == 7
    assert judge.fallbacks(words, 5, 1) == 3
    assert judge.fallbacks(words, 4, 2) == 0
