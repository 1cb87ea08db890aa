"""Real processes for tests: free ports, waiting with a deadline, ending by pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent.parent

#: A machine with two busy cores is slow; a deadline bounds a failure, not a success.
PATIENCE = 30.0


def wait_until(
    look: Callable[[], T | None], what: str | Callable[[], str], timeout: float = PATIENCE
) -> T:
    """Poll until ``look`` returns something true; return it. Fails the test, saying ``what``."""
    deadline = time.monotonic() + timeout
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            pytest.fail(f"not within {timeout:g} s: {said}")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Tell whether somebody accepts connections on a port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def need(program: str) -> str:
    """Return a program's path; skip the test, saying so, where it is not installed."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@dataclass(slots=True)
class Process:
    """A started process; its output goes to a file that a failing test can show."""

    name: str
    popen: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    def said(self) -> str:
        """Return all that it has written."""
        return self.output.read_text(errors="replace")

    def stop(self, signal_: signal.Signals = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """End it; return its exit code. SIGKILL where it does not go in time."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal_)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


def start(
    name: str,
    command: Sequence[str | Path],
    folder: Path,
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
) -> Process:
    """Start ``command`` in ``folder`` (or ``cwd``) with ``env`` added to the environment.

    Its output goes to ``NAME.out`` in ``folder``.
    """
    output = folder / f"{name}.out"
    with output.open("ab") as sink:
        popen = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=cwd or folder,
            env={**os.environ, **(env or {})},
        )
    return Process(name, popen, output)


def start_listening(
    name: str,
    command: Sequence[str | Path],
    folder: Path,
    port: int,
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
) -> Process:
    """Start ``command`` and wait until it accepts on ``port``; fail with its output otherwise."""
    process = start(name, command, folder, env, cwd=cwd)

    def ready() -> bool | None:
        if process.popen.poll() is not None:
            pytest.fail(f"{name} exited with {process.popen.returncode}:\n{process.said()}")
        return listens(port)

    try:
        wait_until(ready, lambda: f"{name} listens on {port}:\n{process.said()}")
    except BaseException:
        process.stop()
        raise
    return process


def alive(pid: int) -> bool:
    """Tell whether a process exists (a zombie does not count)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's direct children (Linux)."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in task.read_text().split()]
    return found
