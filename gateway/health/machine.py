"""Health as a table: what a probe's result makes of a level, and levels of an endpoint.

Pure. A level is ``unknown`` until seen: its first good probe makes it up (a new build need not wait
longer than it takes to answer), ``fall`` bad ones in a row make it down. From then on ``fall`` bad
ones in a row take it down and ``rise`` good ones in a row bring it back: one failed probe ejects
nobody, one lucky probe restores nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from gateway.board import layout


class Health(Enum):
    """What is known of a level or an endpoint; the values are the board's."""

    UNKNOWN = layout.UNKNOWN
    UP = layout.UP
    DOWN = layout.DOWN

    @property
    def word(self) -> Literal["unknown", "up", "down"]:
        """The name in answers and metrics."""
        return _WORDS[self]


_WORDS: dict[Health, Literal["unknown", "up", "down"]] = {
    Health.UNKNOWN: "unknown",
    Health.UP: "up",
    Health.DOWN: "down",
}

#: (state, whether the probe was good) -> (how many such in a row move it, where to).
TABLE: dict[tuple[Health, bool], tuple[Literal["once", "rise", "fall", "never"], Health]] = {
    (Health.UNKNOWN, True): ("once", Health.UP),
    (Health.UNKNOWN, False): ("fall", Health.DOWN),
    (Health.UP, True): ("never", Health.UP),
    (Health.UP, False): ("fall", Health.DOWN),
    (Health.DOWN, True): ("rise", Health.UP),
    (Health.DOWN, False): ("never", Health.DOWN),
}


@dataclass(frozen=True, slots=True)
class Level:
    """One level's state. ``streak`` counts results in a row that speak against it."""

    health: Health = Health.UNKNOWN
    streak: int = 0

    def after(self, good: bool, *, rise: int, fall: int) -> Level:
        """Return the level after one more probe."""
        needed, target = TABLE[self.health, good]
        if needed == "never":
            return Level(self.health)
        threshold = {"once": 1, "rise": rise, "fall": fall}[needed]
        streak = self.streak + 1
        return Level(target) if streak >= threshold else Level(self.health, streak)


UNSEEN = Level()


def combined(levels: list[Level]) -> Health:
    """Return an endpoint's health: down where a level is, up where all are, else unknown."""
    if any(level.health is Health.DOWN for level in levels):
        return Health.DOWN
    if levels and all(level.health is Health.UP for level in levels):
        return Health.UP
    return Health.UNKNOWN
