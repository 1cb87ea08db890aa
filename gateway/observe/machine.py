"""Metrics of what the machine gives: connections and their descriptors, disks, name servers."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.board import layout
from gateway.board.board import Board


def refused_by_machine(
    *, unstored: bool, rebuilt: float, unwritten: bool, names: int
) -> Iterator[Metric]:
    """Yield what the machine refuses control (``MetricsView`` says what each is)."""
    yield GaugeMetricFamily(
        "gateway_state_unstored",
        "1: something is in force that the state store could not keep yet.",
        value=float(unstored),
    )
    yield GaugeMetricFamily(
        "gateway_state_rebuilt_timestamp_seconds",
        "When a state store that was lost was last rebuilt; 0: never, as far as is known.",
        value=rebuilt,
    )
    yield GaugeMetricFamily(
        "gateway_snapshot_unwritten",
        "1: the snapshot's file is behind what workers serve.",
        value=float(unwritten),
    )
    yield GaugeMetricFamily(
        "gateway_names_failing",
        "Host names that could not be resolved when last asked.",
        value=names,
    )


def connections(board: Board) -> Iterator[Metric]:
    """Yield what workers count of clients' connections, and of what they could not write."""
    for name, about, word in (
        ("gateway_connections", "Clients' connections open.", layout.S_CONNECTIONS),
        ("gateway_tunnels", "Upgraded connections open.", layout.S_TUNNELS),
        (
            "gateway_workers_not_accepting",
            "Workers that have no descriptors left for another client.",
            layout.S_NOT_ACCEPTING,
        ),
    ):
        yield GaugeMetricFamily(name, about, value=board.total(word))
    for name, about, word in (
        ("gateway_connections_accepted", "Connections accepted.", layout.S_ACCEPTED),
        ("gateway_connections_shed", "Closed at once: too many.", layout.S_CONNECTIONS_SHED),
        (
            "gateway_accept_pauses",
            "How often a worker ran out of descriptors for another client.",
            layout.S_ACCEPT_PAUSES,
        ),
        ("gateway_requests_refused", "Refused by the framing rules.", layout.S_REFUSED),
        ("gateway_log_lines_lost", "Access log lines lost.", layout.S_LOG_LOST),
        (
            "gateway_cache_write_failures",
            "Writes to the cache that failed.",
            layout.S_CACHE_FAILED,
        ),
    ):
        yield CounterMetricFamily(name, about, value=board.total(word))
