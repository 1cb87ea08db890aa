"""The bench's report as Markdown: what docs/performance.md is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loadtests.measure import MOST_STEADY

if TYPE_CHECKING:
    from loadtests.bench import Options, Result

NOTHING = "-"

_LEGEND = """\
How to read it:

- **CPU/request** is user plus system time of the proxy's own processes from `/proc/PID/stat`, over
  wrk's count of answered requests: the median of the rounds, with the spread (lowest to highest).
  It is the figure to compare: it hardly moves when a neighbour on the machine is busy. For the
  gateway it counts its worker; "all processes" adds the supervisor and control.
- **x nginx** and **x envoy** are ratios of CPU/request within this run.
- **requests/s**, **p50** and **p99** are wrk's, with as many requests in hand as connections; wrk,
  the backend and the proxy share the machine's cores, so they say little beyond this machine.
- **p99 at half load** offers each proxy half of its own requests/s (at most {most:,.0f} a second)
  at a constant rate and times each request from when it was due (`loadtests/steady.py`), so that
  a stall is charged to all that it held up. The client's own lateness is in the figure, the same
  for all: `direct`, at {most:,.0f} a second, shows how much that is.
- **idle** is the growth of the worker's resident memory per idle keep-alive connection, each
  after one request.

The work is the same for all: one worker; a browser's request with 13 fields to one of two colors
(80 to 20, by a hash of the `gw_cohort` cookie, 1,000 clients), two endpoints a color with
keep-alive; forwarded fields and a request id upstream; five security fields on the answer; a JSON
access log line to a file; a 1 KiB answer from one nginx that serves all of them. What differs:
HAProxy writes each log line at once (it has no buffered file); Caddy picks the side by a pattern
over the cookie; `tcp` passes octets through on uvloop, reads none of them and logs nothing: the
floor for a proxy on that loop; `direct` is no proxy at all.
"""


def _median(values: Sequence[float], form: str = ".1f") -> str:
    if not values:
        return NOTHING
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({format(min(values), form)}-{format(max(values), form)})"


def _middle(result: Result | None) -> float | None:
    if result is None or not result.rounds:
        return None
    return statistics.median(each.worker_us for each in result.rounds) or None


def _ratio(result: Result, base: Result | None) -> str:
    ours, theirs = _middle(result), _middle(base)
    return NOTHING if ours is None or theirs is None else f"{ours / theirs:.2f}"


def _row(result: Result, nginx: Result | None, envoy: Result | None) -> list[str]:
    name = f"{result.name} {result.version}".strip()
    if not result.rounds:
        return [name, f"not measured: {' '.join(result.reason.split())}", *[NOTHING] * 9]
    errors = sum(each.errors for each in result.rounds) + sum(e.errors for e in result.steady)
    steady = result.steady
    kept = min((each.served / each.offered for each in steady if each.offered), default=None)
    half = _median([each.p99_ms for each in steady], ".2f")
    if kept is not None and kept < 0.98:
        half += f", {kept:.0%} served"
    return [
        name,
        _median([each.worker_us for each in result.rounds]) if _middle(result) else NOTHING,
        _median([each.all_us for each in result.rounds]) if _middle(result) else NOTHING,
        _ratio(result, nginx),
        _ratio(result, envoy),
        _median([each.rate for each in result.rounds], ".0f"),
        _median([each.p50_ms for each in result.rounds], ".2f"),
        _median([each.p99_ms for each in result.rounds], ".2f"),
        half,
        NOTHING if result.idle is None else f"{result.idle.octets_each / 1024:.1f} KiB",
        str(errors),
    ]


_COLUMNS = (
    "proxy",
    "CPU/request, µs",
    "all processes, µs",
    "x nginx",
    "x envoy",
    "requests/s",
    "p50, ms",
    "p99, ms",
    "p99 at half load, ms",
    "idle",
    "errors",
)


def render(results: Sequence[Result], options: Options, machine: str, date: str) -> str:
    """Return the whole page."""
    named = {each.name: each for each in results}
    rows = [_row(each, named.get("nginx"), named.get("envoy")) for each in results]
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"- {r.name}: {r.idle.note}" for r in results if r.idle is not None and r.idle.note]
    command = (
        f"make bench ROUNDS={options.rounds} SECONDS={options.seconds:g}"
        f" CONNECTIONS={options.connections} IDLE={options.idle}"
    )
    head = (
        "# Performance\n\n"
        "Written by `make bench`; every figure is from one run, its rounds interleaved.\n\n"
        f"- machine: {machine}\n- date: {date}\n- command: `{command}`\n"
        f"- {options.rounds} rounds of {options.seconds:g} s, {options.connections} connections,"
        f" {options.idle} idle connections\n"
    )
    parts = [head, "\n".join(lines) + "\n"]
    if notes:
        parts.append("Notes:\n\n" + "\n".join(notes) + "\n")
    parts.append(_LEGEND.format(most=MOST_STEADY))
    return "\n".join(parts)
