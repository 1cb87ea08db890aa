"""Endpoints that die and endpoints that say nothing."""

from __future__ import annotations

import time

from loadtests.chaos.stage import Pace, Stage, sleep_until
from loadtests.chaos.verdict import Check, between, no_failure, said, steady_p99_ms


def one_of_two_killed(stage: Stage, pace: Pace) -> list[Check]:
    """Kill one of two endpoints, requests in its hands: the other answers them all."""
    first, second = stage.backends("a", "b", delay=0.005)
    gateway = stage.gateway({"web": ([first, second], {"retries": 1})})
    load = stage.load(gateway, "/web/{n}", pace.rate, pace.seconds)
    sleep_until(load.at(0.4))
    shares = len(second.order().requests)
    killed = second.kill()
    rows = load.rows()
    after = between(rows, killed, killed + pace.seconds)
    return [
        no_failure(rows),
        Check(
            "both were in use before, one after",
            f"{shares} to the one that was killed, then {len(after)} to the other",
            shares > 0.3 * pace.rate * pace.seconds * 0.4
            and {row.backend for row in after[len(after) // 4 :]} == {"a"},
        ),
    ]


#: ``connect`` and ``first_byte``: one bounds new connections, the other those that stood.
PATIENCE = 0.5
#: The five failures that open the breaker, and twice that for what is under way meanwhile.
MOST_WAITING = 15
#: What the gateway's coarse timers and a busy machine may add to a timeout.
SLACK = 0.35


def one_of_two_vanished(stage: Stage, pace: Pace) -> list[Check]:
    """Take one of two endpoints away with its host: no reset, no answer, nothing."""
    first, second = stage.backends("a", "b", delay=0.005)
    patience = f"{PATIENCE * 1e3:g}ms"
    keys = {"retries": 1, "timeouts": {"connect": patience, "first_byte": patience}}
    gateway = stage.gateway({"web": ([first, second], keys)})
    load = stage.load(gateway, "/web/{n}", pace.rate, pace.seconds)
    sleep_until(load.at(0.3))
    seen = len(second.order(mode="vanish").requests)
    gone = time.monotonic()
    rows = load.rows()
    slowest = max(row.took for row in rows)
    waited = [row for row in rows if row.took > PATIENCE / 2]
    after = between(rows, gone + PATIENCE, gone + pace.seconds)
    return [
        no_failure(rows),
        Check(
            f"nobody waits longer than one timeout ({PATIENCE:g} s), then the other answers",
            f"slowest {slowest:.2f} s; {seen} had been answered by the one that vanished",
            PATIENCE / 2 < slowest <= PATIENCE + SLACK and seen > 0,
        ),
        Check(
            f"few wait at all, until the breaker opens (bar {MOST_WAITING})",
            f"{len(waited)} of {len(rows)} waited; then {len(after)} requests",
            0 < len(waited) <= MOST_WAITING and bool(after),
        ),
    ]


FIRST_BYTE = 0.5
RESET_AFTER = 2.0


def silent(stage: Stage, pace: Pace) -> list[Check]:
    """Have an endpoint accept and never answer, beside a service that is well."""
    stuck, fine = stage.backends("stuck", "fine")
    gateway = stage.gateway(
        {
            "stuck": (
                [stuck],
                {
                    "timeouts": {"first_byte": f"{FIRST_BYTE * 1e3:g}ms"},
                    "breaker": {"failures": 5, "reset_after": f"{RESET_AFTER:g}s"},
                    "health": {"interval": "1h", "interval_down": "1h"},
                    "retries": 1,
                },
            ),
            "fine": ([fine], {}),
        }
    )
    seconds = 2 * pace.seconds
    beside = stage.load(gateway, "/fine/{n}", pace.rate, seconds)
    load = stage.load(gateway, "/stuck/{n}", pace.rate / 5, seconds)
    sleep_until(load.at(0.5))
    stuck.order(mode="hang")
    silence = load.at(0.5)
    rows = between(load.rows(), silence, load.at(1))
    good = beside.rows()
    warm = beside.began + 0.5
    before = steady_p99_ms(between(good, warm, silence))
    after = steady_p99_ms(between(good, silence, load.at(1)))
    slowest = max(row.took for row in rows)
    # Open by then: the first five were due in the first tenths of a second.
    opened = silence + FIRST_BYTE + SLACK + 5 / load.order.rate
    later = between(rows, opened, load.at(1))
    held = [row for row in later if row.took > FIRST_BYTE / 2]
    intervals = int((load.at(1) - opened) / RESET_AFTER) + 1
    return [
        Check(
            f"each request is bounded by first_byte ({FIRST_BYTE:g} s)",
            f"slowest {slowest:.2f} s of {len(rows)}: {said(rows)}",
            slowest <= FIRST_BYTE + SLACK,
        ),
        Check(
            "once the breaker is open only its probes wait (one per interval)",
            f"{len(held)} of {len(later)} waited, {intervals} allowed",
            bool(later) and len(held) <= intervals,
        ),
        Check(
            "another service's p99 within 1.5 x of before",
            f"{before:.2f} ms before, {after:.2f} ms after (medians of seconds)",
            after <= max(1.5 * before, before + pace.noise_ms),
        ),
        no_failure(good),
    ]
