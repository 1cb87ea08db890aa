"""The chunked coding: read strictly, the same however it is cut; written so that we read it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.body import (
    LAST_CHUNK,
    MAX_EXTENSIONS,
    MAX_SIZE_DIGITS,
    MAX_TRAILERS,
    ChunkedDecoder,
    encode_chunk,
    encode_last_chunk,
)
from gateway.wire.errors import WireError
from gateway.wire.head import Head
from tests.wire.reading import Decoded, Fields, Refused, cut_at, cuts, decode_cut, octets

DECODED: dict[str, tuple[bytes, bytes, Fields]] = {
    # Octets; payload; trailers.
    "nothing": (b"0\r\n\r\n", b"", ()),
    "one": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", ()),
    "two": (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!", ()),
    "hex digits of both cases": (
        b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
        b"01234567890123456789a",
        (),
    ),
    "leading zeros": (b"000000000000005\r\nhello\r\n000\r\n\r\n", b"hello", ()),
    "payload that looks like frames": (b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n", ()),
    "extensions": (
        b'5;a=b;c="d;\te"; \xc3\xa9\r\nhello\r\n0;\r\n\r\n',
        b"hello",
        (),
    ),
    "trailers": (b"0\r\nA: b\r\nC:\td \r\n\r\n", b"", ((b"a", b"b"), (b"c", b"d"))),
    "the most trailers in octets": (
        b"0\r\nA: " + b"b" * (MAX_TRAILERS - 7) + b"\r\n\r\n",
        b"",
        ((b"a", b"b" * (MAX_TRAILERS - 7)),),
    ),
}


@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"0\r\n\r\n"])
@pytest.mark.parametrize("name", DECODED)
def test_a_body_is_decoded(name: str, behind: bytes) -> None:
    data, payload, trailers = DECODED[name]
    whole = decode_cut([data + behind])
    assert isinstance(whole, Decoded), whole
    assert (whole.used, whole.done, whole.trailers) == (len(data), True, trailers)
    assert whole.payload == payload
    if len(data) > 1000:
        assert decode_cut(octets(data + behind)) == whole
        return
    for pieces in cuts(data + behind):
        assert decode_cut(pieces) == whole, pieces


_MANY = b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n"

REFUSED: dict[str, tuple[bytes, str]] = {
    "no digit": (b"\r\nhello\r\n", "bad-chunk-size"),
    "a sign": (b"+5\r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "a minus": (b"-5\r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "0x": (b"0x5\r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "an underscore": (b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n", "bad-chunk-size"),
    "a blank before the size": (b" 5\r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "a blank behind the size": (b"5 \r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "a tab behind the size": (b"5\t;a\r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "NUL behind the size": (b"5\0\r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "a comma": (b"5,5\r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "no hex digit": (b"g\r\n", "bad-chunk-size"),
    "16 digits": (b"0000000000000005\r\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "a size that wraps 32 bits is only long": (b"100000005\r\nhello\r\n0\r\n\r\n", ""),
    "a size that wraps 64 bits": (b"10000000000000005\r\nhello\r\n", "bad-chunk-size"),
    "a size that is negative in 64 bits": (b"fffffffffffffffb\r\nhello\r\n", "bad-chunk-size"),
    "a line feed alone behind the size": (b"5\nhello\r\n0\r\n\r\n", "bad-chunk-size"),
    "a carriage return alone behind the size": (b"5\rhello\r\n0\r\n\r\n", "bad-chunk"),
    "two carriage returns": (b"5\r\r\nhello\r\n0\r\n\r\n", "bad-chunk"),
    "a line feed alone in an extension": (b"5;a\nhello\r\n0\r\n\r\n", "bad-chunk-extension"),
    "a carriage return alone in an extension": (b"5;a\rb\r\nhello\r\n0\r\n\r\n", "bad-chunk"),
    "a quoted line end in an extension": (b'5;a="\n"\r\nhello\r\n', "bad-chunk-extension"),
    "NUL in an extension": (b"5;\0\r\nhello\r\n0\r\n\r\n", "bad-chunk-extension"),
    "DEL in an extension": (b"5;\x7f\r\nhello\r\n0\r\n\r\n", "bad-chunk-extension"),
    "too much of an extension": (b"5;" + b"a" * (MAX_EXTENSIONS + 1), "bad-chunk-extension"),
    "too many extensions": (b"1;abcdefghijklmno\r\nx\r\n" * 1093, "bad-chunk-extension"),
    "no line end behind the payload": (b"5\r\nhello0\r\n\r\n", "bad-chunk"),
    "a line feed alone behind the payload": (b"5\r\nhello\n0\r\n\r\n", "bad-chunk"),
    "a carriage return alone behind the payload": (b"5\r\nhello\r0\r\n\r\n", "bad-chunk"),
    "more payload than said": (b"5\r\nhello!\r\n0\r\n\r\n", "bad-chunk"),
    "a line feed alone behind the last chunk": (b"0\n\n", "bad-chunk-size"),
    "a line feed alone at the end": (b"0\r\n\n", "bad-field-name"),
    "a carriage return alone at the end": (b"0\r\n\rX\n", "bare-cr"),
    "a folded trailer": (b"0\r\nA: b\r\n c\r\n\r\n", "bad-field-name"),
    "a request for trailers": (b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "bad-field-name"),
    "too many trailers": (_MANY, "too-many-fields"),
    "trailers of too many octets": (
        b"0\r\nA: " + b"b" * (MAX_TRAILERS - 6) + b"\r\n\r\n",
        "too-many-trailers",
    ),
    "trailers of too many octets, without an end": (
        b"0\r\nA: " + b"b" * MAX_TRAILERS,
        "too-many-trailers",
    ),
    "what is wrong behind the bound is not looked at": (
        b"0\r\nA: " + b"b" * MAX_TRAILERS + b"\0\r\n\r\n",
        "too-many-trailers",
    ),
    "what is wrong within the bound is said": (
        b"0\r\nA: \0" + b"b" * MAX_TRAILERS + b"\r\n\r\n",
        "bad-field-value",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_body_is_refused(name: str) -> None:
    data, kind = REFUSED[name]
    whole = decode_cut([data])
    if not kind:
        assert isinstance(whole, Decoded)
        assert not whole.done
        return
    assert isinstance(whole, Refused), whole
    assert whole.kind == kind
    assert whole.status == (431 if kind.startswith("too-many") else 400)
    assert decode_cut(octets(data)) == whole
    if len(data) < 1000:
        for pieces in cuts(data):
            assert decode_cut(pieces) == whole, pieces


def test_a_size_has_no_more_digits_than_a_64_bit_number_holds() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"f" * MAX_SIZE_DIGITS + b"\r\nx", 0) == b"x"
    assert not decoder.done
    # 2**60 - 2 more octets are wanted: no end of the body is near.
    assert decoder.feed(b"0\r\n\r\n", 0) == b"0\r\n\r\n"


def test_extensions_are_bounded_for_the_body_not_for_a_chunk() -> None:
    data = b"1;" + b"a" * (MAX_EXTENSIONS // 2) + b"\r\nx\r\n"
    decoder = ChunkedDecoder()
    assert decoder.feed(data * 2, 0) == b"xx"
    with pytest.raises(WireError, match="bad-chunk-extension"):
        decoder.feed(b"1;a\r\nx\r\n", 0)


def test_decoding_begins_where_it_is_told() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"HEAD5\r\nhello\r\n0\r\n\r\nnext", 4) == b"hello"
    assert (decoder.done, decoder.used) == (True, 19)
    assert decoder.feed(b"more", 0) == b""
    assert decoder.used == 0


@pytest.mark.parametrize("at", [-1, 4, 2**40])
def test_decoding_begins_within_its_data(at: int) -> None:
    decoder = ChunkedDecoder()
    with pytest.raises(ValueError, match="cannot decode"):
        decoder.feed(b"abc", at)


@pytest.mark.parametrize("broken", [b"x", b"5\n", b"1\r\nab", b"0\r\n x\r\n"])
def test_a_broken_body_stays_broken(broken: bytes) -> None:
    decoder = ChunkedDecoder()
    for data in (broken, b"0\r\n\r\n", b"", b"5\r\nhello\r\n"):
        with pytest.raises(WireError):
            decoder.feed(data, 0)
        assert not decoder.done


# --- writing --------------------------------------------------------------------------------------


def test_an_empty_payload_is_no_chunk() -> None:
    assert encode_chunk(b"") == b""
    assert encode_chunk(b"hello world!!!!!") == b"10\r\nhello world!!!!!\r\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(0, 2000), max_size=8))
def test_what_is_encoded_is_decoded(payloads: list[bytes], places: list[int]) -> None:
    data = b"".join(encode_chunk(payload) for payload in payloads) + LAST_CHUNK
    decoded = decode_cut(cut_at(data, places))
    assert decoded == Decoded(b"".join(payloads), len(data), True, ())


def _trailers(lines: bytes) -> Head:
    head = Head(lines + b"\r\n", 0)
    assert head.read_trailers()
    return head


def test_trailers_survive() -> None:
    assert encode_last_chunk(None) == LAST_CHUNK
    kept = _trailers(b"Grpc-Status: 0\r\nServer-Timing: a\r\nServer-Timing:b \r\nDigest:\r\n")
    assert encode_last_chunk(kept) == (
        b"0\r\ngrpc-status: 0\r\nserver-timing: a\r\nserver-timing: b\r\ndigest: \r\n\r\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length",
        b"Transfer-Encoding",
        b"HOST",
        b"Authorization",
        b"Set-Cookie",
        b"Content-Type",
        b"Trailer",
        b"Connection",
        b"Upgrade",
        b"TE",
        b"If-Match",
        b"X-Forwarded-For",
        b"X-Forwarded-Port",
        b"X_Forwarded_For",
        b"Content_Length",
        b"X-Release-Role",
        b"X_Release_Role",
        b"X-Gateway-Error",
        b"X-Request-Id",
        b"gw_override",
        b"gw-override",
    ],
)
def test_a_trailer_cannot_change_what_was_decided_by_the_head(name: bytes) -> None:
    head = _trailers(b"A: b\r\n" + name + b": c\r\n")
    assert encode_last_chunk(head) == b"0\r\na: b\r\n\r\n"
