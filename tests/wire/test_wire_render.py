"""Rendering: kept lines byte for byte; left out what the mask or Connection names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import fields
from gateway.wire.fields import BY_NAME, HOP_BY_HOP, mask
from gateway.wire.head import Head, parse_request, parse_response

FIRST = b"GET /b HTTP/1.1\r\n"
EXTRA = b"X-Request-Id: 1\r\nVia: 1.1 gateway\r\n"


def _head(*lines: bytes) -> Head:
    head = parse_request(b"\r\n".join((b"GET /a HTTP/1.1", *lines, b"", b"")))
    assert head is not None
    return head


def test_kept_lines_are_kept_byte_for_byte() -> None:
    lines = (b"hOsT:  a\t", b"A:b", b"a: \t c", b"B:", b"C: \xff\xfe", b"A: b")
    assert _head(*lines).render(FIRST, 0, EXTRA) == (
        FIRST + b"\r\n".join(lines) + b"\r\n" + EXTRA + b"\r\n"
    )


def test_what_lies_behind_a_head_is_no_part_of_it() -> None:
    head = parse_request(b"xxGET /a HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\nbody: c\r\n\r\n", 2)
    assert head is not None
    assert head.render(b"", mask(fields.HOST), b"") == b"A: b\r\n\r\n"
    assert head.line == b"GET /a HTTP/1.1\r\n"


def test_the_mask_leaves_out_every_line_of_a_field() -> None:
    head = _head(b"Cookie: a", b"Host: a", b"cookie: b", b"A: b", b"COOKIE: c")
    assert head.render(FIRST, mask(fields.COOKIE), b"") == FIRST + b"Host: a\r\nA: b\r\n\r\n"
    assert head.render(FIRST, mask(fields.COOKIE, fields.HOST), b"") == FIRST + b"A: b\r\n\r\n"
    # Number 0 stands for all the names that have none.
    assert head.render(b"", mask(fields.COOKIE, fields.UNKNOWN), b"") == b"Host: a\r\n\r\n"


def test_nothing_left() -> None:
    head = _head(b"Host: a")
    assert head.render(FIRST, mask(fields.HOST), b"") == FIRST + b"\r\n"
    assert head.render(FIRST, 2**64 - 1, EXTRA) == FIRST + EXTRA + b"\r\n"


def test_hop_by_hop_fields_stay_behind() -> None:
    """RFC 9110 section 7.6.1."""
    head = _head(
        b"Host: a",
        b"Connection: a",
        b"Keep-Alive: b",
        b"Proxy-Connection: c",
        b"Proxy-Authenticate: d",
        b"Proxy-Authorization: e",
        b"TE: f",
        b"Transfer-Encoding: chunked",
        b"Upgrade: h",
        b"Trailer: i",
        b"Connection-Extra: j",
    )
    assert head.render(b"", HOP_BY_HOP, b"") == (
        b"Host: a\r\nTrailer: i\r\nConnection-Extra: j\r\n\r\n"
    )


CONNECTIONS: list[tuple[bytes, bytes, set[bytes]]] = [
    # Connection; another field; which names are left out by it.
    (b"foo", b"Foo: b", {b"foo"}),
    (b"FOO", b"fOO: b", {b"foo"}),
    (b"close, Foo", b"Foo: b", {b"foo"}),
    (b"Foo, close, host", b"Foo: b", {b"foo"}),
    (b" ,\tFoo\t,", b"Foo: b", {b"foo"}),
    (b"x-forwarded-for", b"X-Forwarded-For: b", {b"x-forwarded-for"}),
    (b"cookie", b"Cookie: b", {b"cookie"}),
    (b"connection", b"Foo: b", {b"connection"}),
    (b"x-foo", b"X_Foo: b", set()),
    (b"x_foo", b"X-Foo: b", set()),
    (b"fo", b"Foo: b", set()),
    (b"foo ;a", b"Foo: b", set()),
    (b'"foo"', b"Foo: b", set()),
    # What frames and routes the message is never left out by the client's word.
    (b"close, host", b"Foo: b", set()),
    (b"Content-Length", b"Content-Length: 5", set()),
    (b"transfer-encoding", b"Transfer-Encoding: chunked", set()),
    (b"host, content-length, foo", b"Content-Length: 5", set()),
]


@pytest.mark.parametrize(("value", "line", "gone"), CONNECTIONS)
def test_what_connection_names_stays_behind(value: bytes, line: bytes, gone: set[bytes]) -> None:
    lines = [b"Host: a", b"Connection: " + value, line, b"Last: z"]
    kept = [each for each in lines if each.partition(b":")[0].lower() not in gone]
    head = _head(*lines)
    assert head.render(b"", 0, EXTRA) == b"\r\n".join((*kept, EXTRA + b"\r\n"))
    # It is left out of what is sent, not of what is seen.
    assert head.count == 4


def test_every_line_of_a_named_field_stays_behind() -> None:
    head = _head(b"A: 1", b"Host: a", b"Connection: b", b"A: 2", b"B: 3", b"connection: A", b"b: 4")
    assert head.render(b"", HOP_BY_HOP, b"") == b"Host: a\r\n\r\n"


def test_connection_cannot_take_away_what_the_gateway_adds() -> None:
    head = _head(b"Host: a", b"Connection: x-request-id, via", b"Via: theirs")
    assert head.render(b"", HOP_BY_HOP, EXTRA) == b"Host: a\r\n" + EXTRA + b"\r\n"


def test_an_answer_and_its_line() -> None:
    head = parse_response(
        b"HTTP/1.1 200 Fine, thanks\r\nConnection: x-a\r\nX-A: b\r\nSet-Cookie: c\r\n"
        b"Set-Cookie: d\r\nContent-Length: 0\r\n\r\n"
    )
    assert head is not None
    assert head.line == b"HTTP/1.1 200 Fine, thanks\r\n"
    assert head.render(head.line, HOP_BY_HOP, b"") == (
        head.line + b"Set-Cookie: c\r\nSet-Cookie: d\r\nContent-Length: 0\r\n\r\n"
    )


def test_a_head_that_was_not_read_has_nothing_to_render() -> None:
    assert Head(b"GET / HTTP/1.1\r\nHost: a\r\n", 0).render(b"", 0, b"") == b"\r\n"
    incomplete = Head(b"GET / HTTP/1.1\r\nHost: a\r\n", 0)
    assert not incomplete.read_request()
    assert incomplete.render(b"", 0, b"") == b"\r\n"
    assert incomplete.items() == []


_NAMES = [*sorted(BY_NAME), b"x-a", b"x-b", b"a"]
_IMPOSSIBLE = {b"host", b"content-length", b"transfer-encoding", b"expect"}
_LINES = st.lists(
    st.tuples(
        st.sampled_from([name for name in _NAMES if name not in _IMPOSSIBLE]),
        st.booleans(),
        st.sampled_from([b"", b" ", b"\t "]),
        st.sampled_from([b"", b"v", b"a, b", b"x-a", b"close, x-b"]),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(_LINES, st.sets(st.sampled_from(sorted(BY_NAME.values()))))
def test_rendering_is_a_filter_over_lines(
    drawn: list[tuple[bytes, bool, bytes, bytes]], dropped: set[int]
) -> None:
    lines = [b"Host: a"]
    kept = []
    named: set[bytes] = set()
    for name, upper, blank, value in drawn:
        lines.append((name.upper() if upper else name) + b":" + blank + value)
        if name == b"connection":
            named.update(token.strip() for token in value.split(b","))
    for line in lines:
        name = line.partition(b":")[0].lower()
        if BY_NAME.get(name, 0) not in dropped and (name not in named or name == b"host"):
            kept.append(line)
    rendered = _head(*lines).render(FIRST, mask(*dropped), EXTRA)
    assert rendered == FIRST + b"".join(line + b"\r\n" for line in kept) + EXTRA + b"\r\n"


def test_sifting_leaves_out_and_tells_what_is_there() -> None:
    head = _head(
        b"Host: a", b"X-Other: b", b"x-GONE: c", b"X_GONE: d", b"Via: e", b"X-Bit: f", b"X-Gone: g"
    )
    names = {b"x-gone": -1, b"x-bit": 5, b"x-none": 0}
    lengths = mask(*{len(name) for name in names})
    assert head.sift(mask(BY_NAME[b"via"]), lengths, names) == 1 << 5
    kept = b"Host: a\r\nX-Other: b\r\nX_GONE: d\r\nX-Bit: f\r\n"
    assert head.render(FIRST, 0, EXTRA) == FIRST + kept + EXTRA + b"\r\n"
    # What is asked for by no length is not looked at.
    assert head.sift(0, 0, names) == 0


def test_sifting_looks_at_names_of_any_length() -> None:
    long = b"x" * 200
    head = _head(b"Host: a", long + b": b", b"y" * 63 + b": c")
    assert head.sift(0, 1 << 63, {b"y" * 63: 63}) == 1 << 63
    assert head.sift(0, 1, {long: -1}) == 0
    assert long in head.render(FIRST, 0, b"")
