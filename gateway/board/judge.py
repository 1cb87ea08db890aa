"""Whether an endpoint may serve, by its cell: the one place that weighs health and breaker.

Standard library only, like ``layout``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.board import layout

if TYPE_CHECKING:
    from collections.abc import Sequence


#: Probes passed in a row that make an endpoint as good as back while its breaker is open; twice as
#: many after each try that they led to and that failed, up to ``2 ** DOUBLINGS`` times.
PASSES = 2
DOUBLINGS = 6


def passes_enough(words: Sequence[int], at: int) -> bool:
    """Tell whether enough probes have passed since the breaker of the cell at ``at`` opened."""
    passes, before = words[at + layout.CELL_PASSES], words[at + layout.CELL_PASSES_BEFORE]
    since = passes - before if passes >= before else passes
    return since >= PASSES << min(words[at + layout.CELL_EARLY], DOUBLINGS)


def can_serve(words: Sequence[int], cell: int) -> bool:
    """Tell whether an endpoint can be sent requests: not down, and its breaker not open.

    One that passes its probes again is as good as back: the next request closes its breaker.
    """
    at = layout.cell_at(cell)
    if words[at + layout.CELL_HEALTH] == layout.DOWN:
        return False
    state = words[at + layout.CELL_BREAKER]
    if state in {layout.BREAKER_OPEN, layout.BREAKER_HALF_OPEN}:
        # Half open it is not back yet either: else the platform's mode would go to and fro.
        return passes_enough(words, at)
    return state != layout.BREAKER_FORCED


def fallbacks(words: Sequence[int], row: int, slabs: int) -> int:
    """Return how many answers of a service were fallbacks, by all workers."""
    at = layout.ROWS_AT + row * layout.ROW_WORDS + layout.ROW_FALLBACKS
    return sum(
        words[layout.slab_at(slab) + at] + words[layout.slab_at(slab) + at + 1]
        for slab in range(slabs)
    )
