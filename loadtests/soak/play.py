"""The soak itself: a gateway, its backends, clients of every kind, and faults in turn."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from gateway.demo.ports import free_ports
from loadtests.chaos import stage as chaos
from loadtests.chaos.stage import Gateway, Stage, wait_for
from loadtests.chaos.verdict import Check
from loadtests.processes import Child, ToolError, start
from loadtests.soak import account
from loadtests.soak.clients import PATIENCE
from loadtests.soak.peer import Order, Row
from loadtests.soak.samples import ALLOWED, MIB, Sample, Sampler, flat, look, settled

#: Seconds for which the lowest of what is held is looked for, once all is quiet: a probe or a
#: question of ours may be under way at any one moment.
QUIET = 4.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how hard. ``between`` are the seconds between two faults.

    ``warm`` seconds go before what is judged: caches are filled and arenas made. ``allowed`` is
    what memory may grow by in octets, whatever the noise.
    """

    seconds: float
    rate: float
    warm: float = 20.0
    between: float = 5.0
    allowed: float = ALLOWED

    @classmethod
    def short(cls) -> Self:
        """What the tests play. In so short a time memory has not come to rest."""
        return cls(20.0, 80.0, warm=4.0, between=1.5, allowed=12 * MIB)


class Backend(chaos.Backend):
    """One of the soak's own."""

    program = "loadtests.soak.backend"


@dataclass(slots=True)
class Playing:
    """Clients under way."""

    child: Child
    order: Order

    def rows(self) -> list[Row]:
        """Wait for their end and return what they saw. Raises ToolError."""
        code = self.child.process.wait(self.order.seconds + PATIENCE + 60)
        if code:
            raise ToolError(f"the clients failed: {self.child.tail()}")
        said = json.loads(Path(self.order.output).read_text())
        if said["skipped"]:
            print(f"{said['skipped']} arrivals were left out: too many at once", file=sys.stderr)
        return [Row(**row) for row in said["rows"]]


class Faults:
    """What happens meanwhile, one after the other. Of the gateway nothing is killed."""

    def __init__(self, stage: Stage, gateway: Gateway, backends: dict[str, Backend]) -> None:
        self._gateway = gateway
        self._backends = backends
        self._folder = stage.folder
        self.done: dict[str, int] = {}
        self._rotated = 0
        self._turns = self._circle()

    def next(self) -> None:
        """Have the next one happen. Raises ToolError where the gateway refuses it."""
        name, act = next(self._turns)
        act()
        self.done[name] = self.done.get(name, 0) + 1

    def end(self) -> None:
        """Put all in order again."""
        self._errors(0.0)
        self._weight(0)

    def logs(self) -> list[Path]:
        """Return the access log's files, the oldest first."""
        return [self._log(at) for at in range(1, self._rotated + 1)] + [self._log(0)]

    def _log(self, at: int) -> Path:
        return self._folder / ("access.log" if at == 0 else f"access.log.{at}")

    def _circle(self) -> Iterator[tuple[str, Callable[[], None]]]:
        acts: list[tuple[str, Callable[[], None]]] = [
            ("reload", self._reload),
            ("traffic moved", lambda: self._weight(20)),
            ("log rotated", self._rotate),
            ("backend restarted", lambda: self._restart("blue-1")),
            ("errors begin", lambda: self._errors(0.3)),
            ("traffic moved", lambda: self._weight(60)),
            ("errors end", lambda: self._errors(0.0)),
            ("candidate restarted", lambda: self._restart("green-1")),
            ("traffic moved", lambda: self._weight(0)),
            ("pool replaced", self._replace),
        ]
        return itertools.cycle(acts)

    def _call(self, method: str, path: str, body: object, *also: int) -> None:
        answer = self._gateway.api(method, path, body)
        if answer.status not in {200, 201, *also}:
            raise ToolError(f"{method} {path}: {answer.status} {answer.body[:300]!r}")

    def _reload(self) -> None:
        web = self._gateway.config["services"]["web"]
        web["max_in_flight"] = 1500 if web["max_in_flight"] == 2000 else 2000
        self._gateway.write()
        self._call("POST", "/v1/config/reload", None)

    def _weight(self, percent: int) -> None:
        # Forced: a pool that was restarted just now may not be known to be well yet.
        self._call("PUT", "/v1/traffic", {"candidate": percent, "force": True})

    def _errors(self, share: float) -> None:
        self._backends["blue-2"].order(errors=share)

    def _restart(self, name: str) -> None:
        self._backends[name].stop()
        time.sleep(0.3)
        self._backends[name].start()

    def _replace(self) -> None:
        """A new generation of the candidate's pool. Refused while a tunnel is open there."""
        body = {"endpoints": [self._backends["green-1"].url], "wait": "10s"}
        self._call("PUT", "/v1/services/web/pools/green", body, 409)

    def _rotate(self) -> None:
        self._rotated += 1
        self._log(0).rename(self._log(self._rotated))


def play(stage: Stage, pace: Pace) -> list[Check]:
    """Warm up, soak, wait until all is quiet, judge."""
    backends = _backends(stage)
    gateway = _gateway(stage, backends)
    processes = _processes(stage, gateway)
    faults = Faults(stage, gateway, backends)
    rows = _play_with(stage, gateway, pace.rate, pace.warm, faults, pace.warm / 11, 0)
    faults.end()
    before = _quiet(gateway, processes)
    sampler = Sampler(processes)
    stage.owns(sampler.stop)
    rows += _play_with(stage, gateway, pace.rate, pace.seconds, faults, pace.between, len(rows))
    sampler.stop()
    sampler.write(stage.folder / "samples.json")
    faults.end()
    after = _quiet(gateway, processes)
    # A scrape may be a second old, and a line of the log a turn of the wheel and a write.
    time.sleep(1.5)
    scrape = account.Scrape.of(gateway.api("GET", "/metrics").body.decode())
    lines = account.read_log(faults.logs())
    said = ", ".join(f"{count} x {name}" for name, count in faults.done.items())
    found = [Check("faults were played", said, len(faults.done) > 5)]
    found += account.checks(rows, lines, scrape)
    for name, series in sampler.series.items():
        found.append(flat(name, series, pace.allowed))
        found += settled(name, before[name], after[name])
    stalls = ", ".join(
        f"{name} {each.vitals['stall_max_ms']:.0f} ms"
        for name, each in after.items()
        if each.vitals
    )
    found.append(Check("longest stalls of their loops under 1 s", stalls, scrape.stall < 1.0))
    return [*found, _restarts(gateway)]


def _restarts(gateway: Gateway) -> Check:
    text = gateway.api("GET", "/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith("gateway_process_restarts_")]
    count = sum(float(line.rsplit(" ", 1)[1]) for line in lines if "_created" not in line)
    return Check("no process was started again", f"{count:.0f} restarts", not count)


def _backends(stage: Stage) -> dict[str, Backend]:
    names = ("blue-1", "blue-2", "green-1")
    ports = free_ports(2 * len(names))
    found = {}
    for at, name in enumerate(names):
        found[name] = Backend(name, stage.folder, ports[2 * at], ports[2 * at + 1])
        stage.owns(found[name].stop)
        found[name].start()
    return found


def _gateway(stage: Stage, backends: dict[str, Backend]) -> Gateway:
    keys = {
        "green": {"endpoints": [backends["green-1"].url]},
        "max_in_flight": 2000,
        "retries": 1,
        "health": {"interval": "1s", "interval_down": "500ms", "L2": {"path": "/health"}},
        "fallback": [{"stale": {"max_age": "1h", "paths": ["/web/copy/*"]}}],
        "breaker": {"failures": 5, "reset_after": "2s"},
    }
    blue = [backends["blue-1"], backends["blue-2"]]
    return stage.gateway({"web": (blue, keys)}, cache=["web"])


def _processes(stage: Stage, gateway: Gateway) -> dict[str, tuple[int, Path | None]]:
    """Return every process by name: its number, and its own socket."""
    run = stage.folder / "run"
    found: dict[str, tuple[int, Path | None]] = {
        "supervisor": (gateway.pids("supervisor")[0], None),
        "control": (gateway.pids("control")[0], run / "control-admin.sock"),
    }
    for at, pid in enumerate(gateway.pids("worker")):
        found[f"worker {at}"] = (pid, run / f"worker-{at}.sock")
    return found


def _play_with(
    stage: Stage,
    gateway: Gateway,
    rate: float,
    seconds: float,
    faults: Faults,
    between: float,
    first: int,
) -> list[Row]:
    """Have clients come for so long, and a fault happen now and then; return what they saw."""
    output = stage.folder / f"clients-{first}.json"
    order = Order(gateway.port, rate, seconds, str(output), first=first, seed=first + 1)
    command = [sys.executable, "-m", "loadtests.soak.clients", json.dumps(asdict(order))]
    child = start(f"clients-{first}", command, stage.folder, {"PYTHONPATH": str(chaos.ROOT)})
    stage.owns(child.stop)
    playing = Playing(child, order)
    wait_for(lambda: Path(f"{output}.began").exists(), "the clients run")
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until - between:
        chaos.sleep_until(now + between)
        faults.next()
    return playing.rows()


def _quiet(gateway: Gateway, processes: dict[str, tuple[int, Path | None]]) -> dict[str, Sample]:
    """Wait until nobody is connected; return the least that each process holds from then on."""

    def nobody() -> bool:
        now = account.Scrape.of(gateway.api("GET", "/metrics").body.decode())
        return not (now.connections or now.tunnels or now.in_flight)

    wait_for(nobody, "every connection is closed", 60)
    # Places on the wheel of connections that are gone are visited within five seconds.
    time.sleep(5.5)
    found: dict[str, Sample] = {}
    until = time.monotonic() + QUIET
    while time.monotonic() < until:
        for name, sample in look(processes).items():
            known = found.get(name)
            found[name] = sample if known is None else _least(known, sample)
        time.sleep(0.25)
    return found


def _least(one: Sample, other: Sample) -> Sample:
    """Return the lower of two samples' descriptors and tasks, each for itself."""
    low, high = sorted((one, other), key=lambda each: each.files - each.upstream)
    if low.vitals:
        low.vitals["tasks"] = min(low.number("tasks"), high.number("tasks"))
    return low
