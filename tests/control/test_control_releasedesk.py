"""The release desk: refusals of a start, and a machine of random moves that must keep its unit."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.config.schema.releases import Releases
from gateway.config.snapshot import BUCKETS, COLORS, Color
from gateway.control import desk, releasedesk
from gateway.control.desk import Refused, Share
from gateway.control.releasedesk import Ask, Ground, Why
from gateway.control.state import PoolState, ServiceState, State
from gateway.release.machine import RUNNING, IllegalMoveError, knows
from gateway.release.plan import Step, Wish
from gateway.release.record import Part
from tests.control.test_control_desk import Chance, FakeFacts, begun
from tests.release.test_release_judgement import RULES

NAMES = ("events", "ivor", "website")
WHY = Why(because="it failed", trigger="regression")


def part(service: ServiceState) -> Part:
    return Part(
        service=service.name,
        candidate=service.candidate,
        generation=service.pool(service.candidate).generation,
        stable_generation=service.pool(service.stable).generation,
        rules=RULES,
        alpha=0.01,
        tolerance=1.0,
        rate=2.0,
    )


def ground(chance: Chance | None = None, *condemned: tuple[str, int]) -> Ground:
    return Ground(
        releases=Releases(),
        part=part,
        condemned=set(condemned),
        now=100.0,
        fresh=chance or Chance(),
    )


def started(state: State | None = None, **ask: object) -> State:
    given = Ask(**ask)  # type: ignore[arg-type]
    return releasedesk.start(state or begun(*NAMES), given, ground()).state


def refused(state: State, chance: Ground | None = None, **ask: object) -> Refused:
    with pytest.raises(Refused) as caught:
        releasedesk.start(state, Ask(**ask), chance or ground())  # type: ignore[arg-type]
    return caught.value


# --- the start ------------------------------------------------------------------------------------


def test_a_start_exposes_nobody_and_has_an_id_and_a_salt_of_its_own() -> None:
    state = started(version="2", reason="why", actor="me")
    run = state.run
    assert run is not None
    assert (run.state, run.step, run.weight, run.number) == ("validating", -1, 0, 1)
    assert (run.version, run.reason, run.actor, run.began) == ("2", "why", "me", 100.0)
    assert state.release == run.id
    assert len(state.salt) == 16
    assert {each.weight for each in state.services} == {0}
    assert run.names == NAMES
    assert run.horizon == 3 * 2.0 * run.plan.seconds
    assert [each.service for each in state.traffic().watch] == list(NAMES)


def test_every_service_without_a_candidate_is_named() -> None:
    state = begun(*NAMES)
    empty = [
        msgspec.structs.replace(each, green=PoolState())
        for each in state.services
        if each.name != "ivor"
    ]
    problem = refused(state.replaced(*empty))
    assert (problem.kind, problem.status) == ("no-candidate", 409)
    assert [each.service for each in problem.parts] == ["events", "website"]
    assert started(state.replaced(*empty), services=("ivor",)).run is not None


def test_a_drained_candidate_is_opened_and_an_isolated_one_refused() -> None:
    state = begun(*NAMES)
    drained = msgspec.structs.replace(state.services[0], drained=("green",))
    assert started(state.replaced(drained)).services[0].drained == ()
    isolated = msgspec.structs.replace(state.services[0], isolated=("green",))
    problem = refused(state.replaced(isolated))
    assert (problem.kind, problem.parts[0].service) == ("isolated", "events")


def test_a_stable_that_is_isolated_is_refused() -> None:
    """Everybody is on the candidate: nothing to compare it with, nothing to go back to."""
    state = begun(*NAMES)
    isolated = msgspec.structs.replace(state.services[0], isolated=("blue",))
    for force in (False, True):
        problem = refused(state.replaced(isolated), force=force)
        assert (problem.kind, problem.status) == ("isolated", 409)
        assert [(each.service, each.detail) for each in problem.parts] == [
            ("events", "blue, the stable one, is isolated")
        ]
        assert "--lift" in (problem.hint or "")
    assert started(state.replaced(isolated), services=("ivor",)).run is not None


def test_a_split_by_hand_of_any_service_is_refused() -> None:
    share = Share(side="candidate", weight=500, services=("events",))
    split = desk.set_traffic(begun(*NAMES), FakeFacts(), share, Chance()).state
    assert refused(split, services=("ivor",)).kind == "split-in-force"


def test_a_stale_generation_is_412_and_comes_before_what_is_wrong_with_it() -> None:
    problem = refused(begun(*NAMES), generations={"ivor": 3})
    assert (problem.status, problem.field) == (412, "pools.ivor")
    assert refused(begun(*NAMES), generations={"nope": 3}).status == 422


def test_a_condemned_generation_is_refused_unless_forced() -> None:
    given = ground(None, ("ivor", 2), ("events", 1))
    problem = refused(begun(*NAMES), given)
    assert [each.service for each in problem.parts] == ["ivor"]
    assert releasedesk.start(begun(*NAMES), Ask(force=True), given).state.run is not None


def test_another_release_is_refused_with_the_id_of_the_one_under_way() -> None:
    state = started()
    assert state.run is not None
    problem = refused(state)
    assert (problem.kind, problem.release) == ("release-running", state.run.id)
    back = releasedesk.roll_back(state, FakeFacts(), WHY, now=1.0, fresh=Chance()).state
    assert refused(back).release == state.run.id  # it is not over yet
    over = releasedesk.undone(back, "undone", 2.0, Chance()).state
    again = started(over)
    assert again.run is not None
    assert again.run.number == 2


def test_steps_that_lead_nowhere_are_refused_with_their_field() -> None:
    problem = refused(begun(*NAMES), wish=Wish(steps=(Step(weight=500, hold=1.0),)))
    assert (problem.status, problem.field) == (422, "steps.0.weight")


# --- on its way -----------------------------------------------------------------------------------


class Moves(RuleBasedStateMachine):
    """Everything that can happen to a release, in any order, with pools that come and go."""

    @initialize()
    def begin(self) -> None:
        self.chance, self.facts = Chance(), FakeFacts()
        self.state = begun(*NAMES)
        self.salts: dict[str, bytes] = {}
        self.now = 100.0

    def _put(self, state: State) -> None:
        assert state.revision >= self.state.revision
        if state.traffic() != self.state.traffic():
            assert state.revision > self.state.revision
        self.state = state

    @rule(services=st.sampled_from([None, ("ivor",), ("events", "website")]), force=st.booleans())
    def start(self, services: tuple[str, ...] | None, force: bool) -> None:
        with contextlib.suppress(Refused):
            ask = Ask(services=services, force=force)
            self._put(releasedesk.start(self.state, ask, ground(self.chance)).state)

    @precondition(lambda self: self.state.running is not None)
    @rule(step=st.integers(0, 3))
    def advance(self, step: int) -> None:
        run = self.state.running
        assert run is not None
        if step >= run.step and run.state != "baking":
            self._put(releasedesk.advance(self.state, step, self.now, self.chance).state)

    @precondition(lambda self: self.state.running is not None)
    @rule(event=st.sampled_from(["pause", "resume", "hold"]))
    def plainly(self, event: str) -> None:
        run = self.state.running
        assert run is not None
        if knows(run.state, event):  # type: ignore[arg-type]
            done = releasedesk.plainly(
                self.state,
                event,  # type: ignore[arg-type]
                self.now,
                self.chance,
            )
            self._put(done.state)

    @precondition(lambda self: self.state.running is not None)
    @rule(force=st.booleans())
    def roll_back(self, force: bool) -> None:
        before = self.state
        done = releasedesk.roll_back(
            before, self.facts, WHY, now=self.now, fresh=self.chance, force=force
        )
        for service in before.services:
            after = done.state.of(service.name)
            assert after is not None
            dead = (service.name, service.stable) in self.facts.down
            lives = (service.name, service.candidate) not in self.facts.down
            if service.weight and dead and lives and not force:
                assert after.weight == service.weight
            elif before.run is not None and before.run.part(service.name):
                assert after.weight == 0
        assert done.state.run is not None
        assert done.state.run.state == ("held" if done.refused else "rolling_back")
        assert done.state.run.wants_back is bool(done.refused)
        self._put(done.state)

    @precondition(
        lambda self: self.state.run is not None and self.state.run.state == "rolling_back"
    )
    @rule(event=st.sampled_from(["undone", "undone_by_hand"]))
    def undone(self, event: str) -> None:
        done = releasedesk.undone(self.state, event, self.now, self.chance)  # type: ignore[arg-type]
        self._put(done.state)

    @precondition(lambda self: self.state.running is not None)
    @rule()
    def finalize(self) -> None:
        run, before = self.state.running, self.state
        assert run is not None
        whole = all(each.weight == BUCKETS for each in before.services if run.part(each.name))
        if not whole:
            return
        with contextlib.suppress(IllegalMoveError):
            self._put(releasedesk.finalize(before, self.now, self.chance).state)
            for service in self.state.services:
                former = before.of(service.name)
                assert former is not None
                swapped = run.part(service.name) is not None
                assert (service.stable != former.stable) is swapped

    @rule(name=st.sampled_from(NAMES), color=st.sampled_from(COLORS))
    def health(self, name: str, color: Color) -> None:
        self.facts.down ^= {(name, color)}

    @invariant()
    def its_services_are_one_unit(self) -> None:
        run = self.state.run
        if run is None:
            return
        weights = {each.weight for each in self.state.services if run.part(each.name)}
        assert {each.weight for each in self.state.services if not run.part(each.name)} <= {0}
        if run.state not in RUNNING:
            assert weights == {0}
        elif run.wants_back or run.state == "held":
            assert weights <= {0, run.weight}
        else:
            assert weights == {run.weight}

    @invariant()
    def a_salt_and_an_id_are_a_releases_own_and_the_same_to_its_end(self) -> None:
        run = self.state.running
        if run is None:
            assert self.state.release == ""
            return
        assert self.state.release == run.id
        assert self.salts.setdefault(run.id, self.state.salt) == self.state.salt
        assert len(set(self.salts.values())) == len(self.salts)

    @invariant()
    def it_survives_its_own_encoding(self) -> None:
        encoded = msgspec.json.encode(self.state.run)
        assert msgspec.json.decode(encoded, type=type(self.state.run)) == self.state.run


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
