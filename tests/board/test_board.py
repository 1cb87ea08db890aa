from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.board import board as board_module
from gateway.board import layout
from gateway.board.board import Board, BoardError


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.create(4)
    yield made
    made.close()


def test_a_new_board_says_what_it_is(board: Board) -> None:
    assert board.words[layout.H_MAGIC] == layout.MAGIC
    assert board.words[layout.H_LAYOUT] == layout.LAYOUT
    assert board.words[layout.H_SLABS] == 4
    assert board.words.nbytes == layout.board_bytes(4)
    assert board.workers() == []


def test_two_mappings_see_the_same_words(board: Board) -> None:
    other = Board.attach(os.dup(board.fd), 4)
    other.slab(2)[layout.S_ACCEPTED] = 17
    assert board.slab(2)[layout.S_ACCEPTED] == 17
    assert board.total(layout.S_ACCEPTED) == 17
    other.close()


def test_attach_takes_the_number_of_slabs_from_the_board(board: Board) -> None:
    other = Board.attach(os.dup(board.fd))
    assert other.slabs == 4
    other.close()


@pytest.mark.parametrize(
    ("word", "value", "expected"),
    [
        (layout.H_MAGIC, 1, "not a board"),
        (layout.H_LAYOUT, 99, "layout 99"),
        (layout.H_SLABS, 5, "a board of 5 slabs has"),
        (layout.H_SLABS, 0, "1 to 4096 slabs"),
        (layout.H_SLABS, 2**63, "1 to 4096 slabs"),
    ],
)
def test_attach_refuses_what_is_no_board(
    board: Board, word: int, value: int, expected: str
) -> None:
    board.words[word] = value
    with pytest.raises(BoardError, match=expected):
        Board.attach(board.fd)


def test_attach_refuses_too_few_slabs(board: Board) -> None:
    with pytest.raises(BoardError, match="has 4 slabs, expected at least 6"):
        Board.attach(board.fd, 6)


def test_attach_refuses_a_short_file_and_a_closed_descriptor() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"gwboard1")
        file.flush()
        with pytest.raises(BoardError, match="8 octets are too few"):
            Board.attach(file.fileno())
        fd = file.fileno()
    with pytest.raises(BoardError, match="no board behind descriptor"):
        Board.attach(fd)


def _forbidden(*_: object) -> int:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("there", [True, False])
def test_a_board_without_memfd_lives_in_an_unlinked_file(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(os, "memfd_create", _forbidden, raising=False)
    if not there:
        monkeypatch.delattr(os, "memfd_create")
    made = Board.create(1)
    assert os.fstat(made.fd).st_nlink == 0
    made.words[layout.H_CONTROL_PID] = 3
    again = Board.attach(os.dup(made.fd))
    assert again.words[layout.H_CONTROL_PID] == 3
    again.close()
    made.close()


@pytest.mark.parametrize("slabs", [0, -1, 4097])
def test_create_refuses_an_absurd_number_of_slabs(slabs: int) -> None:
    with pytest.raises(BoardError, match="1 to 4096 slabs"):
        Board.create(slabs)


def test_places_beyond_the_board_are_index_errors(board: Board) -> None:
    for call in (
        lambda: board.slab(4),
        lambda: board.slab(-1),
        lambda: board.row(0, layout.MAX_SERVICES),
        lambda: board.health(layout.MAX_ENDPOINTS),
        lambda: board.endpoint_in_flight(-1),
        lambda: board.clear_cell(layout.MAX_ENDPOINTS),
    ):
        with pytest.raises(IndexError):
            call()


def test_a_grown_board_keeps_its_words_and_older_mappings(board: Board) -> None:
    old = Board.attach(os.dup(board.fd))
    board.slab(3)[layout.S_ACCEPTED] = 5
    small = Board.attach(os.dup(board.fd))
    grown = small.grow(10)
    assert grown.slabs == 10
    assert grown.words[layout.H_SLABS] == 10
    assert grown.slab(3)[layout.S_ACCEPTED] == 5
    grown.slab(9)[layout.S_ACCEPTED] = 1
    old.slab(3)[layout.S_ACCEPTED] = 6
    assert grown.total(layout.S_ACCEPTED) == 7
    assert grown.grow(8) is grown
    old.close()
    grown.close()


def test_closing_while_a_view_is_held_does_not_raise() -> None:
    made = Board.create(1)
    view = made.slab(0)
    made.close()
    view[layout.S_ACCEPTED] = 1
    assert view[layout.S_ACCEPTED] == 1


def _begin(board: Board, slab: int, state: int = layout.STATE_READY) -> memoryview:
    board.claim(slab, slot=slab, now=1)
    words = board.slab(slab)
    words[layout.S_STATE] = state
    return words


def test_gauges_of_a_slab_that_nobody_holds_count_nothing(board: Board) -> None:
    at = layout.ENDPOINTS_AT + 7 * layout.ENDPOINT_WORDS
    for slab in (0, 1):
        words = _begin(board, slab)
        words[at + layout.ENDPOINT_IN_FLIGHT] = 3
        words[at + layout.ENDPOINT_TUNNELS] = 2
        words[at + layout.ENDPOINT_REQUESTS] = 10
        words[layout.S_CONNECTIONS] = 4
        board.row(slab, 5)[layout.ROW_IN_FLIGHT] = 6
    assert board.endpoint_in_flight(7) == 6
    board.slab(1)[layout.S_STATE] = layout.STATE_GONE
    assert board.endpoint_in_flight(7) == 3
    assert board.endpoint_tunnels(7) == 2
    assert board.endpoint_total(7, layout.ENDPOINT_REQUESTS) == 20
    assert board.total(layout.S_CONNECTIONS) == 4
    assert board.service_in_flight(5) == 6
    assert board.row_total(5)[layout.ROW_IN_FLIGHT] == 6


def test_a_breaker_is_forced_once_and_reset_once(board: Board) -> None:
    assert board.force_breaker(7, 10)
    assert not board.force_breaker(7, 11)
    assert board.breaker(7) == layout.BREAKER_FORCED
    assert not board.serves(7)
    assert board.reset_breaker(7, 12)
    assert not board.reset_breaker(7, 13)
    assert board.breaker(7) == layout.BREAKER_CLOSED
    assert board.words[layout.cell_at(7) + layout.CELL_WARM_FROM] == 12


def test_a_reset_brings_an_outlier_back_and_warms_it_now(board: Board) -> None:
    at = layout.cell_at(7)
    board.words[at + layout.CELL_EJECTED_UNTIL] = board.words[at + layout.CELL_WARM_FROM] = 100
    assert board.ejected(7, 50)
    assert board.reset_breaker(7, 50)
    assert not board.ejected(7, 50)
    assert board.words[at + layout.CELL_WARM_FROM] == 50


def test_release_resets_gauges_and_keeps_counters(board: Board) -> None:
    words = _begin(board, 1)
    last_cell = layout.ENDPOINTS_AT + (layout.MAX_ENDPOINTS - 1) * layout.ENDPOINT_WORDS
    words[last_cell + layout.ENDPOINT_IN_FLIGHT] = 3
    words[last_cell + layout.ENDPOINT_FAILURES] = 8
    words[layout.S_TUNNELS] = 2
    words[layout.S_ACCEPTED] = 9
    board.row(1, layout.MAX_SERVICES - 1)[layout.ROW_IN_FLIGHT] = 1
    board.row(1, layout.MAX_SERVICES - 1)[layout.ROW_RETRIES] = 2
    board.release(1)
    assert not board.live(1)
    assert words[last_cell + layout.ENDPOINT_IN_FLIGHT] == 0
    assert words[last_cell + layout.ENDPOINT_FAILURES] == 8
    assert (words[layout.S_TUNNELS], words[layout.S_ACCEPTED]) == (0, 9)
    row = board.row(1, layout.MAX_SERVICES - 1)
    assert (row[layout.ROW_IN_FLIGHT], row[layout.ROW_RETRIES]) == (0, 2)


def test_a_claimed_slab_tells_nothing_of_the_process_before(board: Board) -> None:
    words = _begin(board, 2)
    for word in (layout.S_PID, layout.S_HEARTBEAT, layout.S_NUMBER, layout.S_FORCED_STABLE):
        words[word] = 1
    words[layout.S_LOG_LOST] = 4
    board.release(2)
    board.claim(2, slot=1, now=77)
    worker = board.worker(2)
    assert (worker.pid, worker.heartbeat, worker.number, worker.forced_stable) == (0, 0, 0, False)
    assert (worker.slot, worker.started, worker.state_name) == (1, 77, "starting")
    assert words[layout.S_LOG_LOST] == 4
    assert [found.slab for found in board.workers()] == [2]


def test_health_moves_its_time_only_when_it_changes(board: Board) -> None:
    assert board.health(3) == layout.UNKNOWN
    assert board.set_health(3, layout.UP, 100)
    assert not board.set_health(3, layout.UP, 200)
    assert board.health_changed(3) == 100
    assert board.set_health(3, layout.DOWN, 300)
    assert (board.health(3), board.health_changed(3)) == (layout.DOWN, 300)
    with pytest.raises(ValueError, match="no such health"):
        board.set_health(3, 9, 400)
    board.clear_cell(3)
    assert (board.health(3), board.health_changed(3)) == (layout.UNKNOWN, 0)


def test_passes_in_a_row_go_with_their_endpoint(board: Board) -> None:
    board.set_passes(3, 7)
    assert (board.passes(3), board.passes(4)) == (7, 0)
    board.clear_cell(3)
    assert board.passes(3) == 0
    with pytest.raises(IndexError):
        board.set_passes(layout.MAX_ENDPOINTS, 1)


def test_a_failed_probe_makes_all_passes_new(board: Board) -> None:
    before = layout.cell_at(3) + layout.CELL_PASSES_BEFORE
    board.words[before] = 1
    board.set_passes(3, 2)
    assert board.words[before] == 1
    board.set_passes(3, 0)
    assert board.words[before] == 0


def test_control_writes_its_own_words(board: Board) -> None:
    board.beat_control(123)
    board.set_control_state(layout.STATE_READY)
    assert board.words[layout.H_CONTROL_HEARTBEAT] == 123
    assert board.words[layout.H_CONTROL_STATE] == layout.STATE_READY


def test_no_two_places_of_the_layout_overlap() -> None:
    """Write every word's own number through the layout's formulas; each must be met once."""
    met: set[int] = set(range(layout.HEADER_WORDS))
    expected = layout.HEADER_WORDS

    def meet(at: int, count: int) -> None:
        nonlocal expected
        places = range(at, at + count)
        assert met.isdisjoint(places)
        met.update(places)
        expected += count

    for cell in range(layout.MAX_ENDPOINTS):
        meet(layout.CELLS_AT + cell * layout.CELL_WORDS, layout.CELL_WORDS)
    meet(layout.LIMITS_AT, layout.LIMIT_SETS * layout.LIMIT_SET_WORDS)
    for slab in range(2):
        at = layout.slab_at(slab)
        meet(at, layout.SLAB_HEADER_WORDS)
        for row in range(layout.MAX_SERVICES):
            meet(at + layout.ROWS_AT + row * layout.ROW_WORDS, layout.ROW_WORDS)
        for cell in range(layout.MAX_ENDPOINTS):
            meet(at + layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS, layout.ENDPOINT_WORDS)
    assert len(met) == expected == layout.slab_at(2) == layout.board_bytes(2) // layout.WORD


BOTH = (False, True)


def test_a_side_has_room_for_all_that_it_counts() -> None:
    used = layout.SIDE_UPSTREAM_SECONDS + layout.HISTOGRAM_WORDS
    assert used <= layout.SIDE_WORDS
    sides = {layout.side_index(candidate, green) for candidate in BOTH for green in BOTH}
    assert sides == set(range(layout.SIDES))


_operations = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("request"), st.integers(0, 2), st.integers(0, 3)),
        st.tuples(st.just("done"), st.integers(0, 2), st.integers(0, 3)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(_operations)
def test_sums_agree_with_a_model(operations: list[tuple[str, int, int]]) -> None:
    """Workers come and go in any order: counters never shrink, gauges are the live ones' own."""
    board = Board.create(3)
    live: set[int] = set()
    gauges: dict[tuple[int, int], int] = {}
    counters: dict[int, int] = {}
    for verb, slab, cell in operations:
        words = board.slab(slab)
        at = layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS
        if verb == "begin" and slab not in live:
            _begin(board, slab)
            live.add(slab)
        elif verb == "end" and slab in live:
            board.release(slab)
            live.discard(slab)
            gauges = {key: count for key, count in gauges.items() if key[0] != slab}
        elif verb == "request" and slab in live:
            words[at + layout.ENDPOINT_IN_FLIGHT] += 1
            words[at + layout.ENDPOINT_REQUESTS] += 1
            gauges[slab, cell] = gauges.get((slab, cell), 0) + 1
            counters[cell] = counters.get(cell, 0) + 1
        elif verb == "done" and gauges.get((slab, cell), 0):
            words[at + layout.ENDPOINT_IN_FLIGHT] -= 1
            gauges[slab, cell] -= 1
        for each in range(4):
            in_flight = sum(count for (_, where), count in gauges.items() if where == each)
            assert board.endpoint_in_flight(each) == in_flight
            requests = board.endpoint_total(each, layout.ENDPOINT_REQUESTS)
            assert requests == counters.get(each, 0)
    board.close()


def test_every_gauge_of_the_layout_is_known_to_the_views() -> None:
    """A gauge that the views take for a counter would count a killed worker's for ever."""
    named = {name for name in vars(layout) if name.endswith(("IN_FLIGHT", "TUNNELS"))}
    assert named == {
        "S_IN_FLIGHT",
        "S_TUNNELS",
        "ROW_IN_FLIGHT",
        "ENDPOINT_IN_FLIGHT",
        "ENDPOINT_TUNNELS",
    }
    held = {layout.S_TASKS, layout.S_TIMERS, layout.S_UPSTREAM_BUSY, layout.S_UPSTREAM_IDLE}
    assert held <= {*board_module.SLAB_GAUGES}
    known = {*board_module.SLAB_GAUGES} - {layout.S_CONNECTIONS, layout.S_NOT_ACCEPTING} - held
    assert known == {layout.S_IN_FLIGHT, layout.S_TUNNELS}
