"""The keys that are typed but not in force: the table is true, and each is warned of once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.keys import all_keys, known_keys, pattern_of
from gateway.config.load import parse_text
from gateway.config.notyet import NOT_YET

HERE = Path(__file__).parent


def warnings(text: str) -> list[str]:
    loaded = parse_text(text.encode(), "f", {}, read_secrets=False)
    return [str(warning) for warning in loaded.warnings]


def test_the_table_names_keys_that_exist() -> None:
    assert set(NOT_YET) <= {key.pattern for key in all_keys()}


def test_no_row_is_covered_by_another() -> None:
    for row in NOT_YET:
        assert not [other for other in NOT_YET if row.startswith((f"{other}.", f"{other}["))]


def test_a_key_is_warned_of_once_with_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NOT_YET, "routes[].cache", "has no effect yet: nothing is kept")
    text = """\
services: {a: {blue: {endpoints: ["http://a"]}}}
routes:
  - {path: /a, service: a, cache: off}
  - {path: /b, service: a, cache: off}
  - {path: /, service: a, cache: off}
state: {redis_url: "redis://r.example"}
"""
    assert warnings(text) == [
        "f:3:28: routes[0].cache: has no effect yet: nothing is kept (also at line 4, 5)",
        "f:6:9: state.redis_url: has no effect yet: state is this machine's alone",
    ]


def test_nothing_is_warned_of_that_is_not_set() -> None:
    text = (
        "services: {a: {blue: {endpoints: ['http://a']}}}\nadmin: {tls: null}\n"
        "routes: [{service: a, security: null}]\n"
    )
    assert warnings(text) == []


def test_a_key_in_force_is_not_warned_of() -> None:
    text = """\
limits: {body: 1MiB}
on_control_lost: {do: stable}
access_log: off
internal_callers: [127.0.0.1]
traffic: {cohort: {header: X-User-Id}, assets: {keep: 1d}, behind_cdn: true}
services:
  a:
    blue: {endpoints: ["http://a"]}
    health: {interval: 1s, interval_down: 1s, rise: 1, fall: 1, L1: {tcp: true}, L2: {path: /}}
    timeouts: {total: 1s}
    retries: 2
    retry: {budget: 10%}
    rescue: off
    breaker: {failures: 3}
    outlier: off
    slow_start: 1s
    max_in_flight: 1
    drain_timeout: 1s
    balance: hash
    host: rewrite
    tls: {ca: ca.pem}
routes:
  - {service: a, strip: true, limits: {body: 1B}, timeouts: {total: 1s}, security: page}
  - {path: /a, service: a, rate_limit: {rate: 1/s}}
security: {profiles: {page: {csp: "default-src 'none'", hsts: 1d}}}
"""
    assert warnings(text) == []


def test_the_contracts_whole_example_is_accepted() -> None:
    text = (HERE / "contract_example.yaml").read_text(encoding="utf-8")
    warned = {line.split(": ")[1] for line in warnings(text)}
    assert warned == set()


def test_a_place_has_a_pattern() -> None:
    assert pattern_of(("services", "a", "blue", "endpoints", 3)) == "services.*.blue.endpoints[]"
    assert pattern_of(("listen", 0, "tls")) == "listen[].tls"
    assert "balance" in known_keys(("services", "a"))
    assert known_keys(("services",)) == ()
