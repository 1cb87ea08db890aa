"""The supervisor's loop: start, watch, replace, retire, end. See docs/processes.md."""

from __future__ import annotations

import os
import selectors
import signal
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.board import layout
from gateway.board.board import Board
from gateway.supervisor.children import Child, Event, Phase, Started, exit_in_words
from gateway.supervisor.seats import CONTROL_CHANNEL, NANOSECOND, SNAPSHOTS, Seat, Starter
from gateway.supervisor.sockets import ADDRESSES_FILE, Sockets
from gateway.supervisor.takeover import (
    CONTROL_SOCKET,
    WORKER_SOCKETS,
    end_control,
    find,
    worker_socket,
)
from gateway.supervisor.watch import FIRST_DELAY, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.supervisor.plan import Plan
    from gateway.supervisor.signals import Signals
    from gateway.supervisor.takeover import Inheritance

#: How long an old control process gets to end before it is killed (seconds).
CONTROL_PATIENCE: Final = 2.0

EXIT_DONE: Final = 0
EXIT_FORCED: Final = 128 + signal.SIGINT


class Stage(Enum):
    """Where the whole is in its life."""

    RUNNING = "running"
    ENDING_WORKERS = "ending workers"
    ENDING_CONTROL = "ending control"
    DONE = "done"


class Supervisor:
    """Owns everything that children inherit, and the children."""

    def __init__(self, plan: Plan, signals: Signals, say: Callable[[str], None]) -> None:
        """Take over what runs, bind what is missing; nothing is started yet.

        Raises AddressError and OSError; running children are then left as they are.
        """
        self._plan = plan
        self._signals = signals
        self._say = say
        self._stage = Stage.RUNNING
        self._exit_code = EXIT_DONE
        self._interrupted = False
        self._reload = False
        self._children: list[Child] = []
        self._own: dict[int, tuple[Child, Started]] = {}
        self._old: list[Child] = []
        self._watchdog = Watchdog(plan.check_every)
        self._next_check = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)

        found = find(plan, say)
        try:
            self._sockets = Sockets(plan, found.taken)
        finally:
            found.taken.close()
        self._board = self._make_board(found)
        end_control(found.control, CONTROL_PATIENCE)
        self._adopt(found)
        if not self._old:
            _remove(Path(plan.run_dir), SNAPSHOTS)  # of no run that is still there
        self._starter = Starter(plan, self._board, self._sockets)
        self._control = Seat(role="control")
        self._seats = [self._control, *self._worker_seats()]
        try:
            self._sockets.publish(Path(plan.run_dir))
        except OSError as error:  # a full disk: it is for who looks, and nobody depends on it
            say(f"{ADDRESSES_FILE} cannot be written: {error.strerror}")

    def run(self) -> int:
        """Keep the plan until told to end; return the exit code."""
        self._say(
            f"listening on {', '.join(self._sockets.resolved)}; "
            f"admin on {self._sockets.resolved_admin}; {self._plan.workers} workers"
        )
        while not self._turn(time.monotonic()):
            self._selector.select(self._patience(time.monotonic()))
        self._clean_up()
        return self._exit_code

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
        if self._stage is Stage.RUNNING:
            self._fill_seats(now)
            self._retire_old(now)
            self._pass_reload()
        else:
            self._end_further(now)
        return self._stage is Stage.DONE

    def _patience(self, now: float) -> float:
        """Return the seconds until something is due."""
        due = [self._next_check, *(s.start_at for s in self._seats if s.start_at is not None)]
        return max(0.0, min(due) - now)

    def _on_signal(self, number: int, now: float) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        elif number in {signal.SIGTERM, signal.SIGINT}:
            if number == signal.SIGINT and self._interrupted:
                self._end_at_once()
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
        for pid, exit_code in _reap():
            if pid in self._own:
                child, process = self._own.pop(pid)
                process.reaped(exit_code)
                self._ended(child, exit_in_words(exit_code), now)
        for child in [each for each in self._old if each.process.ended()]:
            self._ended(child, "ended", now)

    def _ended(self, child: Child, how: str, now: float) -> None:
        expected = child.phase is Phase.STOPPING
        child.happens(Event.EXIT)
        self._children.remove(child)
        if child in self._old:
            self._old.remove(child)
            if child.process.fileno() >= 0:
                self._selector.unregister(child.process.fileno())
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
            if self._stage is not Stage.RUNNING:
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
            if child.phase is Phase.STARTING and self._state_word(child) == layout.STATE_READY:
                child.happens(Event.READY)

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
            beat, limit = child.started, self._plan.start_limit
        return self._watchdog.silent(now, beat, limit)

    def _state_word(self, child: Child) -> int:
        if child.role == "control":
            return self._board.words[layout.H_CONTROL_STATE]
        return self._board.state(child.slab)

    # --- the end ------------------------------------------------------------------------------

    def _begin_end(self, now: float) -> None:
        if self._stage is not Stage.RUNNING:
            return
        self._stage = Stage.ENDING_WORKERS
        self._say(f"ending: workers have {self._plan.drain_timeout:g} s for what is in flight")
        for seat in self._seats:
            seat.start_at = None
        for child in self._children:
            if child.role == "worker":
                child.stop(now + self._plan.drain_timeout + self._plan.grace)
        self._sockets.close_public()

    def _end_further(self, now: float) -> None:
        """Move on: workers first, so that control sees their last words; then control."""
        roles = {child.role for child in self._children}
        if self._stage is Stage.ENDING_WORKERS and "worker" not in roles:
            self._stage = Stage.ENDING_CONTROL
            for child in self._children:
                child.stop(now + self._plan.grace)
        if self._stage is Stage.ENDING_CONTROL and not roles:
            self._stage = Stage.DONE

    def _end_at_once(self) -> None:
        """Kill all: the person at the terminal will not wait."""
        self._exit_code = EXIT_FORCED
        for child in self._children:
            child.kill()

    def _clean_up(self) -> None:
        """Leave nothing in the run folder that says somebody is there."""
        self._starter.close()
        self._sockets.close()
        self._sockets.unlink()
        run_dir = Path(self._plan.run_dir)
        for left in (CONTROL_CHANNEL, CONTROL_SOCKET, ADDRESSES_FILE, WORKER_SOCKETS, SNAPSHOTS):
            _remove(run_dir, left)
        self._board.close()

    # --- taking over --------------------------------------------------------------------------

    def _make_board(self, found: Inheritance) -> Board:
        """Return the board that runs on, or a new one, with room for new workers beside old."""
        held = {old.slab for old in found.workers if old.slab >= 0}
        slabs = max(self._plan.slabs, len(held) + self._plan.workers)
        board = found.board.grow(slabs) if found.board else Board.create(slabs)
        for slab in range(board.slabs):
            # Whoever died while there was no supervisor has left its gauges standing.
            if slab not in held and board.state(slab) != layout.STATE_FREE:
                board.release(slab)
        board.words[layout.H_SUPERVISOR_PID] = os.getpid()
        board.words[layout.H_SUPERVISOR_STARTED] = time.monotonic_ns()
        board.words[layout.H_SLOTS] = self._plan.workers
        return board

    def _adopt(self, found: Inheritance) -> None:
        for old in found.workers:
            child = Child(
                role="worker",
                slot=old.slot,
                slab=old.slab,
                process=old.process,
                started=0.0,  # long ago: its heartbeats count from the first check
                phase=Phase.SERVING,
                was_ready=True,
            )
            self._children.append(child)
            self._old.append(child)
            if old.process.fileno() >= 0:
                self._selector.register(old.process.fileno(), selectors.EVENT_READ)
        if self._old:
            self._say(f"taken over from an earlier run: {', '.join(c.name for c in self._old)}")

    def _worker_seats(self) -> list[Seat]:
        held = {child.slab for child in self._old}
        free = [slab for slab in range(self._board.slabs) if slab not in held]
        return [
            Seat(role="worker", slot=slot, slab=free[slot]) for slot in range(self._plan.workers)
        ]

    def _retire_old(self, now: float) -> None:
        """Let old workers drain once every new one serves on the same sockets."""
        serving = [child for child in self._old if child.phase is Phase.SERVING]
        if not serving:
            return
        new = [seat.child for seat in self._seats if seat.role == "worker"]
        if all(child is not None and child.phase is Phase.SERVING for child in new):
            self._say(f"new workers serve; {len(serving)} of an earlier run drain")
            for child in serving:
                child.stop(now + self._plan.drain_timeout + self._plan.grace)


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
