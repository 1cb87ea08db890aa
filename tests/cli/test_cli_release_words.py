"""A release in words: the line of a log, and the report of an end."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.admin import release_models as models
from gateway.cli import release_words as words
from gateway.cli.release_numbers import numbers
from gateway.cli.release_waits import in_spans, outlook, span, waits
from tests.cli.release_answers import (
    DECISIONS,
    FAILED_SCOPE,
    FINALIZED,
    GATE,
    HELD,
    POOL,
    ROLLED_BACK,
    SICK,
    over,
    read,
    scope,
    side,
    status,
)

CANDIDATE = "candidate 12 of 140 failed (8.57 %), p95 2100 ms"
PROBE = r"L2 503 status 503, expected 200 'boot\x1b[2Jing'"


def test_a_line_has_step_gate_both_sides_evidence_and_what_is_waited_for() -> None:
    assert words.line(read(status())) == (
        "step 1/4 5 % · held 40 s of 5 m · 132 requests, 41 clients · "
        "errors candidate 0 % stable 0.12 % · p95 candidate 120 ms stable 110 ms · "
        "evidence 0.3 of 500 · no verdict yet: 4 m 20 s of its hold (may pass in 4 m 20 s)"
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (status("validating", step=0, weight=0.0), "validating, nobody is exposed · waits for"),
        (status("baking", step=4), "step 4/4 100 % baking · held"),
        (status("paused"), "paused at step 1/4 5 % · held"),
        (status("rolling_back", because="dead"), "rolling back at step 1/4 5 % · held"),
        (HELD, "held at step 1/4 5 % · held 40 s"),
        (FINALIZED, "finalized at step 4/4 100 % · errors"),
        (over("aborted", step=0), "aborted before its first step"),
    ],
)
def test_every_state_has_its_head(answer: dict[str, Any], expected: str) -> None:
    assert words.line(read(answer)).startswith(expected)


def test_what_is_short_of_its_minimum_says_how_much_is_needed() -> None:
    gate = GATE | {"requests": 32, "keys": 2, "probes": False}
    said = words.line(read(status(gate=gate)))
    assert "32 of 100 requests, 2 of 5 clients · probes fail" in said


def test_the_scope_that_says_most_is_shown_by_its_name() -> None:
    quiet = scope(scope="website", progress=0.1)
    loud = scope(scope="ivor", progress=0.7, evidence=77.0)
    said = words.line(read(status(scopes=[quiet, loud])))
    assert "ivor: errors candidate" in said
    assert "evidence 77 of 500" in said
    assert [each.scope for each in words.telling(read(status(scopes=[loud, scope(verdict="fail")])))
            ] == ["*", "ivor"]  # fmt: skip


def test_a_side_without_requests_has_no_rate() -> None:
    said = words.line(read(status(scopes=[scope(candidate=side(0, 0, None))])))
    assert "errors candidate none stable 0.12 % · evidence" in said


def test_a_release_that_waits_for_a_hand_says_for_which() -> None:
    gate = GATE | {"held": 300.0, "waits": []}
    baked = {"step": 4, "gate": gate, "verdict": "pass", "outlook": None}
    manual = words.line(read(status("baking", finalize="manual", **baked)))
    assert manual.endswith("well so far: gateway release finalize r-41")
    assert words.line(read(status("baking", **baked))).endswith(" · passes")


def test_a_lease_is_told_of_once_half_of_it_is_over() -> None:
    lease = {"seconds": 30.0, "left": 20.0, "on_lost": "rollback", "rests": False}
    assert "lease" not in words.line(read(status(lease=lease)))
    said = words.line(read(status(lease=lease | {"left": 9.0})))
    assert "its lease runs out in 9 s (then it is rolled back)" in said
    assert "lease" not in words.line(read(status(lease=lease | {"left": 9.0, "rests": True})))


def test_counters_and_bodies_make_no_other_picture_but_states_and_verdicts_do() -> None:
    def marks(**changes: Any) -> object:
        return words.fingerprint(read(status(**changes)))

    before = marks()
    assert (
        marks(gate=GATE | {"held": 41.0, "requests": 140, "waits": ["259 s of its hold"]}) == before
    )
    assert marks(scopes=[scope(evidence=0.4, candidate=side(140, 0))]) == before
    assert marks(step=2) != before
    assert marks(verdict="pass") != before
    assert marks(scopes=[scope(verdict="fail")]) != before
    assert marks(gate=GATE | {"waits": ["3 clients"]}) != before
    assert marks(because="why") != before
    sick = [POOL | {"health": "down", "endpoints": [SICK]}]
    other = {**SICK, "probes": [{**SICK["probes"][1], "body": "at 12:03:05"}]}
    same = {**SICK, "probes": [SICK["probes"][1]]}
    assert marks(pools=sick) != before
    assert marks(pools=[{**sick[0], "endpoints": [other]}]) == marks(
        pools=[{**sick[0], "endpoints": [same]}]
    )


def test_an_end_has_reason_numbers_tests_and_probes() -> None:
    assert words.ending(read(ROLLED_BACK)) == [
        "release r-41 (1.9.0) was rolled back at step 1/4 5 %, 47 s after it began",
        "  because: the candidate of ivor fails more often than stable (regression)",
        f"  all services: {CANDIDATE}; stable 3 of 2600 failed (0.12 %), p95 110 ms",
        "    evidence against it 812, rolled back at 500, most of it from errors",
        "    regression: fail: 12 against 3 failures",
        f"  ivor green generation 7: http://127.0.0.1:3201 is down: {PROBE}",
        "  everything is on stable now",
    ]


def test_a_held_release_says_who_can_do_what() -> None:
    lines = words.ending(read(HELD))
    assert lines[0].startswith("release r-41 (1.9.0) is held at step 1/4")
    assert lines[1] == "  because: stable fails as often (error_rate)"
    assert "  it waited for: 4 m 20 s of its hold" in lines
    assert lines[-1] == (
        "  the candidate keeps 5 % until someone decides: gateway release resume r-41 | "
        "gateway release promote r-41 | gateway release abort r-41"
    )


def test_a_report_is_bounded() -> None:
    endpoints = [{**SICK, "id": f"e{n}", "url": f"http://127.0.0.1:{n}"} for n in range(1, 40)]
    scopes = [{**FAILED_SCOPE, "scope": f"s{n}"} for n in range(40)]
    pools = [POOL | {"endpoints": endpoints}]
    lines = words.ending(read({**ROLLED_BACK, "pools": pools, "scopes": scopes}))
    assert len(lines) == 3 + 8 * 3 + 9
    assert "  and 31 endpoints more" in lines


WAITS = [
    "12 of 100 requests of the candidate",
    "2 of 5 clients of the candidate",
    "held 40 s of 300 s",
    "probes: ivor-green-7-0: L2: status 503; events-green-3-0: not probed yet",
    "a trigger is near",
]
FORCED = "probes: `rollback --local` or on_control_lost has everybody on stable"


def test_validating_waits_for_probes_alone() -> None:
    early = read(status("validating", step=0, weight=0.0, gate=GATE | {"waits": WAITS[:4]}))
    assert waits(early) == ["ivor-green-7-0: L2: status 503", "events-green-3-0: not probed yet"]
    assert words.line(early) == (
        "validating, nobody is exposed · waits for ivor-green-7-0: L2: status 503; "
        "events-green-3-0: not probed yet"
    )


def test_a_step_waits_for_each_thing_once() -> None:
    one = read(status(gate=GATE | {"requests": 12, "keys": 2, "waits": WAITS}))
    assert waits(one)[:3] == [*WAITS[:2], "held 40 s of 5 m"]
    said = words.line(one)
    assert said.count("12 of 100 requests") == said.count("held 40 s of 5 m") == 1
    assert "no verdict yet: ivor-green-7-0: L2: status 503; events-green" in said
    many = read(status(gate=GATE | {"waits": ["probes: " + "; ".join(f"e{n}" for n in range(20))]}))
    assert waits(many) == [*(f"e{n}" for n in range(8)), "12 more"]


def test_a_step_that_lacks_only_counts_is_not_said_to_pass() -> None:
    said = words.line(read(status(gate=GATE | {"waits": WAITS[:3]}, verdict="pass", outlook=None)))
    assert said.endswith(" · well so far")


@pytest.mark.parametrize("state", ["held", "paused"])
def test_a_step_that_is_kept_in_force_is_not_said_to_pass_by_itself(state: str) -> None:
    text = "60 requests a minute; the step can pass in 260 s"
    back = "at these failures it is rolled back in about 90 s"
    assert outlook(read(status(state, outlook={"text": f"{text}; {back}"}))) == (
        "60 requests a minute; at these failures it is rolled back in about 1 m 30 s"
    )
    assert outlook(read(status(state, outlook={"pass_in": 260.0}))) == ""
    assert outlook(read(status(outlook={"text": text}))).endswith("can pass in 4 m 20 s")


def test_a_held_release_that_only_waits_for_its_stable_goes_back_by_itself() -> None:
    why = "taken back by demo; not rolled back: events: green cannot serve"
    lines = words.ending(read(status("held", because=why)))
    assert lines[-1] == (
        "  it goes back by itself as soon as its stable can serve; "
        "all the same: gateway release abort r-41 --force"
    )
    by_hand = words.ending(read(status("held", because="taken back by demo", trigger="manual")))
    assert by_hand[-1] == lines[-1]
    stuck = words.ending(read(status("held", because="dead; not rolled back: it is forward only")))
    assert "until someone decides" in stuck[-1]


@pytest.mark.parametrize(
    ("what", "text", "said"),
    [
        ("step", "step 1 passed: 140 requests", "step 1 passed: 140 requests"),
        ("evaluation", "passes", "evaluation: passes"),
        ("rolling_back", "", "rolling back"),
    ],
)
def test_a_decision_does_not_say_what_it_is_twice(what: str, text: str, said: str) -> None:
    row = DECISIONS["decisions"][0] | {"what": what, "text": text}
    assert words.decided(models.DecisionRow.model_validate(row)) == said


def test_probes_do_not_fail_because_everybody_is_on_stable_by_force() -> None:
    gate = GATE | {"probes": False}
    alone = words.line(read(status(gate=gate | {"waits": [FORCED]})))
    assert "probes fail" not in alone
    assert "may pass" not in alone
    sick = words.line(read(status(gate=gate | {"waits": [f"{FORCED}; ivor-green-7-0: L2"]})))
    assert "probes fail" in sick


def test_everybody_on_stable_by_force_is_said_first() -> None:
    said = words.line(read(status(gate=GATE | {"waits": [FORCED]})))
    assert said.startswith(
        "everybody is on stable by force (`gateway rollback --local --undo` lifts it) · step 1/4"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("held 40 s of 300 s", "held 40 s of 5 m"),
        ("its lease of 90 s was not renewed", "its lease of 1 m 30 s was not renewed"),
        ("v1.9 s3 and 12 sides", "v1.9 s3 and 12 sides"),
        ("0.5 s", "500 ms"),
    ],
)
def test_seconds_of_the_gateway_are_written_as_spans(text: str, expected: str) -> None:
    assert in_spans(text) == expected


def test_what_is_through_has_had_nothing_against_it_and_all_of_the_clients() -> None:
    said = words.line(read(FINALIZED))
    assert said.endswith(" · nothing spoke against it")
    assert "verdict" not in said
    assert words.weight(read(FINALIZED)) == 100.0
    opposed = FINALIZED | {"scopes": [FAILED_SCOPE]}  # finalized by force
    assert "nothing spoke" not in words.line(read(opposed))


def test_an_endpoint_that_one_failed_probe_has_not_brought_down_is_still_up() -> None:
    pools = [POOL | {"endpoints": [SICK | {"health": "up"}]}]
    assert words.ailments(read(status(pools=pools))) == [
        "ivor green generation 7: http://127.0.0.1:3201 is still up after failed probes: " + PROBE
    ]


def test_who_was_never_exposed_is_not_said_to_be_back() -> None:
    never = words.ending(read(over("aborted", step=0, because="not healthy within 60 s")))
    assert never[1] == "  because: not healthy within 1 m"
    assert never[-1] == "  nobody was exposed"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (0.5, "500 ms"), (40.4, "40 s"), (300, "5 m"), (90, "1 m 30 s"),
     (7200, "2 h"), (5400, "1 h 30 m"), (90_000, "1 d 1 h"), (-3, "0 s")],
)  # fmt: skip
def test_spans(seconds: float, expected: str) -> None:
    assert span(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.3, "0.3"), (0.0123, "0.012"), (12.34, "12"), (812.4, "812"), (2.5e9, "2.5e+09")],
)
def test_evidences(value: float, expected: str) -> None:
    assert words.number(value) == expected


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.0, "0 %"), (0.00116, "0.12 %"), (0.00001, "<0.01 %"), (None, "none")]
)
def test_rates(rate: float | None, expected: str) -> None:
    assert words.share(rate) == expected


def test_numbers_are_laid_out_by_what_they_belong_to() -> None:
    assert list(numbers(DECISIONS["decisions"][1]["numbers"])) == [
        "evidence 812.4 · threshold 500 · quick yes · stable p99 none · steps 5, 20",
        "ivor, candidate: requests 140 · failed 12",
        "ivor, stable: failed 3",
        "cells 1: w 0.05",
        "cells 2: w 0.2",
    ]


def test_many_numbers_take_several_rows() -> None:
    rows = list(numbers({"x": {f"a_long_name_{n}": n for n in range(12)}}))
    assert len(rows) > 1
    assert all(len(row) <= 110 for row in rows)
    assert rows[0].startswith("x: a long name 0 0 · ")
    assert rows[1].startswith("   a long name")
