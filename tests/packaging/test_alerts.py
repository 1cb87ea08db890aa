"""Every alert has its section in docs/alerts.md, rings when it must, and is still when it must."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.packaging.test_docs import FENCE, PAGES, anchor, name
from tests.support.processes import ROOT, need

RULES = ROOT / "config" / "prometheus" / "alerts.yaml"
PAGE = ROOT / "docs" / "alerts.md"
ALERTS: dict[str, Any] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
PARTS = ("**It means**", "**Users see**", "**Look:**", "**Do:**", "**Over**")


def sections() -> dict[str, str]:
    found = re.split(r"^### (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return {
        title: text.split("\n## ")[0] for title, text in zip(found[::2], found[1::2], strict=True)
    }


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert set(sections()) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_section_says_all_that_somebody_asks_at_night(alert: str) -> None:
    text = sections()[alert]
    places = [text.index(part) for part in PARTS]
    assert places == sorted(places)
    severity = ALERTS[alert]["labels"]["severity"]
    assert f"({severity})" in text[: places[1]] or f"({severity}" in text, severity


@pytest.mark.parametrize("alert", ALERTS)
def test_a_rule_names_its_section(alert: str) -> None:
    assert ALERTS[alert]["annotations"]["runbook"] == f"docs/alerts.md#{anchor(alert)}"


def metrics() -> set[str]:
    """What docs/metrics.md has: tests/observe holds that page to what is told."""
    table = (ROOT / "docs" / "metrics.md").read_text()
    found = set()
    for metric, kind in re.findall(r"^\| `(gateway_\w+)` \| (\w+) \|", table, re.MULTILINE):
        found.add(metric)
        if kind in {"histogram", "summary"}:
            found |= {f"{metric}_{part}" for part in ("bucket", "sum", "count")}
    return found


#: Names that begin like a metric and are something else.
NO_METRICS = {"gateway_http", "gateway_url"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_metric_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"(?<![\w/.-])gateway_[a-z_]+\b(?![/.(]\w)", page.read_text()))
    assert {each for each in named if not each.endswith("_")} - metrics() - NO_METRICS == set()


def test_every_metric_of_the_rules_exists() -> None:
    text = " ".join(rule["expr"] for rule in ALERTS.values())
    assert set(re.findall(r"gateway_\w+", text)) <= metrics()


class Case(NamedTuple):
    """Series (one sample a minute) that ring after ``minutes``, and some that must not."""

    rings: dict[str, str]
    still: dict[str, str]
    minutes: int = 20


STEADY = "0+60x60"
RELEASE = 'gateway_release_state{state="%s"}'
BREAKER = 'gateway_breaker_state{service="s",color="blue",endpoint="%s"}'
REQUESTS = 'gateway_requests_total{service="s",color="blue",code_class="%s"}'
SHED = 'gateway_shed_total{service="s",reason="full"}'
KEYS = 'gateway_issuer_keys_timestamp_seconds{scheme="s"}'
READINGS = 'gateway_issuer_readings_total{scheme="s",result="failed"}'
EXPIRY = 'gateway_certificate_expiry_timestamp_seconds{certificate="c"}'
REFUSED = 'gateway_certificate_files_refused{certificate="c"}'
RELOADS = 'gateway_config_reloads_total{result="refused"}'
EVIDENCE = 'gateway_release_evidence{scope="*"}'
THRESHOLD = 'gateway_release_evidence_threshold{scope="*"}'
DAY = 86_400

CASES: dict[str, Case] = {
    "GatewayReleaseHeld": Case({RELEASE % "held": "1x60"}, {RELEASE % "held": "0x60"}),
    "GatewayRolledBack": Case(
        {'gateway_rollbacks_total{trigger="regression"}': "0x15 1x45"},
        {'gateway_rollbacks_total{trigger="manual"}': "0x15 1x45"},
    ),
    "GatewayRollbackTakesLong": Case(
        {RELEASE % "rolling_back": "1x60"}, {RELEASE % "rolling_back": "0x17 1x3 0x40"}
    ),
    "GatewayReleaseLeansBack": Case(
        {EVIDENCE: "50x60", THRESHOLD: "500x60"}, {EVIDENCE: "20x60", THRESHOLD: "500x60"}
    ),
    "GatewayReleasePausedForLong": Case(
        {RELEASE % "paused": "1x90"}, {RELEASE % "paused": "0x30 1x60"}, 70
    ),
    "GatewayGone": Case({"gateway_info": "1x10 _x50"}, {"gateway_info": "1x60"}),
    "GatewayAnswersFail": Case(
        {REQUESTS % "5xx": "0+6x60", REQUESTS % "2xx": STEADY},
        {REQUESTS % "5xx": "0+2x60", REQUESTS % "2xx": STEADY},
    ),
    "GatewayReloadRefused": Case({RELOADS: "0x15 1x45"}, {RELOADS: "1x60"}),
    "GatewayPoolLeftAlone": Case(
        {BREAKER % "a": "2x60", BREAKER % "b": "3x60", REQUESTS % "2xx": STEADY},
        {BREAKER % "a": "2x60", BREAKER % "b": "0x60", REQUESTS % "2xx": STEADY},
    ),
    "GatewayServiceDown": Case(
        {'gateway_service_state{service="s"}': "2x60"},
        {'gateway_service_state{service="s"}': "1x60"},
    ),
    "GatewaySheds": Case(
        {SHED: "0+3x60", REQUESTS % "2xx": STEADY}, {SHED: "0x60", REQUESTS % "2xx": STEADY}
    ),
    "GatewayForcedStable": Case(
        {"gateway_forced_stable": "1x60"}, {"gateway_forced_stable": "0x60"}
    ),
    "GatewayWorkersLag": Case(
        {"gateway_workers_lagging": "1x60"}, {"gateway_workers_lagging": "0x19 1x1 0x40"}
    ),
    "GatewayStateNotKept": Case(
        {"gateway_state_fallback": "1x60"}, {"gateway_state_fallback": "0x60"}
    ),
    "GatewayStateRebuilt": Case(
        # promtool's clock begins at 0: the store was made anew at 20 min, and two hours before.
        {"gateway_state_rebuilt_timestamp_seconds": "-7200x19 1200x40"},
        {"gateway_state_rebuilt_timestamp_seconds": "-7200x60"},
    ),
    "GatewayStateUnstored": Case(
        {"gateway_state_unstored": "1x60"}, {"gateway_state_unstored": "0x20 1x40"}
    ),
    "GatewaySnapshotNotWritten": Case(
        {"gateway_snapshot_unwritten": "1x60"}, {"gateway_snapshot_unwritten": "0x60"}
    ),
    "GatewayLogLinesLost": Case(
        {"gateway_log_lines_lost_total": "0x17 9x40"}, {"gateway_log_lines_lost_total": "0x5 9x55"}
    ),
    "GatewayCacheNotWritten": Case(
        {"gateway_cache_write_failures_total": "0+1x60"},
        {"gateway_cache_write_failures_total": "0x18 1x40"},
    ),
    "GatewayNotAccepting": Case(
        {"gateway_workers_not_accepting": "1x60"}, {"gateway_workers_not_accepting": "0x60"}
    ),
    "GatewayNamesFail": Case(
        {"gateway_names_failing": "1x60"}, {"gateway_names_failing": "0x17 1x2 0x40"}
    ),
    "GatewayProcessesDie": Case(
        {'gateway_process_restarts_total{process="worker"}': "0+1x60"},
        {'gateway_process_restarts_total{process="worker"}': "0x15 2x45"},
    ),
    "GatewayIssuerNeverRead": Case({KEYS: "0x60"}, {KEYS: "1x60"}),
    "GatewayIssuerKeysOld": Case(
        {KEYS: "1x120", READINGS: "0+1x120"}, {KEYS: "1x120", READINGS: "5x120"}, 80
    ),
    "GatewayAdminTokensGuessed": Case(
        {'gateway_admin_logins_failed_total{result="unknown"}': "0+10x60"},
        {'gateway_admin_logins_failed_total{result="unknown"}': "0+1x60"},
    ),
    "GatewayCertificateEndsSoon": Case({EXPIRY: f"{10 * DAY}x90"}, {EXPIRY: f"{20 * DAY}x90"}, 75),
    "GatewayCertificateEnds": Case({EXPIRY: f"{DAY}x60"}, {EXPIRY: f"{3 * DAY}x60"}),
    "GatewayCertificateFilesRefused": Case({REFUSED: "1x60"}, {REFUSED: "0x12 1x48"}),
}


def test_every_alert_has_a_case_that_rings_and_one_that_does_not() -> None:
    assert set(CASES) == set(ALERTS)


def unit_test(alert: str, series: dict[str, str], minutes: int, *, rings: bool) -> dict[str, Any]:
    return {
        "name": f"{alert} {'rings' if rings else 'is still'}",
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if rings else [],
            }
        ],
    }


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_rules_are_valid_to_prometheus() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


@pytest.mark.parametrize("alert", CASES)
def test_a_rule_rings_and_is_still_as_it_must(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    tests = [
        unit_test(alert, case.rings, case.minutes, rings=True),
        unit_test(alert, case.still, case.minutes, rings=False),
    ]
    file = tmp_path / "alerts_test.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests})
    )
    played = promtool("test", "rules", file)
    assert played.returncode == 0, played.stdout + played.stderr


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert "gateway_requests_total" in metrics()
    assert "gateway_request_seconds_bucket" in metrics()
    assert "gateway_no_such_thing" not in metrics()
    assert FENCE.search(PAGE.read_text()), "commands are shown"
