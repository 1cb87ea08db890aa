"""The way on: a release validates, passes its steps, is finalized; what was seen is stored."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.control import releasedesk
from gateway.control.desk import Outcome, Refused
from gateway.control.releasedesk import Why
from gateway.control.releases import AGAIN, TICK, by_itself
from gateway.control.store import Progress, StoreError
from gateway.control.switchboard import MAX_UNSTORED
from gateway.release import account

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.control.desk import Facts
    from gateway.control.releasefacts import ReleaseFacts
    from gateway.control.releases import Releases
    from gateway.control.state import State
    from gateway.control.switchboard import Switchboard
    from gateway.release.account import Gate
    from gateway.release.machine import Event
    from gateway.release.record import Decision, Release

    Decide = Callable[[State, Release], Outcome]

log = logging.getLogger("gateway.control.releases")

#: Seconds between two times that what was seen is stored, and for stable's past.
STORE_EVERY: Final = 1.0
PAST_EVERY: Final = 60.0
#: Seconds in which no latency of a pool that has just got its first requests counts.
COLD: Final = 5.0
#: Seconds beyond the longest drain after which a rollback is over, whatever is still in flight.
UNDONE_MARGIN: Final = 5.0


class Walk:
    """Takes the running release on, a look at a time."""

    def __init__(self, switch: Switchboard, facts: ReleaseFacts, releases: Releases) -> None:
        self._switch = switch
        self._facts = facts
        self._releases = releases
        clock = switch.parts.clock
        self._past_at = clock()
        self._not_before = clock()
        #: When a rollback was first seen under way, by the release.
        self._back: tuple[str, float] | None = None
        self._told: tuple[Any, ...] | None = None
        #: The release of which it was told that workers are late to leave it.
        self._said_late = ""
        self._undecided: list[Decision] = []
        #: The release of which all that was seen is stored for good.
        self._done = ""

    async def walk(self) -> None:
        """Go on for ever."""
        while True:
            await self._switch.parts.sleep(TICK)
            try:
                await self.look()
            except Exception:
                log.exception("a release could not go on; it is tried again")
                self._not_before = self._switch.parts.clock() + AGAIN

    async def look(self) -> None:
        """Look once, and do what is due."""
        now = self._switch.parts.clock()
        run = self._switch.state.run
        if run is not None and not run.over and now >= self._not_before:
            await self._on(run, now)

    async def keep(self) -> None:
        """Store what was seen, for ever: beside the walk, which may wait for a worker."""
        while True:
            await self._switch.parts.sleep(STORE_EVERY)
            try:
                await self.store()
            except Exception:
                log.exception("what was seen of a release could not be stored; it is tried again")

    async def _on(self, run: Release, now: float) -> None:
        if run.state == "rolling_back":
            await self._undo(run, now)
            return
        self._releases.judged(run)  # this one's own, whether watch has looked since it moved or not
        gate = self._releases.gate(run)
        if gate is None:
            return
        self._evaluated(run, gate, now)
        if run.state == "validating":
            await self._validate(run, gate)
        elif run.state in {"stepping", "baking"}:
            await self._pass(run, gate)

    # --- moves ------------------------------------------------------------------------------------

    async def _move(self, run: Release, what: str, text: str, decide: Decide) -> None:
        """Write a move of a release, unless it has moved meanwhile."""

        def decided(state: State, facts: Facts) -> Outcome:
            del facts
            return decide(state, run) if state.run == run else Outcome(state)

        # What was evaluated stands in the ledger before what came of it.
        evaluated, self._undecided = self._undecided, []
        made = self._releases.ledger(what, text)

        def ledger(before: State, after: State) -> list[Decision]:
            return [*evaluated, *made(before, after)]

        try:
            written = await self._switch.write(by_itself(text), f"release.{what}", decided, ledger)
        except (StoreError, Refused) as error:
            log.error("release %s cannot go on: %s", run.id, error)  # noqa: TRY400  it says all
            self._not_before = self._switch.parts.clock() + AGAIN
            stored = isinstance(error, Refused)  # overtaken: with what it would have been
        else:
            stored = written.changed
        if not stored:
            self._undecided = [*evaluated, *self._undecided]

    async def _validate(self, run: Release, gate: Gate) -> None:
        if gate.probes and self._lease_holds():
            await self._step(run, 0, "every candidate is healthy on all levels")
            return
        if gate.held < run.plan.validate_within:
            return
        unproven = self._facts.unproven(self._switch.state, run)
        text = f"not healthy within {run.plan.validate_within:g} s: {'; '.join(unproven)}"
        why = Why(because=text, trigger="validation")
        await self._stop(run, "ended", "invalid", why)

    async def _pass(self, run: Release, gate: Gate) -> None:
        if not self._lease_holds():
            return
        plan = run.plan
        if gate.passes:
            early = " early" if gate.held < gate.hold else ""
            text = f"step {run.step + 1} passed{early}: {gate.requests} requests of the candidate"
            await self._further(run, text)
            return
        # What only waits for a person to finalize it has had its verdict.
        over = run.step == plan.last and plan.finalize == "manual" and gate.enough
        waited = self._releases.judged(run).known.seen.waited
        if not over and waited >= max(plan.max_hold, gate.hold):
            await self._inconclusive(run, gate)

    async def _inconclusive(self, run: Release, gate: Gate) -> None:
        text = f"inconclusive after {gate.held:.0f} s: {'; '.join(gate.waits)}"
        choice = run.plan.on_inconclusive
        why = Why(because=text, trigger="inconclusive")
        # At the last step with a person to finalize it there is nowhere to go on to.
        further = run.step < run.plan.last or run.plan.finalize == "auto"
        if choice == "promote" and further and gate.probes and not gate.near:
            await self._further(run, f"{text}; promoted all the same, as configured")
        elif choice == "rollback" and not run.plan.forward_only:
            await self._releases.roll_back(by_itself(text), run, why)
        else:
            await self._stop(run, "held", "hold", why)

    async def _stop(self, run: Release, what: str, event: Event, why: Why) -> None:
        """Have a release go on no further, and say why."""
        await self._move(
            run,
            what,
            why.because,
            lambda state, _: releasedesk.plainly(
                state, event, self._wall(), self._fresh, **why.changes
            ),
        )

    async def _further(self, run: Release, text: str) -> None:
        if run.step < run.plan.last:
            await self._step(run, run.step + 1, text)
        elif run.plan.finalize == "auto":
            await self.finalize(run, text)

    async def _step(self, run: Release, step: int, text: str) -> None:
        cold = self._switch.parts.clock() + COLD if run.step < 0 else 0.0
        await self._move(
            run,
            "step",
            f"{text}; on to {run.plan.steps[step].weight / 100:g} %",
            lambda state, _: releasedesk.advance(
                state, step, self._wall(), self._fresh, cold_until=cold
            ),
        )

    async def finalize(self, run: Release, text: str) -> None:
        """Swap the roles by the gateway's own doing."""
        await self._move(
            run,
            "ended",
            f"{text}; the candidate is stable now",
            lambda state, _: releasedesk.finalize(state, self._wall(), self._fresh),
        )
        if self._switch.state.run is not None and self._switch.state.run.state == "finalized":
            self._releases.succeeded(run)

    async def _undo(self, run: Release, now: float) -> None:
        """End a rollback once every worker serves it and nothing is in flight any more."""
        if self._back is None or self._back[0] != run.id:
            self._back = (run.id, now)
        hub = self._switch.parts.hub
        drains = [s.drain_timeout for s in hub.topology.services if run.part(s.name) is not None]
        late = now - self._back[1] > max(drains, default=0.0) + UNDONE_MARGIN
        behind, flying = hub.behind(hub.number), self._facts.in_flight(run)
        if behind:
            # As long as one worker sends people there it is not over, however long that takes.
            if late:
                self._say_late(run, behind)
            return
        if flying and not late:
            return
        event: Event = "undone_by_hand" if run.by_hand else "undone"
        await self._move(
            run,
            "ended",
            "every worker is on stable"
            + (f"; {flying} requests still in flight on the candidates" if flying else ""),
            lambda state, _: releasedesk.undone(state, event, self._wall(), self._fresh),
        )

    def _say_late(self, run: Release, behind: tuple[str, ...]) -> None:
        if self._said_late == run.id:
            return
        self._said_late = run.id
        text = f"people may still be sent to the candidates: {', '.join(behind)} has not gone back"
        self._releases.notes.append(self._releases.decision(run, "rolling_back", text, {}))
        self._switch.alert(run, by_itself(text), because=text, hint="end that worker")

    def _lease_holds(self) -> bool:
        judgement = self._releases.judgement
        return judgement is None or judgement.known.lease is None or judgement.known.lease > 0

    def _wall(self) -> float:
        return self._switch.parts.wall()

    def _fresh(self) -> bytes:
        return self._switch.parts.fresh()

    # --- what is written down ---------------------------------------------------------------------

    def _evaluated(self, run: Release, gate: Gate, now: float) -> None:
        """Note an evaluation that says something else than the one before."""
        judgement = self._releases.judged(run)
        said = (
            run.id,
            run.step,
            gate.enough,
            gate.held >= gate.hold,
            gate.probes,
            gate.near,
            tuple(
                account.verdict(judgement, scope, enough=gate.enough, now=now)
                for scope in judgement.known.scopes
            ),
        )
        if self._told is not None and self._told[:2] == said[:2] and self._told != said:
            text = "passes" if gate.passes else "waits for " + "; ".join(gate.waits)
            self._undecided.append(self._releases.decision(run, "evaluation", text, {}))
        self._told = said

    async def store(self, *, everything: bool = False) -> None:
        """Store what was seen, and stable's past where it is time (or ``everything``)."""
        now = self._switch.parts.clock()
        await self._keep_progress()
        if everything or self._releases.past_due or now - self._past_at >= PAST_EVERY:
            self._past_at, self._releases.past_due = now, False
            documents = self._releases.baselines.changed()
            try:
                await self._switch.parts.store.keep_baselines(documents)
            except StoreError as error:
                log.warning("stable's past is not stored: %s", error)
                self._releases.baselines.unstored(documents)

    async def _keep_progress(self) -> None:
        run = self._switch.state.run
        judgement = self._releases.judgement
        if run is None or judgement is None or judgement.known.release != run.id:
            return
        self._undecided += self._releases.notes
        self._releases.notes = []
        if run.over and run.id == self._done and not self._undecided:
            return
        progress = Progress(
            release=run.id,
            document=msgspec.msgpack.encode(judgement.known),
            keys=judgement.dirty,
            anew=self._releases.anew,
            decisions=tuple(self._undecided),
        )
        judgement.stored()
        self._undecided, self._releases.anew = [], False
        try:
            await self._switch.parts.store.keep_progress(progress)
            if run.over:
                self._done = run.id
        except StoreError as error:
            log.warning("what was seen of a release is not stored: %s", error)
            if not self._releases.anew:  # else all of these are void meanwhile
                judgement.unstored(progress.keys)
                self._releases.anew = progress.anew
            self._undecided = [*progress.decisions, *self._undecided][-MAX_UNSTORED:]

    async def close(self) -> None:
        """Store what is there."""
        await self.store(everything=True)
