"""Whether an endpoint may serve, by its cell: the one place that weighs health and breaker.

Standard library only, like ``layout``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.board import layout

if TYPE_CHECKING:
    from collections.abc import Sequence


#: Probes passed in a row that make an endpoint as good as back while its breaker is open.
PASSES = 2


def can_serve(words: Sequence[int], cell: int) -> bool:
    """Tell whether an endpoint can be sent requests: not down, and its breaker not open.

    One that passes its probes again is as good as back: the next request closes its breaker.
    """
    at = layout.cell_at(cell)
    if words[at + layout.CELL_HEALTH] == layout.DOWN:
        return False
    state = words[at + layout.CELL_BREAKER]
    if state == layout.BREAKER_OPEN:
        passes, before = words[at + layout.CELL_PASSES], words[at + layout.CELL_PASSES_BEFORE]
        return (passes - before if passes >= before else passes) >= PASSES
    return state != layout.BREAKER_FORCED


def fallbacks(words: Sequence[int], row: int, slabs: int) -> int:
    """Return how many answers of a service were fallbacks, by all workers."""
    at = layout.ROWS_AT + row * layout.ROW_WORDS + layout.ROW_FALLBACKS
    return sum(
        words[layout.slab_at(slab) + at] + words[layout.slab_at(slab) + at + 1]
        for slab in range(slabs)
    )
