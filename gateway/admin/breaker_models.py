"""What the calls about breakers take and give (see ``models``)."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from gateway.admin.models import Answer, BreakerState, Color, Reason, Request, Role

#: In the order of the board's words.
BREAKER_STATES: Final[tuple[BreakerState, ...]] = ("closed", "open", "half_open", "forced_open")


def breaker_state(word: int) -> BreakerState:
    """Return the name of a breaker's word on the board."""
    return BREAKER_STATES[word]


class BreakerOpen(Request):
    """Send an endpoint nothing until its breaker is reset."""

    force: bool = Field(default=False, description="even where no other endpoint could take over")
    reason: Reason = ""


class BreakerReset(Request):
    """Close an endpoint's breaker, and bring it back where it was left out as an outlier."""

    reason: Reason = ""


class BreakerStatus(Answer):
    """One endpoint's breaker as it stands now, for the whole machine."""

    endpoint: str
    service: str
    color: Color
    role: Role
    url: str
    state: BreakerState = Field(
        description="forced_open: opened by hand, until it is reset; half_open: one request tries"
    )
    failures: int = Field(default=0, description="failed attempts in a row")
    openings: int = Field(default=0, description="how often it has opened by itself")
    next_try: float | None = Field(
        default=None,
        description="open: seconds until one request tries again (earlier after two passed probes)",
    )
    ejected: bool = Field(default=False, description="left out for a while as an outlier")
    ejected_for: float | None = Field(default=None, description="seconds that it still is")


class BreakersAnswer(Answer):
    """Every endpoint's breaker."""

    breakers: list[BreakerStatus]


class BreakerAnswer(Answer):
    """A breaker after a write. All workers see it at once: it stands in shared memory."""

    breaker: BreakerStatus
    changed: bool
