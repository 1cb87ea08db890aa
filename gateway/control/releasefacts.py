"""What is observed of the pools of a release: for its rules, and for whether it may go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.health.machine import Health
from gateway.release.facts import PoolFacts, ServiceFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.board.board import Board
    from gateway.config.snapshot import Color, Endpoint, Topology
    from gateway.control.state import ServiceState, State
    from gateway.health.monitor import Monitor
    from gateway.health.prober import Prober
    from gateway.release.record import Release

_OPEN = frozenset({layout.BREAKER_OPEN, layout.BREAKER_HALF_OPEN, layout.BREAKER_FORCED})


class ReleaseFacts:
    """Looks at the board and the prober. ``topology`` gives the one in force."""

    def __init__(self, board: Board, prober: Prober, topology: Callable[[], Topology]) -> None:
        self._board = board
        self._prober = prober
        self._topology = topology
        #: When each endpoint's probes began to fail, by its id.
        self._failing: dict[str, float] = {}

    def look(self, state: State, run: Release, now: float) -> list[ServiceFacts]:
        """Return what is known of every service. ``now`` is CLOCK_MONOTONIC in seconds."""
        self._follow(now)
        critical = {each.name: each.critical for each in self._topology().services}
        return [
            ServiceFacts(
                service=service.name,
                critical=critical.get(service.name, False),
                in_release=run.part(service.name) is not None,
                candidate=self._pool(service, service.candidate),
                stable=self._pool(service, service.stable),
            )
            for service in state.services
        ]

    def _follow(self, now: float) -> None:
        """Note since when endpoints fail: from the first failed probe on."""
        failing = {}
        for pool in self._topology().pools:
            for endpoint in pool.endpoints:
                monitor = self._prober.monitor(endpoint.id)
                if monitor is not None and not passes(monitor) and monitor.results():
                    failing[endpoint.id] = self._failing.get(endpoint.id, now)
        self._failing = failing

    def _endpoints(self, service: str, color: Color) -> tuple[Endpoint, ...]:
        pool = self._topology().pool(service, color)
        return pool.endpoints if pool is not None else ()

    def _can_serve(self, endpoint: Endpoint) -> bool:
        return self._board.serves(endpoint.cell)

    def _pool(self, service: ServiceState, color: Color) -> PoolFacts:
        endpoints = self._endpoints(service.name, color)
        since = [self._failing.get(each.id) for each in endpoints]
        known = [each for each in since if each is not None]
        return PoolFacts(
            endpoints=len(endpoints),
            serving=sum(map(self._can_serve, endpoints)),
            breakers_open=sum(
                self._board.breaker(each.cell) in _OPEN and not self._can_serve(each)
                for each in endpoints
            ),
            # The pool fails since its last endpoint began to.
            failing_since=max(known) if endpoints and len(known) == len(since) else None,
            down=all(self._board.health(each.cell) == layout.DOWN for each in endpoints),
            closed=color in service.isolated,
        )

    def alone(self, state: State, run: Release) -> frozenset[str]:
        """Return the services of a release whose stable cannot serve: nobody to compare with."""
        return frozenset(
            service.name
            for service in state.within(run)
            if not any(map(self._can_serve, self._endpoints(service.name, service.stable)))
        )

    def unproven(self, state: State, run: Release) -> list[str]:
        """Say which candidate endpoints do not pass all their probes, and why; none: all do."""
        found = [words for service in state.within(run) for words in self._unproven(service)]
        if any(worker.forced_stable for worker in self._board.workers()):
            found.append("`rollback --local` or on_control_lost has everybody on stable")
        return found

    def _unproven(self, service: ServiceState) -> Iterator[str]:
        color = service.candidate
        if color in service.closed:
            yield f"{service.name}: {color} is closed (drained or isolated)"
            return
        for endpoint in self._endpoints(service.name, color):
            monitor = self._prober.monitor(endpoint.id)
            if monitor is None:
                yield f"{endpoint.id}: not probed yet"
            elif monitor.health is not Health.UP or not passes(monitor):
                yield f"{endpoint.id}: {_hindrance(monitor)}"
            elif not self._can_serve(endpoint):
                # One that has passed enough probes since is as good as closed: its next request
                # closes it, and while nobody is exposed none comes.
                yield f"{endpoint.id}: its breaker is open (`gateway breakers reset` closes it)"

    def monitors(self, service: str, color: Color) -> list[Monitor]:
        """Return what the prober knows of a pool's endpoints."""
        found = (self._prober.monitor(each.id) for each in self._endpoints(service, color))
        return [each for each in found if each is not None]

    def in_flight(self, run: Release) -> int:
        """Return how many requests and tunnels are in flight to the candidates of a release."""
        return sum(
            self._board.endpoint_in_flight(endpoint.cell)
            for part in run.parts
            for endpoint in self._endpoints(part.service, part.candidate)
        )


def passes(monitor: Monitor) -> bool:
    """Tell whether an endpoint's last probe on each level was good (or is none of its fault)."""
    return all(result.good or not result.counts for result in monitor.results())


def _hindrance(monitor: Monitor) -> str:
    for result in monitor.results():
        if not result.good:
            return f"{result.level}: {result.detail}"
    if monitor.pool is not None and monitor.pool.waiting:
        return f"L4 waits for {', '.join(monitor.pool.waiting)}"
    missing = [name for name in monitor.level_names if monitor.level(name).health is not Health.UP]
    return f"{', '.join(missing) or 'health'}: not seen up yet"
