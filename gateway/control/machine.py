"""Faults of the machine, told: what control sees of them, as warnings, alert events and log lines.

Each fault is looked for where it is known already (the board, the store, the resolver); nothing is
measured for it. A fault is told when it begins and when it is over, once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.board import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.board.board import Board
    from gateway.control.events import Events
    from gateway.control.switchboard import Switchboard

log = logging.getLogger("gateway.control")

#: Seconds without another loss after which one of log lines or copies is over.
QUIET = 60.0
#: Names that a sentence has room for.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``about`` is its stable name; ``detail`` says what, ``hint`` what to do."""

    about: str
    detail: str
    hint: str


class _Losses:
    """A counter that only grows where something is lost: it was lost lately, or it was not."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lost_at: float | None = None
        #: How much was lost since it began.
        self.lost = 0

    def look(self, count: int, now: float) -> bool:
        """Take the counter of now; tells whether something was lost within ``QUIET``."""
        if self._lost_at is not None and now - self._lost_at > QUIET:
            self._lost_at, self.lost = None, 0
        if count != self._count:
            self.lost += max(0, count - self._count)
            self._count, self._lost_at = count, now
        return self._lost_at is not None


class FaultWatch:
    """Looks at all that may be wrong with the machine. ``clock`` is monotonic, in seconds."""

    def __init__(
        self, board: Board, switchboard: Switchboard, events: Events, clock: Callable[[], float]
    ) -> None:
        self._board = board
        self._switch = switchboard
        self._events = events
        self._clock = clock
        self._lines = _Losses(board.total(layout.S_LOG_LOST))
        self._copies = _Losses(board.total(layout.S_CACHE_FAILED))
        self._told: dict[str, Fault] = {}

    def look(self) -> list[Fault]:
        """Return the faults of now; publish an alert where one has begun or is over."""
        found = {each.about: each for each in self._faults()}
        before, self._told = self._told, found
        for about, fault in found.items():
            if about not in before:
                log.warning("%s; %s", fault.detail, fault.hint)
                self._publish(fault, over=False)
        for about, fault in before.items():
            if about not in found:
                log.info("over: %s", fault.detail)
                self._publish(fault, over=True)
        return list(found.values())

    @property
    def warnings(self) -> list[str]:
        """What ``status`` says, beside what the store says for itself."""
        return [f"{each.detail}; {each.hint}" for each in self.look() if each.about != "store"]

    def _publish(self, fault: Fault, *, over: bool) -> None:
        self._events.publish(
            "alert",
            severity="info" if over else "warning",
            about=fault.about,
            over=over,
            detail=fault.detail,
            hint="" if over else fault.hint,
        )

    def _faults(self) -> Iterator[Fault]:
        board, now = self._board, self._clock()
        if waiting := board.total(layout.S_NOT_ACCEPTING):
            yield Fault(
                "descriptors",
                f"{waiting} worker{'s have' if waiting > 1 else ' has'} no descriptors left for "
                "more clients, who wait",
                "raise LimitNOFILE (ulimit -n), or look who holds so many connections",
            )
        if self._lines.look(board.total(layout.S_LOG_LOST), now):
            yield Fault(
                "access-log",
                f"{self._lines.lost} lines of the access log were lost",
                "look for room on its disk, or whether whoever reads its pipe reads",
            )
        if self._copies.look(board.total(layout.S_CACHE_FAILED), now):
            yield Fault(
                "cache", "the cache cannot be written", "look for room on its disk (cache.path)"
            )
        if self._switch.parts.hub.unwritten:
            yield Fault(
                "snapshot",
                "the snapshot's file cannot be written: a worker that starts without control would "
                "serve an older one",
                "look for room on the state folder's disk",
            )
        if self._switch.unstored or self._switch.parts.store.fallback:
            yield Fault(
                "store",
                "what is in force is not stored: a restart of control may forget it",
                "look for room on the state folder's disk",
            )
        yield from self._names()

    def _names(self) -> Iterator[Fault]:
        failing = self._switch.parts.resolver.failing
        if not failing:
            return
        names = sorted(failing)
        shown = ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
        known = self._switch.parts.resolver.known
        lost = sum(name not in known for name in names)
        kept = (
            f"{lost} of them never could, nothing is sent there"
            if lost
            else "the last answers stand"
        )
        yield Fault(
            "names",
            f"{len(names)} host name{'s' if len(names) > 1 else ''} cannot be resolved ({shown}): "
            f"{kept}",
            f"look at the machine's name servers ({failing[names[0]]})",
        )
