"""Whatever our parser accepts, h11 and llhttp accept, and read in the same way.

llhttp is Node's parser (by way of httptools), h11 the one under httpx and others: two readers of
two traditions. Where one of them is stricter than we are, it stands in DIVERGENCES, with the RFC's
section, and a test shows that it still is; nothing else may differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import h11
import httptools
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gateway.wire.fields import CONNECTION, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE, mask
from gateway.wire.head import BODY_CHUNKED, BODY_LENGTH, BODY_NONE, BODY_UNTIL_CLOSE
from tests.wire import shapes
from tests.wire.reading import Decoded, Fields, Read, Refused, decode_cut, read_whole
from tests.wire.shapes import Edit, edited

#: Longer bodies are not made up for the oracles.
MAX_BODY = 2000
_NEXT = b"GET /next HTTP/1.1\r\n"


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a reader sees it. ``ends`` tells whether it ended exactly where it should."""

    first: tuple[bytes, bytes]
    minor: int
    fields: Fields
    payload: bytes
    trailers: Fields
    ends: bool
    persistent: bool | None = None


# --- the oracles ----------------------------------------------------------------------------------


def _fields(raw: list[tuple[bytes, bytes]]) -> Fields:
    # Blanks about a value are no part of it (RFC 9110 section 5.5); llhttp hands on those behind
    # it. A coding's name has no case (RFC 9112 section 7); h11 hands it on in lower case.
    return tuple(
        (name.lower(), _without_case(name.lower(), value.strip(b" \t"))) for name, value in raw
    )


def _without_case(name: bytes, value: bytes) -> bytes:
    return value.lower() if name == b"transfer-encoding" else value


def _h11_first(event: object) -> tuple[bytes, bytes]:
    if isinstance(event, h11.Request):
        return event.method, event.target
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    return b"%d" % event.status_code, bytes(event.reason)


def _h11_reads(connection: h11.Connection, data: bytes) -> Message | str:
    """Read one message; the text of the error where h11 refuses it."""
    payload = b""
    head: h11.Request | h11.Response | h11.InformationalResponse | None = None
    trailers: Fields = ()
    ended = False
    try:
        connection.receive_data(data)
        while not ended:
            event = connection.next_event()
            if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
                head = event
                ended = isinstance(event, h11.InformationalResponse)
            elif isinstance(event, h11.Data):
                payload += event.data
            elif isinstance(event, h11.EndOfMessage):
                trailers = _fields(event.headers.raw_items())
                ended = True
            else:
                break
    except h11.RemoteProtocolError as error:
        return str(error)
    if head is None:
        return "incomplete"
    return Message(
        _h11_first(head),
        int(head.http_version[-1:]),
        _fields(head.headers.raw_items()),
        payload,
        trailers,
        ended and connection.trailing_data[0] == _NEXT,
    )


def h11_request(message: bytes) -> Message | str:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    return _h11_reads(server, message + _NEXT)


def h11_response(message: bytes, to_head: bool, until_close: bool) -> Message | str:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    # It offers an upgrade, so that 101 is an answer that can be.
    asked = [("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "x")]
    client.send(h11.Request(method="HEAD" if to_head else "GET", target="/", headers=asked))
    client.send(h11.EndOfMessage())
    return _h11_reads(client, message if until_close else message + _NEXT)


@dataclass(slots=True)
class _Llhttp:
    """What httptools' callbacks gather."""

    parser: httptools.HttpRequestParser | httptools.HttpResponseParser | None = None
    url: bytes = b""
    status: bytes = b""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    payload: bytes = b""
    headed: bool = False
    persistent: bool = False
    ended: bool = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_status(self, status: bytes) -> None:
        self.status += status

    def on_header(self, name: bytes, value: bytes) -> None:
        (self.trailers if self.headed else self.fields).append((name, value))

    def on_headers_complete(self) -> None:
        self.headed = True
        assert self.parser is not None
        self.persistent = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.payload += body

    def on_message_complete(self) -> None:
        self.ended = True


def _llhttp_reads(answer: bool, message: bytes, until_close: bool) -> Message | str:
    seen = _Llhttp()
    parser = httptools.HttpResponseParser(seen) if answer else httptools.HttpRequestParser(seen)
    seen.parser = parser
    try:
        parser.feed_data(message[:-1])
        early = seen.ended
        parser.feed_data(message[-1:])
    except httptools.HttpParserUpgrade:
        early = False
    except httptools.HttpParserError as error:
        if "Pause on CONNECT/Upgrade" not in str(error):  # how it says that 101 was read
            return str(error) or type(error).__name__
        early = False
    first = (
        (b"%d" % parser.get_status_code(), seen.status)
        if isinstance(parser, httptools.HttpResponseParser)
        else (parser.get_method(), seen.url)
    )
    return Message(
        first,
        int(parser.get_http_version()[-1]),
        _fields(seen.fields),
        seen.payload,
        _fields(seen.trailers),
        seen.headed and not seen.ended if until_close else seen.ended and not early,
        seen.persistent,
    )


# --- where they differ, and why that is right -----------------------------------------------------

_H = b"Host: a\r\n"
_TE = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

#: What we accept and an oracle does not: name; request; oracle; why.
DIVERGENCES: list[tuple[str, bytes, str, str]] = [
    (
        "a method of one's own",
        b"FOO / HTTP/1.1\r\n" + _H + b"\r\n",
        "llhttp",
        "methods are tokens and more may come (RFC 9110 sections 9.1 and 16.1); llhttp has a list",
    ),
    (
        "a target of no known form",
        b"GET foo HTTP/1.1\r\n" + _H + b"\r\n",
        "llhttp",
        "which of the forms it is (RFC 9112 section 3.2), wire.target decides, and refuses",
    ),
    (
        "an empty line before the request",
        b"\r\nGET / HTTP/1.1\r\n" + _H + b"\r\n",
        "h11",
        "a server should ignore at least one (RFC 9112 section 2.2)",
    ),
    (
        "octets above ASCII in a chunk extension",
        _TE + b"1;\xc3\r\nx\r\n0\r\n\r\n",
        "llhttp",
        "extensions that one does not know are ignored (RFC 9112 section 7.1.1); ours are dropped",
    ),
    (
        "an extension without a name",
        _TE + b"1;\r\nx\r\n0\r\n\r\n",
        "llhttp",
        "as above: nothing of an extension is passed on, and its line end is as strict as any",
    ),
    (
        "a second length in the trailers",
        _TE + b"0\r\nContent-Length: x\r\n\r\n",
        "h11",
        "trailers frame nothing (RFC 9110 section 6.5.1); ours are dropped when passed on",
    ),
    (
        "a transfer coding in the trailers",
        _TE + b"0\r\nTransfer-Encoding: gzip\r\n\r\n",
        "h11",
        "as above",
    ),
]


@pytest.mark.parametrize(("name", "data", "oracle", "why"), DIVERGENCES)
def test_a_divergence_is_still_one(name: str, data: bytes, oracle: str, why: str) -> None:
    assert why, name
    read = read_whole("request", data)
    assert isinstance(read, Read)
    if read.body == BODY_CHUNKED:
        body = decode_cut([data[read.end :]])
        assert isinstance(body, Decoded)
        assert body.done
    refused = h11_request(data) if oracle == "h11" else _llhttp_reads(False, data, False)
    assert isinstance(refused, str), refused


def test_llhttp_reads_no_body_of_a_request_that_upgrades() -> None:
    """RFC 9110 section 7.8: the protocol changes after the request's content, which is read."""
    lines = (b"Host: a", b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 2", b"", b"")
    head = b"GET / HTTP/1.1\r\n" + b"\r\n".join(lines)
    read = read_whole("request", head)
    assert isinstance(read, Read)
    assert (read.body, read.length, read.upgrade) == (BODY_LENGTH, 2, True)
    theirs = _llhttp_reads(False, head + b"ab", False)
    assert not isinstance(theirs, str)
    assert theirs.payload == b""
    ours = h11_request(head + b"ab")
    assert not isinstance(ours, str)
    assert (ours.payload, ours.ends) == (b"ab", True)


def test_llhttp_does_not_look_for_close_in_1_0() -> None:
    """RFC 9112 section 9.3: `close` comes first."""
    data = b"GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n"
    read = read_whole("request", data)
    theirs = _llhttp_reads(False, data, False)
    assert isinstance(read, Read)
    assert not isinstance(theirs, str)
    assert (read.persistent, theirs.persistent) == (False, True)


#: What both oracles, or one of them, accept and we refuse: it is the point of this parser.
STRICTER: list[tuple[str, bytes]] = [
    ("a folded line", b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n"),
    ("a line feed alone", b"GET / HTTP/1.1\nHost: a\n\n"),
    (
        "the same length twice",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"Content-Length: 0\r\n" * 2 + b"\r\n",
    ),
    ("lengths in a list", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n"),
    ("chunked in 1.0", b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (
        "a length and chunked",
        _TE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"0\r\n\r\n",
    ),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n"),
    ("a control octet in a value", b"GET / HTTP/1.1\r\nHost: a\r\nA: \x01\r\n\r\n"),
    ("a fragment in the target", b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
]


@pytest.mark.parametrize(("name", "data"), STRICTER)
def test_we_refuse_what_an_oracle_lets_through(name: str, data: bytes) -> None:
    assert isinstance(read_whole("request", data), Refused), name
    readers = (h11_request(data), _llhttp_reads(False, data, False))
    assert any(not isinstance(reader, str) for reader in readers), "no leniency any more: drop it"


# --- the comparison -------------------------------------------------------------------------------

_LLHTTP_METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"}


def _body_for(read: Read) -> tuple[bytes, bytes] | None:
    """Return the octets of a body, and its payload; None where it would be too long."""
    if read.body == BODY_NONE:
        return b"", b""
    if read.body == BODY_CHUNKED:
        return b"3\r\nabc\r\n0\r\nX-T: u\r\n\r\n", b"abc"
    if read.body == BODY_UNTIL_CLOSE:
        return b"what there is", b"what there is"
    return None if read.length > MAX_BODY else (b"x" * read.length, b"x" * read.length)


def _expected(read: Read, payload: bytes) -> Message:
    trailers = ((b"x-t", b"u"),) if read.body == BODY_CHUNKED else ()
    fields = tuple((name, _without_case(name, value)) for name, value in read.fields)
    return Message(read.first, read.minor, fields, payload, trailers, True, None)


def _agree_on_persistence(read: Read, theirs: Message) -> bool:
    """Tell whether the connection stays for both.

    Divergence: `close` with `keep-alive` in HTTP/1.0, where llhttp does not look for `close`; it
    comes first (RFC 9112 section 9.3).
    """
    if theirs.persistent == read.persistent:
        return True
    said = b",".join(value for name, value in read.fields if name == b"connection").lower()
    members = {member.strip(b" \t") for member in said.split(b",")}
    return read.minor == 0 and not read.persistent and {b"close", b"keep-alive"} <= members


def _plain(message: Message | str) -> Message | str:
    """Return the message without what only one of the oracles tells."""
    if isinstance(message, str):
        return message
    return Message(
        message.first,
        message.minor,
        message.fields,
        message.payload,
        message.trailers,
        message.ends,
    )


def check_request(data: bytes) -> None:
    read = read_whole("request", data)
    event(type(read).__name__ if not isinstance(read, Refused) else read.kind)
    if not isinstance(read, Read):
        return
    body = _body_for(read)
    if body is None:
        return
    head = data[: read.end]
    wanted = _expected(read, body[1])
    # Divergence: an empty line before the request.
    assert _plain(h11_request(head.removeprefix(b"\r\n") + body[0])) == wanted
    if read.upgrade and body[0]:
        return  # divergence: a request that upgrades has a body too
    first = (
        read.first[0] if read.first[0] in _LLHTTP_METHODS else b"POST",
        read.first[1] if read.first[1][:1] == b"/" or read.first[1] == b"*" else b"/",
    )
    # Divergences: methods and forms of targets.
    line = re.escape(b" ".join(read.first))
    theirs = _llhttp_reads(
        False, re.sub(line, lambda _: b" ".join(first), head, count=1) + body[0], False
    )
    assert not isinstance(theirs, str), theirs
    assert _plain(theirs) == _expected(_with_first(read, first), body[1])
    assert _agree_on_persistence(read, theirs)


def _with_first(read: Read, first: tuple[bytes, bytes]) -> Read:
    return Read(
        first,
        read.minor,
        read.fields,
        read.seen,
        read.repeated,
        read.body,
        read.length,
        read.persistent,
        read.upgrade,
        read.expect_continue,
        read.end,
        read.rendered,
    )


def check_response(data: bytes, to_head: bool) -> None:
    read = read_whole("response-to-head" if to_head else "response", data)
    event(type(read).__name__ if not isinstance(read, Refused) else read.kind)
    if not isinstance(read, Read):
        return
    body = _body_for(read)
    if body is None:
        return
    until_close = read.body == BODY_UNTIL_CLOSE
    message = data[: read.end] + body[0]
    # Until the connection ends there is no end to see.
    ends = not until_close
    wanted = _expected(read, body[1])
    theirs = _plain(h11_response(message, to_head, until_close))
    assert theirs == Message(
        wanted.first, wanted.minor, wanted.fields, wanted.payload, wanted.trailers, ends
    )
    if to_head:
        return  # httptools cannot be told that it reads an answer to HEAD
    other = _llhttp_reads(True, message, until_close)
    assert not isinstance(other, str), other
    assert _plain(other) == wanted
    assert _agree_on_persistence(read, other)


# --- what is drawn --------------------------------------------------------------------------------

_EDIT: st.SearchStrategy[Edit] = st.tuples(
    st.sampled_from(shapes.EDITS),
    st.integers(0, 10_000),
    st.sampled_from(shapes.PIECES) | st.binary(min_size=1, max_size=2),
)
_EDITS = st.lists(_EDIT, max_size=3)
_TOKEN = st.text("abcXYZ019-_.!~", min_size=1, max_size=12).map(str.encode)
_VALUE = st.binary(max_size=12).map(lambda value: re.sub(rb"[\x00-\x08\n-\x1f\x7f]", b"", value))
_LINE = st.sampled_from(shapes.LINES) | st.builds(lambda n, v: n + b": " + v, _TOKEN, _VALUE)
_REQUEST_LINE = st.builds(
    lambda method, target, minor: method + b" " + target + b" HTTP/1.%d" % minor,
    st.sampled_from(shapes.METHODS) | _TOKEN,
    st.sampled_from(shapes.TARGETS),
    st.sampled_from([1, 1, 1, 0]),
)


def _joined(first: bytes, lines: list[bytes], edits: list[Edit]) -> bytes:
    return edited(b"\r\n".join((first, *lines, b"", b"")), edits)


_COMMON = settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_COMMON
@given(_REQUEST_LINE, st.lists(_LINE, max_size=6), _EDITS)
def test_requests(first: bytes, lines: list[bytes], edits: list[Edit]) -> None:
    check_request(_joined(first, [b"Host: a", *lines], edits))


@_COMMON
@given(st.sampled_from(shapes.STATUS_LINES), st.lists(_LINE, max_size=6), _EDITS, st.booleans())
def test_answers(first: bytes, lines: list[bytes], edits: list[Edit], to_head: bool) -> None:
    check_response(_joined(first, lines, edits), to_head)


_FRAMING = re.compile(rb"^(content-length|transfer-encoding|connection|upgrade|proxy-connection)$")


@_COMMON
@given(st.sampled_from(shapes.BODIES), st.lists(_EDIT, max_size=2))
def test_chunked_bodies(body: bytes, edits: list[Edit]) -> None:
    data = edited(body, edits)
    ours = decode_cut([data])
    event(type(ours).__name__)
    if not isinstance(ours, Decoded) or not ours.done:
        return
    data = data[: ours.used]
    read = read_whole("request", _TE)
    assert isinstance(read, Read)
    wanted = Message(read.first, 1, read.fields, ours.payload, ours.trailers, True, None)
    framing = any(_FRAMING.match(name) for name, _ in ours.trailers)
    theirs = h11_request(_TE + data)
    assert _plain(theirs) == wanted or (isinstance(theirs, str) and framing)
    other = _llhttp_reads(False, _TE + data, False)
    assert _plain(other) == wanted or (isinstance(other, str) and (b";" in data or framing))


def test_enough_of_what_is_drawn_is_accepted() -> None:
    """Fields that frame do not always exclude each other: the comparison has work to do."""
    accepted = sum(
        isinstance(read_whole("request", b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % each), Read)
        for each in (
            (method, target, line)
            for method in shapes.METHODS
            for target in shapes.TARGETS
            for line in shapes.LINES
        )
    )
    assert accepted == len(shapes.METHODS) * len(shapes.TARGETS) * len(shapes.LINES)
    known = mask(HOST, CONNECTION, TRANSFER_ENCODING, EXPECT, UPGRADE)
    seen = 0
    for line in shapes.LINES:
        read = read_whole("request", b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n")
        assert isinstance(read, Read)
        seen |= read.seen
    assert seen & known == known
