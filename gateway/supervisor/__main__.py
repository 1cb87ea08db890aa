"""``python -m gateway.supervisor``: the process that ``gateway run`` turns into."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Final

from gateway.channel.unix import private_folder
from gateway.supervisor.addresses import AddressError
from gateway.supervisor.lock import HeldError, OwnerLock
from gateway.supervisor.plan import Plan, PlanError
from gateway.supervisor.say import say
from gateway.supervisor.signals import Signals
from gateway.supervisor.supervisor import Supervisor

EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 4

#: More than any configuration asks for; some systems' own bound is in the billions.
_MOST_FILES: Final = 1 << 20


def main() -> int:
    """Keep the plan in ``GATEWAY_PLAN``; return the exit code."""
    try:
        plan = Plan.inherited()
    except PlanError as error:
        say(str(error))
        return EXIT_USAGE
    _raise_file_limit()
    try:
        private_folder(plan.run_dir)
        lock = OwnerLock(Path(plan.run_dir) / "lock")
        supervisor = Supervisor(plan, Signals(), say)
    except (HeldError, AddressError, OSError) as error:
        say(str(error))
        return EXIT_REFUSED
    exit_code = supervisor.run()
    lock.close()
    return exit_code


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
