"""The supervisor's loop: start, watch, replace, retire, end. See docs/processes.md."""

from __future__ import annotations

import os
import selectors
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.board import layout
from gateway.supervisor.children import Child, Event, Phase, Started, exit_in_words
from gateway.supervisor.ending import Ending, Stage
from gateway.supervisor.inherit import adopt, make_board, pack, worker_seats
from gateway.supervisor.manager import Manager
from gateway.supervisor.seats import CONTROL_CHANNEL, NANOSECOND, SNAPSHOTS, Seat, Starter
from gateway.supervisor.sockets import ADDRESSES_FILE, Sockets
from gateway.supervisor.spare import Spare
from gateway.supervisor.takeover import (
    CONTROL_SOCKET,
    WORKER_SOCKETS,
    end_control,
    worker_socket,
)
from gateway.supervisor.upgrade import ABOUT_FILE, REQUEST_FILE, About, namespace, write
from gateway.supervisor.upgrading import Step, Upgrader
from gateway.supervisor.watch import FIRST_DELAY, Watchdog
from gateway.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.supervisor.lock import OwnerLock
    from gateway.supervisor.notify import Notifier
    from gateway.supervisor.plan import Plan
    from gateway.supervisor.signals import Signals
    from gateway.supervisor.takeover import Inheritance
    from gateway.supervisor.upgrade import Baggage

#: Words that count children who were started again.
RESTARTS: Final = (layout.H_CONTROL_RESTARTS, layout.H_WORKER_RESTARTS)

#: How long an old control process gets to end before it is killed (seconds).
CONTROL_PATIENCE: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a supervisor meets the world through."""

    signals: Signals
    lock: OwnerLock
    notifier: Notifier
    say: Callable[[str], None]


class Supervisor:
    """Owns everything that children inherit, and the children."""

    def __init__(
        self,
        plan: Plan,
        around: Surroundings,
        found: Inheritance,
        baggage: Baggage | None = None,
    ) -> None:
        """Take over what was found running, bind what is missing; nothing is started yet.

        ``baggage`` is what an upgrade carried here. Raises AddressError and OSError; running
        children are then left as they are.
        """
        signals, say = around.signals, around.say
        self._lock = around.lock
        self._plan = plan
        self._signals = signals
        self._say = say
        self._interrupted = False
        self._reload = False
        self._children: list[Child] = []
        self._own: dict[int, tuple[Child, Started]] = {}
        self._ending = Ending(plan, self._children, say, self._close_public)
        self._watchdog = Watchdog(plan.check_every)
        self._next_check = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)

        try:
            self._sockets = Sockets(plan, found.taken)
        finally:
            found.taken.close()
        self._board = make_board(plan, found)
        end_control(found.control, CONTROL_PATIENCE)
        adoption = adopt(found, plan.workers)
        #: Children that another supervisor started; of them, those to be retired.
        self._adopted, self._old = adoption.all, adoption.old
        self._watch_adopted()
        if not self._adopted:
            _remove(Path(plan.run_dir), SNAPSHOTS)  # of no run that is still there
        self._spare = Spare(plan, say)
        self._starter = Starter(plan, self._board, self._sockets, self._spare)
        self._control = Seat(role="control")
        self._seats = [
            self._control,
            *worker_seats(self._board, plan.workers, found.numbers, adoption.kept),
        ]
        self._upgrader = Upgrader(plan, say, self._packed, baggage, fresh=not found.found)
        self._upgrader.note_board(kept=found.board is not None)
        self._manager = Manager(around.notifier, self._board.words, VERSION)
        try:
            self._sockets.publish(Path(plan.run_dir))
            about = About(
                pid=os.getpid(), version=VERSION, config=plan.config, namespace=namespace()
            )
            write(Path(plan.run_dir, ABOUT_FILE), about)
        except OSError as error:  # a full disk: it is for who looks, and nobody depends on it
            say(f"what runs here cannot be written down: {error.strerror}")

    def run(self) -> int:
        """Keep the plan until told to end; return the exit code."""
        count = self._plan.workers
        self._say(
            f"listening on {', '.join(self._sockets.resolved)}; "
            f"admin on {self._sockets.resolved_admin}; {count} worker{'' if count == 1 else 's'}"
        )
        while not self._turn(time.monotonic()):
            self._selector.select(self._patience(time.monotonic()))
        self._clean_up()
        return self._ending.exit_code

    # --- one turn of the loop -----------------------------------------------------------------

    def _turn(self, now: float) -> bool:
        """Do all that is due; returns whether it was the last turn."""
        for number in self._signals.read():
            self._on_signal(number, now)
        self._notice_ends(now)
        self._notice_ready()
        if now >= self._next_check:
            self._next_check = now + self._plan.check_every
            self._check(now)
        if self._ending.filled:
            self._fill_seats(now)
            self._retire_old(now)
            self._pass_reload()
        self._spare.turn(now, calm=self._calm())
        self._manager.turn(now, serving=self._all_serve(), workers=self._plan.workers)
        if self._ending.stage is not Stage.RUNNING:
            self._ending.further(now)
        return self._ending.stage is Stage.DONE

    def _patience(self, now: float) -> float:
        """Return the seconds until something is due."""
        due = [self._next_check, *(s.start_at for s in self._seats if s.start_at is not None)]
        return max(0.0, min(due) - now)

    def _on_signal(self, number: int, now: float) -> None:
        if number == signal.SIGHUP and self._ending.stage is Stage.RUNNING:
            self._reload = True
            self._manager.reload_asked(now)
        elif number == signal.SIGUSR2:
            self._upgrader.ask(now, ending=self._ending.stage is not Stage.RUNNING)
        elif number in {signal.SIGTERM, signal.SIGINT}:
            if number == signal.SIGINT and self._interrupted:
                self._ending.at_once()
            self._interrupted = self._interrupted or number == signal.SIGINT
            self._begin_end(now)

    def _pass_reload(self) -> None:
        """Pass SIGHUP to control once it can take it: before that, it would die of it."""
        control = self._control.child
        if self._reload and control is not None and control.phase is Phase.SERVING:
            self._reload = False
            control.process.send(signal.SIGHUP)

    # --- children come and go -----------------------------------------------------------------

    def _fill_seats(self, now: float) -> None:
        for seat in self._seats:
            if seat.child is None and seat.start_at is not None and now >= seat.start_at:
                self._fill(seat, now)

    def _fill(self, seat: Seat, now: float) -> None:
        try:
            child, process = self._starter.start(seat)
        except OSError as error:
            delay = max(FIRST_DELAY, seat.policy.delay(0.0, was_ready=False))
            seat.start_at = now + delay
            self._say(f"no process for {seat.role} {seat.slot}: {error}; again in {delay:.1f} s")
            return
        seat.child = child
        seat.start_at = None
        self._children.append(child)
        self._own[process.pid] = (child, process)

    def _notice_ends(self, now: float) -> None:
        self._notice_ready()  # of one that was killed as soon as it served, too
        for pid, exit_code in _reap():
            if pid in self._own:
                child, process = self._own.pop(pid)
                process.reaped(exit_code)
                self._ended(child, exit_in_words(exit_code), now)
            elif not self._spare.reaped(pid, exit_code, now):
                self._upgrader.reaped(pid, exit_code, now)
        for child in [each for each in self._adopted if each.process.ended()]:
            self._ended(child, "ended", now)

    def _ended(self, child: Child, how: str, now: float) -> None:
        expected = child.phase is Phase.STOPPING
        child.happens(Event.EXIT)
        self._children.remove(child)
        if child in self._adopted:
            self._adopted.remove(child)
            if child.process.fileno() >= 0:
                self._selector.unregister(child.process.fileno())
        if child in self._old:
            self._old.remove(child)
        child.process.close()
        self._clear_words(child)
        again = self._vacate(child, now)
        if not expected or again:
            self._say(f"{child.name} {how}{again}")

    def _vacate(self, child: Child, now: float) -> str:
        """Free the seat of a child that has ended; returns what a log line adds about it."""
        for seat in self._seats:
            if seat.child is not child:
                continue
            seat.child = None
            if not self._ending.filled:
                return ""
            delay = seat.policy.delay(now - child.started, was_ready=child.was_ready)
            seat.start_at = now + delay
            control = child.role == "control"
            word = layout.H_CONTROL_RESTARTS if control else layout.H_WORKER_RESTARTS
            self._board.words[word] += 1
            return f"; started again in {delay:.1f} s" if delay else "; started again"
        return ""

    def _clear_words(self, child: Child) -> None:
        """Take a process that has ended off the board, and its own socket out of the folder."""
        if child.role == "control":
            self._board.words[layout.H_CONTROL_STATE] = layout.STATE_GONE
            self._board.words[layout.H_CONTROL_PID] = 0
        elif child.slab >= 0:
            self._board.release(child.slab)
            Path(self._plan.run_dir, worker_socket(child.slab)).unlink(missing_ok=True)

    def _notice_ready(self) -> None:
        for child in self._children:
            if child.phase is not Phase.STARTING or (child.role == "worker" and child.slab < 0):
                continue
            if self._state_word(child) == layout.STATE_READY:
                child.happens(Event.READY)

    def _all_serve(self) -> bool:
        """Tell whether every seat's child does its work."""
        seated = (seat.child for seat in self._seats)
        return all(child is not None and child.phase is Phase.SERVING for child in seated)

    def _calm(self) -> bool:
        """Tell whether nothing is under way but serving: then a spare may be started."""
        idle = self._ending.stage is Stage.RUNNING and self._upgrader.step is Step.IDLE
        return idle and self._all_serve()

    # --- the watch ----------------------------------------------------------------------------

    def _check(self, now: float) -> None:
        self._watchdog.begin_check(now)
        for child in self._children:
            if child.phase is Phase.STOPPING and now >= child.kill_at:
                self._say(f"{child.name} has not ended in time and is killed")
                child.kill()
            elif self._silent(child, now):
                self._say(f"{child.name} hangs and is killed")
                child.kill()

    def _silent(self, child: Child, now: float) -> bool:
        if child.phase is Phase.KILLED:
            return False
        if child.role == "control":
            if child.phase is Phase.STOPPING:
                return False  # it may block while it closes its store; `kill_at` bounds that
            beat = self._board.words[layout.H_CONTROL_HEARTBEAT] * NANOSECOND
            limit = self._plan.control_silence
        elif child.slab >= 0:
            beat = self._board.words[layout.slab_at(child.slab) + layout.S_HEARTBEAT] * NANOSECOND
            limit = self._plan.worker_silence
        else:
            return False  # it counts on a board that this version cannot read
        if beat <= child.started:
            beat, limit = child.started, child.start_limit or self._plan.start_limit
        return self._watchdog.silent(now, beat, limit)

    def _state_word(self, child: Child) -> int:
        if child.role == "control":
            return self._board.words[layout.H_CONTROL_STATE]
        return self._board.state(child.slab)

    # --- the end ------------------------------------------------------------------------------

    def _begin_end(self, now: float) -> None:
        if not self._ending.begin(now):
            return
        self._board.words[layout.H_LEAVING] = 1
        self._upgrader.end(now)
        self._manager.stopping("finishing what is in flight")
        if self._plan.shutdown_delay:
            self._say(f"ending in {self._plan.shutdown_delay:g} s: not ready from now on")
        self._ending.further(now)

    def _close_public(self) -> None:
        """Fill no seat and accept nothing from now on."""
        self._spare.end()
        for seat in self._seats:
            seat.start_at = None
        self._sockets.close_public()

    def _clean_up(self) -> None:
        """Leave nothing in the run folder that says somebody is there."""
        self._starter.close()
        self._sockets.close()
        self._sockets.unlink()
        run_dir = Path(self._plan.run_dir)
        for left in (
            CONTROL_CHANNEL,
            CONTROL_SOCKET,
            ADDRESSES_FILE,
            WORKER_SOCKETS,
            SNAPSHOTS,
            ABOUT_FILE,
            REQUEST_FILE,
        ):
            _remove(run_dir, left)
        self._manager.close()
        self._board.close()

    # --- taking over --------------------------------------------------------------------------

    def _watch_adopted(self) -> None:
        self._children.extend(self._adopted)
        for child in self._adopted:
            if child.process.fileno() >= 0:
                self._selector.register(child.process.fileno(), selectors.EVENT_READ)
        if self._old:
            self._say(f"taken over from an earlier run: {', '.join(c.name for c in self._old)}")

    def _retire_old(self, now: float) -> None:
        """Let old workers drain once every new one serves on the same sockets."""
        going_on = {Phase.STARTING, Phase.SERVING}
        serving = [child for child in self._old if child.phase in going_on]
        if self._upgrader.step is not Step.IDLE:
            self._upgrader.settle(
                now,
                serving=self._all_serve(),
                deaths=max(seat.policy.early_deaths for seat in self._seats),
                restarts=sum(self._board.words[word] for word in RESTARTS),
                old=len(self._old),
            )
        new = [seat.child for seat in self._seats if seat.role == "worker"]
        if self._upgrader.keeps_old or not all(
            child is not None and child.phase is Phase.SERVING for child in new
        ):
            return
        self._upgrader.release()
        if serving:
            self._say(f"new workers serve; {len(serving)} of an earlier run drain")
            for child in serving:
                child.stop(now + self._plan.drain_timeout + self._plan.grace)

    def _packed(self) -> Baggage:
        return pack(self._lock, self._board, self._sockets, self._children, self._seats)


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def _reap() -> list[tuple[int, int]]:
    """Return (process, exit code) of all children that have ended, known or not.

    As process 1 of a container the supervisor inherits strangers too.
    """
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))
