"""Metrics of what is trusted: issuers' keys, logins of the admin API, certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Set


def issuers(found: Iterable[tuple[str, float, int, int]]) -> Iterator[Metric]:
    """Yield how issuers' keys are read: by scheme, when last, how often well and badly."""
    read = GaugeMetricFamily(
        "gateway_issuer_keys_timestamp_seconds",
        "When an issuer's keys were last read, in seconds since the epoch; 0: never.",
        labels=["scheme"],
    )
    readings = CounterMetricFamily(
        "gateway_issuer_readings", "Readings of issuers' keys.", labels=["scheme", "result"]
    )
    for scheme, read_at, well, badly in found:
        read.add_metric([scheme], read_at)
        readings.add_metric([scheme, "ok"], well)
        readings.add_metric([scheme, "failed"], badly)
    yield from (read, readings)


def logins(found: Iterable[tuple[str, int]]) -> Metric:
    """Return the admin API's failed logins, by result."""
    failed = CounterMetricFamily(
        "gateway_admin_logins_failed", "Failed logins of the admin API.", labels=["result"]
    )
    for result, count in found:
        failed.add_metric([result], count)
    return failed


def certificates(found: Iterable[tuple[str, int]], not_served: Set[str]) -> Iterator[Metric]:
    """Yield until when certificates are valid, by their places in the configuration.

    ``not_served`` are those places in whose files stands what is of no use.
    """
    ends = GaugeMetricFamily(
        "gateway_certificate_expiry_timestamp_seconds",
        "Until when a certificate is valid, in seconds since the epoch.",
        labels=["certificate"],
    )
    refused = GaugeMetricFamily(
        "gateway_certificate_files_refused",
        "1: the files hold what is of no use, the certificate before it is served on.",
        labels=["certificate"],
    )
    for place, expires in found:
        ends.add_metric([place], expires)
        refused.add_metric([place], place in not_served)
    yield from (ends, refused)
