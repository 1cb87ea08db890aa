"""Errors at random: 30 % of answers are 503, on each of three endpoints."""

from __future__ import annotations

from collections.abc import Mapping

from loadtests.chaos.load import Row
from loadtests.chaos.stage import Pace, Stage
from loadtests.chaos.verdict import Check, bad, said

ERRORS = 0.3
#: The retries per second that a budget allows however little traffic there is (its default).
FLOOR = 10
#: Requests a second below which a short run has too few for one percent to mean something.
LOWEST = 300


def play(stage: Stage, pace: Pace, keys: Mapping[str, object]) -> tuple[list[Row], int, int]:
    """Load three such endpoints; return the rows, the requests and the errors that they counted."""
    backends = stage.backends("a", "b", "c", errors=ERRORS)
    gateway = stage.gateway({"api": (backends, keys)})
    rows = stage.load(gateway, "/api/{n}", max(pace.rate, LOWEST), 1.5 * pace.seconds).rows()
    seen = [backend.order() for backend in backends]
    return rows, sum(len(each.requests) for each in seen), sum(each.errors for each in seen)


def random_errors(stage: Stage, pace: Pace) -> list[Check]:
    """With four retries and a budget for them, chance is hidden from clients."""
    keys = {"retries": 4, "retry": {"budget": "60%"}}
    rows, requests, errors = play(stage, pace, keys)
    failed = bad(rows)
    share = len(failed) / len(rows)
    own = [row for row in rows if row.error]
    return [
        Check(
            "clients see under 1 % errors on GETs",
            f"{share:.2%} of {len(rows)} ({said(failed)}); {errors} of {requests} at the backends",
            share < 0.01 and errors > 0.2 * requests,
        ),
        Check(
            "no answer is the gateway's own: nobody is left out for chance alone",
            f"{len(own)} ({said(own)})",
            not own,
        ),
    ]


def default_budget(stage: Stage, pace: Pace) -> list[Check]:
    """With the default budget retries stay within it and the rest is passed on."""
    rows, requests, errors = play(stage, pace, {"retries": 4})
    retries = requests - len(rows)
    # A second more than it lasts: the floor may be full when it begins.
    allowed = int(0.2 * len(rows) + FLOOR * (1.5 * pace.seconds + 1))
    failed = bad(rows)
    own = [row for row in rows if row.error]
    return [
        Check(
            "retries within 20 % of requests and the floor (10/s): never amplified",
            f"{retries} retries of {len(rows)} requests, {allowed} allowed",
            0 < retries <= allowed,
        ),
        Check(
            "what is beyond the budget is passed on as it is",
            f"{len(failed)} failures of {errors} errors ({said(failed)}), {len(own)} our own",
            len(failed) > 0 and not own and all(row.status == 503 for row in failed),
        ),
    ]
