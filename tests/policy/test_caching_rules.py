"""A shared cache's rules: what may be kept, for how long, for whom (RFC 9111, RFC 5861)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.caching.dates import http_date
from gateway.policy.caching.directives import (
    MAX_SECONDS,
    Directives,
    parse,
    request_directives,
)
from gateway.policy.caching.fields import Fields
from gateway.policy.caching.invalidation import same_origin
from gateway.policy.caching.reuse import (
    FRESH,
    STALE,
    STALE_WHILE_REVALIDATE,
    VALIDATE,
    in_error,
    use,
)
from gateway.policy.caching.saying import forwarded_lines, hit_lines
from gateway.policy.caching.storing import Asked, Terms, may_fall_back, terms

NOW = 1_893_456_000.0  # Tue, 01 Jan 2030 00:00:00 GMT
DATE = b"Tue, 01 Jan 2030 00:00:00 GMT"
LATER = b"Tue, 01 Jan 2030 01:00:00 GMT"
EARLIER = b"Mon, 31 Dec 2029 00:00:00 GMT"
PLAIN = Asked(NOW)


def fields(*lines: tuple[bytes, bytes]) -> Fields:
    found: Fields = {}
    for name, value in lines:
        found.setdefault(name, []).append(value)
    return found


def kept(*lines: tuple[bytes, bytes], status: int = 200, asked: Asked = PLAIN) -> Terms | None:
    return terms(status, fields(*lines), asked, NOW)


def control(value: bytes, *lines: tuple[bytes, bytes], **more: object) -> Terms | None:
    return kept((b"cache-control", value), *lines, **more)  # type: ignore[arg-type]


# --- dates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        DATE,
        b"tue, 01 JAN 2030 00:00:00 gmt",
        b"Tuesday, 01-Jan-30 00:00:00 GMT",
        b"Tue Jan  1 00:00:00 2030",
    ],
)
def test_the_three_forms_of_a_date_are_one(value: bytes) -> None:
    assert http_date(value, NOW) == NOW


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"0",
        b"-1",
        b"Tue, 01 Jan 2030 00:00:00 UTC",
        b"Tue, 01 Jan 2030 00:00:00 +0100",
        b"Tue, 1 Jan 2030 00:00:00 GMT",
        b"Tue, 01 Jan 30 00:00:00 GMT",
        b"Tue, 31 Feb 2030 00:00:00 GMT",
        b"Tue, 01 Foo 2030 00:00:00 GMT",
        b"Tue, 01 Jan 2030 24:00:00 GMT",
        b"Tue, 01 Jan 2030 00:00:00 GMT" + b" " * 40,
        b"Tue, 01-Jan-2030 00:00:00 GMT",
        b"\xd9\xa1" * 15,
    ],
)
def test_what_is_no_date_is_none(value: bytes | None) -> None:
    assert http_date(value, NOW) is None


def test_a_year_of_two_digits_is_never_far_ahead() -> None:
    assert http_date(b"Saturday, 01-Jan-94 00:00:00 GMT", NOW) == 757_382_400


@given(st.binary(max_size=64))
def test_no_octets_break_the_reading_of_dates(value: bytes) -> None:
    found = http_date(value, NOW)
    assert found is None or isinstance(found, int)


# --- directives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"max-age=60", Directives(max_age=60)),
        (b"MaX-AgE=60, S-MAXAGE=1", Directives(max_age=60, s_maxage=1)),
        (b'max-age="60"', Directives(max_age=60)),
        (b"max-age='60'", Directives(max_age=0)),
        (b"max-age=-1", Directives(max_age=0)),
        (b"max-age=60s", Directives(max_age=0)),
        (b"max-age", Directives(max_age=0)),
        (b"max-age= 60", Directives(max_age=0)),
        (b"max-age=60, max-age=60", Directives(max_age=60)),
        (b"max-age=60, max-age=3600", Directives(max_age=0)),
        (b"max-age=00060", Directives(max_age=60)),
        (b"max-age=99999999999999999999999", Directives(max_age=MAX_SECONDS)),
        (b'x="max-age=3600", max-age=1', Directives(max_age=1)),
        (b'x="a\\", max-age=3600", max-age=1', Directives(max_age=1)),
        (b'x="never closed, max-age=3600', Directives()),
        (b"no-cache", Directives(no_cache=True)),
        (b'no-cache="Set-Cookie, A"', Directives(no_cache_fields=(b"set-cookie", b"a"))),
        (b'no-cache=""', Directives(no_cache=True)),
        (b'private="a"', Directives(private=True)),
        (b"max-stale", Directives(max_stale=MAX_SECONDS)),
        (b"max-stale=5", Directives(max_stale=5)),
        (b"max-stale=x", Directives(max_stale=0)),
        (b"min-fresh=x", Directives(min_fresh=MAX_SECONDS)),
        (
            b"stale-while-revalidate=5,stale-if-error=6",
            Directives(stale_while_revalidate=5, stale_if_error=6),
        ),
        (b",, ,foo=bar,", Directives()),
    ],
)
def test_directives_are_read_to_the_stricter_side(value: bytes, expected: Directives) -> None:
    assert parse([value]) == expected


def test_several_lines_are_one_list() -> None:
    assert parse([b"no-store", b"max-age=1"]) == Directives(no_store=True, max_age=1)


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_no_octets_break_the_reading_of_directives(values: list[bytes]) -> None:
    parse(values)


@given(st.text(alphabet='a",\\= -', max_size=400))
def test_quotes_and_commas_are_read_in_linear_time(value: str) -> None:
    parse([value.encode()])


def test_pragma_counts_only_alone() -> None:
    assert request_directives([], b"x, No-Cache") == Directives(no_cache=True)
    assert request_directives([], b"no-cachet") == Directives()
    assert request_directives([b"max-age=1"], b"no-cache") == Directives(max_age=1)


# --- storing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [b"no-store, max-age=9", b"private, max-age=9", b'private="x", max-age=9', b"max-age=0"],
)
def test_what_is_not_to_be_kept_is_not(value: bytes) -> None:
    assert control(value) is None


def test_without_freshness_and_validator_nothing_is_kept() -> None:
    assert kept((b"date", DATE)) is None
    assert kept((b"etag", b'"a"')) is not None


@pytest.mark.parametrize("status", [206, 304])
def test_parts_are_not_kept(status: int) -> None:
    assert control(b"max-age=9", status=status) is None


@pytest.mark.parametrize(
    ("value", "may"),
    [
        (b"max-age=9", False),
        (b"max-age=9, public", True),
        (b"s-maxage=9", True),
        (b"max-age=9, must-revalidate", True),
    ],
)
def test_authorized_answers_need_leave(value: bytes, may: bool) -> None:
    assert (control(value, asked=Asked(NOW, authorized=True)) is not None) == may


@pytest.mark.parametrize(
    ("value", "may"), [(b"max-age=9", False), (b"public, max-age=9", True), (b"s-maxage=9", True)]
)
def test_cookies_that_are_set_are_never_part_of_a_copy(value: bytes, may: bool) -> None:
    found = control(value, (b"set-cookie", b"sid=1"))
    assert (found is not None) == may
    if found is not None:
        assert b"set-cookie" in found.drop


def test_fields_of_a_qualified_no_cache_are_left_out() -> None:
    found = control(b'max-age=9, no-cache="a"', (b"a", b"1"))
    assert found is not None
    assert not found.no_cache
    assert b"a" in found.drop


def test_must_understand_overrules_no_store_where_the_status_is_known() -> None:
    assert control(b"max-age=9, no-store, must-understand") is not None
    assert control(b"max-age=9, must-understand", status=599) is None
    assert control(b"max-age=9", status=599) is not None


@pytest.mark.parametrize(
    ("lines", "lifetime"),
    [
        ([(b"cache-control", b"max-age=60, s-maxage=5")], 5),
        ([(b"cache-control", b"max-age=60"), (b"expires", EARLIER)], 60),
        ([(b"expires", LATER), (b"date", DATE)], 3600),
        ([(b"expires", LATER), (b"date", b"never")], 3600),
        ([(b"expires", LATER), (b"date", EARLIER)], 90_000),
        ([(b"last-modified", EARLIER), (b"date", DATE)], 8640),
    ],
)
def test_lifetimes(lines: list[tuple[bytes, bytes]], lifetime: float) -> None:
    found = kept(*lines)
    assert found is not None
    assert found.lifetime == lifetime
    assert found.heuristic == (lines[0][0] == b"last-modified")


@pytest.mark.parametrize("values", [[b"0"], [EARLIER], [LATER, DATE]])
def test_expiries_that_say_nothing_are_over(values: list[bytes]) -> None:
    found = kept(*((b"expires", value) for value in values), (b"etag", b'"a"'))
    assert found is not None
    assert found.lifetime == 0


def test_nothing_is_guessed_for_who_may_be_somebody_nor_for_other_statuses() -> None:
    guess = ((b"last-modified", EARLIER), (b"date", DATE))
    assert kept(*guess, asked=Asked(NOW, cookies=True)) is None
    assert kept(*guess, status=403) is None
    found = kept(*guess, (b"cache-control", b"public"), status=599)
    assert found is not None
    assert found.heuristic


def test_a_guess_is_a_day_at_most() -> None:
    found = kept((b"last-modified", b"Fri, 01 Jan 1999 00:00:00 GMT"))
    assert found is not None
    assert found.lifetime == 86_400


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        ([b"30"], 31),
        ([b"x"], MAX_SECONDS + 1),
        ([b"1", b"1"], MAX_SECONDS + 1),
        ([b"1, 1"], MAX_SECONDS + 1),
        ([b"-1"], MAX_SECONDS + 1),
        ([], 1),
    ],
)
def test_the_age_that_it_came_with_counts(age: list[bytes], expected: float) -> None:
    lines = [(b"age", value) for value in age]
    found = control(b"max-age=60", *lines, asked=Asked(NOW - 1))
    assert found is not None
    assert found.age == expected


def test_an_old_date_is_an_age() -> None:
    found = control(b"max-age=60", (b"date", EARLIER))
    assert found is not None
    assert found.age == 86_400


@pytest.mark.parametrize(
    ("value", "strict", "swr"),
    [
        (b"max-age=1, stale-while-revalidate=5", False, 5),
        (b"s-maxage=1, stale-while-revalidate=5", True, 5),
        (b"max-age=1, stale-while-revalidate=5, must-revalidate", True, 0),
        (b"max-age=1, stale-while-revalidate=5, proxy-revalidate", True, 0),
    ],
)
def test_who_forbids_stale_copies(value: bytes, strict: bool, swr: int) -> None:
    found = control(value)
    assert found is not None
    assert (found.strict, found.while_revalidate) == (strict, swr)


# --- fallbacks ----------------------------------------------------------------------------------


def falls_back(
    *lines: tuple[bytes, bytes], status: int = 200, asked: Asked = PLAIN, shared: bool = False
) -> bool:
    return may_fall_back(status, fields(*lines), asked, shared=shared)


def test_a_fallbacks_copy_needs_no_freshness() -> None:
    assert falls_back()
    assert falls_back((b"cache-control", b"no-cache, max-age=0, must-revalidate"))


def test_a_fallbacks_copy_is_nobodys() -> None:
    for value in (b"no-store", b"private"):
        assert not falls_back((b"cache-control", value), shared=True)
    assert not falls_back((b"set-cookie", b"a=b"), shared=True)
    assert not falls_back(status=404)
    for asked in (Asked(NOW, authorized=True), Asked(NOW, cookies=True)):
        assert not falls_back(asked=asked)
        assert falls_back(asked=asked, shared=True)


# --- reuse --------------------------------------------------------------------------------------


def used(
    age: float,
    lifetime: float,
    asked: bytes = b"",
    *,
    no_cache: bool = False,
    strict: bool = False,
    swr: float = 0,
) -> int:
    return use(
        age,
        lifetime,
        no_cache=no_cache,
        strict=strict,
        while_revalidate=swr,
        asked=parse([asked] if asked else []),
    )


def test_fresh_is_younger_than_its_lifetime() -> None:
    assert used(9.9, 10) == FRESH
    assert used(10, 10) == VALIDATE
    assert used(0, 10, no_cache=True) == VALIDATE


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        (b"no-cache", VALIDATE),
        (b"max-age=4", VALIDATE),
        (b"max-age=5", FRESH),
        (b"max-age=4, max-stale", FRESH),
        (b"min-fresh=5", FRESH),
        (b"min-fresh=6", VALIDATE),
        (b"only-if-cached", FRESH),
    ],
)
def test_clients_may_want_it_fresher(asked: bytes, how: int) -> None:
    assert used(5, 10, asked) == how


@pytest.mark.parametrize(
    ("asked", "strict", "how"),
    [
        (b"max-stale", False, STALE),
        (b"max-stale=5", False, STALE),
        (b"max-stale=4", False, VALIDATE),
        (b"max-stale", True, VALIDATE),
        (b"max-stale, min-fresh=1", False, VALIDATE),
    ],
)
def test_clients_may_take_it_stale(asked: bytes, strict: bool, how: int) -> None:
    assert used(15, 10, asked, strict=strict) == how


def test_stale_while_it_is_validated() -> None:
    assert used(14, 10, swr=5) == STALE_WHILE_REVALIDATE
    assert used(15, 10, swr=5) == VALIDATE
    assert used(14, 10, b"max-age=0", swr=5) == VALIDATE
    assert used(14, 10, b"min-fresh=1", swr=5) == VALIDATE


@pytest.mark.parametrize(
    ("age", "strict", "if_error", "disconnected", "stands"),
    [
        (15, False, 6, False, True),
        (16, False, 6, False, False),
        (16, False, 6, True, True),
        (16, True, 0, True, False),
        (15, True, 6, False, True),
        (10 + 86_400, False, 0, True, False),
    ],
)
def test_when_a_copy_stands_for_an_error(
    age: float, strict: bool, if_error: float, disconnected: bool, stands: bool
) -> None:
    assert in_error(age, 10, strict=strict, if_error=if_error, disconnected=disconnected) == stands


# --- invalidation, and what is said -------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (b"/b?c", b"/b?c"),
        (b"b", b"/a/b"),
        (b"?x", b"/a/x?x"),
        (b"https://Web.Example/b", b"/b"),
        (b"http://web.example:80", b"/"),
        (b"//other.example/b", None),
        (b"http://web.example:81/b", None),
        (b"mailto:a@b", None),
        (b"http://[", None),
        (b"\xff\xfe", b"/a/\xff\xfe"),
    ],
)
def test_only_the_same_origins_urls_are_invalidated(reference: bytes, found: bytes | None) -> None:
    assert same_origin(reference, b"/a/x", b"web.example") == found


def test_what_an_answer_says_of_the_cache() -> None:
    assert hit_lines(3, 7) == b"Age: 3\r\nCache-Status: gateway; hit; ttl=7\r\n"
    assert hit_lines(3, -1, b"uri-miss").endswith(b"gateway; fwd=uri-miss; collapsed; ttl=-1\r\n")
    assert forwarded_lines(b"", None, None, False) == b""
    assert forwarded_lines(b"stale", 304, 1, True) == (
        b"Age: 1\r\nCache-Status: gateway; fwd=stale; fwd-status=304; stored\r\n"
    )
    assert forwarded_lines(b"stale", 200, 1, False) == (
        b"Cache-Status: gateway; fwd=stale; fwd-status=200\r\n"
    )
