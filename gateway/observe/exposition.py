"""What Prometheus scrapes: the board's words under their public names.

A collector, not instruments: nothing is counted here. Every scrape reads the board once, so the
data plane pays nothing for it, and counts survive workers and control alike.

Labels are bounded by the configuration: services, colors, roles, methods and code classes of the
layout, endpoints of the topology in force. Never a path, a client or a status text. Requests that
no service was found for have ``service="none"``, and no role or color. A series of
``gateway_requests_total`` begins with its first request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel.upgrades import RESULTS
from gateway.config.snapshot import COLORS, Topology, Traffic
from gateway.observe import trust, vitals
from gateway.observe.machine import connections, refused_by_machine
from gateway.policy.mode import MODES, STATES, Picture
from gateway.release.machine import STATES as RELEASE_STATES
from gateway.release.record import TRIGGERS

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

#: A board's row 0: requests that no service was found for.
NO_SERVICE: Final = "none"

_ROLES: Final = ("stable", "candidate")
#: The further from serving, the higher.
_BREAKER_VALUES: Final = {
    layout.BREAKER_CLOSED: 0,
    layout.BREAKER_HALF_OPEN: 1,
    layout.BREAKER_OPEN: 2,
    layout.BREAKER_FORCED: 3,
}
_LE: Final = (*(str(bound / 1000) for bound in layout.BOUNDS_MS), "+Inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseView:
    """The release under way, or how the last one ended.

    ``step`` counts from 1; 0: nobody is exposed. ``scopes`` has each scope's evidence and the
    threshold at which it is taken back, ``sides`` requests and failed first attempts by service and
    role; both are empty once it is over. ``rollbacks`` counts by trigger since control began.
    """

    state: str = "none"
    step: int = 0
    scopes: tuple[tuple[str, float, float], ...] = ()
    sides: tuple[tuple[str, str, int, int], ...] = ()
    rollbacks: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsView:
    """What one scrape is made from; control makes one per scrape.

    ``reloads`` counts configuration reloads by result (``ok``, ``refused``), and
    ``lagging_workers`` those that have not acknowledged the snapshot asked for.
    ``state_in_memory`` says that no state store could be opened. ``build`` is what
    ``hot.compiled_state()`` says. ``probes`` counts probes by service, color, level and result,
    with the seconds that they took together.
    """

    board: Board
    topology: Topology
    traffic: Traffic
    reloads: tuple[tuple[str, int], ...] = (("ok", 0), ("refused", 0))
    lagging_workers: int = 0
    state_in_memory: bool = False
    #: Whether something is in force that the store could not keep.
    state_unstored: bool = False
    #: When a lost store was last rebuilt, in seconds since the epoch; 0: never.
    state_rebuilt: float = 0.0
    #: Whether the snapshot's file is behind what is served.
    snapshot_unwritten: bool = False
    #: Host names whose last resolution failed.
    names_failing: int = 0
    #: The platform's mode and the services' states; None: not looked at.
    platform: Picture | None = None
    #: CLOCK_MONOTONIC in nanoseconds, as on the board.
    now: int = 0
    version: str = ""
    build: str = ""
    release: ReleaseView = ReleaseView()
    probes: tuple[tuple[tuple[str, str, str, str], tuple[int, float]], ...] = ()
    #: By their places in the configuration: until when certificates are valid.
    certificates: tuple[tuple[str, int], ...] = ()
    #: By scheme: when its issuer's keys were last read (the epoch's seconds, 0: never), and how
    #: many readings went well and how many failed.
    issuers: Sequence[tuple[str, float, int, int]] = ()
    #: Logins of the admin API that failed, by result.
    logins_failed: tuple[tuple[str, int], ...] = (("unknown", 0), ("limited", 0))
    #: Requests of the admin API that could not be read.
    unread: int = 0
    #: Upgrades by how they ended.
    upgrades: tuple[tuple[str, int], ...] = tuple((each, 0) for each in RESULTS)
    #: Those places in whose files stands what is not served.
    certificates_refused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Row:
    """One service's words, summed over the slabs."""

    name: str
    words: list[int]


@dataclass(frozen=True, slots=True)
class _Side:
    """A role and color of one service: its label values and its words."""

    labels: tuple[str, str, str]
    words: list[int]


class GatewayCollector(Collector):
    """The metrics of one ``MetricsView``, in the contract's names."""

    def __init__(self, view: MetricsView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family. Each service's words are read once, for all families."""
        rows = list(self._rows())
        sides = [side for row in rows for side in _sides(row)]
        yield self._info()
        yield _requests(sides)
        yield _histogram(
            "gateway_request_seconds",
            "From the request's first octet to the answer's last.",
            layout.SIDE_REQUEST_SECONDS,
            sides,
        )
        yield _histogram(
            "gateway_upstream_seconds",
            "From the attempt's start to the head of the backend's answer.",
            layout.SIDE_UPSTREAM_SECONDS,
            [side for side in sides if side.labels[0] != NO_SERVICE],
        )
        yield _per_service(
            GaugeMetricFamily("gateway_in_flight", "Requests in flight.", labels=["service"]),
            rows,
            layout.ROW_IN_FLIGHT,
        )
        yield _per_service(
            GaugeMetricFamily(
                "gateway_waiting", "Requests that wait for a place in flight.", labels=["service"]
            ),
            rows[1:],
            layout.ROW_WAITING,
        )
        yield _shed(rows[1:])
        yield _per_service(
            CounterMetricFamily(
                "gateway_asset_second_tries",
                "Assets that the assigned color did not have, asked of the other.",
                labels=["service"],
            ),
            rows[1:],
            layout.ROW_ASSET_SECOND_TRIES,
        )
        yield _fallbacks(rows[1:])
        yield from self._platform()
        yield _per_service(
            CounterMetricFamily(
                "gateway_retries", "Second tries at another endpoint.", labels=["service"]
            ),
            rows[1:],
            layout.ROW_RETRIES,
        )
        yield _per_service(
            CounterMetricFamily(
                "gateway_rescues",
                "Requests that stable answered for the candidate.",
                labels=["service"],
            ),
            rows[1:],
            layout.ROW_RESCUES,
        )
        yield _rate_limited(rows[1:])
        yield _cache(rows[1:])
        yield _violations(rows[1:])
        yield self._weights()
        yield from self._release()
        yield GaugeMetricFamily(
            "gateway_state_fallback",
            "1: the state store cannot be used, state is in memory and ends with control.",
            value=float(self._view.state_in_memory),
        )
        yield from refused_by_machine(
            unstored=self._view.state_unstored,
            rebuilt=self._view.state_rebuilt,
            unwritten=self._view.snapshot_unwritten,
            names=self._view.names_failing,
        )
        yield from self._endpoints()
        yield from self._breakers()
        yield from self._probes()
        yield from self._processes()
        yield from self._connections()
        yield from vitals.metrics(vitals.vitals(self._view.board))
        view = self._view
        yield from trust.issuers(view.issuers)
        yield trust.logins(view.logins_failed)
        about = "Requests of the admin API that could not be read."
        yield CounterMetricFamily("gateway_admin_requests_refused", about, value=view.unread)
        yield from trust.certificates(view.certificates, view.certificates_refused)

    def _rows(self) -> Iterator[_Row]:
        """Yield row 0 and then every service of the topology."""
        board = self._view.board
        yield _Row(NO_SERVICE, board.row_total(0))
        for service in self._view.topology.services:
            yield _Row(service.name, board.row_total(service.row))

    def _info(self) -> Metric:
        return InfoMetricFamily(
            "gateway",
            "Which gateway this is.",
            value={"version": self._view.version, "build": self._view.build},
        )

    def _platform(self) -> Iterator[Metric]:
        """Yield mode, states and maintenance, as numbers in the order of ``policy.mode``."""
        shown = self._view.platform or Picture("full", {})
        yield GaugeMetricFamily(
            "gateway_mode", "0: full; 1: degraded; 2: read only.", value=MODES.index(shown.mode)
        )
        state = GaugeMetricFamily(
            "gateway_service_state", "0: up; 1: degraded; 2: down.", labels=["service"]
        )
        for name, word in shown.states.items():
            state.add_metric([name], STATES.index(word))
        maintenance = GaugeMetricFamily(
            "gateway_maintenance", "1: the service is in maintenance.", labels=["service"]
        )
        for each in self._view.traffic.services:
            maintenance.add_metric([each.service], float(each.maintenance is not None))
        yield from (state, maintenance)

    def _weights(self) -> Metric:
        """Percent of cohort keys, 0-100, by role."""
        family = GaugeMetricFamily(
            "gateway_traffic_weight",
            "Share of cohort keys in percent.",
            labels=["service", "role"],
        )
        for service in self._view.traffic.services:
            family.add_metric([service.service, "candidate"], service.weight / 100)
            family.add_metric([service.service, "stable"], (10_000 - service.weight) / 100)
        return family

    def _release(self) -> Iterator[Metric]:
        """Yield where the release is, what speaks against it, and what went back so far."""
        shown = self._view.release
        yield GaugeMetricFamily(
            "gateway_release_step", "The step in force, from 1; 0: none.", value=shown.step
        )
        state = GaugeMetricFamily(
            "gateway_release_state", "1: the release, or the last, is in it.", labels=["state"]
        )
        for name in ("none", *RELEASE_STATES):
            state.add_metric([name], float(name == shown.state))
        yield state
        evidence = GaugeMetricFamily(
            "gateway_release_evidence", "That the candidate is worse; 1: none.", labels=["scope"]
        )
        threshold = GaugeMetricFamily(
            "gateway_release_evidence_threshold",
            "Evidence at which the release is taken back.",
            labels=["scope"],
        )
        for scope, found, bound in shown.scopes:
            evidence.add_metric([scope], found)
            threshold.add_metric([scope], bound)
        yield from (evidence, threshold)
        labels = ["service", "role"]
        requests = GaugeMetricFamily(
            "gateway_release_requests", "Requests since the release began.", labels=labels
        )
        failures = GaugeMetricFamily(
            "gateway_release_failures", "Of these, failed first attempts.", labels=labels
        )
        for service, role, count, failed in shown.sides:
            requests.add_metric([service, role], count)
            failures.add_metric([service, role], failed)
        yield from (requests, failures)
        counts = dict(shown.rollbacks)
        rollbacks = CounterMetricFamily(
            "gateway_rollbacks", "Rollbacks that moved traffic.", labels=["trigger"]
        )
        for trigger in TRIGGERS:
            rollbacks.add_metric([trigger], counts.get(trigger, 0))
        yield rollbacks

    def _endpoints(self) -> Iterator[Metric]:
        """Yield health, tries and failures of the endpoints in the topology in force."""
        board = self._view.board
        labels = ["service", "color", "endpoint"]
        healthy = GaugeMetricFamily(
            "gateway_endpoint_healthy", "1: up; 0: down or not yet known.", labels=labels
        )
        in_flight = GaugeMetricFamily(
            "gateway_endpoint_in_flight", "Requests and tunnels there.", labels=labels
        )
        attempts = CounterMetricFamily(
            "gateway_endpoint_attempts", "Attempts begun.", labels=labels
        )
        failures = CounterMetricFamily(
            "gateway_endpoint_failures", "Attempts failed.", labels=labels
        )
        for pool in self._view.topology.pools:
            for endpoint in pool.endpoints:
                values = [pool.service, pool.color, endpoint.id]
                cell = endpoint.cell
                healthy.add_metric(values, float(board.health(cell) == layout.UP))
                in_flight.add_metric(values, board.endpoint_in_flight(cell))
                attempts.add_metric(values, board.endpoint_total(cell, layout.ENDPOINT_REQUESTS))
                failures.add_metric(values, board.endpoint_total(cell, layout.ENDPOINT_FAILURES))
        yield from (healthy, in_flight, attempts, failures)

    def _breakers(self) -> Iterator[Metric]:
        """Yield the breakers and ejections of the endpoints in the topology in force."""
        board, now = self._view.board, self._view.now
        labels = ["service", "color", "endpoint"]
        state = GaugeMetricFamily(
            "gateway_breaker_state",
            "0: closed; 1: half open; 2: open; 3: opened by hand.",
            labels=labels,
        )
        openings = CounterMetricFamily(
            "gateway_breaker_openings", "Breakers that opened by themselves.", labels=labels
        )
        ejected = GaugeMetricFamily(
            "gateway_endpoint_ejected", "1: left out for a while as an outlier.", labels=labels
        )
        for pool in self._view.topology.pools:
            for endpoint in pool.endpoints:
                values = [pool.service, pool.color, endpoint.id]
                cell = endpoint.cell
                state.add_metric(values, _BREAKER_VALUES[board.breaker(cell)])
                openings.add_metric(values, board.breaker_opened(cell))
                ejected.add_metric(values, float(board.ejected(cell, now)))
        yield from (state, openings, ejected)

    def _probes(self) -> Iterator[Metric]:
        """Yield control's own probes: how many, by how they went, and how long they took."""
        total = CounterMetricFamily(
            "gateway_probes",
            "Health probes, by their level and result.",
            labels=["service", "color", "level", "result"],
        )
        seconds = SummaryMetricFamily(
            "gateway_probe_seconds",
            "How long health probes took.",
            labels=["service", "color", "level"],
        )
        sums: dict[tuple[str, str, str], tuple[int, float]] = {}
        for (service, color, level, result), (count, took) in self._view.probes:
            total.add_metric([service, color, level, result], count)
            before = sums.get((service, color, level), (0, 0.0))
            sums[service, color, level] = before[0] + count, before[1] + took
        for labels, (count, took) in sums.items():
            seconds.add_metric(labels, count_value=count, sum_value=took)
        yield from (total, seconds)

    def _processes(self) -> Iterator[Metric]:
        """Yield workers, restarts and reloads."""
        board = self._view.board
        workers = board.workers()
        ready = sum(worker.state == layout.STATE_READY for worker in workers)
        yield GaugeMetricFamily("gateway_workers", "Workers that serve.", value=ready)
        yield GaugeMetricFamily(
            "gateway_workers_wanted",
            "Workers that the supervisor keeps.",
            value=board.words[layout.H_SLOTS],
        )
        yield GaugeMetricFamily(
            "gateway_workers_lagging",
            "Workers that do not serve the snapshot asked for.",
            value=self._view.lagging_workers,
        )
        yield GaugeMetricFamily(
            "gateway_forced_stable",
            "1 while a worker obeys the flag of `gateway rollback --local`.",
            value=float(any(worker.forced_stable for worker in workers)),
        )
        restarts = CounterMetricFamily(
            "gateway_process_restarts", "Processes started again.", labels=["process"]
        )
        restarts.add_metric(["control"], board.words[layout.H_CONTROL_RESTARTS])
        restarts.add_metric(["worker"], board.words[layout.H_WORKER_RESTARTS])
        yield restarts
        reloads = CounterMetricFamily(
            "gateway_config_reloads", "Configuration reloads.", labels=["result"]
        )
        # Those of the API's, and those that a signal asked for (`systemctl reload`).
        refused = self._view.board.words[layout.H_RELOADS_REFUSED]
        signalled = {
            "ok": self._view.board.words[layout.H_RELOADS] - refused,
            "refused": refused,
        }
        for result, count in self._view.reloads:
            reloads.add_metric([result], count + signalled.get(result, 0))
        yield reloads
        upgrades = CounterMetricFamily(
            "gateway_upgrades", "Upgrades in place, by how they ended.", labels=["result"]
        )
        for result, count in self._view.upgrades:
            upgrades.add_metric([result], count)
        yield upgrades

    def _connections(self) -> Iterator[Metric]:
        """Yield what concerns clients' connections and no service."""
        board = self._view.board
        yield from connections(board)
        auth = CounterMetricFamily(
            "gateway_auth", "What asking who it is came to.", labels=["result"]
        )
        for at, result in enumerate(layout.AUTH_RESULTS):
            auth.add_metric([result], board.total(layout.S_AUTH + at))
        yield auth
        handshakes = CounterMetricFamily(
            "gateway_tls_handshakes", "TLS handshakes of clients.", labels=["result"]
        )
        words = layout.S_TLS_FULL, layout.S_TLS_RESUMED, layout.S_TLS_FAILED
        for result, word in zip(("full", "resumed", "failed"), words, strict=True):
            handshakes.add_metric([result], board.total(word))
        yield handshakes
        stalls = [board.slab(worker.slab)[layout.S_STALL_MAX] for worker in board.workers()]
        yield GaugeMetricFamily(
            "gateway_worker_stall_seconds_max",
            "The longest stall of a live worker's loop since its start.",
            value=max(stalls, default=0) / 1e9,
        )


def _sides(row: _Row) -> Iterator[_Side]:
    """Cut a row into its roles and colors; row 0 into one without either."""
    width = layout.SIDE_WORDS
    if row.name == NO_SERVICE:
        parts = [row.words[at * width : (at + 1) * width] for at in range(layout.SIDES)]
        summed = [sum(column) for column in zip(*parts, strict=True)]
        yield _Side((NO_SERVICE, NO_SERVICE, NO_SERVICE), summed)
        return
    for at in range(layout.SIDES):
        words = row.words[at * width : (at + 1) * width]
        yield _Side((row.name, _ROLES[at // 2], COLORS[at % 2]), words)


def _requests(sides: Iterable[_Side]) -> Metric:
    """Return requests by method and class of code, where there were any."""
    family = CounterMetricFamily(
        "gateway_requests",
        "Requests answered, or left by their clients (code_class none).",
        labels=["service", "role", "color", "code_class", "method"],
    )
    classes = layout.CODE_CLASSES
    for side in sides:
        for at in range(len(layout.METHODS) * len(classes)):
            if count := side.words[layout.SIDE_REQUESTS + at]:
                method, code_class = layout.METHODS[at // len(classes)], classes[at % len(classes)]
                family.add_metric([*side.labels, code_class, method], count)
    return family


def _histogram(name: str, about: str, at: int, sides: Iterable[_Side]) -> Metric:
    """Return one histogram per side that has any request.

    The count is the sum of the buckets read here, so that they agree however much happens between
    two reads.
    """
    family = HistogramMetricFamily(name, about, labels=["service", "role", "color"])
    for side in sides:
        words = side.words[at : at + layout.HISTOGRAM_WORDS]
        cumulative = list(accumulate(words[:-1]))
        if cumulative[-1]:
            buckets = list(zip(_LE, map(float, cumulative), strict=True))
            family.add_metric(side.labels, buckets=buckets, sum_value=words[-1] / 1e6)
    return family


def _rate_limited(rows: list[_Row]) -> Metric:
    family = CounterMetricFamily(
        "gateway_rate_limited",
        "Requests over a rate limit: refused (mode enforce), or counted only (mode dry_run).",
        labels=["service", "mode"],
    )
    for row in rows:
        family.add_metric([row.name, "enforce"], row.words[layout.ROW_RATE_LIMITED])
        family.add_metric([row.name, "dry_run"], row.words[layout.ROW_RATE_LIMITED_DRY])
    return family


def _cache(rows: list[_Row]) -> Metric:
    family = CounterMetricFamily(
        "gateway_cache",
        "Requests of routes with a cache, by how it met them.",
        labels=["service", "result"],
    )
    for row in rows:
        for at, result in enumerate(layout.CACHE_RESULTS):
            family.add_metric([row.name, result], row.words[layout.ROW_CACHE + at])
    return family


def _shed(rows: list[_Row]) -> Metric:
    """Return the requests refused for load, by why."""
    family = CounterMetricFamily(
        "gateway_shed", "Requests refused for load, by why.", labels=["service", "reason"]
    )
    for row in rows:
        for at, reason in enumerate(layout.SHED_REASONS):
            family.add_metric([row.name, reason], row.words[layout.ROW_SHED + at])
    return family


def _violations(rows: list[_Row]) -> Metric:
    """Return reports of violations, where there were any."""
    family = CounterMetricFamily(
        "gateway_csp_violations",
        "Violations of content policies that browsers reported, by the reporter's color.",
        labels=["service", "color", "directive"],
    )
    directives = layout.CSP_DIRECTIVES
    for row in rows:
        for at, color in enumerate(COLORS):
            for place, directive in enumerate(directives):
                count = row.words[layout.ROW_CSP + at * len(directives) + place]
                if count:
                    family.add_metric([row.name, color, directive], count)
    return family


def _per_service(
    family: GaugeMetricFamily | CounterMetricFamily, rows: Iterable[_Row], word: int
) -> Metric:
    """Fill a family labelled by service alone from one word of each row."""
    for row in rows:
        family.add_metric([row.name], row.words[word])
    return family


def _fallbacks(rows: Iterable[_Row]) -> Metric:
    """Return the answers that were fallbacks, by kind."""
    family = CounterMetricFamily(
        "gateway_fallbacks",
        "Answers from a stale copy or a static file.",
        labels=["service", "kind"],
    )
    for row in rows:
        for at, kind in enumerate(("stale", "static")):
            family.add_metric([row.name, kind], row.words[layout.ROW_FALLBACKS + at])
    return family


def render(view: MetricsView) -> bytes:
    """Return the text that ``/metrics`` answers, of type ``CONTENT_TYPE``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GatewayCollector(view))
    return generate_latest(registry)
