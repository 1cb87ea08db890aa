"""The machine's name server is silent: what it said last still stands.

The gateway is started in a mount namespace of its own, where ``/etc/hosts`` and
``/etc/resolv.conf`` are files of the scenario's: a name is there or it is not, and whoever asks for
one that is not waits for a name server that never answers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

from loadtests.chaos.stage import Backend, Gateway, Lacking, Pace, Stage, kill, wait_for
from loadtests.chaos.verdict import Check, no_failure

NAME = "backend.chaos.test"
#: What the admin API may take while the resolver hangs, in seconds.
PROMPT = 1.0


@dataclass(slots=True)
class Named(Backend):
    """A backend that is configured by its name."""

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{NAME}:{self.port}"


class Names:
    """The gateway's own view of names."""

    def __init__(self, stage: Stage) -> None:
        unshare = shutil.which("unshare")
        if unshare is None or os.geteuid() != 0:
            raise Lacking("only root can give a program a name server of its own")
        # It is bound and never read: to whoever asks, it is silent.
        self._silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stage.owns(self._silent.close)
        try:
            self._silent.bind(("127.0.0.53", 53))
        except OSError as error:
            raise Lacking(f"no name server can be made: {error}") from error
        self._hosts = stage.folder / "hosts"
        self.there()
        conf = stage.folder / "resolv.conf"
        conf.write_text("nameserver 127.0.0.53\noptions timeout:5 attempts:2\n")
        script = f"mount --bind {self._hosts} /etc/hosts && mount --bind {conf} /etc/resolv.conf"
        self.before = (unshare, "--mount", "sh", "-c", f'{script} && exec "$@"', "sh")
        probe = subprocess.run([*self.before, "true"], capture_output=True, text=True, check=False)
        if probe.returncode:
            raise Lacking(f"nothing can be mounted here: {probe.stderr.strip()}")

    def _write(self, text: str) -> None:
        with self._hosts.open("r+" if self._hosts.exists() else "w") as file:
            file.truncate()
            file.write(text)

    def there(self) -> None:
        """Have the name be known."""
        self._write(f"127.0.0.1 localhost\n127.0.0.1 {NAME}\n")

    def gone(self) -> None:
        """Have nobody know it."""
        self._write("127.0.0.1 localhost\n")


def names_gone(stage: Stage, pace: Pace) -> list[Check]:
    """The name server falls silent; control, a worker and then the whole gateway start without."""
    names = Names(stage)
    here, there = stage.backends("here", "there")
    named = Named("there", stage.folder, there.port, there.control)
    gateway = stage.gateway({"web": ([named], {}), "literal": ([here], {})}, before=names.before)
    names.gone()
    load = stage.load(gateway, "/web/{n}", pace.rate / 2, 8.0)
    beside = stage.load(gateway, "/literal/{n}", pace.rate / 2, 8.0)
    (control,) = gateway.pids("control")
    kill(control)
    wait_for(lambda: _warned(gateway), "status tells of the name", 30)
    # A resolver that hangs holds up nobody: neither calls nor probes.
    slowest = max(_timed(gateway) for _ in range(20))
    health = gateway.health()[named.url]
    # A worker that starts now has what was known, too; its load comes after, for the one that is
    # killed takes what it holds with it.
    rows, good = load.rows(), beside.rows()
    before = gateway.ready()
    killed = min(before)
    kill(killed)
    wait_for(lambda: killed not in gateway.ready() and len(gateway.ready()) == 2, "another worker")
    again = stage.load(gateway, "/web/{n}", pace.rate / 2, 2.0).rows()
    gateway.stop()
    fresh = _cold(stage, gateway, names)
    return [
        no_failure(rows),
        no_failure(good),
        Check("the endpoint stays up", health, health == "up"),
        Check(
            f"control answers meanwhile (bar {PROMPT:g} s)",
            f"the slowest of 20 calls took {slowest * 1000:.0f} ms",
            slowest <= PROMPT,
        ),
        no_failure(again),
        *fresh,
    ]


def _cold(stage: Stage, gateway: Gateway, names: Names) -> list[Check]:
    """Start all of it with the name unknown, then let it be known."""
    began = time.monotonic()
    gateway.start()
    took = time.monotonic() - began
    literal, unknown = gateway.ask("/literal/x"), gateway.ask("/web/x")
    said = wait_for(lambda: _warned(gateway), "status tells of the name", 30)
    names.there()
    known = time.monotonic()
    wait_for(lambda: gateway.ask("/web/x").status == 200, "the name is served", 30)
    return [
        Check("a start does not wait for names (bar 8 s)", f"ready after {took:.1f} s", took < 8),
        Check("and serves what needs none", f"{literal.status}", literal.status == 200),
        Check(
            "what does is answered with why, and status says so",
            f"{unknown.status} {unknown.fields.get('x-gateway-error', '')}; {said}",
            unknown.status in {502, 503},
        ),
        Check(
            "served once the name is known (bar 25 s)",
            f"after {time.monotonic() - known:.1f} s",
            time.monotonic() - known < 25,
        ),
    ]


def _warned(gateway: Gateway) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        warnings: list[str] = gateway.api("GET", "/v1/status").json["warnings"]
        return next((each for each in warnings if "cannot be resolved" in each), "")
    return ""


def _timed(gateway: Gateway) -> float:
    began = time.monotonic()
    gateway.api("GET", "/v1/status")
    return time.monotonic() - began
