"""What the rules beside the sequential test are given, and what they give back. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

#: The rules' names, as in ``releases.triggers``.
Trigger = Literal["error_rate", "latency", "unhealthy", "breakers_open", "critical_down"]


class PoolFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one color of a service.

    ``serving`` counts the endpoints that can serve (not down, breaker not open). ``failing_since``
    is the first failed probe; None where one endpoint at least passes all its probes. ``down``: no
    endpoint is left; ``closed``: isolated by an operator.
    """

    endpoints: int
    serving: int
    breakers_open: int = 0
    failing_since: float | None = None
    down: bool = False
    closed: bool = False

    @property
    def can_serve(self) -> bool:
        """Whether requests can be sent to it."""
        return self.serving > 0 and not self.down and not self.closed

    @property
    def all_open(self) -> bool:
        """Whether the breaker of every endpoint is open."""
        return self.breakers_open >= self.endpoints > 0

    @property
    def numbers(self) -> dict[str, float | str]:
        """What it comes to, for a finding."""
        return {
            "endpoints": self.endpoints,
            "serving": self.serving,
            "breakers_open": self.breakers_open,
        }


class ServiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a service; of one that is not ``in_release``, stable is all there is."""

    service: str
    critical: bool
    in_release: bool
    candidate: PoolFacts
    stable: PoolFacts


class Finding(msgspec.Struct, frozen=True):
    """A rule that is up, why, and the numbers that it was up by.

    ``critical``: somebody must come, a service has lost the side that it would go back to, or all.
    """

    trigger: Trigger
    service: str
    what: Literal["roll_back", "hold"]
    text: str
    numbers: dict[str, float | str]
    critical: bool = False


class Speaks(msgspec.Struct, frozen=True):
    """Whether a rule has what it needs to be up at all, and what it lacks, in words."""

    trigger: Trigger
    service: str
    can: bool
    why: str = ""
