"""What every process of a gateway holds, second by second, and whether that grows."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gateway.channel.vitals import open_files
from loadtests.chaos.verdict import Check

MIB = 1 << 20
#: What memory may seem to grow by in any case: an arena, a table that was made larger.
ALLOWED = 1 * MIB


@dataclass(slots=True)
class Sample:
    """One process at one moment: ``at`` in seconds, memory in octets.

    ``anonymous`` is its own memory, ``resident`` also what it has mapped of the board and the
    cache. ``vitals`` is what it says of itself (nothing of a supervisor).
    """

    at: float
    resident: int
    anonymous: int
    files: int
    vitals: dict[str, Any] = field(default_factory=dict)

    @property
    def upstream(self) -> int:
        """Connections to backends that it has open."""
        held = self.vitals.get("upstream", {"busy": 0, "idle": 0})
        return int(held["busy"]) + int(held["idle"])

    def number(self, name: str) -> int:
        """Return one of its vitals."""
        return int(self.vitals.get(name, 0))


def memory(pid: int) -> tuple[int, int]:
    """Return a process's resident and anonymous memory in octets. Raises OSError."""
    found = {"VmRSS": 0, "RssAnon": 0}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) * 1024
    return found["VmRSS"], found["RssAnon"]


def ask(path: Path) -> dict[str, Any]:
    """Ask a child at its own socket how it is. Raises OSError, ValueError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(str(path))
        connection.sendall(b'{"ask": "state"}\n')
        with connection.makefile("rb") as answer:
            said: dict[str, Any] = json.loads(answer.readline())
            return said


def look(processes: dict[str, tuple[int, Path | None]]) -> dict[str, Sample]:
    """Return one sample of each process, by name."""
    found = {}
    for name, (pid, path) in processes.items():
        with contextlib.suppress(OSError, ValueError):
            vitals = {} if path is None else ask(path)["vitals"]
            resident, anonymous = memory(pid)
            found[name] = Sample(time.monotonic(), resident, anonymous, open_files(pid), vitals)
    return found


class Sampler:
    """Looks every second, in a thread of its own, until ``stop``."""

    def __init__(self, processes: dict[str, tuple[int, Path | None]]) -> None:
        self._processes = processes
        self.series: dict[str, list[Sample]] = {name: [] for name in processes}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(1.0):
            for name, sample in look(self._processes).items():
                self.series[name].append(sample)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join(10)

    def write(self, path: Path) -> None:
        """Keep the samples, for whoever wants to draw them."""
        series = {name: [asdict(each) for each in found] for name, found in self.series.items()}
        path.write_text(json.dumps(series))


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through the last two thirds: growth over these, and the noise about it."""

    first: float
    last: float
    growth: float
    noise: float
    minutes: float

    @property
    def per_hour(self) -> float:
        """Its growth an hour, in the unit of what was measured."""
        return self.growth / self.minutes * 60 if self.minutes else 0.0


def trend(points: Sequence[tuple[float, float]]) -> Trend:
    """Fit a line by least squares to the last two thirds of (seconds, value).

    Raises ValueError of fewer than six points.
    """
    if len(points) < 6:
        raise ValueError(f"{len(points)} samples are too few for a line")
    late = points[len(points) // 3 :]
    times = [at for at, _ in late]
    values = [value for _, value in late]
    slope, begin = statistics.linear_regression(times, values)
    noise = statistics.pstdev([value - (begin + slope * at) for at, value in late])
    seconds = times[-1] - times[0]
    return Trend(values[0], values[-1], slope * seconds, noise, seconds / 60)


def flat(name: str, series: Sequence[Sample], allowed: float = ALLOWED) -> Check:
    """A process's memory does not grow: less than thrice the noise, or than ``allowed`` octets.

    Judged by what is its own; what it has mapped (the cache's file, the board) is told beside it.
    """
    line = trend([(each.at, each.anonymous) for each in series])
    bound = max(3 * line.noise, allowed)
    mapped = (series[-1].resident - series[-1].anonymous) / MIB
    measured = (
        f"{line.first / MIB:.1f} to {line.last / MIB:.1f} MiB in {line.minutes:.1f} min: "
        f"{line.growth / MIB:+.2f} MiB by the line ({line.per_hour / MIB:+.1f} an hour, noise "
        f"{line.noise / MIB:.2f}); {mapped:.0f} MiB mapped beside"
    )
    return Check(f"{name}: memory flat (under {bound / MIB:.1f} MiB)", measured,
                 line.growth < bound)  # fmt: skip


#: Control goes on asking after its endpoints' health: a probe under way is a descriptor of it.
PROBES = 2


def settled(name: str, before: Sample, after: Sample) -> list[Check]:
    """Descriptors, tasks, timers and connections are back where they were.

    Connections to backends that are kept for the next request (each with a descriptor and a place
    on the wheel) are taken off on both sides.
    """
    found = [_back(f"{name}: descriptors back", before.files - before.upstream,
                   after.files - after.upstream, PROBES if name == "control" else 0)]  # fmt: skip
    if before.vitals:
        found.append(_back(f"{name}: tasks back", before.number("tasks"), after.number("tasks")))
    if "timers" in before.vitals:
        timers = [each.number("timers") - each.upstream for each in (before, after)]
        found.append(_back(f"{name}: timers back", *timers))
        held = {key: after.number(key) for key in ("connections", "tunnels", "in_flight")} | {
            "busy": int(after.vitals["upstream"]["busy"])
        }
        measured = ", ".join(f"{count} {key}" for key, count in held.items())
        found.append(Check(f"{name}: nothing open, nothing in flight", measured,
                           not any(held.values())))  # fmt: skip
    return found


def _back(bar: str, before: int, after: int, slack: int = 0) -> Check:
    return Check(bar, f"{before} before, {after} after", after <= before + slack)
