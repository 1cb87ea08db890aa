"""Breakers on the board as control sees and moves them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.board import layout
from gateway.board.board import Board
from gateway.board.locks import OwnLocks
from gateway.config.snapshot import Breaker, Endpoint, Pool, Topology
from gateway.control.breakers import BoardBreakers, pool_of
from gateway.control.state import ServiceState, State

S = 1_000_000_000
POOL = Pool(
    service="a",
    color="blue",
    generation=1,
    source="file",
    endpoints=tuple(
        Endpoint(id=f"a-blue-1-{cell}", cell=cell, url="", scheme="http", host="", port=1)
        for cell in range(2)
    ),
)
TOPOLOGY = Topology(number=1, pools=(POOL,))


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(1)
    yield board
    board.close()


def at(board: Board, now: int = 100 * S) -> BoardBreakers:
    return BoardBreakers(board, OwnLocks(), lambda: now)


def state(*forced: str) -> State:
    return State(revision=1, services=(ServiceState(name="a", stable="blue", forced=forced),))


def test_the_board_is_made_to_say_what_the_state_says(board: Board) -> None:
    at(board).settle(state("a-blue-1-1"), TOPOLOGY)
    assert [board.breaker(cell) for cell in (0, 1)] == [0, layout.BREAKER_FORCED]
    at(board).settle(state(), TOPOLOGY)
    assert [board.breaker(cell) for cell in (0, 1)] == [0, 0]


def test_what_opened_by_itself_is_left_alone(board: Board) -> None:
    board.words[layout.cell_at(0) + layout.CELL_BREAKER] = layout.BREAKER_OPEN
    at(board).settle(state(), TOPOLOGY)
    assert board.breaker(0) == layout.BREAKER_OPEN


def test_forced_or_down_is_not_usable(board: Board) -> None:
    assert at(board).usable(TOPOLOGY) == {"a-blue-1-0", "a-blue-1-1"}
    board.force_breaker(0, 1)
    board.set_health(1, layout.DOWN, 1)
    assert at(board).usable(TOPOLOGY) == set()


@pytest.mark.parametrize(
    ("openings", "passed", "left"), [(1, 20, 40.0), (2, 20, 100.0), (1, 61, 0.0), (9, 0, 600.0)]
)
def test_an_open_one_says_when_it_tries_again(
    board: Board, openings: int, passed: int, left: float
) -> None:
    words, cell = board.words, layout.cell_at(1)
    words[cell + layout.CELL_BREAKER] = layout.BREAKER_OPEN
    words[cell + layout.CELL_BREAKER_CHANGED] = (100 - passed) * S
    words[cell + layout.CELL_OPENINGS] = openings
    words[cell + layout.CELL_OPENED] = 12
    words[cell + layout.CELL_RUN] = 5
    look = at(board).look(1, Breaker())
    assert (look.state, look.next_try, look.openings, look.failures) == ("open", left, 12, 5)


def test_a_reset_finds_its_work_done_where_nothing_is_out(board: Board) -> None:
    assert at(board).at_rest(0)
    board.words[layout.cell_at(0) + layout.CELL_EJECTED_UNTIL] = 130 * S
    assert not at(board).at_rest(0)
    assert at(board).look(0, Breaker()).ejected == 30.0
    assert at(board).reset(0)
    assert at(board).at_rest(0)
    assert at(board).look(0, Breaker()).ejected == 0.0


def test_the_pool_of_an_endpoint() -> None:
    assert pool_of(TOPOLOGY, "a-blue-1-1") is POOL
    assert pool_of(TOPOLOGY, "a-blue-0-1") is None
