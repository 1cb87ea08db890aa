"""Phase 9, respond: what a split does to an answer's caching and cookies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.wire.fields import CACHE_CONTROL, CDN_CACHE_CONTROL, CONTENT_TYPE, mask

if TYPE_CHECKING:
    from gateway.proxy.serving import Serving
    from gateway.wire.head import Head

_CACHE_CONTROL_BIT = mask(CACHE_CONTROL)
_PRIVATE = b"Cache-Control: private\r\n"
_CDN = b"Cache-Control: private\r\nCDN-Cache-Control: no-store\r\n"


def is_events(head: Head) -> bool:
    """Tell whether an answer is an event stream (HTML, "Server-sent events")."""
    return (head.get(CONTENT_TYPE) or b"").lower().startswith(b"text/event-stream")


#: Octets that tell whether an event has ended.
TAIL = 4
#: What ends an event: an empty line, in any of the three spellings of a line's end.
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def tail_of(tail: bytes, payload: bytes) -> bytes:
    """Return the last ``TAIL`` octets of a stream that has said ``payload`` after ``tail``."""
    return (tail + payload[-TAIL:])[-TAIL:]


def between_events(tail: bytes) -> bool:
    """Tell whether an event stream that has said ``tail`` last (``TAIL`` octets) is at an end."""
    return not tail or tail.endswith(_ENDS)


def last_event(tail: bytes, payload: bytes) -> int:
    """Return where the last event that ends in ``payload`` does, after ``tail``; -1: none does."""
    whole = tail + payload
    found = max(at + len(end) if (at := whole.rfind(end)) >= 0 else -1 for end in _ENDS)
    return found - len(tail) if found > len(tail) else -1


def is_page(head: Head) -> bool:
    """Tell whether an answer is a page that a browser shows."""
    kind = (head.get(CONTENT_TYPE) or b"").lower()
    return kind.startswith((b"text/html", b"application/xhtml+xml"))


def shared_cache_may_keep(control: bytes | None) -> bool:
    """Tell whether a shared cache may keep an answer with this Cache-Control (RFC 9111 section 3).

    An answer without the field may be kept too, by heuristics.
    """
    if control is None:
        return True
    directives = {part.strip().split(b"=")[0] for part in control.lower().split(b",")}
    return directives.isdisjoint((b"private", b"no-store", b"no-cache"))


def cookie_lines(head: Head, set_cookie: bytes, serving: Serving) -> tuple[int, bytes]:
    """Return (fields to drop, lines to add) for an answer within a split.

    The cohort cookie never rides on an answer that a shared cache may keep: where the backend says
    that it may, there is no cookie; where it says nothing, the answer becomes ``private``. Behind a
    CDN (``traffic.behind_cdn``) HTML of a split is private and not stored there at all.
    """
    values = head.get_all(CACHE_CONTROL)
    control = b",".join(values) if values else None
    html = (head.get(CONTENT_TYPE) or b"").lower().startswith(b"text/html")
    if serving.behind_cdn and serving.split and html:
        return _CACHE_CONTROL_BIT | mask(CDN_CACHE_CONTROL), _CDN + set_cookie
    if not set_cookie:
        return 0, b""
    if not shared_cache_may_keep(control):
        return 0, set_cookie
    if control is None:
        return 0, _PRIVATE + set_cookie
    return 0, b""
