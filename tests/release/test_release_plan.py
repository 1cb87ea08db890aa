"""A release's plan: the configuration's, with what a call asks for."""

from __future__ import annotations

import pytest

from gateway.config.schema.releases import Releases
from gateway.release.plan import PlanError, Step, Wish, plan_of


def test_without_wishes_it_is_the_configuration() -> None:
    plan = plan_of(Releases(), Wish())
    assert [step.weight for step in plan.steps] == [500, 2000, 5000, 10000]
    assert [step.hold for step in plan.steps] == [300.0, 300.0, 600.0, 900.0]
    assert (plan.min_requests, plan.min_keys, plan.max_hold) == (100, 5, 3600.0)
    assert (plan.lease, plan.on_lease_lost, plan.finalize) == (None, "rollback", "auto")
    assert plan.seconds == 2100.0
    assert plan.last == 3


def test_a_call_may_ask_for_other_steps_and_a_lease() -> None:
    steps = (Step(weight=1000, hold=1.0, early=True), Step(weight=10000, hold=2.0))
    wish = Wish(steps=steps, lease=30.0, on_lease_lost="hold", finalize="manual", forward_only=True)
    plan = plan_of(Releases(), wish)
    assert plan.steps == steps
    assert (plan.lease, plan.on_lease_lost) == (30.0, "hold")
    assert (plan.finalize, plan.forward_only) == ("manual", True)


def test_forward_only_of_the_file_can_be_taken_back_by_a_call() -> None:
    releases = Releases.model_validate({"forward_only": True})
    assert plan_of(releases, Wish()).forward_only
    assert not plan_of(releases, Wish(forward_only=False)).forward_only


@pytest.mark.parametrize(
    ("weights", "field", "said"),
    [
        ((), "steps", "none"),
        ((0, 10000), "steps.0.weight", "above 0"),
        ((500, 500, 10000), "steps.1.weight", "rising"),
        ((2000, 500, 10000), "steps.1.weight", "5 follows 20"),
        ((500, 2000), "steps.1.weight", "expected 100"),
    ],
)
def test_steps_that_lead_nowhere_are_refused(
    weights: tuple[int, ...], field: str, said: str
) -> None:
    steps = tuple(Step(weight=each, hold=1.0) for each in weights)
    with pytest.raises(PlanError, match=said) as caught:
        plan_of(Releases(), Wish(steps=steps))
    assert caught.value.field == field
