"""The head that a copy is kept with, and how a 304 renews it (RFC 9111 sections 3.1 and 3.2)."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING

from gateway.policy.caching.fields import lines_of
from gateway.wire.fields import DATE

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.wire.head import Head

#: What describes the stored content itself: a 304 speaks of content that it does not carry.
_CONTENT = frozenset(
    {
        b"content-digest",
        b"content-encoding",
        b"content-length",
        b"content-md5",
        b"content-range",
        b"etag",
    }
)
#: RFC 9110 section 15.4.5: what a 304 says of the representation.
_IN_NOT_MODIFIED = frozenset(
    {
        b"cache-control",
        b"content-location",
        b"date",
        b"etag",
        b"expires",
        b"last-modified",
        b"vary",
    }
)
#: What a part of the content must not say as the whole does.
_OF_THE_WHOLE = frozenset({b"content-length", b"content-range", b"content-md5", b"content-digest"})


def date_of(head: Head, now: float) -> bytes:
    """Return the line that a copy needs whose answer has no Date (RFC 9110 section 6.6.1)."""
    if head.get(DATE) is not None:
        return b""
    return b"Date: " + formatdate(now, usegmt=True).encode() + b"\r\n"


def kept_head(rendered: bytes, drop: Collection[bytes], length: int) -> bytes:
    """Return the head of a copy: an answer's, rendered without hop-by-hop fields, less ``drop``.

    ``length`` is its content's, in octets.
    """
    first = rendered[: rendered.index(b"\r\n")]
    lines = [line for name, line in lines_of(rendered) if name not in drop]
    if length or not first.startswith((b"HTTP/1.1 204", b"HTTP/1.0 204")):
        lines.append(b"Content-Length: %d" % length)
    return b"\r\n".join((first, *lines, b"", b""))


def renewed_head(stored: bytes, fresh: bytes, drop: Collection[bytes]) -> bytes:
    """Return a copy's head with the fields of a 304, rendered as ``kept_head`` takes them."""
    first = stored[: stored.index(b"\r\n")]
    came = [
        (name, line) for name, line in lines_of(fresh) if name not in drop and name not in _CONTENT
    ]
    named = {name for name, _ in came}
    lines = [line for name, line in lines_of(stored) if name not in named and name not in drop]
    length = [line for name, line in lines_of(stored) if name == b"content-length"]
    lines = [line for line in lines if line not in length]
    return b"\r\n".join((first, *lines, *(line for _, line in came), *length, b"", b""))


def not_modified_head(stored: bytes) -> bytes:
    """Return the 304 that stands for a copy."""
    lines = [line for name, line in lines_of(stored) if name in _IN_NOT_MODIFIED]
    return b"\r\n".join((b"HTTP/1.1 304 Not Modified", *lines, b"", b""))


def part_head(stored: bytes, begin: int, end: int, whole: int) -> bytes:
    """Return the 206 for the octets from ``begin`` to before ``end`` of ``whole``."""
    lines = [line for name, line in lines_of(stored) if name not in _OF_THE_WHOLE]
    lines.append(b"Content-Range: bytes %d-%d/%d" % (begin, end - 1, whole))
    lines.append(b"Content-Length: %d" % (end - begin))
    return b"\r\n".join((b"HTTP/1.1 206 Partial Content", *lines, b"", b""))


def unsatisfiable_head(whole: int) -> bytes:
    """Return the 416 for a range behind the last of ``whole`` octets."""
    return (
        b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */%d\r\n"
        b"Content-Length: 0\r\n\r\n" % whole
    )
