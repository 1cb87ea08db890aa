"""``python -m gateway.supervisor``: the process that ``gateway run`` turns into."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Final

from gateway.channel.unix import private_folder
from gateway.supervisor.activation import activated, place
from gateway.supervisor.addresses import AddressError
from gateway.supervisor.become import go_back
from gateway.supervisor.lock import HeldError, OwnerLock
from gateway.supervisor.notify import Notifier
from gateway.supervisor.plan import Plan, PlanError
from gateway.supervisor.say import say
from gateway.supervisor.signals import Signals
from gateway.supervisor.supervisor import Supervisor, Surroundings
from gateway.supervisor.takeover import find, unpack
from gateway.supervisor.trial import OPTION, try_out
from gateway.supervisor.upgrade import Baggage, UpgradeError
from gateway.version import VERSION

EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 4

#: More than any configuration asks for; some systems' own bound is in the billions.
_MOST_FILES: Final = 1 << 20


def main() -> int:
    """Keep the plan in ``GATEWAY_PLAN``; return the exit code."""
    if sys.argv[1:] == [OPTION]:
        return try_out()
    baggage = None
    try:
        baggage = Baggage.inherited()
        plan = Plan.inherited()
    except (PlanError, UpgradeError) as error:
        say(str(error))
        if baggage is not None:
            say(f"no way back: {go_back(baggage, str(error))}")
        return EXIT_USAGE
    _raise_file_limit()
    # Before anything that may wait: a signal that came since the exec is not to be lost.
    signals = Signals()
    if baggage is None:
        supervisor, lock = _begin(plan, signals)
    else:
        supervisor, lock = _go_on(plan, signals, baggage)
    if supervisor is None or lock is None:
        return EXIT_REFUSED
    exit_code = supervisor.run()
    lock.close()
    return exit_code


def _begin(plan: Plan, signals: Signals) -> tuple[Supervisor | None, OwnerLock | None]:
    """Start, or take over from a supervisor that has died; None and said why where refused."""
    try:
        given = activated()
        private_folder(plan.run_dir)
        lock = OwnerLock(Path(plan.run_dir) / "lock")
        found = find(plan, say)
        place(given, plan, found.taken)
        return Supervisor(plan, _around(signals, lock), found), lock
    except (HeldError, AddressError, OSError) as error:
        say(str(error))
        return None, None


def _go_on(
    plan: Plan, signals: Signals, baggage: Baggage
) -> tuple[Supervisor | None, OwnerLock | None]:
    """Go on from the version before; where that fails, become it again."""
    try:
        lock = OwnerLock.kept(baggage.lock, Path(plan.run_dir) / "lock")
        for fd in baggage.descriptors:
            os.set_inheritable(fd, False)  # noqa: FBT003 -- positional-only in os
        found = unpack(baggage, say)
        return Supervisor(plan, _around(signals, lock), found, baggage), lock
    except Exception as error:  # noqa: BLE001 -- whatever it is, the version before still works
        why = f"version {VERSION} does not start: {error}"
        say(f"upgrade: {why}; going back")
        say(f"no way back: {go_back(baggage, why)}; children serve on, `gateway run` takes over")
        return None, None


def _around(signals: Signals, lock: OwnerLock) -> Surroundings:
    return Surroundings(signals=signals, lock=lock, notifier=Notifier(os.environ), say=say)


def _raise_file_limit() -> None:
    """Let children open as many connections as the system allows this user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        say(f"open files stay limited to {soft}: {error}")


if __name__ == "__main__":
    sys.exit(main())
