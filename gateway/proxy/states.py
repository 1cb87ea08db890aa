"""The downstream connection's state machine, as tables.

Like h11's, it is two machines that meet: the client's side (``REQUEST_*``) and ours (``ANSWER_*``).
A connection takes the next request when both are done and both want to go on. An illegal pair
raises; docs/http.md's diagram is made from these tables (``as_markdown``).
"""

from __future__ import annotations

REQUEST_IDLE, REQUEST_BODY, REQUEST_DONE, REQUEST_CLOSED = 0, 1, 2, 3
REQUEST_STATES = ("idle", "body", "done", "closed")

HEAD_WITH_BODY, HEAD_ALONE, BODY_END, REQUEST_RESET, REQUEST_STOP = 0, 1, 2, 3, 4
REQUEST_EVENTS = ("head with body", "head alone", "end of body", "next request", "stop reading")

ANSWER_IDLE, ANSWER_WAIT, ANSWER_BODY, ANSWER_DONE = 0, 1, 2, 3
ANSWER_STATES = ("idle", "wait", "body", "done")

EXCHANGE_BEGINS, ANSWER_INFORMS, ANSWER_HEAD, ANSWER_END, ANSWER_RESET = 0, 1, 2, 3, 4
ANSWER_EVENTS = ("exchange begins", "1xx", "final head", "end of answer", "next request")

#: Stands in a table where there is no next state.
ILLEGAL = 255

REQUEST_TRANSITIONS: dict[tuple[int, int], int] = {
    (REQUEST_IDLE, HEAD_WITH_BODY): REQUEST_BODY,
    (REQUEST_IDLE, HEAD_ALONE): REQUEST_DONE,
    (REQUEST_BODY, BODY_END): REQUEST_DONE,
    (REQUEST_DONE, REQUEST_RESET): REQUEST_IDLE,
    (REQUEST_IDLE, REQUEST_STOP): REQUEST_CLOSED,
    (REQUEST_BODY, REQUEST_STOP): REQUEST_CLOSED,
    (REQUEST_DONE, REQUEST_STOP): REQUEST_CLOSED,
    (REQUEST_CLOSED, REQUEST_STOP): REQUEST_CLOSED,
}

ANSWER_TRANSITIONS: dict[tuple[int, int], int] = {
    (ANSWER_IDLE, EXCHANGE_BEGINS): ANSWER_WAIT,
    # A refusal of what is no request (bad framing, a head that never came).
    (ANSWER_IDLE, ANSWER_HEAD): ANSWER_BODY,
    (ANSWER_WAIT, ANSWER_INFORMS): ANSWER_WAIT,
    (ANSWER_WAIT, ANSWER_HEAD): ANSWER_BODY,
    (ANSWER_BODY, ANSWER_END): ANSWER_DONE,
    (ANSWER_DONE, ANSWER_RESET): ANSWER_IDLE,
}


class IllegalTransition(RuntimeError):  # noqa: N818 - says what happened
    """Code asked a state machine for what it does not do. Always a bug of the gateway."""


def dense(transitions: dict[tuple[int, int], int], states: int, events: int) -> bytes:
    """Return the table as ``bytes[state * events + event]``."""
    table = bytearray([ILLEGAL] * (states * events))
    for (state, event), after in transitions.items():
        table[state * events + event] = after
    return bytes(table)


REQUEST_TABLE = dense(REQUEST_TRANSITIONS, len(REQUEST_STATES), len(REQUEST_EVENTS))
ANSWER_TABLE = dense(ANSWER_TRANSITIONS, len(ANSWER_STATES), len(ANSWER_EVENTS))


def as_markdown() -> str:
    """Return both machines as Mermaid state diagrams for the documentation."""
    lines = []
    for title, states, events, transitions in (
        ("request", REQUEST_STATES, REQUEST_EVENTS, REQUEST_TRANSITIONS),
        ("answer", ANSWER_STATES, ANSWER_EVENTS, ANSWER_TRANSITIONS),
    ):
        lines.append(f"```mermaid\nstateDiagram-v2\n  %% {title}")
        lines += [
            f"  {states[state]} --> {states[after]}: {events[event]}"
            for (state, event), after in transitions.items()
        ]
        lines.append("```\n")
    return "\n".join(lines)
