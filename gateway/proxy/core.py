"""What every connection of a worker shares: the snapshot, the clocks, the counters, the tasks."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from email.utils import formatdate
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.policy.sharing import Requests
from gateway.proxy.dial import dial
from gateway.proxy.hexes import RandomHex
from gateway.proxy.line import Line
from gateway.proxy.platform import PlatformView
from gateway.proxy.record import Outcome
from gateway.proxy.reports import ReportDesk
from gateway.proxy.serving import nothing
from gateway.proxy.shared import Shared
from gateway.proxy.wheel import TICK, Wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gateway.proxy.cache import Cache
    from gateway.proxy.endpoint import Endpoint
    from gateway.proxy.errors import Failure
    from gateway.proxy.kept import KeptAssets
    from gateway.proxy.links import Answered, Client
    from gateway.proxy.queue import ServiceQueue
    from gateway.proxy.record import Recorder
    from gateway.proxy.tunnel import Tunnel

logger = logging.getLogger(__name__)


class Core(Shared):
    """One worker's shared state. ``clock`` is monotonic, ``wall`` the epoch's, both in seconds.

    ``random`` gives octets of a cryptographic source, ``draw`` so many random bits; ``on_turn`` is
    called with the time at every turn of the timer wheel; ``soon`` calls in the loop's next turn
    (None: the loop itself does).
    """

    __slots__ = (
        "_beat",
        "_date",
        "_on_turn",
        "_second",
        "_slab",
        "_slabs",
        "_tasks",
        "_words",
        "addresses",
        "cache",
        "connections",
        "kept",
        "line",
        "loop",
        "platform",
        "queues",
        "reports",
        "requests",
        "soon",
        "tunnels",
    )

    def __init__(  # noqa: PLR0913 - everything that comes from outside comes in here
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        wall: Callable[[], float],
        random: Callable[[int], bytes],
        draw: Callable[[int], int],
        recorder: Recorder,
        words: memoryview,
        slab: int,
        slabs: int,
        on_turn: Callable[[float], None] | None = None,
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.loop = loop
        self.soon = loop.call_soon if soon is None else soon
        #: Connections whose requests are more than a turn of the loop has time for.
        self.line = Line(clock, self.soon)
        self.clock = clock
        self.wall = wall
        self.draw = draw
        self.hexes = RandomHex(random)
        self.recorder = recorder
        self.wheel = Wheel(clock())
        self.serving = nothing()
        self.platform = PlatformView(words, slabs)
        #: By listener: the public port of the https side that its plain requests are sent to.
        self.redirects = {}
        #: By private address, for ``sharing``.
        self.requests = Requests()
        self.reports = ReportDesk(words)
        self.kept: KeptAssets | None = None
        self.cache: Cache | None = None
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.connections: set[Client] = set()
        self.tunnels: set[Tunnel] = set()
        #: The services' queues in which requests wait.
        self.queues: set[ServiceQueue] = set()
        self.draining = False
        #: No descriptors for another client: those that are here leave after their answers.
        self.crowded = False
        self.forced_stable = False
        self._words = words
        self._slab = layout.slab_at(slab)
        self._slabs = slabs
        self._tasks: set[asyncio.Task[None]] = set()
        self._second = -1
        self._date = b""
        self._beat: asyncio.TimerHandle | None = None
        self._on_turn = on_turn

    # --- time -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to turn the timer wheel."""
        self._beat = self.loop.call_later(TICK, self._turn)

    def stop(self) -> None:
        """Stop turning it."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def _turn(self) -> None:
        self._beat = self.loop.call_later(TICK, self._turn)
        now = self.clock()
        try:
            self.wheel.advance(now)
            if self.queues:
                self.turn_queues(now)
        finally:
            # The heartbeat is in it: whatever fails, the worker does not hang.
            if self._on_turn is not None:
                self._on_turn(now)

    def turn_queues(self, now: float) -> None:
        """Have the queues look at what no event tells them: places that others left, time."""
        for queue in tuple(self.queues):
            queue.turn(self, now)
            if not queue.waiting:
                self.queues.discard(queue)

    def date_line(self) -> bytes:
        """Return the ``Date`` line of now (RFC 9110 section 6.6.1), made once a second."""
        second = int(self.wall())
        if second != self._second:
            self._second = second
            self._date = b"Date: " + formatdate(second, usegmt=True).encode("ascii") + b"\r\n"
        return self._date

    # --- connections ----------------------------------------------------------------------------

    def admit(self, connection: Client) -> bool:
        """Count a connection in; False where the machine has as many as it may."""
        words = self._words
        words[self._slab + layout.S_ACCEPTED] += 1
        words[self._slab + layout.S_CONNECTIONS] += 1
        self.connections.add(connection)
        total = sum(
            words[layout.slab_at(slab) + layout.S_CONNECTIONS] for slab in range(self._slabs)
        )
        if total <= self.serving.limits.connections:
            return True
        words[self._slab + layout.S_CONNECTIONS_SHED] += 1
        return False

    def dismiss(self, connection: Client) -> None:
        """Count a connection out."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._words[self._slab + layout.S_CONNECTIONS] -= 1

    def count(self, word: int) -> None:
        """Add one to a counter of this worker's slab."""
        self._words[self._slab + word] += 1

    def refused(self, connection: Client, failure: Failure, status: int) -> None:
        """Record what came in place of a request."""
        self._words[self._slab + layout.S_REFUSED] += 1
        now = self.clock()
        outcome = Outcome()
        outcome.fill(
            None, b"", b"", b"", connection.peer, status, 0, 0, now, 0.0, 0.0, now, "", 0, -1,
            "", b"", b"", 0, b"", False, None, failure.name, "", False,
        )  # fmt: skip
        self.recorder.record(outcome)

    # --- dialling -------------------------------------------------------------------------------

    def dial(self, endpoint: Endpoint, attempt: Answered, timeout: float) -> None:
        """Have a connection made for an attempt, within ``timeout`` seconds."""
        self.spawn(f"dial {endpoint.id}", dial(self, endpoint, attempt, timeout))

    def addresses_of(self, host: str) -> tuple[str, ...]:
        """Return the addresses to connect to, as control last told them; none: unknown yet."""
        known = self.addresses.get(host)
        if known is not None:
            return known
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return ()
        self.addresses[host] = (host,)
        return (host,)

    def spawn(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a task, the only place of the data plane that does; errors are logged."""
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("task %s failed", task.get_name(), exc_info=task.exception())

    async def cancel_tasks(self) -> None:
        """Cancel what is still running and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
