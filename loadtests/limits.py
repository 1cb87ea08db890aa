"""What one rate limit check costs, and what a limit without a lock lets through under contention.

``python -m loadtests.limits`` prints both; ``GATEWAY_NO_COMPILED=1`` has it measure plain Python.
Nothing is sent over any network: processes share a table as workers share the board's.
"""

from __future__ import annotations

import argparse
import mmap
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gateway.hot import compiled_state
from gateway.policy.limit import CELL, WAYS, Limit, LimiterTable

SETS = 32 * 1024
OCTETS = 8 * SETS * WAYS * CELL
#: Checks between two readings of the clock.
RUN = 20_000
REPEATS = 9


@dataclass(frozen=True, slots=True)
class Contended:
    """What several processes got of one limit: ``allowed`` is rate x time + burst."""

    asked: int
    admitted: int
    allowed: float

    @property
    def over(self) -> float:
        """How much more than allowed was admitted, as a share (negative: less)."""
        return self.admitted / self.allowed - 1


def table(path: Path) -> LimiterTable:
    """Map a table that others map, too."""
    with path.open("r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), OCTETS)).cast("Q")
    return LimiterTable(words, 0, SETS, b"the same in all of them")


def contend(
    processes: int,
    seconds: float,
    rate: int,
    burst: int,
    times: float,
    *,
    together: bool = False,
) -> Contended:
    """Have processes ask for one key, together at ``times`` the rate; 0: as fast as they can.

    Each asks at moments of its own (exponential gaps), as workers do whose connections know nothing
    of each other. With ``together`` all ask at the same nanoseconds, which no network delivers: the
    most that a table without a lock can be wrong by.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        path.write_bytes(bytes(OCTETS))
        start = time.monotonic() + 1.0 + processes * 0.5
        share = times * rate / processes
        words = [str(path), start, start + seconds, rate, burst, share, int(together)]
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "loadtests.limits", "--hammer", *map(str, words)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        told = [each.communicate(timeout=60 + seconds)[0].split() for each in running]
    return Contended(
        asked=sum(int(each[0]) for each in told),
        admitted=sum(int(each[1]) for each in told),
        allowed=rate * seconds + burst,
    )


def hammer(
    path: str, start: str, until: str, rate: str, burst: str, share: str, together: str
) -> None:
    """Ask from ``start`` to ``until`` (monotonic), ``share`` times a second; print what came."""
    limit = Limit(table(Path(path)), b"contended", int(rate), 1.0, int(burst))
    first, last = int(float(start) * 1e9), int(float(until) * 1e9)
    pause = int(1e9 / float(share)) if float(share) else 0
    clock = time.monotonic_ns
    draw = random.Random().expovariate  # of no consequence to anybody
    time.sleep(max((first - clock()) / 1e9, 0.0))
    asked = admitted = 0
    due = first
    while (now := clock()) < last:
        if now < due:
            continue
        due += pause if together == "1" or not pause else int(draw(1 / pause))
        asked += 1
        if not limit.ask(b"attacker", now):
            limit.take()
            admitted += 1
    print(asked, admitted)


def _cost(limit: Limit, clients: list[str]) -> float:
    """Return nanoseconds of one check that admits: the median of several runs' means."""
    found = []
    now = time.monotonic_ns()
    for _ in range(REPEATS):
        began = time.process_time_ns()
        for client in clients:
            limit.ask(client, now)
            limit.take()
        spent = time.process_time_ns() - began
        began = time.process_time_ns()
        for _client in clients:
            pass
        found.append((spent - (time.process_time_ns() - began)) / len(clients))
        now += 3_600_000_000_000
    return statistics.median(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hammer", nargs=7, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each contention")
    options = parser.parse_args()
    if options.hammer:
        hammer(*options.hammer)
        return
    limits = LimiterTable(memoryview(bytearray(OCTETS)).cast("Q"), 0, SETS, b"a secret")
    print(f"one check, {compiled_state()}:")
    known = Limit(limits, b"r", RUN * 2, 1.0, RUN * 2)
    print(f"  a client seen lately  {_cost(known, ['192.0.2.1'] * RUN):7.0f} ns")
    new = [f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}" for at in range(RUN)]
    print(f"  one after the other   {_cost(known, new):7.0f} ns")
    for processes in (2, 4):
        for times, words, together in (
            (10.0, "10 x the rate", False),
            (10.0, "10 x the rate, at the same nanoseconds", True),
            (0.0, "as fast as they can", False),
        ):
            got = contend(processes, options.seconds, 1000, 50, times, together=together)
            print(
                f"{processes} processes, {words}: asked {got.asked}, admitted {got.admitted}, "
                f"allowed {got.allowed:.0f} ({got.over:+.2%})"
            )


if __name__ == "__main__":
    main()
