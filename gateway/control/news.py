"""What the prober finds, told: as events, in the log, and counted for the metrics."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.snapshot import Color, Endpoint
    from gateway.control.events import Events
    from gateway.health.machine import Health
    from gateway.health.monitor import Change, PoolCheck
    from gateway.health.probes import Result

log = logging.getLogger("gateway.control")


class HealthNews:
    """The prober's listener (``gateway.health.seams.Listener``)."""

    def __init__(self, events: Events) -> None:
        self._events = events
        #: Told of each endpoint's other health, first of all.
        self.moved: Callable[[Endpoint, Health], None] = lambda endpoint, health: None
        #: By (service, color, level, result): how many, and their seconds together.
        self.counts: dict[tuple[str, str, str, str], tuple[int, float]] = {}

    def changed(self, change: Change) -> None:
        """Tell that an endpoint's health is another, by which level, and why."""
        target, result = change.target, change.result
        endpoint = target.endpoint
        self.moved(endpoint, change.health)
        why = result.detail if result is not None and not result.good else ""
        if not why and change.waiting:
            why = f"waits for {', '.join(change.waiting)}"
        log.info(
            "%s (%s) is %s%s",
            endpoint.id,
            endpoint.url,
            change.health.word,
            f": {change.level} {why}" if why else "",
        )
        self._events.publish(
            "health",
            endpoint=endpoint.id,
            url=endpoint.url,
            service=target.service,
            color=target.color,
            health=change.health.word,
            level=change.level,
            status=result.status if result is not None else None,
            detail=why,
            dependency_down=list(change.waiting),
        )

    def waits(self, check: PoolCheck) -> None:
        """Tell that a pool's services below are down, or are up again."""
        names = list(check.waiting)
        log.info(
            "%s: %s", check.name, f"waits for {', '.join(names)}" if names else "waits no more"
        )
        self._events.publish(
            "health",
            service=check.service,
            color=check.color,
            level="L4",
            health="waiting" if names else check.level.health.word,
            dependency_down=names,
        )

    def heard(self, service: str, color: Color, result: Result) -> None:
        """Count one probe."""
        word = "pass" if result.good else "fail" if result.counts else "uncounted"
        key = service, color, result.level, word
        count, seconds = self.counts.get(key, (0, 0.0))
        self.counts[key] = count + 1, seconds + result.seconds

    def forget(self, services: set[str]) -> None:
        """Keep counts of these services only."""
        self.counts = {key: value for key, value in self.counts.items() if key[0] in services}
