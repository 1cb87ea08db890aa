"""The wall clock jumps by days, both ways, while a breaker is open.

The gateway is started with a library of ours before the C library's own clock: it adds what a file
says to the wall clock, and leaves the monotonic clock alone, as ``date --set`` would.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from loadtests.chaos.stage import Lacking, Pace, Stage, sleep_until
from loadtests.chaos.verdict import Check, between, no_failure, said
from loadtests.processes import ToolError

SOURCE = Path(__file__).parent.parent / "clock.c"
DAY = 86_400
RESET_AFTER = 1.0
#: Seconds of the whole; when it jumps ahead, when back, and when the endpoint is well again.
TIMES = (14.0, 1.0, 3.5, 5.0)
SHORT_TIMES = (5.5, 0.6, 1.6, 2.5)


def build(folder: Path) -> Path:
    """Compile the library. Raises Lacking where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Lacking("no C compiler: the wall clock cannot be moved for one process")
    library = folder / "clock.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"clock.c does not compile: {done.stderr[-500:]}")
    return library


class Clock:
    """Where the gateway's processes read how far their wall clock is off."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clock-offset"
        self.set(0)

    def set(self, seconds: int) -> None:
        """Let the wall clock jump, to this much beside the machine's."""
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))


def clock_jumps(stage: Stage, pace: Pace) -> list[Check]:
    """Jump a day ahead and two back with a breaker open: it keeps its interval."""
    library, clock = build(stage.folder), Clock(stage.folder)
    sick, fine = stage.backends("sick", "fine")
    keys: dict[str, Any] = {
        "breaker": {"failures": 5, "reset_after": f"{RESET_AFTER:g}s"},
        "health": {"interval": "1h", "interval_down": "1h"},
    }
    env = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(clock.path)}
    gateway = stage.gateway({"sick": ([sick], keys), "fine": ([fine], {})}, env=env)
    seconds, first, second, third = SHORT_TIMES if pace.short else TIMES
    beside = stage.load(gateway, "/fine/{n}", pace.rate / 2, seconds)
    load = stage.load(gateway, "/sick/{n}", pace.rate / 2, seconds)
    sick.order(errors=1.0)
    sleep_until(load.began + first)
    dates = [gateway.ask("/fine/date").fields.get("date", "")]
    clock.set(DAY)
    ahead = time.monotonic()
    sleep_until(load.began + second)
    dates.append(gateway.ask("/fine/date").fields.get("date", ""))
    clock.set(-DAY)
    behind = time.monotonic()
    sleep_until(load.began + third)
    dates.append(gateway.ask("/fine/date").fields.get("date", ""))
    sick.order(errors=0.0)
    well = time.monotonic()
    rows, good = load.rows(), beside.rows()
    probes = [moment for moment in sick.order().requests if ahead <= moment < well]
    allowed = int((well - ahead) / RESET_AFTER) + 1
    recovered = min((row.due for row in rows if row.good and row.due > well), default=0.0)
    # Three openings by then, each interval twice the one before.
    bar = 4 * RESET_AFTER + 1
    return [
        Check("the clock did jump", " → ".join(dates), len({date[:11] for date in dates}) == 3),
        no_failure(good),
        Check(
            "an open breaker keeps its interval",
            f"{len(probes)} requests in {well - ahead:.1f} s, at most {allowed}; "
            f"{said(between(rows, ahead, behind))}",
            1 <= len(probes) <= allowed,
        ),
        Check(
            f"and closes once its endpoint is well (bar {bar:g} s)",
            f"after {recovered - well:.2f} s" if recovered else "never",
            0 < recovered - well <= bar,
        ),
    ]


HOUR = 3600
RATE, BURST = 40, 10


def clock_jumps_hour(stage: Stage, pace: Pace) -> list[Check]:
    """Jump an hour ahead and back: limits keep their rate, copies are asked for again, all live."""
    library, clock = build(stage.folder), Clock(stage.folder)
    (kept,) = stage.backends("kept", fields="Cache-Control: max-age=600\r\n")
    (limited,) = stage.backends("limited")
    env = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(clock.path)}
    services: dict[str, Any] = {"kept": ([kept], {}), "limited": ([limited], {})}
    gateway = stage.gateway(services, cache=["kept"], env=env)
    route = next(each for each in gateway.config["routes"] if each["service"] == "limited")
    route["rate_limit"] = {"rate": f"{RATE}/s", "burst": BURST}
    gateway.write()
    if (answer := gateway.api("POST", "/v1/config/reload", {})).status != 200:
        raise ToolError(f"the limit is not taken: {answer.body!r}")
    before = sorted((role, pid) for role in ("control", "worker") for pid in gateway.pids(role))
    seconds = 6.0 if pace.short else 12.0
    over = stage.load(gateway, "/limited/{n}", 2 * RATE, seconds)
    beside = stage.load(gateway, "/kept/one", pace.rate / 2, seconds)
    asked = []
    for share, offset in ((0.0, 0), (0.3, HOUR), (0.6, 0), (0.95, 0)):
        sleep_until(over.at(share))
        asked.append(len(kept.order().requests))
        clock.set(offset)
    rows, good = over.rows(), beside.rows()
    admitted = [row for row in rows if row.status == 200]
    most = RATE * (seconds + 1) + BURST + 1
    after = sorted((role, pid) for role in ("control", "worker") for pid in gateway.pids(role))
    again = [later - earlier for earlier, later in pairwise(asked)]
    return [
        no_failure(good),
        Check(
            f"a limit keeps its rate (bar {0.9 * RATE * seconds:.0f} to {most:.0f})",
            f"{len(admitted)} of {len(rows)} admitted in {seconds:g} s",
            0.9 * RATE * seconds <= len(admitted) <= most,
        ),
        Check(
            "a copy is asked for again after each jump, and not more often",
            f"{again} times before, after the jump ahead, after the one back",
            all(0 < count <= 4 for count in again),
        ),
        Check("nobody is taken for dead", f"{len(after)} processes as before", before == after),
    ]
