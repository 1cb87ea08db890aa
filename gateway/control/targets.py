"""What the prober is told to watch: a topology's endpoints, each under its service's policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.snapshot import COLORS
from gateway.health.policy import HealthPolicy
from gateway.health.prober import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.snapshot import Color, Topology
    from gateway.control.settings import Settings
    from gateway.control.state import State


def targets(settings: Settings, topology: Topology) -> list[Target]:
    """Return every endpoint with its service's policy."""
    policies = {service.name: service.health for service in settings.services}
    return [
        Target(
            endpoint,
            policies.get(pool.service, HealthPolicy()),
            service=pool.service,
            color=pool.color,
            generation=pool.generation,
        )
        for pool in topology.pools
        for endpoint in pool.endpoints
    ]


class StateSides:
    """Where traffic goes, from the state in force (``gateway.health.seams.Sides``)."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def carrying(self, service: str) -> frozenset[Color]:
        """Return the colors that requests are assigned to."""
        found = self._state().of(service)
        return frozenset(color for color in COLORS if found is not None and found.carries(color))

    def closed(self, service: str, color: Color) -> bool:
        """Tell whether a color is drained or isolated."""
        found = self._state().of(service)
        return found is not None and color in found.closed
