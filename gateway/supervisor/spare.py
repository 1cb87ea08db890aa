"""A worker that is loaded before it is needed, and takes the place of one that has died.

To start an interpreter and to load a worker's modules takes a third of a second, on a machine that
is busy serving a second or more: for so long a dead worker's place would stay empty. See
docs/adr/0019-a-worker-in-reserve.md.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.channel import spare as channel
from gateway.supervisor.children import Started, exit_in_words
from gateway.supervisor.watch import FIRST_DELAY, RestartPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.channel.childspec import ChildSpec
    from gateway.supervisor.plan import Plan

#: Seconds that all must have served before a spare is started: it is not to take the processor
#: from another start, nor from those who waited for one.
CALM: Final = 0.5

#: Seconds within which one that has loaded everything must beat in its place: much less than one
#: that begins from nothing gets (the plan's ``start_limit``).
LOADED_LIMIT: Final = 5.0


@dataclass(slots=True)
class Timing:
    """When a spare is started. Pure: times are CLOCK_MONOTONIC in seconds, given by the caller."""

    _calm_from: float | None = None
    _not_before: float = 0.0
    _policy: RestartPolicy = field(default_factory=RestartPolicy)

    def due(self, now: float, *, calm: bool) -> bool:
        """Tell whether to start one, where there is none; asked often enough to see unrest."""
        if not calm:
            self._calm_from = None
            return False
        if self._calm_from is None:
            self._calm_from = now
        return now >= max(self._calm_from + CALM, self._not_before)

    def died(self, now: float, lived: float, *, was_loaded: bool) -> None:
        """Note that one has died before it was needed: the next one waits, as other children do."""
        self._not_before = now + max(FIRST_DELAY, self._policy.delay(lived, was_ready=was_loaded))


class Taken(NamedTuple):
    """A process that has been told its place; ``start_limit`` as ``Child`` has it."""

    process: Started
    start_limit: float


@dataclass(slots=True)
class _Waiting:
    process: Started
    stream: socket.socket
    since: float
    loaded: bool = False


class Spare:
    """The one worker in reserve, where there is one."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        """Nothing is started yet."""
        self._plan = plan
        self._say = say
        self._timing = Timing()
        self._waiting: _Waiting | None = None
        #: Processes that were ended here and are still to be reaped.
        self._ended: dict[int, Started] = {}
        #: Ends of streams to those that have been told their places. One that is still loading
        #: says so and reads later: our end closed before would have it lose what it was told.
        self._told: list[socket.socket] = []

    def turn(self, now: float, *, calm: bool) -> None:
        """Start one where none waits. ``calm``: everybody serves, and nothing else is under way."""
        self._told = [stream for stream in self._told if not _over(stream)]
        self._give_up(now)
        if self._timing.due(now, calm=calm) and self._plan.spare and self._waiting is None:
            try:
                self._waiting = self._start(now)
            except OSError as error:
                self._timing.died(now, 0.0, was_loaded=False)
                self._say(f"no process for a spare worker: {error}")

    def _give_up(self, now: float) -> None:
        """End one that has not loaded in the time that a worker gets to start."""
        waiting = self._waiting
        if waiting is None or now - waiting.since < self._plan.start_limit:
            return
        if not self._loaded(waiting):
            self._say(f"the spare worker (process {waiting.process.pid}) hangs and is killed")
            self._timing.died(now, now - waiting.since, was_loaded=False)
            self.end()

    def take(self, spec: ChildSpec) -> Taken | None:
        """Give the spare a place; None where there is none that takes it."""
        if self._waiting is None or not channel.fits(spec):
            return None
        loaded = self._loaded(self._waiting)
        if not channel.hand(self._waiting.stream, spec):
            self.end()
            return None
        waiting, self._waiting = self._waiting, None
        self._told.append(waiting.stream)
        limit = self._plan.start_limit
        return Taken(waiting.process, min(LOADED_LIMIT, limit) if loaded else limit)

    def reaped(self, pid: int, exit_code: int, now: float) -> bool:
        """Note the end of a process; False where it was none of these."""
        waiting = self._waiting
        if waiting is not None and pid == waiting.process.pid:
            self._waiting = None
            waiting.process.reaped(exit_code)
            lived, loaded = now - waiting.since, self._loaded(waiting)
            waiting.stream.close()
            self._timing.died(now, lived, was_loaded=loaded)
            self._say(f"the spare worker (process {pid}) {exit_in_words(exit_code)}")
            return True
        ended = self._ended.pop(pid, None)
        if ended is not None:
            ended.reaped(exit_code)
        return ended is not None

    def end(self) -> None:
        """End it; there is nothing in its hands that it would have to finish."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.stream.close()
            waiting.process.send(signal.SIGKILL)
            self._ended[waiting.process.pid] = waiting.process

    def _start(self, now: float) -> _Waiting:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = Started(
                    channel.nobody(self._plan.run_dir),
                    self._plan.argv("worker"),
                    {channel.VARIABLE: theirs.fileno()},
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)  # noqa: FBT003 -- positional-only in socket
        return _Waiting(process, ours, now)

    @staticmethod
    def _loaded(waiting: _Waiting) -> bool:
        if not waiting.loaded:
            with contextlib.suppress(OSError):  # nothing said yet, or it is dead
                waiting.loaded = waiting.stream.recv(1) == channel.READY
        return waiting.loaded


def _over(stream: socket.socket) -> bool:
    """Close our end once the other one is closed; tell whether it was."""
    try:
        while stream.recv(1):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass  # it has died
    stream.close()
    return True
