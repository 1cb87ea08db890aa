"""The demo's child processes: started, watched, and none of them left behind.

Children get sessions of their own, so that Ctrl-C reaches the demo alone and it decides the order
in which things end. A mark in their environment, which theirs inherit, finds what a killed
supervisor has left running (Linux).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.demo.layout import Placed
from gateway.demo.service import Ready
from gateway.supervisor.plan import environment, python

MARK = "GATEWAY_DEMO_MARK"
GATEWAY = "gateway"

#: Seconds that services have to end after their SIGTERM.
SERVICE_PATIENCE = 3.0

#: Seconds between two looks at what is awaited.
LOOK = 0.05


class DemoError(Exception):
    """The demo cannot go on; the text is the one line that says why."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours and where its words go."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self, lines: int = 8) -> str:
        """Return the end of its log."""
        try:
            text = self.log.read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


class Children:
    """Starts processes and ends them all in ``stop``."""

    def __init__(self, folder: Path, mark: str) -> None:
        self._folder = folder
        self._mark = mark
        self._children: list[Child] = []

    def start(self, name: str, arguments: Iterable[str]) -> Child:
        """Start one process; its standard error, and output beyond a ready line, go to a log."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if name != GATEWAY else file,
                stderr=file,
                env=environment(MARK, self._mark),
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def ended(self) -> list[Child]:
        """Return those that have ended since the last call, which forgets them."""
        gone = [child for child in self._children if child.process.poll() is not None]
        for child in gone:
            _close_pipes(child)
            self._children.remove(child)
        return gone

    def stop(self, patience: float = 10.0) -> list[str]:
        """End every child, the gateway before the services, and what theirs have left.

        Each has ``patience`` seconds from its SIGTERM on. Returns the names of those that had to
        be killed.
        """
        killed = []
        gateways = [child for child in self._children if child.name == GATEWAY]
        services = [child for child in self._children if child.name != GATEWAY]
        # The gateway first: it still has somebody to drain to.
        if not _end(gateways, patience):
            killed.append(GATEWAY)
        if not _end(services, min(patience, SERVICE_PATIENCE)):
            killed.append("services")
        self._children.clear()
        return killed + end_marked(self._mark, patience=2.0)


def _end(children: list[Child], patience: float) -> bool:
    """End processes together: SIGTERM, then SIGKILL. Returns whether the first was enough."""
    for child in children:
        with suppress(ProcessLookupError):
            child.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + patience
    in_time = True
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            in_time = False
            child.process.kill()
            child.process.wait()
        _close_pipes(child)
    return in_time


def _close_pipes(child: Child) -> None:
    """Close our ends of a child's pipes."""
    for pipe in (child.process.stdin, child.process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def marked(mark: str) -> list[int]:
    """Return the processes that carry our mark, this one apart (Linux; elsewhere none)."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # gone, or another user's
        if wanted in environment.split(b"\0") and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def end_marked(mark: str, patience: float) -> list[str]:
    """End what carries our mark; returns what had to be ended, by process id."""
    ended: list[str] = []
    deadline = time.monotonic() + patience
    number = signal.SIGTERM
    while left := marked(mark):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        ended += [str(pid) for pid in left if str(pid) not in ended]
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        time.sleep(LOOK)
    return ended


def start_service(children: Children, placed: Placed, gateway: str) -> Child:
    """Start one service process; ``gateway`` is the public address that it calls others through."""
    identity = placed.identity
    arguments = ["--service", identity.service, "--color", identity.color]
    arguments += ["--replica", str(identity.replica), "--port", str(placed.port)]
    arguments += ["--gateway", gateway]
    return children.start(identity.name, [*python("gateway.demo.service"), *arguments])


def await_ready(child: Child, deadline: float, check: Callable[[], None]) -> Ready:
    """Wait for a service's ready line until ``deadline`` (monotonic).

    ``check`` is called meanwhile and may raise. Raises DemoError where the process ends or the
    time does.
    """
    pipe = child.process.stdout
    if pipe is None:
        raise DemoError(f"{child.name} was started without a pipe")
    line = b""
    while not line.endswith(b"\n"):
        check()
        if time.monotonic() > deadline:
            raise DemoError(f"{child.name} did not become ready in time; its log: {child.log}")
        if not select.select([pipe], [], [], LOOK)[0]:
            continue
        piece = os.read(pipe.fileno(), 4096)
        if not piece:
            words = child.last_words() or f"no last words in {child.log}"
            raise DemoError(f"{child.name} ended while starting: {words}")
        line += piece
    return msgspec.json.decode(line, type=Ready)
