"""Answers about what is: status, traffic, pools, evidence. Reads the board, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gateway.admin import models
from gateway.admin.breaker_models import breaker_state
from gateway.board import layout
from gateway.config.snapshot import BUCKETS, COLORS
from gateway.control import merge
from gateway.control.certificates import in_force
from gateway.health.machine import Health
from gateway.health.prober import evidence
from gateway.observe.vitals import vitals
from gateway.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.channel.upgrades import Step
    from gateway.config.snapshot import Color, Endpoint
    from gateway.control.platform import PlatformWatch
    from gateway.control.state import ServiceState, State
    from gateway.control.store import AuditEntry
    from gateway.control.switchboard import Switchboard
    from gateway.health.prober import Monitor
    from gateway.health.probes import Result
    from gateway.observe.vitals import Vitals
    from gateway.policy.mode import Picture
    from gateway.policy.sharing import Shared


@dataclass(frozen=True, slots=True)
class Pictures:
    """Makes answers. ``clock`` is CLOCK_MONOTONIC in nanoseconds, as on the board."""

    switchboard: Switchboard
    clock: Callable[[], int]
    platform: PlatformWatch

    def status(self) -> models.StatusAnswer:
        """Return the one picture."""
        switch = self.switchboard
        state = switch.state
        platform = self.platform.look()
        return models.StatusAnswer(
            version=VERSION,
            traffic_revision=state.revision,
            snapshot=switch.parts.hub.number,
            mode=mode(state),
            platform=platform.mode,
            forced_stable=any(each.forced_stable for each in switch.parts.board.workers()),
            release=state.release or None,
            services=[self._service(each, platform) for each in state.services],
            processes=self._processes(),
            certificates=self._certificates(),
            drift=self.drift(),
            warnings=switch.warnings,
            shared_address=_shared(switch.shared_address()),
            upgrade=_upgrade(switch.upgrades().last),
        )

    def _certificates(self) -> list[models.CertificateStatus]:
        switch = self.switchboard
        refused = switch.certificates_refused()
        return [
            models.CertificateStatus(
                place=each.place,
                names=list(each.names),
                expires=each.expires,
                refused=each.place in refused,
            )
            for each in in_force(switch.settings)
        ]

    def drift(self) -> list[models.Drift]:
        """Return where the store outranks the file."""
        found = merge.drift(self.switchboard.settings, self.switchboard.state)
        return [drift(each) for each in found]

    def _service(self, service: ServiceState, platform: Picture) -> models.ServiceStatus:
        return models.ServiceStatus(
            name=service.name,
            stable=service.stable,
            candidate=service.candidate,
            weights=models.Weights(
                stable=(BUCKETS - service.weight) / 100, candidate=service.weight / 100
            ),
            previous=service.previous == "open",
            state=platform.states.get(service.name, "up"),
            maintenance=service.maintenance,
            depends_on=list(self._depends_on(service)),
            dependency_down=self._dependency_down(service),
            pools=[self.pool(service, color) for color in COLORS],
        )

    def health(self, service: ServiceState) -> models.ServiceHealth:
        """Return what the probes know of one service."""
        return models.ServiceHealth(
            service=service.name,
            depends_on=list(self._depends_on(service)),
            dependency_down=self._dependency_down(service),
            pools=[self.pool(service, color) for color in COLORS],
        )

    def _depends_on(self, service: ServiceState) -> tuple[str, ...]:
        settings = self.switchboard.settings.of(service.name)
        return settings.health.depends_on if settings is not None else ()

    def _dependency_down(self, service: ServiceState) -> list[str]:
        """Name the services below that are down for a color that carries traffic."""
        integration = self.switchboard.parts.prober.integration
        names: dict[str, None] = {}
        for color in COLORS:
            if service.carries(color):
                names |= dict.fromkeys(integration.below(service.name, color).down)
        return list(names)

    def pool(self, service: ServiceState, color: Color) -> models.PoolStatus:
        """Return one slot as it is observed."""
        state = service.pool(color)
        integration = self.switchboard.parts.prober.integration
        waiting: tuple[str, ...] = ()
        if state.endpoints and integration.check(service.name, color) is not None:
            below = integration.below(service.name, color)
            waiting = below.down + below.unsettled
        pool = self.switchboard.parts.hub.topology.pool(service.name, color)
        return models.PoolStatus(
            color=color,
            role="stable" if color == service.stable else "candidate",
            source=state.source,
            generation=state.generation,
            closed=color in service.closed,
            isolated=color in service.isolated,
            waiting=list(waiting),
            endpoints=[self._endpoint(each) for each in (pool.endpoints if pool else ())],
        )

    def _endpoint(self, endpoint: Endpoint) -> models.EndpointStatus:
        parts = self.switchboard.parts
        monitor = parts.prober.monitor(endpoint.id)
        names = monitor.level_names if monitor is not None else ()
        return models.EndpointStatus(
            id=endpoint.id,
            url=endpoint.url,
            health=Health(parts.board.health(endpoint.cell)).word,
            in_flight=parts.board.endpoint_in_flight(endpoint.cell),
            tunnels=parts.board.endpoint_tunnels(endpoint.cell),
            breaker=breaker_state(parts.board.breaker(endpoint.cell)),
            ejected=parts.board.ejected(endpoint.cell, self.clock()),
            levels={name: monitor.level(name).health.word for name in names if monitor},
            probes=[self._probe(each) for each in parts.prober.last(endpoint.id)],
        )

    def _probe(self, result: Result) -> models.Probe:
        parts = self.switchboard.parts
        age = max(0.0, parts.clock() - result.ended)
        return models.Probe(
            level=result.level,
            ok=result.good,
            status=result.status,
            detail=result.detail,
            duration_ms=round(result.seconds * 1000, 3),
            age=round(age, 3),
            at=round(parts.wall() - age, 3),
            counted=result.counts,
            body=result.excerpt,
        )

    def evidence(self, monitors: list[Monitor]) -> list[models.EndpointEvidence]:
        """Return what was last seen of endpoints on trial."""
        return [
            models.EndpointEvidence(
                id=monitor.target.endpoint.id,
                url=monitor.target.endpoint.url,
                health=monitor.health.word,
                probes=[self._probe(each) for each in evidence(monitor)],
            )
            for monitor in monitors
        ]

    def _processes(self) -> list[models.ProcessStatus]:
        board = self.switchboard.parts.board
        words = board.words
        workers = {worker.pid: worker for worker in board.workers()}
        found = []
        for each in vitals(board):
            if each.process == "supervisor":
                started = words[layout.H_SUPERVISOR_STARTED]
                more: dict[str, Any] = {}
            elif each.process == "control":
                started = words[layout.H_CONTROL_STARTED]
                state = layout.STATE_NAMES[words[layout.H_CONTROL_STATE]]
                more = {"state": state, "snapshot": self.switchboard.parts.hub.number}
            else:
                worker = workers[each.pid]
                started = worker.started
                more = {
                    "state": worker.state_name,
                    "snapshot": worker.number,
                    "slot": worker.slot,
                    "connections": worker.connections,
                    "in_flight": worker.in_flight,
                }
            found.append(_process(each, self._since(started), more))
        return found

    def _since(self, started: int) -> float:
        return round(max(0, self.clock() - started) / 1e9, 1) if started else 0.0


def _process(each: Vitals, uptime: float, more: Mapping[str, Any]) -> models.ProcessStatus:
    """Return one process's picture; ``more`` is what its role has beside how it is."""
    return models.ProcessStatus(
        role=each.process,
        pid=each.pid,
        uptime=uptime,
        memory=each.memory,
        descriptors=each.files,
        tasks=each.tasks,
        timers=each.timers,
        upstream_busy=each.upstream_busy,
        upstream_idle=each.upstream_idle,
        stall=each.stall,
        **more,
    )


def traffic(
    state: State, *, changed: bool = False, applied_in_ms: float | None = None
) -> models.TrafficAnswer:
    """Return roles and percentages."""
    return models.TrafficAnswer(
        revision=state.revision,
        mode=mode(state),
        services=traffic_services(state),
        changed=changed,
        applied_in_ms=applied_in_ms,
    )


def traffic_services(state: State) -> list[models.TrafficService]:
    """Return each service's roles and percentage."""
    return [
        models.TrafficService(
            name=service.name,
            stable=service.stable,
            candidate=service.candidate,
            weight=service.weight / 100,
            closed=list(service.closed),
            maintenance=service.maintenance,
        )
        for service in state.services
    ]


def mode(state: State) -> models.Mode:
    """Return where traffic goes as a whole."""
    weights = {service.weight for service in state.services}
    if weights <= {0}:
        return "stable"
    if weights == {BUCKETS}:
        return "candidate"
    return "mixed" if weights <= {0, BUCKETS} else "split"


def drift(found: merge.Difference) -> models.Drift:
    """Return one difference between file and store."""
    return models.Drift(
        service=found.service, field=found.field, file=found.file, store=found.store
    )


def audit_row(entry: AuditEntry) -> models.AuditRow:
    """Return one row of the audit log."""
    return models.AuditRow(
        id=entry.id,
        at=entry.at,
        actor=entry.actor,
        address=entry.address,
        action=entry.action,
        reason=entry.reason,
        before=orjson.loads(entry.before),
        after=orjson.loads(entry.after),
    )


def _upgrade(step: Step | None) -> models.UpgradeStatus | None:
    if step is None:
        return None
    shown = {
        "step": step.step,
        "at": step.at,
        "before": step.old,
        "after": step.new,
        "by": step.by,
        "seconds": step.seconds,
        "way_back": step.way_back,
        "detail": step.text,
    }
    return models.UpgradeStatus.model_validate(shown)


def _shared(found: Shared | None) -> models.SharedAddress | None:
    if found is None:
        return None
    return models.SharedAddress(
        address=found.address,
        share=round(found.share, 4),
        requests=found.requests,
        forwards=found.forwards,
    )
