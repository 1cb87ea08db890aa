"""The gateway's own answers: RFC 9457 problem documents, marked as nobody else's.

Every one carries ``X-Gateway-Error: <kind>`` and ``Cache-Control: no-store``.
"""

from __future__ import annotations

import http
import math

import orjson

from gateway.proxy.errors import Failure

PHRASES: dict[int, bytes] = {status.value: status.phrase.encode() for status in http.HTTPStatus}
PHRASES[499] = b"Client Closed Request"

#: Seconds that a client is asked to wait after a 503 where nothing better is known.
RETRY_AFTER = 1


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
    if failure.detail and failure.kind.source.value == "downstream":
        body["detail"] = failure.detail
    return orjson.dumps(body)


def problem(
    failure: Failure, status: int, *, keep: bool, minor: int, extra: bytes
) -> tuple[bytes, bytes]:
    """Return a failure's complete head and body. ``extra`` are complete lines to add."""
    body = document(failure, status)
    if not keep:
        connection = b"Connection: close\r\n"
    else:
        connection = b"" if minor == 1 else b"Connection: keep-alive\r\n"
    wait = max(math.ceil(failure.retry_after), RETRY_AFTER)
    retry = b"Retry-After: %d\r\n" % wait if status == 503 else b""
    head = (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n"
        b"Cache-Control: no-store\r\nX-Gateway-Error: %b\r\n%b%b%b\r\n"
        % (
            status,
            PHRASES.get(status, b""),
            len(body),
            failure.name.encode(),
            retry,
            extra,
            connection,
        )
    )
    return head, body
