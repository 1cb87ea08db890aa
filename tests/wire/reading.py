"""How the tests read: whole, or cut into reads in the way that a connection does it.

A connection keeps what is not yet a head in a buffer. It parses the buffer at the first read, and
after that only when the new data holds a line feed: octet by octet it would be quadratic.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

from gateway.wire.body import ChunkedDecoder
from gateway.wire.errors import WireError
from gateway.wire.head import Head

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: What is read: a request, an answer, an answer to HEAD, a trailer section.
Kind: TypeAlias = Literal["request", "response", "response-to-head", "trailers"]

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A WireError."""

    kind: str
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Read:
    """All that a head says. ``first`` is method and target, or status and reason."""

    first: tuple[bytes, bytes]
    minor: int
    fields: Fields
    seen: int
    repeated: int
    body: int
    length: int
    persistent: bool
    upgrade: bool
    expect_continue: bool
    end: int
    rendered: bytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came of a chunked body; ``used`` are its octets."""

    payload: bytes
    used: int
    done: bool
    trailers: Fields


Outcome: TypeAlias = Read | Refused | None


def refusal(error: WireError) -> Refused:
    return Refused(error.kind, error.status, error.detail)


def _described(head: Head, kind: Kind) -> Read:
    if kind == "request":
        first = (head.method, head.target)
    elif kind == "trailers":
        first = (b"", b"")
    else:
        first = (b"%d" % head.status, head.reason)
    return Read(
        first,
        head.minor,
        tuple(head.items()),
        head.seen,
        head.repeated,
        head.body,
        head.length,
        bool(head.persistent),
        bool(head.upgrade),
        bool(head.expect_continue),
        head.end,
        head.render(b"", 0, b""),
    )


def read_whole(kind: Kind, data: bytes) -> Outcome:
    """Parse the data once. Anything raised but WireError is a failure of the test."""
    head = Head(data, 0)
    try:
        if kind == "request":
            complete = head.read_request()
        elif kind == "trailers":
            complete = head.read_trailers()
        else:
            complete = head.read_response(kind == "response-to-head")
    except WireError as error:
        return refusal(error)
    return _described(head, kind) if complete else None


def read_cut(kind: Kind, pieces: Iterable[bytes]) -> Outcome:
    """Parse as a connection does, read by read, until there is an outcome."""
    buffer = b""
    for piece in pieces:
        first = not buffer
        buffer += piece
        if first or b"\n" in piece:
            outcome = read_whole(kind, buffer)
            if outcome is not None:
                return outcome
    return None


def decode_cut(pieces: Iterable[bytes]) -> Decoded | Refused:
    """Decode a chunked body, read by read, until it is done."""
    decoder = ChunkedDecoder()
    payload = b""
    used = 0
    for piece in pieces:
        try:
            payload += decoder.feed(piece, 0)
        except WireError as error:
            return refusal(error)
        used += decoder.used
        if decoder.done:
            break
        assert decoder.used == len(piece)
    trailers = tuple(decoder.trailers.items()) if decoder.trailers is not None else ()
    return Decoded(payload, used, bool(decoder.done), trailers)


def octets(data: bytes) -> Iterator[bytes]:
    """Cut into single octets."""
    for at in range(len(data)):
        yield data[at : at + 1]


def cuts(data: bytes) -> Iterator[tuple[bytes, ...]]:
    """Cut into octets, and in two at every place."""
    yield tuple(octets(data))
    for at in range(1, len(data)):
        yield data[:at], data[at:]


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut at these places, taken modulo the length; without empty pieces."""
    if not data:
        return []
    at = sorted({place % len(data) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(at)]
