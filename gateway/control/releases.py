"""The conductor of releases: what workers tell is judged, and what comes of it is done.

Two loops, so that the way back never waits for the way on. *Watch* looks at evidence, rules and
lease, at every failure and four times a second, and takes a release back or holds it, in every
state. *Walk* goes on: it validates, passes steps, finalizes, and stores what was seen. Nothing of
this is on a request's way, and workers go on with what they have while control is away.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.channel.messages import Failures
from gateway.config.snapshot import BUCKETS
from gateway.control import releasedesk
from gateway.control.desk import Outcome, Refused, unavailable
from gateway.control.releasedesk import Why
from gateway.control.releasenews import Told, worth_telling
from gateway.control.store import StoreError
from gateway.control.switchboard import Caller
from gateway.release import account
from gateway.release.judgement import Judgement, Known
from gateway.release.machine import RUNNING
from gateway.release.record import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.channel.messages import Tally
    from gateway.control.baselines import Baselines
    from gateway.control.desk import Facts
    from gateway.control.releasefacts import ReleaseFacts
    from gateway.control.state import State
    from gateway.control.switchboard import Ledger, Switchboard, Written
    from gateway.release.account import Gate
    from gateway.release.facts import Finding
    from gateway.release.record import Release

log = logging.getLogger("gateway.control.releases")

#: Seconds between two looks without anything new.
TICK: Final = 0.25
#: Time that passed unwatched (control's loop stood still) counts for no more than this.
MOST_AT_ONCE: Final = 1.0
#: Seconds after a move that failed (a full disk) before it is tried again.
AGAIN: Final = 5.0
GATEWAY: Final = "gateway"
FORWARD_ONLY: Final = "not rolled back: it is forward only"
BESIDES: Final = "; besides, "


class Releases:
    """The running release, judged. ``open`` once, then ``watch`` and ``walk`` as tasks."""

    def __init__(self, switch: Switchboard, facts: ReleaseFacts, baselines: Baselines) -> None:
        self._switch = switch
        self._facts = facts
        self.baselines = baselines
        self.judgement: Judgement | None = None
        self.condemned: set[tuple[str, int]] = set()
        #: Rollbacks since this process began, by trigger.
        self.rollbacks: dict[str, int] = {}
        self.findings: list[Finding] = []
        self._wake = asyncio.Event()
        self._watched = switch.parts.clock()
        #: A way back that has been begun but not decided yet; a hold until it is written.
        self._going_back = False
        self._holding = False
        self._hold_not_before = self._watched
        #: Whether what candidates were seen to do has become stable's past and is yet to be stored.
        self.past_due = False
        #: Whether keys that were stored before are void.
        self.anew = False
        #: Rows of the ledger that no move comes with; they are stored with what was seen.
        self.notes: list[Decision] = []
        self._told = Told()

    # --- the start --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take up what was stored: stable's past, and what was seen of a release under way."""
        store = self._switch.parts.store
        try:
            self.baselines.load(await store.baselines())
            self.condemned = await store.condemned()
            run = self._switch.state.run
            if run is not None and not run.over:
                self._take_up(run, await store.progress(run.id))
                await self._say_what_was_not_stored(run)
        except StoreError:
            log.exception("what was stored of releases cannot be read")
        self._watched = self._switch.parts.clock()

    def _take_up(self, run: Release, kept: tuple[bytes, dict[tuple[str, int], int]] | None) -> None:
        known = None
        if kept is not None:
            try:
                known = msgspec.msgpack.decode(kept[0], type=Known)
            except msgspec.DecodeError as error:
                log.warning("what was seen of release %s is of no use: %s", run.id, error)
        self.judgement = Judgement(run, known)
        if known is not None and kept is not None:
            self.judgement.remember(kept[1])
        # Nobody could renew it while control was away.
        self.judgement.known.lease = run.plan.lease
        log.warning("release %s goes on: it is %s at step %d", run.id, run.state, run.step + 1)

    async def _say_what_was_not_stored(self, run: Release) -> None:
        """Have the ledger end with the state that the release was found in."""
        store = self._switch.parts.store
        rows = await store.decisions(run.id)
        if rows and rows[-1].state != run.state and run.because:
            what = "held" if run.state == "held" else "rolling_back"
            made = self.decision(run, what, run.because, {})
            await store.save(self._switch.state, (), (made,))

    def judged(self, run: Release) -> Judgement:
        """Return the judgement of a release, begun where there is none yet."""
        judgement = self.judgement
        if judgement is None or judgement.known.release != run.id:
            judgement = self.judgement = Judgement(run)
            self.anew = True
        if judgement.known.looked != run.looked:
            # In the very step that lets it go on: what held it must not hold it again.
            judgement.anew(run)
            self.anew = True
            current = [(each.trigger, each.service) for each in self.findings]
            judgement.known.seen_to = list(dict.fromkeys([*judgement.known.seen_to, *current]))
        if judgement.known.seen.step != run.step:
            judgement.step(run.step, run.weight)
        return judgement

    # --- what workers tell ------------------------------------------------------------------------

    def seen(self, message: Failures | Tally) -> None:
        """Take what a worker has seen."""
        state = self._switch.state
        run = state.running
        if not isinstance(message, Failures):
            self.baselines.take(state, message)
            # The last counts of one that is being taken back come while it is: a candidate that
            # fails at once is gone before its first ones.
            if state.run is not None and not state.run.over:
                self.judged(state.run).count(message, self._switch.parts.clock())
        elif run is not None:
            judgement = self.judged(run)
            told = judgement.fail(self._comparable(run, message))
            if told and (judgement.over() or judgement.violating()):
                self._wake.set()

    def _comparable(self, run: Release, message: Failures) -> Failures:
        """Leave out what has no other side: stable's breakers are open, or it is down.

        In an outage of both, stable's breakers open first, for it has more of the requests; it
        fails no more from then on while the candidate does, and that says nothing against it.
        """
        alone = self._facts.alone(self._switch.state, run)
        if not alone:
            return message
        kept = [
            each for each in message.failures if each.service not in alone or each.weight >= BUCKETS
        ]
        return msgspec.structs.replace(message, failures=tuple(kept))

    def store_again(self) -> None:
        """Have all that is known stored once more: the store has begun from nothing."""
        self.past_due = True
        if self.judgement is not None:
            self.judgement.dirty = dict(self.judgement.keys)

    def succeeded(self, run: Release) -> None:
        """Note that candidates are stable now: what was seen of them is stable's past."""
        self.condemned -= {(part.service, part.generation) for part in run.parts}
        judgement = self.judgement
        if judgement is None or judgement.known.release != run.id:
            return
        for part in run.parts:
            latency = judgement.known.figures[part.service].candidate.latency
            self.baselines.succeed(part.service, part.generation, dict(latency))
        self.past_due = True

    # --- the way back -----------------------------------------------------------------------------

    async def watch(self) -> None:
        """Judge for ever."""
        while True:
            try:
                async with asyncio.timeout(TICK):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                self.look()
            except Exception:
                log.exception("a release could not be judged; it is looked at again")

    def look(self) -> None:
        """Look once; what has to be done is begun before this returns."""
        now = self._switch.parts.clock()
        passed = min(max(0.0, now - self._watched), MOST_AT_ONCE)
        self._watched = now
        self.baselines.turn(self._switch.state, passed)
        run = self._switch.state.running
        if run is None:
            self.findings = []
            return
        judgement = self.judged(run)
        if run.state in {"stepping", "baking", "validating"}:
            judgement.known.seen.held += passed
            judgement.known.seen.waited += passed
            if judgement.known.lease is not None:
                judgement.known.lease -= passed
        facts = self._facts.look(self._switch.state, run, now)
        self.findings = judgement.rules.look(now, facts, run.weight)
        if judgement.known.seen_to:
            # What an operator went on from is over once its condition is, not while its time runs
            # anew; the next time is another time.
            still = judgement.rules.conditions(now, facts)
            judgement.known.seen_to = [each for each in judgement.known.seen_to if each in still]
        if run.state != "held":
            self._told.clear()
        if self._going_back:
            return
        why, numbers = self._against(run, judgement)
        if why is not None:
            self._go_back(run, why, numbers)
        elif run.state != "held":
            self._perhaps_hold(run, judgement)
        if run.state == "held" and not self._going_back:
            self._tell_held(run, judgement, now)

    def _against(self, run: Release, judgement: Judgement) -> tuple[Why | None, dict[str, Any]]:
        """Return why a release is to be taken back, None where nothing says so."""
        if run.wants_back:
            # First: what a person asked for stays theirs, whatever else speaks against it by now.
            return Why(because=run.because, trigger=run.trigger, by_hand=run.by_hand), {}
        out = releasedesk.isolated_candidates(self._switch.state, run)
        if out and run.weight > 0:
            # Services of one release are moved together, and this one is on stable already. It is
            # a person's doing, which condemns no build; but nobody has said that a release without
            # a way back may take it.
            text = f"isolated by hand: {', '.join(out)}"
            return Why(because=text, trigger="manual", by_hand=not run.plan.forward_only), {}
        shown = _shown(run, judgement) if run.weight > 0 else None
        if shown is not None:
            return shown, {}
        seen_to = judgement.known.seen_to if run.plan.forward_only else ()
        for finding in self.findings:
            if finding.what == "roll_back" and (finding.trigger, finding.service) not in seen_to:
                why = Why(because=finding.text, trigger=finding.trigger)
                return why, {"finding": dict(finding.numbers)}
        lease = judgement.known.lease
        lost = lease is not None and lease <= 0 and run.state in {"validating", "stepping"}
        if lost and run.plan.on_lease_lost == "rollback":
            return Why(because=_lease_lost(run), trigger="lease"), {}
        return None, {}

    def _go_back(self, run: Release, why: Why, numbers: dict[str, Any]) -> None:
        """Begin to take a release back, unless it must not be, or cannot be now."""
        if run.plan.forward_only and run.weight > 0 and not why.by_hand:
            if run.state != "held":
                text = f"{why.because}; {FORWARD_ONLY}"
                self._hold(run, Why(because=text, trigger=why.trigger), numbers)
            return
        if run.state == "held" and run.wants_back and not self._any_can_go(run):
            return
        self._going_back = True
        self._switch.parts.tasks.start(self._back(run, why, numbers), name="roll back")

    def _any_can_go(self, run: Release) -> bool:
        facts = self._switch.parts.facts
        return any(
            service.weight > 0 and unavailable(service, service.stable, facts) is None
            for service in self._switch.state.within(run)
        )

    async def _back(self, run: Release, why: Why, numbers: dict[str, Any]) -> None:
        try:
            await self.roll_back(by_itself(why.because), run, why, numbers=numbers)
        except Refused as refused:
            log.warning("release %s is not rolled back: %s", run.id, refused)
        finally:
            self._going_back = False

    async def roll_back(
        self,
        caller: Caller,
        run: Release,
        why: Why,
        *,
        force: bool = False,
        numbers: dict[str, Any] | None = None,
    ) -> Written:
        """Take a release back now: applied first, then stored. Returns as ``Switchboard.rollback``.

        Raises Refused where a person asks and no service can go.
        """
        clock, wall = self._switch.parts.clock, self._switch.parts.wall
        drains = {
            each.name: each.drain_timeout for each in self._switch.parts.hub.topology.services
        }

        def decide(state: State, facts: Facts) -> Outcome:
            # Workers are not waited for: what cannot go now may be able to in a moment.
            self._going_back = False
            if state.running is None or state.running.id != run.id:
                return Outcome(state)  # it has ended meanwhile
            outcome = releasedesk.roll_back(
                state,
                facts,
                why,
                now=wall(),
                fresh=self._switch.parts.fresh,
                force=force,
                tunnels_until=lambda name: clock() + drains.get(name, 30.0),
            )
            if why.by_hand and outcome.refused and not outcome.touched:
                raise Refused(
                    "stable-unavailable",
                    "; ".join(f"{part.service}: {part.detail}" for part in outcome.refused),
                    hint='"force": true overrides',
                    parts=outcome.refused,
                )
            return outcome

        def ledger(before: State, after: State) -> list[Decision]:
            held = after.run is not None and after.run.state == "held"
            what = "held" if held else "rolling_back"
            return self.ledger(what, why.because, numbers)(before, after)

        written = await self._switch.rollback(caller, decide, ledger)
        if written.changed and written.touched:
            trigger = written.state.run.trigger if written.state.run is not None else why.trigger
            self.count_rollback(trigger)
        after = written.state.run
        if after is not None and after.condemns:
            self.condemned |= {(part.service, part.generation) for part in run.parts}
        return written

    def count_rollback(self, trigger: str) -> None:
        """Count one more, by what made it so."""
        self.rollbacks[trigger] = self.rollbacks.get(trigger, 0) + 1

    def _perhaps_hold(self, run: Release, judgement: Judgement) -> None:
        for finding in self.findings:
            if (finding.trigger, finding.service) not in judgement.known.seen_to:
                why = Why(because=finding.text, trigger=finding.trigger)
                self._hold(run, why, {"finding": dict(finding.numbers)})
                return
        lease = judgement.known.lease
        if lease is not None and lease <= 0 and run.state != "paused":
            self._hold(run, Why(because=_lease_lost(run), trigger="lease"), {})

    def _tell_held(self, run: Release, judgement: Judgement, now: float) -> None:
        """Tell what else has come up since it is held: once each, not at every look."""
        up = worth_telling(run, judgement, self.findings)
        fresh = self._told.fresh(run, up, now)
        if fresh:
            because = "; ".join(each.text for each in up)
            why = Why(because=because, trigger=fresh[0].trigger)
            self._hold(run, why, {"finding": fresh[0].numbers}, [each.of for each in fresh])

    def _hold(
        self, run: Release, why: Why, numbers: dict[str, Any], news: Sequence[tuple[str, str]] = ()
    ) -> None:
        if self._holding or self._switch.parts.clock() < self._hold_not_before:
            return
        self._holding = True
        self._switch.parts.tasks.start(self._held(run, why, numbers, news), name="hold")

    async def _held(
        self, run: Release, why: Why, numbers: dict[str, Any], news: Sequence[tuple[str, str]]
    ) -> None:
        """Hold a release; with ``news`` one that is held already gets another reason."""

        def decide(state: State, facts: Facts) -> Outcome:
            del facts
            current = state.running
            if current is None or current.id != run.id or (current.state == "held") != bool(news):
                return Outcome(state)
            now = self._switch.parts.wall()
            if news:
                return releasedesk.held_for(state, why, BESIDES, now)
            return releasedesk.plainly(state, "hold", now, self._switch.parts.fresh, **why.changes)

        try:
            await self._switch.write(
                by_itself(why.because),
                "release.hold",
                decide,
                self.ledger("held", why.because, numbers),
            )
            self._told.tell(news, self._switch.parts.clock())
        except (StoreError, Refused) as error:
            log.error("release %s is to be held: %s", run.id, error)  # noqa: TRY400  it says all
            self._hold_not_before = self._switch.parts.clock() + AGAIN
        finally:
            self._holding = False

    # --- the ledger -------------------------------------------------------------------------------

    def ledger(self, what: str, text: str, more: dict[str, Any] | None = None) -> Ledger:
        """Return what writes a decision of now, should a write change the release."""

        def made(before: State, after: State) -> list[Decision]:
            run = after.run
            if run is None or run == before.run:
                return []
            return [self.decision(run, what, text, more or {})]

        return made

    def decision(self, run: Release, what: str, text: str, more: dict[str, Any]) -> Decision:
        """Return a row of the ledger with the numbers of now."""
        numbers: dict[str, Any] = {}
        judgement = self.judgement
        if judgement is not None and judgement.known.release == run.id:
            numbers = account.numbers(run, judgement, self.gate(run))
        return Decision(
            release=run.id,
            at=self._switch.parts.wall(),
            what=what,
            state=run.state,
            step=run.step,
            weight=run.weight,
            text=text,
            numbers=msgspec.json.encode(numbers | more),
        )

    def gate(self, run: Release) -> Gate | None:
        """Return what the step in force still waits for; None where there is none to pass."""
        judgement = self.judgement
        # Another one's says nothing of this: until the first look it may be the former release's.
        if judgement is None or judgement.known.release != run.id or run.state not in RUNNING:
            return None
        unproven = self._facts.unproven(self._switch.state, run)
        return account.gate(run, judgement, unproven, self._switch.parts.clock())


def by_itself(reason: str) -> Caller:
    """Return the gateway as the one who writes."""
    return Caller(actor=GATEWAY, address="", reason=reason[:500])


def _shown(run: Release, judgement: Judgement) -> Why | None:
    """Return what the tests have shown against a candidate, None where they have not."""
    if over := judgement.over():
        texts = [account.in_words(run, judgement, name) for name in over]
        return Why(because="; ".join(texts), trigger="regression")
    if violating := judgement.violating():
        texts = [account.violations_in_words(judgement, name) for name in violating]
        return Why(because="; ".join(texts), trigger="csp_violations")
    return None


def _lease_lost(run: Release) -> str:
    return f"its lease of {run.plan.lease:g} s was not renewed"
