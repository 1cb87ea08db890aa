"""A downstream without a client: for requests that the gateway makes on its own account.

A copy that is served while it is validated (RFC 5861 section 3) is validated by an exchange like
any other: the same endpoints, bounds, retries and records. What it would tell its client it tells
this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.proxy.errors import Failure
from gateway.proxy.stream import ClientStream
from gateway.proxy.wheel import NEVER

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Protocol

    from gateway.policy.fallback import StaticAnswer
    from gateway.proxy.links import Passage
    from gateway.proxy.wheel import Wheel
    from gateway.wire.head import Head

    class Quietly(Protocol):
        """An exchange as this stream sees it."""

        def is_collecting(self) -> bool:
            """Tell whether anything of the answer is being kept."""

        def on_answered(self) -> None:
            """The answer is complete."""

        def on_client_left(self, failure: Failure) -> None:
            """It will not be."""

        def on_total_timeout(self) -> None:
            """It takes too long."""


class QuietStream(ClientStream):
    """A ``links.Stream`` that answers to nobody; ``exchange`` is set before it begins.

    It is over as soon as nothing of the answer is kept; ``done`` is called then, once.
    """

    __slots__ = (
        "_deadline",
        "_done",
        "_over",
        "_wheel",
        "exchange",
    )

    def __init__(self, wheel: Wheel, peer: str, tls: bool, done: Callable[[], None]) -> None:
        self._done = done
        self.listener = -1  # none: where it asks from is no client's address
        self.memo = None
        self.peer = peer
        self.tls = tls
        self.sent = 0
        self.taken = 0
        self.exchange: Quietly | None = None
        self._wheel = wheel
        self._deadline = NEVER
        self._over = False

    @property
    def full(self) -> bool:
        """Nobody reads slowly."""
        return False

    @property
    def held(self) -> bool:
        """Nobody sends."""
        return False

    def transport(self) -> asyncio.Transport:
        """There is none: no tunnel begins here."""
        raise RuntimeError("a request without a client has no transport")

    def expect(self, deadline: float, between: float) -> None:
        """Bound the exchange; nobody reads a stream here, so that its bound stands for it too."""
        del between
        if deadline == NEVER:
            return
        waits = self._deadline != NEVER
        self._deadline = deadline
        if not waits:
            self._wheel.put(self, deadline)

    def on_wheel(self, place: int, now: float) -> None:
        """Be visited by the timer wheel."""
        del place
        if self._over or self._deadline == NEVER or self.exchange is None:
            return
        if now < self._deadline:
            self._wheel.put(self, self._deadline)
            return
        self._deadline = NEVER
        self.exchange.on_total_timeout()

    def limit_body(self, limit: int) -> None:
        """It has no body."""

    def pause(self) -> None:
        """Nothing is read."""

    def resume(self) -> None:
        """Nothing is read."""

    def inform(self, head: Head) -> None:
        """Nobody is told."""

    def respond(self, head: Head, drop: int, extra: bytes, body: bytes, ended: bool) -> None:
        """Take the answer's head."""
        del head, drop, extra
        self._take(body, ended)

    def deliver(self, block: bytes, lines: bytes, body: bytes) -> None:
        """Take a whole answer."""
        del block, lines
        self._take(body, True)

    def write(self, payload: bytes) -> None:
        """Take more of it."""
        self._take(payload, False)

    def end(self, payload: bytes, trailers: Head | None) -> None:
        """Take the rest of it."""
        del trailers
        self._take(payload, True)

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Take an answer of the gateway's own."""
        del status, lines
        self._take(body, True)

    def refuse(self, failure: Failure, extra: bytes, page: StaticAnswer | None = None) -> None:
        """There was no answer, or not all of it."""
        del extra, page
        self._abandon(failure)

    def reply(self, status: int, lines: bytes) -> None:
        """Take an answer without content."""
        del status, lines
        self._take(b"", True)

    def switch(self, head: Head, extra: bytes, tunnel: Passage) -> None:
        """Nobody asked for it."""
        raise RuntimeError("a request without a client cannot switch protocols")

    def _take(self, payload: bytes, ended: bool) -> None:
        self.sent += len(payload)
        if not ended:
            if self.exchange is not None and not self.exchange.is_collecting():
                self._abandon(Failure("client-left"))
        elif not self._over:
            exchange = self._end()
            if exchange is not None:
                exchange.on_answered()

    def _abandon(self, failure: Failure) -> None:
        exchange = self._end()
        if exchange is not None:
            exchange.on_client_left(failure)

    def _end(self) -> Quietly | None:
        exchange, self.exchange = self.exchange, None
        if not self._over:
            self._over = True
            self._done()
        return exchange
