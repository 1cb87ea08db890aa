"""A client's hello, as OpenSSL's own client sends it and as nobody would."""

from __future__ import annotations

import ssl

import pytest

from gateway.wire.hello import FINE, MAX_HELLO, MAX_RECORDS, MORE, REFUSED, judge


def hello(group: str | None = None, version: ssl.TLSVersion | None = None) -> bytes:
    """Return what a client of Python's sends first."""
    context = ssl.create_default_context()
    if group is not None:
        context.set_ecdh_curve(group)
    if version is not None:
        context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="site.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def cut(octets: bytes, *sizes: int) -> bytes:
    """Return a record's content in several."""
    content, found = octets[5:], b""
    for size in (*sizes, len(content)):
        part, content = content[:size], content[size:]
        if part:
            found += octets[:3] + len(part).to_bytes(2, "big") + part
    return found


CURVES = [None, "X25519", "prime256v1", "secp384r1", "secp521r1", "X448"]
FIELDS = ["ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"]
ALL = [(each, FINE) for each in CURVES] + [(each, REFUSED) for each in FIELDS]


@pytest.mark.parametrize(("group", "verdict"), ALL)
def test_a_hello_however_it_is_cut(group: str | None, verdict: int) -> None:
    octets = hello(group)
    assert judge(octets) == verdict
    assert judge(octets + b"what follows") == verdict
    for sizes in ((1,), (3, 1), (4,), (5, 200), (100, 1, 1, 1)):
        assert judge(cut(octets, *sizes)) == verdict, sizes
    assert {judge(octets[:at]) for at in range(1, len(octets))} == {MORE}


def test_a_hello_of_tls_12_needs_no_shares() -> None:
    assert judge(hello(version=ssl.TLSVersion.TLSv1_2)) == FINE


def test_a_share_of_a_field_beside_a_curve_s_is_refused() -> None:
    """The server takes the first share that it can, whatever else is offered."""
    octets = hello("prime256v1")
    share = octets.index(b"\x00\x17\x00\x41\x04")
    assert judge(octets[:share] + b"\x01\x04" + octets[share + 2 :]) == REFUSED


def test_a_field_without_a_share_is_refused_where_no_curve_is_offered() -> None:
    """The server would ask for the share (HelloRetryRequest)."""
    octets = hello("prime256v1")
    groups = octets.index(b"\x00\x0a\x00\x04\x00\x02\x00\x17")
    changed = octets[: groups + 6] + b"\x01\x04" + octets[groups + 8 :]
    assert judge(changed) == REFUSED


def test_something_between_the_parts_of_a_hello_is_refused() -> None:
    parts = cut(hello(), 100)
    for between in (
        b"\x14\x03\x03\x00\x01\x01",
        b"\x15\x03\x03\x00\x02\x01\x00",
        b"\x16\x03\x01\x00\x00",
    ):
        assert judge(parts[:105] + between + parts[105:]) == REFUSED


@pytest.mark.parametrize(
    "octets",
    [
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00" + bytes(9),  # not a client's
        b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03\x00\x00",  # shorter than any
        b"\x16\x03\x01\x00\x2b\x01\x00\x00\x27\x03\x03" + bytes(32) + b"\xff" + bytes(4),
    ],
)
def test_what_cannot_be_read_is_left_to_openssl(octets: bytes) -> None:
    assert judge(octets) == FINE


def test_what_would_be_kept_and_looked_at_for_long_is_refused() -> None:
    octets = hello()
    assert judge(cut(octets, *[10] * (MAX_RECORDS - 1))) == FINE
    assert judge(cut(octets, *[10] * MAX_RECORDS)) == REFUSED
    assert judge(cut(octets, *[1] * 2000)) == REFUSED
    for length, verdict in ((MAX_HELLO - 4, MORE), (MAX_HELLO, REFUSED), (0xFFFFFF, REFUSED)):
        head = b"\x01" + length.to_bytes(3, "big") + bytes(5)
        assert judge(b"\x16\x03\x01\x00\x09" + head) == verdict
    assert judge(b"\x16\x03\x01\x40\x01" + bytes(9)) == REFUSED


def test_every_octet_changed_is_still_judged() -> None:
    octets = hello()
    for at in range(9, len(octets)):
        for value in (0, 1, 255):
            assert judge(octets[:at] + bytes([value]) + octets[at + 1 :]) in {MORE, FINE, REFUSED}
