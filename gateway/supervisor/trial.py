"""Another version is tried before anything is given up for it: ``gateway.supervisor --try``.

The trial imports all three programs, has control read the configuration, binds what is not bound
yet and lets go of it again. It starts nothing and touches nothing that runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from gateway.board import layout
from gateway.channel.unix import listened_to
from gateway.supervisor import addresses
from gateway.supervisor.addresses import AddressError
from gateway.supervisor.plan import VARIABLE as PLAN_VARIABLE
from gateway.supervisor.plan import Plan, PlanError
from gateway.supervisor.upgrade import FORMAT, Program
from gateway.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTION: Final = "--try"
#: The addresses that are bound already, as a JSON list of canonical texts.
HELD: Final = "GATEWAY_HELD"

#: Seconds that a trial may take: three interpreters start on a busy machine.
LIMIT: Final = 30.0
#: Octets of a trial's words that are told.
MOST_SAID: Final = 4000


class Trial:
    """One trial under way. Its process is reaped by the supervisor's loop."""

    def __init__(self, program: Program, held: Sequence[str]) -> None:
        """Start it. Raises OSError."""
        self._said = _scratch()
        self._until = time.monotonic() + LIMIT
        try:
            self._popen = subprocess.Popen(
                (*program.argv, OPTION),
                env=program.environment(**{HELD: json.dumps(list(held))}),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except BaseException:
            self._said.close()
            raise
        self.pid = self._popen.pid

    @property
    def until(self) -> float:
        """When it is given up (CLOCK_MONOTONIC, seconds)."""
        return self._until

    def ended(self, exit_code: int) -> tuple[str, str]:
        """Tell how it went: (the version, "") or ("", what is wrong)."""
        self._popen.returncode = exit_code
        with self._said as said:
            said.seek(0, os.SEEK_END)
            said.seek(max(0, said.tell() - MOST_SAID))
            text = said.read().decode("utf-8", "replace").strip()
        if exit_code != 0:
            return "", text or f"the trial ended with {exit_code}"
        try:
            told = json.loads(text.rpartition("\n")[2])
            if told["format"] != FORMAT:
                return "", f"it carries over in format {told['format']}, this one in {FORMAT}"
            return str(told["version"]), ""
        except (ValueError, TypeError, KeyError):
            return "", f"it gave no answer: {text[-200:]}"

    def give_up(self) -> None:
        """Kill it with all that it has started."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def _scratch() -> IO[bytes]:
    """Return a file for what is said: in memory, where the system can (the disk may be full)."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("trial"), "w+b")
    return tempfile.TemporaryFile()


def try_out() -> int:
    """Try what this version would do with the plan; returns the exit code."""
    try:
        plan = Plan.inherited()
        for text in plan.listen:
            _try_address(text)
        _try_address(plan.admin)
        for role in ("worker", "control"):
            _try_program(plan, role)
    except (PlanError, AddressError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 -- what the supervisor reads
        return 4
    print(json.dumps({"format": FORMAT, "version": VERSION, "layout": layout.LAYOUT}))  # noqa: T201
    return 0


def _try_program(plan: Plan, role: str) -> None:
    """Have a child's program import what it needs, control read the file. Raises PlanError."""
    env = {name: text for name, text in os.environ.items() if name not in {PLAN_VARIABLE, HELD}}
    done = subprocess.run(
        (*plan.argv(role), OPTION, plan.config),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        said = done.stdout.decode("utf-8", "replace").strip()
        raise PlanError(said or f"{role} ended with {done.returncode}")


def _try_address(text: str) -> None:
    """Bind an address that nobody handed over, and let go of it. Raises AddressError."""
    address = addresses.parse(text)
    held = json.loads(os.environ.get(HELD, "[]"))
    if address.text in held:
        return
    if address.path:
        if listened_to(address.path):
            raise AddressError(f"{address.text}: in use by another process")
        if not os.access(Path(address.path).parent, os.W_OK | os.X_OK):
            raise AddressError(f"{address.text}: the folder cannot be written")
        return
    if str(address.port) not in {each.rpartition(":")[2] for each in held}:
        addresses.refuse_if_taken(address)
    addresses.listen(address, beside_others=True).close()
