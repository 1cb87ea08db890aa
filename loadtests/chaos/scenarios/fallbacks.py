"""The only endpoint killed: stale copies, then a static answer, at once."""

from __future__ import annotations

import time

from loadtests.chaos.load import Row
from loadtests.chaos.stage import Backend, Pace, Stage, sleep_until
from loadtests.chaos.verdict import Check, bad, between, p99_ms, said, steady_p99_ms

RESET_AFTER = 1.0
PAGE = "<h1>We will be back</h1>\n"
PATHS = 20


def only_one_killed(stage: Stage, pace: Pace) -> list[Check]:
    """Kill the only endpoints of two services, one with stale copies and one with a page."""
    news, events = stage.backends("news", "events", fields="Cache-Control: max-age=1\r\n")
    page = {"static": {"status": 200, "file": stage.file("page.html", PAGE)}}
    keys: dict[str, object] = {
        "breaker": {"failures": 5, "reset_after": f"{RESET_AFTER:g}s"},
        # Probes would see it, too: here the breaker alone is on trial.
        "health": {"interval": "1h", "interval_down": "1h"},
    }
    stale = {"stale": {"max_age": "1h", "shared": True}}
    gateway = stage.gateway(
        {
            "news": ([news], {**keys, "fallback": [stale, page]}),
            "events": ([events], {**keys, "fallback": [page]}),
        }
    )
    seconds = max(5.5, 1.5 * pace.seconds)
    rate = pace.rate / 2
    loads = [
        stage.load(gateway, "/news/{n}", rate, seconds, numbers=PATHS),
        stage.load(gateway, "/events/{n}", rate, seconds),
    ]
    sleep_until(loads[1].at(0.3))
    killed = {"stale": news.kill(), "static": events.kill()}
    attempts = _count_attempts(events, loads[1].at(0.95))
    checks = []
    for (kind, moment), load in zip(killed.items(), loads, strict=True):
        checks += _answered(kind, load.rows(), moment, pace)
    return [*checks, attempts]


def _answered(kind: str, rows: list[Row], killed: float, pace: Pace) -> list[Check]:
    """Everything was answered, and from the moment of the kill by the fallback, at once."""
    failed = bad(rows)
    after = between(rows, killed, killed + 3600)
    by_fallback = [row for row in after if row.served_by == kind]
    # Of two hundred requests a neighbour's burst is the p99: then the seconds' median.
    p99 = steady_p99_ms(by_fallback) if pace.short else p99_ms(by_fallback)
    return [
        Check(
            f"{kind} answers at once: every client is answered",
            f"{len(failed)} of {len(rows)} failed ({said(failed)}); "
            f"{len(by_fallback)} of {len(after)} after the kill {kind}",
            not failed and bool(after) and len(by_fallback) == len(after),
        ),
        Check(
            f"p99 of {kind} answers under 10 ms",
            f"{p99:.2f} ms of {len(by_fallback)}",
            bool(by_fallback) and p99 < 10,
        ),
    ]


def _count_attempts(backend: Backend, until: float) -> Check:
    """Take the dead endpoint's port with one that counts connections and resets them."""
    time.sleep(0.4)  # the breaker is open by now
    started = backend.start(mode="refuse")
    sleep_until(until)
    # Its own start was awaited on its other port: every connection here is the gateway's.
    attempts = len(backend.order().accepts)
    took = time.monotonic() - started
    most = int(took / RESET_AFTER) + 1
    return Check(
        f"open breaker: one connection attempt per reset interval ({RESET_AFTER:g} s and growing)",
        f"{attempts} in {took:.1f} s, at most {most}",
        1 <= attempts <= most,
    )
