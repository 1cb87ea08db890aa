"""How clients of the admin API arrive over TLS: a bounded number in a handshake, a bounded time.

The loop's own server counts a connection only once its handshake is done, and knows one context for
its life. Here each handshake begins with the context of that moment, so that other authorities of
callers and other keys of tickets count from the next connection on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.control.tasks import Tasks
    from gateway.tls import Front

log = logging.getLogger("gateway.admin")

#: Seconds for a handshake, and how many may be under way.
HANDSHAKE_TIMEOUT: Final = 10.0
MAX_HANDSHAKES: Final = 64
#: Seconds to wait where the system has no descriptor for one more.
BREATH: Final = 0.5


class Arrivals:
    """One listening socket. ``protocol`` makes what speaks once a handshake is done."""

    def __init__(
        self,
        listener: socket.socket,
        front: Front,
        protocol: Callable[[], asyncio.BaseProtocol],
        tasks: Tasks,
        *,
        most: int = MAX_HANDSHAKES,
        timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        listener.settimeout(0.0)
        self._listener = listener
        self._front = front
        self._protocol = protocol
        self._tasks = tasks
        self._most = most
        self._timeout = timeout
        #: In the order in which they came.
        self._shaking: dict[asyncio.Task[None], socket.socket] = {}
        self._accepting = tasks.start(self._accept(), name="accept at the admin address")

    def __len__(self) -> int:
        return len(self._shaking)

    def close(self) -> None:
        """Accept no more, and end handshakes; connections stay open."""
        self._accepting.cancel()
        for task, taken in list(self._shaking.items()):
            _end(task, taken)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("no connection to the admin address can be accepted: %s", error)
                await asyncio.sleep(BREATH)
                continue
            if len(self._shaking) >= self._most:
                # Who has come first has had the most time: it gives way.
                task = next(iter(self._shaking))
                _end(task, self._shaking.pop(task))
            task = self._tasks.start(self._shake(taken), name="handshake at the admin address")
            self._shaking[task] = taken
            task.add_done_callback(lambda done: self._shaking.pop(done, None))

    async def _shake(self, taken: socket.socket) -> None:
        self._front.turn(time.monotonic())
        # Whatever a stranger makes of a handshake is nobody's news.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                taken,
                ssl=self._front.context,
                ssl_handshake_timeout=self._timeout,
            )


def _end(task: asyncio.Task[None], taken: socket.socket) -> None:
    """End a handshake. Not every loop closes what was cancelled."""
    task.cancel()
    with contextlib.suppress(OSError):
        taken.shutdown(socket.SHUT_RDWR)
