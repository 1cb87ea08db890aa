"""``gateway upgrade``: the gateway that runs here becomes the version that this command is of.

It is done on the machine, beside the admin API: a request in the run folder, which its owner alone
may enter, and SIGUSR2. See docs/processes.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pwd
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from gateway.cli.output import say, warn
from gateway.cli.run import plan_of, run_dir_of
from gateway.cli.values import config_option, duration, in_seconds
from gateway.client.exits import Exit
from gateway.supervisor import upgrade
from gateway.supervisor.trial import LIMIT as TRIAL_LIMIT
from gateway.supervisor.upgrade import About, Answer, Program, Request, UpgradeError
from gateway.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.schema import Config

LOCK: Final = "upgrade.lock"
LOOK_EVERY: Final = 0.05
#: Seconds until a supervisor has said that it tries, and beyond all limits until it is given up.
PATIENCE: Final = 10.0

EXITS: Final = {
    upgrade.DONE: Exit.DONE,
    upgrade.REFUSED: Exit.REFUSED,
    upgrade.ROLLED_BACK: Exit.WAIT_RAN_OUT,
    upgrade.FAILED: Exit.WAIT_RAN_OUT,
}


class CannotError(Exception):
    """There is no upgrade; the text says why, ``exit`` how the verb ends."""

    def __init__(self, text: str, exit_: Exit) -> None:
        super().__init__(text)
        self.exit = exit_


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """How an upgrade is to go: ``upgrade.Request`` has the same. In seconds."""

    timeout: float
    hold: float
    require_way_back: bool


@click.command("upgrade")
@config_option(
    "The configuration file; else the one that the gateway in ./var runs with.", required=False
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The interpreter whose installed version is to run; else this command's own.",
)
@click.option(
    "--timeout",
    type=duration,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long the new workers may take to be ready; else it goes back.",
)
@click.option(
    "--hold",
    type=duration,
    default=f"{upgrade.HOLD:g}s",
    show_default=True,
    metavar="DURATION",
    help="How long they have to stay before old workers leave; else it goes back.",
)
@click.option(
    "--require-way-back",
    is_flag=True,
    help="Refuse where the running version could not be started again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    file: Path | None,
    python: Path | None,
    timeout: str,
    hold: str,
    *,
    require_way_back: bool,
    as_json: bool,
) -> None:
    """Have the gateway that runs on this machine become this command's version.

    Its process number, sockets and connections stay. The new version is tried first; then it
    replaces control, starts new workers on the same sockets, and lets the old ones drain once the
    ones serve. Where they do not get ready, the version before goes on: if its files are still
    there. Where they are not (`pip install -U` over it), that is said first.

    Exits with 0 once the new version serves, 2 where the configuration is wrong for it, 3 where no
    gateway runs here, 4 where it was refused and nothing has changed, 6 where the new workers did
    not get ready and the old ones serve on.
    """
    if python is not None:
        arguments = ["--timeout", timeout, "--hold", hold]
        arguments += ["--config", str(file)] * (file is not None) + ["--json"] * as_json
        arguments += ["--require-way-back"] * require_way_back
        become_other(python, arguments)
    wish = Wish(in_seconds(timeout), in_seconds(hold), require_way_back)
    try:
        ctx.exit(run(file, wish, as_json=as_json))
    except CannotError as error:
        warn(str(error))
        ctx.exit(error.exit)


def become_other(python: Path, options: list[str]) -> NoReturn:
    """Let another version's own command do it: it is the one that checks the configuration."""
    where = str(python.absolute())
    arguments = [where, "-P", "-m", "gateway", "upgrade", *options]
    try:
        os.execve(where, arguments, Program(python=where, root="", plan="").environment())  # noqa: S606
    except OSError as error:
        warn(f"{python}: {error.strerror}")
        sys.exit(Exit.USAGE)


def run(file: Path | None, wish: Wish, *, as_json: bool) -> int:
    """Ask for the upgrade and follow it; return the exit status. Raises CannotError."""
    if file is None:
        from gateway.config.schema import State

        run_dir = run_dir_of(Path(State().path))
        about = running(run_dir)
        file = Path(about.config)
        config = read(file)
    else:
        config = read(file)
        run_dir = run_dir_of(Path(config.state.path))
        about = running(run_dir)
    plan = plan_of(config, file)
    if plan.run_dir != str(run_dir):
        raise CannotError(f"state.path of {file} is not where the gateway runs", Exit.REFUSED)
    request = Request(
        id=secrets.token_hex(8),
        program=upgrade.own_program(plan.encode()),
        timeout=wish.timeout,
        hold=wish.hold,
        user=who(),
        require_way_back=wish.require_way_back,
    )
    try:
        with only_one(run_dir):
            answer = follow(run_dir, about, request)
    except KeyboardInterrupt:
        raise CannotError(
            "the upgrade goes on without this command; `gateway status` says how it ends",
            Exit.INTERRUPTED,
        ) from None
    except OSError as error:
        raise CannotError(f"{error.filename or run_dir}: {error.strerror}", Exit.REFUSED) from error
    tell(answer, as_json=as_json)
    return EXITS[answer.state]


def who() -> str:
    """Return the name of the user that asks: the supervisor knows the number by itself."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""
    sudo = os.environ.get("SUDO_USER", "")
    return f"{name}, sudo by {sudo}" if sudo else name


def read(file: Path) -> Config:
    """Read the configuration as this version does; its secrets are the gateway's to read.

    Raises CannotError.
    """
    from gateway.config.load import ConfigErrors, read_file

    try:
        return read_file(file, os.environ, read_secrets=False).config
    except ConfigErrors as errors:
        raise CannotError(str(errors), Exit.USAGE) from errors


def running(run_dir: Path) -> About:
    """Return who runs on that run folder. Raises CannotError."""
    _refuse_elsewhere(run_dir)
    pid = owner(run_dir / "lock")
    if not pid:
        raise CannotError(f"no gateway runs here: nobody holds {run_dir}/lock", Exit.UNREACHABLE)
    try:
        about = upgrade.read_about(run_dir)
    except UpgradeError as error:
        raise CannotError(str(error), Exit.REFUSED) from error
    # Any other process would be ended by the signal.
    if about is None or about.pid != pid or about.format != upgrade.FORMAT:
        raise CannotError(
            f"the gateway that runs here (process {pid}) is of a version that cannot become "
            f"{VERSION} in place: kill -9 it and start `gateway run`, which takes over",
            Exit.REFUSED,
        )
    return about


def _refuse_elsewhere(run_dir: Path) -> None:
    """Raise CannotError where the gateway's number is none of ours: it is a stranger's here."""
    with contextlib.suppress(UpgradeError):
        about = upgrade.read_about(run_dir)
        if about is not None and about.namespace not in {"", upgrade.namespace()}:
            raise CannotError(
                f"the gateway on {run_dir} runs in another container (its process {about.pid}), "
                "or did when it was killed: run `gateway upgrade` there",
                Exit.REFUSED,
            )


def owner(lock: Path) -> int:
    """Return the process that holds the owner's lock; 0 for none. Raises CannotError."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise CannotError(f"{lock}: {error.strerror}", Exit.REFUSED) from error
    try:
        text = os.read(fd, 32).strip()
        pid = int(text) if text.isdigit() else 0
        if pid:
            os.kill(pid, 0)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid
    except ProcessLookupError:
        return 0
    except PermissionError as error:
        raise CannotError(f"process {pid} is another user's", Exit.REFUSED) from error
    finally:
        os.close(fd)
    return 0


@contextlib.contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Let no other upgrade be asked for meanwhile. Raises CannotError where one is."""
    # Readable, so that root's upgrade does not keep the owner from the next one.
    fd = os.open(run_dir / LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            os.fchmod(fd, 0o644)  # whatever the umask
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CannotError("another upgrade is under way", Exit.REFUSED) from None
    finally:
        os.close(fd)


def follow(run_dir: Path, about: About, request: Request) -> Answer:
    """Send the request, tell how it goes, return how it ended. Raises CannotError and OSError."""
    upgrade.write(run_dir / upgrade.REQUEST_FILE, request)
    path = upgrade.answer_file(run_dir, request.id)
    os.kill(about.pid, signal.SIGUSR2)
    began = time.monotonic()
    until = began + PATIENCE
    told = ""
    while True:
        answer = look(path)
        if answer is not None and answer.state != told:
            told = answer.state
            until = began + TRIAL_LIMIT + request.timeout + request.hold + PATIENCE
            if answer.state in upgrade.FINAL:
                path.unlink(missing_ok=True)
                return answer
            warn(progress(answer))
        if owner(run_dir / "lock") != about.pid:
            raise CannotError(
                f"the supervisor (process {about.pid}) has ended; workers serve on, and "
                "`gateway run` takes over",
                Exit.UNREACHABLE,
            )
        if time.monotonic() > until:
            raise CannotError("the supervisor has not said how it ended", Exit.WAIT_RAN_OUT)
        time.sleep(LOOK_EVERY)


def look(path: Path) -> Answer | None:
    """Return the answer as it stands. Raises CannotError."""
    try:
        return upgrade.read_answer(path)
    except UpgradeError as error:
        raise CannotError(str(error), Exit.REFUSED) from error


def progress(answer: Answer) -> str:
    """Say what is being done."""
    if answer.state == upgrade.TRYING:
        trying = f"trying version {VERSION}"
        return trying if answer.way_back else f"{trying}; no way back: {answer.no_way_back}"
    return f"version {answer.old} becomes {answer.new}; waiting for its workers"


def tell(answer: Answer, *, as_json: bool) -> None:
    """Print how it ended."""
    if as_json:
        say(json.dumps(dataclasses.asdict(answer)))
        return
    if answer.state == upgrade.DONE:
        say(
            f"Version {answer.new} serves ({answer.old} before): {answer.workers} workers, after "
            f"{answer.seconds:.1f} s. {answer.draining} old workers finish what they have."
        )
        if answer.board == "new":
            say("Its board is another: counters, breakers and limits begin anew; weights stay.")
        return
    text = answer.text
    if answer.state == upgrade.REFUSED:
        text = f"refused, nothing has changed: {text}"
    for line in text.splitlines():
        warn(line)
