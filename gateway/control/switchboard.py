"""The switchboard: every write's way from a decision through the store to the workers.

Persist, then apply. A rollback goes the other way: it is applied in the same step that decides it,
waits for no lock and no disk, and is stored afterwards, again and again until that works.
Whatever a writer had decided before is then void (``overtaken``).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from gateway.channel.upgrades import Journal
from gateway.config.snapshot import COLORS
from gateway.control import merge, rebuilt, releasenews
from gateway.control.desk import Refused
from gateway.control.rebuilt import Rebuilt
from gateway.control.store import AuditEntry, OvertakenError, StoreError
from gateway.control.targets import targets
from gateway.release.record import STATE_LOST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from gateway.board.board import Board
    from gateway.config.snapshot import AuthScheme, Topology, Traffic
    from gateway.control.allocation import Allocation
    from gateway.control.breakers import BoardBreakers
    from gateway.control.desk import Facts, Outcome, RefusedPart
    from gateway.control.events import Events
    from gateway.control.hub import Applied, Hub
    from gateway.control.issuers import Issuers
    from gateway.control.news import HealthNews
    from gateway.control.resolver import Resolver
    from gateway.control.settings import Settings
    from gateway.control.state import State
    from gateway.control.statecopy import StateCopy
    from gateway.control.store import Store
    from gateway.control.tasks import Tasks
    from gateway.control.warming import Warming
    from gateway.health.prober import Monitor, Prober
    from gateway.policy.sharing import Shared
    from gateway.release.record import Decision, Release

    #: What a release's ledger is to say of a write, from the states before and after.
    Ledger = Callable[[State, State], list[Decision]]

log = logging.getLogger("gateway.control")

#: Audit rows that wait for a store that fails; beyond these the oldest are lost, with a warning.
MAX_UNSTORED = 1000
#: Seconds between two tries to store what was applied first.
STORE_AGAIN = 5.0
#: Seconds that a new endpoint's name may take to resolve before it goes out unresolved.
NAMES_BOUND = 3.0
#: Seconds that a new issuer's keys may take to be read before its scheme goes out without them.
KEYS_BOUND = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who writes, from where and why. ``revisions`` is the If-Match (None: any); ``changes`` are
    what the audit row says of a write that is not about the services' state.
    """

    actor: str
    address: str
    reason: str = ""
    revisions: frozenset[int] | None = None
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write came to: ``applied`` tells who serves it, also where nothing moved."""

    state: State
    changed: bool
    applied: Applied
    touched: tuple[str, ...] = ()
    refused: tuple[RefusedPart, ...] = ()
    persisted: bool = True


class StaleRevisionError(Exception):
    """The caller's If-Match names another revision than the one in force."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"the traffic revision is {revision}")
        self.revision = revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the switchboard works with. ``clock`` is monotonic seconds, ``wall`` the epoch's."""

    store: Store
    hub: Hub
    prober: Prober
    resolver: Resolver
    allocation: Allocation
    board: Board
    events: Events
    facts: Facts
    breakers: BoardBreakers
    warming: Warming
    tasks: Tasks
    clock: Callable[[], float]
    wall: Callable[[], float]
    news: HealthNews
    #: Signs the tokens of integration checks; workers have it with the topology.
    probe_secret: bytes = field(repr=False)
    #: 22 octets of chance for a new split's salt and id.
    fresh: Callable[[], bytes]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    #: None: tokens' issuers are nobody's business (tests).
    issuers: Issuers | None = None
    #: Keeps the state a second time; None: nobody does (tests).
    copy: StateCopy | None = None


class Switchboard:
    """The one writer of intent."""

    def __init__(self, parts: Parts, settings: Settings, state: State) -> None:
        self.parts = parts
        self.settings = settings
        self._stands(state)
        self.lock = asyncio.Lock()
        self._unstored: list[AuditEntry] = []
        self._undecided: list[Decision] = []
        self._unstored_state = False
        #: The revision of a write that is being stored, 0: none is.
        self._on_its_way = 0
        self._storing: asyncio.Task[None] | None = None
        #: The stored revision that what is in force was refused for, 0: it was not.
        self._behind = 0
        #: What others have to say to an operator.
        self.further_warnings: Callable[[], list[str]] = list
        #: The private address that makes nearly all requests.
        self.shared_address: Callable[[], Shared | None] = lambda: None
        self.upgrades: Callable[[], Journal] = Journal
        #: The places of certificates in whose files stands what is not served.
        self.certificates_refused: Callable[[], frozenset[str]] = frozenset
        #: What became of a store that was lost.
        self.rebuilt = Rebuilt(parts.events, parts.wall)
        #: Told where the store begins from nothing while this process goes on.
        self.begun_anew: Callable[[], None] = lambda: None

    @property
    def unstored(self) -> bool:
        """Whether something is in force that the store could not keep."""
        return self._unstored_state

    @property
    def warnings(self) -> list[str]:
        """What an operator has to know: a store that does not keep."""
        found = []
        if self.parts.store.fallback:
            found.append(f"the state store is in memory: {self.parts.store.fallback}")
        if self._unstored_state:
            waits = any(each.action == "rollback" for each in self._unstored)
            what = "the last rollback" if waits else "what was done last"
            found.append(f"{what} is in force but not stored: the store fails")
        found += self.rebuilt.warnings
        return found + self.further_warnings()

    # --- the common way -------------------------------------------------------------------------

    async def write(
        self,
        caller: Caller,
        action: str,
        decide: Callable[[State, Facts], Outcome],
        ledger: Ledger | None = None,
    ) -> Written:
        """Decide, store, apply; return when every worker serves it. ``ledger`` gives what a new
        state's release has to say for itself.

        Raises Refused, StaleRevisionError, StoreError (nothing has changed then) and
        AllocationError.
        """
        async with self.lock:
            outcome = self.decided(caller, decide)
            changed = outcome.state != self.state
            if changed:
                number, began = await self.commit(caller, action, outcome.state, ledger=ledger)
            else:
                # Done before, but perhaps not by every worker yet.
                number, began = self.parts.hub.number, self.parts.clock()
            state = self.state
        applied = await self.parts.hub.acknowledged(number, began=began)
        return Written(
            state=state,
            changed=changed,
            applied=applied,
            touched=outcome.touched,
            refused=outcome.refused,
        )

    async def commit(
        self,
        caller: Caller,
        action: str,
        state: State,
        *,
        settings: Settings | None = None,
        seeds: Iterable[Monitor] = (),
        entry: AuditEntry | None = None,
        ledger: Ledger | None = None,
    ) -> tuple[int, float]:
        """Store a decided state and send it out, under the lock; the snapshot's number and when
        it began. ``entry`` is an audit row of the caller's own. Raises as ``write`` does.
        """
        began = self.parts.clock()
        base = self.state
        topology = self._topology(settings or self.settings, state)
        entry = entry or self.entry(caller, action, base, state)
        self._on_its_way = state.revision
        try:
            await self.parts.store.save(state, [entry], ledger(base, state) if ledger else ())
        except OvertakenError:
            if self.state is base:  # numbered above what is stored, the next one will do
                self.parts.tasks.start(self._store_overtaking(), name="number above the store")
                raise
        finally:
            self._on_its_way = 0
        if self.state is not base:
            self._unstored.append(self.entry(caller, f"{action}: overtaken", state, self.state))
            self.parts.tasks.start(self._store_overtaking(), name="store what overtook")
            raise Refused("overtaken", "a rollback came in between; nothing else was changed")
        if settings is not None:
            self.settings = settings
        number = self._publish(state, topology, seeds)
        if settings is not None:
            self.watch(self.parts.hub.topology)  # how endpoints are probed may have changed
        self._tell(action, base, caller)
        return number, began

    async def renew(self, caller: Caller, action: str, settings: Settings) -> int:
        """Put settings into force that move no traffic, under the lock; the snapshot's number.

        Applied first, then told to the audit log: a disk that is full ends no certificate's life.
        """
        topology = self._topology(settings, self.state)
        self.settings = settings
        number = self._publish(self.state, topology, ())
        self._unstored.append(self.entry(caller, action, self.state, self.state))
        await self.store_soon()
        return number

    def decided(self, caller: Caller, decide: Callable[[State, Facts], Outcome]) -> Outcome:
        """Decide, then look at the If-Match: what is wrong in itself is no matter of revisions
        (RFC 9110 section 13.2.1). A conflict may well be one.
        """
        try:
            outcome = decide(self.state, self.parts.facts)
        except Refused as refused:
            if refused.status == 409:
                self.check_revision(caller)
            raise
        self.check_revision(caller)
        return outcome

    def check_revision(self, caller: Caller) -> None:
        """Raise StaleRevisionError where the caller's If-Match is not in force."""
        if caller.revisions is not None and self.state.revision not in caller.revisions:
            raise StaleRevisionError(self.state.revision)

    def entry(self, caller: Caller, action: str, before: State, after: State) -> AuditEntry:
        """Return the audit row of one write: what of the services has changed."""
        changed = [each.name for each in after.services if each != before.of(each.name)]
        return AuditEntry(
            at=self.parts.wall(),
            actor=caller.actor,
            address=caller.address,
            action=action,
            reason=caller.reason,
            before=_told(before, changed),
            after=_told(after, changed, caller.changes),
        )

    # --- rollback -------------------------------------------------------------------------------

    async def rollback(
        self,
        caller: Caller,
        decide: Callable[[State, Facts], Outcome],
        ledger: Ledger | None = None,
    ) -> Written:
        """Decide and apply in one step, then store. Raises Refused."""
        began = self.parts.clock()
        base = self.state
        outcome = decide(base, self.parts.facts)
        if outcome.state == base:
            applied = await self.parts.hub.acknowledged(self.parts.hub.number, began=began)
            return Written(state=base, changed=False, applied=applied, refused=outcome.refused)
        state = self._above(outcome.state)
        number = self.parts.hub.send(traffic=state.traffic())
        self._stands(state)
        if ledger is not None:
            self._undecided += ledger(base, state)
        self.parts.prober.integration.reconsider()
        self._unstored.append(self.entry(caller, "rollback", base, state))
        self._tell("rollback", base, caller)
        applied, persisted = await asyncio.gather(
            self.parts.hub.acknowledged(number, began=began), self.store_soon()
        )
        return Written(
            state=state,
            changed=True,
            applied=applied,
            touched=outcome.touched,
            refused=outcome.refused,
            persisted=persisted,
        )

    def _above(self, state: State) -> State:
        """Return a rollback's state with a revision above that of the write that it overtakes.

        Should control die before the rollback is stored, that write may be what the store has: with
        the same revision it would win over what workers serve, and undo the rollback.
        """
        if state.revision > self._on_its_way:
            return state
        return msgspec.structs.replace(state, revision=self._on_its_way + 1)

    async def store_soon(self) -> bool:
        """Store what is in force; where that fails, leave it to a task that tries again.

        Under the lock, so that no write is stored meanwhile: a rollback alone does not wait for
        it, and where a later write has reached the store first, the store refuses what is older.
        """
        if await self._store_now():
            return True
        if self._storing is None or self._storing.done():
            self._storing = self.parts.tasks.start(self._store_later(), name="store again")
        return False

    async def mend_store(self) -> None:
        """Look after the store's file: make another where it was taken away; where the store is in
        memory, try its file again. What is in force is kept there then.

        Under the lock: what is made anew, and stored in it, must be no older than a write that is
        under way.
        """
        async with self.lock:
            await self._mend_store()

    async def _mend_store(self) -> None:
        mishap = await self.parts.store.look()
        if mishap is not None:
            self.store_was_lost(rebuilt.while_in_use(mishap))
            if not mishap.whole:
                self.begun_anew()
        mended = await self.parts.store.mend() if self.parts.store.fallback else None
        if mended is not None and not mended.whole:
            self.store_was_lost(rebuilt.at_mending(mended))
        if mended is not None or mishap is not None:
            await self.store_soon()

    def store_was_lost(self, text: str) -> None:
        """Tell that the store was lost; the audit log has it with what is stored next."""
        self._unstored.append(self.rebuilt.tell(text))

    def _stands(self, state: State) -> None:
        self.state = state
        if self.parts.copy is not None:
            self.parts.copy.keep(state)

    async def _store_overtaking(self) -> None:
        async with self.lock:
            await self.store_soon()

    async def _store_now(self) -> bool:
        entries, self._unstored = self._unstored, []
        decisions, self._undecided = self._undecided, []
        try:
            await self.parts.store.save(self.state, entries, decisions)
        except StoreError as error:
            log.error("what is in force is not stored: %s", error)  # noqa: TRY400  it says all
            self._unstored = (entries + self._unstored)[-MAX_UNSTORED:]
            self._undecided = (decisions + self._undecided)[-MAX_UNSTORED:]
            self._unstored_state = True
            self._behind = error.stored if isinstance(error, OvertakenError) else 0
            return False
        self._unstored_state = False
        self._behind = 0
        return True

    async def _store_later(self) -> None:
        stored = False
        while not stored:
            await self.parts.sleep(STORE_AGAIN)
            async with self.lock:
                if self._behind >= self.state.revision:
                    # Of a write that was given up on its way: it is not what is in force.
                    self._number_above(self._behind)
                stored = await self._store_now()
        log.warning("the store works again: what is in force is stored")

    # --- applying -------------------------------------------------------------------------------

    def _topology(self, settings: Settings, state: State) -> Topology | None:
        """Return the topology that ``state`` needs, None where the one in force will do."""
        current = self.parts.hub.topology
        wanted = merge.topology(
            settings, state, self.parts.allocation, current.number, self.parts.probe_secret
        )
        if wanted == current:
            return None
        return msgspec.structs.replace(wanted, number=current.number + 1)

    def _publish(self, state: State, topology: Topology | None, seeds: Iterable[Monitor]) -> int:
        """Put a state into force; the part of it that needs no waiting."""
        self._stands(state)
        if topology is not None:
            # Before the workers get it, so that a trial's findings are on the board by then.
            self.watch(topology, seeds)
        moved: Traffic | None = state.traffic()
        if moved == self.parts.hub.traffic:
            moved = None
        self.parts.breakers.settle(state, topology or self.parts.hub.topology)
        self.parts.prober.integration.reconsider()
        if topology is None and moved is None:
            return self.parts.hub.number  # nothing of it is for workers
        number = self.parts.hub.send(topology=topology, traffic=moved)
        if topology is not None:
            ids = [each.id for pool in topology.pools for each in pool.endpoints]
            self.parts.allocation.retain((each.name for each in topology.services), ids)
        return number

    def watch(self, topology: Topology, seeds: Iterable[Monitor] = ()) -> None:
        """Probe and resolve exactly this topology's endpoints from now on."""
        self.parts.prober.watch(targets(self.settings, topology), seeds)
        self.parts.warming.watch(topology)
        hosts = {each.host for pool in topology.pools for each in pool.endpoints}
        self.parts.resolver.watch(hosts)
        self.parts.hub.keep_names(hosts)
        self._watch_keys(topology)
        self.parts.news.forget({service.name for service in topology.services})

    def _watch_keys(self, topology: Topology) -> None:
        if self.parts.issuers is not None:
            self.parts.issuers.watch(topology.auth)
            self.parts.hub.keep_keys(set(self.parts.issuers.known))

    async def expect_keys(self, schemes: tuple[AuthScheme, ...]) -> None:
        """Have issuers' keys read for schemes that are about to come into force.

        Waits for them, for ``KEYS_BOUND`` at most; ``settle_keys`` has to follow.
        """
        if self.parts.issuers is not None:
            self.parts.issuers.coming = schemes
            self._watch_keys(self.parts.hub.topology)
            await self.parts.issuers.prepare(seconds=KEYS_BOUND)

    def settle_keys(self) -> None:
        """Have the keys of the schemes in force read and no others."""
        if self.parts.issuers is not None:
            self.parts.issuers.coming = ()
            self._watch_keys(self.parts.hub.topology)

    def _tell(self, action: str, before: State, caller: Caller) -> None:
        state = self.state
        if state.run is not None and state.run != before.run:
            self._tell_release(state.run, before.run, caller)
        log.info("%s by %s: revision %d", action, caller.actor, state.revision)
        if state.revision != before.revision:
            weights = {each.name: each.weight / 100 for each in state.services}
            stable = {each.name: each.stable for each in state.services}
            self.parts.events.publish(
                "traffic",
                action=action,
                actor=caller.actor,
                reason=caller.reason,
                revision=state.revision,
                weights=weights,
                stable=stable,
                closed={each.name: each.closed for each in state.services if each.closed},
                maintenance={
                    each.name: each.maintenance for each in state.services if each.maintenance
                },
            )
        for service in state.services:
            former = before.of(service.name)
            for color in COLORS:
                pool = service.pool(color)
                if former is None or pool != former.pool(color):
                    self.parts.events.publish(
                        "pool",
                        service=service.name,
                        color=color,
                        generation=pool.generation,
                        source=pool.source,
                    )

    def _tell_release(self, run: Release, before: Release | None, caller: Caller) -> None:
        self.parts.events.publish("release", **releasenews.shown(run, caller.actor))
        former = before if before is not None and before.id == run.id else None
        if former is not None and releasenews.reason(run) == releasenews.reason(former):
            return
        if run.state not in {"held", "rolling_back", "aborted"}:
            return
        if former is not None and former.state == "rolling_back":
            return  # told when it began
        self.alert(run, caller)

    def tell_taken_up(self, before: State | None, caller: Caller) -> None:
        """Tell where this process has made something else of a release than what was stored."""
        run, former = self.state.run, before.run if before is not None else None
        if former is None and run is not None and run.trigger == STATE_LOST and not run.over:
            self._tell_release(run, None, caller)
        if (
            run is not None
            and former is not None
            and releasenews.reason(run) != releasenews.reason(former)
        ):
            self._tell_release(run, former, caller)

    def alert(
        self, run: Release, caller: Caller, *, because: str | None = None, hint: str | None = None
    ) -> None:
        """Tell that somebody should know of a release; ``because`` and ``hint``: not as it says."""
        # Held is the one that waits for somebody; what went back by itself is well again.
        critical = run.state == "held" or because is not None
        told = releasenews.shown(run, caller.actor)
        if because is not None:
            told["because"] = because
        say = log.critical if critical else log.warning
        say("release %s is %s: %s", run.id, run.words, told["because"])
        self.parts.events.publish(
            "alert",
            severity="critical" if critical else "warning",
            about="release",
            hint=hint or releasenews.hint(run),
            **told,
        )

    async def keep_above(self, revision: int) -> None:
        """Number above what a worker serves: an earlier control got further than was stored."""
        async with self.lock:
            if revision < self.state.revision:
                return
            self._number_above(revision)
            await self.store_soon()

    def _number_above(self, revision: int) -> None:
        state = msgspec.structs.replace(self.state, revision=revision + 1)
        self.parts.hub.send(traffic=state.traffic())
        self._stands(state)


def _told(state: State, names: list[str], changes: tuple[str, ...] = ()) -> bytes:
    """Return the services of an audit row as JSON, and what else has changed, in words."""
    told = {}
    for name in names:
        if (service := state.of(name)) is None:
            continue
        told[name] = {
            "stable": service.stable,
            "weight": service.weight / 100,
            "closed": service.closed,
            "maintenance": service.maintenance,
            "forced": service.forced,
            "pools": {
                color: {
                    "generation": pool.generation,
                    "source": pool.source,
                    "urls": pool.endpoints,
                }
                for color, pool in (("blue", service.blue), ("green", service.green))
            },
        }
    run = state.run
    release = (
        None
        if run is None
        else {"id": run.id, "state": run.state, "step": run.step + 1, "weight": run.weight / 100}
    )
    row = {"revision": state.revision, "services": told, "release": release}
    return msgspec.json.encode(row | ({"changes": changes} if changes else {}))
