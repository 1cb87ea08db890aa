"""What a scenario is judged by, and the table that says so."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.chaos.load import Row
from loadtests.steady import percentile


@dataclass(frozen=True, slots=True)
class Check:
    """One bar and what was measured against it."""

    bar: str
    measured: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """A scenario's checks.

    ``broken`` says why there are none, ``lacking`` what this machine lacks to play it.
    """

    scenario: str
    checks: tuple[Check, ...]
    broken: str = ""
    lacking: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether every bar was met (and that there was one)."""
        if self.lacking:
            return True
        return not self.broken and bool(self.checks) and all(check.ok for check in self.checks)

    def lines(self) -> list[str]:
        """Return the table's rows of this scenario."""
        if self.broken:
            return [f"| {self.scenario} | it can be played | {self.broken} | **no** |"]
        if self.lacking:
            return [f"| {self.scenario} | not played | {self.lacking} | - |"]
        return [
            f"| {self.scenario} | {check.bar} | {check.measured} | {_yes(check.ok)} |"
            for check in self.checks
        ]


HEAD = ("| scenario | bar | measured | ok |", "|---|---|---|---|")


def _yes(ok: object) -> str:
    return "yes" if ok else "**no**"


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the whole table."""
    return "\n".join([*HEAD, *(line for verdict in verdicts for line in verdict.lines())])


# --- rows of a load, summed up --------------------------------------------------------------------


def p99_ms(rows: Sequence[Row]) -> float:
    """Return the 99th percentile of how long they took, in milliseconds; 0 of none."""
    return percentile(sorted(row.seconds for row in rows), 0.99) * 1e3 if rows else 0.0


def steady_p99_ms(rows: Sequence[Row]) -> float:
    """Return the median of the seconds' 99th percentiles, in milliseconds.

    A neighbour's burst on a small machine strikes single seconds; a fault of ours strikes all.
    """
    if not rows:
        return 0.0
    start = rows[0].due
    seconds: dict[int, list[Row]] = {}
    for row in rows:
        seconds.setdefault(int(row.due - start), []).append(row)
    return statistics.median(p99_ms(each) for each in seconds.values())


def between(rows: Sequence[Row], start: float, end: float) -> list[Row]:
    """Return the rows that were due from ``start`` to before ``end``."""
    return [row for row in rows if start <= row.due < end]


def bad(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose client did not get what it asked for."""
    return [row for row in rows if not row.good]


def said(rows: Sequence[Row], most: int = 3) -> str:
    """Sum up what these rows saw: the commonest outcomes with their counts."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.status == 0:
            what = row.failure
        else:
            what = " ".join(str(part) for part in (row.status, row.error, row.served_by) if part)
        counts[what] = counts.get(what, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} x {what}" for what, count in ordered[:most]) or "none"


def no_failure(rows: Sequence[Row]) -> Check:
    """Every client got what it asked for."""
    failed = bad(rows)
    measured = f"{len(failed)} of {len(rows)} failed"
    if failed:
        measured += f" ({said(failed)})"
    return Check("no failure", f"{measured}, p99 {p99_ms(rows):.1f} ms", bool(rows) and not failed)
