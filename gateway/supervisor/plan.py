"""What a supervisor is to keep running: one JSON object in ``GATEWAY_PLAN``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "GATEWAY_PLAN"

#: Where we lie and run, found out while it is loaded: a link that leads here (``current``) may lead
#: to another version a minute later. The interpreter's own link is left, for it makes the
#: environment (PEP 405).
_ROOT: Final = str(Path(__file__).resolve().parents[2])
EXECUTABLE: Final = str(Path(sys.executable).parent.resolve() / Path(sys.executable).name)

#: Slots beyond this are a mistake, not a machine.
MAX_WORKERS: Final = 1024


class PlanError(Exception):
    """The plan is missing or cannot be carried out; the text says where and why."""


def python(module: str) -> tuple[str, ...]:
    """Return the arguments that run one of our modules.

    ``-P``: a folder named ``gateway`` in the working directory is not to be taken for the package.
    """
    return (EXECUTABLE, "-P", "-m", module)


def environment(variable: str, value: str) -> dict[str, str]:
    """Return this process's environment with one variable set, in which ``python`` finds us.

    The plan is left out: a child that starts a child must not pass it on.
    """
    env = {name: text for name, text in os.environ.items() if name != VARIABLE}
    env[variable] = value
    root = package_root()
    if not installed(root):
        others = env.get("PYTHONPATH", "")
        if root not in others.split(os.pathsep):
            env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, others)))
    return env


def package_root() -> str:
    """Return the folder that this package was imported from."""
    return _ROOT


def installed(root: str) -> bool:
    """Tell whether the interpreter finds a package in that folder by itself."""
    return Path(root).name in {"site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Addresses, numbers and paths; never a secret. All durations are in seconds.

    ``listen`` and ``admin`` are ``host:port``, ``[v6]:port`` or ``unix:path``. ``grace`` is what a
    child gets beyond ``drain_timeout`` before it is killed. A worker silent for
    ``worker_silence`` (control: ``control_silence``), or not beating ``start_limit`` after its
    start, is replaced. ``shutdown_delay`` is how long an end is announced before workers stop
    accepting. ``spare`` keeps one more worker loaded, for whichever place becomes free. The
    argument lists are for tests; empty means our own modules.
    """

    listen: tuple[str, ...]
    admin: str
    workers: int
    run_dir: str
    config: str
    drain_timeout: float = 30.0
    shutdown_delay: float = 0.0
    grace: float = 5.0
    check_every: float = 0.1
    worker_silence: float = 1.25
    control_silence: float = 5.0
    start_limit: float = 30.0
    spare: bool = True
    worker_argv: tuple[str, ...] = ()
    control_argv: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_WORKERS:
            raise PlanError(f"workers: {self.workers}, expected 1 to {MAX_WORKERS}")
        if not self.listen:
            raise PlanError("listen: empty, expected at least one address")

    @property
    def slabs(self) -> int:
        """Slabs of a new board: an old and a new worker of each slot side by side, and two."""
        return max(4, 2 * self.workers + 2)

    def argv(self, role: str) -> tuple[str, ...]:
        """Return the arguments that start a child of that role."""
        given = self.control_argv if role == "control" else self.worker_argv
        return given or python(f"gateway.{role}")

    def encode(self) -> str:
        """Return the value of ``VARIABLE`` that ``decode`` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, text: str) -> Plan:
        """Read ``VARIABLE``'s value. Raises PlanError where it is not one."""
        try:
            values = json.loads(text)
            for name in ("listen", "worker_argv", "control_argv"):
                values[name] = tuple(map(str, values.get(name, ())))
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise PlanError(f"{VARIABLE} is not a plan: {error}") from error

    @classmethod
    def inherited(cls) -> Plan:
        """Return the plan of this process. Raises PlanError where it has none."""
        text = os.environ.get(VARIABLE)
        if text is None:
            raise PlanError(f"{VARIABLE} is not set; start the gateway with `gateway run`")
        return cls.decode(text)
