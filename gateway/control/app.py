"""Control's composition root: everything concrete is made and joined here."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import random
import secrets
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.admin.api import Api
from gateway.admin.breakers import BreakerApi
from gateway.admin.calls import CALLS
from gateway.admin.logins import Logins, Report
from gateway.admin.pictures import Pictures
from gateway.admin.release_pictures import ReleasePictures
from gateway.admin.releases import ReleaseApi
from gateway.admin.replay import Replays
from gateway.admin.server import Server
from gateway.admin.speaker import Unread
from gateway.admin.streams import Streams
from gateway.admin.told import note_failed_logins
from gateway.board import layout
from gateway.board.locks import FileLocks
from gateway.channel import handover
from gateway.channel.unix import bind_unix
from gateway.control import rebuilt, start, statecopy
from gateway.control.allocation import Allocation, AllocationError
from gateway.control.baselines import Baselines
from gateway.control.breakercalls import BreakerCalls
from gateway.control.breakers import BoardBreakers, pool_of
from gateway.control.certificates import CertificateWatch
from gateway.control.desk import Refused
from gateway.control.events import Events
from gateway.control.hub import Hub
from gateway.control.issuers import Issuers, read_url
from gateway.control.machine import FaultWatch
from gateway.control.news import HealthNews
from gateway.control.observed import BoardSlabs, Observed
from gateway.control.operations import Operations
from gateway.control.platform import PlatformWatch
from gateway.control.releasecalls import ReleaseCalls
from gateway.control.releasefacts import ReleaseFacts
from gateway.control.releases import GATEWAY, Releases
from gateway.control.releasewalk import Walk
from gateway.control.resolver import Resolver
from gateway.control.settings import SettingsError
from gateway.control.sharing import SharingWatch
from gateway.control.store import SqliteStore, StoreError
from gateway.control.switchboard import Caller, Parts, Switchboard
from gateway.control.targets import StateSides
from gateway.control.tasks import Tasks
from gateway.control.upgrades import UpgradeWatch
from gateway.control.warming import Warming
from gateway.health.door import Door, origin_of
from gateway.health.prober import Prober
from gateway.observe.vitals import told
from gateway.tls import Front

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.board.board import Board
    from gateway.channel.childspec import ChildSpec
    from gateway.channel.messages import BreakerMoved, Hello
    from gateway.control.settings import Loader, Settings
    from gateway.control.state import State
    from gateway.control.store import Store
    from gateway.health.probes import NetworkProbes, Probes

log = logging.getLogger("gateway.control")

HEARTBEAT = 0.25
#: Seconds between two looks for faults of the machine.
LOOK_AT_MACHINE = 1.0
#: Every client of TLS 1.2 and 1.3 has it (RFC 8446 section 9.1).
ADMIN_CURVE = "prime256v1"
#: Seconds that names may take before workers get a snapshot without their addresses.
FIRST_NAMES = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What control meets the world through; tests give their own."""

    board: Board
    store: Store
    probes: Probes
    load: Loader
    #: What host names resolve to; probes read it.
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: Seconds: CLOCK_MONOTONIC, the epoch's, and waiting for some of them.
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    #: Reads an issuer's keys. Raises SourceError.
    fetch: Callable[[str], Awaitable[bytes]] = read_url


class Control:
    """One control process. ``start`` serves; ``close`` lets go of everything."""

    def __init__(self, spec: ChildSpec, settings: Settings, outside: Outside) -> None:
        self._spec = spec
        self._outside = outside
        self._first = settings
        self.tasks = Tasks()
        self.events = Events(f"{time.time_ns() // 1_000_000:x}")
        self.news = HealthNews(self.events)
        self.logins = Logins(self._logins_failed, time.monotonic)
        self._unread = Unread()
        self.switchboard: Switchboard
        self.operations: Operations
        self.platform: PlatformWatch
        self.upgrades: UpgradeWatch
        self.releases: Releases
        self.release_calls: ReleaseCalls
        self._facts: ReleaseFacts
        self._walk: Walk
        self._certificates: CertificateWatch
        self._admin_front: Front | None = None
        self._admin_kept: object = None
        self._taken_up_from: State | None = None
        self._server: Server | None = None
        self._handover: handover.Server | None = None

    async def start(self) -> None:
        """Take up what was there, then serve workers and the admin API.

        Raises AllocationError where the configuration does not fit the board.
        """
        board, spec = self._outside.board, self._spec
        board.words[layout.H_CONTROL_PID] = os.getpid()
        board.words[layout.H_CONTROL_STARTED] = time.monotonic_ns()
        board.words[layout.H_CONTROL_STALL_MAX] = 0
        board.set_control_state(layout.STATE_STARTING)
        self.tasks.start(self._beat(), name="heartbeat")
        await self._join()
        hub = self.switchboard.parts.hub
        await hub.listen(socket.socket(fileno=spec.channel))
        if self._taken_up_from is not None:
            # Else they are the last to know what production was.
            start.forget_other_boots(spec.snapshot_file)
        await self._serve_admin()
        self._serve_handover()
        board.set_control_state(layout.STATE_READY)
        self.switchboard.tell_taken_up(self._taken_up_from, Caller(actor=GATEWAY, address=""))
        self._taken_up_from = None
        log.info("control serves snapshot %d", hub.number)

    async def _join(self) -> None:
        """Make the parts and put the first snapshot together."""
        board, store = self._outside.board, self._outside.store
        allocation = Allocation(board)
        snapshot_file = self._spec.snapshot_file
        left = start.Left(
            kept=await self._kept(),
            # Workers may have to be asked, and take their time.
            running=await asyncio.to_thread(start.running_snapshot, snapshot_file, board),
            copy=start.state_copy(snapshot_file, board),
        )
        first = start.begin(
            self._first,
            left,
            board=board,
            allocation=allocation,
            fresh=fresh,
            now=self._outside.clock(),
            wall=self._outside.wall(),
        )
        hub = Hub(
            first.topology,
            first.state.traffic(),
            number=first.number,
            snapshot_file=self._spec.snapshot_file,
            clock=self._outside.clock,
            slabs=BoardSlabs(board),
            names=first.names,
        )
        # With the resolver dead just now, what it said last still stands.
        self._outside.names.update(first.names)
        hub.ahead = self._ahead
        hub.breaker_moved = self._breaker_moved
        chance = random.Random()  # noqa: S311  jitter, no secret
        issuers = Issuers(
            hub.publish_keys,
            self.tasks,
            self._first.state_path.with_name("issuers"),
            random=chance,
            clock=time.monotonic,
            wall=time.time,
            fetch=self._outside.fetch,
        )
        hub.unknown_key = issuers.unknown_key
        parts = Parts(
            store=store,
            hub=hub,
            prober=Prober(
                self._outside.probes,
                board,
                self.tasks,
                random=chance,
                now=time.monotonic_ns,
                listener=self.news,
            ),
            resolver=Resolver(hub.publish, self.tasks, random=chance, known=self._outside.names),
            issuers=issuers,
            allocation=allocation,
            board=board,
            events=self.events,
            facts=Observed(board, lambda: hub.topology),
            breakers=BoardBreakers(board, FileLocks(board.fd), time.monotonic_ns),
            warming=Warming(board, time.monotonic_ns),
            news=self.news,
            probe_secret=first.topology.cohort.probe_secret or b"",
            tasks=self.tasks,
            clock=self._outside.clock,
            wall=self._outside.wall,
            sleep=self._outside.sleep,
            fresh=fresh,
            copy=statecopy.StateCopy(self._spec.snapshot_file),
        )
        self.switchboard = Switchboard(parts, self._first, first.state)
        self._taken_up_from = first.kept
        self.upgrades = UpgradeWatch(Path(self._spec.run_dir), self.switchboard)
        self.switchboard.upgrades = lambda: self.upgrades.journal
        await self.switchboard.rebuilt.remember(store)
        others = functools.partial(start.of_other_boots, snapshot_file)
        if lost := rebuilt.at_start(store, first, others):
            self.switchboard.store_was_lost(lost)
        self.operations = Operations(self.switchboard, self._outside.load)
        self.platform = PlatformWatch(
            board, lambda: (hub.topology, hub.traffic), self.events, time.monotonic
        )
        self.news.moved = parts.warming.moved
        integration = parts.prober.integration
        integration.sides = StateSides(lambda: self.switchboard.state)
        # As of this start: other listeners are opened by a restart only.
        if origin := origin_of(self._first.template.listeners):
            integration.door = Door(origin, parts.probe_secret, time.time)
        await self.switchboard.store_soon()
        hosts = {each.host for pool in first.topology.pools for each in pool.endpoints}
        await parts.resolver.prepare(hosts, seconds=FIRST_NAMES)
        self.switchboard.watch(first.topology)
        await issuers.prepare(seconds=FIRST_NAMES)
        self.tasks.start(self._watch_platform(), name="platform mode")
        await self._take_up_releases()
        parts.breakers.settle(first.state, first.topology)
        integration.reconsider()

    async def _take_up_releases(self) -> None:
        switch = self.switchboard
        hub = switch.parts.hub
        facts = ReleaseFacts(self._outside.board, switch.parts.prober, lambda: hub.topology)
        self._facts = facts
        self.releases = Releases(switch, facts, Baselines())
        self.release_calls = ReleaseCalls(switch, self.releases)
        self._walk = Walk(switch, facts, self.releases)
        await self.releases.open()
        hub.seen = self.releases.seen
        switch.begun_anew = self.releases.store_again
        self.tasks.start(self.releases.watch(), name="judge releases")
        self.tasks.start(self._walk.walk(), name="walk releases on")
        self.tasks.start(self._walk.keep(), name="keep what was seen")

    async def _kept(self) -> State | None:
        try:
            return await self._outside.store.load()
        except StoreError:
            log.exception("the state store cannot be read; starting without it")
            return None

    async def _serve_admin(self) -> None:
        switch = self.switchboard
        shown = Pictures(switch, time.monotonic_ns, self.platform)
        breakers = BreakerApi(switch, BreakerCalls(switch), shown)
        runs = ReleasePictures(self.releases, self._facts, shown, self._outside.clock)
        releases = ReleaseApi(switch, self.release_calls, shown, runs)
        api = Api(
            switch, self.operations, shown, self.release_calls, runs, self.logins, self._unread
        )
        streams = Streams(self.events)
        self._server = Server(
            _handlers(api) | _handlers(breakers) | _handlers(releases),
            _handlers(streams),
            Replays(self._outside.store, time.time),
            lambda: switch.settings,
            self.logins,
            self._unread,
        )
        if switch.settings.admin_tls is not None:
            self._admin_front = Front(
                switch.settings.admin_tls,
                switch.settings.client_ca,
                time.monotonic(),
                curve=ADMIN_CURVE,
            )
        self._keep_admin(switch.settings)
        self.operations.reloaded = self._serve_admin_with
        self._certificates = CertificateWatch(switch, self._outside.wall, self._serve_admin_with)
        switch.certificates_refused = lambda: self._certificates.refused
        sharing = SharingWatch(lambda: switch.parts.hub.topology, self.events, self._outside.clock)
        switch.parts.hub.asked = sharing.hear
        switch.shared_address = sharing.look
        faults = FaultWatch(self._outside.board, switch, self.events, self._outside.clock)
        switch.further_warnings = lambda: (
            self._certificates.warnings + sharing.warnings + faults.warnings
        )
        self.tasks.start(self._watch_machine(faults), name="watch the machine")
        await self._server.start(
            [socket.socket(fileno=fd) for fd in self._spec.admin], self.tasks, self._admin_front
        )
        self.tasks.start(self._certificates.watch(), name="watch certificates")

    def _serve_admin_with(self, settings: Settings) -> None:
        """Have the admin API use the certificates and authorities that are in force."""
        front = self._admin_front
        if front is None or settings.admin_tls is None:
            return
        try:
            front.serve(settings.admin_tls, settings.client_ca, time.monotonic())
        except ValueError:
            # They were tried when they were read: it may be descriptors, and is tried again.
            log.exception("the admin API goes on with the certificates that it has")
            return
        self._keep_admin(settings)

    def _keep_admin(self, settings: Settings) -> None:
        serves = settings.admin_tls, settings.client_ca, settings.client_ca_file
        if serves != self._admin_kept:
            start.keep_admin(self._spec.snapshot_file, settings)
            self._admin_kept = serves

    def _logins_failed(self, report: Report) -> None:
        self.tasks.start(note_failed_logins(self.switchboard, report), name="note failed logins")

    def _serve_handover(self) -> None:
        spec = self._spec
        try:
            listener = bind_unix(spec.admin_socket)
        except OSError:
            # Only a next supervisor asks there, and it starts a control of its own.
            log.exception("%s cannot be served", spec.admin_socket)
            return
        self._handover = handover.Server(
            listener,
            asyncio.get_running_loop(),
            board=spec.board,
            state=self._told,
            sockets=lambda: handover.spec_sockets(spec) if self._server is not None else (),
            vitals=lambda: told(self._outside.board),
        )

    def _told(self) -> handover.State:
        """Return what control says of itself to a supervisor."""
        hub = self.switchboard.parts.hub
        word = self._outside.board.words[layout.H_CONTROL_STATE]
        return handover.State(
            role="control",
            pid=os.getpid(),
            slot=-1,
            slab=-1,
            slabs=self._outside.board.slabs,
            boot=self._spec.boot,
            state=layout.STATE_NAMES[word],
            topology=hub.topology.number,
            traffic=hub.traffic.revision,
        )

    async def close(self) -> None:
        """Stop serving; workers go on with what they have."""
        self._outside.board.set_control_state(layout.STATE_DRAINING)
        if self._handover is not None:
            self._handover.close()
        self.events.close()
        if hasattr(self, "operations"):
            self.operations.stop()
        server, self._server = self._server, None
        if server is not None:
            await server.close()
        await self.tasks.close()
        if hasattr(self, "_walk"):
            await self._walk.close()
        if hasattr(self, "upgrades"):
            await self.upgrades.look()  # the last word of one that was ended with all the rest
        if hasattr(self, "switchboard"):
            await self.switchboard.parts.hub.close()
        await self._outside.store.close()
        self._outside.board.set_control_state(layout.STATE_GONE)

    # --- what happens -----------------------------------------------------------------------------

    async def _beat(self) -> None:
        due = time.monotonic_ns()
        while True:
            now = time.monotonic_ns()
            tasks = len(asyncio.all_tasks())
            self._outside.board.beat_control(now, late=now - due, tasks=tasks)
            due = now + int(HEARTBEAT * 1e9)
            await asyncio.sleep(HEARTBEAT)

    async def _watch_platform(self) -> None:
        while True:
            self.platform.tell()
            await asyncio.sleep(HEARTBEAT)

    async def _watch_machine(self, faults: FaultWatch) -> None:
        told: set[tuple[str, type[Exception]]] = set()
        while True:
            parts: tuple[tuple[str, Callable[[], object]], ...] = (
                ("write the snapshot again", self.switchboard.parts.hub.write_again),
                ("mend the store", self.switchboard.mend_store),
                ("look for faults", faults.look),
                ("look at upgrades", self.upgrades.look),
            )
            for name, part in parts:
                try:
                    if inspect.isawaitable(looking := part()):
                        await looking
                except Exception as error:
                    # One that fails in a way that nobody thought of must not end the others.
                    if (name, type(error)) not in told:
                        told.add((name, type(error)))
                        log.exception("watching the machine: %s failed, and is tried again", name)
            await asyncio.sleep(LOOK_AT_MACHINE)

    def _ahead(self, hello: Hello) -> None:
        self.tasks.start(self.switchboard.keep_above(hello.traffic), name="renumber")

    def _breaker_moved(self, moved: BreakerMoved) -> None:
        log.warning("the breaker of %s: %s, was %s", moved.endpoint, moved.now, moved.was)
        if (moved.was, moved.now) == ("closed", "open"):
            self.switchboard.parts.prober.hasten(moved.endpoint)
        self.switchboard.parts.prober.integration.reconsider()
        pool = pool_of(self.switchboard.parts.hub.topology, moved.endpoint)
        self.events.publish(
            "breaker",
            endpoint=moved.endpoint,
            service=pool.service if pool else None,
            color=pool.color if pool else None,
            state=moved.now,
            was=moved.was,
        )

    def reload(self) -> None:
        """Read the file again, in the background (SIGHUP)."""
        self.tasks.start(self._reload(), name="reload")

    async def _reload(self) -> None:
        caller = Caller(actor="SIGHUP", address="signal")
        words = self._outside.board.words
        done = None
        try:
            done = await self.operations.reload(caller)
        except (SettingsError, Refused, AllocationError, StoreError) as error:
            log.error("reload refused, the old configuration stays: %s", error)  # noqa: TRY400
            return
        finally:
            if done is None:  # whatever ended it
                words[layout.H_RELOADS_REFUSED] += 1
            # The supervisor, and through it the service manager, waits for this word.
            words[layout.H_RELOADS] += 1
        log.info("reloaded: %s", "; ".join(done.changes) or "nothing has changed")


def _handlers(owner: Api | BreakerApi | ReleaseApi | Streams) -> dict[str, Any]:
    """Return an object's handlers by the names of their calls."""
    return {call.name: getattr(owner, call.name) for call in CALLS if hasattr(owner, call.name)}


def fresh() -> bytes:
    """Return the chance that a new split's salt and id are made from."""
    return secrets.token_bytes(22)


async def run(
    spec: ChildSpec,
    load: Loader,
    probes: NetworkProbes,
    board: Board,
    first: Loader | None = None,
) -> int:
    """Serve until SIGTERM. Returns the exit code: 0, or 2 where the file cannot be used.

    ``first`` reads the file at the start, where that is another way than later.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Until there is something to reload, and so that it ends nobody meanwhile.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    try:
        settings = await asyncio.to_thread(first or load)
    except SettingsError as error:
        for where, what in error.faults:
            log.error("%s: %s", where, what)  # noqa: TRY400  one line for each fault
        return 2
    store = await SqliteStore.open(settings.state_path)
    outside = Outside(board=board, store=store, probes=probes, load=load, names=probes.names)
    control = Control(spec, settings, outside)
    try:
        await control.start()
        loop.add_signal_handler(signal.SIGHUP, control.reload)
        await stop.wait()
    finally:
        await control.close()
        await probes.close()
    return 0
