"""A process becomes another version of itself by exec, and the version before again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from typing import TYPE_CHECKING, Final

from gateway.supervisor import signals as held_signals
from gateway.supervisor import upgrade
from gateway.supervisor.upgrade import Carried

if TYPE_CHECKING:
    from gateway.supervisor.upgrade import Baggage, Program

#: Octets of one string of the environment at most, its name and its end included (execve(2)).
LONGEST: Final = 131_072
#: Octets that the reason for going back gets.
_WHY: Final = 1000


def portable(baggage: Baggage, new: int) -> Baggage | None:
    """Return the baggage as it can be carried there and back, with ``new`` workers started there.

    Without the journal where it is too long with it: the run folder has that too. None where it
    is too long all the same.
    """
    for each in (baggage, dataclasses.replace(baggage, journal="")):
        if max(_octets(each), _octets(_way_back(each, new))) <= LONGEST:
            return each
    return None


def _way_back(baggage: Baggage, new: int) -> Baggage:
    """Return the longest that can come back."""
    long = 1e9 / 3
    worker = Carried(
        pid=1 << 22, slot=new, slab=9999, started=long, phase="stopping", kill_at=long, keep=False
    )
    workers, control = (*baggage.workers, *[worker] * new), (*baggage.control, worker.pid)
    return dataclasses.replace(baggage, workers=workers, control=control, back=None, why="?" * _WHY)


def _octets(baggage: Baggage) -> int:
    return len(f"{upgrade.VARIABLE}={baggage.encode()}") + 1


def become(program: Program, baggage: Baggage) -> str:
    """Turn this process into a program that goes on with the baggage.

    Returns only where that failed, with the reason; all is as before then.
    """
    held_signals.hold()
    try:
        for fd in baggage.descriptors:
            os.set_inheritable(fd, True)  # noqa: FBT003 -- positional-only in os
        env = program.environment(**{upgrade.VARIABLE: baggage.encode()})
        os.execve(program.argv[0], program.argv, env)  # noqa: S606 -- on purpose
    except (OSError, ValueError) as error:
        for fd in baggage.descriptors:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)  # noqa: FBT003
        if signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL:
            held_signals.let_come()
        return getattr(error, "strerror", None) or str(error)


def go_back(baggage: Baggage, why: str, now: Baggage | None = None) -> str:
    """Become the version before again. ``now``: what runs meanwhile, if anything was started.

    Returns only where that failed, with the reason.
    """
    back = baggage.back
    if back is None:
        return "there is nothing to go back to"
    workers, control = baggage.workers, baggage.control
    if now is not None:
        alive = {each.pid for each in now.workers}
        known = {each.pid for each in workers}
        # A board that the version before cannot read is not the one that it gets back.
        same = os.path.sameopenfile(baggage.board, now.board)
        workers = tuple(each for each in workers if each.pid in alive) + tuple(
            dataclasses.replace(each, keep=False, slab=each.slab if same else -1)
            for each in now.workers
            if each.pid not in known
        )
        control = now.control
    return become(
        back, dataclasses.replace(baggage, workers=workers, control=control, back=None, why=why)
    )
