"""``gateway run``: check the configuration, then become the supervisor."""

from __future__ import annotations

import math
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from gateway.cli.values import config_option
from gateway.client.exits import Exit

if TYPE_CHECKING:
    from gateway.config.schema import Config
    from gateway.supervisor.plan import Plan

#: Libraries that the children import; without one of them none would ever serve.
LIBRARIES: Final = (
    "aiohttp", "cryptography", "jwt", "lmdb", "msgspec", "orjson", "prometheus_client",
    "pybreaker", "pydantic", "yaml", "yarl",
)  # fmt: skip

#: Where a container's share of the processors stands (cgroup v2).
CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")

#: A container's first process. The kernel drops what it does not handle, so a SIGTERM that comes
#: while the file is read would be without effect: it has to wait for the supervisor.
FIRST: Final = 1


@click.command("run")
@config_option("The configuration file.")
@click.pass_context
def command(ctx: click.Context, file: Path) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    SIGHUP reads the file again. Exits with 2 where the file is wrong, and with 4 where an address
    is in use, the state folder cannot be written, its store is a newer version's, or another
    gateway runs on it.
    """
    if os.getpid() == FIRST:
        from gateway.supervisor.signals import hold

        hold()
    if missing := unusable_libraries():
        click.echo(f"gateway: {missing}", err=True)
        ctx.exit(Exit.REFUSED)
    from gateway.config.load import ConfigErrors, read_file

    try:
        loaded = read_file(file, os.environ)
    except ConfigErrors as errors:
        click.echo(str(errors), err=True)
        ctx.exit(Exit.USAGE)
    for warning in loaded.warnings:
        click.echo(f"{warning} [warning]", err=True)
    config = loaded.config
    plan = plan_of(config, file)
    state = Path(config.state.path)
    problem = prepare_state(state, Path(plan.run_dir)) or unreadable_state(state)
    if problem:
        click.echo(f"gateway: {problem}", err=True)
        ctx.exit(Exit.REFUSED)
    become_supervisor(plan)


def unusable_libraries() -> str:
    """Return which library cannot be used, and why; empty where all can.

    Here, and not by children that die one after the other.
    """
    for name in LIBRARIES:
        try:
            import_module(name)
        except ImportError as error:
            why = " ".join(str(error).split())
            python = ".".join(map(str, sys.version_info[:2]))
            return f"the library {name} cannot be used with this Python ({python}): {why}"
    return ""


def run_dir_of(state_path: Path) -> Path:
    """Return the run folder that belongs to a state store: sockets, lock, flag file."""
    return state_path.absolute().parent.resolve() / "run"


def plan_of(config: Config, file: Path) -> Plan:
    """Return what the supervisor is to keep running for a configuration."""
    from gateway.config.build import public_listeners
    from gateway.supervisor.plan import Plan

    return Plan(
        listen=tuple(listener.address for listener in public_listeners(config)),
        admin=str(config.admin.address),
        workers=config.workers or cores(),
        run_dir=str(run_dir_of(Path(config.state.path))),
        config=str(file.absolute()),
        drain_timeout=_drain_timeout(config),
        shutdown_delay=config.shutdown.delay,
    )


def _drain_timeout(config: Config) -> float:
    """Return what a worker that leaves gets for what is in flight, in seconds."""
    if config.shutdown.timeout is not None:
        return config.shutdown.timeout
    return max(service.drain_timeout for service in config.services.values())


def cores() -> int:
    """Return the processors that this process may use, a container's share rounded up."""
    if sys.version_info >= (3, 13):
        count = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, _share())))


def _share() -> float:
    """Return the processors' worth of time that the container gets; infinite where unlimited."""
    try:
        quota, period = CPU_MAX.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf  # no cgroup v2 here, or "max"


def prepare_state(state_path: Path, run_dir: Path) -> str:
    """Make the state and run folders; returns what is wrong, empty where nothing is."""
    from gateway.channel.unix import private_folder

    folder = state_path.absolute().parent
    try:
        private_folder(run_dir)
    except OSError as error:
        return f"the state folder cannot be used: {error.filename}: {error.strerror}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the state folder cannot be written: {folder}"
    return ""


def unreadable_state(state_path: Path) -> str:
    """Say where a newer version has brought the state store on; empty where not."""
    from gateway.control.database import written_by_newer

    problem = written_by_newer(state_path)
    return f"the state store {state_path} cannot be used: {problem}" if problem else ""


def become_supervisor(plan: Plan) -> NoReturn:
    """Replace this process by the supervisor: what was loaded to check the file is gone."""
    from gateway.supervisor.plan import VARIABLE, environment, python

    sys.stdout.flush()
    sys.stderr.flush()
    argv = python("gateway.supervisor")
    os.execve(argv[0], argv, environment(VARIABLE, plan.encode()))  # noqa: S606 -- on purpose
