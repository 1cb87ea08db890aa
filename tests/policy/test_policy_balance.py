"""Balance: fair choices from one draw; a hash that moves few keys."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.balance import (
    MAX_ENDPOINTS,
    by_hash,
    least,
    next_in_turn,
    pick_two,
    power_of_two,
    seed,
)

#: An even grid over both halves of a draw.
DRAWS = [high << 16 | low for high in range(64, 65536, 128) for low in range(64, 65536, 128)]


@given(st.integers(1, MAX_ENDPOINTS), st.integers(0, 2**32 - 1))
def test_two_distinct_positions(count: int, draw: int) -> None:
    first, second = pick_two(count, draw)
    assert 0 <= first < count
    assert 0 <= second < count
    assert (first != second) is (count > 1)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_every_pair_is_as_likely(count: int) -> None:
    pairs = Counter(pick_two(count, draw) for draw in DRAWS)
    expected = len(DRAWS) / (count * (count - 1))
    assert len(pairs) == count * (count - 1)
    assert all(abs(seen - expected) < 0.05 * expected for seen in pairs.values())


@pytest.mark.parametrize("count", [0, -1, MAX_ENDPOINTS + 1])
def test_no_choice_from_none_or_too_many(count: int) -> None:
    with pytest.raises(ValueError, match="endpoints"):
        pick_two(count, 1)


def test_the_less_loaded_wins_and_chance_decides_a_tie() -> None:
    assert least(3, 5, 1, 2) == 3
    assert least(3, 5, 2, 1) == 5
    assert least(5, 3, 2, 2) == 5
    assert power_of_two([7], 123) == 0
    assert {power_of_two([4, 0], draw) for draw in DRAWS[:100]} == {1}
    ties = Counter(power_of_two([1, 1, 1, 1], draw) for draw in DRAWS)
    assert all(abs(seen - len(DRAWS) / 4) < 0.05 * len(DRAWS) / 4 for seen in ties.values())


def test_the_most_loaded_of_many_is_never_picked() -> None:
    assert 2 not in {power_of_two([1, 2, 9, 3], draw) for draw in DRAWS[:5000]}


def test_round_robin() -> None:
    turns = [-1]
    for _ in range(7):
        turns.append(next_in_turn(turns[-1], 3))
    assert turns[1:] == [0, 1, 2, 0, 1, 2, 0]
    assert next_in_turn(7, 3) == 0


# --- hash ----------------------------------------------------------------------------------------

KEYS = [seed(b"client-%d" % n) for n in range(20_000)]
SEEDS = [seed(b"ivor-blue-1-%d" % n) for n in range(8)]


def test_seeds_are_the_same_in_every_worker() -> None:
    # Written down: a change moves every client of a pool with `balance: hash`.
    assert seed(b"ivor-blue-1-0") == 449266520
    assert by_hash(seed(b"client-1"), SEEDS) == 3


def test_keys_spread_evenly() -> None:
    for count in (2, 3, 8):
        shares = Counter(by_hash(key, SEEDS[:count]) for key in KEYS)
        expected = len(KEYS) / count
        assert all(abs(seen - expected) < 5 * expected**0.5 for seen in shares.values())
        assert len(shares) == count


def test_an_endpoint_that_goes_moves_only_its_own_keys() -> None:
    before = [SEEDS[by_hash(key, SEEDS)] for key in KEYS]
    left = SEEDS[:3] + SEEDS[4:]
    after = [left[by_hash(key, left)] for key in KEYS]
    moved: Counter[int] = Counter()
    for was, now in zip(before, after, strict=True):
        if was == SEEDS[3]:
            moved[now] += 1
        else:
            assert was == now
    assert len(moved) == 7  # and these spread over all that stay


def test_an_endpoint_that_comes_takes_only_its_share() -> None:
    before = [SEEDS[by_hash(key, SEEDS[:7])] for key in KEYS]
    after = [SEEDS[by_hash(key, SEEDS)] for key in KEYS]
    changed = [now for was, now in zip(before, after, strict=True) if was != now]
    assert set(changed) == {SEEDS[7]}
    assert abs(len(changed) - len(KEYS) / 8) < 5 * (len(KEYS) / 8) ** 0.5


@given(st.integers(0, 2**32 - 1), st.permutations(SEEDS))
def test_the_order_of_the_pool_does_not_matter(key: int, order: list[int]) -> None:
    assert order[by_hash(key, order)] == SEEDS[by_hash(key, SEEDS)]


def test_no_endpoints() -> None:
    with pytest.raises(ValueError, match="no endpoints"):
        by_hash(1, [])
