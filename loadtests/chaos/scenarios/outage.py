"""Everything killed: read-only mode, static pages, and back without a stampede."""

from __future__ import annotations

import contextlib
import http.client
import math
import time
from collections.abc import Sequence
from typing import Any

from loadtests.chaos.load import Row
from loadtests.chaos.stage import Backend, Gateway, Pace, Stage, sleep_until, wait_for
from loadtests.chaos.verdict import Check, between, said
from loadtests.processes import ToolError

STATUS = "/.well-known/gateway/status"
#: How long the whole takes at most.
SECONDS = 90
#: Longer than the probes need to be sure (``fall`` times ``interval``), and much shorter: one is a
#: matter of health, the other of breakers.
DOWN, DOWN_SHORT = 18.0, 1.0
PAGE = "<h1>Read only for now</h1>\n"


def all_killed(stage: Stage, pace: Pace) -> list[Check]:
    """Kill every backend of two critical services; bring them back one by one."""
    backends = stage.backends("web-1", "web-2", "api-1", "api-2")
    slow_start = 2 if pace.short else 4
    keys: dict[str, Any] = {
        "critical": True,
        "retries": 1,
        "slow_start": f"{slow_start}s",
        "health": {"interval_down": "1s", "L2": {"path": "/health"}},
    }
    page = {"static": {"status": 200, "file": stage.file("page.html", PAGE)}}
    gateway = stage.gateway(
        {"web": (backends[:2], {**keys, "fallback": [page]}), "api": (backends[2:], keys)}
    )
    rate = pace.rate / 2
    load = stage.load(gateway, "/web/{n}", rate, SECONDS)
    beside = stage.load(gateway, "/api/{n}", rate, SECONDS)
    sleep_until(beside.began + 1.5)
    for backend in backends:
        killed = backend.kill()
    read_only = _mode(gateway, "read_only", killed)
    checks = [
        Check("read_only within 2 s", _took(read_only, killed), 0 < read_only - killed <= 2),
        *_while_down(gateway),
    ]
    time.sleep(DOWN_SHORT if pace.short else DOWN)
    returned = 0.0
    for backend in (backends[0], backends[2]):
        returned = backend.start()
    full = _mode(gateway, "full", returned)
    checks.append(
        Check("back to full within 10 s", _took(full, returned), 0 < full - returned <= 10)
    )
    second = _peer_returns(backends, max(full, returned) + slow_start)
    _ramped(backends, slow_start)
    rows, others = load.end(), beside.end()
    down = between(rows, read_only, returned)
    static = [row for row in down if row.served_by == "static"]
    return [
        *checks,
        Check(
            "static pages served meanwhile",
            f"{len(static)} of {len(down)} ({said(down)})",
            bool(down) and len(static) == len(down),
        ),
        _no_burst(backends[0], rate),
        _no_burst(backends[2], rate),
        *(_ramp(backends[at], backends[at + 1], second, slow_start) for at in (0, 2)),
        _after(rows + others, full or returned),
    ]


def _mode(gateway: Gateway, mode: str, since: float) -> float:
    """Return when the public status says so; 0 where it does not in 15 s."""

    def says() -> float:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            answer = gateway.ask(STATUS)
            if answer.status == 200 and answer.json["mode"] == mode:
                return time.monotonic()
        return 0.0

    try:
        return wait_for(says, mode, since + 15 - time.monotonic())
    except ToolError:
        return 0.0


def _took(moment: float, since: float) -> str:
    return f"{moment - since:.2f} s" if moment else "not within 15 s"


def _while_down(gateway: Gateway) -> list[Check]:
    """A write to a service that is down is refused in so many words."""
    answer = gateway.ask("/api/thing", "POST", "x=1")
    kind = answer.fields.get("content-type", "")
    wait = answer.fields.get("retry-after", "")
    return [
        Check(
            "writes are refused: 503, Retry-After, a problem document",
            f"{answer.status}, Retry-After {wait or 'missing'}, {kind or 'no type'}",
            answer.status == 503 and wait.isdigit() and kind.startswith("application/problem+json"),
        )
    ]


def _peer_returns(backends: Sequence[Backend], at: float) -> float:
    """Start the second endpoints once the first are warm; return when the last was up."""
    sleep_until(at)
    moment = 0.0
    for backend in (backends[1], backends[3]):
        moment = backend.start()
    return moment


def _ramped(backends: Sequence[Backend], slow_start: int) -> None:
    """Wait until the second endpoints are asked (or are not), and for the ramp from then on."""
    deadline = time.monotonic() + 8
    while not all(backends[at].order().requests for at in (1, 3)):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    time.sleep(slow_start + 0.5)


def _no_burst(backend: Backend, rate: float) -> Check:
    """What waited is not let loose on the first endpoint that returns."""
    times = backend.order().requests
    width = 0.2
    counts: dict[int, int] = {}
    for moment in times:
        counts[int(moment / width)] = counts.get(int(moment / width), 0) + 1
    worst = max(counts.values(), default=0)
    expected = rate * width
    # Retries of those that fail meanwhile, and chance (four deviations).
    bar = 1.2 * expected + 4 * math.sqrt(expected)
    return Check(
        f"no stampede on {backend.name}: at no time more than what clients ask",
        f"at most {worst} in {width:g} s, {expected:.0f} asked (bar {bar:.0f})",
        0 < worst <= bar,
    )


def _ramp(peer: Backend, returned: Backend, at: float, slow_start: int) -> Check:
    """A returning endpoint gets its share of the ramp, second by second, no more."""
    mine, other = returned.order().requests, peer.order().requests
    first = min(mine, default=0.0)
    shares, over = [], []
    for second in range(slow_start):
        start, end = first + second, first + second + 1
        here = sum(start <= moment < end for moment in mine)
        both = here + sum(start <= moment < end for moment in other)
        # Its weight at the second's end, against 1: w / (1 + w). From 10 %, where ramps begin.
        weight = max(0.1, (second + 1) / slow_start)
        share = weight / (1 + weight)
        bar = share * both + 3 * math.sqrt(both * share * (1 - share))
        shares.append(f"{here / both:.0%}" if both else "-")
        if here > bar:
            over.append(f"second {second + 1}: {here} of {both}, {bar:.0f} allowed")
    took = f"first {first - at:.1f} s after its return, " if first else "never asked, "
    return Check(
        f"{returned.name} gets its slow-start share, no more",
        f"{took}then {', '.join(shares)} a second" + "".join(f"; {each}" for each in over),
        bool(mine) and not over,
    )


def _after(rows: Sequence[Row], moment: float) -> Check:
    """Once everything is back nobody is turned away or given a page."""
    later = between(rows, moment, moment + 3600)
    poor = [row for row in later if not row.good or row.served_by]
    return Check(
        "everybody is served again",
        f"{len(poor)} of {len(later)} not ({said(poor)})",
        bool(later) and not poor,
    )
