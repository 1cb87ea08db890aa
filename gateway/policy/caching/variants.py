"""``Vary``: which request fields tell a URL's answers apart, and how they are compared.

RFC 9111 section 4.1. Values are compared as lists where blanks around commas mean nothing, and two
fields whose meaning is known are brought into one form. What the gateway itself puts on a request
is no client's to vary by: an answer that names such a field is kept where the key has it already
(host, scheme, color), and not kept else.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gateway.policy.caching.fields import members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.policy.caching.fields import Fields
    from gateway.wire.head import Head

#: More names than this are as good as ``*``.
MAX_NAMES = 8

_IN_KEY = frozenset({b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-release-color"})
_NO_KEY = frozenset(
    {
        b"*",
        b"forwarded",
        b"traceparent",
        b"x-forwarded-for",
        b"x-real-ip",
        b"x-release-id",
        b"x-release-key",
        b"x-release-role",
        b"x-request-id",
    }
)
_ANY_CASE = frozenset({b"accept", b"accept-charset", b"accept-encoding", b"accept-language"})
_ANY_ORDER = frozenset({b"accept-encoding"})


def varies_by(fields: Fields) -> tuple[bytes, ...] | None:
    """Return the names an answer varies by, sorted; None where no key could tell them apart."""
    names = frozenset(members(fields, b"vary"))
    if not names:
        return ()
    if names & _NO_KEY or len(names) > MAX_NAMES:
        return None
    return tuple(sorted(names - _IN_KEY))


def values_of(names: Sequence[bytes], request: Head, cookie: bytes) -> list[list[bytes]]:
    """Return a request's values of these fields, as they came.

    ``cookie`` is its Cookie without the gateway's own.
    """
    return [
        ([cookie] if cookie else []) if name == b"cookie" else request.find_all(name)
        for name in names
    ]


def variant(names: Sequence[bytes], values_by_name: Sequence[Sequence[bytes]]) -> bytes:
    """Return 16 octets that stand for the values (``values_of``) of these fields."""
    digest = hashlib.blake2b(digest_size=16)
    for name, values in zip(names, values_by_name, strict=True):
        digest.update(name)
        # Absent is not the same as empty.
        digest.update(b"\0%d\0" % bool(values))
        digest.update(_normal(name, values))
        digest.update(b"\0\0")
    return digest.digest()


def _normal(name: bytes, values: Sequence[bytes]) -> bytes:
    joined = b",".join(values)
    if name in _ANY_CASE:
        joined = joined.lower()
    parts = [part.strip(b" \t") for part in joined.split(b",")]
    if name in _ANY_CASE:
        parts = [part.replace(b" ", b"") for part in parts]
    if name in _ANY_ORDER:
        parts.sort()
    return b",".join(parts)
