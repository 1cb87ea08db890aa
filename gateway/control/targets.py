"""What the prober is told to watch: a topology's endpoints, each under its service's policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.health.policy import HealthPolicy
from gateway.health.prober import Target

if TYPE_CHECKING:
    from gateway.config.snapshot import Topology
    from gateway.control.settings import Settings


def targets(settings: Settings, topology: Topology) -> list[Target]:
    """Return every endpoint with its service's policy."""
    policies = {service.name: service.health for service in settings.services}
    return [
        Target(endpoint, policies.get(pool.service, HealthPolicy()))
        for pool in topology.pools
        for endpoint in pool.endpoints
    ]
