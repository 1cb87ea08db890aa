"""A release's states as a table. Pure.

``where`` is the phase that a release is in, also while it is paused or held: that is what ``BACK``
returns to. Rolling back is a state of its own because it takes until the last worker has confirmed
and what was in flight is over; a control process that comes back in it goes on with that.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

#: Where on its way a release is.
Phase = Literal["validating", "stepping", "baking"]
State = Literal[
    "validating",
    "stepping",
    "baking",
    "paused",
    "held",
    "rolling_back",
    "rolled_back",
    "aborted",
    "finalized",
]
Event = Literal[
    #: The candidates are healthy, or a step has passed: on to a step below 100 %, or to the last.
    "advance",
    "arrive",
    #: The candidates did not become healthy in time.
    "invalid",
    "pause",
    "resume",
    #: Someone has to look: it neither goes on nor back by itself.
    "hold",
    "roll_back",
    #: Every worker is on stable; by whose doing: the gateway's, or a person's.
    "undone",
    "undone_by_hand",
    "finalize",
]

PHASES: Final[tuple[Phase, ...]] = ("validating", "stepping", "baking")
STATES: Final[tuple[State, ...]] = get_args(State)
#: Nothing comes after these.
TERMINAL: Final[frozenset[State]] = frozenset({"rolled_back", "aborted", "finalized"})
#: In these a release is on its way; ``rolling_back`` is no longer.
RUNNING: Final[frozenset[State]] = frozenset({"validating", "stepping", "baking", "paused", "held"})
#: The state to go to is the phase that the release is in.
BACK: Final = "back"

TABLE: Final[dict[tuple[State, Event], State | Literal["back"]]] = {
    ("validating", "advance"): "stepping",
    ("validating", "arrive"): "baking",
    ("validating", "invalid"): "aborted",
    ("validating", "pause"): "paused",
    ("validating", "hold"): "held",
    ("validating", "roll_back"): "rolling_back",
    ("stepping", "advance"): "stepping",
    ("stepping", "arrive"): "baking",
    ("stepping", "pause"): "paused",
    ("stepping", "hold"): "held",
    ("stepping", "roll_back"): "rolling_back",
    ("baking", "pause"): "paused",
    ("baking", "hold"): "held",
    ("baking", "roll_back"): "rolling_back",
    ("baking", "finalize"): "finalized",
    ("paused", "resume"): BACK,
    ("paused", "advance"): "stepping",
    ("paused", "arrive"): "baking",
    ("paused", "hold"): "held",
    ("paused", "roll_back"): "rolling_back",
    ("paused", "finalize"): "finalized",
    ("held", "resume"): BACK,
    ("held", "advance"): "stepping",
    ("held", "arrive"): "baking",
    ("held", "finalize"): "finalized",
    ("held", "roll_back"): "rolling_back",
    ("rolling_back", "undone"): "rolled_back",
    ("rolling_back", "undone_by_hand"): "aborted",
}


class IllegalMoveError(Exception):
    """An event that a state does not know: a fault of the caller's."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a release that is {state} knows no {event}")
        self.state = state
        self.event = event


def after(state: State, event: Event, where: Phase) -> tuple[State, Phase]:
    """Return the state and phase after an event. Raises IllegalMoveError."""
    found = TABLE.get((state, event))
    if found is None:
        raise IllegalMoveError(state, event)
    if found == BACK:
        return where, where
    if found in PHASES:
        return found, found
    return found, where


def knows(state: State, event: Event) -> bool:
    """Tell whether a state knows an event."""
    return (state, event) in TABLE


def as_markdown() -> str:
    """Return the table as a Mermaid state diagram for the documentation."""
    lines = ["```mermaid", "stateDiagram-v2", "  [*] --> validating: start"]
    for (state, event), target in TABLE.items():
        if target == BACK:
            lines += [f"  {state} --> {phase}: {event}, where it was {phase}" for phase in PHASES]
        else:
            lines.append(f"  {state} --> {target}: {event}")
    lines += [f"  {state} --> [*]" for state in STATES if state in TERMINAL]
    return "\n".join([*lines, "```"])
