"""The gateway's own answers: RFC 9457 problem documents, marked as nobody else's.

Every one carries ``X-Gateway-Error: <kind>`` and ``Cache-Control: no-store``.
"""

from __future__ import annotations

import http
import math
from typing import TYPE_CHECKING

import orjson

from gateway.proxy.errors import Failure

if TYPE_CHECKING:
    from gateway.policy.fallback import StaticAnswer

PHRASES: dict[int, bytes] = {status.value: status.phrase.encode() for status in http.HTTPStatus}
PHRASES[499] = b"Client Closed Request"

#: Seconds that a client is asked to wait after a 503 where nothing better is known.
RETRY_AFTER = 1

#: On every one, whether a route (and its profile, which may say it, too) is known or none.
_NOSNIFF = b"X-Content-Type-Options: nosniff\r\n"
_PROBLEM_LINES = b"Content-Type: application/problem+json\r\nCache-Control: no-store\r\n"


def document(failure: Failure, status: int) -> bytes:
    """Return the problem document: type, title, status, detail where there is one.

    What a backend or a name server said stays in the log; the client learns the kind. Of its own
    mistakes it is told all.
    """
    body: dict[str, object] = {
        "type": f"urn:gateway:error:{failure.name}",
        "title": failure.kind.title,
        "status": status,
    }
    if failure.name == "read-only":
        body["mode"] = "read_only"
    if failure.name == "rate-limited" and failure.detail:
        body["limit"] = failure.detail  # a name that RateLimit-Policy says, too
    if failure.detail and failure.kind.source.value == "downstream":
        body["detail"] = failure.detail
    return orjson.dumps(body)


def problem(
    failure: Failure,
    status: int,
    *,
    keep: bool,
    minor: int,
    extra: bytes,
    page: StaticAnswer | None = None,
) -> tuple[bytes, bytes]:
    """Return a failure's complete head and body. ``extra`` are complete lines to add.

    ``page`` stands in place of the problem document.
    """
    if b"x-content-type-options:" not in extra.lower():
        extra += _NOSNIFF
    body = document(failure, status) if page is None else page.body
    lines = _PROBLEM_LINES if page is None else page.lines
    if not keep:
        connection = b"Connection: close\r\n"
    else:
        connection = b"" if minor == 1 else b"Connection: keep-alive\r\n"
    wait = max(math.ceil(failure.retry_after), RETRY_AFTER)
    retry = b"Retry-After: %d\r\n" % wait if status in {429, 503} else b""
    head = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\nX-Gateway-Error: %b\r\n%b%b%b\r\n" % (
        status,
        PHRASES.get(status, b""),
        lines,
        len(body),
        failure.name.encode(),
        retry,
        extra,
        connection,
    )
    return head, body
