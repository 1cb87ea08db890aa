"""The rules around a breaker and an outlier: numbers in, numbers out."""

from __future__ import annotations

import random

from gateway.policy import breaker as rules


def test_a_run_without_other_failures_opens_at_the_configured_number() -> None:
    assert rules.run_that_opens(5, requests=5, failed=5, run=5) == 5
    assert rules.run_that_opens(5, requests=1000, failed=5, run=5) == 5
    assert rules.run_that_opens(1, requests=1000, failed=1, run=1) == 1


def test_where_failures_are_common_a_run_must_be_longer() -> None:
    # 30 of 100 others failed: five in a row come by chance every few seconds.
    assert rules.run_that_opens(5, requests=105, failed=35, run=5) == 12
    # Half of them: as long as it is ever asked to be.
    assert rules.run_that_opens(5, requests=105, failed=55, run=5) == 20
    # All of them: that is no chance any more.
    assert rules.run_that_opens(5, requests=105, failed=105, run=5) == 5
    # Too few others to say anything.
    assert rules.run_that_opens(5, requests=24, failed=15, run=5) == 5


def test_random_failures_of_thirty_percent_hardly_ever_open_it() -> None:
    chance = random.Random(3)
    run = opened = 0
    history: list[bool] = []
    for _ in range(100_000):
        failed = chance.random() < 0.3
        history = [*history[-999:], failed]
        run = run + 1 if failed else 0
        if (
            len(history) >= 50
            and failed
            and run >= rules.run_that_opens(5, len(history), sum(history), run)
        ):
            opened += 1
    assert opened == 0


def test_the_share_needs_its_minimum() -> None:
    assert not rules.share_opens(None, 20, 1000, 1000)
    assert not rules.share_opens(0.5, 20, 19, 19)
    assert rules.share_opens(0.5, 20, 20, 10)
    assert not rules.share_opens(0.5, 20, 21, 10)


def test_the_time_until_the_next_probe_doubles_up_to_its_bound() -> None:
    waits = [rules.reset_after(60.0, 600.0, n) for n in (0, 1, 2, 3, 4, 5, 10**9)]
    assert waits == [60.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


def test_probes_let_it_try_early_where_they_say_something() -> None:
    assert rules.may_try_early(enough=True, probed=True, unreached=False)
    assert rules.may_try_early(enough=True, probed=False, unreached=True)
    # A socket that accepts says nothing of timeouts.
    assert not rules.may_try_early(enough=True, probed=False, unreached=False)
    assert not rules.may_try_early(enough=False, probed=True, unreached=True)


def test_an_outlier_fails_more_than_its_peers() -> None:
    assert rules.is_outlier(100, 40, 200, 4, 0.2)
    assert not rules.is_outlier(100, 40, 200, 80, 0.2)  # all alike
    assert not rules.is_outlier(100, 19, 200, 0, 0.2)  # not above the bound
    assert not rules.is_outlier(3, 1, 6, 0, 0.2)  # not surely
    assert not rules.is_outlier(0, 0, 6, 0, 0.2)
    assert not rules.is_outlier(20, 20, 0, 0, 0.2)  # nobody to compare with


def test_the_last_one_is_never_ejected() -> None:
    assert not rules.may_eject(1, 0, 1.0)
    assert rules.may_eject(2, 0, 0.5)
    assert not rules.may_eject(2, 1, 1.0)
    assert rules.may_eject(3, 0, 0.1)  # one, however small the share
    assert not rules.may_eject(3, 1, 0.5)
    assert rules.may_eject(4, 1, 0.5)


def test_ejections_grow_are_capped_and_decay() -> None:
    assert [rules.eject_for(30.0, 300.0, n) for n in (0, 1, 2, 10, 11, 99)] == [
        30.0, 30.0, 60.0, 300.0, 300.0, 300.0,
    ]  # fmt: skip
    assert rules.decayed(3, 0.0, 30.0) == 3
    assert rules.decayed(3, 61.0, 30.0) == 1
    assert rules.decayed(3, 1e9, 30.0) == 0
    assert rules.decayed(3, -5.0, 30.0) == 3
    assert rules.decayed(3, 5.0, 0.0) == 0


def test_warmth_grows_from_a_first_share_to_the_whole() -> None:
    assert rules.warmth(0.0, 30.0) == rules.FIRST_SHARE
    assert rules.warmth(15.0, 30.0) == 0.5
    assert rules.warmth(30.0, 30.0) == 1.0
    assert rules.warmth(0.0, 0.0) == 1.0
