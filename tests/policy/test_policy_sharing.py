"""One private address that makes nearly all requests: what counts, what is said of it."""

from __future__ import annotations

import pytest

from gateway.policy.sharing import (
    MAX_ADDRESSES,
    MAX_KEYS,
    MIN_REQUESTS,
    WINDOW,
    Requests,
    Sharing,
    is_private,
)

BRIDGE = "172.17.0.1"


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("10.0.0.1", True),
        ("172.16.0.1", True),
        ("172.31.255.255", True),
        ("172.32.0.1", False),
        ("172.15.0.1", False),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("100.128.0.1", False),
        ("169.254.1.1", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("fd00::1", True),
        ("fe80::1", True),
        ("fec0::1", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("", False),
        ("10.no-address", False),
    ],
)
def test_private_addresses(address: str, private: bool) -> None:
    assert is_private(address) is private


def _heard(*rows: tuple[str, int, bool]) -> tuple[int, tuple[str, int, int]]:
    requests = Requests()
    for client, count, forwarded in rows:
        requests.add(client, count, forwarded)
    return requests.take()


def test_a_worker_tells_of_the_busiest_private_address() -> None:
    told = _heard((BRIDGE, 16, False), (BRIDGE, 3, True), ("10.0.0.9", 4, False))
    assert told == (23, (BRIDGE, 19, 3))


def test_a_public_address_and_a_minority_are_nobodys_worry() -> None:
    assert _heard(("192.0.2.1", 100, False)) == (100, ("", 0, 0))
    assert _heard(("192.0.2.1", 60, False), (BRIDGE, 40, False)) == (100, ("", 0, 0))


def test_what_was_taken_is_told_once() -> None:
    requests = Requests()
    requests.add(BRIDGE, 5, forwarded=False)
    assert requests.take()[0] == 5
    assert requests.take() == (0, ("", 0, 0))


def test_containers_of_one_ipv6_network_are_one() -> None:
    assert _heard(("fd00::1", 5, False), ("fd00::2", 5, False)) == (10, ("fd00::/64", 10, 0))


def test_many_private_addresses_take_no_memory_and_hide_nobody() -> None:
    requests = Requests()
    for at in range(2_000):
        requests.add(f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}", 1, forwarded=False)
        assert len(requests._by_address) <= MAX_ADDRESSES
        assert len(requests._keys) <= MAX_KEYS
        for _ in range(30):
            requests.add(BRIDGE, 1, forwarded=True)
    total, (address, count, forwarded) = requests.take()
    assert address == BRIDGE
    assert 60_000 - total / MAX_ADDRESSES <= count <= 60_000
    assert forwarded <= count


@pytest.mark.parametrize("at_once", [1, 7, 16, 300])
def test_the_bound_holds_however_many_requests_are_told_at_once(at_once: int) -> None:
    """A newcomer with more requests than the smallest has takes no more than that of each."""
    requests = Requests()
    true = 1000
    requests.add(BRIDGE, true, forwarded=False)
    for at in range(50):
        requests.add(BRIDGE, at_once, forwarded=False)
        true += at_once
        for small in range(MAX_ADDRESSES - 1):
            requests.add(f"10.1.{at}.{small}", 1, forwarded=False)
        requests.add(f"10.2.{at}.1", at_once, forwarded=True)
        assert len(requests._by_address) <= MAX_ADDRESSES
    counted = requests._by_address[BRIDGE]
    assert true - requests.total / (MAX_ADDRESSES + 1) <= counted.requests <= true


def _sharing(*rows: tuple[str, int, int], total: int, now: float = 0.0) -> Sharing:
    sharing = Sharing()
    sharing.hear(total, rows, now)
    return sharing


def test_nearly_all_requests_of_one_private_address_are_said() -> None:
    found = _sharing((BRIDGE, 960, 0), total=1000).look(1.0)
    assert found is not None
    assert (found.address, found.share, found.requests, found.forwards) == (
        BRIDGE, 0.96, 1000, False,
    )  # fmt: skip


def test_what_is_no_news() -> None:
    assert _sharing((BRIDGE, 940, 0), total=1000).look(1.0) is None  # others come, too
    few = MIN_REQUESTS - 1
    assert _sharing((BRIDGE, few, 0), total=few).look(1.0) is None
    assert _sharing(total=1000).look(1.0) is None


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::/64"])
def test_loopback_counts_where_it_is_a_proxy(loopback: str) -> None:
    assert _sharing((loopback, 1000, 500), total=1000).look(1.0) is None
    found = _sharing((loopback, 1000, 501), total=1000).look(1.0)
    assert found is not None
    assert found.forwards


def test_several_workers_are_one_machine() -> None:
    sharing = _sharing((BRIDGE, 100, 0), total=100)
    sharing.hear(100, [(BRIDGE, 100, 0)], 0.5)
    assert sharing.look(1.0) is not None
    sharing.hear(100, [], 1.0)  # another worker, whose clients come from everywhere
    assert sharing.look(1.0) is None


def test_it_is_over_once_others_come_and_does_not_hover() -> None:
    sharing = _sharing((BRIDGE, 960, 0), total=1000)
    assert sharing.look(0.0) is not None
    sharing.hear(50, [], 10.0)  # 91 %
    assert sharing.look(10.0) is not None
    sharing.hear(50, [], 20.0)  # 87 %
    assert sharing.look(20.0) is None
    sharing.hear(400, [(BRIDGE, 400, 0)], 30.0)  # 91 % of what is found anew: not enough
    assert sharing.look(30.0) is None


def test_the_window_forgets_and_silence_is_no_evidence() -> None:
    sharing = _sharing((BRIDGE, 1000, 0), total=1000)
    found = sharing.look(0.0)
    assert found is not None
    assert sharing.look(WINDOW + 1) is found  # a quiet night
    sharing.hear(MIN_REQUESTS, [], WINDOW + 2)
    assert sharing.look(WINDOW + 2) is None


def test_a_window_is_bounded_however_often_one_tells() -> None:
    sharing = Sharing()
    for at in range(1000):
        sharing.hear(1, [(f"10.0.{at >> 8}.{at & 255}", 1, 0)], at / 2)
        sharing.look(at / 2)
    assert len(sharing._pieces) <= 61
    assert all(len(each.by_address) <= MAX_ADDRESSES for each in sharing._pieces)


def test_after_a_reset_nothing_is_known() -> None:
    sharing = _sharing((BRIDGE, 1000, 0), total=1000)
    assert sharing.look(0.0) is not None
    sharing.reset()
    assert sharing.look(0.0) is None
