"""How a service's endpoints are probed. Durations in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck:
    """L2: a GET for ``path`` that is answered with ``status``."""

    path: str
    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """What is asked of each endpoint and how often. Without a section: L1 with these."""

    interval: float = 5.0
    #: While an endpoint is not up.
    interval_down: float = 1.0
    rise: int = 2
    fall: int = 3
    timeout: float = 3.0
    #: L1: a connection can be opened.
    tcp: bool = True
    http: HttpCheck | None = None
    #: A PEM file of authorities for ``https`` endpoints; None: the system's.
    tls_ca: str | None = None
