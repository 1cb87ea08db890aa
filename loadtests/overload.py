"""More load than can be served: what is still served, how fast, and what the rest is told.

``python -m loadtests.overload`` finds where it saturates, then offers 0.5, 1, 2 and 3 times that,
and says of each how much was served (goodput), how long that took, and what was shed. Twice: with a
backend that does so much and no more, and with the gateway itself as what is short
(``--gateway``). Both bars of the project are judged at 3 times: goodput above 80 % of its peak, p99
of what was served under 5 times the unloaded.

The load is open: requests are due at random (Poisson) times whatever became of those before, each
over an idle connection or a new one, and are timed from when they were *due*. The generator is a
process of its own; ``lag`` is how late it was itself.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.demo.ports import free_ports
from loadtests.processes import Child, ToolError, raise_file_limit, start, wait_listening
from loadtests.steady import Connection, Load, percentile

ROOT = Path(__file__).parent.parent
TOKEN = "overload-" + "0" * 32

#: Times the saturation that are offered; the first is "unloaded".
FACTORS = (0.1, 0.5, 1.0, 2.0, 3.0)
#: Connections that the generator opens at most: those of a crowd, each with one request at a time.
MOST_CONNECTIONS = 1000
#: The bars: of the peak's goodput, and of the unloaded p99.
GOODPUT, SLOWDOWN = 0.8, 5.0


@dataclass(frozen=True, slots=True)
class Offered:
    """What came of one load. Rates are per second, times milliseconds; ``shed``: answers 503."""

    offered: float
    goodput: float
    p50_ms: float
    p99_ms: float
    shed: int
    served: int
    shed_p99_ms: float
    #: Neither: cut off, other statuses, never answered; 503 without ``Retry-After``.
    errors: int
    lag_p99_ms: float
    connections: int


class OpenLoad(Load):
    """Requests at random times over as many connections as they need."""

    def __init__(self, port: int, rate: float, seconds: float, seed: int = 7) -> None:
        self.statuses: list[tuple[float, float, int]] = []  # due, took, status
        chance = random.Random(seed)
        self.dues = [0.0]
        while self.dues[-1] < seconds:
            self.dues.append(self.dues[-1] + chance.expovariate(rate))
        super().__init__(port, rate, seconds)
        self.total = len(self.dues) - 1

    def after(self, number: int) -> float:
        """Return when a request is due, in seconds after the begin."""
        return self.dues[min(number, len(self.dues) - 1)]

    def offer(self, due: float, now: float) -> None:
        """Send what is due over an idle connection or a new one; beyond the most it waits."""
        if not self.free and len(self.by_descriptor) < MOST_CONNECTIONS:
            self.open()
        super().offer(due, now)

    def take(self, connection: Connection, status: int) -> None:
        """Note an answer, by status; what is shed is no error."""
        if status == 503 and b"retry-after:" not in connection.seen.lower():
            status = 0
        took = time.perf_counter() - connection.due
        self.statuses.append((connection.due, took, status))
        self.times.append((connection.due, took))
        connection.due = 0.0
        self.free.append(connection)

    def sums(self) -> Offered:
        """Run it; leave the first fifth out, in which queues and connections come to be."""
        begin = self.drive()
        skip, end = begin + self.seconds / 5, begin + self.seconds
        kept = [each for each in self.statuses if each[0] >= skip]
        times = {
            status: sorted(took for _, took, said in kept if said == status)
            for status in (200, 503)
        }
        in_time = sum(said == 200 and skip <= due + took < end for due, took, said in self.statuses)
        asked = sum(due >= self.seconds / 5 for due in self.dues[:-1])
        lags = sorted(self.lags)
        return Offered(
            offered=self.rate,
            goodput=in_time / (end - skip),
            p50_ms=percentile(times[200], 0.50) * 1e3 if times[200] else 0.0,
            p99_ms=percentile(times[200], 0.99) * 1e3 if times[200] else 0.0,
            shed=len(times[503]),
            served=len(times[200]),
            shed_p99_ms=percentile(times[503], 0.99) * 1e3 if times[503] else 0.0,
            errors=max(0, asked - len(times[200]) - len(times[503])),
            lag_p99_ms=percentile(lags, 0.99) * 1e3 if lags else 0.0,
            connections=len(self.by_descriptor),
        )


def offer(port: int, rate: float, seconds: float) -> Offered:
    """Offer an open load from a process of its own."""
    command = [sys.executable, "-m", "loadtests.overload", "offer"]
    command += [str(port), f"{rate:.1f}", f"{seconds:g}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 60, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise ToolError(f"load: {done.stdout[-500:]} {done.stderr[-500:]}")
    return Offered(**json.loads(done.stdout))


# --- the backend of known capacity ----------------------------------------------------------------


class Bench:
    """So many hands, each of which takes ``seconds`` for a request; beyond these requests wait.

    What a backend with a thread pool is: overload makes it slow, and nothing else.
    """

    def __init__(self, hands: int, seconds: float) -> None:
        self.free = hands
        self.seconds = seconds
        self.waiting: deque[OneCaller] = deque()
        self.chance = random.Random(11)

    def ask(self, caller: OneCaller) -> None:
        """Take a request."""
        if self.free:
            self.free -= 1
            self.begin(caller)
        else:
            self.waiting.append(caller)

    def begin(self, caller: OneCaller) -> None:
        took = self.seconds * self.chance.uniform(0.8, 1.2)
        asyncio.get_running_loop().call_later(took, self.end, caller)

    def end(self, caller: OneCaller) -> None:
        caller.say()
        if self.waiting:
            self.begin(self.waiting.popleft())
        else:
            self.free += 1


class OneCaller(asyncio.Protocol):
    """One connection of the gateway's."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if b"\r\n\r\n" in data:  # requests without content, one at a time
            self.bench.ask(self)

    def say(self) -> None:
        """Answer."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def serve_bench(port: int, hands: int, seconds: float) -> None:
    """Serve until killed."""
    bench = Bench(hands, seconds)
    server = await asyncio.get_running_loop().create_server(
        lambda: OneCaller(bench), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


# --- the gateway ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """What is overloaded: a backend of ``hands`` times 1/``seconds``, in front of it these workers.

    ``places`` is max_in_flight (0: as many as hands), ``queue`` its length (None: as it comes).
    """

    hands: int = 16
    seconds: float = 0.05
    workers: int = 1
    places: int = 0
    queue: int | None = None
    plain: bool = False

    @property
    def capacity(self) -> float:
        """Requests a second that the backend can do."""
        return self.hands / self.seconds


@dataclass(frozen=True, slots=True)
class Running:
    """The gateway and its backend, and where they are."""

    port: int
    admin: int
    children: tuple[Child, ...]

    def stop(self) -> None:
        """End both."""
        for child in self.children:
            child.stop()


def config(folder: Path, port: int, admin: int, backend: int, setting: Setting) -> str:
    """Return the gateway's configuration."""
    queue = "" if setting.queue is None else f"    queue: {{length: {setting.queue}}}\n"
    return f"""version: 1
listen: [{{address: "127.0.0.1:{port}"}}]
workers: {setting.workers}
state: {{path: {folder}/gateway.db}}
access_log: {folder}/access.log
limits: {{connections: 20000}}
admin:
  address: 127.0.0.1:{admin}
  tokens: [{{name: load, role: admin, token_env: GATEWAY_OVERLOAD_TOKEN}}]
services:
  web:
    blue: {{endpoints: ["http://127.0.0.1:{backend}"]}}
    max_in_flight: {setting.places or setting.hands}
{queue}    slow_start: 0s
routes:
  - {{path: /, service: web}}
"""


def begin(folder: Path, setting: Setting) -> Running:
    """Start both; raises ToolError where they do not come up."""
    port, admin, backend = free_ports(3)
    env = {"PYTHONPATH": str(ROOT), "GATEWAY_OVERLOAD_TOKEN": TOKEN}
    if setting.plain:
        env["GATEWAY_NO_COMPILED"] = "1"
    command = [sys.executable, "-m", "loadtests.overload", "serve", str(backend)]
    bench = start("bench", [*command, str(setting.hands), f"{setting.seconds:g}"], folder, env)
    path = folder / "gateway.yaml"
    path.write_text(config(folder, port, admin, backend, setting))
    run = [sys.executable, "-m", "gateway", "run", "--config", str(path)]
    try:
        wait_listening(bench, backend)
        gateway = start("gateway", run, folder, env)
    except ToolError:
        bench.stop()
        raise
    running = Running(port, admin, (gateway, bench))
    try:
        wait_listening(gateway, port, 60.0)
        wait_ready(running)
    except ToolError:
        running.stop()
        raise
    return running


def wait_ready(running: Running, timeout: float = 30.0) -> None:
    """Wait until a request comes through."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise ToolError(f"no answer after {timeout:g} s: {running.children[0].tail()}")


class Watch:
    """Asks what must not suffer, ten times a second, for as long as its ``with`` block lasts."""

    def __init__(self, running: Running) -> None:
        self._urls = (
            f"http://127.0.0.1:{running.admin}/readyz",
            f"http://127.0.0.1:{running.admin}/healthz",
            f"http://127.0.0.1:{running.port}/.well-known/gateway/status",
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.times: dict[str, list[float]] = {url: [] for url in self._urls}
        self.failed = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.1):
            for url in self._urls:
                began = time.perf_counter()
                try:
                    with urllib.request.urlopen(url, timeout=5) as answer:
                        answer.read()
                except OSError:  # HTTPError is one
                    self.failed += 1
                self.times[url].append(time.perf_counter() - began)

    @property
    def ready_p99_ms(self) -> float:
        """How long /readyz took."""
        times = sorted(self.times[self._urls[0]])
        return percentile(times, 0.99) * 1e3 if times else 0.0


# --- the run --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One load of the run, as times of the saturation."""

    factor: float
    load: Offered
    ready_p99_ms: float
    unwell: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both bars: goodput at the highest load as a share of the peak, p99 as times the unloaded."""

    lines: tuple[Line, ...]

    @property
    def goodput(self) -> float:
        """The share of the peak."""
        return self.lines[-1].load.goodput / max(each.load.goodput for each in self.lines)

    @property
    def slowdown(self) -> float:
        """Times the unloaded p99."""
        calm = min(line.load.p99_ms for line in self.lines if line.factor < 1.0)
        return self.lines[-1].load.p99_ms / max(calm, 1e-6)

    @property
    def held(self) -> bool:
        """Whether both hold, and whatever must not suffer did not."""
        calm = not any(each.unwell for each in self.lines)
        return calm and self.goodput > GOODPUT and self.slowdown < SLOWDOWN


def saturation(running: Running, begin_at: float, seconds: float) -> float:
    """Return the goodput where more load makes no more of it: the rate grows by half each time."""
    best, rate = 0.0, begin_at
    while True:
        found = offer(running.port, rate, seconds)
        if found.goodput < 1.1 * best:
            return max(best, found.goodput)
        best = found.goodput
        if found.goodput < 0.85 * rate:
            return best
        rate *= 1.5


def run(
    running: Running, saturated: float, seconds: float, factors: Sequence[float] = FACTORS
) -> Verdict:
    """Offer every load, one after the other."""
    lines = []
    for factor in factors:
        with Watch(running) as watch:
            load = offer(running.port, saturated * factor, seconds)
        lines.append(Line(factor, load, watch.ready_p99_ms, watch.failed))
        say(lines[-1])
    return Verdict(tuple(lines))


def say(line: Line) -> None:
    """Print one line of the table."""
    load = line.load
    share = load.shed / max(1, load.shed + load.served)
    print(
        f"{line.factor:5.1f} x {load.offered:8.0f}/s  goodput {load.goodput:7.0f}/s  "
        f"p50 {load.p50_ms:7.1f}  p99 {load.p99_ms:7.1f} ms  shed {share:6.1%} "
        f"in {load.shed_p99_ms:6.1f} ms  errors {load.errors}  connections {load.connections}  "
        f"lag {load.lag_p99_ms:.1f}  readyz {line.ready_p99_ms:.1f} ms, {line.unwell} failed",
        flush=True,
    )


def measure(name: str, setting: Setting, seconds: float) -> Verdict:
    """Run one setting from begin to end and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        running = begin(Path(folder), setting)
        try:
            saturated = saturation(running, min(setting.capacity, 500.0) / 2, max(2.0, seconds / 3))
            print(f"{name}: saturated at {saturated:.0f}/s", flush=True)
            verdict = run(running, saturated, seconds)
        finally:
            running.stop()
    print(
        f"{name}: goodput {verdict.goodput:.0%} of its peak (bar: above {GOODPUT:.0%}), "
        f"p99 {verdict.slowdown:.1f} x the unloaded (bar: below {SLOWDOWN:g}): "
        f"{'held' if verdict.held else 'NOT held'}",
        flush=True,
    )
    return verdict


#: The gateway is what is short: a backend that could do more, and no bound before the gateway's.
BY_GATEWAY = Setting(hands=4000, seconds=0.001, places=256, plain=True)


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; 1 where a bar was missed."""
    if arguments and arguments[0] == "offer":
        gc.disable()
        raise_file_limit(MOST_CONNECTIONS + 100)
        port, rate, seconds = int(arguments[1]), float(arguments[2]), float(arguments[3])
        print(json.dumps(asdict(OpenLoad(port, rate, seconds).sums())))
        return 0
    if arguments and arguments[0] == "serve":
        raise_file_limit(MOST_CONNECTIONS + 100)
        asyncio.run(serve_bench(int(arguments[1]), int(arguments[2]), float(arguments[3])))
        return 0
    parser = argparse.ArgumentParser(prog="loadtests.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--hands", type=int, default=16, help="requests that the backend can do")
    parser.add_argument("--took", type=float, default=0.05, help="seconds that it takes for one")
    parser.add_argument("--queue", type=int, default=None, help="length; as it comes")
    parser.add_argument("--unbounded", action="store_true", help="without shedding, to compare")
    parser.add_argument("--gateway", action="store_true", help="the gateway is what is short")
    asked = parser.parse_args(arguments)
    if asked.gateway:
        verdict = measure("gateway", BY_GATEWAY, asked.seconds)
    else:
        setting = Setting(
            hands=asked.hands,
            seconds=asked.took,
            workers=asked.workers,
            queue=asked.queue,
            places=100_000 if asked.unbounded else 0,
        )
        verdict = measure("backend", setting, asked.seconds)
    return 0 if verdict.held else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
