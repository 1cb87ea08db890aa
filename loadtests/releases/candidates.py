"""Candidates that fail, that are slow, that are well: what becomes of them, and what users see."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from loadtests.chaos.load import Row
from loadtests.chaos.stage import Pace, sleep_until
from loadtests.chaos.verdict import Check, said
from loadtests.releases.expected import requests_until_rollback
from loadtests.releases.platform import RATE, USERS, Platform, asked, color, well
from loadtests.steady import percentile

#: The hold of a step that is not meant to pass.
LONG = "2m"
#: After a release has ended, users are watched for this long: nobody is on its candidate.
AFTER = 0.5
#: How often a candidate with some failures is judged in the whole form.
RUNS = 8
#: Workers are on stable this soon after a decision, at the 99th percentile.
APPLIED = 0.05


def dead(platform: Platform, pace: Pace) -> list[Check]:
    """The candidate fails every request at 5 %."""
    del pace
    rows, at, release, candidate = _judged(platform, 5, fail=1.0)
    told = asked(rows, candidate)
    first = min((row.due + row.took for row in told), default=at)
    (whole,) = [each for each in release["scopes"] if each["scope"] == "*"]
    counted = whole["candidate"]
    return [
        _rolled_back(release, "regression"),
        Check(
            "after at most 5 requests of the candidate",
            f"{len(told)}",
            0 < len(told) <= 5,
        ),
        Check(
            "the release's own account says so, too",
            f"{counted['failed']} of {counted['requests']} failed, "
            f"stable's {whole['stable']['failed']} of {whole['stable']['requests']}",
            # One in flight when it was decided is counted no more.
            len(told) - 1 <= counted["failed"] == counted["requests"] <= len(told),
        ),
        Check(
            "within 1 s of the first failure",
            f"{(at - first) * 1e3:.0f} ms",
            0 <= at - first <= 1,
        ),
        _stable_after(rows, at, candidate),
        nobody_failed(rows),
    ]


def tenth(platform: Platform, pace: Pace) -> list[Check]:
    """The candidate fails one request in ten at 5 %: within what its test needs."""
    checks, rows = _in_time(platform, 1 if pace.short else RUNS, 0.0, 0.999 if pace.short else 0.95)
    return [*checks, nobody_failed(rows)]


def noisy(platform: Platform, pace: Pace) -> list[Check]:
    """The same where stable fails one request in a hundred: its users see that, as ever."""
    checks, rows = _in_time(platform, 1 if pace.short else RUNS, 0.01, 0.999)
    failed = [row for row in rows if not well(row)]
    bar = 0.01 * len(rows) + 3 * math.sqrt(0.01 * len(rows))
    return [
        *checks,
        Check(
            f"users see stable's failures alone (bar {bar:.0f})",
            f"{len(failed)} of {len(rows)} ({said(failed)})",
            bool(rows) and len(failed) <= bar,
        ),
    ]


def _in_time(
    platform: Platform, runs: int, stable: float, quantile: float
) -> tuple[list[Check], list[Row]]:
    """Break a candidate ``runs`` times; compare with the analysis on its own."""
    expected = requests_until_rollback(
        stable=stable, candidate=0.1, weight=0.05, users=USERS, horizon=RATE * 180.0
    )
    bar = percentile(expected, quantile)
    # A run in twenty is beyond the 95th percentile: more than 2 of 8 are once in 170 times.
    most = 2 if quantile <= 0.95 else 0
    found: list[int] = []
    seen: list[Row] = []
    checks: list[Check] = []
    for number in range(runs):
        if number:
            platform.settle()
        platform.turn(platform.stable, fail=stable)
        rows, at, release, candidate = _judged(platform, 5, within=120, fail=0.1)
        seen += rows
        found.append(len([row for row in asked(rows, candidate) if row.due <= at]))
        if not checks or release["trigger"] != "regression":
            checks += [_rolled_back(release, "regression"), _stable_after(rows, at, candidate)]
    return [
        *checks,
        Check(
            f"{stable:.0%} to 10 %: within the simulated {quantile * 100:g}th percentile of "
            f"{bar:.0f} requests (median {percentile(expected, 0.5):.0f}, 95th "
            f"{percentile(expected, 0.95):.0f})",
            ", ".join(str(each) for each in found),
            sum(each > bar for each in found) <= most,
        ),
    ], seen


def slow(platform: Platform, pace: Pace) -> list[Check]:
    """The candidate is 3 s slow at 5 %; in its first seconds that is not held against it."""
    del pace
    rows, at, release, candidate = _judged(platform, 5, slow_ms=3000)
    told = asked(rows, candidate)
    before = [row for row in told if row.due <= at]
    first = min((row.due for row in before), default=at)
    return [
        _rolled_back(release, "regression"),
        Check(
            "its slow answers are why",
            str(release["because"])[:90],
            "slow answers speak against the candidate" in release["because"],
        ),
        Check(
            "within 12 s of the first request (5 s cold, 3 s each)",
            f"{at - first:.1f} s, {len(before)} requests of the candidate",
            0 < at - first <= 12,
        ),
        _stable_after(rows, at, candidate),
        nobody_failed(rows),
    ]


def healthy(platform: Platform, pace: Pace) -> list[Check]:
    """A pipeline takes a healthy candidate all the way with short holds; its users stay on it."""
    # A user comes back every 1.5 s (10 s): once in each step at least.
    hold, users = ("1600ms", 300) if pace.short else ("12s", USERS)
    former, candidate = platform.stable, platform.candidate
    load = platform.load(120, users=users)
    # In the whole form stable has a past then, to whose latencies the candidate is compared.
    time.sleep(0.5 if pace.short else 14)
    began = time.monotonic()
    steps = ((5, hold), (20, hold), (50, hold), (100, hold))
    pipeline = platform.pipeline(*steps, options=["--lease", "3s"])
    code = pipeline.process.wait(100)
    ended = time.monotonic()
    release = platform.release()
    sleep_until(ended + 2 * AFTER)
    rows = load.end()
    decisions = platform.api("GET", "/v1/releases/current/decisions")["decisions"]
    weights = [row["weight"] for row in decisions if row["what"] == "step"]
    moved = {row.user for row in rows if color(row) == candidate}
    late = [row for row in rows if row.due > ended and color(row) != candidate]
    return [
        Check(
            "finalized, through all steps",
            f"{release['state']} after {weights} % in {ended - began:.1f} s; "
            f"the pipeline ended with {code}",
            release["state"] == "finalized" and weights == [5, 20, 50, 100] and code == 0,
        ),
        Check(
            "the candidate is stable then, for everybody",
            f"{platform.stable}, {len(late)} answers of {former} later",
            platform.stable == candidate and not late,
        ),
        Check(
            "none of its users ever on stable in between",
            f"{returned(rows, candidate)} of {len(moved)} users returned, "
            f"{len(rows) / users:.1f} requests each",
            len(moved) == users and not returned(rows, candidate),
        ),
        nobody_failed(rows),
    ]


def few(platform: Platform, pace: Pace) -> list[Check]:
    """A dead candidate at 100 requests a minute from 40 users, two or so of them at 5 %."""
    del pace
    candidate = platform.candidate
    platform.start((5, LONG), (100, LONG))
    platform.until("stepping")
    platform.turn(candidate, fail=1.0)
    began = time.monotonic()
    load = platform.load(120, rate=100 / 60, users=40)
    sleep_until(began + 20)
    release = platform.release()
    tests = [
        f"{test['name']}{'' if test['speaks'] else ' cannot speak'}"
        for scope in release["scopes"][:1]
        for test in scope["tests"]
    ]
    release = platform.until("rolled_back", "held", within=100)
    took = time.monotonic() - began
    rows = load.end()
    return [
        Check(
            # An integration check each 30 s, and 30 s from the first that failed.
            "rolled back within 65 s: probes, breakers and rules see it",
            f"{release['state']} after {took:.0f} s, {len(asked(rows, candidate))} requests of the "
            f"candidate; {release['trigger']}: {release['because'][:90]}",
            release["state"] == "rolled_back" and took <= 65,
        ),
        Check(
            "the release says which of its tests can speak",
            ", ".join(tests),
            any("cannot" in each for each in tests) and any("cannot" not in each for each in tests),
        ),
        nobody_failed(rows),
    ]


def pipeline(platform: Platform, pace: Pace) -> list[Check]:
    """``gateway release start --wait`` on a dead candidate: the exit code, and why."""
    del pace
    candidate = platform.candidate
    command = platform.pipeline((5, LONG), (100, LONG), options=["--lease", "5s"])
    platform.until("stepping")
    platform.turn(candidate, fail=1.0)
    load = platform.load(60)
    code = command.process.wait(30)
    rows = load.end()
    words = command.output.read_text()
    wanted = ("rolled back", "evidence", "at 5 %")
    return [
        Check(
            "exit code 1, the reason with its numbers",
            f"{code}; "
            + " / ".join(line for line in words.splitlines() if "evidence" in line)[:150],
            code == 1 and all(each in words for each in wanted),
        ),
        nobody_failed(rows),
    ]


# --- what they share ------------------------------------------------------------------------------


def _judged(
    platform: Platform, weight: float, within: float = 60, **change: Any
) -> tuple[list[Row], float, dict[str, Any], str]:
    """Give a candidate its share, break it, let users come until it is over.

    Returns their requests, when it was decided (monotonic), the release, the candidate's color.
    """
    candidate = platform.candidate
    platform.start((weight, LONG), (100, "1m"))
    platform.until("stepping")
    platform.turn(candidate, **change)
    load = platform.load(within)
    release = platform.until("rolled_back", "held", within=within)
    sleep_until(time.monotonic() + AFTER)
    rows = load.end()
    if release["state"] == "held":
        return rows, time.monotonic(), release, candidate
    at, _ = platform.decided("rolling_back")
    return rows, at, release, candidate


def _rolled_back(release: dict[str, Any], trigger: str) -> Check:
    return Check(
        f"rolled back by {trigger}",
        f"{release['state']}, {release['trigger']}: {release['because']}"[:150],
        release["state"] == "rolled_back" and release["trigger"] == trigger,
    )


def _stable_after(rows: Sequence[Row], at: float, candidate: str) -> Check:
    """Nobody is sent to the candidate once every worker has had its time."""
    late = [row for row in asked(rows, candidate) if row.due > at + APPLIED]
    after = [row for row in rows if row.due > at + APPLIED]
    last = max((row.due - at for row in asked(rows, candidate)), default=0.0)
    return Check(
        f"nobody on it {APPLIED * 1e3:.0f} ms after the decision",
        f"{len(late)} of {len(after)} requests; its last came {last * 1e3:+.0f} ms from it",
        bool(after) and not late,
    )


def nobody_failed(rows: Sequence[Row]) -> Check:
    """Every GET was answered by a backend: the candidate's failures were rescued."""
    failed = [row for row in rows if not well(row)]
    rescued = sum(row.served_by == "rescue" for row in rows)
    return Check(
        "no failed GET seen by any client",
        f"{len(failed)} of {len(rows)} failed, {rescued} rescued"
        + (f" ({said(failed)})" if failed else ""),
        bool(rows) and not failed,
    )


def returned(rows: Sequence[Row], candidate: str) -> int:
    """Count users who were answered by the candidate and later by stable."""
    seen: dict[int, list[Row]] = {}
    for row in rows:
        seen.setdefault(row.user, []).append(row)
    return sum(
        any(color(one) == candidate != color(next_one) for one, next_one in pairwise(each))
        for each in seen.values()
    )
