"""What the desk is told of a pool: from probes, and from breakers where probes are slower."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.board import judge, layout
from gateway.board.board import Board
from gateway.config.snapshot import Endpoint, Pool, Topology
from gateway.control.observed import Observed

CELLS = (0, 1)
POOL = Pool(
    service="web",
    color="blue",
    generation=1,
    source="file",
    endpoints=tuple(
        Endpoint(id=str(cell), cell=cell, url="", scheme="http", host="h", port=1) for cell in CELLS
    ),
)


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(1)
    yield board
    board.close()


def put(board: Board, word: int, value: int, cells: tuple[int, ...] = CELLS) -> None:
    for cell in cells:
        board.words[layout.cell_at(cell) + word] = value


def test_a_pool_that_probes_do_not_know_to_be_dead_yet_is_not_able(board: Board) -> None:
    observed = Observed(board, lambda: Topology(number=1, services=(), pools=(POOL,)))
    assert observed.able("web", "blue"), "nothing is known: it may be able"
    put(board, layout.CELL_HEALTH, layout.UP)
    put(board, layout.CELL_BREAKER, layout.BREAKER_OPEN)
    assert not observed.able("web", "blue"), "killed: every breaker opened, probes need seconds"
    put(board, layout.CELL_BREAKER, layout.BREAKER_CLOSED, cells=(1,))
    assert observed.able("web", "blue"), "one is left"
    put(board, layout.CELL_BREAKER, layout.BREAKER_OPEN)
    put(board, layout.CELL_PASSES, judge.PASSES)
    assert observed.able("web", "blue"), "it passes its probes again"
    put(board, layout.CELL_HEALTH, layout.DOWN)
    assert not observed.able("web", "blue")
    assert not observed.able("web", "green"), "there is no such pool"
