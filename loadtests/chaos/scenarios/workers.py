"""One of two workers stops, or is kept busy for ever: another takes its place."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

from loadtests.chaos.load import Row
from loadtests.chaos.stage import (
    ROOT,
    Gateway,
    Loading,
    Pace,
    Stage,
    held,
    sleep_until,
    wait_for,
)
from loadtests.chaos.verdict import Check, bad, between, no_failure, said
from loadtests.processes import alive

#: Seconds within which a worker that hangs is found and another serves in its place.
REPLACED_HUNG = 2.0
#: Requests a second, in the whole form.
RATE = 500.0
#: Loaded by every interpreter that finds it: the signal has a worker compute for ever, in the
#: thread of its loop.
BLOCKER = """
import signal, sys

def block(*_):
    while True:
        pass

if "gateway.worker" in sys.orig_argv:
    signal.signal(signal.SIGRTMIN, block)
"""


def worker_hung(stage: Stage, pace: Pace) -> list[Check]:
    """Stop one of two workers (SIGSTOP) under load: it is found by its heartbeat and replaced."""
    (backend,) = stage.backends("a", delay=0.1)  # so that there are connections, and to both
    gateway = stage.gateway({"web": ([backend], {})})
    return _hangs(stage, pace, gateway, signal.SIGSTOP)


def worker_blocked(stage: Stage, pace: Pace) -> list[Check]:
    """Have one of two workers compute for ever: its loop does not turn, its process runs."""
    stage.file("sitecustomize.py", BLOCKER)
    (backend,) = stage.backends("a", delay=0.1)
    path = f"{stage.folder}{os.pathsep}{ROOT}"
    gateway = stage.gateway({"web": ([backend], {})}, env={"PYTHONPATH": path})
    return _hangs(stage, pace, gateway, signal.SIGRTMIN)


def _hangs(stage: Stage, pace: Pace, gateway: Gateway, how: signal.Signals) -> list[Check]:
    load = _loaded(stage, pace, gateway)
    before = gateway.ready()
    hung = max(before, key=lambda pid: held(gateway.port, pid))
    os.kill(hung, how)
    stopped = time.monotonic()
    time.sleep(0.1)  # by then it accepts nobody any more
    in_hands = held(gateway.port, hung)
    killed = wait_for(_gone(hung), "it is killed", 10) - stopped
    new, took = _replaced(gateway, before, hung, stopped)
    serves = _serves(gateway, new)
    rows = load.rows()
    return [
        Check(
            f"replaced within {REPLACED_HUNG:g} s",
            f"{took:.2f} s, of these {killed:.2f} s until it was found and killed",
            took <= REPLACED_HUNG and serves,
        ),
        *_little_lost(rows, in_hands, stopped, REPLACED_HUNG),
    ]


# --- what they share ------------------------------------------------------------------------------


def _loaded(stage: Stage, pace: Pace, gateway: Gateway) -> Loading:
    """Begin the load, and wait until a good deal of it is under way."""
    rate = pace.rate if pace.short else RATE
    load = stage.load(gateway, "/web/{n}", rate, max(pace.seconds, 6.0))
    sleep_until(load.at(0.3))
    return load


def _gone(pid: int) -> Callable[[], float | None]:
    return lambda: None if alive(pid) else time.monotonic()


def _replaced(gateway: Gateway, before: set[int], old: int, since: float) -> tuple[int, float]:
    """Wait until as many serve as before; return who is new and how long that took."""

    def there() -> tuple[int, float] | None:
        now = gateway.ready()
        new = now - before
        if old in now or len(now) != len(before) or not new:
            return None
        return new.pop(), time.monotonic() - since

    return wait_for(there, "another worker", 10)


def _serves(gateway: Gateway, pid: int) -> bool:
    """Tell whether new clients are answered once one of them is that worker's."""
    for _ in range(64):
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
            client.sendall(b"GET /web/new HTTP/1.1\r\nHost: chaos.example\r\n\r\n")
            answered = client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            if not answered or held(gateway.port, pid):
                return answered
    return False


def _little_lost(rows: list[Row], held: int, since: float, bar: float) -> list[Check]:
    """Judge what clients saw of it: what one worker held is lost, and nothing else is late."""
    failed = bad(rows)
    longest = max((row.seconds for row in rows), default=0.0)
    return [
        Check(
            "lost: only what it held",
            f"{len(failed)} of {len(rows)} failed ({said(failed)}); it held {held} connections",
            held > 0 and len(failed) <= held,
        ),
        Check(
            "nobody waits longer than that",
            f"the longest took {longest:.2f} s",
            longest <= bar + 0.5,
        ),
        no_failure(between(rows, since + bar + 0.5, rows[-1].due + 1)),
    ]
