"""The supervisor's part of an upgrade: try the new version, become it, and know the way back.

Before the exec it is the old version that acts, after it the new one; what passes between them is
``upgrade.Baggage``. See docs/processes.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.channel import upgrades
from gateway.channel.upgrades import Journal
from gateway.supervisor import upgrade
from gateway.supervisor.become import become, go_back, portable
from gateway.supervisor.plan import Plan, PlanError
from gateway.supervisor.trial import Trial
from gateway.supervisor.upgrade import Answer, Baggage, Program, Request, RequestError, UpgradeError
from gateway.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

#: A new worker that has ended that often right at its start will not get ready.
EARLY_DEATHS: Final = 3

#: The answer to a ``SIGUSR2`` by hand is found under this name, whatever its id.
BY_HAND: Final = "00000000"


class Step(Enum):
    """Where an upgrade is."""

    IDLE = "idle"
    TRYING = "trying"
    SETTLING = "settling"
    #: No way back from a version that does not serve: old workers stay until it does.
    KEEPING = "keeping"


#: What the journal calls the states that are told of.
STEPS: Final = {
    upgrade.TRYING: upgrades.ASKED,
    upgrade.REPLACING: upgrades.TRIED,
    upgrade.DONE: upgrades.DONE,
    upgrade.REFUSED: upgrades.REFUSED,
    upgrade.ROLLED_BACK: upgrades.ROLLED_BACK,
    upgrade.FAILED: upgrades.FAILED,
}


class Upgrader:
    """One upgrade at a time. ``pack`` gives what is to be carried, the request's fields unset.

    ``fresh``: nothing of an earlier supervisor's was found, so that counts begin anew.
    """

    def __init__(
        self,
        plan: Plan,
        say: Callable[[str], None],
        pack: Callable[[], Baggage],
        baggage: Baggage | None,
        *,
        fresh: bool,
    ) -> None:
        self._plan = plan
        self._run_dir = Path(plan.run_dir)
        self._say = say
        self._pack = pack
        #: The originals of what was carried to here, for the way back.
        self._baggage = baggage
        self._request: Request | None = None
        self._trial: Trial | None = None
        self._asked = 0.0
        self._new_board = False
        self._deadline = time.monotonic() + (baggage.timeout if baggage else 0.0)
        self.step = Step.SETTLING if baggage else Step.IDLE
        #: Where a trial that comes to nothing leads back to: IDLE or KEEPING.
        self._rest = Step.IDLE
        #: Since when all new children serve, and how often any was started again until then.
        self._serves: tuple[float, int] | None = None
        #: Why there is no way back from what is asked for; empty where there is one.
        self._no_way_back = baggage.no_way_back if baggage else ""
        self._journal = self._take_up(baggage, fresh=fresh)

    def _take_up(self, baggage: Baggage | None, *, fresh: bool) -> Journal:
        """Return the journal to go on with."""
        if baggage is not None and baggage.journal:
            return Journal.decode(baggage.journal)
        try:
            journal = Journal.read(self._run_dir)
        except OSError as error:
            self._say(f"{self._run_dir / upgrades.FILE}: {error.strerror}")
            journal = Journal()
        if fresh:
            journal.counts.clear()
        left = journal.under_way
        if baggage is None and left is not None:
            text = f"its supervisor was killed in the middle; version {VERSION} took over"
            journal.add(dataclasses.replace(left, step=upgrades.FAILED, at=time.time(), text=text))
        if journal.steps:
            self._write(journal)
        return journal

    # --- before the exec ----------------------------------------------------------------------

    def ask(self, now: float, *, ending: bool) -> None:
        """Act on ``SIGUSR2``: take the request and try what it names. No request: by hand."""
        try:
            request = upgrade.take_request(self._run_dir)
        except UpgradeError as error:
            self._say(f"upgrade refused: {error}")
            if isinstance(error, RequestError):
                wrong = Request(id=error.id, program=self._own(), uid=error.uid)
                self._tell(wrong, upgrade.REFUSED, now, now, text=str(error))
            return
        if request is None:
            request = Request(id=os.urandom(8).hex(), program=self._own())
        if ending or self.step is not self._rest:
            why = "the gateway is ending" if ending else "another upgrade is under way"
            self._tell(request, upgrade.REFUSED, now, now, text=why)
            return
        self._forget_answers()
        self._no_way_back = upgrade.no_way_back()
        if self._no_way_back and request.require_way_back:
            why = f"no way back: {self._no_way_back}"
            self._tell(request, upgrade.REFUSED, now, now, text=why)
            return
        try:
            self._trial = Trial(request.program, sorted({each[0] for each in self._held()}))
        except (OSError, ValueError) as error:
            why = f"{request.program.python}: {getattr(error, 'strerror', None) or error}"
            self._tell(request, upgrade.REFUSED, now, now, text=why)
            return
        self._request, self._asked, self.step = request, now, Step.TRYING
        self._say(f"upgrade: trying {request.program.python}")
        if self._no_way_back:
            self._say(f"upgrade: no way back: {self._no_way_back}")
        self._tell(request, upgrade.TRYING, now, now)

    def reaped(self, pid: int, exit_code: int, now: float) -> bool:
        """Note the trial's end, and become the new version; False: it is another process."""
        if self._trial is None or pid != self._trial.pid:
            return False
        trial, self._trial = self._trial, None
        assert self._request is not None
        version, wrong = trial.ended(exit_code)
        if self.step is not Step.TRYING:
            return True  # told to end meanwhile
        self.step = self._rest
        if wrong:
            self._refuse(wrong, now)
        else:
            self._become(version, now)
        return True

    def _become(self, version: str, now: float) -> None:
        request = self._request
        assert request is not None
        self._say(f"upgrade: {VERSION} becomes {version}")
        self._tell(request, upgrade.REPLACING, self._asked, now, new=version)
        baggage = dataclasses.replace(
            self._pack(),
            id=request.id,
            began=self._asked,
            timeout=request.timeout,
            hold=request.hold,
            old=VERSION,
            back=self._own(),
            uid=request.uid,
            user=request.user,
            no_way_back=self._no_way_back,
            journal=self._journal.encode(),
        )
        carried = portable(baggage, self._workers_of(request))
        if carried is None:
            self._refuse("so many sockets and workers do not fit into one exec", now)
            return
        problem = become(request.program, carried)
        self._refuse(f"{request.program.python}: {problem}", now)

    def _workers_of(self, request: Request) -> int:
        try:
            return Plan.decode(request.program.plan).workers
        except PlanError:  # of a version that knows more
            return self._plan.workers

    def _refuse(self, why: str, now: float) -> None:
        assert self._request is not None
        self._say(f"upgrade refused, all goes on as it was: {why}")
        self._tell(self._request, upgrade.REFUSED, self._asked, now, text=why)

    def _own(self) -> Program:
        return upgrade.own_program(self._plan.encode())

    def _held(self) -> list[tuple[str, int]]:
        packed = self._pack()
        return [*((text, fd) for text, _, fd in packed.sockets), packed.admin]

    # --- after it -----------------------------------------------------------------------------

    @property
    def keeps_old(self) -> bool:
        """Whether old workers are to stay, though every seat has a worker that serves."""
        return self.step is Step.SETTLING or self._rest is Step.KEEPING

    def note_board(self, *, kept: bool) -> None:
        """Note whether the board of the version before is the one in use."""
        self._new_board = not kept

    def settle(self, now: float, *, serving: bool, deaths: int, restarts: int, old: int) -> None:
        """Look whether the new children serve (``serving``) and stay, or will not: then go back.

        ``deaths`` is the most early deaths of any of them, ``restarts`` how often any was started
        again, ``old`` the old workers still there.
        """
        if self.step is Step.TRYING and self._trial is not None and now > self._trial.until:
            self._trial.give_up()
        if self._rest is Step.KEEPING:
            self._keep(now, restarts if serving else -1)
        if self.step is not Step.SETTLING or self._baggage is None:
            return
        if serving and self._serves is None:
            self._serves = now, restarts
        hold = 0.0 if self._baggage.back is None else self._baggage.hold
        why = "" if self._baggage.back is None else self._failure(now, deaths, restarts)
        if why:
            self._go_back(why, now)
        elif self._baggage.back is None and not serving and self._late(now, deaths):
            self._settled(now, old, lacking=True)
        elif serving and self._serves is not None and now - self._serves[0] >= hold:
            self._settled(now, old)

    def _keep(self, now: float, restarts: int) -> None:
        """Let old workers go once all have served for the hold. ``restarts``: -1, not all serve."""
        if restarts < 0:
            self._serves = None
        elif self._serves is None or self._serves[1] != restarts:
            self._serves = now, restarts
        assert self._baggage is not None
        if self._serves is None or now - self._serves[0] < self._baggage.hold:
            return
        self._say(f"upgrade: version {VERSION} serves after all; old workers may go")
        self._rest = Step.IDLE
        self.step = Step.IDLE if self.step is Step.KEEPING else self.step

    def _failure(self, now: float, deaths: int, restarts: int) -> str:
        """Say why the new version does not do; empty where it may yet."""
        assert self._baggage is not None
        if self._serves is not None:
            since, before = self._serves
            if restarts == before:
                return ""
            return f"it served, and a process of it ended {now - since:.1f} s later"
        if now > self._deadline:
            return f"not ready within {self._baggage.timeout:g} s"
        return "its children end right at start" if self._late(now, deaths) else ""

    def _late(self, now: float, deaths: int) -> bool:
        return now > self._deadline or deaths >= EARLY_DEATHS

    def _settled(self, now: float, old: int, *, lacking: bool = False) -> None:
        """Say that it is over. ``lacking``: back again, and control does not serve, as where the
        file has what only the newer version knows.
        """
        baggage = self._baggage
        assert baggage is not None
        self.step = Step.IDLE
        state = upgrade.ROLLED_BACK if baggage.why else upgrade.DONE
        text = baggage.why
        if baggage.why and baggage.old != VERSION:
            # The version after it, with the plan before it: old workers have their seats again.
            state = upgrade.FAILED
            gone = baggage.no_way_back or f"{baggage.old} is no longer there"
            text += f"; no way back: {gone}; workers of {baggage.old} serve on, kept by {VERSION}"
        if lacking:
            text += (
                f"; not all of {VERSION} serves again: workers do, look into the log for control"
            )
        self._say(f"upgrade: {state.replace('_', ' ')}, version {VERSION} serves {text}".rstrip())
        self._tell(
            baggage,
            state,
            baggage.began,
            now,
            old=baggage.old,
            new=VERSION,
            text=text,
            board="new" if self._new_board else "kept",
            draining=old,
        )

    def _go_back(self, why: str, now: float) -> None:
        baggage = self._baggage
        assert baggage is not None
        assert baggage.back is not None
        why = f"version {VERSION} does not serve: {why}"
        if baggage.no_way_back:
            self._say(f"upgrade: {why}; no way back: {baggage.no_way_back}; keeping old workers")
        else:
            self._say(f"upgrade: {why}; going back to {baggage.old}")
        problem = go_back(baggage, why, self._pack())
        self._say(f"no way back ({problem}): old workers serve on, new ones are tried on")
        text = f"{why}; no way back: {problem}; old workers serve on"
        self._tell(baggage, upgrade.FAILED, baggage.began, now, text=text)
        self.step = self._rest = Step.KEEPING
        self._serves = None

    def release(self) -> None:
        """Give up the way back: its sockets close, so that nobody waits on one that none serves."""
        baggage, self._baggage = self._baggage, None
        if baggage is not None:
            for fd in baggage.descriptors - {baggage.lock}:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def end(self, now: float) -> None:
        """Stop whatever is under way: the gateway ends."""
        request, baggage = self._request, self._baggage
        if self._trial is not None:
            self._trial.give_up()
        text = "the gateway was told to end"
        if self.step is Step.TRYING and request is not None:
            self._tell(request, upgrade.FAILED, self._asked, now, text=text)
        elif self.step is Step.SETTLING and baggage is not None:
            self._tell(baggage, upgrade.FAILED, baggage.began, now, text=text)
        self.step = self._rest = Step.IDLE
        self.release()

    # --- words --------------------------------------------------------------------------------

    def _tell(
        self,
        asker: Request | Baggage,
        state: str,
        asked: float,
        now: float,
        **more: object,
    ) -> None:
        answer = Answer(
            id=asker.id,
            state=state,
            seconds=round(now - asked, 3),
            workers=self._plan.workers,
            way_back=not self._no_way_back,
            no_way_back=self._no_way_back,
            **{"old": VERSION, **more},  # type: ignore[arg-type]  # its own fields, all of them
        )
        self._note(asker, answer)
        under_way = self.step in {Step.TRYING, Step.SETTLING} and state == upgrade.REFUSED
        by_hand = asker.uid < 0 and not under_way
        name = BY_HAND if by_hand else asker.id
        try:
            upgrade.write(upgrade.answer_file(self._run_dir, name), answer)
        except OSError as error:
            self._say(f"the upgrade's answer cannot be written: {error}")

    def _note(self, asker: Request | Baggage, answer: Answer) -> None:
        """Put a step into the journal: before it is answered, so that who has it finds the step."""
        self._journal.add(
            upgrades.Step(
                id=asker.id,
                step=STEPS[answer.state],
                at=time.time(),
                old=answer.old,
                new=answer.new,
                uid=asker.uid,
                user=asker.user,
                text=answer.text,
                seconds=answer.seconds,
                way_back=answer.way_back,
            )
        )
        self._write(self._journal)

    def _write(self, journal: Journal) -> None:
        try:
            journal.write(self._run_dir)
        except OSError as error:
            self._say(f"what upgrades have come to cannot be written down: {error.strerror}")

    def _forget_answers(self) -> None:
        for path in self._run_dir.glob(upgrade.ANSWER_FILES):
            with contextlib.suppress(OSError):
                path.unlink()
