"""``make bench``: the gateway beside nginx, HAProxy, Envoy and Caddy, in one run on one machine.

Rounds are interleaved (every proxy once, then again), so that a noisy minute strikes all alike;
medians are printed with their spread. See docs/performance.md for what the columns mean.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gateway.demo.ports import free_ports
from loadtests import measure, targets
from loadtests.measure import Idle, Round
from loadtests.processes import Child, ToolError
from loadtests.report import render
from loadtests.steady import Steady
from loadtests.targets import Place, Target, gateway_workers, program, whole_family
from loadtests.verify import verify

NAMES = ("direct", "tcp", "nginx", "haproxy", "envoy", "caddy", "gateway")


@dataclass(slots=True)
class Result:
    """What was measured of one target; ``reason`` says why there is nothing."""

    name: str
    version: str = ""
    reason: str = ""
    rounds: list[Round] = field(default_factory=list)
    steady: list[Steady] = field(default_factory=list)
    idle: Idle | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how much."""

    rounds: int
    seconds: float
    connections: int
    idle: int
    names: tuple[str, ...]
    output: Path | None


@dataclass(slots=True)
class Running:
    """A started target."""

    target: Target
    child: Child
    place: Place
    result: Result

    def one_round(self, options: Options, seconds: float) -> Round:
        """Run wrk against it once."""
        return measure.wrk_round(
            self.place.port,
            seconds,
            options.connections,
            self.target.workers(self.child),
            whole_family(self.child),
        )


def version_of(command: Sequence[str], word: int | None = None) -> str:
    """Ask a program for its version: the first line that it says, or one word of it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode != 0 or not lines:
        return ""
    return lines[0].strip() if word is None else lines[0].split()[word]


def known_targets() -> dict[str, Target | str]:
    """Return each target, or the reason why it is not here."""
    found: dict[str, Target | str] = {
        "tcp": Target("tcp", "uvloop", targets.start_floor, whole_family)
    }
    for name, begin, option, word in (
        ("nginx", targets.start_nginx, "-v", -1),
        ("haproxy", targets.start_haproxy, "-v", 2),
        ("envoy", targets.start_envoy, "--version", -1),
        ("caddy", targets.start_caddy, "version", 0),
    ):
        path = program(name)
        if path is None:
            found[name] = f"{name} is not installed"
            continue
        said = version_of([path, option], word).rpartition("nginx/")[2]
        version = said.split("/")[1] if name == "envoy" and said.count("/") > 1 else said
        found[name] = Target(name, version, begin, whole_family)
    said = version_of([sys.executable, "-m", "gateway", "--version"]).removeprefix("gateway ")
    found["gateway"] = Target("gateway", said, targets.start_gateway, gateway_workers)
    return found


def begin_all(
    options: Options, folder: Path, blue: tuple[int, int], green: tuple[int, int]
) -> tuple[list[Running], list[Result]]:
    """Start every wanted target; those that cannot start are results with a reason."""
    known = known_targets()
    running: list[Running] = []
    results: list[Result] = []
    for name in options.names:
        if name == "direct":
            continue
        result = Result(name)
        results.append(result)
        target = known[name]
        if isinstance(target, str):
            result.reason = target
            continue
        result.version = target.version
        port, admin = free_ports(2)
        own = folder / name
        own.mkdir()
        place = Place(own, port, admin, blue, green)
        try:
            child = target.begin(place)
        except ToolError as error:
            result.reason = f"did not start: {str(error)[-300:]}"
            continue
        each = Running(target, child, place, result)
        running.append(each)
        if name != "tcp":
            try:
                verify(port)
            except ToolError as error:
                running.remove(each)
                child.stop()
                result.reason = f"does other work: {error}"
    return running, results


def say(text: str) -> None:
    """Tell a person how far it is."""
    print(text, file=sys.stderr, flush=True)


def attempt(running: list[Running], each: Running, what: Callable[[], object]) -> None:
    """Measure one target; one that fails is told as such and left out from here on."""
    try:
        what()
    except ToolError as error:
        each.result.reason = f"failed under load: {error} {each.child.tail(300)}"
        each.result.rounds.clear()
        say(f"{each.target.name}: {each.result.reason}")
        running.remove(each)
        each.child.stop()


def throughput(options: Options, each: Running, number: int) -> None:
    """Run one round of wrk against one target."""
    done = each.one_round(options, options.seconds)
    each.result.rounds.append(done)
    say(
        f"round {number}/{options.rounds} {each.target.name:8} {done.worker_us:6.1f} µs"
        f" {done.rate:8.0f}/s p99 {done.p99_ms:.2f} ms errors {done.errors}"
    )


def half_load(options: Options, each: Running, number: int) -> None:
    """Offer one target half of its own rate."""
    rate = statistics.median(done.rate for done in each.result.rounds) / 2
    port = each.place.port
    steady = measure.constant_rate(port, min(rate, measure.MOST_STEADY), options.seconds)
    each.result.steady.append(steady)
    say(
        f"half load {number}/{options.rounds} {each.target.name:8} {steady.served:8.0f}/s"
        f" p99 {steady.p99_ms:.2f} ms, our lag {steady.lag_p99_ms:.2f} ms"
    )


def idle(options: Options, each: Running) -> None:
    """Hold idle connections to one target."""
    workers = each.target.workers(each.child)
    each.result.idle = measure.idle_connections(each.place.port, options.idle, workers)
    say(f"idle {each.target.name:8} {each.result.idle.octets_each / 1024:.1f} KiB each")


def measure_all(options: Options, running: list[Running], direct: Result, port: int) -> None:
    """Warm up, then rounds, then constant rates, then idle connections."""
    for each in list(running):
        attempt(running, each, partial(each.one_round, options, 1))
    for number in range(1, options.rounds + 1):
        if "direct" in options.names:
            done = measure.wrk_round(port, options.seconds, options.connections, [], [])
            direct.rounds.append(done)
        for each in list(running):
            attempt(running, each, partial(throughput, options, each, number))
    for number in range(1, options.rounds + 1):
        if "direct" in options.names:
            direct.steady.append(measure.constant_rate(port, measure.MOST_STEADY, options.seconds))
        for each in list(running):
            attempt(running, each, partial(half_load, options, each, number))
    for each in list(running):
        # The floor holds a connection of the backend's for each of a client's.
        if options.idle > 0 and each.target.name != "tcp":
            attempt(running, each, partial(idle, options, each))


def bench(options: Options) -> list[Result]:
    """Run the whole bench; every process it starts has ended when it returns."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        folder = Path(name)
        ports = tuple(free_ports(4))
        backend = targets.start_backend(folder, ports)
        running: list[Running] = []
        direct = Result("direct", "no proxy")
        try:
            running, results = begin_all(
                options, folder, (ports[0], ports[1]), (ports[2], ports[3])
            )
            for result in results:
                if result.reason:
                    say(f"{result.name}: {result.reason}")
            measure_all(options, running, direct, ports[0])
        finally:
            for each in running:
                each.child.stop()
            backend.stop()
    return ([direct] if direct.rounds else []) + results


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="loadtests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections; 0: none")
    parser.add_argument("--only", default=",".join(NAMES), help="comma-separated targets")
    parser.add_argument("--direct", action="store_true", help="only the backend, without a proxy")
    parser.add_argument("--tcp", action="store_true", help="only the floor, a TCP pass-through")
    parser.add_argument("--output", type=Path, help="write the report there (Markdown)")
    given = parser.parse_args(arguments)
    names = tuple(name for name in given.only.split(",") if name)
    if given.direct or given.tcp:
        names = tuple(n for n, on in (("direct", given.direct), ("tcp", given.tcp)) if on)
    if unknown := set(names) - set(NAMES):
        parser.error(f"--only: {', '.join(sorted(unknown))}: not one of {', '.join(NAMES)}")
    if given.rounds < 1 or given.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    return Options(given.rounds, given.seconds, given.connections, given.idle, names, given.output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the report, write it where asked. 0: done; 2: a program needed is missing."""
    options = parse(arguments)
    missing = [name for name in ("nginx", "wrk") if program(name) is None]
    if missing:
        say(f"make bench needs {' and '.join(missing)} (the backend is nginx, the client wrk)")
        return 2
    results = bench(options)
    text = render(results, options, measure.machine(), measure.today())
    print(text)
    if options.output is not None:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
