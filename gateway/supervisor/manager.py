"""What the service manager is told of the whole, and when: ready, reloading, stopping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.board import layout

if TYPE_CHECKING:
    from gateway.supervisor.notify import Notifier

#: A reload that control has not ended by then is given up on (seconds).
RELOAD_LIMIT: Final = 60.0


class Manager:
    """The manager's picture of us. ``words`` are the board's."""

    def __init__(self, notifier: Notifier, words: memoryview, version: str) -> None:
        self._notifier = notifier
        self._words = words
        self._version = version
        self._ready = False
        #: The reloads that control had done when this one began, and when it is given up on.
        self._reload: tuple[int, int] | None = None
        self._reload_until = 0.0

    def reload_asked(self, now: float) -> None:
        """SIGHUP has come."""
        words = self._words
        self._reload = (words[layout.H_RELOADS], words[layout.H_RELOADS_REFUSED])
        self._reload_until = now + RELOAD_LIMIT
        self._notifier.reloading("reading the configuration")

    def turn(self, now: float, *, serving: bool, workers: int) -> None:
        """Tell what has changed; keep the watchdog content."""
        self._notifier.beat(now)
        status = f"version {self._version}, {workers} workers serve"
        if serving and not self._ready:
            self._ready = True
            self._notifier.ready(status)
        if self._reload is None:
            return
        done, refused = self._reload
        words = self._words
        if words[layout.H_RELOADS] != done:
            kept = words[layout.H_RELOADS_REFUSED] != refused
            self._end_reload(status + (", the last reload was refused" if kept else ", reloaded"))
        elif now > self._reload_until:
            self._end_reload(status + ", the last reload was not done in time")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._reload = None
        self._ready = True  # nothing is begun any more that could be told of
        self._notifier.stopping(status)

    def close(self) -> None:
        """Say nothing more."""
        self._notifier.close()

    def _end_reload(self, status: str) -> None:
        self._reload = None
        self._notifier.ready(status)
