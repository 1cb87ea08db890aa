"""docs/metrics.md has every metric, with its type and labels, and none that is not there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric

from gateway.board import layout
from gateway.board.board import Board
from gateway.config.snapshot import Endpoint, Pool, Service, ServiceTraffic, Topology, Traffic
from gateway.observe.exposition import GatewayCollector, MetricsView, ReleaseView
from gateway.policy.mode import Picture

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
RULES = ROOT / "config" / "prometheus" / "alerts.yaml"


def told() -> dict[str, tuple[str, set[str]]]:
    """What the page's table says: type and labels by name."""
    rows = re.findall(r"^\| `(gateway_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", PAGE, re.MULTILINE)
    return {
        name: (kind, set(filter(None, labels.strip().split(", ")))) for name, kind, labels in rows
    }


def collected() -> list[Metric]:
    endpoint = Endpoint(id="a-blue-1-0", cell=0, url="", scheme="http", host="", port=1)
    pool = Pool(service="a", color="blue", generation=1, source="file", endpoints=(endpoint,))
    board = Board.create(1)
    try:
        row = board.row(0, 1)
        row[layout.SIDE_REQUESTS] = 1
        row[layout.SIDE_REQUEST_SECONDS] = 1
        row[layout.SIDE_UPSTREAM_SECONDS] = 1
        row[layout.ROW_CSP] = 1
        row.release()
        board.words[layout.H_CONTROL_PID] = os.getpid()
        board.claim(0, 0, 1)
        board.words[layout.slab_at(0) + layout.S_PID] = os.getpid()
        view = MetricsView(
            board=board,
            topology=Topology(number=1, services=(Service(name="a", row=1),), pools=(pool,)),
            traffic=Traffic(revision=1, services=(ServiceTraffic(service="a", stable="blue"),)),
            platform=Picture("full", {"a": "up"}),
            release=ReleaseView(scopes=(("a", 1.0, 200.0),), sides=(("a", "stable", 1, 0),)),
            probes=((("a", "blue", "L1", "pass"), (1, 0.1)),),
            certificates=(("listen[0].tls.certificates[0]", 1),),
            issuers=(("users", 1.0, 1, 0),),
        )
        return list(GatewayCollector(view).collect())
    finally:
        board.close()


def test_the_table_is_what_is_collected() -> None:
    found = {}
    for family in collected():
        kind, name = family.type, family.name
        if kind == "info":
            kind, name = "gauge", f"{name}_info"  # as the text format has it
        elif kind == "counter":
            name = f"{name}_total"
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (kind, labels)
    assert told() == found


def test_the_buckets_are_the_boards() -> None:
    text = PAGE.partition("buckets end at ")[2].partition(" s. A share")[0].replace("\n", " ")
    small, _, large = text.partition(" ms, and at ")
    bounds = [int(number) for number in re.findall(r"\d+", small)]
    bounds += [int(number) * 1000 for number in re.findall(r"\d+", large)]
    assert tuple(bounds) == layout.BOUNDS_MS


def test_the_alerts_speak_of_metrics_that_there_are() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    for rule in rules:
        names = set(re.findall(r"gateway_\w+", rule["expr"]))
        assert names, rule["alert"]
        assert names <= set(told()), rule["alert"]
        assert rule["annotations"]["summary"]


#: A certificate that ends on the 16th day, and what is told of it.
ENDS = """
rule_files: [{rules}]
evaluation_interval: 1h
tests:
  - interval: 1h
    input_series:
      - series: 'gateway_certificate_expiry_timestamp_seconds{{certificate="site"}}'
        values: '1382400x400'
      - series: 'gateway_certificate_expiry_timestamp_seconds{{certificate="other"}}'
        values: '9999999x400'
    alert_rule_test:
      - {{eval_time: 47h, alertname: GatewayCertificateEndsSoon, exp_alerts: []}}
      - eval_time: 3d
        alertname: GatewayCertificateEndsSoon
        exp_alerts:
          - exp_labels: {{severity: ticket, certificate: site}}
            exp_annotations:
              summary: The certificate at site ends in 13d 0h 0m 0s.
              runbook: "docs/alerts.md#gatewaycertificateendssoon"
      - {{eval_time: 13d, alertname: GatewayCertificateEnds, exp_alerts: []}}
      - eval_time: 15d
        alertname: GatewayCertificateEnds
        exp_alerts:
          - exp_labels: {{severity: page, certificate: site}}
            exp_annotations:
              summary: The certificate at site ends in 1d 0h 0m 0s.
              runbook: "docs/alerts.md#gatewaycertificateends"
"""

#: Files that are of no use for moments, and then for good.
REFUSED = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'gateway_certificate_files_refused{{certificate="site"}}'
        values: '0 1 1 1 0 1x60'
    alert_rule_test:
      - {{eval_time: 4m, alertname: GatewayCertificateFilesRefused, exp_alerts: []}}
      - eval_time: 20m
        alertname: GatewayCertificateFilesRefused
        exp_alerts:
          - exp_labels: {{severity: ticket, certificate: site}}
            exp_annotations:
              summary: The files of the certificate at site are of no use.
              action: gateway status says why; the certificate before it is served on.
              runbook: "docs/alerts.md#gatewaycertificatefilesrefused"
"""


@pytest.mark.outside
def test_the_alerts_of_certificates_are_told_in_time(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    files = []
    for name, text in (("ends", ENDS), ("refused", REFUSED)):
        files.append(str(tmp_path / name))
        (tmp_path / name).write_text(text.format(rules=RULES))
    checked = subprocess.run(
        [promtool, "test", "rules", *files],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.outside
def test_promtool_reads_the_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(
        [promtool, "check", "rules", str(RULES)], capture_output=True, timeout=30, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
