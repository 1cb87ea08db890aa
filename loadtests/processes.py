"""Child processes on loopback: start, wait until they listen, measure, stop. Linux only.

Processor time is user plus system from ``/proc/PID/stat``, all threads of a process included; its
resolution is one clock tick (10 ms), so a round must last a second or more to mean anything.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

#: Where field 4 (the parent) stands after the command's closing parenthesis; see proc(5).
_PARENT, _USER, _SYSTEM = 1, 11, 12


class ToolError(RuntimeError):
    """A program could not be started or did not do what it is there for."""


@dataclass(slots=True)
class Child:
    """A started process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def tail(self, octets: int = 2000) -> str:
        """Return the end of what it has written."""
        return self.output.read_bytes()[-octets:].decode(errors="replace")

    def stop(self, timeout: float = 10.0) -> int:
        """End it and what it started (SIGTERM, then SIGKILL); return its exit code."""
        family = descendants(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return code


def start(
    name: str,
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start ``command``; its output goes to ``folder/NAME.out``. Raises ToolError."""
    output = folder / f"{name}.out"
    with output.open("wb") as sink:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=None if env is None else {**os.environ, **env},
                pass_fds=pass_fds,
            )
        except OSError as error:
            raise ToolError(f"{name}: {command[0]} cannot be started: {error}") from error
    return Child(name, process, output)


def wait_listening(child: Child, port: int, timeout: float = 15.0) -> None:
    """Wait until something accepts on ``port``. Raises ToolError with the child's output."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if child.process.poll() is not None:
            raise ToolError(f"{child.name} exited with {child.process.returncode}: {child.tail()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        time.sleep(0.05)
    raise ToolError(f"{child.name} does not listen on {port} after {timeout:g} s: {child.tail()}")


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the command's name, none if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, and theirs."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def processor_seconds(pids: Iterable[int]) -> float:
    """Return user plus system time of these processes so far, in seconds."""
    total = 0
    for pid in pids:
        if fields := _stat(pid):
            total += int(fields[_USER]) + int(fields[_SYSTEM])
    return total / TICKS


def resident_octets(pids: Iterable[int]) -> int:
    """Return the resident memory of these processes in octets (shared pages counted each time)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return total


def raise_file_limit(wanted: int) -> int:
    """Raise this process's limit of open files towards ``wanted``; return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
