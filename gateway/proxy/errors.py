"""What can go wrong with a request, as one type: kind, source, whether a retry is safe, cause.

Retry, breaker, log, metric and the client's answer all read the same object. ``status_of`` is the
one place that turns a kind into a status.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Source(enum.Enum):
    """Whose fault it is."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to fail. ``sent`` tells whether the request may have reached the backend."""

    name: str
    source: Source
    status: int
    title: str
    sent: bool = False

    @property
    def closes(self) -> bool:
        """Whether the client's connection ends with it: what comes next may not be a request."""
        return self.source is Source.DOWNSTREAM or self.name == "method"


def _kinds(*kinds: Kind) -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds}


_DOWN, _UP, _GATE = Source.DOWNSTREAM, Source.UPSTREAM, Source.GATEWAY

KINDS: dict[str, Kind] = _kinds(
    Kind("connect", _UP, 502, "The service could not be reached"),
    Kind("connect-timeout", _UP, 504, "The service could not be reached in time"),
    Kind("tls", _UP, 502, "The service's certificate could not be verified"),
    Kind("unresolved", _UP, 502, "The service's name could not be resolved"),
    Kind("reset", _UP, 502, "The service closed the connection", sent=True),
    Kind("bad-answer", _UP, 502, "The service's answer could not be understood", sent=True),
    Kind("truncated", _UP, 502, "The service's answer ended early", sent=True),
    Kind("first-byte-timeout", _UP, 504, "The service did not answer in time", sent=True),
    Kind("between-bytes-timeout", _UP, 504, "The service's answer stalled", sent=True),
    Kind("total-timeout", _UP, 504, "The request took too long", sent=True),
    Kind("no-endpoint", _GATE, 503, "No endpoint of the service can take the request"),
    Kind("breaker-open", _GATE, 503, "The service keeps failing and is left alone for a while"),
    Kind("overload", _GATE, 503, "The service has as many requests in flight as it may"),
    Kind("exhausted", _GATE, 503, "The gateway's machine has no means for another connection"),
    Kind("maintenance", _GATE, 503, "The service is in maintenance"),
    Kind("read-only", _GATE, 503, "The service is down, the platform is read only"),
    Kind("intercepted", _GATE, 502, "The service answered with an error", sent=True),
    Kind("only-if-cached", _GATE, 504, "Nothing is stored that may answer this"),
    Kind("rate-limited", _GATE, 429, "More requests than the limit allows"),
    Kind("no-route", _GATE, 404, "Nothing is served here"),
    Kind("unauthorized", _GATE, 401, "Credentials are missing, or do not count here"),
    Kind(
        "forbidden", _GATE, 403, "This is not allowed with these credentials, or from this address"
    ),
    Kind("auth-unavailable", _GATE, 503, "Who the request is from cannot be told at present"),
    Kind("not-allowed", _GATE, 405, "The method is not allowed here"),
    Kind("cross-origin", _GATE, 403, "Pages of this origin may not open the connection"),
    Kind("too-many-reports", _GATE, 429, "Too many reports"),
    Kind("method", _GATE, 501, "The method is not supported"),
    Kind("body-too-large", _DOWN, 413, "The request's content is too large"),
    Kind("head-too-large", _DOWN, 431, "The request's header fields are too large"),
    Kind("target-too-long", _DOWN, 414, "The request's target is too long"),
    Kind("header-timeout", _DOWN, 408, "The request's head did not arrive in time"),
    Kind("body-timeout", _DOWN, 408, "The request's content did not arrive in time"),
    Kind("bad-request", _DOWN, 400, "The request could not be understood"),
    Kind("client-left", _DOWN, 499, "The client closed the connection"),
    Kind("client-slow", _DOWN, 499, "The client stopped reading"),
    Kind("draining", _GATE, 503, "The gateway is being stopped"),
)


class Failure(Exception):  # noqa: N818 - a failure of the request, not an error of ours
    """A request's failure, converted at the boundary where it was met."""

    def __init__(
        self,
        name: str,
        detail: str = "",
        *,
        status: int = 0,
        cause: BaseException | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(name, detail)
        self.kind = KINDS[name]
        self.detail = detail
        #: Seconds after which it may be better; 0: not known.
        self.retry_after = retry_after
        self._status = status
        self.__cause__ = cause

    @property
    def name(self) -> str:
        """The kind's stable name: ``X-Gateway-Error``, the log and the metrics say it."""
        return self.kind.name

    @property
    def retry_safe(self) -> bool:
        """Whether the request surely never reached the backend."""
        return not self.kind.sent

    def __repr__(self) -> str:
        return f"Failure({self.name!r}, {self.detail!r}, status={status_of(self)})"

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


def status_of(failure: Failure) -> int:
    """Return the status that a client is answered with (RFC 9110 section 15)."""
    return failure._status or failure.kind.status
