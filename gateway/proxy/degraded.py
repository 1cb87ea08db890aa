"""What a service's failures are answered with, ready for the exchange: made once per snapshot.

The decisions are ``policy.fallback``'s; here are their compiled form and the values that templates
are filled with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.policy.fallback import ErrorPages, FallbackPlan
from gateway.proxy.problem import PHRASES, RETRY_AFTER
from gateway.wire.fields import ACCEPT, SET_COOKIE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config.snapshot import Service, Topology
    from gateway.wire.head import Head

#: What of a backend's answer goes along with the page that stands for it: without these the
#: client could not do what the status asks of it (RFC 9110 sections 10.2.1, 10.2.3, 11.6.1).
_KEPT = (b"www-authenticate", b"retry-after", b"allow")


@dataclass(frozen=True, slots=True)
class Degraded:
    """A service's fallbacks and error pages."""

    plan: FallbackPlan
    pages: ErrorPages


class DegradedBuilder:
    """Makes them from a topology; keeps what has not changed, for files may be large."""

    def __init__(self) -> None:
        self._files: tuple[bytes, ...] = ()
        self._made: dict[tuple[object, ...], Degraded] = {}
        self.common = ErrorPages()

    def build(self, topology: Topology) -> dict[str, Degraded]:
        """Return each service's, by name; ``common`` is for requests without a service.

        Raises ValueError for a file that is not there or no template.
        """
        before = self._made if topology.files == self._files else {}
        self._files = topology.files
        self._made = {}
        try:
            self.common = ErrorPages((), topology.error_pages, topology.files)
            return {
                service.name: self._one(service, topology, before) for service in topology.services
            }
        except IndexError:
            raise ValueError("a fallback or an error page names a file that is not there") from None

    def _one(
        self, service: Service, topology: Topology, before: Mapping[tuple[object, ...], Degraded]
    ) -> Degraded:
        key = (service.fallbacks, service.error_pages, topology.error_pages)
        made = before.get(key) or self._made.get(key)
        if made is None:
            made = Degraded(
                FallbackPlan(service.fallbacks, topology.files),
                ErrorPages(service.error_pages, topology.error_pages, topology.files),
            )
        self._made[key] = made
        return made


def values(
    *,
    status: int,
    title: str,
    service: str,
    request_id: bytes,
    retry_after: float,
    mode: str,
    now: float,
) -> dict[str, str]:
    """Return what a template is filled with.

    ``retry_after`` in seconds, 0: there is none; ``now`` in seconds of the epoch.
    """
    return {
        "status": str(status),
        "title": title,
        "service": service,
        "request_id": request_id.decode("ascii"),
        "retry_after": str(math.ceil(retry_after)) if retry_after > 0 else "",
        "mode": mode,
        "time": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def title_of(first: object, status: int) -> str:
    """Return the phrase of the status that a backend answered first, else of this one."""
    given = int(first) if isinstance(first, str) and first.isdigit() else status
    return PHRASES.get(given, b"").decode()


def retry_after_of(status: int, retry_after: float) -> float:
    """Return the seconds that a client is asked to wait, 0 where the answer does not say."""
    return max(retry_after, RETRY_AFTER) if status in {429, 503} else 0.0


def accept_of(head: Head) -> bytes | None:
    """Return a request's Accept, its lines as one; None where it has none."""
    lines = head.get_all(ACCEPT)
    return b", ".join(lines) if lines else None


def kept_lines(head: Head) -> bytes:
    """Return the lines of a backend's answer that go along with the page that stands for it."""
    lines = [b"Set-Cookie: %b\r\n" % value for value in head.get_all(SET_COOKIE)]
    for name in _KEPT:
        value = head.find(name)
        if value is not None:
            lines.append(b"%b: %b\r\n" % (name.title(), value))
    return b"".join(lines)
