"""Whether an endpoint may serve, by its cell: the one place that weighs health and breaker.

Standard library only, like ``layout``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.board import layout

if TYPE_CHECKING:
    from collections.abc import Sequence


def breaker_refuses(words: Sequence[int], cell: int) -> bool:
    """Tell whether the endpoint's breaker lets nothing through."""
    del words, cell
    return False  # there are no breakers yet


def can_serve(words: Sequence[int], cell: int) -> bool:
    """Tell whether an endpoint is not known to be down and its breaker not open."""
    health = words[layout.CELLS_AT + cell * layout.CELL_WORDS + layout.CELL_HEALTH]
    return health != layout.DOWN and not breaker_refuses(words, cell)


def fallbacks(words: Sequence[int], row: int, slabs: int) -> int:
    """Return how many answers of a service were fallbacks, by all workers."""
    at = layout.ROWS_AT + row * layout.ROW_WORDS + layout.ROW_FALLBACKS
    return sum(
        words[layout.slab_at(slab) + at] + words[layout.slab_at(slab) + at + 1]
        for slab in range(slabs)
    )
