"""Overrides: a token is good for its side, host, release and time, and for nothing else."""

from __future__ import annotations

import re
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.override import (
    MAX_TOKEN,
    Side,
    expiry,
    from_cookie,
    from_target,
    mint,
    strip_target,
    verify,
)

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_767_225_600


def _token(side: Side = "candidate", expires: int = NOW + 3600) -> bytes:
    return mint(SECRET, host="blkout.example", release="r1", side=side, expires=expires).encode()


def _verify(token: bytes, **other: object) -> Side | None:
    given_: dict[str, object] = {"host": b"blkout.example", "release": "r1", "now": NOW, **other}
    secret = cast("bytes | None", given_.pop("secret", SECRET))
    return verify(secret, token, **given_)  # type: ignore[arg-type]  # a test's shorthand


@pytest.mark.parametrize("side", ["stable", "candidate"])
def test_a_minted_token_verifies(side: Side) -> None:
    token = _token(side)
    assert _verify(token) == side
    assert _verify(token, host="BLKOUT.example") == side
    assert len(token) <= MAX_TOKEN
    assert re.fullmatch(rb"[A-Za-z0-9._-]+", token)
    assert expiry(token) == NOW + 3600


def test_it_ends_when_it_says() -> None:
    assert _verify(_token(), now=NOW + 3599.9) == "candidate"
    assert _verify(_token(), now=NOW + 3600) is None


@pytest.mark.parametrize(
    "other",
    [
        {"host": b"other.example"},
        {"host": b""},
        {"release": "r2"},
        {"release": ""},
        {"secret": b"another secret of some length"},
        {"secret": b""},
        {"secret": None},
    ],
)
def test_it_is_good_nowhere_else(other: dict[str, object]) -> None:
    assert _verify(_token(), **other) is None


def test_host_and_release_cannot_be_shifted_into_each_other() -> None:
    token = mint(SECRET, host="a:1", release="b", side="stable", expires=NOW + 1).encode()
    for host, release in (("a", "1:b"), ("a:1:b", ""), ("", "a:1:b"), ("a:", "1b")):
        assert verify(SECRET, token, host=host, release=release, now=NOW) is None
    assert verify(SECRET, token, host="a:1", release="b", now=NOW) == "stable"


@given(st.data())
def test_no_changed_octet_verifies(data: st.DataObject) -> None:
    token = bytearray(_token())
    at = data.draw(st.integers(0, len(token) - 1))
    octet = data.draw(st.integers(0, 255).filter(lambda octet: octet != token[at]))
    token[at] = octet
    assert _verify(bytes(token)) is None


@given(st.binary(max_size=120) | st.text("1.candidatestable0-_A", max_size=120).map(str.encode))
def test_garbage_is_ignored(token: bytes) -> None:
    assert _verify(token) is None
    expiry(token)


def _signed(claim: bytes) -> bytes:
    """Sign what ``mint`` would not, to see that ``verify`` looks beyond the signature."""
    from gateway.policy import override

    return claim + b"." + override._signature(SECRET, claim, "blkout.example", "r1")


@pytest.mark.parametrize(
    "claim",
    [
        b"2.candidate.1999999999",
        b"1.both.1999999999",
        b"1.candidate",
        b"1.candidate.",
        b"1.candidate.01999999999",
        b"1.candidate.+1999999999",
        b"1.candidate.199999999999",
        b"1.candidate.1999999999.x",
    ],
)
def test_a_right_signature_is_not_enough(claim: bytes) -> None:
    assert _verify(_signed(claim)) is None
    assert _verify(_signed(b"1.candidate.1999999999")) == "candidate"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"secret": b"short"}, "16"),
        ({"side": "both"}, "stable or candidate"),
        ({"expires": 0}, "seconds"),
        ({"expires": 10**12}, "seconds"),
    ],
)
def test_mint_refuses_what_would_never_verify(changed: dict[str, object], reason: str) -> None:
    given_ = {"host": "a", "release": "r", "side": "stable", "expires": NOW, **changed}
    secret = cast("bytes", given_.pop("secret", SECRET))
    with pytest.raises(ValueError, match=reason):
        mint(secret, **given_)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("target", "token", "left"),
    [
        (b"/a?gw_override=tok", b"tok", b"/a"),
        (b"/a?gw_override=tok&x=1", b"tok", b"/a?x=1"),
        (b"/a?x=1&gw_override=tok", b"tok", b"/a?x=1"),
        (b"/a?x=%7E&gw_override=t&y=?&&gw_override=u", b"t", b"/a?x=%7E&y=?&"),
        (b"/a?gw_override=", None, b"/a"),
        (b"/a?gw_override", None, b"/a"),
        (b"/a?xgw_override=tok", None, b"/a?xgw_override=tok"),
        (b"/a?x=gw_override=tok", None, b"/a?x=gw_override=tok"),
        (b"/gw_override=tok", None, b"/gw_override=tok"),
        (b"/a?", None, b"/a?"),
        (b"/a", None, b"/a"),
    ],
)
def test_queries(target: bytes, token: bytes | None, left: bytes) -> None:
    assert from_target(target) == token
    assert strip_target(target) == left


def test_cookies() -> None:
    assert from_cookie(b"a=1; gw_override=tok; b=2") == b"tok"
    assert from_cookie(b"gw_override=") is None
    assert from_cookie(b"a=1") is None
