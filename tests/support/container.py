"""The gateway as process 1 of a process namespace: what a container makes of it, without one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Final

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import PATIENCE, children_of, need

#: Whoever is not root needs to be it in a user namespace.
ROOTLESS: Final = os.geteuid() != 0 or "GATEWAY_ROOTLESS" in os.environ
UNSHARE: Final = (
    "unshare",
    *(("--user", "--map-root-user") if ROOTLESS else ()),
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)


def need_namespaces() -> None:
    """Skip the test, saying why, where there is no process namespace to be had."""
    if sys.platform != "linux":
        pytest.skip("process namespaces are Linux's")
    for program in ("unshare", "nsenter"):
        need(program)
    tried = subprocess.run(
        [*UNSHARE, "true"], capture_output=True, text=True, timeout=20, check=False
    )
    if tried.returncode:
        pytest.skip(f"no process namespace: {tried.stderr.strip()}")


class Container(GatewayProcess):
    """A gateway that is process 1, with ``/proc`` of its own. Files and network are shared."""

    prefix = UNSHARE

    @property
    def pid(self) -> int:
        """Process 1, as the machine numbers it."""
        assert self.process is not None, "not started"
        return children_of(self.process.pid)[0]

    def send(self, number: signal.Signals) -> None:
        """Send process 1 a signal from outside, as a container's engine does."""
        os.kill(self.pid, number)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command among its processes (``docker exec``)."""
        enter = ["nsenter", f"--target={self.pid}", "--pid", "--mount", f"--wd={self.folder}"]
        enter += ["--user", "--preserve-credentials"] * ROOTLESS
        return subprocess.run(
            [*enter, *command],
            env={**os.environ, **self.env}, capture_output=True, text=True,
            timeout=100, check=False,
        )  # fmt: skip

    def stop(self, signal_: signal.Signals = signal.SIGTERM) -> int:
        """End it; return its exit code. All that is in it ends with it."""
        if self.process is None:
            return 0
        popen = self.process.popen
        if popen.poll() is None and children_of(popen.pid):
            self.send(signal_)
        try:
            return popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            popen.kill()
            return popen.wait()

    def ended_within(self, seconds: float) -> int | None:
        """Return the exit code, or None where it still runs after that time."""
        assert self.process is not None
        until = time.monotonic() + seconds
        while self.process.popen.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        return self.process.popen.returncode
