"""What people and pipelines ask of releases: start, pause, resume, promote, abort, finalize, renew.

Each verb finds its work done where it is: then nothing changes. ``name`` is a release's id, or
``current`` for the one under way or the last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.config.schema.releases import ServiceTriggers
from gateway.control import desk, releasedesk
from gateway.control.desk import Outcome, Refused
from gateway.control.releasedesk import Ground, Why
from gateway.control.releasewalk import COLD
from gateway.release.bounds import effective, merged
from gateway.release.machine import RUNNING, knows
from gateway.release.record import Part, Violations

if TYPE_CHECKING:
    from gateway.control import state as states
    from gateway.control.desk import Facts
    from gateway.control.releasedesk import Ask
    from gateway.control.releases import Releases
    from gateway.control.state import ServiceState
    from gateway.control.switchboard import Caller, Switchboard, Written
    from gateway.release.machine import Event, State
    from gateway.release.record import Decision, Release


#: The share of a lease that a renewal may leave before it is late.
LATE: Final = 0.25


class ReleaseCalls:
    """The verbs. All raise as ``Switchboard.write``."""

    def __init__(self, switch: Switchboard, releases: Releases) -> None:
        self._switch = switch
        self._releases = releases
        #: The release whose lease this process has seen renewed.
        self._renewed = ""

    # --- reading ----------------------------------------------------------------------------------

    async def all(self, before: int | None, limit: int) -> list[Release]:
        """Return releases with numbers under ``before``, newest first. Raises StoreError."""
        return await self._switch.parts.store.releases(before, limit)

    async def one(self, name: str) -> Release:
        """Return one release. Raises Refused (404) and StoreError."""
        run = self._switch.state.run
        if run is not None and name in {run.id, "current"}:
            return run
        found = None if name == "current" else await self._switch.parts.store.release(name)
        if found is None:
            raise Refused("unknown-release", f"there is no release {name!r}", status=404)
        return found

    async def decisions(self, name: str) -> tuple[Release, list[Decision]]:
        """Return a release and its ledger, oldest first. Raises as ``one``."""
        run = await self.one(name)
        return run, await self._switch.parts.store.decisions(run.id)

    # --- start ------------------------------------------------------------------------------------

    async def start(self, caller: Caller, ask: Ask) -> Written:
        """Begin a release. Raises Refused."""
        releases = self._switch.settings.releases
        ground = Ground(
            releases=releases,
            part=self._part,
            condemned=self._releases.condemned,
            now=self._switch.parts.wall(),
            fresh=self._switch.parts.fresh,
        )
        written = await self._switch.write(
            caller,
            "release.start",
            lambda state, _: releasedesk.start(state, ask, ground),
            self._releases.ledger("started", f"started by {caller.actor}: {_named(ask)}"),
        )
        if (run := self._switch.state.running) is not None:
            self._releases.judged(run)
        return written

    def _part(self, service: ServiceState) -> Part:
        settings = self._switch.settings
        found = settings.of(service.name)
        own = found.triggers if found is not None else ServiceTriggers()
        rules = effective(settings.releases.triggers, own)
        triggers = merged(settings.releases.triggers, own)
        thresholds, cold = self._releases.baselines.thresholds(service.name, rules.latency_above)
        return Part(
            service=service.name,
            candidate=service.candidate,
            generation=service.pool(service.candidate).generation,
            stable_generation=service.pool(service.stable).generation,
            rules=rules,
            alpha=triggers.regression.alpha,
            tolerance=triggers.regression.tolerance,
            thresholds=thresholds,
            cold=cold,
            rate=self._releases.baselines.rate(service.name),
            csp=None
            if triggers.csp_violations is None
            else Violations(
                alpha=triggers.csp_violations.alpha, tolerance=triggers.csp_violations.tolerance
            ),
        )

    # --- verbs ------------------------------------------------------------------------------------

    async def pause(self, caller: Caller, name: str) -> Written:
        """Let it rest where it is; it is judged on, and taken back where it must be."""
        await self._check_last(name)

        def decide(state: states.State, facts: Facts) -> Outcome:
            del facts
            run = releasedesk.found(state, name)
            if run.state == "paused":
                return Outcome(state)
            _check(run, "pause")
            return releasedesk.plainly(state, "pause", self._wall(), self._switch.parts.fresh)

        ledger = self._releases.ledger("paused", _said(caller, "paused"))
        return await self._switch.write(caller, "release.pause", decide, ledger)

    async def resume(self, caller: Caller, name: str) -> Written:
        """Go on where it was. What held it was looked at: its tests begin anew."""
        await self._check_last(name)

        def decide(state: states.State, facts: Facts) -> Outcome:
            del facts
            run = releasedesk.found(state, name)
            if run.state in {"validating", "stepping", "baking"}:
                return Outcome(state)
            _check(run, "resume")
            return releasedesk.plainly(
                state,
                "resume",
                self._wall(),
                self._switch.parts.fresh,
                because="",
                trigger="",
                by_hand=False,
                wants_back=False,
            )

        ledger = self._releases.ledger("resumed", _said(caller, "resumed"))
        written = await self._switch.write(caller, "release.resume", decide, ledger)
        self._went_on(written)
        return written

    async def promote(
        self, caller: Caller, name: str, to: int | None, *, force: bool = False
    ) -> Written:
        """Go on to the next step, or to the first of at least ``to`` hundredths of a percent.

        From ``held`` at the last step that is the end: the candidate becomes stable.
        """
        if (former := await self._former(name, "finalized")) is not None:
            return await self._unmoved(caller, "release.promote", former)

        def decide(state: states.State, facts: Facts) -> Outcome:
            run = releasedesk.found(state, name)
            step = _target(run, to)
            if step is None:
                return Outcome(state)
            if not force:
                self._check_not_forced()
                desk.check_able(state.within(run), facts)
            together = all(each.weight == run.weight for each in state.within(run))
            if step > run.plan.last and together:
                return releasedesk.finalize(state, self._wall(), self._switch.parts.fresh)
            # Where some services were taken back already, all of them come to the last step first.
            step = min(step, run.plan.last)
            cold = self._switch.parts.clock() + COLD if run.step < 0 else 0.0
            return releasedesk.advance(
                state, step, self._wall(), self._switch.parts.fresh, cold_until=cold
            )

        ledger = self._releases.ledger("promoted", _said(caller, "promoted"))
        written = await self._switch.write(caller, "release.promote", decide, ledger)
        self._went_on(written)
        return written

    async def abort(self, caller: Caller, name: str, *, force: bool = False) -> Written:
        """Take it back by hand."""
        if (former := await self._former(name, "aborted", "rolled_back")) is not None:
            return await self._unmoved(caller, "release.abort", former)
        run = releasedesk.found(self._switch.state, name)
        if run.plan.forward_only and run.running and run.weight > 0 and not force:
            raise Refused(
                "forward-only",
                f"release {run.id} is forward only: its migration cannot go back",
                hint='"force": true takes it back all the same',
            )
        return await self.take_back(caller, run, force=force)

    async def take_back(self, caller: Caller, run: Release, *, force: bool = False) -> Written:
        """Take a release back because a person says so; done already: nothing changes."""
        if run.state == "finalized":
            raise Refused(
                "release-over",
                f"release {run.id} is finalized",
                hint='POST /v1/rollback {"to": "previous"} undoes it while the former pool stands',
            )
        if run.state not in RUNNING:
            return await self._nothing(caller, "release.abort")
        why = Why(because=_said(caller, "taken back"), trigger="manual", by_hand=True)
        return await self._releases.roll_back(caller, run, why, force=force)

    def snapped_back(self, written: Written) -> None:
        """Count a rollback by hand that had no release to take back."""
        if written.changed and written.touched:
            self._releases.count_rollback("manual")

    async def finalize(self, caller: Caller, name: str) -> Written:
        """Swap the roles now: the candidate carries everything and becomes stable."""
        if (former := await self._former(name, "finalized")) is not None:
            return await self._unmoved(caller, "release.finalize", former)

        def decide(state: states.State, facts: Facts) -> Outcome:
            del facts
            run = releasedesk.found(state, name)
            if run.state == "finalized":
                return Outcome(state)
            if run.running and not run.full:
                raise Refused(
                    "not-at-100",
                    f"release {run.id} is at {run.weight / 100:g} %, roles swap at 100 %",
                    hint='promote it {"to": 100} first',
                )
            if run.state == "held":
                raise _not_now(run)
            _check(run, "finalize")
            return releasedesk.finalize(state, self._wall(), self._switch.parts.fresh)

        ledger = self._releases.ledger("ended", _said(caller, "finalized"))
        written = await self._switch.write(caller, "release.finalize", decide, ledger)
        self._went_on(written)
        return written

    async def renew(self, caller: Caller, name: str) -> Written:
        """Give its lease the full time again. Raises Refused where it has none or is over.

        It moves nothing, so the If-Match is not looked at.
        """
        await self._check_last(name)
        run = releasedesk.found(self._switch.state, name)
        if not run.running:
            raise _over(run, ": nothing to renew")
        if run.plan.lease is None:
            raise Refused("no-lease", f"release {run.id} has no lease", release=run.id)
        known = self._releases.judged(run).known
        self._note_renewal(caller, run, known.lease)
        known.lease = run.plan.lease
        caller = replace(caller, revisions=None)
        return await self._nothing(caller, "release.renew")

    def _note_renewal(self, caller: Caller, run: Release, left: float | None) -> None:
        """Leave a trace of a lease's first renewal and of those that came late, not of each."""
        full = run.plan.lease
        assert full is not None
        late = left is not None and left < LATE * full
        if self._renewed == run.id and not late:
            return
        self._renewed = run.id
        text = f"renewed by {caller.actor}, with {max(left or 0.0, 0.0):.1f} s of {full:g} s left"
        self._releases.notes.append(
            self._releases.decision(run, "lease", text, {"left": left, "lease": full})
        )

    # --- releases before the last -----------------------------------------------------------------

    async def _former(self, name: str, *done: State) -> Release | None:
        """Return a release before the last one where a verb finds its work done, None for the last.

        Raises Refused: 409 where it ended another way, 404 where there is none. Raises StoreError.
        """
        run = self._switch.state.run
        if run is not None and name in {run.id, "current"}:
            return None
        former = await self.one(name)
        if former.state not in done:
            raise _over(former)
        return former

    async def _check_last(self, name: str) -> None:
        """Refuse a verb that no release before the last one has its work done for."""
        await self._former(name)

    async def _unmoved(self, caller: Caller, action: str, former: Release) -> Written:
        """Answer with a release before the last one, and that nothing has changed."""
        written = await self._nothing(caller, action)
        return replace(written, state=msgspec.structs.replace(written.state, run=former))

    async def _nothing(self, caller: Caller, action: str) -> Written:
        """Change nothing; tell who serves what is in force."""
        return await self._switch.write(caller, action, lambda state, _: Outcome(state))

    def _went_on(self, written: Written) -> None:
        """Note that a person has gone on: the lease is full again, or the candidate stable."""
        run = written.state.run
        if run is None or not written.changed:
            return
        if run.state == "finalized":
            self._releases.succeeded(run)
        elif run.running:
            self._releases.judged(run).known.lease = run.plan.lease

    def _check_not_forced(self) -> None:
        """Refuse to go on while nobody is on the candidate, whatever the weights say."""
        if any(worker.forced_stable for worker in self._switch.parts.board.workers()):
            raise Refused(
                "forced-stable",
                "`rollback --local` or on_control_lost has everybody on stable: nothing is judged",
                hint="gateway rollback --local --undo",
            )

    def _wall(self) -> float:
        return self._switch.parts.wall()


def _target(run: Release, to: int | None) -> int | None:
    """Return the step that a promotion goes to; beyond the last: the end; None: it is there."""
    if not run.running:
        if run.state == "finalized":
            return None
        _check(run, "advance")
    if to is None:
        if run.step >= run.plan.last and run.state != "held":
            raise Refused(
                "not-promotable",
                f"release {run.id} is at its last step",
                hint=f"POST /v1/releases/{run.id}/finalize",
            )
        return run.step + 1
    if run.step >= 0 and run.weight >= to:
        return None if run.state in {"stepping", "baking"} else run.step
    for position, step in enumerate(run.plan.steps):
        if step.weight >= to:
            return position
    return run.plan.last


def _check(run: Release, event: Event) -> None:
    """Refuse what a release's state does not know."""
    if not knows(run.state, event):
        raise _not_now(run)


def _not_now(run: Release) -> Refused:
    if run.over or run.state == "rolling_back":
        return _over(run)
    return Refused(
        "not-in-this-state",
        f"release {run.id} is {run.words}",
        release=run.id,
        hint="what leaves held is resume, promote or abort" if run.state == "held" else None,
    )


def _over(run: Release, why: str = "") -> Refused:
    return Refused("release-over", f"release {run.id} is {run.words}{why}", release=run.id)


def _named(ask: Ask) -> str:
    what = ", ".join(ask.services) if ask.services is not None else "every service"
    return f"{what}{f', version {ask.version}' if ask.version else ''}"


def _said(caller: Caller, what: str) -> str:
    return f"{what} by {caller.actor}" + (f": {caller.reason}" if caller.reason else "")
