"""The board's words: each has one meaning, and none is beyond its part."""

from __future__ import annotations

import pytest

from gateway.board import layout

#: Words of what is more than one, by its name.
WIDE = {
    "H_LIMIT_SECRET": layout.LIMIT_SECRET_WORDS,
    "S_AUTH": len(layout.AUTH_RESULTS),
    "CELL_BEFORE": 2,
    "CELL_HALF": 2,
    "ROW_FALLBACKS": 2,
    "ROW_CACHE": len(layout.CACHE_RESULTS),
    "ROW_CSP": 2 * len(layout.CSP_DIRECTIVES),
    "SIDE_REQUESTS": len(layout.METHODS) * len(layout.CODE_CLASSES),
    "SIDE_REQUEST_SECONDS": layout.HISTOGRAM_WORDS,
    "SIDE_UPSTREAM_SECONDS": layout.HISTOGRAM_WORDS,
}
#: By prefix: where a part's words begin, and its size.
PARTS = {
    "H_": (0, layout.HEADER_WORDS),
    "CELL_": (0, layout.CELL_WORDS),
    "S_": (0, layout.SLAB_HEADER_WORDS),
    "ROW_": (layout.ROW_RETRIES, layout.ROW_WORDS),
    "SIDE_": (0, layout.SIDE_WORDS),
    "ENDPOINT_": (0, layout.ENDPOINT_WORDS),
}


def words(prefix: str) -> dict[str, range]:
    """Return the words of everything in a part, by name."""
    return {
        name: range(at, at + WIDE.get(name, 1))
        for name, at in vars(layout).items()
        if name.startswith(prefix) and not name.endswith("_WORDS") and isinstance(at, int)
    }


@pytest.mark.parametrize("prefix", PARTS)
def test_no_word_means_two_things_and_none_is_beyond_its_part(prefix: str) -> None:
    begin, end = PARTS[prefix]
    found = words(prefix)
    assert found
    taken: dict[int, str] = {}
    for name, places in found.items():
        for place in places:
            assert begin <= place < end, f"{name} is outside"
            assert place not in taken, f"{name} and {taken[place]} share word {place}"
            taken[place] = name


def test_every_wide_word_is_there() -> None:
    known = {name for prefix in PARTS for name in words(prefix)}
    assert WIDE.keys() <= known


def test_parts_follow_one_another() -> None:
    assert layout.CELLS_AT == layout.HEADER_WORDS
    assert layout.cell_at(layout.MAX_ENDPOINTS) == layout.LIMITS_AT
    assert layout.SLABS_AT == layout.LIMITS_AT + layout.LIMIT_SETS * layout.LIMIT_SET_WORDS
    assert layout.ROWS_AT == layout.SLAB_HEADER_WORDS
    assert layout.ENDPOINTS_AT == layout.ROWS_AT + layout.MAX_SERVICES * layout.ROW_WORDS
    assert layout.slab_at(1) - layout.slab_at(0) == layout.SLAB_WORDS
