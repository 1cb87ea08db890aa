"""Events for those who watch: a bounded ring, resumable by id, and bounded subscribers."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Events kept for a watcher that comes back, watchers at a time, events waiting for one of them.
KEPT = 1000
MAX_WATCHERS = 64
MAX_WAITING = 256


@dataclass(frozen=True, slots=True)
class Event:
    """One event: ``kind`` is traffic, health, breaker, pool, mode or config; ``data`` is JSON."""

    id: str
    kind: str
    data: bytes


class TooManyWatchersError(Exception):
    """The bound on watchers is reached."""


class Watcher:
    """One reader's queue. ``next`` returns None once it has fallen too far behind."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._filled = asyncio.Event()
        self._cut = False

    def put(self, event: Event) -> None:
        """Add one event, or cut a reader off that does not read."""
        if len(self._waiting) >= MAX_WAITING:
            self._cut = True
        else:
            self._waiting.append(event)
        self._filled.set()

    def end(self) -> None:
        """End it once what waits has been read."""
        self._cut = True
        self._filled.set()

    async def next(self) -> Event | None:
        """Return the next event; None: no more will come, read on by resuming."""
        while not self._waiting:
            if self._cut:
                return None
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popleft()


class Events:
    """The ring. ``epoch`` tells this process's ids from those of one before."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._ring: deque[Event] = deque(maxlen=KEPT)
        self._count = 0
        self._watchers: set[Watcher] = set()

    def publish(self, kind: str, **data: object) -> Event:
        """Add one event and hand it to all watchers. ``data`` must be JSON."""
        self._count += 1
        event = Event(f"{self._epoch}-{self._count}", kind, msgspec.json.encode(data))
        self._ring.append(event)
        for watcher in self._watchers:
            watcher.put(event)
        return event

    def since(self, last: str | None) -> list[Event]:
        """Return what came after the event called ``last``.

        An id that is not known here (another process's, or too old) gives all that is kept; None
        gives nothing.
        """
        if last is None:
            return []
        kept = list(self._ring)
        for position, event in enumerate(kept):
            if event.id == last:
                return kept[position + 1 :]
        return kept

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Give a queue of what comes from now on. Raises TooManyWatchersError at the bound."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchersError(f"at most {MAX_WATCHERS} watchers at a time")
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """End all watchers."""
        for watcher in self._watchers:
            watcher.end()
