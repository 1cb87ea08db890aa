"""A worker's composition root: it builds the core, follows control, serves, and drains.

It serves from the last snapshot it has, whatever becomes of control. One that starts while control
is dead takes the snapshot that control left for it (``ChildSpec.snapshot_file``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.board.board import Board
from gateway.board.locks import FileLocks
from gateway.channel import handover, inherited, snapshotfile
from gateway.channel.messages import (
    Addresses,
    Apply,
    Asked,
    BreakerMoved,
    Drain,
    KeySets,
    UnknownKey,
)
from gateway.channel.unix import bind_unix
from gateway.config.snapshot import CacheStore, Topology, Traffic
from gateway.proxy.auth import KeyRing
from gateway.proxy.breaker import Breakers
from gateway.proxy.cache import Cache
from gateway.proxy.copies import TOUCH_EVERY, Copies
from gateway.proxy.core import Core
from gateway.proxy.kept import KeptAssets
from gateway.proxy.record import Recorder
from gateway.proxy.serving import Builder
from gateway.proxy.tally import Tallies
from gateway.worker.accepting import Accepting
from gateway.worker.control_link import ControlLink
from gateway.worker.doors import Doors
from gateway.worker.log import AccessLog
from gateway.worker.sweep import TunnelSweep
from gateway.worker.vitals import Vitals

if TYPE_CHECKING:
    from gateway.channel.childspec import ChildSpec
    from gateway.proxy.serving import Serving

logger = logging.getLogger(__name__)

#: Seconds that idle connections stay open in a drain: their next request, which may be on its way,
#: is answered with ``Connection: close`` instead of being cut.
IDLE_GRACE = 1.0

#: Seconds that WebSockets and event streams get for their last words, beyond the drain's time; the
#: supervisor waits longer.
LEAVE_GRACE = 2.0

#: Seconds at most until the loop has told that what was cut is closed, and it is recorded.
CUT_GRACE = 1.0

#: Seconds between two tellings of who asks.
TELL_ASKED = 5.0


class Worker:
    """One worker process."""

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._board = Board.attach(spec.board, spec.slabs)
        self._words = self._board.slab(spec.slab)
        self._recorder = Recorder(
            self._board.words, spec.slab, spec.slabs, time.time, _date, log=None
        )
        breakers = Breakers(
            self._board.words,
            spec.slabs,
            FileLocks(spec.board),
            time.monotonic_ns,
            self._breaker_moved,
        )
        self._tallies = Tallies(
            time.time,
            lambda work: asyncio.get_running_loop().call_soon(work),
            lambda message: self._link.tell(message),  # noqa: PLW0108 - the link is made later
        )
        self._sweep = TunnelSweep()
        self._ring = KeyRing(lambda source: self._link.tell(UnknownKey(source=source)))
        self._builder = Builder(
            self._board.words, spec.slab, spec.slabs, breakers, self._tallies, self._ring
        )
        self._doors = Doors(spec.addresses, [index for index, _ in spec.sockets])
        self._topology = Topology(number=0)
        self._traffic = Traffic(revision=0)
        self._number = 0
        self._handover: handover.Server | None = None
        self._log = AccessLog(self._recorder, self._lost)
        self._stopping = asyncio.Event()
        self._drain_timeout = spec.drain_timeout
        self._turned = time.monotonic()
        self._touch_at = 0.0
        self._asked_at = 0.0
        self._cache_of: CacheStore | None = None
        self._core: Core
        self._vitals: Vitals
        self._accepting: Accepting
        self._link: ControlLink

    async def run(self) -> int:
        """Serve until SIGTERM or a drain; return the exit code."""
        loop = asyncio.get_running_loop()
        self._core = Core(
            loop=loop,
            clock=time.monotonic,
            wall=time.time,
            random=os.urandom,
            # Which of two endpoints to look at is no secret.
            draw=random.Random().getrandbits,  # noqa: S311
            recorder=self._recorder,
            words=self._board.words,
            slab=self._spec.slab,
            slabs=self._spec.slabs,
            on_turn=self._on_turn,
        )
        self._vitals = Vitals(self._core, self._builder, self._words)
        self._accepting = Accepting(
            self._core,
            self._builder,
            self._spec.sockets,
            self._words,
            lambda listener: self._doors.accept(self._core, listener),
        )
        self._link = ControlLink(self._spec, self._core, self.apply, self.tell, self.drain)
        self._words[layout.S_PID] = os.getpid()
        self._words[layout.S_SLOT] = self._spec.slot
        self._words[layout.S_STATE] = layout.STATE_STARTING
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._core.start()
        self._handover = handover.Server(
            bind_unix(self._spec.worker_socket),
            loop,
            board=self._spec.board,
            state=self._state,
            sockets=self._sockets,
            snapshot=self._snapshot,
            vitals=self._vitals.told,
        )
        await self._start_from_file()
        self._link.start()
        await self._stopping.wait()
        await self._drain()
        return 0

    # --- what control says ----------------------------------------------------------------------

    async def apply(self, message: Apply) -> None:
        """Serve a snapshot from now on. Raises ValueError where it cannot be served."""
        self._core.addresses.update(message.names)
        self._ring.update(message.keys)
        topology = message.topology or self._topology
        traffic = message.traffic or self._traffic
        if not topology.number:
            raise ValueError("no topology yet")
        serving = await self._builder.build(topology, traffic)
        self._doors.serve(topology.listeners, time.monotonic())
        self._topology, self._traffic, self._number = topology, traffic, message.number
        self._core.serving = serving
        self._core.redirects = self._doors.redirects
        self._core.platform.serve(topology, traffic, time.monotonic())
        self._sweep.serve(traffic)
        self._words[layout.S_TOPOLOGY] = topology.number
        self._words[layout.S_TRAFFIC] = traffic.revision
        self._words[layout.S_NUMBER] = message.number
        self._log.open(topology.access_log)
        self._keep_assets(topology)
        await self._open_cache(topology, serving)
        if not self._accepting.begun and not self._stopping.is_set():
            await self._accepting.open()
            self._words[layout.S_STATE] = layout.STATE_READY

    def tell(self, message: Addresses | KeySets) -> None:
        """Take facts: the addresses that names resolve to now, the keys that issuers have."""
        if isinstance(message, KeySets):
            self._ring.update(message.sources)
        else:
            self._core.addresses.update(message.names)

    def drain(self, message: Drain) -> None:
        """Stop, as on SIGTERM, within the time that control gives."""
        self._drain_timeout = message.timeout
        self._stopping.set()

    def _breaker_moved(self, endpoint: str, was: str, now: str) -> None:
        logger.warning("the breaker of %s: %s, was %s", endpoint, now, was)
        self._link.tell(BreakerMoved(endpoint=endpoint, was=was, now=now))

    # --- serving --------------------------------------------------------------------------------

    async def _start_from_file(self) -> None:
        try:
            snapshot = snapshotfile.read(self._spec.snapshot_file)
            if snapshot is not None:
                await self.apply(snapshot)
        except (snapshotfile.SnapshotFileError, ValueError) as error:
            logger.warning("the stored snapshot is of no use, waiting for control: %s", error)
        except Exception:  # started again, it would meet the same file
            logger.exception("the stored snapshot is of no use, waiting for control")

    def _protocol(self, listener: int):  # type: ignore[no-untyped-def]
        core = self._core
        # The loops take any object with a protocol's methods; a compiled class cannot inherit
        # from asyncio.Protocol, hence no type that asyncio's stubs would take.
        return lambda: self._doors.accept(core, listener)

    def _keep_assets(self, topology: Topology) -> None:
        """Keep copies of assets for as long as the configuration says; 0 keeps none."""
        kept = self._core.kept
        if kept is None and topology.assets and topology.assets_keep > 0:
            folder = Path(self._spec.run_dir).parent / "assets"
            call_soon = asyncio.get_running_loop().call_soon_threadsafe
            self._core.kept = KeptAssets(folder, topology.assets_keep, time.time, call_soon)
        elif kept is not None:
            kept.keep = topology.assets_keep

    async def _open_cache(self, topology: Topology, serving: Serving) -> None:
        """Open the cache where something is stored there; drop what no generation has any more."""
        stores = serving.caches or any(run.degraded.plan.stale for run in serving.services)
        wanted = topology.cache if stores else None
        if wanted != self._cache_of:
            await self._close_cache()
            self._cache_of = wanted
            if wanted is not None:
                self._core.cache = self._cache(wanted)
        if self._core.cache is not None:
            scopes = frozenset(scope for run in serving.services for scope in run.scopes)
            self._core.cache.keep_scopes(scopes)

    def _cache(self, wanted: CacheStore) -> Cache | None:
        core = self._core
        try:
            store = Copies(
                Path(wanted.path),
                wanted.size,
                wanted.entry,
                time.time,
                self._words,
                layout.S_CACHE_WRITES,
            )
        except Exception:  # whatever it is: no copy is worth a worker that serves nobody
            logger.exception("the cache cannot be opened, nothing is stored")
            return None
        return Cache(
            store,
            time.time,
            core.wheel,
            self._board.words,
            self._spec.slab,
            self._spec.slabs,
        )

    async def _close_cache(self) -> None:
        cache, self._core.cache = self._core.cache, None
        if cache is not None:
            cache.store.retire()
            await asyncio.to_thread(cache.store.close)

    def _lost(self, lines: int) -> None:
        self._words[layout.S_LOG_LOST] += lines

    def _on_turn(self, now: float) -> None:
        """Every turn of the wheel: heartbeat, log, the local rollback's flag, control's absence,
        what control is told, tunnels that a rollback ends.
        """
        late = int((now - self._turned) * 1e9) - 100_000_000
        self._turned = now
        self._words[layout.S_STALL_MAX] = max(self._words[layout.S_STALL_MAX], late, 0)
        self._words[layout.S_HEARTBEAT] = time.monotonic_ns()
        self._log.turn(now)
        if self._core.cache is not None and now > self._touch_at:
            self._touch_at = now + TOUCH_EVERY
            self._core.cache.store.turn()
        self._accepting.turn(now)
        forced = Path(self._spec.rollback_flag).exists() or self._control_lost()
        if forced != self._core.forced_stable:
            self._core.forced_stable = forced
            self._words[layout.S_FORCED_STABLE] = int(forced)
            logger.warning("everything goes to stable" if forced else "traffic is split again")
        self._core.platform.turn(now, forced=forced)
        self._tallies.turn(now)
        if now >= self._asked_at:
            self._asked_at = now + TELL_ASKED
            self._tell_asked()
        self._sweep.turn(now, self._core.tunnels, self._core.connections)
        self._doors.turn(now)
        self._vitals.turn(now)

    def _tell_asked(self) -> None:
        """Tell who asks; with control away it is lost, and the next telling makes up for it."""
        total, (address, of_address, forwarded) = self._core.requests.take()
        if total:
            self._link.tell(
                Asked(requests=total, address=address, of_address=of_address, forwarded=forwarded)
            )

    def _control_lost(self) -> bool:
        lost = self._topology.on_control_lost
        if lost.do != "stable":
            return False
        beat = self._board.words[layout.H_CONTROL_HEARTBEAT]
        return time.monotonic_ns() - beat > lost.after * 1e9

    # --- the end --------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._words[layout.S_STATE] = layout.STATE_DRAINING
        self._core.draining = True
        await self._stop_listening()
        began = time.monotonic()
        while self._core.connections and time.monotonic() < began + self._drain_timeout:
            if time.monotonic() > began + IDLE_GRACE:
                for connection in list(self._core.connections):
                    connection.close_when_idle()
            await asyncio.sleep(0.05)
        await self._take_leave()
        for tunnel in list(self._core.tunnels):
            tunnel.close()
        for connection in list(self._core.connections):
            connection.cut()
        for endpoint in self._builder.endpoints.values():
            endpoint.retire()
        self._tallies.flush()
        self._link.stop()
        await self._core.cancel_tasks()
        await self._until_alone(CUT_GRACE)  # the loop tells in a later turn that they are closed
        await self._log.close()  # before the heartbeats end with the core
        self._core.stop()
        if self._handover is not None:
            self._handover.close()
        if self._core.kept is not None:
            self._core.kept.close()
        await self._close_cache()
        self._words[layout.S_STATE] = layout.STATE_GONE

    async def _until_alone(self, seconds: float) -> None:
        """Wait until the last connection is closed, at most ``seconds``."""
        until = time.monotonic() + seconds
        while self._core.connections and time.monotonic() < until:  # noqa: ASYNC110 - told by none
            await asyncio.sleep(0.05)

    async def _take_leave(self) -> None:
        """Tell WebSockets, and end event streams after an event; wait a moment for both."""
        core = self._core
        for tunnel in list(core.tunnels):
            tunnel.leave()
        for connection in list(core.connections):
            connection.leave()
        await self._until_alone(LEAVE_GRACE)

    async def _stop_listening(self) -> None:
        """Stop accepting, and serve whoever waits in the accept queues already."""
        loop = asyncio.get_running_loop()
        self._accepting.close()
        for listener, connection in inherited.let_go(self._spec.sockets):
            await loop.connect_accepted_socket(self._protocol(listener), connection)

    def _state(self) -> handover.State:
        spec = self._spec
        return handover.State(
            role="worker",
            pid=os.getpid(),
            slot=spec.slot,
            slab=spec.slab,
            slabs=spec.slabs,
            boot=spec.boot,
            state=layout.STATE_NAMES[self._words[layout.S_STATE]],
            topology=self._topology.number,
            traffic=self._traffic.revision,
            forced_stable=self._core.forced_stable,
        )

    def _snapshot(self) -> bytes:
        """Return what is served, for a control process that has lost it; empty: nothing is."""
        if not self._topology.number:
            return b""
        served = Apply(
            number=self._number,
            topology=self._topology,
            traffic=self._traffic,
            names=dict(self._core.addresses),
        )
        return snapshotfile.octets_of(served)

    def _sockets(self) -> tuple[tuple[str, int], ...]:
        return () if self._stopping.is_set() else handover.spec_sockets(self._spec)


def _date(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
