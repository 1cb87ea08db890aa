"""Three accounts of the same requests: the clients', the access log's, the metrics'."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.chaos.verdict import Check
from loadtests.soak.peer import Row

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


@dataclass(frozen=True, slots=True)
class LogLine:
    """What is needed of one line. ``number`` is the request's, -1 where it bears none."""

    number: int
    status: int


def read_log(paths: Iterable[Path]) -> list[LogLine]:
    """Read the lines of the log's files. Raises ValueError where one is no line."""
    found = []
    for path in paths:
        with path.open("rb") as lines:
            for line in lines:
                said = json.loads(line)
                agent = str(said.get("user_agent", ""))
                number = int(agent.removeprefix("soak/")) if agent.startswith("soak/") else -1
                found.append(LogLine(number, int(said["status"])))
    return found


@dataclass(slots=True)
class Scrape:
    """What one scrape says: sums over all labels but ``code_class``."""

    requests: Counter[str] = field(default_factory=Counter)
    timed: int = 0
    tunnels: int = 0
    connections: int = 0
    in_flight: int = 0
    lines_lost: int = 0
    stall: float = 0.0

    @classmethod
    def of(cls, text: str) -> Scrape:
        """Read Prometheus' text."""
        found = cls()
        for line in text.splitlines():
            match = _SAMPLE.match(line)
            if match is None:
                continue
            name, labels, value = match[1], match[2] or "", float(match[3])
            if name == "gateway_requests_total":
                code_class = labels.split('code_class="')[1].split('"')[0]
                found.requests[code_class] += int(value)
            elif name == "gateway_request_seconds_count":
                found.timed += int(value)
            elif name == "gateway_tunnels":
                found.tunnels += int(value)
            elif name == "gateway_connections":
                found.connections += int(value)
            elif name == "gateway_in_flight":
                found.in_flight += int(value)
            elif name == "gateway_log_lines_lost_total":
                found.lines_lost += int(value)
            elif name == "gateway_process_stall_seconds_max":
                found.stall = max(found.stall, value)
        return found


def class_of(status: int) -> str:
    """Return the class that metrics have for a status of the log."""
    return "none" if status == 499 or not 100 <= status < 600 else f"{status // 100}xx"


def checks(rows: Sequence[Row], lines: Sequence[LogLine], scrape: Scrape) -> list[Check]:
    """Compare the three accounts; every one to the last request."""
    return [_totals(rows, lines, scrape), _one_line_each(rows, lines), _same_status(rows, lines),
            _same_classes(lines, scrape), _timed(scrape), _answered(rows)]  # fmt: skip


def _totals(rows: Sequence[Row], lines: Sequence[LogLine], scrape: Scrape) -> Check:
    asked, logged, counted = len(rows), len(lines), scrape.requests.total()
    measured = f"{asked} asked, {logged} lines, {counted} counted, {scrape.lines_lost} lines lost"
    ok = asked == logged == counted and scrape.lines_lost == 0
    return Check("clients' count = access log's lines = metrics' sum", measured, ok)


def _one_line_each(rows: Sequence[Row], lines: Sequence[LogLine]) -> Check:
    asked = Counter(row.number for row in rows)
    logged = Counter(line.number for line in lines)
    missing, surplus = asked - logged, logged - asked
    kinds = Counter(row.kind for row in rows if row.number in missing and row.number >= 0)
    measured = f"{missing.total()} without a line, {surplus.total()} lines too many"
    if missing or surplus:
        measured += f" ({dict(kinds)}, unnumbered {missing[-1] - surplus[-1]})"
    return Check("each request has one line of its own", measured, not missing and not surplus)


def _same_status(rows: Sequence[Row], lines: Sequence[LogLine]) -> Check:
    """Compare by number, and those without one by status.

    A client that left before a head does not know what was made of it.
    """
    status = {line.number: line.status for line in lines if line.number >= 0}
    others = [
        f"{row.kind} saw {row.status}, the log {status[row.number]}"
        for row in rows
        if row.number in status and row.status and status[row.number] != row.status
    ]
    seen = Counter(row.status or 499 for row in rows if row.number < 0)
    said = Counter(line.status for line in lines if line.number < 0)
    compared = sum(bool(row.status) for row in rows)
    measured = f"{len(others)} of {compared} differ"
    if others:
        measured += f" ({'; '.join(others[:3])})"
    if seen != said:
        measured += f"; without a number: clients {dict(seen)}, log {dict(said)}"
    return Check("the same status in both", measured, not others and seen == said)


def _same_classes(lines: Sequence[LogLine], scrape: Scrape) -> Check:
    logged = Counter(class_of(line.status) for line in lines)
    counted = +scrape.requests
    measured = ", ".join(f"{name} {counted[name]}" for name in sorted(counted))
    if logged != counted:
        measured += f"; the log: {dict(logged)}"
    return Check("the same by class of status in log and metrics", measured, logged == counted)


def _timed(scrape: Scrape) -> Check:
    wanted = scrape.requests.total() - scrape.requests["1xx"]
    measured = f"{scrape.timed} timed, {wanted} counted"
    return Check("the histogram's count is the counter's (without tunnels)", measured,
                 scrape.timed == wanted)  # fmt: skip


def _answered(rows: Sequence[Row]) -> Check:
    silent = [row for row in rows if not row.status and not row.left]
    cut = sum(bool(row.lost) and bool(row.status) for row in rows)
    failed = sum(row.status >= 500 for row in rows)
    measured = f"{len(silent)} unanswered, {failed} with 5xx, {cut} cut by a backend's end"
    if silent:
        measured += f" ({dict(Counter(f'{row.kind}: {row.lost}' for row in silent[:50]))})"
    return Check("whoever stayed was answered", measured, not silent)
