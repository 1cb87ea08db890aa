"""The client behind trusted proxies, and what upstreams are told."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy import forwarded
from gateway.policy.forwarded import (
    MAX_HOPS,
    ProxyTrust,
    forwarded_block,
    forwarded_for,
    forwarded_host,
    forwarded_proto,
)

NETWORKS = ("10.0.0.0/8", "192.168.1.1", "fd00::/8", "172.16.0.1/12")


@pytest.fixture
def trust() -> ProxyTrust:
    return ProxyTrust(NETWORKS)


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "10.255.255.255", "192.168.1.1", "fd12::1", "172.31.0.1", "::ffff:10.1.1.1"],
)
def test_addresses_in_the_networks_are_trusted(trust: ProxyTrust, address: str) -> None:
    assert trust.trusts(address)
    assert trust.trusts(address)


@pytest.mark.parametrize(
    "address",
    [
        "11.0.0.1",
        "192.168.1.2",
        "fe80::1",
        "172.32.0.1",
        "",
        "x",
        "10.0.0.1:80",
        "10.0.0.01",
        "::1",
    ],
)
def test_all_others_are_not(trust: ProxyTrust, address: str) -> None:
    assert not trust.trusts(address)


def test_nobody_is_trusted_by_default_and_everybody_can_be() -> None:
    assert not ProxyTrust().trusts("127.0.0.1")
    assert ProxyTrust(["0.0.0.0/0"]).trusts("198.51.100.1")
    assert not ProxyTrust(["0.0.0.0/0"]).trusts("::1")
    with pytest.raises(ValueError, match="does not appear"):
        ProxyTrust(["proxy.example"])


@given(
    st.lists(st.tuples(st.ip_addresses(), st.integers(0, 128)), max_size=5),
    st.ip_addresses(),
)
def test_it_agrees_with_the_standard_library(
    networks: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    texts = [f"{a}/{min(length, a.max_prefixlen)}" for a, length in networks]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    expected = any(address in ipaddress.ip_network(text, strict=False) for text in texts)
    assert ProxyTrust(texts).trusts(str(address)) is expected


@pytest.mark.parametrize(
    ("peer", "xff", "chain"),
    [
        # An untrusted peer is the client, whatever it says.
        ("203.0.113.9", b"1.1.1.1", ("203.0.113.9",)),
        ("203.0.113.9", None, ("203.0.113.9",)),
        ("::ffff:203.0.113.9", None, ("203.0.113.9",)),
        # The right-most that is not trusted; what stands left of it is the client's own.
        ("10.0.0.1", b"203.0.113.7", ("203.0.113.7", "10.0.0.1")),
        ("10.0.0.1", b"1.1.1.1, 203.0.113.7", ("203.0.113.7", "10.0.0.1")),
        ("10.0.0.1", b"1.1.1.1,203.0.113.7 ,10.0.0.2", ("203.0.113.7", "10.0.0.2", "10.0.0.1")),
        # All trusted: the left-most.
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", ("10.0.0.3", "10.0.0.2", "10.0.0.1")),
        # What is no address ends the walk.
        ("10.0.0.1", b"203.0.113.7, unknown, 10.0.0.2", ("10.0.0.2", "10.0.0.1")),
        ("10.0.0.1", b"203.0.113.7, , 10.0.0.2", ("10.0.0.2", "10.0.0.1")),
        ("10.0.0.1", b"203.0.113.7,", ("10.0.0.1",)),
        ("10.0.0.1", b"garbage", ("10.0.0.1",)),
        ("10.0.0.1", b"1" * 65, ("10.0.0.1",)),
        ("10.0.0.1", b"", ("10.0.0.1",)),
        ("10.0.0.1", b"\xff\xfe", ("10.0.0.1",)),
        ("10.0.0.1", b"fe80::1%eth0", ("10.0.0.1",)),
        ("10.0.0.1", b"\xb2.1.1.1", ("10.0.0.1",)),
        # Ports and IPv6.
        ("10.0.0.1", b"203.0.113.7:5678", ("203.0.113.7", "10.0.0.1")),
        ("10.0.0.1", b"203.0.113.7:x", ("10.0.0.1",)),
        ("10.0.0.1", b"203.0.113.7:", ("10.0.0.1",)),
        ("fd00::1", b"2001:DB8::0:7", ("2001:db8::7", "fd00::1")),
        ("fd00::1", b"[2001:db8::7]:443", ("2001:db8::7", "fd00::1")),
        ("fd00::1", b"[2001:db8::7]", ("2001:db8::7", "fd00::1")),
        ("fd00::1", b"[2001:db8::7", ("fd00::1",)),
        ("fd00::1", b"[203.0.113.7]", ("fd00::1",)),
        ("fd00::1", b"[2001:db8::7]x", ("fd00::1",)),
        ("fd00::1", b"::ffff:203.0.113.7", ("203.0.113.7", "fd00::1")),
        # A peer without an address.
        ("", b"203.0.113.7", ("",)),
    ],
)
def test_x_forwarded_for(
    trust: ProxyTrust, peer: str, xff: bytes | None, chain: tuple[str, ...]
) -> None:
    assert trust.chain(peer, xff) == chain
    assert trust.client_address(peer, xff) == chain[0]


def test_a_walk_has_an_end(trust: ProxyTrust) -> None:
    chain = trust.chain("10.0.0.1", b"203.0.113.7" + b",10.0.0.2" * 5000)
    assert len(chain) <= MAX_HOPS + 1
    assert chain[0] == "10.0.0.2"


def test_what_is_remembered_is_bounded() -> None:
    trust = ProxyTrust(["10.0.0.0/8"])
    for n in range(3 * forwarded.MEMO_SIZE):
        assert trust.chain("10.0.0.1", f"172.{n >> 16}.{(n >> 8) & 255}.{n & 255}".encode())[1]
    assert not trust.trusts("1" * 10_000)
    small = ProxyTrust(["10.0.0.0/8"], remembers=2)
    for _ in range(3):
        assert [small.trusts(f"10.0.0.{n}") for n in range(5)] == [True] * 5
        assert not small.trusts("192.0.2.1")


@pytest.mark.parametrize(
    ("value", "nodes"),
    [
        (b"for=192.0.2.60;proto=http;by=203.0.113.43", [b"192.0.2.60"]),
        (b"for=192.0.2.43, for=198.51.100.17", [b"192.0.2.43", b"198.51.100.17"]),
        (b'For="[2001:db8:cafe::17]:4711"', [b"[2001:db8:cafe::17]:4711"]),
        (b'host=a;for="_gaz\\"onk" , proto=https', [b'_gaz"onk', b""]),
        (b'for="a,b;c";host="x"', [b"a,b;c"]),
        (b"for=unknown", [b"unknown"]),
        (b"proto=http", [b""]),
        (b"for=a,,for=b", [b"a", b"", b"b"]),
        (b"", [b""]),
        # What breaks the grammar counts as absent.
        (b"for=a b", []),
        (b"for", []),
        (b'for="a', []),
        (b"for=a;for=b", []),
        (b"for=[::1]", []),
        (b"for = a", []),
        (b'for="a\x00"', []),
        (b"for=a," * 1000, []),
        (b"for=a\n", []),
        (b"\n", []),
    ],
)
def test_forwarded_elements(value: bytes, nodes: list[bytes]) -> None:
    assert forwarded_for(value) == nodes


def test_forwarded_is_read_where_the_older_field_is_absent(trust: ProxyTrust) -> None:
    value = b'for=1.1.1.1, for="[2001:db8::7]:443";proto=https, for=10.0.0.2'
    assert trust.chain("10.0.0.1", None, value) == ("2001:db8::7", "10.0.0.2", "10.0.0.1")
    assert trust.chain("10.0.0.1", b"203.0.113.7", value) == ("203.0.113.7", "10.0.0.1")
    assert trust.chain("10.0.0.1", None, b"for=_hidden") == ("10.0.0.1",)
    assert trust.chain("10.0.0.1", None, b"for=\x00") == ("10.0.0.1",)
    assert trust.chain("203.0.113.9", None, value) == ("203.0.113.9",)
    assert len(trust.chain("10.0.0.1", None, b"for=10.0.0.2," * 200)) <= MAX_HOPS + 1


@given(st.text('for=;,"\\ a1.:[]\n', max_size=40).map(str.encode) | st.binary(max_size=20))
def test_any_forwarded_field_is_read_or_absent(value: bytes) -> None:
    assert len(forwarded_for(value)) <= value.count(b",") + 1


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_a_chain_is_addresses_only(xff: bytes, value: bytes) -> None:
    trust = ProxyTrust(["10.0.0.0/8"])
    for chain in (trust.chain("10.0.0.1", xff), trust.chain("10.0.0.1", None, value)):
        assert chain[-1] == "10.0.0.1"
        for address in chain:
            assert str(ipaddress.ip_address(address)) == address


# --- what upstreams are told ---------------------------------------------------------------------


def test_the_block_of_a_client_that_came_by_itself() -> None:
    assert forwarded_block("203.0.113.9", "203.0.113.9", b"https", b"a.example") == (
        b"X-Forwarded-For: 203.0.113.9\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: a.example\r\n"
        b"Forwarded: for=203.0.113.9;host=a.example;proto=https\r\n"
    )


def test_the_block_behind_proxies() -> None:
    assert forwarded_block(
        "2001:db8::7", "fd00::1", b"http", b"a.example:8080", b"_gateway", ("10.0.0.2",)
    ) == (
        b"X-Forwarded-For: 2001:db8::7, 10.0.0.2, fd00::1\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: a.example:8080\r\n"
        b'Forwarded: for="[2001:db8::7]";host="a.example:8080";proto=http, for=10.0.0.2, '
        b'for="[fd00::1]";by=_gateway\r\n'
    )


def test_a_request_that_comes_round_again_keeps_its_hops() -> None:
    block = forwarded_block("10.0.0.1", "10.0.0.1", b"http", b"a", between=("10.0.0.2",))
    assert block.startswith(b"X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.1\r\n")


def test_a_client_without_an_address_is_unknown() -> None:
    block = forwarded_block("", "", b"http", b"[::1]:80", b"[::1]")
    assert b'Forwarded: for=unknown;host="[::1]:80";proto=http;by="[::1]"\r\n' in block


def test_what_is_built_is_read_back(trust: ProxyTrust) -> None:
    chain = trust.chain("fd00::1", b"2001:db8::7, 10.0.0.2")
    block = forwarded_block(chain[0], chain[-1], b"http", b"a", between=chain[1:-1])
    value = dict(line.split(b": ", 1) for line in block.split(b"\r\n") if line)
    assert (
        ProxyTrust(["::/0", "0.0.0.0/0"]).chain("10.9.9.9", value[b"X-Forwarded-For"])[:3] == chain
    )
    assert (
        ProxyTrust(["::/0", "0.0.0.0/0"]).chain("10.9.9.9", None, value[b"Forwarded"])[:3] == chain
    )


@pytest.mark.parametrize(
    ("value", "proxies", "told"),
    [
        (None, 1, b"own"),
        (b"https", 1, b"https"),
        (b"http", 1, b"http"),
        (b"HTTPS", 1, b"https"),
        (b" https\t", 1, b"https"),
        (b"ftp", 1, b"own"),
        (b"", 1, b"own"),
        (b"https,", 1, b"own"),
        # Each proxy has added what it was spoken to in; what stands before is the client's.
        (b"https,http", 1, b"http"),
        (b"https, http", 2, b"https"),
        (b"https, http, http", 2, b"http"),
        # One of them has not.
        (b"https", 3, b"https"),
        (b"HTTPS,http", 3, b"https"),
        # Nobody has said where the client is.
        (b"https,http", 0, b"http"),
        (b"https," * 50 + b"http", 100, b"own"),
    ],
)
def test_a_proxys_word_for_the_protocol(value: bytes | None, proxies: int, told: bytes) -> None:
    assert forwarded_proto(value, b"own", proxies) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, b"own"),
        (b"A.example:1", b"A.example:1"),
        (b"a, b", b"own"),
        (b'a"b', b"own"),
        (b"", b"own"),
    ],
)
def test_a_proxys_word_for_the_host(value: bytes | None, told: bytes) -> None:
    assert forwarded_host(value, b"own") == told
