"""Heads: what is read and what is refused, whole and however it is cut.

Smuggling has its own tables beside this (``test_wire_smuggling``).
"""

from __future__ import annotations

import pytest

from gateway.wire.errors import WireError
from gateway.wire.head import (
    BODY_CHUNKED,
    BODY_LENGTH,
    BODY_NONE,
    BODY_UNTIL_CLOSE,
    MAX_FIELDS,
    Head,
    parse_request,
    parse_response,
)
from tests.wire.reading import Kind, Read, Refused, cuts, read_cut, read_whole


def _request(*lines: bytes, first: bytes = b"GET / HTTP/1.1", host: bool = True) -> bytes:
    fields = (b"Host: a", *lines) if host else lines
    return b"\r\n".join((first, *fields, b"", b""))


def _answer(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((first, *lines, b"", b""))


def _check_cuts(kind: Kind, data: bytes) -> None:
    whole = read_whole(kind, data)
    for pieces in cuts(data):
        assert read_cut(kind, pieces) == whole, pieces


# --- requests -------------------------------------------------------------------------------------

READ_REQUESTS: dict[str, tuple[bytes, tuple[bytes, bytes], int, int]] = {
    # Octets; method and target; framing; length.
    "the least": (_request(), (b"GET", b"/"), BODY_NONE, 0),
    "1.0 without Host": (
        _request(first=b"GET / HTTP/1.0", host=False),
        (b"GET", b"/"),
        BODY_NONE,
        0,
    ),
    "an empty Host": (_request(b"Host:", host=False), (b"GET", b"/"), BODY_NONE, 0),
    "one empty line before it": (b"\r\n" + _request(), (b"GET", b"/"), BODY_NONE, 0),
    "a method of one's own": (
        _request(first=b"M-SEARCH!#$%&'*+.^_`|~09 * HTTP/1.1"),
        (b"M-SEARCH!#$%&'*+.^_`|~09", b"*"),
        BODY_NONE,
        0,
    ),
    "a method in lower case is another": (
        _request(first=b"get / HTTP/1.1"),
        (b"get", b"/"),
        BODY_NONE,
        0,
    ),
    "a method of 32 octets": (
        _request(first=b"M" * 32 + b" / HTTP/1.1"),
        (b"M" * 32, b"/"),
        BODY_NONE,
        0,
    ),
    "absolute-form": (
        _request(first=b"GET http://a:80/b?c HTTP/1.1"),
        (b"GET", b"http://a:80/b?c"),
        BODY_NONE,
        0,
    ),
    "authority-form": (
        _request(first=b"CONNECT a:443 HTTP/1.1"),
        (b"CONNECT", b"a:443"),
        BODY_NONE,
        0,
    ),
    "asterisk-form": (_request(first=b"OPTIONS * HTTP/1.1"), (b"OPTIONS", b"*"), BODY_NONE, 0),
    "a query as browsers send it": (
        _request(first=b"GET /a?b=^[x]`{y}|\\'z'&%41+@:;,!$()*~ HTTP/1.1"),
        (b"GET", b"/a?b=^[x]`{y}|\\'z'&%41+@:;,!$()*~"),
        BODY_NONE,
        0,
    ),
    "a malformed escape is wire.target's": (
        _request(first=b"GET /%zz%0 HTTP/1.1"),
        (b"GET", b"/%zz%0"),
        BODY_NONE,
        0,
    ),
    "a length": (_request(b"Content-Length: 5"), (b"GET", b"/"), BODY_LENGTH, 5),
    "a length of nothing": (_request(b"Content-Length: 0"), (b"GET", b"/"), BODY_NONE, 0),
    "leading zeros": (_request(b"Content-Length: 0005"), (b"GET", b"/"), BODY_LENGTH, 5),
    "18 digits": (
        _request(b"Content-Length: 999999999999999999"),
        (b"GET", b"/"),
        BODY_LENGTH,
        10**18 - 1,
    ),
    "blanks about a value": (
        _request(b"Content-Length: \t 5 \t "),
        (b"GET", b"/"),
        BODY_LENGTH,
        5,
    ),
    "no blank before a value": (_request(b"Content-Length:5"), (b"GET", b"/"), BODY_LENGTH, 5),
    "chunked": (_request(b"Transfer-Encoding: chunked"), (b"GET", b"/"), BODY_CHUNKED, -1),
    "chunked in any case": (
        _request(b"tRANSFER-eNCODING: cHuNKED\t"),
        (b"GET", b"/"),
        BODY_CHUNKED,
        -1,
    ),
    "a value of blanks alone": (_request(b"A:  \t "), (b"GET", b"/"), BODY_NONE, 0),
    "every octet of a value": (
        _request(b"A: " + bytes([*range(0x21, 0x7F), *range(0x80, 0x100), 9, 32, 0x21])),
        (b"GET", b"/"),
        BODY_NONE,
        0,
    ),
    "every octet of a name": (
        _request(b"!#$%&'*+-.^_`|~09azAZ: a"),
        (b"GET", b"/"),
        BODY_NONE,
        0,
    ),
    "as many fields as there may be": (
        _request(*[b"A: b"] * (MAX_FIELDS - 1)),
        (b"GET", b"/"),
        BODY_NONE,
        0,
    ),
    "octets behind it": (_request(b"Content-Length: 3") + b"abc", (b"GET", b"/"), BODY_LENGTH, 3),
}


@pytest.mark.parametrize("name", READ_REQUESTS)
def test_a_request_is_read(name: str) -> None:
    data, first, body, length = READ_REQUESTS[name]
    read = read_whole("request", data)
    assert isinstance(read, Read), read
    assert (read.first, read.body, read.length) == (first, body, length)
    assert read.end == data.rindex(b"\r\n\r\n") + 4
    _check_cuts("request", data)


_LF = b"GET / HTTP/1.1\nHost: a\n\n"

REFUSED_REQUESTS: dict[str, tuple[bytes, str, int]] = {
    # Octets; the refusal's kind and status.
    "line feeds alone": (_LF, "bad-version", 400),
    "a line feed alone behind a field": (_request(b"A: b\nC: d"), "bad-field-value", 400),
    "a line feed alone at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "bad-field-name", 400),
    "a carriage return alone in a value": (_request(b"A: b\rC: d"), "bare-cr", 400),
    "a carriage return alone in a name": (_request(b"A\rB: c"), "bad-field-name", 400),
    "a carriage return alone at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n", "bare-cr", 400),
    "a carriage return twice": (_request(b"A: b\r"), "bare-cr", 400),
    "a carriage return alone behind the version": (
        b"GET / HTTP/1.1\rX\r\nHost: a\r\n\r\n",
        "bare-cr",
        400,
    ),
    "two empty lines before it": (b"\r\n\r\n" + _request(), "bad-request-line", 400),
    "a carriage return alone before it": (b"\r" + _request(), "bare-cr", 400),
    "a line feed alone before it": (b"\n" + _request(), "bad-request-line", 400),
    "a blank before it": (b" " + _request(), "bad-request-line", 400),
    "no method": (_request(first=b" / HTTP/1.1"), "bad-request-line", 400),
    "a method of 33 octets": (_request(first=b"M" * 33 + b" / HTTP/1.1"), "bad-method", 501),
    "no token for a method": (_request(first=b"G(T / HTTP/1.1"), "bad-request-line", 400),
    "a tab for a space": (_request(first=b"GET\t/ HTTP/1.1"), "bad-request-line", 400),
    "two spaces": (_request(first=b"GET  / HTTP/1.1"), "bad-target", 400),
    "two spaces behind the target": (_request(first=b"GET /  HTTP/1.1"), "bad-version", 400),
    "a blank in the target": (_request(first=b"GET /a b HTTP/1.1"), "bad-version", 400),
    "a tab in the target": (_request(first=b"GET /a\tb HTTP/1.1"), "bad-target", 400),
    "NUL in the target": (_request(first=b"GET /\0 HTTP/1.1"), "bad-target", 400),
    "DEL in the target": (_request(first=b"GET /\x7f HTTP/1.1"), "bad-target", 400),
    "a fragment": (_request(first=b"GET /#a HTTP/1.1"), "bad-target", 400),
    "quotes in the target": (_request(first=b'GET /"a" HTTP/1.1'), "bad-target", 400),
    "markup in the target": (_request(first=b"GET /<a> HTTP/1.1"), "bad-target", 400),
    "UTF-8 in the target": (_request(first="GET /é HTTP/1.1".encode()), "bad-target", 400),
    "no target": (_request(first=b"GET HTTP/1.1"), "bad-target", 400),
    "HTTP/0.9": (b"GET /\r\n", "bad-target", 400),
    "no version": (_request(first=b"GET / "), "bad-version", 400),
    "HTTP/1.2": (_request(first=b"GET / HTTP/1.2"), "unsupported-version", 505),
    "HTTP/2.0": (_request(first=b"GET / HTTP/2.0"), "unsupported-version", 505),
    "HTTP/2": (_request(first=b"GET / HTTP/2"), "bad-version", 400),
    "the preface of HTTP/2": (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "unsupported-version",
        505,
    ),
    "HTTP/01.1": (_request(first=b"GET / HTTP/01.1"), "bad-version", 400),
    "HTTP/1.10": (_request(first=b"GET / HTTP/1.10"), "bad-version", 400),
    "http/1.1": (_request(first=b"GET / http/1.1"), "bad-version", 400),
    "HTTPS/1.1": (_request(first=b"GET / HTTPS/1.1"), "bad-version", 400),
    "a blank behind the version": (_request(first=b"GET / HTTP/1.1 "), "bad-version", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", "bad-request-line", 400),
    "no Host": (_request(host=False), "bad-host", 400),
    "two Hosts": (_request(b"Host: a"), "bad-host", 400),
    "two Hosts in 1.0": (_request(b"hOST: b", first=b"GET / HTTP/1.0"), "bad-host", 400),
    "a blank before the colon": (_request(b"A : b"), "bad-field-name", 400),
    "a tab before the colon": (_request(b"A\t: b"), "bad-field-name", 400),
    "a folded line": (_request(b"A: b", b" c"), "bad-field-name", 400),
    "a line folded by a tab": (_request(b"A: b", b"\tc"), "bad-field-name", 400),
    "a blank before the first field": (_request(b" Host: a", host=False), "bad-field-name", 400),
    "an empty name": (_request(b": b"), "bad-field-name", 400),
    "no colon": (_request(b"A"), "bad-field-name", 400),
    "NUL in a name": (_request(b"A\0: b"), "bad-field-name", 400),
    "NUL in a value": (_request(b"A: b\0c"), "bad-field-value", 400),
    "DEL in a value": (_request(b"A: \x7f"), "bad-field-value", 400),
    "a control octet in a value": (_request(b"A: \x0b"), "bad-field-value", 400),
    "UTF-8 in a name": (_request("é: a".encode()), "bad-field-name", 400),
    "too many fields": (_request(*[b"A: b"] * MAX_FIELDS), "too-many-fields", 431),
    "a length of nothing at all": (_request(b"Content-Length:"), "bad-content-length", 400),
    "no number": (_request(b"Content-Length: a"), "bad-content-length", 400),
    "19 digits": (_request(b"Content-Length: " + b"0" * 18 + b"5"), "bad-content-length", 400),
    "an expectation of something else": (_request(b"Expect: 200-ok"), "bad-expect", 417),
    "an expectation of more": (_request(b"Expect: 100-continue, a"), "bad-expect", 417),
    "an expectation of nothing": (_request(b"Expect:"), "bad-expect", 417),
    "two expectations": (
        _request(b"Expect: 100-continue", b"Expect: 100-continue"),
        "bad-expect",
        417,
    ),
    "33 options of the connection": (
        _request(b"Connection: " + b",".join([b"a"] * 33)),
        "bad-connection",
        400,
    ),
    "33 options in several fields": (
        _request(*[b"Connection: a, b, c"] * 11),
        "bad-connection",
        400,
    ),
}


@pytest.mark.parametrize("name", REFUSED_REQUESTS)
def test_a_request_is_refused(name: str) -> None:
    data, kind, status = REFUSED_REQUESTS[name]
    refused = read_whole("request", data)
    assert isinstance(refused, Refused), refused
    assert (refused.kind, refused.status) == (kind, status)
    _check_cuts("request", data)


def test_every_prefix_of_a_request_is_incomplete() -> None:
    data = b"\r\n" + _request(
        b"Content-Length: 5", b"Connection: close, a", first=b"PUT /a HTTP/1.0"
    )
    for end in range(len(data)):
        assert read_whole("request", data[:end]) is None, data[:end]
    assert isinstance(read_whole("request", data), Read)


def test_a_head_may_begin_anywhere() -> None:
    data = _request(b"A: b")
    moved = parse_request(b"x" * 7 + data + b"rest", 7)
    assert moved is not None
    assert (moved.start, moved.end) == (7, 7 + len(data))
    assert moved.items() == [(b"host", b"a"), (b"a", b"b")]
    assert moved.line == b"GET / HTTP/1.1\r\n"
    behind = parse_request(b"\r\n" + data)
    assert behind is not None
    assert (behind.start, behind.method, behind.line) == (2, b"GET", b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("start", [-1, -5, 4, 2**40])
def test_a_head_begins_within_its_data(start: int) -> None:
    with pytest.raises(ValueError, match="cannot start"):
        Head(b"abc", start)


@pytest.mark.parametrize("number", [-1, 64, 2**30])
def test_there_are_no_other_numbers_of_fields(number: int) -> None:
    head = parse_request(_request())
    assert head is not None
    with pytest.raises(ValueError, match="no field has the number"):
        head.get(number)


def test_a_head_can_be_read_again() -> None:
    head = Head(_request(b"Content-Length: 5", b"Connection: close"), 0)
    for _ in range(2):
        assert head.read_request()
        assert (head.length, head.count, head.persistent) == (5, 3, False)
        assert not head.repeated


# --- answers --------------------------------------------------------------------------------------

_NONE, _LENGTH, _CHUNKED, _CLOSE = BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_UNTIL_CLOSE
_CL = b"Content-Length: 5"
_TE = b"Transfer-Encoding: chunked"

READ_ANSWERS: dict[str, tuple[bytes, int, bytes, int, int, bool]] = {
    # Octets; status, reason; framing, length; whether the connection stays.
    "a length": (_answer(_CL), 200, b"OK", _LENGTH, 5, True),
    "a length of nothing": (_answer(b"Content-Length: 0"), 200, b"OK", _NONE, 0, True),
    "chunked": (_answer(_TE), 200, b"OK", _CHUNKED, -1, True),
    "neither: until the connection ends": (_answer(), 200, b"OK", _CLOSE, -1, False),
    "until the connection ends, whatever else it says": (
        _answer(b"Connection: keep-alive"),
        200,
        b"OK",
        _CLOSE,
        -1,
        False,
    ),
    "1.0": (_answer(_CL, first=b"HTTP/1.0 200 OK"), 200, b"OK", _LENGTH, 5, False),
    "1.0 that stays": (
        _answer(_CL, b"Connection: Keep-Alive", first=b"HTTP/1.0 200 OK"),
        200,
        b"OK",
        _LENGTH,
        5,
        True,
    ),
    "100": (_answer(first=b"HTTP/1.1 100 Continue"), 100, b"Continue", _NONE, 0, True),
    "103 with fields": (_answer(b"Link: </a>", first=b"HTTP/1.1 103 x"), 103, b"x", _NONE, 0, True),
    "101": (_answer(first=b"HTTP/1.1 101 x"), 101, b"x", _NONE, 0, True),
    "199": (_answer(_TE, first=b"HTTP/1.1 199 x"), 199, b"x", _NONE, 0, True),
    "204": (_answer(first=b"HTTP/1.1 204 x"), 204, b"x", _NONE, 0, True),
    "204 that says a length": (_answer(_CL, first=b"HTTP/1.1 204 x"), 204, b"x", _NONE, 5, True),
    "204 that says chunked": (_answer(_TE, first=b"HTTP/1.1 204 x"), 204, b"x", _NONE, 0, True),
    "205 has content where it says so": (
        _answer(_CL, first=b"HTTP/1.1 205 x"),
        205,
        b"x",
        _LENGTH,
        5,
        True,
    ),
    "304": (_answer(_CL, first=b"HTTP/1.1 304 x"), 304, b"x", _NONE, 5, True),
    "no reason": (_answer(_CL, first=b"HTTP/1.1 200 "), 200, b"", _LENGTH, 5, True),
    "no second space": (_answer(_CL, first=b"HTTP/1.1 200"), 200, b"", _LENGTH, 5, True),
    "a long reason": (
        _answer(_CL, first="HTTP/1.1 404 nicht da,\t é".encode()),
        404,
        "nicht da,\t é".encode(),
        _LENGTH,
        5,
        True,
    ),
    "a reason of blanks": (_answer(_CL, first=b"HTTP/1.1 200   "), 200, b"  ", _LENGTH, 5, True),
    "999": (_answer(_CL, first=b"HTTP/1.1 999 x"), 999, b"x", _LENGTH, 5, True),
}


@pytest.mark.parametrize("name", READ_ANSWERS)
def test_an_answer_is_read(name: str) -> None:
    data, status, reason, body, length, stays = READ_ANSWERS[name]
    read = read_whole("response", data)
    assert isinstance(read, Read), read
    assert read.first == (b"%d" % status, reason)
    assert (read.body, read.length, read.persistent) == (body, length, stays)
    _check_cuts("response", data)


@pytest.mark.parametrize("lines", [(), (_CL,), (_TE,), (b"Content-Length: 0",)])
def test_an_answer_to_head_has_no_body(lines: tuple[bytes, ...]) -> None:
    head = parse_response(_answer(*lines), True)
    assert head is not None
    assert (head.body, head.persistent) == (BODY_NONE, True)
    assert head.length == (5 if _CL in lines else 0)
    _check_cuts("response-to-head", _answer(*lines))


REFUSED_ANSWERS: dict[str, tuple[bytes, str]] = {
    "an empty line before it": (b"\r\n" + _answer(), "bad-version"),
    "000": (_answer(first=b"HTTP/1.1 000 x"), "bad-status"),
    "099": (_answer(first=b"HTTP/1.1 099 x"), "bad-status"),
    "two digits": (_answer(first=b"HTTP/1.1 20 x"), "bad-status"),
    "four digits": (_answer(first=b"HTTP/1.1 2000 x"), "bad-status"),
    "no digits": (_answer(first=b"HTTP/1.1 OK"), "bad-status"),
    "a sign": (_answer(first=b"HTTP/1.1 +20 x"), "bad-status"),
    "two spaces": (_answer(first=b"HTTP/1.1  200 x"), "bad-status"),
    "a tab behind the status": (_answer(first=b"HTTP/1.1 200\tx"), "bad-status"),
    "no status": (_answer(first=b"HTTP/1.1"), "bad-version"),
    "HTTP/2.0": (_answer(first=b"HTTP/2.0 200 x"), "unsupported-version"),
    "HTTP/1.2": (_answer(first=b"HTTP/1.2 200 x"), "unsupported-version"),
    "ICY": (_answer(first=b"ICY 200 OK"), "bad-version"),
    "NUL in the reason": (_answer(first=b"HTTP/1.1 200 \0"), "bad-status"),
    "DEL in the reason": (_answer(first=b"HTTP/1.1 200 \x7f"), "bad-status"),
    "a carriage return alone in the reason": (_answer(first=b"HTTP/1.1 200 a\rb"), "bare-cr"),
    "a line feed alone": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bad-status"),
    "a folded line": (_answer(b"A: b", b" c"), "bad-field-name"),
    "a blank before the colon": (_answer(b"Content-Length : 5"), "bad-field-name"),
    "a length and chunked": (_answer(_CL, _TE), "ambiguous-length"),
    "the same length twice": (_answer(_CL, _CL), "bad-content-length"),
    "two lengths": (_answer(b"Content-Length: 5, 6"), "bad-content-length"),
    "another coding": (_answer(b"Transfer-Encoding: gzip, chunked"), "bad-transfer-encoding"),
    "chunked in 1.0": (_answer(_TE, first=b"HTTP/1.0 200 x"), "bad-transfer-encoding"),
    "chunked in 1.0 with a length": (
        _answer(_TE, _CL, first=b"HTTP/1.0 200 x"),
        "bad-transfer-encoding",
    ),
    "two lengths where there is no body": (
        _answer(_CL, b"Content-Length: 6", first=b"HTTP/1.1 304 x"),
        "bad-content-length",
    ),
    "too many fields": (_answer(*[b"A: b"] * (MAX_FIELDS + 1)), "too-many-fields"),
}


@pytest.mark.parametrize("name", REFUSED_ANSWERS)
@pytest.mark.parametrize("kind", ["response", "response-to-head"])
def test_an_answer_is_refused(name: str, kind: Kind) -> None:
    data, wanted = REFUSED_ANSWERS[name]
    refused = read_whole(kind, data)
    assert isinstance(refused, Refused), refused
    assert refused.kind == wanted
    _check_cuts(kind, data)


def test_an_answer_is_no_request_and_a_request_no_answer() -> None:
    with pytest.raises(WireError, match="bad-"):
        parse_request(_answer())
    with pytest.raises(WireError, match="bad-version"):
        parse_response(_request())


# --- trailers -------------------------------------------------------------------------------------

READ_TRAILERS: dict[str, tuple[bytes, list[tuple[bytes, bytes]]]] = {
    "none": (b"\r\n", []),
    "one": (b"A: b\r\n\r\n", [(b"a", b"b")]),
    "two of one name": (b"A: b\r\nA:\t c \r\n\r\n", [(b"a", b"b"), (b"a", b"c")]),
    "octets behind them": (b"A: b\r\n\r\nGET /", [(b"a", b"b")]),
}

REFUSED_TRAILERS: dict[str, tuple[bytes, str]] = {
    "a folded line": (b"A: b\r\n c\r\n\r\n", "bad-field-name"),
    "a blank before the colon": (b"A : b\r\n\r\n", "bad-field-name"),
    "a line feed alone": (b"A: b\n\n", "bad-field-value"),
    "a line feed alone at the end": (b"A: b\r\n\n", "bad-field-name"),
    "a carriage return alone": (b"A: b\r\r\n\r\n", "bare-cr"),
    "NUL": (b"A: \0\r\n\r\n", "bad-field-value"),
    "a request": (b"GET / HTTP/1.1\r\n\r\n", "bad-field-name"),
    "too many": (b"A: b\r\n" * 101 + b"\r\n", "too-many-fields"),
}


@pytest.mark.parametrize("name", READ_TRAILERS)
def test_trailers_are_read(name: str) -> None:
    data, fields = READ_TRAILERS[name]
    read = read_whole("trailers", data)
    assert isinstance(read, Read)
    assert list(read.fields) == fields
    _check_cuts("trailers", data)


@pytest.mark.parametrize("name", REFUSED_TRAILERS)
def test_trailers_are_refused(name: str) -> None:
    data, kind = REFUSED_TRAILERS[name]
    refused = read_whole("trailers", data)
    assert isinstance(refused, Refused)
    assert refused.kind == kind
    _check_cuts("trailers", data)
