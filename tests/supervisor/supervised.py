"""Runs a real supervisor with stand-in children, and watches both."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gateway.channel.handover import HandoverError, ask_state
from gateway.supervisor import plan as plans
from gateway.supervisor import upgrade as upgrades
from gateway.supervisor.plan import Plan
from gateway.version import VERSION

T = TypeVar("T")

FAKE = Path(__file__).with_name("fake_child.py")


def fake(mode: str) -> tuple[str, ...]:
    """Return the arguments of a stand-in child; -S: it needs no packages, and starts sooner."""
    return (sys.executable, "-S", str(FAKE), mode)


def until(check: Callable[[], T], what: str, seconds: float = 15.0) -> T:
    """Poll until ``check`` gives something true; other processes keep no clock of ours."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def copy_of_package(folder: Path, version: str, **changed: tuple[str, str]) -> Path:
    """Copy the package as another version; ``changed`` are files with what to put for what.

    Names are paths without ``.py``, or with ``__`` for ``/``. Returns the folder to import from.
    """
    root = Path(plans.package_root())
    left_out = shutil.ignore_patterns("__pycache__", "demo", "site")
    shutil.copytree(root / "gateway", folder / "gateway", ignore=left_out)
    edits = {"version": (f'VERSION = "{VERSION}"', f'VERSION = "{version}"'), **changed}
    for name, (old, new) in edits.items():
        path = folder / "gateway" / f"{name if '/' in name else name.replace('__', '/')}.py"
        text = path.read_text()
        assert old in text, f"{path} has no {old!r}"
        path.write_text(text.replace(old, new))
    return folder


@dataclasses.dataclass
class Event:
    at: float
    name: str
    pid: int
    what: str


class Gateway:
    """A supervisor with stand-in children in one run folder; may be started again and again."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.plan = Plan(
            listen=("127.0.0.1:0",),
            admin="127.0.0.1:0",
            workers=2,
            run_dir=str(run_dir),
            config="unused.yaml",
            drain_timeout=10.0,
            grace=1.0,
            worker_argv=fake("serve"),
            control_argv=fake("serve"),
        )
        self.processes: list[subprocess.Popen[bytes]] = []
        #: Seconds that new workers of an upgrade get.
        self.patience = 15.0
        #: Seconds that they have to stay.
        self.hold = 0.0
        #: In place of the log file.
        self.stderr: int | None = None
        self.log = run_dir.parent / "stderr.log"

    def start(self, *, root: Path | None = None, **changes: Any) -> subprocess.Popen[bytes]:
        """Start a supervisor; the addresses of an earlier run no longer count."""
        self.plan = dataclasses.replace(self.plan, **changes)
        program = upgrades.Program(
            python=sys.executable,
            root=str(root or plans.package_root()),
            plan=self.plan.encode(),
        )
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                plans.python("gateway.supervisor"),
                env=program.environment(),
                stderr=log if self.stderr is None else self.stderr,
            )
        self.processes.append(process)
        return process

    def serving(self, **changes: Any) -> subprocess.Popen[bytes]:
        """Start a supervisor and wait until all its children serve."""
        before = len(self.events("start"))
        process = self.start(**changes)
        until(
            lambda: len(self.events("start")) >= before + self.plan.workers + 1,
            f"children to start: {self.said()}",
        )
        until((self.run_dir / "addresses.json").exists, "addresses")
        for slot in range(self.plan.workers):
            self.slab_of(slot)
        return process

    def ask(
        self,
        *,
        root: Path | None = None,
        python: str = "",
        require_way_back: bool = False,
        **changes: Any,
    ) -> str:
        """Ask for an upgrade, to another package or another plan; return the request's id."""
        self.plan = dataclasses.replace(self.plan, **changes)
        program = upgrades.Program(
            python=python or sys.executable,
            root=str(root or plans.package_root()),
            plan=self.plan.encode(),
        )
        request = upgrades.Request(
            id=os.urandom(8).hex(),
            program=program,
            timeout=self.patience,
            hold=self.hold,
            user="somebody",
            require_way_back=require_way_back,
        )
        upgrades.write(self.run_dir / upgrades.REQUEST_FILE, request)
        self.processes[-1].send_signal(signal.SIGUSR2)
        return request.id

    def answered(self, request: str, *states: str) -> upgrades.Answer:
        """Wait for an upgrade's answer, the last one where no states are named."""
        path = upgrades.answer_file(self.run_dir, request)
        wanted = set(states) or upgrades.FINAL

        def answer() -> upgrades.Answer | None:
            found = upgrades.read_answer(path)
            return found if found is not None and found.state in wanted else None

        found = until(answer, f"the upgrade to be {wanted}: {self.said()}", 40.0)
        assert found is not None
        return found

    def upgraded(self, **to: Any) -> upgrades.Answer:
        """Upgrade; return how it ended."""
        return self.answered(self.ask(**to))

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def events(self, what: str = "", name: str = "") -> list[Event]:
        path = self.run_dir / "events.log"
        lines = path.read_text().splitlines() if path.exists() else []
        split = (line.split(" ", 3) for line in lines)
        events = [Event(float(at), who, int(pid), did) for at, who, pid, did in split]
        return [each for each in events if what in {"", each.what} and name in {"", each.name}]

    def worker_of(self, slot: int) -> int:
        """Return the process that started last in a slot, once it answers; 0 until then."""
        started = self.events("start", f"worker-{slot}")
        return started[-1].pid if started and alive(started[-1].pid) else 0

    def slab_of(self, slot: int) -> int:
        """Return the slab of the worker that started last in a slot, once it is ready."""

        def ready() -> list[int]:
            pid = self.worker_of(slot)
            slabs = []
            for path in self.run_dir.glob("worker-*.sock"):
                with contextlib.suppress(HandoverError):  # an old one that is just ending
                    state = ask_state(path, 0.5)
                    slabs += [state.slab] if (state.pid, state.state) == (pid, "ready") else []
            return slabs

        return until(ready, f"worker {slot} to serve: {self.said()}")[0]

    @property
    def addresses(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_dir / "addresses.json").read_text())
        return found

    def connect(self, address: str = "") -> socket.socket:
        where = address or self.addresses["listen"][0]
        host, _, port = where.rpartition(":")
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=15.0)
        connection.settimeout(15.0)
        return connection

    def tell(self, command: str, address: str = "") -> dict[str, Any]:
        """Give whichever child accepts a command; return what it says of itself."""
        with self.connect(address) as connection:
            return say_to(connection, command)

    def tell_control(self, command: str) -> dict[str, Any]:
        return self.tell(command, self.addresses["admin"])

    def end_all(self) -> None:
        """Kill every process of this gateway that still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for pid in self.left_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def left_running(self) -> list[int]:
        """Return the stand-ins of this run folder, those included that have not begun yet."""
        left = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                with contextlib.suppress(OSError):
                    fake_child = FAKE.name.encode() in (folder / "cmdline").read_bytes()
                    if (
                        fake_child
                        and str(self.run_dir).encode() in (folder / "environ").read_bytes()
                    ):
                        left.append(int(folder.name))
        return left


def say_to(connection: socket.socket, command: str) -> dict[str, Any]:
    connection.sendall(command.encode() + b"\n")
    line = connection.makefile("r").readline()
    assert line, "closed without an answer"
    answer: dict[str, Any] = json.loads(line)
    return answer
