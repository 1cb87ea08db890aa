"""What is right and yet hardly meant is warned of, and nothing that is meant."""

from __future__ import annotations

import pytest

from gateway.config.load import parse_text

SERVICE = "services: {a: {blue: {endpoints: ['http://a']}}}\n"


def warnings(text: str) -> list[str]:
    loaded = parse_text((SERVICE + text).encode(), "f", {}, read_secrets=False)
    return [str(warning) for warning in loaded.warnings]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "releases: {max_hold: 20m}",
        "releases: {lease: 60s}",
        "releases: {forward_only: true}",
        "releases: {forward_only: true, on_lease_lost: hold, lease: 10s}",
        "releases: {steps: [{weight: 100, hold: 5m}], lease: 10m}",
        "releases: {triggers: {regression: {tolerance: 1.5}}}",
    ],
)
def test_what_is_meant_is_not_warned_of(text: str) -> None:
    assert warnings(text) == []


def test_a_step_without_time_for_its_requests() -> None:
    [told] = warnings("releases: {max_hold: 5m, steps: [{weight: 5, hold: 4m}, {weight: 100}]}")
    # The default's hold has no place in the file: its step has.
    assert told.startswith("f:2:57: releases.steps[1].hold: max_hold (5m) is not above this hold")
    assert "on_inconclusive (hold) at once" in told


def test_default_steps_are_looked_at_too() -> None:
    [told] = warnings("releases: {max_hold: 15m}")
    assert "f:2:11: releases.steps[3].hold: max_hold (15m)" in told


def test_a_lease_too_short_or_too_long() -> None:
    [told] = warnings("releases: {lease: 5s}")
    assert told.startswith("f:2:19: releases.lease: 5s are a slow answer or two")
    [told] = warnings("releases: {lease: 1h}")
    assert "longer than all holds below 100 % together (20m)" in told


def test_a_way_back_that_is_forbidden() -> None:
    told = warnings(
        "releases: {forward_only: true, on_lease_lost: rollback, on_inconclusive: rollback}"
    )
    assert [each.partition(": ")[2] for each in told] == [
        "releases.on_lease_lost: forward_only holds instead",
        "releases.on_inconclusive: forward_only holds instead",
    ]


def test_a_candidate_that_must_be_better_than_stable() -> None:
    [told] = warnings("releases: {triggers: {regression: {tolerance: 0.5}}}")
    assert "releases.triggers.regression.tolerance: 0.5 asks" in told
    text = (
        "services: {a: {blue: {endpoints: ['http://a']}, triggers: {regression: {tolerance: 0}}}}"
    )
    loaded = parse_text(text.encode(), "f", {}, read_secrets=False)
    assert [each.path for each in loaded.warnings] == ["services.a.triggers.regression.tolerance"]


def test_a_trigger_that_nobody_reports_to_is_told_of() -> None:
    [told] = warnings("releases: {triggers: {csp_violations: {}}}")
    assert "releases.triggers.csp_violations: no reports of violations are taken" in told
    taken = "releases: {triggers: {csp_violations: {}}}\nsecurity: {csp_reports: {}}"
    assert warnings(taken) == []


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("max_in_flight: 2, queue: {length: 7}", True),
        ("max_in_flight: 2, queue: {length: 6}", False),
        ("max_in_flight: 2", False),
        ("max_in_flight: 2, queue: {length: 7, wait: 0s}", False),
    ],
)
def test_a_queue_that_nobody_should_wait_in(keys: str, told: bool) -> None:
    text = f"services: {{a: {{blue: {{endpoints: ['http://a']}}, {keys}}}}}\n"
    found = parse_text(text.encode(), "f", {}, read_secrets=False).warnings
    assert [str(each).partition(": ")[2].partition(":")[0] for each in found] == (
        ["services.a.queue.length"] if told else []
    )
