"""What is counted, once, for what: keys, weights, scopes, what is owed, what is stored."""

from __future__ import annotations

import random

import msgspec
import pytest

from gateway.channel.histogram import bucket_of
from gateway.channel.messages import Counted, Failures, Metric, RequestFailed, Tally
from gateway.config.snapshot import BUCKETS
from gateway.release import account, judgement, outlook
from gateway.release.bets import Comparison
from gateway.release.bounds import ServiceRules
from gateway.release.judgement import MAX_STEP_KEYS, Judgement, Known
from gateway.release.plan import Plan, Step
from gateway.release.record import OBJECTIVE, WHOLE, Part, Release, Threshold

RULES = ServiceRules(
    error_above=0.05,
    error_for=120.0,
    latency_above=2.0,
    latency_quantile=0.95,
    latency_for=120.0,
    unhealthy_for=30.0,
)
THRESHOLDS = (
    Threshold(name="p75", seconds=0.1),
    Threshold(name="p90", seconds=0.2),
    Threshold(name="p95", seconds=0.3),
    Threshold(name=OBJECTIVE, seconds=2.0),
    Threshold(name="p99", seconds=3.0),
)


def release(*names: str, thresholds: tuple[Threshold, ...] = THRESHOLDS) -> Release:
    steps = tuple(Step(weight=weight, hold=60.0) for weight in (500, 2000, 5000, BUCKETS))
    return Release(
        id="r-1",
        number=1,
        version="",
        actor="",
        reason="",
        plan=Plan(steps=steps),
        parts=tuple(
            Part(
                service=name,
                candidate="green",
                generation=2,
                stable_generation=1,
                rules=RULES,
                alpha=0.01,
                tolerance=1.0,
                thresholds=thresholds,
                cold=False,
            )
            for name in names or ("events", "ivor")
        ),
        began=0.0,
        moved=0.0,
        state="stepping",
        where="stepping",
        step=0,
        horizon=10_000.0,
    )


def judged(*names: str) -> Judgement:
    found = Judgement(release(*names))
    found.step(0, 500)
    return found


def failed(
    key: int,
    *,
    service: str = "ivor",
    candidate: bool = True,
    weight: int = 500,
    metric: Metric = "error",
    slower: int = 0,
) -> RequestFailed:
    return RequestFailed(
        service=service,
        color="green" if candidate else "blue",
        candidate=candidate,
        weight=weight,
        key=key,
        metric=metric,
        kind="500",
        at=0.0,
        slower=slower,
    )


def told(*failures: RequestFailed, release: str = "r-1", dropped: int = 0) -> Failures:
    return Failures(release=release, failures=failures, dropped=dropped)


def counted(
    requests: int = 10,
    *,
    service: str = "ivor",
    candidate: bool = True,
    weight: int = 500,
    bad: int = 0,
    keys: tuple[int, ...] = (),
    judged: int | None = None,
    release: str = "r-1",
) -> Tally:
    row = Counted(
        service=service,
        color="green" if candidate else "blue",
        candidate=candidate,
        weight=weight,
        requests=requests,
        failed=bad,
        timed=requests,
        slow=0,
        judged=requests if judged is None else judged,
        spoiled=bad if judged is None else 0,
        keys=keys,
        histogram=((bucket_of(0.1), requests),),
    )
    return Tally(release=release, rows=(row,))


def state(found: Judgement) -> bytes:
    return msgspec.msgpack.encode(found.known)


# --- failures -------------------------------------------------------------------------------------


def test_the_first_failure_of_a_key_counts_once_in_each_scope_and_metric() -> None:
    found = judged()
    assert found.fail(told(failed(1), failed(1)))
    before = state(found)
    assert not found.fail(told(failed(1)))
    assert state(found) == before
    assert found.known.scopes["ivor"].errors.candidate == 1
    assert found.known.scopes[WHOLE].errors.candidate == 1
    # Of another service: new there, old for the release as a whole.
    assert found.fail(told(failed(1, service="events")))
    assert found.known.scopes["events"].errors.candidate == 1
    assert found.known.scopes[WHOLE].errors.candidate == 1
    # In another metric: new in both.
    assert found.fail(told(failed(1, metric="refusal")))
    assert found.known.scopes["ivor"].refusals.candidate == 1
    assert found.known.scopes[WHOLE].refusals.candidate == 1
    assert found.known.figures["ivor"].candidate.refused == 1


def test_a_failure_is_weighed_as_its_request_was_assigned() -> None:
    found = judged("ivor")
    plain = Comparison(horizon=max(1000.0, 0.0))
    for key, weight in ((1, 500), (2, 2000), (3, 500)):
        found.fail(told(failed(key, weight=weight)))
        plain.failure(candidate=True, weight=weight / BUCKETS)
    assert found.known.scopes["ivor"].errors.logs == pytest.approx(plain.logs)


def test_what_is_not_its_own_is_left_out() -> None:
    found = judged()
    before = state(found)
    assert not found.fail(told(failed(1), release="another"))
    assert not found.fail(told(failed(1, service="website")))
    assert not found.fail(told(failed(1, weight=0)))
    found.count(counted(release="another"), 1.0)
    found.count(counted(service="website"), 1.0)
    assert state(found) == before
    assert found.keys == found.dirty == {}


def test_stables_failures_count_against_it_and_move_the_mirror() -> None:
    found = judged()
    found.fail(told(*(failed(key, candidate=False) for key in range(1, 9))))
    assert found.known.scopes["ivor"].errors.stable == 8
    assert found.known.mirror.evidence > 1.0
    assert found.over() == ()


def test_four_failures_of_four_keys_at_5_percent_are_enough_and_one_key_never_is() -> None:
    found = judged()
    for _ in range(100):
        found.fail(told(failed(7)))
    assert found.over() == ()
    found = judged()
    for key in range(1, 5):
        assert found.over() == ()
        found.fail(told(failed(key)))
    assert set(found.over()) == {"ivor", WHOLE}
    assert "4 clients of the candidate" in account.in_words(release(), found, "ivor")


def test_failures_spread_over_services_are_seen_in_the_whole() -> None:
    names = ("a", "b", "c", "d")
    found = judged(*names)
    for key in range(1, 9):
        found.fail(told(failed(key, service=names[key % 4])))
    assert found.over() == (WHOLE,)


def test_refusals_speak_as_failures_do() -> None:
    found = judged()
    found.fail(told(*(failed(key, metric="refusal") for key in range(1, 6))))
    assert "ivor" in found.over()
    assert "401, 403, 404 and 422" in account.in_words(release(), found, "ivor")


def test_slow_bits_go_to_the_thresholds_they_stand_for() -> None:
    found = judged()
    found.fail(told(failed(1, metric="slow", slower=0b01011)))
    scope, whole = found.known.scopes["ivor"], found.known.scopes[WHOLE]
    assert [each.candidate for each in scope.slow] == [1, 1, 0, 1, 0]
    # In the whole each has its own place, whatever the order in a service: p75 … p99, objective.
    assert [each.candidate for each in whole.slow] == [1, 1, 0, 0, 1]
    found.fail(told(failed(1, metric="slow", slower=0b11111)))
    assert [each.candidate for each in scope.slow] == [1, 1, 1, 1, 1]
    assert [each.candidate for each in whole.slow] == [1, 1, 1, 1, 1]
    assert not found.fail(told(failed(1, metric="slow", slower=0b11111)))


def test_slowness_of_many_keys_speaks() -> None:
    found = judged()
    found.fail(told(*(failed(key, metric="slow", slower=0b11111) for key in range(1, 8))))
    assert "ivor" in found.over()
    assert "slow answers" in account.in_words(release(), found, "ivor")


def test_more_keys_than_are_remembered_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "MAX_KEYS", 6)
    found = judged()
    for key in range(1, 10):
        found.fail(told(failed(key)))
    assert len(found.keys) == 6
    assert found.known.scopes["ivor"].errors.candidate == 3
    assert not found.fail(told(failed(9)))
    assert found.known.dropped == 14  # six keys more than there is room for, in both scopes, and 9
    # Each metric has its own room.
    assert found.fail(told(failed(1, metric="refusal")))
    assert found.fail(told(failed(99, metric="slow", slower=1)))


def test_slow_keys_and_refused_ones_leave_errors_their_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judgement, "MAX_KEYS", 1000)
    found = judged()
    for key in range(2000):
        found.fail(told(failed(key, metric="slow", slower=1, candidate=key % 20 == 0)))
        found.fail(told(failed(key, metric="refusal", candidate=key % 20 == 0)))
    assert found.over() == ()
    found.fail(told(*(failed(key) for key in range(5000, 5012))))
    assert "ivor" in found.over()


def test_what_was_not_told_one_by_one_is_said() -> None:
    found = judged()
    found.fail(told(dropped=7))
    assert account.numbers(release(), found, None)["not_told_one_by_one"] == 7


# --- at 100 % -------------------------------------------------------------------------------------


def test_alone_the_candidate_is_held_against_the_objective() -> None:
    found = judged()
    found.step(3, BUCKETS)
    for at in range(6):
        keys = range(at * 10, at * 10 + 10)
        found.fail(told(*(failed(key, weight=BUCKETS) for key in keys)))
        found.count(counted(10, weight=BUCKETS, bad=10), float(at))
    assert found.known.scopes["ivor"].objective.failed == 60
    assert {"ivor", WHOLE} == set(found.over())
    assert found.known.scopes["ivor"].errors.candidate == 0


def test_a_healthy_candidate_alone_is_left_alone() -> None:
    found = judged()
    found.step(3, BUCKETS)
    chance = random.Random(1)
    key = 0
    for at in range(500):
        bad = sum(chance.random() < 0.04 for _ in range(100))
        found.fail(told(*(failed(key + each, weight=BUCKETS) for each in range(bad))))
        key += bad
        found.count(counted(100, weight=BUCKETS, bad=bad), float(at))
        assert found.over() == ()


def test_what_is_told_one_by_one_is_no_evidence_before_its_count() -> None:
    found = judged()
    found.step(3, BUCKETS)
    found.fail(told(*(failed(key, weight=BUCKETS) for key in range(50))))
    assert found.known.scopes["ivor"].objective.failed == 0
    assert found.over() == ()
    found.count(counted(1000, weight=BUCKETS, bad=50), 0.0)
    assert found.known.scopes["ivor"].objective.failed == 50


@pytest.mark.parametrize("workers", [1, 8])
def test_many_workers_take_back_no_healthy_candidate_at_100_percent(workers: int) -> None:
    """Each worker tells of failures at once and of counts when its own time has come."""
    chance = random.Random(workers)
    taken_back = 0
    for _ in range(40):
        found = judged()
        found.step(3, BUCKETS)
        rows = [[0, 0] for _ in range(workers)]
        for turn in range(400):
            worker = turn % workers
            for each in rows:
                for _ in range(12 // workers + 1):
                    bad = chance.random() < 0.05
                    each[0] += 1
                    each[1] += bad
                    if bad:
                        found.fail(told(failed(chance.getrandbits(60), weight=BUCKETS)))
            judged_now, bad_now = rows[worker]
            found.count(counted(judged_now, weight=BUCKETS, bad=bad_now), turn / 16)
            rows[worker] = [0, 0]
            if found.over():
                taken_back += 1
                break
    assert taken_back <= 2  # alpha is 1 %: three of forty has a chance below one in a hundred


@pytest.mark.parametrize("workers", [1, 8])
def test_few_users_on_many_workers_are_enough_at_100_percent(workers: int) -> None:
    """A key that failed at one worker is judged on at the others until it fails there, too."""
    chance = random.Random(7)
    found = judged()
    found.step(3, BUCKETS)
    gone: list[set[int]] = [set() for _ in range(workers)]
    for turn in range(60):
        for worker in range(workers):
            judged_now = bad_now = 0
            for _ in range(50 // workers):
                key = chance.randrange(40)
                if key in gone[worker]:
                    continue
                judged_now += 1
                if chance.random() < 0.4:
                    bad_now += 1
                    gone[worker].add(key)
                    found.fail(told(failed(key, weight=BUCKETS)))
            if judged_now:
                found.count(counted(judged_now, weight=BUCKETS, bad=bad_now), float(turn))
        if found.over():
            break
    assert "ivor" in found.over()


# --- steps ----------------------------------------------------------------------------------------


def test_a_step_counts_its_own_requests_and_clients() -> None:
    found = judged()
    found.count(counted(7, keys=(1, 2)), 0.0)
    found.count(counted(5, candidate=False), 0.0)
    assert (found.known.seen.requests, found.known.seen.keys) == (7, {1, 2})
    found.step(1, 2000)
    assert (found.known.seen.requests, found.known.seen.keys) == (0, set())
    found.count(counted(100, weight=500, keys=(3,)), 1.0)  # of the step before, told late
    found.count(counted(2, weight=2000, keys=(1, 4)), 1.0)
    assert (found.known.seen.requests, found.known.seen.keys) == (2, {1, 4})
    assert found.known.figures["ivor"].candidate.requests == 109


def test_a_steps_clients_are_bounded() -> None:
    found = judged()
    found.count(counted(2000, keys=tuple(range(2000))), 0.0)
    assert len(found.known.seen.keys) == MAX_STEP_KEYS


def test_figures_are_what_was_counted() -> None:
    found = judged()
    found.count(counted(90, bad=9), 0.0)
    found.count(counted(10), 0.0)
    found.count(counted(1000, candidate=False, bad=1), 0.0)
    sides = found.known.figures["ivor"]
    assert (sides.candidate.requests, sides.candidate.error_rate) == (100, 0.09)
    assert sides.stable.error_rate == 0.001
    assert sides.candidate.quantiles_ms()["p50_ms"] == pytest.approx(100.0, rel=0.011)
    assert found.known.figures["events"].candidate.error_rate is None
    assert found.known.figures["events"].candidate.quantiles_ms() == {}


def test_a_gate_says_what_a_step_waits_for() -> None:
    found, run = judged(), release()
    shut = account.gate(run, found, ["ivor-green-2-0: L1: refused"], 0.0)
    assert not shut.passes
    assert shut.waits == (
        "0 of 100 requests of the candidate",
        "0 of 5 clients of the candidate",
        "held 0 s of 60 s",
        "probes: ivor-green-2-0: L1: refused",
    )
    found.count(counted(100, keys=tuple(range(5))), 0.0)
    found.known.seen.held = 60.0
    assert account.gate(run, found, [], 0.0).passes
    assert account.verdict(found, "ivor", enough=True, now=0.0) == "pass"
    found.fail(told(*(failed(key) for key in range(1, 4))))
    shut = account.gate(run, found, [], 0.0)
    assert (shut.near, shut.enough) == (True, True)
    assert account.verdict(found, "ivor", enough=True, now=0.0) == "inconclusive"
    found.fail(told(failed(4)))
    assert account.verdict(found, "ivor", enough=True, now=0.0) == "fail"


def test_a_step_that_may_passes_early_once_stables_failures_have_spoken_for_it() -> None:
    run = release()
    steps = (msgspec.structs.replace(run.plan.steps[0], early=True), *run.plan.steps[1:])
    early = msgspec.structs.replace(run, plan=msgspec.structs.replace(run.plan, steps=steps))
    found = judged()
    found.count(counted(100, keys=tuple(range(5))), 0.0)
    assert not account.gate(early, found, [], 0.0).passes
    found.fail(told(*(failed(key, candidate=False) for key in range(70))))
    assert found.known.mirror.evidence >= 20
    assert account.gate(early, found, [], 0.0).passes
    assert not account.gate(run, found, [], 0.0).passes


def test_an_outlook_tells_when_and_that_it_never_will() -> None:
    found, run = judged(), release()
    shut = account.gate(run, found, [], 0.0)
    said = outlook.outlook(run, found, shut, 0.0)
    assert (said.pass_in, said.fail_in) == (None, None)
    for second in range(10):
        found.count(counted(2, keys=(second,)), float(second))
    found.known.seen.held = found.known.seen.waited = 10.0
    shut = account.gate(run, found, [], 10.0)
    assert outlook.outlook(run, found, shut, 10.0).pass_in == pytest.approx(50.0)
    # Where the step is over before, that is what is told.
    found.known.seen.waited = run.plan.max_hold - 20.0
    said = outlook.outlook(run, found, shut, 10.0)
    assert said.pass_in is None
    assert "in 20 s it is inconclusive, and held" in said.text
    held = msgspec.structs.replace(run, state="held")
    assert outlook.outlook(held, found, shut, 10.0).pass_in is None


def test_an_outlook_waits_for_clients_too() -> None:
    found, run = judged(), release()
    for second in range(40):
        found.count(counted(5, keys=(second % 2,)), float(second))
    found.known.seen.held = found.known.seen.waited = 40.0
    shut = account.gate(run, found, [], 40.0)
    # 200 requests are enough; of five clients two have come in 40 s.
    assert outlook.outlook(run, found, shut, 40.0).pass_in == pytest.approx(60.0)


# --- what is stored -------------------------------------------------------------------------------


def test_what_was_written_down_goes_on_exactly_as_if_nothing_had_happened() -> None:
    chance = random.Random(7)
    one, run = judged(), release()

    def something(found: Judgement, seed: int) -> None:
        dice = random.Random(seed)
        weight = dice.choice((500, 2000, BUCKETS))
        candidate = weight == BUCKETS or dice.random() < 0.3
        metric: Metric = dice.choice(("error", "refusal", "slow"))
        slower = dice.randrange(32) if metric == "slow" else 0
        service = dice.choice(("events", "ivor"))
        key = dice.randrange(300)
        mishap = failed(
            key,
            service=service,
            candidate=candidate,
            weight=weight,
            metric=metric,
            slower=slower,
        )
        found.fail(told(mishap))
        found.count(counted(50, service=service, candidate=candidate, weight=weight), 1.0)

    for _ in range(200):
        something(one, chance.randrange(10**9))
    other = Judgement(run, msgspec.msgpack.decode(state(one), type=Known))
    other.remember(one.keys)
    assert state(other) == state(one)
    for _ in range(200):
        seed = chance.randrange(10**9)
        something(one, seed)
        something(other, seed)
    assert state(other) == state(one)
    assert other.keys == one.keys
    assert other.over() == one.over()


def test_keys_to_store_are_what_is_new_and_come_back_where_they_were_not_stored() -> None:
    found = judged()
    found.fail(told(failed(1)))
    first = found.dirty
    assert first == {("ivor", 1): 1, (WHOLE, 1): 1}
    found.stored()
    assert found.dirty == {}
    found.fail(told(failed(1, metric="refusal"), failed(2)))
    found.unstored(first)
    assert found.dirty == found.keys
    assert found.dirty["ivor", 1] == 3


def test_begun_anew_everything_may_count_again_and_the_figures_stay() -> None:
    found, run = judged(), release()
    found.fail(told(*(failed(key) for key in range(1, 9))))
    found.count(counted(10, keys=(1, 2)), 0.0)
    found.known.seen.held, found.known.seen.waited = 30.0, 30.0
    assert found.over()
    found.anew(run)
    assert found.over() == ()
    assert (found.known.seen.held, found.known.seen.waited) == (30.0, 0.0)
    assert found.known.seen.keys == {1, 2}
    assert found.known.figures["ivor"].candidate.requests == 10
    found.fail(told(*(failed(key) for key in range(1, 9))))
    assert found.over()
