"""The breakers' desk: what opening and resetting by hand make of the state."""

from __future__ import annotations

import msgspec
import pytest

from gateway.config.snapshot import Color
from gateway.control import breakerdesk
from gateway.control.desk import Refused
from gateway.control.state import PoolState, ServiceState, State

BLUE = ("ivor-blue-1-0", "ivor-blue-1-1")
GREEN = "ivor-green-2-0"
ALL = frozenset((*BLUE, GREEN))


def state(weight: int = 0, **more: object) -> State:
    service = ServiceState(
        name="ivor",
        stable="blue",
        weight=weight,
        generation=2,
        blue=PoolState(generation=1, endpoints=("http://a:1", "http://a:2")),
        green=PoolState(generation=2, endpoints=("http://b:1",)),
    )
    return State(revision=1, services=(msgspec.structs.replace(service, **more),))


def opened(of: State, endpoint: str, usable: frozenset[str] = ALL, *, force: bool = False) -> State:
    return breakerdesk.force_open(of, endpoint, usable, force=force).state


def forced(of: State) -> tuple[str, ...]:
    return of.services[0].forced


def test_opened_and_reset_by_hand() -> None:
    once = opened(state(), BLUE[0])
    assert forced(once) == (BLUE[0],)
    assert once.revision == state().revision  # workers serve the same traffic
    assert opened(once, BLUE[0]) == once
    assert breakerdesk.reset(once, BLUE[0]).state == state()
    assert breakerdesk.reset(state(), BLUE[0]).state == state()


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        ("ivor-blue-3-0", "did you mean ivor-blue-1-0?"),
        ("", "GET /v1/breakers lists them"),
        ("ivor-blue-1-2", "did you mean"),
    ],
)
def test_an_id_that_there_is_not_is_404_with_the_nearest(endpoint: str, hint: str) -> None:
    for call in (lambda: opened(state(), endpoint), lambda: breakerdesk.reset(state(), endpoint)):
        with pytest.raises(Refused) as refused:
            call()
        assert (refused.value.status, refused.value.kind) == (404, "unknown-endpoint")
        assert refused.value.hint is not None
        assert hint in refused.value.hint


@pytest.mark.parametrize("usable", [frozenset({BLUE[0]}), frozenset({BLUE[0], GREEN}), frozenset()])
def test_the_last_one_that_could_serve_needs_force(usable: frozenset[str]) -> None:
    with pytest.raises(Refused) as refused:
        opened(state(), BLUE[0], usable)
    assert refused.value.kind == "last-endpoint"
    assert forced(opened(state(), BLUE[0], usable, force=True)) == (BLUE[0],)


@pytest.mark.parametrize(
    ("weight", "closed", "endpoint", "refused"),
    [
        (0, {}, GREEN, False),
        (1, {}, GREEN, True),
        (10_000, {}, BLUE[0], False),
        (9_999, {}, BLUE[0], True),
        (1, {"isolated": ("green",)}, GREEN, False),
        (0, {"isolated": ("blue",)}, GREEN, True),
        (0, {"isolated": ("blue",)}, BLUE[0], False),
    ],
)
def test_only_a_pool_that_is_sent_requests_keeps_its_last(
    weight: int, closed: dict[str, tuple[Color, ...]], endpoint: str, refused: bool
) -> None:
    before = state(weight, **closed)
    if refused:
        with pytest.raises(Refused):
            opened(before, endpoint, frozenset({endpoint}))
    else:
        assert forced(opened(before, endpoint, frozenset({endpoint}))) == (endpoint,)


def test_another_generation_of_a_pool_begins_closed() -> None:
    before = opened(opened(state(), BLUE[0]), GREEN)
    after = before.services[0].new_pool("green", ("http://b:1",), "api")
    assert after.forced == (BLUE[0],)
    assert after.new_pool("blue", ("http://a:1",), "file").forced == ()
