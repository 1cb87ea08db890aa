"""What of a whole copy answers a request that has conditions or a range.

RFC 9110 sections 13.2.2 and 14; the copy is one of a 200.
"""

from __future__ import annotations

from gateway.policy.caching.conditions import (
    UNSATISFIABLE,
    not_modified,
    one_range,
    range_applies,
)
from gateway.policy.caching.updating import not_modified_head, part_head, unsatisfiable_head
from gateway.wire.fields import IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE
from gateway.wire.head import Head, parse_response


def answer(request: Head, copy: Head, body: bytes, to_head: bool, now: float) -> tuple[Head, bytes]:
    """Return head and content: the copy's own, a part of it (206), 304 or 416."""
    etag = copy.find(b"etag") or b""
    modified = copy.find(b"last-modified") or b""
    if not_modified(
        request.get_all(IF_NONE_MATCH),
        request.get(IF_MODIFIED_SINCE),
        etag,
        modified or copy.find(b"date") or b"",
        now,
    ):
        return _made(not_modified_head(copy.data)), b""
    wanted = request.get(RANGE)
    if wanted is None or to_head or not range_applies(request.get(IF_RANGE), etag, modified):
        return copy, body
    part = one_range(wanted, len(body))
    if part is None:
        return copy, body
    if part == UNSATISFIABLE:
        return _made(unsatisfiable_head(len(body))), b""
    begin, end = part
    return _made(part_head(copy.data, begin, end, len(body))), body[begin:end]


def _made(data: bytes) -> Head:
    head = parse_response(data)
    if head is None:
        raise AssertionError(f"not a whole head: {data!r}")
    return head
