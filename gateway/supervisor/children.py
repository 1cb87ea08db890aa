"""One child process: started by us, or taken over from a supervisor that has died."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from gateway.channel import childspec
from gateway.channel.childspec import ChildSpec
from gateway.supervisor import notify
from gateway.supervisor.plan import environment

if TYPE_CHECKING:
    from collections.abc import Mapping


class Phase(Enum):
    """Where a child is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"
    KILLED = "killed"
    GONE = "gone"


class Event(Enum):
    """What happens to a child."""

    READY = "ready"
    STOP = "stop"
    KILL = "kill"
    EXIT = "exit"


TRANSITIONS: Final[dict[tuple[Phase, Event], Phase]] = {
    (Phase.STARTING, Event.READY): Phase.SERVING,
    (Phase.STARTING, Event.STOP): Phase.STOPPING,
    (Phase.STARTING, Event.KILL): Phase.KILLED,
    (Phase.STARTING, Event.EXIT): Phase.GONE,
    (Phase.SERVING, Event.STOP): Phase.STOPPING,
    (Phase.SERVING, Event.KILL): Phase.KILLED,
    (Phase.SERVING, Event.EXIT): Phase.GONE,
    (Phase.STOPPING, Event.KILL): Phase.KILLED,
    (Phase.STOPPING, Event.EXIT): Phase.GONE,
    (Phase.KILLED, Event.EXIT): Phase.GONE,
}


class IllegalTransitionError(Exception):
    """An event came that the child's phase does not know: a bug of the supervisor's."""


class Process(Protocol):
    """A running process, however it came to be ours."""

    pid: int

    def send(self, number: int) -> None:
        """Send a signal; nothing happens where the process is gone."""

    def fileno(self) -> int:
        """Return a descriptor that is readable once the process has ended, -1 for none."""

    def ended(self) -> bool:
        """Tell whether the process has ended."""

    def close(self) -> None:
        """Give back what was held for it."""


class Started:
    """A child of our own. It is reaped by the supervisor's loop, which tells its status."""

    def __init__(
        self, spec: ChildSpec, argv: tuple[str, ...], more: Mapping[str, int] | None = None
    ) -> None:
        """Start it by exec, in a session of its own. Raises OSError where that fails.

        A terminal's Ctrl-C and hang-up reach the supervisor alone; the child outlives it.
        ``more`` are further descriptors, by the variables that name them.
        """
        more = more or {}
        fds = {spec.board, spec.channel, *spec.admin, *(fd for _, fd in spec.sockets)} - {-1}
        self._popen = subprocess.Popen(
            argv,
            env=_environment(spec) | {name: str(fd) for name, fd in more.items()},
            pass_fds=sorted({*fds, *more.values()}),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._popen.pid

    def send(self, number: int) -> None:
        """Send a signal; a process that was reaped gets none."""
        if self._popen.returncode is None:
            os.kill(self.pid, number)

    def fileno(self) -> int:
        """Return -1: the end of own children is told by SIGCHLD."""
        return -1

    def ended(self) -> bool:
        """Tell whether the process was reaped."""
        return self._popen.returncode is not None

    def reaped(self, exit_code: int) -> None:
        """Note how it ended, so that its number is never signalled again."""
        self._popen.returncode = exit_code

    def close(self) -> None:
        """Hold nothing."""


class Adopted:
    """A process that another supervisor started: watched through a pidfd where there are any."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError where it is gone."""
        self.pid = pid
        self._fd = _pidfd(pid)
        if self._fd < 0:
            os.kill(pid, 0)

    def send(self, number: int) -> None:
        """Send a signal, through the pidfd: never to another process of the same number."""
        with contextlib.suppress(ProcessLookupError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.pid, number)

    def fileno(self) -> int:
        """Return the pidfd, -1 where the system has none."""
        return self._fd

    def ended(self) -> bool:
        """Tell whether it has ended; a zombie has, where pidfds tell it from the living."""
        if self._fd >= 0:
            return readable_within(self._fd, 0.0)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def close(self) -> None:
        """Close the pidfd."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(slots=True, kw_only=True, eq=False)
class Child:
    """A process in its role. Times are CLOCK_MONOTONIC in seconds; ``slab`` -1 is control's."""

    role: str
    slot: int
    slab: int
    process: Process
    started: float
    phase: Phase = Phase.STARTING
    was_ready: bool = False
    #: Seconds until its first heartbeat must have come; 0: as the plan says for all.
    start_limit: float = 0.0
    #: When a stopping child is killed.
    kill_at: float = 0.0

    @property
    def name(self) -> str:
        """What a log line calls it."""
        who = "control" if self.role == "control" else f"worker {self.slot}"
        return f"{who} (process {self.process.pid})"

    def happens(self, event: Event) -> None:
        """Move to the next phase. Raises IllegalTransitionError where there is none."""
        to = TRANSITIONS.get((self.phase, event))
        if to is None:
            raise IllegalTransitionError(f"{self.name}: {event.value} while {self.phase.value}")
        self.phase = to
        self.was_ready = self.was_ready or to is Phase.SERVING

    def stop(self, kill_at: float) -> None:
        """Ask it to end, once; it is killed at ``kill_at``."""
        if self.phase in {Phase.STARTING, Phase.SERVING}:
            self.happens(Event.STOP)
            self.kill_at = kill_at
            self.process.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; its exit is still to come."""
        if self.phase not in {Phase.KILLED, Phase.GONE}:
            self.happens(Event.KILL)
            self.process.send(signal.SIGKILL)


def _environment(spec: ChildSpec) -> dict[str, str]:
    """Return a child's environment: without what a service manager means for us alone."""
    env = environment(childspec.VARIABLE, spec.encode())
    return {name: text for name, text in env.items() if name not in notify.VARIABLES}


def _pidfd(pid: int) -> int:
    """Return a pidfd, -1 where the system has none. Raises ProcessLookupError."""
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return -1  # an old kernel, or a sandbox that forbids the call


def exit_in_words(exit_code: int) -> str:
    """Say how a process ended, from a ``returncode`` (negative: the signal)."""
    if exit_code >= 0:
        return f"exited with {exit_code}"
    try:
        return f"ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"ended by signal {-exit_code}"


def readable_within(fd: int, seconds: float) -> bool:
    """Wait for a descriptor to be readable; returns whether it is."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
