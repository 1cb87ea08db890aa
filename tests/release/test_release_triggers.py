"""The rules beside the sequential test, second by second in fake time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway.config.schema.releases import ServiceTriggers, Triggers
from gateway.release.bounds import effective, merged
from gateway.release.facts import Finding, PoolFacts, ServiceFacts
from gateway.release.triggers import Rules

if TYPE_CHECKING:
    from collections.abc import Callable

FINE = PoolFacts(endpoints=2, serving=2)
OPEN = PoolFacts(endpoints=2, serving=0, breakers_open=2)
DOWN = PoolFacts(endpoints=2, serving=0, down=True)
HALF, FULL = 5_000, 10_000

DEFAULTS = effective(Triggers(), ServiceTriggers())


def facts(
    candidate: PoolFacts = FINE,
    stable: PoolFacts = FINE,
    *,
    critical: bool = False,
    in_release: bool = True,
    service: str = "website",
) -> ServiceFacts:
    return ServiceFacts(
        service=service,
        critical=critical,
        in_release=in_release,
        candidate=candidate,
        stable=stable,
    )


class Scene:
    """A release of ``website``: counts and looks once a second, or whenever told."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self.rules = Rules.of({"website": DEFAULTS})

    def count(
        self, *, candidate: tuple[int, int] = (0, 0), stable: tuple[int, int] = (0, 0)
    ) -> None:
        """Count (requests, failed) of both sides; the same numbers are slow."""
        for side, (requests, bad) in ((True, candidate), (False, stable)):
            if requests:
                self.rules.count(self.now, "website", side, requests, bad, requests, 0)

    def look(self, given: ServiceFacts | None = None, weight: int = HALF) -> list[Finding]:
        return self.rules.look(self.now, [given or facts()], weight)

    def until_found(
        self, seconds: int, each: Callable[[int], None], weight: int = HALF
    ) -> tuple[int, list[Finding]]:
        """Run second by second; return how many passed and what was found, nothing in the end."""
        for second in range(seconds):
            each(second)
            found = self.look(weight=weight)
            if found:
                return second, found
            self.now += 1.0
        return seconds, []


def brief(found: list[Finding]) -> list[tuple[str, str]]:
    return [(each.trigger, each.what) for each in found]


# What the file says.


def test_a_service_overrides_single_keys_only() -> None:
    general = Triggers.model_validate(
        {"latency": {"quantile": 0.9, "for": "90s"}, "error_rate": {"above": "3%"}}
    )
    own = ServiceTriggers.model_validate({"latency": {"above": "8s"}, "unhealthy": {"for": "1m"}})
    rules = effective(general, own)
    assert (rules.latency_above, rules.latency_quantile, rules.latency_for) == (8.0, 0.9, 90.0)
    assert (rules.error_above, rules.error_for) == (0.03, 120.0)
    assert rules.unhealthy_for == 60.0
    # 1 - 0.9 is 0.09999999999999998: one slow request of ten would be above it.
    assert rules.slow_above == 0.1


def test_a_service_that_says_nothing_is_judged_as_all() -> None:
    general = Triggers.model_validate({"unhealthy": {"for": "10s"}})
    assert effective(general, ServiceTriggers()).unhealthy_for == 10.0
    assert effective(general, ServiceTriggers.model_validate({"unhealthy": None})) == effective(
        general, ServiceTriggers.model_validate({"unhealthy": {}})
    )


def test_the_regression_test_is_overridden_in_the_same_way() -> None:
    general = Triggers.model_validate({"regression": {"alpha": 0.02}})
    own = ServiceTriggers.model_validate({"regression": {"tolerance": 2.0}})
    assert merged(general, own).regression.alpha == 0.02
    assert merged(general, own).regression.tolerance == 2.0


# Error rate and latency.


def test_the_error_rate_takes_back_after_two_minutes_above_not_before() -> None:
    scene = Scene()
    passed, found = scene.until_found(200, lambda _: scene.count(candidate=(10, 1), stable=(10, 0)))
    # The first two seconds hold 20 requests: the rate is known from then on.
    assert passed == 121
    assert brief(found) == [("error_rate", "roll_back")]
    assert found[0].numbers["share"] == 0.1
    assert found[0].numbers["for"] == 120.0
    assert found[0].numbers["stable_share"] == 0.0
    assert found[0].text == (
        "website: 10 % of the candidate's 600 requests in 60s failed, above 5 % for 120s;"
        " of stable's 0 %"
    )
    assert not found[0].critical


def test_one_second_at_the_bound_begins_the_two_minutes_anew() -> None:
    scene = Scene()

    def traffic(second: int) -> None:
        # Second 100's good requests bring the minute to just 5 %.
        scene.count(candidate=(610, 0) if second == 100 else (10, 1))

    passed, found = scene.until_found(400, traffic)
    assert passed > 221
    # From when those left the window, at 160, for 120 seconds.
    assert passed == 280
    assert brief(found) == [("error_rate", "roll_back")]


def test_slow_answers_take_back_by_the_quantiles_other_side() -> None:
    scene = Scene()

    def traffic(bad: int) -> Callable[[int], None]:
        def each(_: int) -> None:
            scene.rules.count(scene.now, "website", True, 100, 0, 100, bad)

        return each

    # 5 of 100 slower than 2 s: p95 is not above 2 s.
    assert scene.until_found(300, traffic(5)) == (300, [])
    _, found = scene.until_found(300, traffic(6))
    assert brief(found) == [("latency", "roll_back")]
    assert "requests in 60s took over 2s, above 5 % for 120s" in found[0].text
    assert found[0].numbers["slower_than"] == 2.0


def test_stable_as_bad_holds() -> None:
    scene = Scene()
    _, found = scene.until_found(200, lambda _: scene.count(candidate=(100, 11), stable=(100, 6)))
    assert brief(found) == [("error_rate", "hold")]
    assert "no way back: 6 % of stable's 6000 are no better" in found[0].text


def test_stable_bad_but_the_candidate_twice_as_bad_takes_back() -> None:
    scene = Scene()
    _, found = scene.until_found(200, lambda _: scene.count(candidate=(100, 12), stable=(100, 6)))
    assert brief(found) == [("error_rate", "roll_back")]


def test_a_candidate_cannot_be_twice_as_bad_as_a_stable_that_fails_half() -> None:
    scene = Scene()
    _, found = scene.until_found(200, lambda _: scene.count(candidate=(10, 10), stable=(10, 5)))
    assert brief(found) == [("error_rate", "hold")]


def test_an_outage_of_both_in_the_past_is_compared_over_the_candidates_own_span() -> None:
    scene = Scene()
    whats: list[str] = []
    for second in range(500):
        outage = 120 <= second < 180
        # The candidate's last 20 requests remember the outage for two minutes, stable's last minute
        # has forgotten it by the time that the candidate's rate was above for long enough.
        scene.count(
            candidate=(1 if second % 6 == 0 else 0, 1 if outage and second % 6 == 0 else 0),
            stable=(20, 18 if outage else 0),
        )
        whats += [each.what for each in scene.look()]
        scene.now += 1.0
    assert set(whats) == {"hold"}


def test_a_stable_within_its_bound_is_not_as_bad() -> None:
    scene = Scene()
    _, found = scene.until_found(200, lambda _: scene.count(candidate=(100, 7), stable=(100, 4)))
    assert brief(found) == [("error_rate", "roll_back")]


def test_at_full_weight_stable_counts_by_its_ability_to_serve_only() -> None:
    scene = Scene()
    scene.until_found(200, lambda _: scene.count(candidate=(10, 2), stable=(10, 2)), weight=FULL)
    found = scene.look(weight=FULL)
    assert brief(found) == [("error_rate", "roll_back")]
    assert "stable_share" not in found[0].numbers
    found = scene.look(facts(stable=DOWN), weight=FULL)
    assert {what for _, what in brief(found)} == {"hold"}


# Probes, breakers, critical services.


def test_failing_probes_take_back_thirty_seconds_after_the_first() -> None:
    scene = Scene()
    failing = facts(PoolFacts(endpoints=2, serving=1, failing_since=995.0))
    assert scene.look(failing) == []
    scene.now = 1024.9
    assert scene.look(failing) == []
    scene.now = 1025.0
    found = scene.look(failing)
    assert brief(found) == [("unhealthy", "roll_back")]
    assert "have failed for 30s" in found[0].text


def test_failing_probes_on_both_sides_hold() -> None:
    scene = Scene()
    found = scene.look(
        facts(
            PoolFacts(endpoints=2, serving=1, failing_since=960.0),
            PoolFacts(endpoints=2, serving=2, failing_since=985.0),
        )
    )
    assert brief(found) == [("unhealthy", "hold")]


def test_open_breakers_of_a_whole_pool_take_back_at_once() -> None:
    scene = Scene()
    scene.count(candidate=(5, 5))
    one = facts(PoolFacts(endpoints=2, serving=1, breakers_open=1))
    assert scene.look(one) == []
    found = scene.look(facts(OPEN))
    assert brief(found) == [("breakers_open", "roll_back")]
    assert found[0].numbers == {"endpoints": 2, "serving": 0, "breakers_open": 2}


def test_an_absent_pool_has_no_open_breakers() -> None:
    assert Scene().look(facts(PoolFacts(endpoints=0, serving=0))) == []


def test_a_critical_candidate_with_nothing_left_is_taken_back_at_once() -> None:
    scene = Scene()
    assert scene.look(facts(DOWN)) == [], "not critical: probes and breakers tell"
    found = scene.look(facts(DOWN, critical=True))
    assert brief(found) == [("critical_down", "roll_back")]
    closed = PoolFacts(endpoints=2, serving=2, closed=True)
    assert brief(scene.look(facts(closed, critical=True))) == [("critical_down", "roll_back")]


def test_at_weight_nought_nobody_is_exposed_and_nothing_counts() -> None:
    scene = Scene()
    for _ in range(200):
        scene.count(candidate=(10, 10))
        failing = PoolFacts(endpoints=2, serving=0, breakers_open=2, failing_since=900.0)
        assert scene.look(facts(failing, critical=True), weight=0) == []
        assert not scene.rules.near(scene.now)
        scene.now += 1.0
    # The first step begins the two minutes, not what was before.
    assert scene.look(weight=500) == []


def test_going_back_to_nought_by_hand_begins_all_anew() -> None:
    scene = Scene()
    failing = PoolFacts(endpoints=2, serving=0, breakers_open=2, failing_since=995.0)
    doubtful = facts(failing, PoolFacts(endpoints=2, serving=1, breakers_open=1))
    scene.rules.count(scene.now, "website", True, 20, 20, 20, 20)
    assert scene.look(doubtful) == []
    assert scene.rules.near(scene.now)
    assert scene.look(doubtful, weight=0) == []
    assert not scene.rules.near(scene.now)
    # But probes go on failing since they began to.
    scene.now += 20.0
    assert scene.look(facts(msgspec.structs.replace(failing, breakers_open=0))) == []
    scene.now += 5.0
    found = scene.look(facts(msgspec.structs.replace(failing, breakers_open=0)))
    assert brief(found) == [("unhealthy", "roll_back")]


# Never onto a pool that is down.


@pytest.mark.parametrize("weight", [0, HALF, FULL])
def test_stable_that_cannot_serve_holds_where_the_candidate_can(weight: int) -> None:
    found = Scene().look(facts(stable=DOWN, critical=True), weight)
    assert brief(found) == [("critical_down", "hold")]
    assert found[0].critical
    found = Scene().look(facts(stable=OPEN), weight)
    assert brief(found) == [("unhealthy", "hold")]
    assert found[0].critical


def test_no_rule_takes_back_onto_a_stable_that_cannot_serve() -> None:
    scene = Scene()
    scene.until_found(200, lambda _: scene.count(candidate=(10, 10), stable=(10, 0)))
    closed = PoolFacts(endpoints=2, serving=2, closed=True)
    for pool in (DOWN, OPEN, closed, PoolFacts(endpoints=2, serving=2, down=True)):
        failing = PoolFacts(endpoints=1, serving=1, breakers_open=1, failing_since=900.0)
        found = scene.look(facts(failing, pool, critical=True))
        assert {each.trigger for each in found} == {
            "error_rate", "unhealthy", "breakers_open", "critical_down",
        }  # fmt: skip
        assert {each.what for each in found} == {"hold"}
        assert all(each.critical for each in found)


def test_both_sides_down_hold() -> None:
    found = Scene().look(facts(DOWN, DOWN, critical=True))
    assert brief(found) == [("critical_down", "hold")]
    assert found[0].critical
    found = Scene().look(facts(OPEN, OPEN))
    assert brief(found) == [("breakers_open", "hold")]


def test_a_critical_service_outside_of_the_release_holds_it() -> None:
    scene = Scene()
    lost = facts(stable=DOWN, critical=True, in_release=False, service="events")
    found = scene.look(lost)
    assert [(each.service, each.trigger, each.what) for each in found] == [
        ("events", "critical_down", "hold")
    ]
    assert found[0].critical
    assert scene.look(msgspec.structs.replace(lost, critical=False)) == []
    assert scene.look(msgspec.structs.replace(lost, stable=FINE, candidate=DOWN)) == []


# A shared outage, and the race in it.


def test_a_stable_that_fails_now_holds_a_candidate_with_nothing_left() -> None:
    scene = Scene()
    for _ in range(60):
        scene.count(candidate=(100, 0), stable=(100, 0))
        scene.now += 1.0
    scene.count(candidate=(5, 5), stable=(60, 50))
    found = scene.look(facts(OPEN))
    assert brief(found) == [("breakers_open", "hold")]
    assert found[0].text == (
        "website: the breakers of all endpoints of the candidate are open;"
        " no way back: 31.2 % of stable's requests in 2s failed, too"
    )


def test_few_requests_of_stable_count_from_when_the_candidate_had_nothing_left() -> None:
    scene = Scene()
    scene.count(stable=(40, 0))
    scene.now += 0.25
    assert scene.look(facts(DOWN, critical=True)) == []
    scene.now += 0.25
    scene.count(stable=(2, 1))
    found = scene.look(facts(DOWN, critical=True))
    assert brief(found) == [("critical_down", "hold")]
    assert "1 of stable's 2 requests since then failed, too" in found[0].text


def test_a_stable_that_fails_a_little_as_ever_does_not_save_a_dead_candidate() -> None:
    scene = Scene()
    for _ in range(60):
        scene.count(candidate=(100, 8), stable=(100, 8))
        scene.now += 1.0
    scene.count(stable=(100, 8))
    scene.look(facts(OPEN))
    scene.now += 0.75
    assert brief(scene.look(facts(OPEN))) == [("breakers_open", "roll_back")]


def test_stable_gets_a_moment_to_show_the_same() -> None:
    scene = Scene()
    scene.count(stable=(20, 0))
    scene.now += 1.0
    scene.count(stable=(10, 1))
    assert scene.look(facts(OPEN)) == [], "it has failed just now"
    assert scene.rules.near(scene.now)
    scene.now += 0.25
    scene.count(stable=(20, 19))
    assert brief(scene.look(facts(OPEN))) == [("breakers_open", "hold")]


def test_stable_gets_no_more_than_three_quarters_of_a_second() -> None:
    scene = Scene()
    scene.count(stable=(100, 1))
    assert scene.look(facts(OPEN)) == []
    scene.now += 0.74
    scene.count(stable=(50, 0))
    assert scene.look(facts(OPEN)) == [], "a tally without failures may be of before"
    scene.now += 0.01
    assert brief(scene.look(facts(OPEN))) == [("breakers_open", "roll_back")]


def test_a_stable_with_one_open_breaker_is_waited_for() -> None:
    scene = Scene()
    one_open = PoolFacts(endpoints=2, serving=1, breakers_open=1)
    assert scene.look(facts(OPEN, one_open)) == []
    scene.now += 0.75
    assert brief(scene.look(facts(OPEN, one_open))) == [("breakers_open", "roll_back")]


def test_a_stable_whose_open_breakers_are_about_to_close_is_as_bad_still() -> None:
    closing = PoolFacts(endpoints=2, serving=2, breakers_open=2)
    assert brief(Scene().look(facts(OPEN, closing))) == [("breakers_open", "hold")]


def test_two_failures_of_stable_are_no_outage() -> None:
    scene = Scene()
    scene.count(stable=(4, 2))
    scene.now += 5.0
    assert brief(scene.look(facts(OPEN))) == [("breakers_open", "roll_back")]
    scene = Scene()
    scene.count(stable=(4, 3))
    scene.now += 5.0
    assert brief(scene.look(facts(OPEN))) == [("breakers_open", "hold")]


def test_a_moment_that_nobody_watched_begins_anew() -> None:
    scene = Scene()
    scene.count(stable=(100, 1))
    assert scene.look(facts(OPEN)) == []
    scene.now += 5.1
    scene.count(stable=(100, 1))
    assert scene.look(facts(OPEN)) == []


def test_a_stable_without_traffic_is_not_waited_for() -> None:
    scene = Scene()
    scene.count(stable=(100, 100))
    scene.now += 60.0
    assert brief(scene.look(facts(OPEN))) == [("breakers_open", "roll_back")]
    scene = Scene()
    scene.count(stable=(100, 1))
    assert brief(scene.look(facts(OPEN), FULL)) == [("breakers_open", "roll_back")]


def test_a_suspicion_that_passes_is_forgotten() -> None:
    scene = Scene()
    scene.count(stable=(100, 1))
    assert scene.look(facts(OPEN)) == []
    scene.now += 0.25
    assert scene.look() == []
    assert not scene.rules.near(scene.now)
    scene.now += 0.25
    assert scene.look(facts(OPEN)) == [], "stable's time begins anew"


def test_a_stable_that_recovers_first_takes_nobody_back_for_a_while() -> None:
    scene = Scene()
    assert brief(scene.look(facts(OPEN, OPEN))) == [("breakers_open", "hold")]
    for _ in range(29):
        scene.now += 1.0
        assert brief(scene.look(facts(OPEN))) == [("breakers_open", "hold")]
    scene.now += 1.0
    assert brief(scene.look(facts(OPEN))) == [("breakers_open", "roll_back")]


def test_a_long_outage_of_both_is_over_as_soon_as_a_short_one() -> None:
    scene = Scene()
    for second in range(345):
        scene.now += 1.0
        bad = 20 if second < 300 else 0
        scene.count(stable=(20, bad))
        found = scene.look(facts(OPEN))
        if 1 <= second < 330:
            assert brief(found) == [("breakers_open", "hold")]
    # At most ten seconds until nothing is left of it, then thirty.
    assert brief(found) == [("breakers_open", "roll_back")]


@pytest.mark.parametrize("stable_opens_after", [1, 2, 4, 8, 40])
@pytest.mark.parametrize("candidate_opens_after", [0, 1, 2])
@pytest.mark.parametrize("begins", [80, 81, 82, 83])
@pytest.mark.parametrize("tally", [0, 1])
@pytest.mark.parametrize(("candidate", "stable"), [(2, 48), (25, 25), (45, 5), (49, 1)])
def test_a_shared_outage_takes_nobody_back(
    stable_opens_after: int,
    candidate_opens_after: int,
    begins: int,
    tally: int,
    candidate: int,
    stable: int,
) -> None:
    """Both sides fail from one moment on, at any part of a second; the candidate's breakers open
    first, what they keep back is not counted, and counts are told every half second. Times are
    quarters of a second.
    """
    scene = Scene()
    candidate_gone = begins + candidate_opens_after
    stable_gone = candidate_gone + stable_opens_after
    waiting = [0, 0, 0, 0]
    for tick in range(begins + 80):
        bad = tick >= begins
        for side, requests, gone in ((0, candidate, candidate_gone), (2, stable, stable_gone)):
            if tick <= gone:
                waiting[side] += requests
                waiting[side + 1] += requests * bad
        if tick % 2 == tally:
            scene.count(candidate=(waiting[0], waiting[1]), stable=(waiting[2], waiting[3]))
            waiting = [0, 0, 0, 0]
        given = facts(
            OPEN if tick >= candidate_gone else FINE, OPEN if tick >= stable_gone else FINE
        )
        found = scene.look(given, HALF)
        assert "roll_back" not in [what for _, what in brief(found)], (tick, found)
        if tick >= candidate_gone + 3:
            assert brief(found) == [("breakers_open", "hold")]
        scene.now += 0.25


# Few requests, what is near, and beginning anew.


def test_rules_say_whether_they_can_speak() -> None:
    scene = Scene()
    scene.count(candidate=(3, 0))
    scene.look(facts(critical=True))
    told = {each.trigger: each for each in scene.rules.speaks(scene.now)}
    assert not told["error_rate"].can
    assert told["error_rate"].why == "error_rate: 3 requests in 10 minutes, 20 are needed"
    assert told["latency"].why == "latency: 3 requests in 10 minutes, 20 are needed"
    assert told["unhealthy"].can
    assert told["breakers_open"].can
    assert told["critical_down"].can
    scene.count(candidate=(17, 0))
    scene.look()
    told = {each.trigger: each for each in scene.rules.speaks(scene.now)}
    assert told["error_rate"].can
    assert told["latency"].can
    assert told["critical_down"].why == "critical_down: website is not critical"


def test_forty_users_at_five_percent_are_judged_by_their_last_twenty_requests() -> None:
    scene = Scene()

    def traffic(second: int) -> None:
        if second % 12 == 0:
            scene.count(candidate=(1, 1))

    passed, found = scene.until_found(600, traffic, weight=500)
    # The twentieth request comes after 228 s.
    assert passed == 228 + 120
    assert brief(found) == [("error_rate", "roll_back")]
    assert found[0].numbers["seconds"] == 229


def test_near_is_what_has_not_lasted_long_enough() -> None:
    scene = Scene()
    scene.count(candidate=(20, 1))
    scene.look()
    assert not scene.rules.near(scene.now)
    scene.count(candidate=(0, 0))
    scene.count(candidate=(2, 2))
    assert scene.look() == []
    assert scene.rules.near(scene.now)
    scene = Scene()
    assert scene.look(facts(PoolFacts(endpoints=1, serving=1, failing_since=999.0))) == []
    assert scene.rules.near(scene.now)


def test_slow_answers_are_near_too() -> None:
    scene = Scene()
    scene.rules.count(scene.now, "website", True, 20, 0, 20, 2)
    scene.look()
    assert scene.rules.near(scene.now)
    scene.rules.fresh()
    assert not scene.rules.near(scene.now)


def test_a_fresh_start_begins_the_thirty_seconds_of_probes_anew() -> None:
    scene = Scene()
    failing = facts(PoolFacts(endpoints=2, serving=1, failing_since=960.0))
    assert brief(scene.look(failing)) == [("unhealthy", "roll_back")]
    scene.rules.fresh()
    assert scene.look(failing) == []
    scene.now += 30.0
    assert brief(scene.look(failing)) == [("unhealthy", "roll_back")]


def test_a_fresh_start_begins_all_times_anew() -> None:
    scene = Scene()
    scene.until_found(119, lambda _: scene.count(candidate=(20, 2)))
    scene.rules.fresh()
    assert not scene.rules.near(scene.now)
    passed, found = scene.until_found(300, lambda _: scene.count(candidate=(20, 2)))
    assert passed == 120
    assert brief(found) == [("error_rate", "roll_back")]


def test_control_that_was_away_begins_the_two_minutes_anew() -> None:
    scene = Scene()
    scene.until_found(119, lambda _: scene.count(candidate=(20, 2)))
    scene.now += 6.0
    passed, _ = scene.until_found(300, lambda _: scene.count(candidate=(20, 2)))
    assert passed == 120


def test_a_stored_state_goes_on_where_it_was() -> None:
    scene = Scene()
    scene.until_found(100, lambda _: scene.count(candidate=(20, 2), stable=(20, 0)))
    scene.look(facts(PoolFacts(endpoints=1, serving=1, failing_since=scene.now)))
    stored = msgspec.msgpack.encode(scene.rules)
    scene.rules = msgspec.msgpack.decode(stored, type=Rules)
    assert msgspec.json.decode(msgspec.json.encode(scene.rules), type=Rules) == scene.rules
    passed, found = scene.until_found(300, lambda _: scene.count(candidate=(20, 2), stable=(20, 0)))
    assert passed == 20
    assert brief(found) == [("error_rate", "roll_back")]


def test_counts_of_services_outside_of_the_release_are_left_out() -> None:
    scene = Scene()
    scene.rules.count(scene.now, "events", True, 100, 100, 100, 100)
    assert list(scene.rules.services) == ["website"]


def test_each_service_is_found_by_itself() -> None:
    rules = Rules.of({"website": DEFAULTS, "ivor": DEFAULTS})
    given = [facts(OPEN), facts(stable=DOWN, service="ivor")]
    found = rules.look(1000.0, given, HALF)
    assert [(each.service, each.what) for each in found] == [
        ("website", "roll_back"), ("ivor", "hold"),
    ]  # fmt: skip


# --- what is not seen to be well ------------------------------------------------------------------


def test_a_condition_is_up_however_short_and_while_its_rate_is_not_known() -> None:
    rules = Rules.of({"website": DEFAULTS})
    unknown = {("error_rate", "website"), ("latency", "website")}
    assert rules.conditions(100.0, [facts()]) == unknown
    rules.count(100.0, "website", True, 100, 50, 100, 0)
    assert rules.conditions(100.5, [facts()]) == {("error_rate", "website")}
    rules.fresh()
    assert rules.conditions(100.5, [facts()]) == {("error_rate", "website")}
    rules.count(101.0, "website", True, 10_000, 0, 10_000, 0)
    assert rules.conditions(101.5, [facts()]) == set()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (facts(OPEN), {"breakers_open"}),
        (facts(OPEN, critical=True), {"breakers_open", "critical_down"}),
        (facts(msgspec.structs.replace(FINE, failing_since=1.0)), {"unhealthy"}),
        (facts(stable=DOWN), {"unhealthy"}),
        (facts(stable=DOWN, critical=True), {"critical_down"}),
        (facts(DOWN, DOWN), set()),
    ],
)
def test_conditions_are_those_that_findings_come_of(
    given: ServiceFacts, expected: set[str]
) -> None:
    rules = Rules.of({"website": DEFAULTS})
    rules.count(100.0, "website", True, 100, 0, 100, 0)
    assert {trigger for trigger, _ in rules.conditions(100.5, [given])} == expected


def test_a_critical_outsider_that_is_lost_is_a_condition() -> None:
    rules = Rules.of({})
    lost = facts(stable=DOWN, critical=True, in_release=False, service="auth")
    assert rules.conditions(1.0, [lost]) == {("critical_down", "auth")}


def test_violations_are_judged_where_a_service_alone_says_so() -> None:
    own = ServiceTriggers.model_validate({"csp_violations": {"tolerance": 2.0}})
    alone = merged(Triggers(), own).csp_violations
    assert alone is not None
    assert (alone.alpha, alone.tolerance) == (0.01, 2.0)
    general = Triggers.model_validate({"csp_violations": {"alpha": 0.02}})
    both = merged(general, own).csp_violations
    assert both is not None
    assert (both.alpha, both.tolerance) == (0.02, 2.0)
    assert merged(Triggers(), ServiceTriggers()).csp_violations is None
