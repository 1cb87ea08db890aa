"""Which other URLs an answer to an unsafe request invalidates (RFC 9111 section 4.4)."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

_PORTS = (":80", ":443")


def same_origin(reference: bytes, target: bytes, host: bytes) -> bytes | None:
    """Return the target of a Location or Content-Location, None where it is elsewhere's or none.

    ``target`` and ``host`` are the request's; ``host`` may have a port. The scheme does not matter:
    a backend behind a gateway often does not know it.
    """
    base = f"http://{host.decode('latin-1')}{target.decode('latin-1')}"
    try:
        parts = urlsplit(urljoin(base, reference.decode("latin-1")))
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"}:
        return None
    if _bare(parts.netloc) != _bare(host.decode("latin-1")):
        return None
    found = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return found.encode("latin-1")


def _bare(authority: str) -> str:
    lowered = authority.lower()
    for port in _PORTS:
        lowered = lowered.removesuffix(port)
    return lowered
