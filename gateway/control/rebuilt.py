"""A state store that was lost: what was made of it, said once and loudly.

Users notice nothing of it: workers serve on, and what they serve is what the state is made from. So
nobody would notice either that the audit log is gone: this says it, as a line in the log, an alert,
a row of the new audit log, a warning of ``status`` for an hour and a metric.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from gateway.control.store import AuditEntry, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.control.events import Events
    from gateway.control.start import Beginning
    from gateway.control.store import Mishap, SqliteStore, Store

log = logging.getLogger("gateway.control")

ACTION: Final = "state.rebuilt"
#: Seconds that ``status`` warns of it.
WARNED: Final = 3600.0

_LOST: Final = (
    "lost: the audit log, the history of releases, idempotency keys, stable's latencies and which "
    "builds are condemned"
)
_FROM: Final = {
    "copy": "the second copy of the state and the snapshot that workers serve; recovered: roles, "
    "weights, pools, what is isolated, drained or in maintenance, breakers opened by hand, and the "
    "release, whose evidence begins anew",
    "snapshot": "the snapshot that workers serve; recovered: roles, weights, pools, what is "
    "isolated, drained or in maintenance, and breakers opened by hand",
    "configuration": "the configuration alone; recovered: nothing that was set by API",
}
_HINT: Final = "find out who removes it; copy it elsewhere with sqlite3's .backup"


def at_start(store: Store | SqliteStore, first: Beginning, others: Callable[[], str] = str) -> str:
    """Say what was lost before this process began, empty where nothing was.

    ``others`` says what the files of earlier boots have, for where the configuration alone counts.
    """
    aside = getattr(store, "aside", None)
    if first.kept is not None:
        if first.source == "store":
            return ""
        cause = "is older than what workers serve"
    elif store.fallback:
        cause = "cannot be used"
    elif aside is not None:
        cause = f"was of no use (it is {aside.name} now)"
    else:
        cause = "was deleted or emptied"
    unread = getattr(store, "unread", False)
    silent = not (first.served or aside or unread)
    if first.kept is None and first.source == "configuration" and silent:
        return ""  # the first start there ever was
    run = first.state.run
    known = first.source == "copy" or run is None or run.over
    release = (
        "" if known or run is None else f" Nobody knows the plan of release {run.id} any more."
    )
    # A file that is whole, and of no use to this process now, has lost nothing.
    there = store.fallback and (unread or first.kept is not None)
    lost = _LOST.replace("lost: ", "out of reach: ") if there else _LOST
    text = f"the state store {cause}; rebuilt from {_FROM[first.source]}; {lost}.{release}"
    had = others() if first.source == "configuration" else ""
    return f"{text} {had}: gateway adopt says which color production is." if had else text


def at_mending(mishap: Mishap) -> str:
    """Say what was made of a file that was of no use when it could be read at last."""
    aside = "" if mishap.aside is None else f" (it is {mishap.aside.name} now)"
    how = f"the state store, out of reach since control began, was {mishap.what}{aside}"
    return f"{how}; rebuilt from what is in force; {_LOST}"


def while_in_use(mishap: Mishap) -> str:
    """Say what was made of a file that was lost below its process."""
    aside = "" if mishap.aside is None else f" (what lay there is {mishap.aside.name} now)"
    how = f"the state store was {mishap.what} while it was in use{aside}"
    if mishap.whole:
        return f"{how}; rebuilt from what was open still; nothing is lost"
    return f"{how}; rebuilt from what is in force; {_LOST}"


class Rebuilt:
    """What is told of stores that were lost. ``wall`` is seconds since the epoch."""

    def __init__(self, events: Events, wall: Callable[[], float]) -> None:
        self._events = events
        self._wall = wall
        self._text = ""
        #: When it was, seconds since the epoch; 0: never, as far as is known.
        self.at = 0.0

    async def remember(self, store: Store) -> None:
        """Take up what an earlier process has told, so that a restart does not hush it up."""
        try:
            row = await store.last(ACTION)
        except StoreError:
            return  # told as what it is elsewhere
        if row is not None:
            self.at, self._text = row.at, row.reason

    def tell(self, text: str) -> AuditEntry:
        """Say it; the audit log's row is returned, to be stored."""
        self.at, self._text = self._wall(), text
        log.error("%s", text)
        self._events.publish(
            "alert", severity="critical", about="store", over=False, detail=text, hint=_HINT
        )
        return AuditEntry(at=self.at, actor="gateway", address="", action=ACTION, reason=text)

    @property
    def warnings(self) -> list[str]:
        """What ``status`` says for an hour."""
        if not self._text or not 0 <= self._wall() - self.at < WARNED:
            return []
        return [self._text]
