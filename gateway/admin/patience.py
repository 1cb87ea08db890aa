"""How long a client of the admin API may hold a connection, and how many there may be.

aiohttp waits for a first head for ever, and for a reader that does not read. A ``Patient`` stands
before its protocol, hands everything on, and cuts a connection whose head, whose reading or whose
next request takes too long; at the bound the one that has waited longest without a request under
way gives way to the newcomer. A request under way has its own bounds (the body's time, the call's).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Seconds for a head to arrive, and for an answer to be read and the next request to begin.
HEAD_TIMEOUT: Final = 10.0
NEXT_TIMEOUT: Final = 60.0
MAX_CONNECTIONS: Final = 256


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
            self._waiting[patient] = None
            patient.wait(self.next_timeout)

    def admit(self, patient: Patient) -> bool:
        """Take a connection in; False where all that there may be have a request under way."""
        if len(self._by_protocol) >= self.most:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
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


class Patient(asyncio.Protocol):
    """One connection, before aiohttp's protocol."""

    def __init__(self, all_of_them: Patience, inner: Any) -> None:
        self.inner = inner
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
