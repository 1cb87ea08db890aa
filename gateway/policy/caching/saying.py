"""What an answer says of the cache: ``Age`` and ``Cache-Status`` (RFC 9111 5.1, RFC 9211)."""

from __future__ import annotations


def hit_lines(age: int, ttl: int, collapsed: bytes = b"") -> bytes:
    """Return the lines of an answer that is a copy; ``age`` and ``ttl`` in seconds.

    ``collapsed`` is why another request, whose answer this one waited for, was forwarded
    (RFC 9211 section 2.7): then it was forwarded too.
    """
    how = b"fwd=%b; collapsed" % collapsed if collapsed else b"hit"
    return b"Age: %d\r\nCache-Status: gateway; %b; ttl=%d\r\n" % (age, how, ttl)


def forwarded_lines(reason: bytes, status: int | None, age: int | None, stored: bool) -> bytes:
    """Return the lines of an answer that the backend was asked for; none without a reason.

    ``status`` is what it said to the cache's own validation; ``age`` the copy's that a 304 renewed.
    """
    if not reason:
        return b""
    line = b"Cache-Status: gateway; fwd=%b" % reason
    if status is not None:
        line += b"; fwd-status=%d" % status
    if stored:
        line += b"; stored"
    if status == 304 and age is not None:
        return b"Age: %d\r\n%b\r\n" % (age, line)
    return line + b"\r\n"
