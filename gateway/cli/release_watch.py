"""Watching a release to its end, and keeping its lease meanwhile.

A watch asks once a second: an answer has everything, so nothing is lost with a connection. A
gateway that is away is waited for; its release goes on without it being watched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.admin import release_models as models
from gateway.cli.release_report import Reporter, Seen
from gateway.cli.release_waits import span
from gateway.client.api import AdminClient, AdminError
from gateway.client.exits import Exit

#: Seconds between two looks.
INTERVAL: Final = 1.0
#: Seconds that one look may take.
PATIENCE: Final = 10.0
#: Seconds that a gateway may be away before the watch gives up.
RECONNECT: Final = 60.0
#: Seconds between tries while it is away: the first, and the longest.
BACKOFF: Final = (0.5, 5.0)
#: Seconds between a renewal that failed and the next try, at most.
RENEW_AGAIN: Final = 1.0
#: Seconds that one renewal may take, at most: one that hangs must leave time for others.
RENEW_PATIENCE: Final = 5.0
#: Seconds between renewals, at most.
RENEW_EVERY: Final = 10.0

EXITS: Final[dict[str, Exit]] = {
    "finalized": Exit.DONE,
    "rolled_back": Exit.ROLLED_BACK,
    "aborted": Exit.ROLLED_BACK,
    "held": Exit.HELD,
}


@dataclass(frozen=True, slots=True)
class Times:
    """Where time comes from: seconds that only grow, seconds since the epoch, a sleep."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(slots=True)
class Watched:
    """What a watch knows when it ends, however it ends."""

    last: Seen | None = None
    #: Whether the release's lease is kept from here.
    renewing: bool = False
    #: Whether a release was asked for.
    asked: bool = False


class Watch:
    """One release, looked at until it is over or held."""

    def __init__(
        self, client: AdminClient, reporter: Reporter, times: Times, timeout: float | None
    ) -> None:
        self._client = client
        self._reporter = reporter
        self._times = times
        self._deadline = None if timeout is None else times.clock() + timeout
        self._away_since: float | None = None
        self._pause = INTERVAL

    async def until_over(self, ident: str, watched: Watched) -> Exit:
        """Return how the release ended. Raises AdminError where the gateway cannot be asked."""
        while True:
            found = await self._look(ident, watched.last is not None)
            if found is not None:
                # What was asked for as "current" stays this one when another begins.
                ident = found.value.id
                watched.last = found
                self._reporter.seen(found)
                ended = EXITS.get(found.value.state)
                if ended is not None:
                    return ended
            if self._left() <= 0:
                return Exit.WAIT_RAN_OUT
            await self._times.sleep(min(self._pause, self._left()))

    def _left(self) -> float:
        """Return the seconds left of ``--timeout``."""
        return float("inf") if self._deadline is None else self._deadline - self._times.clock()

    async def _look(self, ident: str, known: bool) -> Seen | None:
        """Ask once; None while the gateway is away."""
        asked = self._times.clock()
        try:
            patience = max(min(PATIENCE, self._left()), INTERVAL)
            found = await self._client.release(ident, patience=patience)
        except AdminError as error:
            if not _away(error, known):
                raise
            self._miss(error, asked)
            return None
        if self._away_since is not None:
            away = span(self._times.clock() - self._away_since)
            self._reporter.note(f"the gateway answers again, after {away}")
        self._away_since = None
        self._pause = INTERVAL
        return found

    def _miss(self, error: AdminError, asked: float) -> None:
        """Say that the gateway is away and is asked again. Raises AdminError at the end."""
        now = self._times.clock()
        first = self._away_since is None
        if self._away_since is None:
            self._away_since = asked
            self._pause = BACKOFF[0]
        else:
            self._pause = min(self._pause * 2, BACKOFF[1])
        left = self._away_since + RECONNECT - now
        if left <= 0:
            detail = f"no answer for {span(RECONNECT)}; the last try: {error.detail}"
            raise AdminError("unreachable", detail) from error
        self._pause = min(self._pause, left)
        aside = " (the release goes on without this watch)" if first else ""
        self._reporter.note(f"{error.detail}; trying again for {span(left)}{aside}")


def _away(error: AdminError, known: bool) -> bool:
    """Tell whether an error may pass by itself: control restarts, a proxy before it waits."""
    if error.kind == "not-a-gateway":
        return known  # where a gateway has answered before
    return error.kind in {"unreachable", "timeout"} or error.status == 429 or error.status >= 500


@dataclass(slots=True)
class Renewal:
    """Keeps a release's lease until it is cancelled."""

    client: AdminClient
    ident: str
    lease: models.LeaseStatus
    note: Callable[[str], None]
    times: Times
    _renewed: float = field(default=0.0, init=False)
    _said: set[str] = field(default_factory=set, init=False)

    async def keep(self) -> None:
        """Renew three times a lease, or each 10 s; a try that failed, each second.

        It goes on after the lease has run out by this clock: a control process that was away
        grants a whole lease when it is back, and this must be there to renew it.
        """
        self._renewed = self.times.clock()
        every = min(self.lease.seconds / 3, RENEW_EVERY)
        patience = max(min(every, RENEW_PATIENCE), INTERVAL)
        pause = every
        while True:
            await self.times.sleep(pause)
            try:
                await self.client.renew_release(self.ident, patience=patience)
            except AdminError as error:
                if error.status in {404, 409}:
                    # Nothing to renew now; whether that is for good is for the watch to see.
                    pause = every
                    continue
                self._missed(error)
                pause = min(every, RENEW_AGAIN)
            else:
                if self._said:
                    self.note("the lease is renewed again")
                self._said.clear()
                self._renewed = self.times.clock()
                pause = every

    def _missed(self, error: AdminError) -> None:
        """Say once that renewing fails, and once that the lease is over."""
        left = self._renewed + self.lease.seconds - self.times.clock()
        if left > 0:
            self._once("failed", f"cannot renew the lease, {span(left)} left: {error.detail}")
        else:
            then = "a rollback" if self.lease.on_lost == "rollback" else "a hold"
            self._once("over", f"the lease has run out here, which means {then}; still trying")

    def _once(self, what: str, text: str) -> None:
        """Say something, once until a renewal succeeds."""
        if what not in self._said:
            self._said.add(what)
            self.note(text)
