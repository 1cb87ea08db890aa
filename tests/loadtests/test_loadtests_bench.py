"""The bench measures what it says: a constant rate, ratios, and a short run of the whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loadtests import bench
from loadtests.bench import Options, Result
from loadtests.measure import Round
from loadtests.processes import descendants, processor_seconds
from loadtests.report import render
from loadtests.steady import Load, Steady, browser_requests, percentile
from loadtests.verify import CLIENTS
from tests.support.processes import need
from tests.support.upstream import Conversation, Upstream, always


def a_round(worker_us: float) -> Round:
    return Round(1000, 1000.0, worker_us, worker_us + 1, 1.0, 2.0, 0)


def options(tmp_path: Path) -> Options:
    return Options(2, 1, 8, 0, bench.NAMES, tmp_path / "out.md")


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7


def test_requests_are_a_browsers_and_each_client_differs() -> None:
    requests = browser_requests(CLIENTS)
    assert len(set(requests)) == CLIENTS
    assert requests[0].count(b"\r\n") == 1 + 13 + 1
    for request in requests:
        assert re.search(rb"gw_cohort=[A-Za-z0-9_-]{21}[AQgw]\r\n", request)


def test_the_rate_is_kept() -> None:
    with Upstream(always(b"x" * 100)) as up:
        steady = Load(up.port, 200, 1).run()
    assert steady.errors == 0
    assert 150 < steady.served < 210


def test_a_stall_is_charged_to_every_request_that_it_held_up() -> None:
    def script(say: Conversation) -> None:
        for number in range(1000):
            say.read_head()
            if number == 0:
                say.over.wait(0.45)
            say.answer(b"ok")

    with Upstream(script) as up:
        # Every connection stalls on its first request; all 64 are taken after 0.16 s. Most requests
        # are due after that and wait for a free one: timed from sending, they would take no time.
        steady = Load(up.port, 400, 0.5).run()
    assert steady.errors == 0
    assert steady.p50_ms > 50


def test_ratios_are_of_medians_and_reasons_are_told(tmp_path: Path) -> None:
    results = [
        Result("nginx", "1.0", rounds=[a_round(10), a_round(10), a_round(40)]),
        Result("envoy", reason="envoy is not installed"),
        Result(
            "gateway",
            "0.1",
            rounds=[a_round(15), a_round(15), a_round(14)],
            steady=[Steady(100, 99.9, 1, 2.5, 3, 0.1, 0)],
        ),
    ]
    text = render(results, options(tmp_path), "a machine", "2026-01-01")
    (row,) = [line for line in text.splitlines() if line.startswith("| gateway")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "15.0 (14.0-15.0)"
    assert cells[3:5] == ["1.50", "-"]
    assert cells[8] == "2.50"
    assert "envoy is not installed" in text
    assert "make bench ROUNDS=2" in text


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse(["--only", "apache"])
    assert "apache" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.parse(["--rounds", "0"])


def test_processor_time_is_read_for_the_living_only() -> None:
    assert processor_seconds([2**22 + 1]) == 0
    assert descendants(2**22 + 1) == []


@pytest.mark.slow
@pytest.mark.outside
@pytest.mark.timeout(180)
def test_a_short_bench_measures_the_gateway_beside_nginx(tmp_path: Path) -> None:
    need("nginx")
    need("wrk")
    output = tmp_path / "performance.md"
    arguments = ["--rounds", "1", "--seconds", "1", "--connections", "16", "--idle", "200"]
    assert bench.main([*arguments, "--only", "nginx,gateway", "--output", str(output)]) == 0
    rows = {
        cells[0].split()[0]: cells
        for line in output.read_text().splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) > 5
    }
    for name in ("nginx", "gateway"):
        assert float(rows[name][1]) > 0, rows[name]
        assert rows[name][10] == "0", f"errors: {rows[name]}"
        assert rows[name][9].endswith("KiB")
    assert float(rows["gateway"][3]) > 0
    assert descendants_named("nginx: worker") == []


def descendants_named(words: str) -> list[int]:
    import os

    found = []
    for pid in descendants(os.getpid()):
        try:
            if words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except FileNotFoundError:
            continue
    return found
