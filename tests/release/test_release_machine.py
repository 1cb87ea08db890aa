"""The table of a release's states, walked whole."""

from __future__ import annotations

from typing import get_args

import pytest

from gateway.release.machine import (
    PHASES,
    RUNNING,
    TABLE,
    TERMINAL,
    Event,
    IllegalMoveError,
    Phase,
    State,
    after,
    knows,
)

STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("where", PHASES)
def test_every_pair_is_a_move_or_illegal(state: State, event: Event, where: Phase) -> None:
    if (state, event) not in TABLE:
        assert not knows(state, event)
        with pytest.raises(IllegalMoveError, match=state):
            after(state, event, where)
        return
    found, phase = after(state, event, where)
    assert found in STATES
    # The phase is where a release is; a state that is no phase leaves it as it was.
    assert phase == (found if found in PHASES else where)


def test_nothing_comes_after_the_end() -> None:
    assert not [pair for pair in TABLE if pair[0] in TERMINAL]


@pytest.mark.parametrize("state", sorted(RUNNING))
def test_a_running_release_can_always_be_taken_back(state: State) -> None:
    assert after(state, "roll_back", "stepping")[0] == "rolling_back"


@pytest.mark.parametrize("state", sorted(RUNNING - {"held"}))
def test_a_running_release_can_always_be_held(state: State) -> None:
    where: Phase = "baking"
    assert after(state, "hold", where) == ("held", where)


@pytest.mark.parametrize("where", PHASES)
@pytest.mark.parametrize("state", ["paused", "held"])
def test_resuming_goes_back_to_where_it_was(state: State, where: Phase) -> None:
    assert after(state, "resume", where) == (where, where)


def test_only_the_way_through_100_percent_ends_finalized() -> None:
    into = {pair[0] for pair, target in TABLE.items() if target == "finalized"}
    # From held by promoting it beyond its last step: a person has looked.
    assert into == {"baking", "paused", "held"}


def test_every_state_can_be_reached() -> None:
    reached: set[str] = {"validating"}
    while True:
        more = {
            after(state, event, where)[0]
            for state, event in TABLE
            if state in reached
            for where in PHASES
        }
        if more <= reached:
            break
        reached |= more
    assert reached == set(STATES)
