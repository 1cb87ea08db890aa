"""Trace context: what is valid goes on, what is not begins anew."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.trace import continue_or_begin, continues, valid_request_id

TRACE = b"0af7651916cd43dd8448eb211c80319c"
PARENT = b"b7ad6b7169203331"
RANDOM = b"1" * 32 + b"2" * 16
BEGUN = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"


def _parent(version: bytes = b"00", flags: bytes = b"01", rest: bytes = b"") -> bytes:
    return version + b"-" + TRACE + b"-" + PARENT + b"-" + flags + rest


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (_parent(), b"01"),
        (_parent(flags=b"00"), b"00"),
        (_parent(flags=b"03"), b"03"),
        (_parent(flags=b"02"), b"02"),
        # Undefined flags are not passed on.
        (_parent(flags=b"ff"), b"03"),
        (_parent(flags=b"f4"), b"00"),
        # Versions to come.
        (_parent(b"01"), b"01"),
        (_parent(b"cc", rest=b"-what-ever"), b"01"),
        (_parent(b"fe", rest=b"-"), b"01"),
    ],
)
def test_a_valid_trace_goes_on_with_the_gateway_as_parent(value: bytes, flags: bytes) -> None:
    assert continues(value)
    assert continue_or_begin(value, RANDOM) == b"00-" + TRACE + b"-" + b"2" * 16 + b"-" + flags


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        _parent(rest=b"-00"),
        _parent(rest=b" "),
        _parent(b"ff"),
        _parent(b"0"),
        _parent(b"0g"),
        _parent(b"01", rest=b"x"),
        _parent(flags=b"0"),
        _parent(flags=b"0G"),
        _parent(flags=b"0A"),
        _parent().upper(),
        _parent().replace(TRACE, b"0" * 32),
        _parent().replace(PARENT, b"0" * 16),
        _parent().replace(b"-", b"_"),
        _parent().replace(b"a", b"\xff"),
        b" " + _parent()[:-1],
    ],
)
def test_an_invalid_one_begins_anew(value: bytes) -> None:
    assert not continues(value)
    assert continue_or_begin(value, RANDOM) == BEGUN


@pytest.mark.parametrize("at", [*range(3, 35), *range(36, 52)])
def test_one_digit_that_is_not_zero_makes_an_id(at: int) -> None:
    value = bytearray(b"00-%s-%s-01" % (b"0" * 32, b"0" * 16))
    value[3 if at > 35 else 51] = value[at] = ord("f")
    assert continues(bytes(value))
    value[at] = ord("0")
    assert not continues(bytes(value))


def test_none_begins() -> None:
    assert continue_or_begin(None, RANDOM) == BEGUN


@given(
    st.binary(max_size=70) | st.text("0123456789abcdef-", min_size=53, max_size=57).map(str.encode)
)
def test_it_agrees_with_the_grammar(value: bytes) -> None:
    match = re.fullmatch(
        rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", value, re.S
    )
    valid = (
        match is not None
        and match[1] != b"ff"
        and not (match[1] == b"00" and match[4] is not None)
        and match[2].strip(b"0") != b""
        and match[3].strip(b"0") != b""
    )
    assert continues(value) is valid


@given(st.data())
def test_one_changed_octet_is_judged_by_the_grammar(data: st.DataObject) -> None:
    value = bytearray(_parent())
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] = data.draw(st.integers(0, 255))
    valid = re.fullmatch(rb"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", bytes(value))
    assert continues(bytes(value)) is (valid is not None)


@pytest.mark.parametrize("value", [b"a", b"!" * 128, b"~-_.:/+=@", b"7f3c1a"])
def test_request_ids(value: bytes) -> None:
    assert valid_request_id(value)


@pytest.mark.parametrize("value", [b"", b"a" * 129, b"a b", b"a\x00", b"\x7f", b"\xe9", b"a\r\n"])
def test_what_is_no_request_id(value: bytes) -> None:
    assert not valid_request_id(value)
