"""Heads of copies: what is kept, renewed, answered, and told apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.caching.answering import answer
from gateway.policy.caching.conditions import (
    UNSATISFIABLE,
    not_modified,
    one_range,
    range_applies,
)
from gateway.policy.caching.fields import fields_of
from gateway.policy.caching.updating import kept_head, renewed_head
from gateway.policy.caching.variants import values_of, variant, varies_by
from gateway.wire.head import Head, parse_request, parse_response

NOW = 1_893_456_000.0
DATE = b"Tue, 01 Jan 2030 00:00:00 GMT"
EARLIER = b"Mon, 31 Dec 2029 00:00:00 GMT"


def request(fields: bytes = b"", method: bytes = b"GET") -> Head:
    head = parse_request(b"%b / HTTP/1.1\r\nHost: x\r\n%b\r\n" % (method, fields))
    assert head is not None
    return head


def response(fields: bytes = b"", status: bytes = b"200 OK") -> Head:
    head = parse_response(b"HTTP/1.1 %b\r\n%b\r\n" % (status, fields))
    assert head is not None
    return head


# --- conditions and ranges ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "matches"),
    [
        ([b'"a"'], True),
        ([b'W/"a"'], True),
        ([b'"b", "a"'], True),
        ([b'"b"', b'W/"a"'], True),
        ([b"*"], True),
        ([b'"b"'], False),
        ([b"a"], False),
        ([b'"a'], False),
    ],
)
def test_tags_are_compared_weakly(tags: list[bytes], matches: bool) -> None:
    assert not_modified(tags, None, b'"a"', b"", NOW) == matches
    assert not_modified(tags, None, b'W/"a"', b"", NOW) == matches


def test_tags_go_before_dates() -> None:
    assert not not_modified([b'"b"'], DATE, b'"a"', EARLIER, NOW)
    assert not not_modified([b'"b"'], DATE, b"", EARLIER, NOW)


@pytest.mark.parametrize(
    ("since", "matches"), [(DATE, True), (EARLIER, True), (b"x", False), (None, False)]
)
def test_dates_are_compared_as_dates(since: bytes | None, matches: bool) -> None:
    assert not_modified([], since, b"", EARLIER, NOW) == matches
    assert not not_modified([], since, b"", b"", NOW)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (b"bytes=0-0", (0, 1)),
        (b"Bytes=2-", (2, 10)),
        (b"bytes=-3", (7, 10)),
        (b"bytes=-30", (0, 10)),
        (b"bytes=8-99", (8, 10)),
        (b"bytes=10-", UNSATISFIABLE),
        (b"bytes=-0", UNSATISFIABLE),
        (b"bytes=5-4", None),
        (b"bytes=-", None),
        (b"bytes=0-1,3-4", None),
        (b"bytes=0 - 1", None),
        (b"bits=0-1", None),
        (b"bytes=1" + b"0" * 30 + b"-", None),
    ],
)
def test_one_range(value: bytes, part: tuple[int, int] | None) -> None:
    assert one_range(value, 10) == part


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 50))
def test_a_range_lies_within_the_copy(begin: int, end: int, length: int) -> None:
    part = one_range(b"bytes=%d-%d" % (begin, end), length)
    if part is not None and part != UNSATISFIABLE:
        assert 0 <= part[0] < part[1] <= length
        assert part[1] - part[0] <= end - begin + 1


@pytest.mark.parametrize(
    ("value", "applies"),
    [
        (None, True),
        (b'"a"', True),
        (b'W/"a"', False),
        (b'"b"', False),
        (EARLIER, True),
        (DATE, False),
    ],
)
def test_if_range_wants_this_very_copy(value: bytes | None, applies: bool) -> None:
    assert range_applies(value, b'"a"', EARLIER) == applies


COPY = response(
    b'ETag: "a"\r\nDate: %b\r\nX-A: 1\r\nCache-Control: max-age=9\r\nContent-Length: 10\r\n' % DATE
)
BODY = b"0123456789"


def answered(fields: bytes, *, to_head: bool = False) -> tuple[int, dict[bytes, bytes], bytes]:
    head, body = answer(request(fields), COPY, BODY, to_head, NOW)
    return head.status, dict(head.items()), body


def test_a_304_says_what_it_must_and_no_more() -> None:
    status, fields, body = answered(b'If-None-Match: "a"\r\nRange: bytes=0-1\r\n')
    assert (status, body) == (304, b"")
    assert fields == {b"etag": b'"a"', b"date": DATE, b"cache-control": b"max-age=9"}


def test_a_copy_without_last_modified_is_as_old_as_its_date() -> None:
    assert answered(b"If-Modified-Since: %b\r\n" % DATE)[0] == 304
    assert answered(b"If-Modified-Since: %b\r\n" % EARLIER)[0] == 200


def test_a_part_of_a_copy() -> None:
    status, fields, body = answered(b"Range: bytes=2-4\r\n")
    assert (status, body) == (206, b"234")
    assert fields[b"content-range"] == b"bytes 2-4/10"
    assert fields[b"content-length"] == b"3"
    assert fields[b"x-a"] == b"1"


def test_a_part_behind_the_end() -> None:
    status, fields, body = answered(b"Range: bytes=10-\r\n")
    assert (status, fields[b"content-range"], body) == (416, b"bytes */10", b"")


@pytest.mark.parametrize(
    "fields",
    [b"Range: bytes=0-1,4-5\r\n", b'Range: bytes=0-1\r\nIf-Range: "b"\r\n', b"Range: x\r\n"],
)
def test_ranges_that_do_not_count_get_the_whole(fields: bytes) -> None:
    assert answered(fields)[::2] == (200, BODY)


def test_head_has_no_parts() -> None:
    assert answered(b"Range: bytes=0-1\r\n", to_head=True)[0] == 200


# --- what is kept, and renewed ------------------------------------------------------------------


def test_a_kept_head_has_its_length_and_not_what_is_dropped() -> None:
    rendered = b"HTTP/1.1 200 OK\r\nA: 1\r\nAge: 3\r\nContent-Length: 9\r\n\r\n"
    head = kept_head(rendered, {b"age", b"content-length"}, 7)
    assert head == b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 7\r\n\r\n"


def test_a_204_has_none() -> None:
    assert b"Content-Length" not in kept_head(b"HTTP/1.1 204 No Content\r\n\r\n", (), 0)


def test_a_304_renews_fields_and_leaves_those_of_the_content() -> None:
    stored = (
        b'HTTP/1.1 200 OK\r\nA: 1\r\nB: 1\r\nETag: "a"\r\nContent-Encoding: br\r\n'
        b"Content-Length: 5\r\n\r\n"
    )
    fresh = (
        b'HTTP/1.1 304 Not Modified\r\nA: 2\r\nA: 3\r\nETag: "b"\r\nContent-Encoding: gzip\r\n'
        b"Content-Length: 9\r\nSet-Cookie: s=1\r\n\r\n"
    )
    assert renewed_head(stored, fresh, {b"set-cookie", b"content-length"}) == (
        b'HTTP/1.1 200 OK\r\nB: 1\r\nETag: "a"\r\nContent-Encoding: br\r\nA: 2\r\nA: 3\r\n'
        b"Content-Length: 5\r\n\r\n"
    )


# --- variants -----------------------------------------------------------------------------------


def differs(names: tuple[bytes, ...], one: bytes, other: bytes) -> bool:
    first, second = (variant(names, values_of(names, request(each), b"")) for each in (one, other))
    return first != second


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (b"", ()),
        (b"Accept-Encoding", (b"accept-encoding",)),
        (b"b, A , ,b", (b"a", b"b")),
        (b"Host, X-Release-Color, X-Forwarded-Proto", ()),
        (b"*", None),
        (b"a, *", None),
        (b"X-Release-Role", None),
        (b"X-Forwarded-For", None),
        (b"a,b,c,d,e,f,g,h,i", None),
    ],
)
def test_names_that_tell_answers_apart(value: bytes, names: tuple[bytes, ...] | None) -> None:
    assert varies_by({b"vary": [value]}) == names


def test_variants_compare_lists_and_known_fields_by_meaning() -> None:
    assert not differs((b"a",), b"A: 1, 2\r\n", b"A: 1\r\na:2\r\n")
    assert differs((b"a",), b"A: 1\r\n", b"A: 2\r\n")
    assert differs((b"a",), b"", b"A:\r\n")
    assert differs((b"a",), b"A: x\r\n", b"A: X\r\n")
    encoding = (b"accept-encoding",)
    assert not differs(encoding, b"Accept-Encoding: gzip, br\r\n", b"Accept-Encoding: BR,gzip\r\n")
    language = (b"accept-language",)
    assert not differs(language, b"Accept-Language: en; q=1\r\n", b"Accept-Language: EN;q=1\r\n")
    assert differs(language, b"Accept-Language: en, de\r\n", b"Accept-Language: de, en\r\n")


def test_a_value_cannot_pass_for_another_fields() -> None:
    names = (b"a", b"b")
    assert differs(names, b"A: 1\r\n", b"B: 1\r\n")


def test_the_gateways_cookies_do_not_tell_answers_apart() -> None:
    names = (b"cookie",)
    head = request(b"Cookie: gw_cohort=1; a=b\r\n")
    assert values_of(names, head, b"a=b") == [[b"a=b"]]
    assert values_of(names, head, b"") == [[]]


def test_fields_by_name_keep_their_lines() -> None:
    assert fields_of(response(b"A: 1\r\nb: 2\r\na: 3\r\n")) == {b"a": [b"1", b"3"], b"b": [b"2"]}
