"""How long a client of the admin API may hold a connection, and how many there may be.

aiohttp waits for a first head for ever, and for a reader that does not read. A ``Patient`` stands
before its protocol, hands everything on, and cuts a connection whose head, whose reading or whose
next request takes too long; at the bound one without a request under way gives way to the newcomer:
of those whose address holds most of them the one that has waited longest. A request is under way
once it is known who calls, and has its own bounds then (the body's time, the call's).

What strangers ask for is cheap and not free: so many of them are answered in a while, whatever
their connections ask, and the others wait in line. So they cannot take the loop from an operator.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from gateway.admin.sources import oldest_of_the_most, source_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Seconds for a head to arrive, and for an answer to be read and the next request to begin.
HEAD_TIMEOUT: Final = 10.0
NEXT_TIMEOUT: Final = 60.0
MAX_CONNECTIONS: Final = 256
#: Answers to strangers in ``TURN`` seconds: 200 in a second.
TURN: Final = 0.05
STRANGERS: Final = 10


class Patience:
    """All connections of the admin API."""

    def __init__(
        self,
        protocol: Callable[[], Any],
        *,
        most: int = MAX_CONNECTIONS,
        head_timeout: float = HEAD_TIMEOUT,
        next_timeout: float = NEXT_TIMEOUT,
    ) -> None:
        self._protocol = protocol
        self.most = most
        self.head_timeout = head_timeout
        self.next_timeout = next_timeout
        #: In the order in which they began to wait.
        self._waiting: dict[Patient, None] = {}
        self._busy: set[Patient] = set()
        self._by_protocol: dict[object, Patient] = {}
        #: Strangers that wait for their turn, and how many more are answered in this one.
        self._line: dict[Patient, asyncio.Future[None]] = {}
        self._left = 0
        self._turning = False

    def __len__(self) -> int:
        return len(self._by_protocol)

    def __call__(self) -> Patient:
        """Return the protocol of a new connection."""
        return Patient(self, self._protocol())

    def began(self, protocol: object) -> None:
        """Note that a request of this connection is under way."""
        patient = self._by_protocol.get(protocol)
        if patient is not None:
            self._waiting.pop(patient, None)
            self._busy.add(patient)
            patient.wait(None)

    def ended(self, protocol: object) -> None:
        """Note that its answer is made: it is to be read, and the next request to follow."""
        patient = self._by_protocol.get(protocol)
        if patient is not None:
            self._busy.discard(patient)
            self._waiting.pop(patient, None)
            self._waiting[patient] = None
            patient.wait(self.next_timeout)

    async def turn(self, protocol: object) -> None:
        """Wait until a stranger is to be answered. Raises ConnectionError where it has left."""
        patient = self._by_protocol.get(protocol)
        if patient is None:
            raise ConnectionResetError("the client has left")
        if not self._turning:
            self._begin_turn()
        if self._left > 0:
            self._left -= 1
            return
        waiter = self._line[patient] = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._line.pop(patient, None)

    def _begin_turn(self) -> None:
        """Answer who waits in line; go on for as long as somebody asks."""
        self._left = STRANGERS
        for patient in list(self._line)[:STRANGERS]:
            waiter = self._line.pop(patient)
            if not waiter.done():
                waiter.set_result(None)
                self._left -= 1
        self._turning = True
        asyncio.get_running_loop().call_later(TURN, self._end_turn)

    def _end_turn(self) -> None:
        self._turning = False
        if self._line:
            self._begin_turn()

    def admit(self, patient: Patient) -> bool:
        """Take a connection in; False where all that there may be have a request under way."""
        if len(self._by_protocol) >= self.most:
            if not self._waiting:
                return False
            oldest = oldest_of_the_most({each: each.source for each in self._waiting})
            self.dismiss(oldest)
            oldest.cut()
        self._by_protocol[patient.inner] = patient
        self._waiting[patient] = None
        return True

    def dismiss(self, patient: Patient) -> None:
        """Forget a connection."""
        self._by_protocol.pop(patient.inner, None)
        self._waiting.pop(patient, None)
        self._busy.discard(patient)
        waiter = self._line.pop(patient, None)
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError("the client has left"))


class Patient(asyncio.Protocol):
    """One connection, before aiohttp's protocol."""

    def __init__(self, all_of_them: Patience, inner: Any) -> None:
        self.inner = inner
        #: Whom it comes from (``source_of``).
        self.source = ""
        self._all = all_of_them
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    def wait(self, seconds: float | None) -> None:
        """Cut the connection unless something comes within ``seconds``; None: no bound."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.cut)

    def cut(self) -> None:
        """End the connection at once."""
        self.wait(None)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it in, or cut it."""
        # By no isinstance: uvloop's transports are asyncio's by their methods alone.
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.source = source_of(peer[0]) if isinstance(peer, tuple) else "unix"
        if not self._all.admit(self):
            self._refused = True
            self.cut()
            return
        self.wait(self._all.head_timeout)
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Hand on."""
        if not self._refused:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand on."""
        return None if self._refused else self.inner.eof_received()

    def pause_writing(self) -> None:
        """Hand on."""
        if not self._refused:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand on."""
        if not self._refused:
            self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it, hand on."""
        self.wait(None)
        self._all.dismiss(self)
        if not self._refused:
            self.inner.connection_lost(exc)
        self._transport = None
