"""Endpoints and pools: the choice, the counts, the idle connections."""

from __future__ import annotations

from collections import Counter
from typing import cast

import pytest

from gateway.board import layout
from gateway.proxy.endpoint import HASH, LEAST_REQUEST, MAX_IDLE, ROUND_ROBIN, Endpoint, Pool
from gateway.proxy.upstream import UpstreamConnection
from tests.support.rig import SLABS, board


def _endpoints(words: memoryview, count: int, slab: int = 0) -> list[Endpoint]:
    return [
        Endpoint(
            id=f"e{cell}",
            host=f"10.0.0.{cell}",
            port=80,
            authority=f"10.0.0.{cell}",
            tls=None,
            cell=cell,
            words=words,
            slab=slab,
            slabs=SLABS,
        )
        for cell in range(count)
    ]


def _pool(members: list[Endpoint], balance: int = LEAST_REQUEST) -> Pool:
    return Pool(members, generation=1, balance=balance, closed=False)


def _health(words: memoryview, cell: int, health: int) -> None:
    words[layout.CELLS_AT + cell * layout.CELL_WORDS + layout.CELL_HEALTH] = health


def _draws() -> list[int]:
    """Every pair of choices, as 32 bits: 16 for the first, 16 for the second."""
    return [(first * 4096) | (second * 4096) << 16 for first in range(16) for second in range(16)]


def _claim(pool: Pool, draw: int = 0, key: str = "192.0.2.1", tried: object = None) -> str:
    chosen = pool.claim(draw, key, tried)
    assert chosen is not None
    chosen.release()
    return chosen.id


def test_an_empty_pool_has_none() -> None:
    assert _pool([]).claim(0, "", None) is None


def test_the_only_one_is_taken_whatever_its_health() -> None:
    words = board()
    members = _endpoints(words, 1)
    _health(words, 0, layout.DOWN)
    assert _claim(_pool(members)) == "e0"


@pytest.mark.parametrize("balance", [LEAST_REQUEST, ROUND_ROBIN, HASH])
def test_a_claim_counts_at_once(balance: int) -> None:
    words = board()
    members = _endpoints(words, 3)
    pool = _pool(members, balance)
    for _ in range(10):
        pool.claim(123456789, "192.0.2.1", None)
    assert sum(member.load() for member in members) == 10
    for member in members:
        for _ in range(member.load()):
            member.release()
    assert sum(member.load() for member in members) == 0


def test_power_of_two_choices_takes_the_less_loaded() -> None:
    words = board()
    members = _endpoints(words, 4)
    pool = _pool(members)
    for _ in range(50):
        members[0].claim()
        members[1].claim()
    chosen = Counter(_claim(pool, draw) for draw in _draws())
    # Where both of them are drawn one of them is taken; else never.
    assert chosen["e2"] + chosen["e3"] > 4 * (chosen["e0"] + chosen["e1"])
    assert chosen["e0"] + chosen["e1"] > 0


def test_loads_are_the_machines() -> None:
    words = board()
    here, there = _endpoints(words, 2), _endpoints(words, 2, slab=1)
    for _ in range(5):
        there[0].claim()
    assert here[0].load() == 5
    assert {_claim(_pool(here), draw) for draw in _draws()[:4]} == {"e1"}
    # What this worker counts out it has counted in itself.
    assert words[layout.slab_at(1) + layout.ENDPOINTS_AT] == 5
    assert words[layout.slab_at(0) + layout.ENDPOINTS_AT] == 0


def test_round_robin_takes_all_in_turn() -> None:
    members = _endpoints(board(), 3)
    pool = _pool(members, ROUND_ROBIN)
    turns = [_claim(pool, draw) for draw in range(9)]
    assert turns[:3] == turns[3:6] == turns[6:]
    assert set(turns) == {"e0", "e1", "e2"}


def test_hash_keeps_a_client_and_spreads_clients() -> None:
    words = board()
    members = _endpoints(words, 4)
    pool = _pool(members, HASH)
    clients = [f"192.0.2.{i}" for i in range(200)]
    chosen = {client: _claim(pool, 0, client) for client in clients}
    assert all(_claim(pool, 9, client) == chosen[client] for client in clients)
    assert min(Counter(chosen.values()).values()) > 20
    # One that goes down moves its own clients only.
    _health(words, 2, layout.DOWN)
    for client in clients:
        now = _claim(pool, 0, client)
        assert now != "e2"
        assert now == chosen[client] or chosen[client] == "e2"


@pytest.mark.parametrize("balance", [LEAST_REQUEST, ROUND_ROBIN, HASH])
def test_up_comes_before_unknown_before_down(balance: int) -> None:
    words = board()
    members = _endpoints(words, 4)
    pool = _pool(members, balance)

    def chosen() -> set[str]:
        return {_claim(pool, draw, f"192.0.2.{draw % 199}") for draw in _draws()}

    assert chosen() == {"e0", "e1", "e2", "e3"}
    _health(words, 0, layout.DOWN)
    assert chosen() == {"e1", "e2", "e3"}
    _health(words, 1, layout.UP)
    _health(words, 2, layout.UP)
    assert chosen() == {"e1", "e2"}
    _health(words, 1, layout.DOWN)
    assert chosen() == {"e2"}
    _health(words, 2, layout.DOWN)
    assert chosen() == {"e3"}
    # All are down: a probe that errs must not take the service away.
    _health(words, 3, layout.DOWN)
    assert chosen() == {"e0", "e1", "e2", "e3"}


@pytest.mark.parametrize("balance", [LEAST_REQUEST, ROUND_ROBIN, HASH])
def test_what_was_tried_comes_last(balance: int) -> None:
    words = board()
    members = _endpoints(words, 3)
    pool = _pool(members, balance)
    for draw in _draws()[:20]:
        assert _claim(pool, draw, tried=(members[0], members[2])) == "e1"
    _health(words, 1, layout.DOWN)
    assert _claim(pool, 0, tried=(members[0], members[2])) == "e1"
    assert _claim(pool, 0, tried=tuple(members)) in {"e0", "e1", "e2"}


class Idle:
    """A connection as its endpoint sees it."""

    def __init__(self) -> None:
        self.closed = False

    def abort(self) -> None:
        self.closed = True


def _idle(member: Endpoint, count: int) -> list[Idle]:
    idles = [Idle() for _ in range(count)]
    for idle in idles:
        member.connections.add(cast("UpstreamConnection", idle))
        member.give_back(cast("UpstreamConnection", idle))
    return idles


def test_the_last_used_connection_is_taken_first() -> None:
    member = _endpoints(board(), 1)[0]
    first, second = _idle(member, 2)
    assert cast("object", member.take_idle()) is second
    assert cast("object", member.take_idle()) is first
    assert member.take_idle() is None


def test_closed_ones_are_passed_over() -> None:
    member = _endpoints(board(), 1)[0]
    first, second = _idle(member, 2)
    second.closed = True
    assert cast("object", member.take_idle()) is first
    assert member.take_idle() is None


def test_idle_connections_are_bounded_and_the_oldest_gives_way() -> None:
    member = _endpoints(board(), 1)[0]
    idles = _idle(member, MAX_IDLE + 3)
    assert member.idle_count() == MAX_IDLE
    assert [idle.closed for idle in idles[:4]] == [True, True, True, False]
    assert len(member.connections) == MAX_IDLE


def test_a_retired_endpoint_keeps_none() -> None:
    member = _endpoints(board(), 1)[0]
    idles = _idle(member, 2)
    member.retire()
    assert all(idle.closed for idle in idles)
    late = _idle(member, 1)[0]
    assert late.closed
    assert member.idle_count() == 0
    assert not member.connections


def test_a_forgotten_connection_is_not_taken() -> None:
    member = _endpoints(board(), 1)[0]
    first = _idle(member, 1)[0]
    member.forget(cast("UpstreamConnection", first))
    member.forget(cast("UpstreamConnection", first))
    assert member.take_idle() is None
    assert not member.connections
