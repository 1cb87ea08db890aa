"""Rate limits: what GCRA admits, whom it holds apart, and what a full table may do."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import pytest

from gateway.policy import limit as limit_module
from gateway.policy.limit import CELL, MEMO_SIZE, WAYS, Limit, LimiterTable

SECOND = 1_000_000_000
NOW = 5_000 * SECOND


def _table(sets: int = 64) -> LimiterTable:
    return LimiterTable(memoryview(array("Q", bytes(8 * sets * WAYS * CELL))), 0, sets, b"secret")


COMPILED = not str(limit_module.__file__).endswith(".py")


def _resident() -> int:
    """Return this process's memory in octets."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


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


@pytest.mark.parametrize("burst", [364, 106_751, 200_000, 10**9])
def test_a_burst_that_takes_years_is_no_limit(burst: int) -> None:
    """In 64 bits it would overflow, or wrap and admit everything."""
    with pytest.raises(ValueError, match="more than a year"):
        Limit(_table(), b"r", 1, 86_400.0, burst)


def test_the_longest_limit_counts_as_any_other() -> None:
    limit = Limit(_table(), b"r", 1, 86_400.0, 363)
    now = 2**62  # a machine that has been up for longer than any
    assert sum(_admits(limit, "192.0.2.1", now) for _ in range(1000)) == 364
    assert limit.reset == 86_400 * SECOND


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
    assert _admits(wider, "192.0.2.1", NOW + SECOND // 100)


def test_a_limit_that_was_made_stricter_asks_for_one_of_its_intervals_at_most() -> None:
    table = _table()
    wide = Limit(table, b"r", 10, 1.0, 99)
    assert sum(_admits(wide, "192.0.2.1", NOW) for _ in range(200)) == 100
    strict = Limit(table, b"r", 1, 2.0, 0)
    assert 0 < strict.ask("192.0.2.1", NOW) <= 2 * SECOND
    assert _admits(strict, "192.0.2.1", NOW + 2 * SECOND)
    assert not _admits(strict, "192.0.2.1", NOW + 3 * SECOND)


def test_its_own_bucket_cannot_be_pushed_out_and_had_anew() -> None:
    """Whoever floods the table with other keys gains one request, not a burst: and pays for it."""
    limit = Limit(_table(8), b"r", 1, 1.0, 9)
    assert sum(_admits(limit, b"attacker", NOW) for _ in range(20)) == 10
    gained = 0
    for wave in range(100):
        asked = sum(_admits(limit, b"%d-%d" % (wave, at), NOW) for at in range(64))
        assert asked  # an attacker who has so many addresses has their limits, too
        gained += _admits(limit, b"attacker", NOW)
    assert gained <= 100
    assert not all(_admits(limit, b"attacker", NOW) for _ in range(2))


def test_a_flood_of_keys_locks_nobody_out() -> None:
    """A newcomer to a full table has one request at once, and then the rate."""
    limit = Limit(_table(8), b"r", 10, 1.0, 9)
    for at in range(10_000):
        _admits(limit, b"flood-%d" % at, NOW)
    admitted = 0
    for step in range(100):  # half the rate, while the flood goes on
        now = NOW + step * SECOND // 5
        for at in range(20):
            _admits(limit, b"flood-%d-%d" % (step, at), now)
        admitted += _admits(limit, b"visitor", now)
    assert admitted == 100


def test_which_keys_share_a_set_is_the_secrets() -> None:
    """Keys that crowd one set under one secret are spread under the next boot's."""

    def sets(secret: bytes, keys: list[bytes]) -> list[int]:
        words = memoryview(array("Q", bytes(8 * 64 * WAYS * CELL)))
        table = LimiterTable(words, 0, 64, secret)
        limit = Limit(table, b"r", 1, 1.0, 0)
        found = []
        for key in keys:
            assert _admits(limit, key, NOW)
            cell = next(at for at in range(0, len(words), CELL) if words[at])
            found.append(cell // (WAYS * CELL))
            words[cell] = words[cell + 1] = 0
        return found

    keys = [b"%d" % at for at in range(800)]
    crowded = [key for key, at in zip(keys, sets(b"one", keys), strict=True) if at == 7]
    assert set(sets(b"one", crowded)) == {7}
    assert len(crowded) >= 4
    assert len(set(sets(b"two", crowded))) > len(crowded) // 2


def test_a_thousand_limits_remember_no_more_clients_than_one() -> None:
    table = _table()
    limits = [Limit(table, b"r %d" % at, 1, 1.0, 0) for at in range(1000)]
    for at in range(3 * MEMO_SIZE):
        limits[at % 1000].ask(f"192.0.2.{at % 256}", NOW)
    assert 0 < len(table.keys) <= MEMO_SIZE
    # One client is not the same to two limits.
    assert _admits(limits[0], "192.0.2.1", NOW)
    assert not _admits(limits[0], "192.0.2.1", NOW)
    assert _admits(limits[1], "192.0.2.1", NOW)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_million_keys_take_no_more_memory_than_the_table_and_the_memo() -> None:
    words = array("Q", bytes(8 * 32 * 1024 * WAYS * CELL))
    limit = Limit(LimiterTable(memoryview(words), 0, 32 * 1024, b"s"), b"r", 60, 60.0, 4)
    for at in range(2 * MEMO_SIZE):
        _admits(limit, b"warm-%d" % at, NOW)
    before = _resident()
    for at in range(1_000_000 if COMPILED else 100_000):
        _admits(limit, b"key-%d" % at, NOW)
    # A dictionary of a million such keys takes over 100 MiB.
    assert _resident() - before < 4 * 1024 * 1024
    assert sum(_admits(limit, b"key-0", NOW) for _ in range(20)) <= 4
    assert sum(_admits(limit, b"new", NOW) for _ in range(20)) <= 5


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
