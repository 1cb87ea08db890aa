"""The exposition, read back by prometheus-client's own parser and, where it is, by promtool."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.board import layout
from gateway.board.board import Board
from gateway.config.snapshot import Endpoint, Pool, Service, ServiceTraffic, Topology, Traffic
from gateway.observe.exposition import CONTENT_TYPE, MetricsView, ReleaseView, render
from gateway.policy.mode import Picture
from gateway.release.machine import STATES
from gateway.release.record import TRIGGERS

ENDPOINT = Endpoint(
    id="ivor-blue-3-0",
    cell=7,
    url="http://127.0.0.1:3101",
    scheme="http",
    host="127.0.0.1",
    port=3101,
)
TOPOLOGY = Topology(
    number=1,
    services=(Service(name="ivor", row=1), Service(name="website", row=2)),
    pools=(Pool(service="ivor", color="blue", generation=3, source="file", endpoints=(ENDPOINT,)),),
)
TRAFFIC = Traffic(
    revision=1,
    services=(
        ServiceTraffic(service="ivor", stable="blue", weight=525),
        ServiceTraffic(service="website", stable="green"),
    ),
)


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(3)
    for slab, state in enumerate((layout.STATE_READY, layout.STATE_DRAINING, layout.STATE_GONE)):
        board.slab(slab)[layout.S_STATE] = state
    yield board
    board.close()


RELEASE = ReleaseView(
    state="stepping",
    step=2,
    scopes=(("ivor", 14.2, 200.0), ("*", 1.0, 200.0)),
    sides=(("ivor", "candidate", 480, 3), ("ivor", "stable", 9120, 7)),
    rollbacks=(("regression", 2),),
)


def view_of(board: Board) -> MetricsView:
    return MetricsView(
        board=board,
        topology=TOPOLOGY,
        traffic=TRAFFIC,
        reloads=(("ok", 2), ("refused", 1)),
        version="0.1.0",
        build="compiled",
        release=RELEASE,
    )


def families(board: Board) -> dict[str, Metric]:
    text = render(view_of(board)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(board: Board, name: str) -> dict[tuple[str, ...], float]:
    """Return one sample name's values by their label values in sorted label order."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families(board).values()
        for sample in family.samples
        if sample.name == name
    }


def bump(board: Board, slab: int, row: int, word: int, by: int = 1) -> None:
    board.slab(slab)[layout.ROWS_AT + row * layout.ROW_WORDS + word] += by


def requests_word(side: int, method: str, code_class: str) -> int:
    return (
        side * layout.SIDE_WORDS
        + layout.SIDE_REQUESTS
        + layout.METHODS.index(method) * len(layout.CODE_CLASSES)
        + layout.CODE_CLASSES.index(code_class)
    )


def test_requests_are_the_sum_over_slabs_the_gone_ones_included(board: Board) -> None:
    word = requests_word(layout.side_index(candidate=True, green=True), "POST", "5xx")
    for slab, count in enumerate((1, 20, 300)):
        bump(board, slab, 1, word, count)
    found = values(board, "gateway_requests_total")
    # label order: code_class, color, method, role, service
    assert found == {("5xx", "green", "POST", "candidate", "ivor"): 321}


def test_every_side_method_and_class_has_its_own_labels(board: Board) -> None:
    expected: dict[tuple[str, ...], float] = {}
    number = 0
    for side in range(layout.SIDES):
        for method in layout.METHODS:
            for code_class in layout.CODE_CLASSES:
                number += 1
                bump(board, 0, 2, requests_word(side, method, code_class), number)
                role = ("stable", "candidate")[side // 2]
                color = ("blue", "green")[side % 2]
                expected[code_class, color, method, role, "website"] = number
    assert values(board, "gateway_requests_total") == expected


def test_requests_without_a_service_have_no_side(board: Board) -> None:
    bump(board, 0, 0, requests_word(0, "GET", "4xx"), 2)
    bump(board, 0, 0, requests_word(3, "GET", "4xx"), 3)
    found = values(board, "gateway_requests_total")
    assert found == {("4xx", "none", "GET", "none", "none"): 5}


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("gateway_request_seconds", layout.SIDE_REQUEST_SECONDS),
        ("gateway_upstream_seconds", layout.SIDE_UPSTREAM_SECONDS),
    ],
)
def test_histograms_are_cumulative_and_agree_with_their_count(
    board: Board, name: str, at: int
) -> None:
    counts = [3, 0, 5, 1, 0, 0, 2, 0, 0, 0, 0, 4, 0, 0, 0, 1, 6]
    for slab in range(2):
        for bucket, count in enumerate(counts):
            bump(board, slab, 1, at + bucket, count)
        bump(board, slab, 1, at + len(counts), 1_500_000)
    samples = families(board)[name].samples
    buckets = [sample for sample in samples if sample.name.endswith("_bucket")]
    assert [float(bucket.labels["le"]) for bucket in buckets] == [
        *(bound / 1000 for bound in layout.BOUNDS_MS),
        float("inf"),
    ]
    heights = [bucket.value for bucket in buckets]
    assert heights == sorted(heights)
    assert heights[0] == 6
    [counted] = [sample.value for sample in samples if sample.name.endswith("_count")]
    [total] = [sample.value for sample in samples if sample.name.endswith("_sum")]
    assert heights[-1] == counted == 2 * sum(counts)
    assert total == pytest.approx(3.0)


def test_gauges_leave_out_processes_that_are_gone(board: Board) -> None:
    for slab in range(3):
        board.slab(slab)[layout.S_CONNECTIONS] = 10
        bump(board, slab, 1, layout.ROW_IN_FLIGHT, 4)
    assert values(board, "gateway_connections") == {(): 20}
    assert values(board, "gateway_in_flight")["ivor",] == 8
    assert values(board, "gateway_workers") == {(): 1}


def test_weights_are_percent_and_add_up(board: Board) -> None:
    assert values(board, "gateway_traffic_weight") == {
        ("candidate", "ivor"): 5.25,
        ("stable", "ivor"): 94.75,
        ("candidate", "website"): 0,
        ("stable", "website"): 100,
    }


@pytest.mark.parametrize(
    ("health", "value"), [(layout.UNKNOWN, 0), (layout.UP, 1), (layout.DOWN, 0)]
)
def test_only_up_is_healthy(board: Board, health: int, value: int) -> None:
    board.set_health(ENDPOINT.cell, health, now=1)
    found = values(board, "gateway_endpoint_healthy")
    assert found == {("blue", "ivor-blue-3-0", "ivor"): value}


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (layout.BREAKER_CLOSED, 0),
        (layout.BREAKER_HALF_OPEN, 1),
        (layout.BREAKER_OPEN, 2),
        (layout.BREAKER_FORCED, 3),
    ],
)
def test_a_breakers_value_grows_with_its_distance_from_serving(
    board: Board, state: int, value: int
) -> None:
    board.words[layout.cell_at(ENDPOINT.cell) + layout.CELL_BREAKER] = state
    found = values(board, "gateway_breaker_state")
    assert found == {("blue", "ivor-blue-3-0", "ivor"): value}


def test_openings_and_ejections_are_told(board: Board) -> None:
    at = layout.cell_at(ENDPOINT.cell)
    board.words[at + layout.CELL_OPENED] = 4
    board.words[at + layout.CELL_EJECTED_UNTIL] = 100
    labels = ("blue", "ivor-blue-3-0", "ivor")
    assert values(board, "gateway_breaker_openings_total") == {labels: 4}
    for now, ejected in ((99, b"1.0"), (100, b"0.0")):
        view = dataclasses.replace(view_of(board), now=now)
        lines = [each for each in render(view).splitlines() if b"_ejected{" in each]
        assert [each.rpartition(b" ")[2] for each in lines] == [ejected]


def test_second_tries_are_summed_over_workers_that_are_gone_too(board: Board) -> None:
    for slab in range(3):
        bump(board, slab, 1, layout.ROW_RETRIES, 2)
        bump(board, slab, 2, layout.ROW_RESCUES, 3)
    assert values(board, "gateway_retries_total") == {("ivor",): 6, ("website",): 0}
    assert values(board, "gateway_rescues_total") == {("ivor",): 0, ("website",): 9}


def test_reloads_restarts_and_lost_lines_are_told(board: Board) -> None:
    board.words[layout.H_CONTROL_RESTARTS] = 3
    board.words[layout.H_WORKER_RESTARTS] = 4
    board.slab(0)[layout.S_LOG_LOST] = 5
    board.slab(2)[layout.S_LOG_LOST] = 6
    reloads = values(board, "gateway_config_reloads_total")
    assert reloads == {("ok",): 2, ("refused",): 1}
    restarts = values(board, "gateway_process_restarts_total")
    assert restarts == {("control",): 3, ("worker",): 4}
    assert values(board, "gateway_log_lines_lost_total") == {(): 11}


def test_the_info_says_version_and_build(board: Board) -> None:
    assert values(board, "gateway_info") == {("compiled", "0.1.0"): 1}


def test_the_contracts_names_are_there_on_an_idle_gateway(board: Board) -> None:
    assert {
        "gateway_requests",
        "gateway_request_seconds",
        "gateway_upstream_seconds",
        "gateway_in_flight",
        "gateway_traffic_weight",
        "gateway_endpoint_healthy",
        "gateway_breaker_state",
        "gateway_retries",
        "gateway_rescues",
        "gateway_workers",
        "gateway_config_reloads",
    } <= set(families(board))


def test_a_name_with_quotes_and_newlines_stays_one_label(board: Board) -> None:
    name = 'a"b\\c\nd'
    topology = Topology(number=1, services=(Service(name=name, row=1),))
    view = MetricsView(board=board, topology=topology, traffic=Traffic(revision=1))
    bump(board, 0, 1, layout.ROW_IN_FLIGHT, 1)
    [family] = [
        family
        for family in text_string_to_metric_families(render(view).decode())
        if family.name == "gateway_in_flight"
    ]
    assert {sample.labels["service"]: sample.value for sample in family.samples}[name] == 1


def test_the_content_type_is_the_text_formats() -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.outside
def test_promtool_finds_nothing_to_say(board: Board) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    bump(board, 0, 1, requests_word(0, "GET", "2xx"))
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=render(view_of(board)),
        capture_output=True,
        env={"PATH": os.environ["PATH"]},
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_cache_is_counted_by_result_over_all_workers(board: Board) -> None:
    for at, name in enumerate(layout.CACHE_RESULTS):
        bump(board, at % 2, 1, layout.ROW_CACHE + at, at + 1)
        assert values(board, "gateway_cache_total")[name, "ivor"] == at + 1


def test_fallbacks_are_counted_by_kind_over_all_workers(board: Board) -> None:
    bump(board, 0, 1, layout.ROW_FALLBACKS)
    bump(board, 2, 1, layout.ROW_FALLBACKS, 2)
    bump(board, 1, 1, layout.ROW_FALLBACKS + 1, 4)
    found = values(board, "gateway_fallbacks_total")
    assert found["stale", "ivor"] == 3
    assert found["static", "ivor"] == 4


def test_mode_and_states_are_numbers(board: Board) -> None:
    traffic = Traffic(
        revision=1,
        services=(
            ServiceTraffic(service="ivor", stable="blue", maintenance=60.0),
            ServiceTraffic(service="website", stable="green"),
        ),
    )
    shown = Picture("read_only", {"ivor": "down", "website": "degraded"})
    text = render(MetricsView(board=board, topology=TOPOLOGY, traffic=traffic, platform=shown))
    for line in (
        b"gateway_mode 2.0",
        b'gateway_service_state{service="ivor"} 2.0',
        b'gateway_service_state{service="website"} 1.0',
        b'gateway_maintenance{service="ivor"} 1.0',
        b'gateway_maintenance{service="website"} 0.0',
    ):
        assert b"\n" + line + b"\n" in text


def test_a_state_store_that_cannot_be_used_is_said(board: Board) -> None:
    assert values(board, "gateway_state_fallback") == {(): 0}
    view = MetricsView(board=board, topology=TOPOLOGY, traffic=TRAFFIC, state_in_memory=True)
    assert b"\ngateway_state_fallback 1.0\n" in render(view)


def test_probes_are_counted_by_result_and_timed_by_level(board: Board) -> None:
    view = MetricsView(
        board=board,
        topology=TOPOLOGY,
        traffic=TRAFFIC,
        probes=(
            (("a", "blue", "L2", "fail"), (1, 2.0)),
            (("a", "blue", "L2", "pass"), (3, 0.5)),
        ),
    )
    text = render(view).decode()
    assert 'gateway_probes_total{color="blue",level="L2",result="pass",service="a"} 3.0' in text
    assert 'gateway_probe_seconds_count{color="blue",level="L2",service="a"} 4.0' in text
    assert 'gateway_probe_seconds_sum{color="blue",level="L2",service="a"} 2.5' in text


def test_a_release_has_its_step_its_state_and_its_evidence(board: Board) -> None:
    assert values(board, "gateway_release_step") == {(): 2}
    states = values(board, "gateway_release_state")
    assert set(states) == {("none",), *((state,) for state in STATES)}
    assert [state for state, value in states.items() if value] == [("stepping",)]
    assert values(board, "gateway_release_evidence") == {("ivor",): 14.2, ("*",): 1}
    assert values(board, "gateway_release_evidence_threshold") == {("ivor",): 200, ("*",): 200}
    assert values(board, "gateway_release_requests")["candidate", "ivor"] == 480
    assert values(board, "gateway_release_failures")["stable", "ivor"] == 7


def test_rollbacks_have_every_trigger_from_the_start(board: Board) -> None:
    """A series that begins with its first rollback would have no increase to alert on."""
    found = values(board, "gateway_rollbacks_total")
    assert found == {(trigger,): 2 if trigger == "regression" else 0 for trigger in TRIGGERS}


def test_without_a_release_the_state_is_none(board: Board) -> None:
    text = render(dataclasses.replace(view_of(board), release=ReleaseView())).decode()
    assert 'gateway_release_state{state="none"} 1.0' in text
    assert "gateway_release_step 0.0" in text
    assert "gateway_release_evidence{" not in text


def test_what_processes_hold_is_told_by_process_and_slot(board: Board) -> None:
    board.words[layout.H_CONTROL_PID] = os.getpid()
    board.beat_control(1, late=30_000_000, tasks=17)
    board.beat_control(2, late=-5, tasks=9)
    for slab, slot in ((0, 0), (1, 1), (2, 0)):
        words = board.slab(slab)
        words[layout.S_SLOT] = slot
        words[layout.S_PID] = os.getpid()
        words[layout.S_TASKS] = 2 + slab
        words[layout.S_TIMERS] = 10 + slab
        words[layout.S_UPSTREAM_BUSY], words[layout.S_UPSTREAM_IDLE] = 3, 5
        words[layout.S_STALL_MAX] = 250_000_000
        words.release()
    control, first, second = ("control", ""), ("worker", "0"), ("worker", "1")
    # Slab 2 is of a process that has gone.
    assert values(board, "gateway_process_tasks") == {control: 9, first: 2, second: 3}
    assert values(board, "gateway_process_timers") == {first: 10, second: 11}
    assert values(board, "gateway_process_stall_seconds_max")[control] == 0.03
    assert values(board, "gateway_process_stall_seconds_max")[second] == 0.25
    upstream = values(board, "gateway_upstream_connections")
    assert upstream == {("0", "busy"): 3, ("0", "idle"): 5, ("1", "busy"): 3, ("1", "idle"): 5}
    memory = values(board, "gateway_process_resident_memory_bytes")
    assert set(memory) == {control, first, second}, "there is no supervisor in this test"
    assert all(each > 1 << 20 for each in memory.values())
    files = values(board, "gateway_process_open_fds")
    assert files[control] == files[first] == files[second] > 3


def test_two_workers_of_one_slot_are_added_up(board: Board) -> None:
    for slab in (0, 1):
        board.words[layout.slab_at(slab) + layout.S_TASKS] = 4
    assert values(board, "gateway_process_tasks")["worker", "0"] == 8
