"""The desk: what each call makes of the state, by table and by a machine of random calls."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.config.snapshot import BUCKETS, COLORS, Color
from gateway.control import desk, pooldesk
from gateway.control.desk import Outcome, Refused, Share
from gateway.control.state import PoolState, ServiceState, State

NAMES = ("events", "ivor")


@dataclass
class FakeFacts:
    """Pools serve unless told otherwise."""

    down: set[tuple[str, Color]] = field(default_factory=set)
    unseen: set[tuple[str, Color]] = field(default_factory=set)
    open_tunnels: dict[tuple[str, Color], int] = field(default_factory=dict)

    def proven(self, service: str, color: Color) -> bool:
        return (service, color) not in self.down | self.unseen

    def able(self, service: str, color: Color) -> bool:
        return (service, color) not in self.down

    def tunnels(self, service: str, color: Color) -> int:
        return self.open_tunnels.get((service, color), 0)


class Chance:
    """Counts, so that every draw is another."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def __call__(self) -> bytes:
        return next(self._count).to_bytes(11, "big") * 2


def pool(generation: int, *urls: str) -> PoolState:
    return PoolState(generation=generation, endpoints=urls or ("http://127.0.0.1:1",))


def begun(*names: str) -> State:
    return State(
        revision=1,
        services=tuple(
            ServiceState(name=name, stable="blue", generation=2, blue=pool(1), green=pool(2))
            for name in names or NAMES
        ),
    )


def at(state: State, weight: int, *names: str, facts: FakeFacts | None = None) -> State:
    share = Share(side="candidate", weight=weight, services=names or None)
    return desk.set_traffic(state, facts or FakeFacts(), share, Chance()).state


def back(state: State, facts: FakeFacts | None = None, **call: object) -> Outcome:
    given: dict[str, object] = {"to": "stable", "names": None, "force": False} | call
    return desk.rollback(state, facts or FakeFacts(), fresh=Chance(), **given)  # type: ignore[arg-type]


def test_a_split_gets_a_salt_and_keeps_it_until_it_is_back_at_0() -> None:
    chance = Chance()
    facts = FakeFacts()

    def put(state: State, weight: int, *names: str) -> State:
        share = Share(side="candidate", weight=weight, services=names or None)
        return desk.set_traffic(state, facts, share, chance).state

    first = put(begun(), 500, "ivor")
    assert first.salt
    assert first.release
    second = put(put(first, 2000), 0, "ivor")
    assert (second.salt, second.release) == (first.salt, first.release)
    over = put(second, 0)
    assert over.release == ""
    again = put(over, 500)
    assert again.salt != first.salt
    assert again.release != first.release


def test_the_revision_grows_exactly_when_traffic_changes() -> None:
    state = begun()
    moved = at(state, 20)
    assert moved.revision == state.revision + 1
    assert at(moved, 20) == moved
    replaced = pooldesk.put_pool(
        state, FakeFacts(), "ivor", "green", ("http://127.0.0.1:9",), Chance()
    ).state
    assert replaced.revision == state.revision
    assert replaced != state


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (FakeFacts(down={("ivor", "green")}), "candidate-unavailable"),
        (FakeFacts(unseen={("ivor", "green")}), "candidate-unavailable"),
    ],
)
def test_a_share_needs_a_candidate_that_was_seen_healthy(facts: FakeFacts, kind: str) -> None:
    with pytest.raises(Refused) as refused:
        at(begun(), 20, facts=facts)
    assert refused.value.kind == kind
    assert [part.service for part in refused.value.parts] == ["ivor"]
    forced = Share(side="candidate", weight=20, force=True)
    assert not desk.set_traffic(begun(), facts, forced, Chance()).state.zero
    assert at(at(begun(), 20), 0, facts=facts).zero  # down to 0 needs nobody


def test_a_color_counts_only_where_it_is_the_candidate_of_all() -> None:
    state = desk.adopt(begun(), "green", ["ivor"], Chance()).state
    with pytest.raises(Refused) as refused:
        desk.set_traffic(state, FakeFacts(), Share(side="green", weight=1), Chance())
    assert refused.value.kind == "not-the-candidate"
    only = Share(side="green", weight=1, services=("events",))
    moved = desk.set_traffic(state, FakeFacts(), only, Chance()).state
    assert moved.of("events") != state.of("events")
    assert moved.of("ivor") == state.of("ivor")


def test_unknown_services_are_named() -> None:
    with pytest.raises(Refused) as refused:
        at(begun(), 20, "ivor", "nope")
    assert (refused.value.status, refused.value.field) == (422, "services.1")
    with pytest.raises(Refused) as refused:
        pooldesk.drain(begun(), "nope", "green", Chance())
    assert refused.value.status == 404


def test_finalize_swaps_what_is_at_100_and_leaves_what_is_at_0() -> None:
    state = at(begun(), BUCKETS, "ivor")
    done = desk.finalize(state, None, Chance())
    assert done.touched == ("ivor",)
    ivor = done.state.of("ivor")
    assert ivor is not None
    assert (ivor.stable, ivor.weight, ivor.previous) == ("green", 0, "open")
    assert desk.finalize(done.state, None, Chance()).state == done.state
    with pytest.raises(Refused) as refused:
        desk.finalize(at(state, 5000, "events"), None, Chance())
    assert refused.value.kind == "not-at-100"


def test_previous_is_open_until_the_former_pool_is_replaced() -> None:
    state = desk.finalize(at(begun("ivor"), BUCKETS), None, Chance()).state
    replaced = pooldesk.put_pool(state, FakeFacts(), "ivor", "blue", ("http://h:1",), Chance())
    with pytest.raises(Refused) as refused:
        back(replaced.state, to="previous")
    assert refused.value.kind == "no-previous"
    assert back(replaced.state).state == replaced.state
    undone = back(state, to="previous")
    ivor = undone.state.of("ivor")
    assert ivor is not None
    assert (ivor.stable, ivor.previous) == ("blue", "taken")
    assert back(undone.state, to="previous").state == undone.state
    assert back(undone.state).state == undone.state


def test_previous_waits_until_nothing_is_split() -> None:
    state = desk.finalize(at(begun("ivor"), BUCKETS), None, Chance()).state
    with pytest.raises(Refused) as refused:
        back(at(state, 5), to="previous")
    assert refused.value.kind == "split-in-force"


@pytest.mark.parametrize(
    ("down", "force", "moved", "refused"),
    [
        (set(), False, ("events", "ivor"), ()),
        ({("ivor", "blue")}, False, ("events",), ("ivor",)),
        ({("ivor", "blue")}, True, ("events", "ivor"), ()),
        # Neither can serve: nothing is worse on stable.
        ({("ivor", "blue"), ("ivor", "green")}, False, ("events", "ivor"), ()),
    ],
)
def test_a_rollback_goes_per_service(
    down: set[tuple[str, Color]], force: bool, moved: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    outcome = back(at(begun(), 20), FakeFacts(down=down), force=force)
    assert outcome.touched == moved
    assert tuple(part.service for part in outcome.refused) == refused


def test_a_rollback_of_which_nothing_can_be_done_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        back(at(begun("ivor"), 20), FakeFacts(down={("ivor", "blue")}))
    assert refused.value.kind == "stable-unavailable"


def test_a_rollback_opens_a_drained_stable() -> None:
    state = pooldesk.drain(at(begun("ivor"), BUCKETS), "ivor", "blue", Chance()).state
    assert state.traffic().services[0].closed == ("blue",)
    assert back(state).state.traffic().services[0].closed == ()


def test_an_isolated_stable_is_no_target_unless_forced() -> None:
    isolated = pooldesk.isolate(
        at(begun("ivor"), 20), FakeFacts(), "ivor", "blue", force=False, fresh=Chance()
    ).state
    with pytest.raises(Refused):
        back(isolated)
    assert back(isolated, force=True).state.traffic().services[0].closed == ()


def test_a_rollback_that_helps_nobody_lifts_no_isolation() -> None:
    both = at(begun("ivor"), 20)
    for color in COLORS:
        both = pooldesk.isolate(both, FakeFacts(), "ivor", color, force=True, fresh=Chance()).state
    ivor = back(both).state.of("ivor")
    assert ivor is not None
    assert (ivor.weight, ivor.isolated) == (0, ("blue", "green"))


@pytest.mark.parametrize("weight", [1, BUCKETS])
def test_a_drain_of_the_candidate_takes_its_share_along(weight: int) -> None:
    drained = pooldesk.drain(at(begun("ivor"), weight), "ivor", "candidate", Chance()).state
    ivor = drained.of("ivor")
    assert ivor is not None
    assert (ivor.weight, ivor.closed) == (0, ("green",))
    assert pooldesk.drain(drained, "ivor", "green", Chance()).state == drained
    opened = at(drained, 1).of("ivor")
    assert opened is not None
    assert opened.closed == ()


def test_a_drain_says_when_the_candidates_tunnels_end() -> None:
    drained = pooldesk.drain(begun("ivor"), "ivor", "candidate", Chance(), 100.0).state
    assert drained.traffic().services[0].tunnels_until == 100.0
    # Asked again, the earlier one holds: a second call does not put off the first.
    for until, wanted in ((200.0, 100.0), (50.0, 50.0)):
        again = pooldesk.drain(drained, "ivor", "candidate", Chance(), until)
        assert again.state.traffic().services[0].tunnels_until == wanted
        assert bool(again.touched) == (wanted != 100.0)
    ivor = drained.of("ivor")
    assert ivor is not None
    # A new build's are its own, and stable's stay.
    assert ivor.new_pool("green", ("http://127.0.0.1:1",), "api").tunnels_until == 0.0
    assert at(drained, 1).traffic().services[0].tunnels_until == 0.0
    stable = pooldesk.drain(at(begun("ivor"), BUCKETS), "ivor", "stable", Chance(), 100.0)
    assert stable.state.traffic().services[0].tunnels_until == 0.0


def test_tunnels_of_who_becomes_the_candidate_are_not_told_to_go() -> None:
    """The time is about the color that was drained; stable's clients have done nothing."""
    drained = pooldesk.drain(begun("ivor"), "ivor", "candidate", Chance(), 100.0).state
    adopted = desk.adopt(drained, "green", ["ivor"], Chance()).state
    finalized = desk.finalize(at(begun("ivor"), BUCKETS), None, Chance()).state
    former = pooldesk.drain(finalized, "ivor", "candidate", Chance(), 100.0).state
    assert former.traffic().services[0].tunnels_until == 100.0
    for swapped in (adopted, back(former, to="previous").state):
        assert swapped.traffic().services[0].tunnels_until == 0.0


def test_stable_is_drained_only_when_the_candidate_has_everything() -> None:
    for weight in (0, BUCKETS - 1):
        with pytest.raises(Refused):
            pooldesk.drain(at(begun("ivor"), weight), "ivor", "stable", Chance())
    assert pooldesk.drain(at(begun("ivor"), BUCKETS), "ivor", "stable", Chance()).touched


def test_maintenance_is_traffic_and_survives_a_rollback() -> None:
    state = begun()
    maintained = pooldesk.maintain(state, "ivor", 300.0, Chance())
    assert maintained.touched == ("ivor",)
    assert maintained.state.revision == 2
    assert [each.maintenance for each in maintained.state.traffic().services] == [None, 300.0]
    assert pooldesk.maintain(maintained.state, "ivor", 300.0, Chance()).touched == ()
    longer = pooldesk.maintain(maintained.state, "ivor", 600.0, Chance()).state
    assert longer.revision == 3
    rolled = back(at(longer, 500)).state
    assert rolled.traffic().services[1].maintenance == 600.0
    ended = pooldesk.end_maintenance(rolled, "ivor", Chance())
    assert ended.state.traffic().services[1].maintenance is None
    assert pooldesk.end_maintenance(ended.state, "ivor", Chance()).touched == ()
    with pytest.raises(Refused) as caught:
        pooldesk.maintain(state, "nobody", 1.0, Chance())
    assert caught.value.status == 404


def test_reset_keeps_a_pool_that_has_the_files_endpoints_already() -> None:
    urls = ("http://h:1",)
    state = pooldesk.put_pool(begun("ivor"), FakeFacts(), "ivor", "green", urls, Chance()).state
    same = pooldesk.reset_pool(state, FakeFacts(), "ivor", "green", urls, Chance()).state.of("ivor")
    assert same is not None
    assert (same.green.source, same.green.generation) == ("file", 3)
    other = pooldesk.reset_pool(state, FakeFacts(), "ivor", "green", (), Chance()).state.of("ivor")
    assert other is not None
    assert (other.green.source, other.green.generation) == ("file", 4)


class Desk(RuleBasedStateMachine):
    """Random calls; the rules of roles, weights, generations and revisions hold throughout."""

    @initialize()
    def begin(self) -> None:
        self.state = begun()
        self.chance = Chance()
        self.facts = FakeFacts()
        self.generations = dict.fromkeys(NAMES, 2)
        self.last = self.state

    def _step(self, outcome: Outcome) -> None:
        before, after = self.state, outcome.state
        assert (after.revision > before.revision) is (after.traffic() != before.traffic())
        if not before.zero and not after.zero:
            assert (after.salt, after.release) == (before.salt, before.release)
        if before.zero and not after.zero:
            assert after.salt != before.salt
        self.state = after

    def _try(self, call: object) -> None:
        with contextlib.suppress(Refused):
            self._step(call())  # type: ignore[operator]

    @rule(
        weight=st.sampled_from([0, 1, 5000, BUCKETS]),
        side=st.sampled_from(["candidate", "blue", "green"]),
        services=st.one_of(st.none(), st.sets(st.sampled_from(NAMES), min_size=1).map(tuple)),
        force=st.booleans(),
    )
    def set_traffic(
        self, weight: int, side: str, services: tuple[str, ...] | None, force: bool
    ) -> None:
        share = Share(side=side, weight=weight, services=services, force=force)  # type: ignore[arg-type]
        self._try(lambda: desk.set_traffic(self.state, self.facts, share, self.chance))

    @rule()
    def finalize(self) -> None:
        self._try(lambda: desk.finalize(self.state, None, self.chance))

    @rule(to=st.sampled_from(["stable", "previous"]), force=st.booleans())
    def rollback(self, to: str, force: bool) -> None:
        self._try(
            lambda: desk.rollback(
                self.state,
                self.facts,
                to=to,  # type: ignore[arg-type]
                names=None,
                force=force,
                fresh=self.chance,
            )
        )
        if to == "stable" and force:
            assert self.state.zero

    @rule(name=st.sampled_from(NAMES), color=st.sampled_from(COLORS))
    def put(self, name: str, color: Color) -> None:
        self._try(
            lambda: pooldesk.put_pool(
                self.state, self.facts, name, color, ("http://127.0.0.1:7",), self.chance
            )
        )

    @rule(name=st.sampled_from(NAMES), color=st.sampled_from(COLORS))
    def drain(self, name: str, color: Color) -> None:
        self._try(lambda: pooldesk.drain(self.state, name, color, self.chance))

    @rule(name=st.sampled_from(NAMES), color=st.sampled_from(COLORS), force=st.booleans())
    def isolate(self, name: str, color: Color, force: bool) -> None:
        self._try(
            lambda: pooldesk.isolate(
                self.state, self.facts, name, color, force=force, fresh=self.chance
            )
        )

    @rule(name=st.sampled_from(NAMES), which=st.sampled_from([None, "blue", "candidate"]))
    def lift(self, name: str, which: desk.ColorOrRole | None) -> None:
        self._try(lambda: pooldesk.lift(self.state, name, which, self.chance))

    @rule(name=st.sampled_from(NAMES), seconds=st.sampled_from([None, 60.0, 300.0]))
    def maintenance(self, name: str, seconds: float | None) -> None:
        if seconds is None:
            self._try(lambda: pooldesk.end_maintenance(self.state, name, self.chance))
        else:
            self._try(lambda: pooldesk.maintain(self.state, name, seconds, self.chance))

    @rule(name=st.sampled_from(NAMES), color=st.sampled_from(COLORS))
    def health(self, name: str, color: Color) -> None:
        self.facts.down ^= {(name, color)}

    @invariant()
    def generations_only_grow(self) -> None:
        for service in self.state.services:
            highest = max(service.blue.generation, service.green.generation)
            assert service.blue.generation != service.green.generation
            assert self.generations[service.name] <= highest == service.generation
            self.generations[service.name] = highest

    @invariant()
    def weights_are_within_bounds_and_a_split_has_an_id(self) -> None:
        assert all(0 <= each.weight <= BUCKETS for each in self.state.services)
        assert bool(self.state.release) is not self.state.zero
        assert self.state.zero or len(self.state.salt) == 16

    @invariant()
    def it_survives_its_own_encoding(self) -> None:
        encoded = msgspec.msgpack.encode(self.state)
        assert msgspec.msgpack.decode(encoded, type=State) == self.state


TestDesk = Desk.TestCase
TestDesk.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
