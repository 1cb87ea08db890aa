"""Control's intent as one frozen value: what the state store keeps and the snapshot is made from.

Pure data. Weights are hundredths of a percent, as in the snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.config.snapshot import (
    BUCKETS,
    COLORS,
    Color,
    ServiceTraffic,
    Traffic,
    Watch,
    other,
)
from gateway.release.record import OBJECTIVE, Release

if TYPE_CHECKING:
    from collections.abc import Iterator

#: ``open``: roles were swapped by a finalize and the former pool still stands;
#: ``taken``: they were swapped back (so that a repeated call finds its work done).
Previous = Literal["none", "open", "taken"]


class PoolState(msgspec.Struct, frozen=True, kw_only=True):
    """One slot's endpoints (URLs) under their generation. Generation 0: an empty slot."""

    generation: int = 0
    source: Literal["file", "api"] = "file"
    endpoints: tuple[str, ...] = ()


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """One service's roles, weight, pools and what is closed."""

    name: str
    stable: Color
    weight: int = 0
    previous: Previous = "none"
    #: Closed by a drain: opened again by traffic or a new pool.
    drained: tuple[Color, ...] = ()
    #: Closed by an operator: opened only by lifting it.
    isolated: tuple[Color, ...] = ()
    #: In maintenance: the Retry-After that visitors are told, in seconds; None: it is not.
    maintenance: float | None = None
    #: The highest generation given to a pool of this service.
    generation: int = 0
    #: Ids of endpoints whose breakers were opened by hand: closed only by a reset.
    forced: tuple[str, ...] = ()
    #: As in the snapshot; not stored: it is about tunnels that are open now.
    tunnels_until: float = 0.0
    blue: PoolState = PoolState()
    green: PoolState = PoolState()

    @property
    def candidate(self) -> Color:
        """The color that is not stable."""
        return other(self.stable)

    def pool(self, color: Color) -> PoolState:
        """Return one slot's pool."""
        return self.blue if color == "blue" else self.green

    @property
    def closed(self) -> tuple[Color, ...]:
        """Colors that nothing new is sent to."""
        return tuple(color for color in COLORS if color in self.drained or color in self.isolated)

    def carries(self, color: Color) -> bool:
        """Whether cohort keys are assigned to that color."""
        return self.weight < BUCKETS if color == self.stable else self.weight > 0

    def with_pool(self, color: Color, pool: PoolState) -> ServiceState:
        """Return this service with a slot replaced: open, and no way back to what stood there."""
        replaced = f"{self.name}-{color}-"  # how the ids of that slot's endpoints begin
        return msgspec.structs.replace(
            self,
            blue=pool if color == "blue" else self.blue,
            green=pool if color == "green" else self.green,
            generation=max(self.generation, pool.generation),
            drained=tuple(each for each in self.drained if each != color),
            previous=self.previous if color == self.stable else "none",
            tunnels_until=self.tunnels_until if color == self.stable else 0.0,
            forced=tuple(each for each in self.forced if not each.startswith(replaced)),
        )

    def new_pool(
        self, color: Color, endpoints: tuple[str, ...], source: Literal["file", "api"]
    ) -> ServiceState:
        """Return this service with a new generation in a slot."""
        generation = self.generation + 1
        pool = PoolState(generation=generation, source=source, endpoints=endpoints)
        return self.with_pool(color, pool)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that outranks the file, for the services of the configuration in its order."""

    revision: int = 0
    salt: bytes = b""
    release: str = ""
    services: tuple[ServiceState, ...] = ()
    #: The release under way, or the last that was.
    run: Release | None = None

    def of(self, name: str) -> ServiceState | None:
        """Return one service, None for a name that is not configured."""
        for service in self.services:
            if service.name == name:
                return service
        return None

    @property
    def zero(self) -> bool:
        """Whether no service sends anything to its candidate."""
        return all(service.weight == 0 for service in self.services)

    @property
    def running(self) -> Release | None:
        """The release that moves traffic now."""
        return self.run if self.run is not None and self.run.running else None

    def within(self, run: Release) -> list[ServiceState]:
        """Return the services of a release that are still configured."""
        return [each for each in self.services if run.part(each.name) is not None]

    def busy(self, service: str) -> Release | None:
        """Return the release that has a service in its hands, also while it is taken back."""
        run = self.run
        if run is None or run.over or run.part(service) is None:
            return None
        return run

    def traffic(self) -> Traffic:
        """Return the traffic part of the snapshot."""
        run = self.running
        return Traffic(
            watch=() if run is None else tuple(_watch(run)),
            forward_only=run is not None and run.plan.forward_only,
            revision=self.revision,
            salt=self.salt,
            release=self.release,
            services=tuple(
                ServiceTraffic(
                    service=service.name,
                    stable=service.stable,
                    weight=service.weight,
                    closed=service.closed,
                    isolated=service.isolated,
                    maintenance=service.maintenance,
                    tunnels_until=service.tunnels_until,
                )
                for service in self.services
            ),
        )

    def replaced(self, *changed: ServiceState) -> State:
        """Return this state with services replaced by name; the revision is left alone."""
        by_name = {service.name: service for service in changed}
        return msgspec.structs.replace(
            self,
            services=tuple(by_name.get(service.name, service) for service in self.services),
        )


def _watch(run: Release) -> Iterator[Watch]:
    for part in run.parts:
        objective = [each.seconds for each in part.thresholds if each.name == OBJECTIVE]
        yield Watch(
            service=part.service,
            thresholds=tuple(each.seconds for each in part.thresholds),
            candidates=tuple(each.candidates for each in part.thresholds),
            objective=objective[0] if objective else part.rules.latency_above,
            cold_until=run.cold_until,
            looked=run.looked,
            csp=part.csp is not None,
        )
