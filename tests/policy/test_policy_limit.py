"""Rate limits: what GCRA admits, whom it holds apart, and what a full table may do."""

from __future__ import annotations

from array import array

import pytest

from gateway.policy.limit import CELL, WAYS, Limit, LimiterTable

SECOND = 1_000_000_000
NOW = 5_000 * SECOND


def _table(sets: int = 64) -> LimiterTable:
    return LimiterTable(memoryview(array("Q", bytes(8 * sets * WAYS * CELL))), 0, sets, b"secret")


def _admits(limit: Limit, client: str | bytes, now: int) -> bool:
    if limit.ask(client, now):
        return False
    limit.take()
    return True


def test_a_burst_passes_at_once_and_then_the_rate() -> None:
    limit = Limit(_table(), b"r", 60, 60.0, 20)
    assert sum(_admits(limit, "192.0.2.1", NOW) for _ in range(100)) == 21
    assert limit.reset == SECOND
    assert not _admits(limit, "192.0.2.1", NOW + SECOND - 1)
    assert _admits(limit, "192.0.2.1", NOW + SECOND)
    assert not _admits(limit, "192.0.2.1", NOW + SECOND)


def test_over_a_stretch_of_time_it_admits_the_rate_and_the_burst() -> None:
    limit = Limit(_table(), b"r", 100, 1.0, 50)
    step = SECOND // 1000  # ten times the rate
    admitted = sum(_admits(limit, "192.0.2.1", NOW + at * step) for at in range(10_000))
    assert 1000 + 50 <= admitted <= 1000 + 51


def test_no_burst_admits_one_at_a_time() -> None:
    limit = Limit(_table(), b"r", 1, 1.0, 0)
    assert _admits(limit, "192.0.2.1", NOW)
    assert not _admits(limit, "192.0.2.1", NOW)


def test_what_is_left_and_when_all_is_there_again() -> None:
    limit = Limit(_table(), b"r", 1, 1.0, 2)
    assert (limit.quota, limit.window) == (3, 3)
    seen = []
    for _ in range(4):
        _admits(limit, "192.0.2.1", NOW)
        seen.append((limit.left, limit.reset // SECOND))
    assert seen == [(2, 1), (1, 2), (0, 1), (0, 1)]


def test_asking_takes_nothing() -> None:
    limit = Limit(_table(), b"r", 1, 1.0, 0)
    assert limit.ask("192.0.2.1", NOW) == 0
    assert limit.ask("192.0.2.1", NOW) == 0


def test_of_ipv6_the_64_counts_and_an_identity_is_no_address() -> None:
    limit = Limit(_table(), b"r", 1, 1.0, 0)
    assert _admits(limit, "2001:db8::1", NOW)
    assert not _admits(limit, "2001:db8::ffff", NOW)
    assert _admits(limit, "2001:db8:0:1::1", NOW)
    assert _admits(limit, "192.0.2.1", NOW)
    assert _admits(limit, b"192.0.2.1", NOW)


def test_limits_with_other_identities_do_not_share() -> None:
    table = _table()
    one, other = Limit(table, b"one", 1, 1.0, 0), Limit(table, b"other", 1, 1.0, 0)
    assert _admits(one, "192.0.2.1", NOW)
    assert _admits(other, "192.0.2.1", NOW)


def test_a_limit_made_anew_goes_on_where_it_was() -> None:
    table = _table()
    assert _admits(Limit(table, b"r", 1, 1.0, 0), "192.0.2.1", NOW)
    assert not _admits(Limit(table, b"r", 1, 1.0, 0), "192.0.2.1", NOW)


def test_a_limit_that_was_made_wider_keeps_nobody_out_for_the_old_ones_time() -> None:
    table = _table()
    assert _admits(Limit(table, b"r", 1, 86_400.0, 0), "192.0.2.1", NOW)
    wider = Limit(table, b"r", 100, 1.0, 0)
    assert 0 < wider.ask("192.0.2.1", NOW) <= SECOND // 100


def test_who_comes_into_a_full_set_begins_without_a_burst() -> None:
    limit = Limit(_table(1), b"r", 1, 1.0, 9)
    for at in range(WAYS):
        for _ in range(10):
            assert _admits(limit, f"192.0.2.{at}", NOW)
    assert [_admits(limit, "198.51.100.1", NOW) for _ in range(2)] == [True, False]


def test_times_that_have_passed_give_way_first() -> None:
    limit = Limit(_table(1), b"r", 1, 1.0, 0)
    for at in range(WAYS):
        assert _admits(limit, f"192.0.2.{at}", NOW + at * SECOND // 10)
    # The first one's time is over; the others' are not.
    later = NOW + SECOND + SECOND // 20
    assert _admits(limit, "198.51.100.1", later)
    assert all(not _admits(limit, f"192.0.2.{at}", later) for at in range(1, WAYS))


def test_more_keys_than_cells_change_nothing_about_the_size_and_widen_no_limit() -> None:
    words = array("Q", bytes(8 * 1024 * WAYS * CELL))
    limit = Limit(LimiterTable(memoryview(words), 0, 1024, b"s"), b"r", 1, 1.0, 4)
    for at in range(50_000):
        _admits(limit, b"key-%d" % at, NOW)
    assert len(words) == 1024 * WAYS * CELL
    assert sum(_admits(limit, b"new", NOW) for _ in range(20)) == 1


@pytest.mark.parametrize("sets", [0, 3, -4])
def test_a_table_has_a_power_of_two_of_sets(sets: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        LimiterTable(memoryview(array("Q", [0])), 0, sets, b"")


@pytest.mark.parametrize(("count", "period", "burst"), [(0, 1.0, 0), (1, 0.0, 0), (1, 1.0, -1)])
def test_no_limit_is_refused(count: int, period: float, burst: int) -> None:
    with pytest.raises(ValueError, match="no such limit"):
        Limit(_table(), b"", count, period, burst)
