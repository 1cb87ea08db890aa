"""How a service's endpoints are probed. Durations in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.health.answers import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """One level's own interval and timeout; None: the service's."""

    interval: float | None = None
    timeout: float | None = None


_AS_THE_SERVICE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck:
    """L2: a GET for ``path`` that is answered with ``status``."""

    path: str
    status: int = 200
    pace: Pace = _AS_THE_SERVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessCheck:
    """L3: a request whose answer shows that the application can do its work."""

    request: Request
    pace: Pace = _AS_THE_SERVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationCheck:
    """L4: a sequence of requests through the gateway, once for a pool."""

    requests: tuple[Request, ...]
    #: Between two runs for a pool that is up.
    interval: float = 30.0
    #: For the whole sequence.
    timeout: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """What is asked of each endpoint and how often. Without a section: L1 with these."""

    interval: float = 5.0
    #: While an endpoint is not up, on all levels.
    interval_down: float = 1.0
    rise: int = 2
    fall: int = 3
    timeout: float = 3.0
    #: L1: a connection can be opened.
    tcp: bool = True
    tcp_pace: Pace = _AS_THE_SERVICE
    http: HttpCheck | None = None
    business: BusinessCheck | None = None
    integration: IntegrationCheck | None = None
    #: A PEM file of authorities for ``https`` endpoints; None: the system's.
    tls_ca: str | None = None
    #: Services that this one calls.
    depends_on: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that each endpoint is asked, shallow first."""
        asked = (("L1", self.tcp), ("L2", self.http), ("L3", self.business))
        return tuple(level for level, wanted in asked if wanted)

    def check_of(self, level: str) -> object:
        """Return what an endpoint is asked on a level, without its pace; None: nothing."""
        if level == "L1":
            return self.tcp or None
        if level == "L2":
            return (self.http.path, self.http.status, self.tls_ca) if self.http else None
        return (self.business.request, self.tls_ca) if self.business else None

    def _pace(self, level: str) -> Pace:
        if level == "L1":
            return self.tcp_pace
        check = self.http if level == "L2" else self.business
        return check.pace if check is not None else _AS_THE_SERVICE

    def interval_of(self, level: str) -> float:
        """Return the time between two probes of an endpoint that is up."""
        own = self._pace(level).interval
        return self.interval if own is None else own

    def timeout_of(self, level: str) -> float:
        """Return the time that one probe may take."""
        own = self._pace(level).timeout
        return self.timeout if own is None else own

    @property
    def counted(self) -> str:
        """The level whose passes in a row are on the board: L2, without one L1."""
        return "L2" if self.http is not None else "L1"
