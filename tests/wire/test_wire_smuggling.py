"""Every published shape of request smuggling is refused, or read in the one way that is meant.

The shapes are those of the usual tables (CL.TE, TE.CL, TE.TE, CL.0, TE.0, chunk line ends, length
spellings) and of the errata of well-known servers and proxies. Each head has a second request in
its tail; the first is refused, so that nothing of the second is ever looked at.
"""

from __future__ import annotations

import pytest

from gateway.wire.head import BODY_CHUNKED, BODY_NONE
from tests.wire.reading import Decoded, Read, Refused, cuts, decode_cut, read_cut, read_whole

SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"0\r\n\r\n" + SMUGGLED


def _post(*lines: bytes, minor: int = 1, host: bytes = b"Host: a\r\n") -> bytes:
    return b"POST / HTTP/1.%d\r\n" % minor + host + b"".join(line + b"\r\n" for line in lines)


_TE = b"Transfer-Encoding: chunked"
_LENGTH = b"Content-Length: %d" % len(CHUNKED)

BOTH: dict[str, bytes] = {
    "CL.TE": _post(_LENGTH, _TE),
    "TE.CL": _post(_TE, b"Content-Length: 4"),
    "CL.TE of length 0": _post(b"Content-Length: 0", _TE),
    "CL.TE in 1.0": _post(_LENGTH, _TE, minor=0),
    "TE in 1.0": _post(_TE, minor=0),
    "TE in 1.0 that keeps alive": _post(_TE, b"Connection: keep-alive", minor=0),
    "CL.TE with TE named by Connection": _post(_LENGTH, _TE, b"Connection: Transfer-Encoding"),
    "TE.CL with CL named by Connection": _post(_TE, _LENGTH, b"Connection: Content-Length"),
    "CL.TE with a bad length": _post(b"Content-Length: x", _TE),
}

CODINGS: dict[str, bytes] = {
    f"TE.TE {name}": _post(*lines)
    for name, lines in {
        "another coding after it": (_TE, b"Transfer-Encoding: x"),
        "another coding before it": (b"Transfer-Encoding: x", _TE),
        "identity after it": (_TE, b"Transfer-Encoding: identity"),
        "identity before it": (b"Transfer-Encoding: identity", _TE),
        "twice": (_TE, _TE),
        "twice in a list": (b"Transfer-Encoding: chunked, chunked",),
        "cow": (_TE, b"Transfer-encoding: cow"),
        "xchunked": (b"Transfer-Encoding: xchunked",),
        "chunkedx": (b"Transfer-Encoding: chunkedx",),
        "chunke": (b"Transfer-Encoding: chunke",),
        "a list with identity": (b"Transfer-Encoding: chunked, identity",),
        "a list with identity first": (b"Transfer-Encoding: identity, chunked",),
        "gzip": (b"Transfer-Encoding: gzip",),
        "gzip before it": (b"Transfer-Encoding: gzip, chunked",),
        "gzip after it": (b"Transfer-Encoding: chunked, gzip",),
        "identity": (b"Transfer-Encoding: identity",),
        "nothing": (b"Transfer-Encoding:",),
        "a comma": (b"Transfer-Encoding: ,",),
        "a comma after it": (b"Transfer-Encoding: chunked,",),
        "a comma before it": (b"Transfer-Encoding: ,chunked",),
        "a semicolon after it": (b"Transfer-Encoding: chunked;",),
        "a parameter": (b"Transfer-Encoding: chunked;q=0.5",),
        "quotes": (b'Transfer-Encoding: "chunked"',),
        "single quotes": (b"Transfer-Encoding: 'chunked'",),
        "a vertical tab before it": (b"Transfer-Encoding: \x0bchunked",),
        "a form feed before it": (b"Transfer-Encoding: \x0cchunked",),
        "a vertical tab after it": (b"Transfer-Encoding: chunked\x0b",),
        "NUL after it": (b"Transfer-Encoding: chunked\0",),
        "NUL in it": (b"Transfer-Encoding: chu\0nked",),
        "a no-break space before it": (b"Transfer-Encoding: \xa0chunked",),
        "a next line after it": (b"Transfer-Encoding: chunked\x85",),
        "a Kelvin sign for its k": ("Transfer-Encoding: chun\u212aed".encode(),),
        "a blank in it": (b"Transfer-Encoding: chunk ed",),
        "a blank before the colon": (b"Transfer-Encoding : chunked",),
        "a tab before the colon": (b"Transfer-Encoding\t: chunked",),
        "NUL before the colon": (b"Transfer-Encoding\0: chunked",),
        "a blank before the name": (b" Transfer-Encoding: chunked",),
        "a tab before the name": (b"\tTransfer-Encoding: chunked",),
        "a vertical tab before the name": (b"\x0bTransfer-Encoding: chunked",),
        "folded": (b"Transfer-Encoding:", b" chunked"),
        "folded by a tab": (b"Transfer-Encoding:", b"\tchunked"),
        "folded after it": (_TE, b" , identity"),
        "folded with a name": (b"X: y", b" Transfer-Encoding: chunked"),
        "behind a bare line feed": (b"X: y\nTransfer-Encoding: chunked",),
        "behind a bare carriage return": (b"X: y\rTransfer-Encoding: chunked",),
        "before a bare line feed": (b"Transfer-Encoding: chunked\nX: y",),
        "before a bare carriage return": (b"Transfer-Encoding: chunked\rX: y",),
        "a bare carriage return after it": (b"Transfer-Encoding: chunked\r",),
        "a bare line feed after the colon": (b"Transfer-Encoding:\n chunked",),
        "a quoted line end": (b'X: "a\r', b'Transfer-Encoding: chunked"'),
        "behind a line without a colon": (b"Foo", _TE),
        "behind a line without a name": (b": x", _TE),
    }.items()
}

LENGTHS: dict[str, bytes] = {
    f"a length {name}": _post(*lines)
    for name, lines in {
        "twice": (b"Content-Length: 5", b"Content-Length: 5"),
        "twice, unlike": (b"Content-Length: 5", b"Content-Length: 0"),
        "twice in other letters": (b"Content-Length: 5", b"CONTENT-LENGTH: 6"),
        "in a list": (b"Content-Length: 5, 5",),
        "in a list, unlike": (b"Content-Length: 5,6",),
        "with a comma": (b"Content-Length: 5,",),
        "with a sign": (b"Content-Length: +5",),
        "negative": (b"Content-Length: -5",),
        "of minus zero": (b"Content-Length: -0",),
        "in hex": (b"Content-Length: 0x5",),
        "in octal": (b"Content-Length: 0o5",),
        "with a fraction": (b"Content-Length: 5.0",),
        "with an exponent": (b"Content-Length: 5e0",),
        "with an underscore": (b"Content-Length: 1_0",),
        "with a blank in it": (b"Content-Length: 1 0",),
        "with a blank before the colon": (b"Content-Length : 5",),
        "with a unit": (b"Content-Length: 5b",),
        "with a semicolon": (b"Content-Length: 5;",),
        "quoted": (b'Content-Length: "5"',),
        "empty": (b"Content-Length:",),
        "empty and then not": (b"Content-Length:", b"Content-Length: 5"),
        "of 2**64 + 5": (b"Content-Length: %d" % (2**64 + 5),),
        "of 2**63": (b"Content-Length: %d" % 2**63,),
        "of 2**128 + 5": (b"Content-Length: %d" % (2**128 + 5),),
        "of twenty zeros and 5": (b"Content-Length: " + b"0" * 20 + b"5",),
        "in Arabic digits": ("Content-Length: \u0665".encode(),),
        "in full-width digits": ("Content-Length: \uff15".encode(),),
        "with a superscript": (b"Content-Length: 5\xb2",),
        "with a vertical tab": (b"Content-Length: \x0b5",),
        "with NUL": (b"Content-Length: 5\0",),
        "with NUL and more": (b"Content-Length: 5\x006",),
        "folded": (b"Content-Length:", b" 5"),
        "folded behind a digit": (b"Content-Length: 5", b" 6"),
        "behind a bare line feed": (b"X: y\nContent-Length: 5",),
        "behind a bare carriage return": (b"X: y\rContent-Length: 5",),
    }.items()
}

HOSTS: dict[str, bytes] = {
    "two hosts": _post(b"Content-Length: 0", host=b"Host: a\r\nHost: b\r\n"),
    "two hosts, one folded": _post(b"Content-Length: 0", host=b"Host: a\r\n Host: b\r\n"),
    "a blank before the host's colon": _post(b"Content-Length: 0", host=b"Host : a\r\n"),
    "a host behind a bare line feed": _post(b"Content-Length: 0", host=b"X: y\nHost: a\r\n"),
    "a line between the request line and the fields": (
        b"GET / HTTP/1.1\r\n x\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    ),
    "a request in the target": b"GET /\rGET /admin HTTP/1.1\r\nHost: a\r\n",
    "a second version": b"GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n",
    "a request line that ends in a line feed": b"GET / HTTP/1.1\nHost: a\r\n",
}

HEADS = {**BOTH, **CODINGS, **LENGTHS, **HOSTS}


@pytest.mark.parametrize("name", HEADS)
def test_an_ambiguous_head_is_refused(name: str) -> None:
    data = HEADS[name] + b"\r\n" + CHUNKED
    refused = read_whole("request", data)
    assert isinstance(refused, Refused), refused
    assert refused.status in {400, 501}
    for pieces in cuts(data):
        assert read_cut("request", pieces) == refused, pieces


@pytest.mark.parametrize("name", [*CODINGS, *LENGTHS])
def test_an_ambiguous_answer_is_refused(name: str) -> None:
    lines = HEADS[name].partition(b"Host: a\r\n")[2]
    data = b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n" + CHUNKED
    assert isinstance(read_whole("response", data), Refused)
    assert isinstance(read_whole("response-to-head", data), Refused)


STATUSES = [
    # RFC 9112 section 6.3 rule 4: chunked must be the last coding, else 400; section 6.1: a coding
    # unknown here is 501.
    (b"gzip, chunked", 501),
    (b"x, y , CHUNKED", 501),
    (b"chunked", 0),
    (b"gzip", 400),
    (b"xchunked", 400),
    (b"identity", 400),
    (b"chunked, gzip", 400),
    (b"chunked, chunked", 400),
    (b"chunked, gzip, chunked", 400),
    (b"gzip,, chunked", 400),
    (b", chunked", 400),
    (b"", 400),
]


@pytest.mark.parametrize(("coding", "status"), STATUSES)
def test_a_transfer_coding_that_is_not_understood(coding: bytes, status: int) -> None:
    read = read_whole("request", _post(b"Transfer-Encoding: " + coding) + b"\r\n")
    if status:
        assert isinstance(read, Refused)
        assert (read.kind, read.status) == ("bad-transfer-encoding", status)
    else:
        assert isinstance(read, Read)


BODIES: dict[str, bytes] = {
    # Shapes that differ in where a chunk's line ends (TERM.EXT, EXT.TERM, TERM.SPILL and so on).
    "TERM.EXT by a line feed": b"2;\nxx\r\n0\r\n\r\n",
    "TERM.EXT by a carriage return": b"2;\rxx\r\n0\r\n\r\n",
    "EXT.TERM": b"2;a\nxx\r\n45\r\n0\r\n\r\n" + SMUGGLED,
    "TERM.SPILL": b"5\r\nAAAAAX\r\n0\r\n\r\n",
    "SPILL.TERM": b"5\r\nAAAAAXX0\r\n\r\n",
    "SPILL.TERM by a line feed": b"5\r\nAAAAA\n0\r\n\r\n",
    "SPILL.TERM by a carriage return": b"5\r\nAAAAA\r0\r\n\r\n",
    "ONE.TWO": b"5\r\nAAAAA\r\r\n0\r\n\r\n",
    "TWO.ONE": b"5\r\r\nAAAAA\r\n0\r\n\r\n",
    "ZERO.TWO": b"5\r\nAAAAA0\r\n\r\n",
    "a line feed behind the last chunk": b"0\n\r\n" + SMUGGLED,
    "a line feed for the last line": b"0\r\n\n" + SMUGGLED,
    "two line feeds for the end": b"0\n\n" + SMUGGLED,
    "2**64 + 5 octets": b"10000000000000005\r\nAAAAA\r\n0\r\n\r\n",
    "2**32 + 5 octets in 20 digits": b"00000000000100000005\r\nAAAAA\r\n0\r\n\r\n",
    "-1 octets": b"ffffffffffffffff\r\n",
    "- 1 octets": b"-1\r\n",
    "a sign": b"+0\r\n\r\n",
    "0x": b"0x0\r\n\r\n",
    "a blank": b"0 \r\n\r\n",
    "a blank before": b" 0\r\n\r\n",
    "an empty line first": b"\r\n0\r\n\r\n",
    "an empty size": b";a=b\r\n\r\n",
    "NUL": b"0\0\r\n\r\n",
    "a quoted end of line": b'1;a="\r\n"\r\nx\r\n0\r\n\r\n',
    "a smuggled request for trailers": b"0\r\n" + SMUGGLED,
    "trailers without a colon": b"0\r\nfoo\r\n\r\n",
    "a folded trailer": b"0\r\na: b\r\n Content-Length: 5\r\n\r\n",
    "a blank before a trailer's colon": b"0\r\nContent-Length : 5\r\n\r\n",
}


@pytest.mark.parametrize("name", BODIES)
def test_an_ambiguous_body_is_refused(name: str) -> None:
    refused = decode_cut([BODIES[name]])
    assert isinstance(refused, Refused), refused
    for pieces in cuts(BODIES[name]):
        assert decode_cut(pieces) == refused, pieces


def test_what_follows_a_body_is_left_for_the_next_request() -> None:
    head = read_whole("request", _post(_TE) + b"\r\n" + CHUNKED)
    assert isinstance(head, Read)
    assert head.body == BODY_CHUNKED
    assert decode_cut([CHUNKED]) == Decoded(b"", 5, True, ())


@pytest.mark.parametrize(
    "line",
    [
        # Names that only look like it are other fields here, and go upstream as such or not at all.
        b"Content_Length: 5",
        b"Transfer_Encoding: chunked",
        b"X-Content-Length: 5",
        b"Content-Length-: 5",
        b"Content-Lengt: 5",
        b"ContentLength: 5",
        b"Transfer-Encodin: chunked",
        b"Transfer-Encodingg: chunked",
        b"X: Transfer-Encoding: chunked",
        b"TE: chunked",
        b"Keep-Alive: Content-Length: 5",
    ],
)
def test_what_only_looks_like_framing_frames_nothing(line: bytes) -> None:
    read = read_whole("request", _post(line) + b"\r\n" + SMUGGLED)
    assert isinstance(read, Read)
    assert (read.body, read.length) == (BODY_NONE, 0)
    assert (b"_" in line) == (line not in read.rendered)
