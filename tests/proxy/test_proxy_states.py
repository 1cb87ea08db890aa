"""The state tables: every pair of state and event, and the wheel."""

from __future__ import annotations

import itertools
import logging

import pytest

from gateway.proxy import states
from gateway.proxy.wheel import AHEAD, NEVER, NOWHERE, TICK, Wheel

MACHINES = [
    (
        states.REQUEST_TABLE,
        states.REQUEST_TRANSITIONS,
        states.REQUEST_STATES,
        states.REQUEST_EVENTS,
    ),
    (states.ANSWER_TABLE, states.ANSWER_TRANSITIONS, states.ANSWER_STATES, states.ANSWER_EVENTS),
]


@pytest.mark.parametrize(("table", "transitions", "names", "events"), MACHINES)
def test_every_pair_is_a_transition_or_illegal(
    table: bytes,
    transitions: dict[tuple[int, int], int],
    names: tuple[str, ...],
    events: tuple[str, ...],
) -> None:
    assert len(table) == len(names) * len(events)
    for state, event in itertools.product(range(len(names)), range(len(events))):
        after = table[state * len(events) + event]
        assert after == transitions.get((state, event), states.ILLEGAL)
        assert after < len(names) or after == states.ILLEGAL


@pytest.mark.parametrize(("table", "transitions", "names", "events"), MACHINES)
def test_every_state_is_reached(
    table: bytes,
    transitions: dict[tuple[int, int], int],
    names: tuple[str, ...],
    events: tuple[str, ...],
) -> None:
    del table, events
    reached = {0}
    while True:
        more = {after for (state, _), after in transitions.items() if state in reached} | reached
        if more == reached:
            break
        reached = more
    assert reached == set(range(len(names)))


def test_what_must_never_happen_is_illegal() -> None:
    legal = {
        (states.ANSWER_STATES[s], states.ANSWER_EVENTS[e]) for s, e in states.ANSWER_TRANSITIONS
    }
    assert ("body", "final head") not in legal  # two answers to one request
    assert ("body", "1xx") not in legal  # an interim answer within the final one
    assert ("done", "final head") not in legal
    assert ("idle", "end of answer") not in legal
    requests = {
        (states.REQUEST_STATES[s], states.REQUEST_EVENTS[e]) for s, e in states.REQUEST_TRANSITIONS
    }
    assert ("body", "next request") not in requests  # content taken for a request
    assert not [event for state, event in requests if state == "closed" and event != "stop reading"]


def test_the_diagrams_come_from_the_tables() -> None:
    text = states.as_markdown()
    arrows = len(states.REQUEST_TRANSITIONS) + len(states.ANSWER_TRANSITIONS)
    assert text.count("-->") == arrows
    assert text.count("```mermaid") == 2
    assert "idle --> body: head with body" in text


# --- the wheel ------------------------------------------------------------------------------------


class Entry:
    """An entry as a connection is one."""

    def __init__(self, wheel: Wheel) -> None:
        self.wheel = wheel
        self.deadline = NEVER
        self.place = NOWHERE
        self.visits = 0
        self.fired: list[float] = []

    def arm(self, deadline: float) -> None:
        self.deadline = deadline
        if deadline < (self.place - 1) * TICK:
            self.place = self.wheel.put(self, deadline)

    def on_wheel(self, place: int, now: float) -> None:
        if place != self.place:
            return
        self.visits += 1
        self.place = NOWHERE
        if self.deadline == NEVER:
            return
        if now < self.deadline:
            self.place = self.wheel.put(self, self.deadline)
        else:
            self.fired.append(now)
            self.deadline = NEVER


def _turn(wheel: Wheel, seconds: float) -> None:
    now = wheel.now
    for _ in range(round(seconds / TICK)):
        now += TICK
        wheel.advance(now)


@pytest.mark.parametrize("seconds", [0.1, 0.25, 1.0, 4.95, 5.0, 5.05, 75.0])
@pytest.mark.parametrize("start", [0.0, 1000.0, 1000.03, 123456.789])
def test_an_entry_fires_once_and_never_early(seconds: float, start: float) -> None:
    wheel = Wheel(start)
    entry = Entry(wheel)
    entry.arm(start + seconds)
    _turn(wheel, seconds + 1.0)
    assert len(entry.fired) == 1
    assert start + seconds <= entry.fired[0] <= start + seconds + 2 * TICK + 1e-6
    assert len(wheel) == 0


def test_a_deadline_moved_later_costs_nothing_until_its_visit() -> None:
    wheel = Wheel(100.0)
    entry = Entry(wheel)
    for step in range(1000):
        entry.arm(103.0 + step / 1000)
    assert len(wheel) == 1
    _turn(wheel, 5.0)
    assert entry.visits == 2
    assert 103.999 <= entry.fired[0] <= 104.3


def test_a_deadline_moved_earlier_is_kept() -> None:
    wheel = Wheel(100.0)
    entry = Entry(wheel)
    entry.arm(104.0)
    entry.arm(101.0)
    _turn(wheel, 5.0)
    assert len(entry.fired) == 1
    assert 101.0 <= entry.fired[0] <= 101.3
    assert len(wheel) == 0


def test_nothing_stays_longer_than_the_wheel_looks_ahead() -> None:
    wheel = Wheel(100.0)
    entry = Entry(wheel)
    entry.arm(10_000.0)
    assert len(wheel) == 1
    entry.place = NOWHERE  # it is closed
    _turn(wheel, AHEAD + 2 * TICK)
    assert len(wheel) == 0


def test_a_wheel_that_was_held_up_catches_up() -> None:
    wheel = Wheel(100.0)
    entries = [Entry(wheel) for _ in range(50)]
    for at, entry in enumerate(entries):
        entry.arm(100.0 + at / 10)
    wheel.advance(200.0)
    assert all(entry.fired == [200.0] for entry in entries)


def test_a_broken_entry_does_not_cost_the_others_their_deadlines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def on_wheel(self, place: int, now: float) -> None:
            raise RuntimeError(f"at {place}, {now}")

    wheel = Wheel(100.0)
    wheel.put(Broken(), 101.0)
    entry = Entry(wheel)
    entry.arm(101.0)
    with caplog.at_level(logging.CRITICAL + 1):
        _turn(wheel, 2.0)
    assert len(entry.fired) == 1
