"""A client's conditions and ranges, answered from a whole copy (RFC 9110 sections 13 and 14)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.policy.caching.dates import http_date

if TYPE_CHECKING:
    from collections.abc import Sequence

_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)

#: ``one_range`` of a range that no octet of the copy is in.
UNSATISFIABLE = (-1, -1)


def not_modified(
    if_none_match: Sequence[bytes],
    if_modified_since: bytes | None,
    etag: bytes,
    last_modified: bytes,
    now: float,
) -> bool:
    """Tell whether a copy is what the client has already (section 13.2.2): then it is a 304.

    ``etag`` and ``last_modified`` are the copy's, empty where it has none.
    """
    if if_none_match:
        joined = b",".join(if_none_match)
        if joined.strip() == b"*":
            return True
        wanted = _opaque(etag)
        return bool(etag) and any(_opaque(tag) == wanted for tag in _TAG.findall(joined))
    since = http_date(if_modified_since, now)
    modified = http_date(last_modified, now)
    return since is not None and modified is not None and modified <= since


def _opaque(tag: bytes) -> bytes:
    """Return a tag for weak comparison (section 8.8.3.2)."""
    return tag.removeprefix(b"W/")


def range_applies(if_range: bytes | None, etag: bytes, last_modified: bytes) -> bool:
    """Tell whether a Range counts (section 13.1.5): If-Range is absent, or names this very copy."""
    if if_range is None:
        return True
    if if_range.startswith((b'"', b"W/")):
        return not if_range.startswith(b"W/") and if_range == etag
    return bool(last_modified) and if_range == last_modified


def one_range(value: bytes, length: int) -> tuple[int, int] | None:
    """Return (first, behind the last) octet of a Range of one part.

    None where it is to be ignored: several parts, another unit, malformed (section 14.2);
    UNSATISFIABLE where the copy ends before it.
    """
    found = _RANGE.fullmatch(value)
    if found is None:
        return None
    begin, end = found[1], found[2]
    if not begin and not end:
        return None
    if not begin:
        size = min(int(end), length)
        return (length - size, length) if size else UNSATISFIABLE
    if end and int(end) < int(begin):
        return None
    if int(begin) >= length:
        return UNSATISFIABLE
    return int(begin), min(int(end) + 1, length) if end else length
