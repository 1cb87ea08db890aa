"""Requests for one answer: one of them is under way to a backend, the others wait for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from gateway.proxy.wheel import NOWHERE

if TYPE_CHECKING:
    from gateway.proxy.wheel import Wheel

logger = logging.getLogger(__name__)

#: Seconds that a request waits for another's answer, and how many do at most.
MAX_WAIT = 5.0
MAX_WAITING = 1024


class Waiting(Protocol):
    """A visit that waits."""

    def go_on(self, again: bool) -> None:
        """The answer is there, or will not come. ``again``: another one may be waited for."""


class Flight:
    """One request that is under way; ``flights`` has it by ``key`` until it lands.

    ``since``: when it was asked, in seconds of the epoch.
    """

    __slots__ = ("_flights", "_key", "_place", "_waiting", "_wheel", "since")

    def __init__(
        self, flights: dict[bytes, Flight], key: bytes, wheel: Wheel, since: float
    ) -> None:
        self.since = since
        self._flights = flights
        self._key = key
        self._wheel = wheel
        self._place = NOWHERE
        self._waiting: list[Waiting] = []
        flights[key] = self

    @property
    def full(self) -> bool:
        """Whether as many wait for it as may."""
        return len(self._waiting) >= MAX_WAITING

    def wait(self, visit: Waiting) -> None:
        """Have one more wait; the first begins the time that all of them do at most."""
        if self._place == NOWHERE:
            self._place = self._wheel.put(self, self._wheel.now + MAX_WAIT)
        self._waiting.append(visit)

    def leave(self, visit: Waiting) -> None:
        """Have one wait no longer."""
        if visit in self._waiting:
            self._waiting.remove(visit)

    def on_wheel(self, place: int, now: float) -> None:
        """The wait is over: everybody goes to the backend."""
        del now
        if place == self._place:
            self.land(again=False)

    def land(self, *, again: bool) -> None:
        """Nobody waits for it any more: who does looks again.

        ``again``: its client has left, which says nothing of the answer; the first of them asks,
        the others wait for it. Else all of them go on at once.
        """
        if self._flights.get(self._key) is self:
            del self._flights[self._key]
        waiting, self._waiting = self._waiting, []
        for visit in waiting:
            try:
                visit.go_on(again)
            except Exception:
                # One request's trouble must not leave the others waiting for ever.
                logger.exception("a request that waited for another's answer could not go on")
