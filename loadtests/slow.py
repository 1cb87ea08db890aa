"""``python -m loadtests.slow``: slow clients by the thousand, and what a normal one notices of it.

slowhttptest holds its connections in each of its modes (slow heads, slow bodies, ranges, slow
reading). Beside it a client asks a hundred times a second, each request timed from when it was due,
before the attack and under it, round by round; medians are printed. The same is asked of the
backend itself: what *it* feels is the attacking program's share of the machine, not the gateway's.
Three figures need no quiet machine: the worker's processor time for what is held, its memory, and
how long after the last connection the last of them is let go.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gateway.demo.ports import free_ports
from gateway.hot import compiled_state
from loadtests import measure, targets
from loadtests.processes import (
    Child,
    ToolError,
    processor_seconds,
    raise_file_limit,
    resident_octets,
    start,
    wait_listening,
)
from loadtests.steady import Steady
from loadtests.targets import Place, gateway_workers, program

#: Seconds between two of a slow client's octets; what a head or body is made of; what is read.
MODES = {
    "heads": ("-H", "-i", "1", "-x", "24"),
    "bodies": ("-B", "-i", "1", "-s", "8192", "-x", "8"),
    "ranges": ("-R", "-a", "5", "-b", "800"),
    "reading": ("-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "3"),
}
#: The bar: a normal client's p99 under attack over its p99 without one.
BAR = 2.0
#: Requests a second of the normal client.
RATE = 100.0
#: Of the slow connections: this many are let go when the attack is said to be over.
FEW = 8
LARGE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Held:
    """One attack. Milliseconds; processor seconds a second; octets; seconds."""

    quiet: Steady
    loaded: Steady
    direct_quiet: Steady
    direct: Steady
    most: int
    processor: float
    processor_quiet: float
    memory: int
    let_go: float | None

    @property
    def ratio(self) -> float:
        """The p99 under attack over the one before."""
        return self.loaded.p99_ms / self.quiet.p99_ms


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for. ``patience`` is what the gateway gives a client, in seconds."""

    modes: tuple[str, ...] = tuple(MODES)
    connections: int = 2000
    rounds: int = 3
    seconds: float = 10.0
    ramp: float = 5.0
    patience: float = 20.0


@dataclass(slots=True)
class Stage:
    """A gateway with one worker, its backend, and the ports of both."""

    place: Place
    backend: Child
    gateway: Child
    results: dict[str, list[Held]] = field(default_factory=dict)

    def connections(self) -> int:
        """Return how many of its clients' connections the gateway counts."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.place.admin}/metrics",
            headers={"Authorization": f"Bearer {targets.TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(r"^gateway_connections(?:\{[^}]*\})? ([0-9.e+]+)$", text, re.MULTILINE)
        return int(sum(float(each) for each in found))

    def asked(self, seconds: float) -> tuple[Steady, Steady, float]:
        """Ask the gateway and the backend side by side; return both, and the worker's load."""
        workers = gateway_workers(self.gateway)
        before, began = processor_seconds(workers), time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            ours, direct = (
                pool.submit(measure.constant_rate, port, RATE, seconds)
                for port in (self.place.port, self.place.blue[0])
            )
            results = ours.result(), direct.result()
        spent = (processor_seconds(workers) - before) / (time.monotonic() - began)
        if gateway_workers(self.gateway) != workers:
            raise ToolError(f"the worker was replaced meanwhile:\n{self.gateway.tail(4000)}")
        return *results, spent


def begin(folder: Path, options: Options) -> Stage:
    """Start both. Raises ToolError."""
    port, admin, behind = free_ports(3)
    place = Place(folder, port, admin, (behind, behind), (behind, behind))
    large = folder / "large"
    large.write_bytes(b"y" * LARGE)
    backend = targets.start_backend(
        folder, (behind,), servers=f"location = /large {{ alias {large}; }}"
    )
    config = place.write("gateway.yaml", _config(place, options))
    command = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
    env = {"GATEWAY_BENCH_TOKEN": targets.TOKEN, "PYTHONPATH": str(targets.ROOT)}
    gateway = start("gateway", command, folder, env)
    try:
        wait_listening(gateway, port, 30)
        _wait_ready(gateway, admin)
    except ToolError:
        gateway.stop()
        backend.stop()
        raise
    return Stage(place, backend, gateway)


def _wait_ready(gateway: Child, admin: int) -> None:
    """Wait until the worker serves: the socket listens before that. Raises ToolError."""
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5).close()
            return
        time.sleep(0.1)
    raise ToolError(f"the gateway is not ready: {gateway.tail()}")


def _config(place: Place, options: Options) -> str:
    """Return a configuration that is the default but for patience and room."""
    patience = f"{options.patience:g}s"
    return f"""version: 1
listen: [{{address: "127.0.0.1:{place.port}"}}]
workers: 1
state: {{path: {place.folder}/gateway.db}}
access_log: {place.folder}/gateway.log
limits: {{header_timeout: {patience}, idle_timeout: {patience}}}
admin:
  address: 127.0.0.1:{place.admin}
  tokens: [{{name: bench, role: admin, token_env: GATEWAY_BENCH_TOKEN}}]
services:
  app:
    blue: {{endpoints: ["http://127.0.0.1:{place.blue[0]}"]}}
    timeouts: {{between_bytes: {patience}}}
"""


def attack(stage: Stage, mode: str, options: Options) -> Held:
    """Hold connections in one mode, with the figures before, under and behind it."""
    quiet, direct_quiet, processor_quiet = stage.asked(options.seconds)
    worker = gateway_workers(stage.gateway)
    memory = resident_octets(worker)
    # Long enough that it is the gateway that lets go: no client of these leaves by itself.
    lasting = round(options.ramp + options.patience * 3)
    each_second = max(1, round(options.connections / options.ramp))
    command = ["slowhttptest", *MODES[mode], "-c", str(options.connections)]
    command += ["-r", str(each_second), "-l", str(lasting), "-p", "5", "-v", "1"]
    command += ["-u", f"http://127.0.0.1:{stage.place.port}/large"]
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        # ``chrt --fifo 1``, on a machine with other work: all but the attack is run before that.
        command = ["chrt", "--other", "0", *command]
    slow = start("slowhttptest", command, stage.place.folder)
    try:
        most = _filled(stage, options)
        filled = time.monotonic()
        loaded, direct, processor = stage.asked(options.seconds)
        memory = resident_octets(worker) - memory
        let_go = _let_go(stage, slow, filled, options)
    finally:
        slow.stop()
    return Held(
        *(quiet, loaded, direct_quiet, direct, most, processor, processor_quiet, memory, let_go)
    )


def _filled(stage: Stage, options: Options) -> int:
    """Wait until nearly all connections are made, or no more come; return how many are held."""
    time.sleep(options.ramp)
    most = 0
    # A busy machine makes them late.
    for _ in range(round(options.patience / 2)):
        held = stage.connections()
        if held <= most or held > options.connections * 0.95:
            return max(held, most)
        most = held
        time.sleep(1.0)
    return most


def _let_go(stage: Stage, slow: Child, filled: float, options: Options) -> float | None:
    """Return the seconds from the last connection made until few are held; None: never."""
    until = filled + options.patience * 3
    while time.monotonic() < until and slow.process.poll() is None:
        if stage.connections() <= FEW:
            return time.monotonic() - filled
        time.sleep(0.5)
    return time.monotonic() - filled if stage.connections() <= FEW else None


def _middle(values: Sequence[float], digits: int = 1) -> str:
    told = f"{statistics.median(values):.{digits}f}"
    return (
        f"{told} ({min(values):.{digits}f}-{max(values):.{digits}f})" if len(values) > 1 else told
    )


def render(results: dict[str, list[Held]]) -> str:
    """Return the figures as a table: medians of the rounds, with their spread."""
    columns: dict[str, Callable[[list[Held]], str]] = {
        "held": lambda held: _middle([each.most for each in held], 0),
        "p99 before, ms": lambda held: _middle([each.quiet.p99_ms for each in held]),
        "under attack": lambda held: _middle([each.loaded.p99_ms for each in held]),
        f"ratio (bar {BAR:g})": lambda held: _middle([each.ratio for each in held], 2),
        "backend alone, before": lambda held: _middle([each.direct_quiet.p99_ms for each in held]),
        "and under attack": lambda held: _middle([each.direct.p99_ms for each in held]),
        "worker's load, % of a core": lambda held: _middle(
            [(each.processor - each.processor_quiet) * 100 for each in held]
        ),
        "KiB each": lambda held: _middle([each.memory / 1024 / max(1, each.most) for each in held]),
        "let go after, s": lambda held: (
            "never"
            if any(each.let_go is None for each in held)
            else _middle([each.let_go or 0.0 for each in held])
        ),
        "errors": lambda held: str(sum(each.loaded.errors for each in held)),
    }
    lines = ["| slow | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {mode} | " + " | ".join(column(held) for column in columns.values()) + " |"
        for mode, held in results.items()
    ]
    return "\n".join(lines) + "\n"


def run(options: Options) -> dict[str, list[Held]]:
    """Play every mode in every round. Raises ToolError."""
    raise_file_limit(options.connections * 2 + 500)
    with tempfile.TemporaryDirectory(prefix="gateway-slow-") as name:
        stage = begin(Path(name), options)
        try:
            stage.asked(2.0)  # warmed up
            for number in range(options.rounds):
                for mode in options.modes:
                    held = attack(stage, mode, options)
                    stage.results.setdefault(mode, []).append(held)
                    told = f"{held.quiet.p99_ms:.1f} -> {held.loaded.p99_ms:.1f} ms"
                    print(f"round {number + 1}, {mode}: {told}, {held.most} held", file=sys.stderr)
        finally:
            stage.gateway.stop()
            stage.backend.stop()
    return stage.results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print. 0: done; 1: a program failed; 2: one is missing."""
    plain = Options()
    parser = argparse.ArgumentParser(prog="loadtests.slow", description=__doc__)
    parser.add_argument("modes", nargs="*", help=f"of {', '.join(MODES)}; none: all")
    parser.add_argument("--connections", type=int, default=plain.connections)
    parser.add_argument("--rounds", type=int, default=plain.rounds)
    parser.add_argument("--seconds", type=float, default=plain.seconds, help="of a measurement")
    parser.add_argument("--ramp", type=float, default=plain.ramp, help="seconds to connect in")
    parser.add_argument("--patience", type=float, default=plain.patience, help="the gateway's")
    given = parser.parse_args(arguments)
    if unknown := set(given.modes) - set(MODES):
        parser.error(f"no such mode: {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    if missing := [name for name in ("nginx", "slowhttptest") if program(name) is None]:
        print(f"needs {' and '.join(missing)}", file=sys.stderr)
        return 2
    modes = tuple(given.modes) or plain.modes
    numbers = (given.connections, given.rounds, given.seconds, given.ramp, given.patience)
    options = Options(modes, *numbers)
    try:
        results = run(options)
    except (ToolError, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"gateway: {compiled_state()}, {options.rounds} rounds, {measure.machine()}\n")
    print(render(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
