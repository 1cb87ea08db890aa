"""The scalar parsers: tables of what they take and refuse, and what holds for all of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import scalars
from gateway.config.scalars import (
    Rate,
    format_duration,
    format_size,
    parse_duration,
    parse_percentage,
    parse_rate,
    parse_size,
    parse_weight,
)

PARSERS = (parse_duration, parse_size, parse_rate, parse_percentage, parse_weight)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("100ms", 0.1),
        ("5s", 5.0),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("24h", 86_400.0),
        ("30d", 2_592_000.0),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        *(
            "5",
            "s",
            "5 s",
            "5S",
            "5sec",
            "-5s",
            "+5s",
            "5s\n",
            " 5s",
            "1e3s",
            "1h30m",
            ".5s",
            "\u0665s",
        ),
        *("\u0665s", "", 5, 5.0, None, True, (), {}, "36501d", "9999999999999s"),
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"500ms, 5s, 2m, 24h or 30d|at most 36500d"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "octets"), [("0B", 0), ("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 2**30)]
)
def test_a_size_is_octets(text: str, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize(
    "value",
    ["64", "64K", "64kb", "64KB", "1.5MiB", "-1B", "1TiB", "1MiB\n", 64, "9999999GiB"],
)
def test_what_is_no_size_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"64KiB, 10MiB or 1GiB|at most 1048576GiB"):
        parse_size(value)


def test_a_rate_is_a_count_per_period() -> None:
    assert parse_rate("60/min") == Rate(60, 60.0)
    assert parse_rate("60/min").per_second == 1.0
    assert parse_rate("100/s") == Rate(100, 1.0)


@pytest.mark.parametrize("value", ["60", "60/m", "60/minute", "0/s", "1.5/s", "-1/s", "60 /min", 6])
def test_what_is_no_rate_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match=r"100/s, 60/min or 1000/h|at least 1/s"):
        parse_rate(value)


@pytest.mark.parametrize(("text", "share"), [("20%", 0.2), ("0.5%", 0.005), ("100%", 1.0)])
def test_a_percentage_is_a_share(text: str, share: float) -> None:
    assert parse_percentage(text) == pytest.approx(share)


@pytest.mark.parametrize("value", ["20", "20 %", "101%", "-1%", "%", 20, 0.2, None])
def test_what_is_no_percentage_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected (a number from 0 to 100 and|at most 100%)"):
        parse_percentage(value)


@given(st.integers(0, 10_000))
def test_every_weight_by_a_hundredth_is_its_bucket(buckets: int) -> None:
    assert parse_weight(buckets / 100) == buckets
    assert parse_weight(float(f"{buckets / 100:.2f}")) == buckets


@pytest.mark.parametrize(
    "value", [-1, 100.01, 0.001, 33.333, float("nan"), float("inf"), True, "5", "5%", None]
)
def test_a_weight_between_two_buckets_is_refused_not_rounded(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected a number from 0 to 100 in steps of 0\.01"):
        parse_weight(value)


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_units_are_multiples_of_each_other(number: int, unit: str) -> None:
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}[unit]
    text = f"{number}{unit}"
    if number * factor > scalars.MAX_DURATION:
        with pytest.raises(ValueError, match="too long"):
            parse_duration(text)
    else:
        assert parse_duration(text) == pytest.approx(number * factor)


@given(st.integers(1, 10**7))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(
        milliseconds / 1000, rel=1e-5
    )


@given(st.integers(0, 2**40))
def test_a_size_survives_being_written(octets: int) -> None:
    assert parse_size(format_size(octets)) == octets


@given(
    st.one_of(
        st.text(max_size=30),
        st.from_regex(r"[0-9.+-]{0,6}(ms|s|m|h|d|KiB|MiB|B|%|/s|/min)?", fullmatch=True),
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.lists(st.integers(), max_size=3),
    )
)
def test_a_parser_gives_a_number_or_one_clear_error(value: object) -> None:
    for parse in PARSERS:
        try:
            result = parse(value)
        except ValueError as error:
            message = str(error)
            assert ", expected " in message
            assert "\n" not in message
            assert len(message) < 200
        else:
            number = result.per_second if isinstance(result, Rate) else result
            assert 0 <= number < float("inf")


@given(st.text(max_size=20))
def test_what_a_schema_refuses_a_parser_refuses_too(text: str) -> None:
    pairs = (
        (scalars.DURATION_PATTERN, parse_duration),
        (scalars.SIZE_PATTERN, parse_size),
        (scalars.RATE_PATTERN, parse_rate),
        (scalars.PERCENTAGE_PATTERN, parse_percentage),
    )
    for pattern, parse in pairs:
        if re.search(pattern, text) is None:
            with pytest.raises(ValueError, match="expected"):
                parse(text)
