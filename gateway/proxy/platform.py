"""Platform mode as one worker knows it: from the board, a few times a second, control or not.

A request pays nothing for it: it finds ``read_only``, the names of what is ``down`` and the public
status ready made.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import orjson

from gateway.board import judge, layout
from gateway.policy.mode import Picture, Platform

if TYPE_CHECKING:
    from gateway.config.snapshot import Topology, Traffic
    from gateway.policy.mode import Mode

#: Seconds between two looks at the board. One look reads a word or two of each endpoint.
INTERVAL = 0.25

#: Where everybody may ask, on every public listener, whatever the host.
STATUS_PATH = b"/.well-known/gateway/status"

#: Where an outer balancer may ask whether to send traffic here; no before the gateway stops.
READY_PATH = b"/.well-known/gateway/ready"

READY_LINES = (
    b"Content-Type: application/json\r\nCache-Control: no-store\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
)
READY = b'{"status":"ok"}'
LEAVING = b'{"status":"stopping"}'

STATUS_LINES = (
    b"Content-Type: application/json\r\n"
    b"Cache-Control: public, max-age=5\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
)

#: Seconds that a client is asked to wait while writes are refused: about what a service that
#: comes back needs to be seen.
READ_ONLY_RETRY = 10.0


class PlatformView:
    """Mode and states of now. ``words`` is the whole board, ``slabs`` the workers' places on it."""

    __slots__ = ("_forced", "_looked", "_picture", "_platform", "_slabs", "_snapshot", "_words",
                 "document", "down", "read_only")  # fmt: skip

    def __init__(self, words: memoryview, slabs: int) -> None:
        self._words = words
        self._slabs = slabs
        self._platform = Platform()
        self._snapshot: tuple[Topology, Traffic] | None = None
        self._forced = False
        self._looked = 0.0
        self._picture = Picture("full", {})
        self.read_only = False
        #: Services that are down.
        self.down: frozenset[str] = frozenset()
        #: The public status as JSON.
        self.document = _document(self._picture)

    @property
    def leaving(self) -> bool:
        """Whether the gateway was told to end, and still serves for a while."""
        return bool(self._words[layout.H_LEAVING])

    @property
    def mode(self) -> Mode:
        """The mode of now."""
        return self._picture.mode

    def serve(self, topology: Topology, traffic: Traffic, now: float) -> None:
        """Look at this snapshot from now on; ``now`` is monotonic seconds."""
        self._snapshot = (topology, traffic)
        self._platform.serve(topology, traffic, forced=self._forced)
        self.look(now)

    def turn(self, now: float, *, forced: bool) -> None:
        """Look again where it is time; ``forced``: everything goes to stable."""
        if forced != self._forced:
            self._forced = forced
            if self._snapshot is not None:
                self.serve(*self._snapshot, now)
        elif now - self._looked >= INTERVAL:
            self.look(now)

    def look(self, now: float) -> None:
        """Look at the board now."""
        self._looked = now
        words, slabs = self._words, self._slabs
        shown = self._platform.look(
            partial(judge.can_serve, words),
            lambda row: judge.fallbacks(words, row, slabs),
            now,
        )
        if shown != self._picture:
            self._picture = shown
            self.read_only = shown.mode == "read_only"
            self.down = frozenset(name for name, state in shown.states.items() if state == "down")
            self.document = _document(shown)

    def refuses(self, service: str) -> bool:
        """Tell whether a method that is not safe is refused for a service: never for one up."""
        return self.read_only and service in self.down


def _document(shown: Picture) -> bytes:
    return orjson.dumps({"mode": shown.mode, "services": dict(shown.states)})
