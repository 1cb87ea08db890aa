"""The soak judges rightly: growth is told from noise, one request too few or many is seen."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from loadtests.soak import __main__ as program
from loadtests.soak.account import LogLine, Scrape, checks, class_of, read_log
from loadtests.soak.clients import Clients
from loadtests.soak.peer import Order, Row
from loadtests.soak.samples import ALLOWED, MIB, Sample, flat, memory, settled, trend
from tests.support.upstream import Conversation, Upstream, always


def series(grow: float, noise: float, seconds: int = 600) -> list[Sample]:
    """Return samples that grow by so many octets a second, with so much chance about it."""
    chance = random.Random(7)
    found = []
    for at in range(seconds):
        own = int(50 * MIB + grow * at + chance.gauss(0, noise))
        found.append(Sample(float(at), own + 9 * MIB, own, 20))
    return found


def test_a_line_is_put_through_the_last_two_thirds() -> None:
    early = [(float(at), 1000.0) for at in range(3)]
    found = trend([*early, *((float(at), 10.0 * at) for at in range(3, 9))])
    assert (found.first, found.last) == (30.0, 80.0)
    assert found.growth == pytest.approx(50.0)
    assert found.noise == pytest.approx(0.0)
    assert found.per_hour == pytest.approx(36_000.0)
    with pytest.raises(ValueError, match="too few"):
        trend([(0.0, 1.0)] * 5)


@pytest.mark.parametrize(
    ("grow", "noise", "ok"),
    [
        (0.0, 0.0, True),
        (0.0, 5 * MIB, True),
        (-9000.0, 0.0, True),
        (ALLOWED / 450, 0.0, True),
        (ALLOWED / 350, 0.0, False),
        (4 * MIB / 400, 0.1 * MIB, False),
        (1 * MIB / 400, 1 * MIB, True),
    ],
)
def test_memory_that_grows_beyond_the_noise_is_told(grow: float, noise: float, ok: bool) -> None:
    check = flat("worker 0", series(grow, noise))
    assert check.ok is ok, check.measured
    assert "9 MiB mapped beside" in check.measured


def held(files: int, tasks: int = 2, timers: int = 3, idle: int = 1, open_: int = 0) -> Sample:
    vitals = {
        "tasks": tasks,
        "timers": timers,
        "connections": open_,
        "tunnels": 0,
        "in_flight": 0,
        "upstream": {"busy": 0, "idle": idle},
    }
    return Sample(0.0, 1, 1, files, vitals)


@pytest.mark.parametrize(
    ("after", "missed"),
    [
        (held(20), []),
        (held(25, timers=8, idle=6), []),
        (held(26, timers=8, idle=6), ["descriptors back"]),
        (held(20, tasks=3), ["tasks back"]),
        (held(20, timers=4), ["timers back"]),
        (held(20, open_=1), ["nothing open, nothing in flight"]),
    ],
)
def test_what_is_left_over_is_told(after: Sample, missed: list[str]) -> None:
    found = settled("w", held(20), after)
    assert [each.bar for each in found if not each.ok] == [f"w: {bar}" for bar in missed]


def test_a_supervisor_has_descriptors_alone() -> None:
    supervisor = Sample(0.0, 1, 1, 9)
    assert [each.bar for each in settled("s", supervisor, supervisor)] == ["s: descriptors back"]


def test_memory_is_read_of_a_process() -> None:
    resident, anonymous = memory(os.getpid())
    assert resident > anonymous > MIB


ROWS = [
    Row("kept", 0, 200, whole=True),
    Row("missing", 1, 404, whole=True),
    Row("leaves-waiting", 2, 0, left=True),
    Row("websocket", 3, 101, left=True),
    Row("malformed", -1, 400, whole=True),
    Row("half-head", -1, 0, left=True),
]
LINES = [
    LogLine(0, 200),
    LogLine(1, 404),
    LogLine(2, 499),
    LogLine(3, 101),
    LogLine(-1, 400),
    LogLine(-1, 499),
]


def scrape_of(lines: list[LogLine]) -> Scrape:
    classes = Counter(class_of(line.status) for line in lines)
    return Scrape(requests=classes, timed=len(lines) - classes["1xx"])


def missed(rows: list[Row], lines: list[LogLine], scrape: Scrape) -> set[str]:
    return {check.bar.split()[0] for check in checks(rows, lines, scrape) if not check.ok}


def test_three_accounts_that_agree() -> None:
    assert missed(ROWS, LINES, scrape_of(LINES)) == set()


def test_one_request_too_few_or_too_many_is_seen() -> None:
    everything = scrape_of(LINES)
    assert missed(ROWS, LINES[1:], everything) >= {"clients'", "each", "the"}
    assert missed(ROWS, [*LINES, LINES[0]], everything) >= {"clients'", "each", "the"}
    assert missed(ROWS[1:], LINES, everything) == {"clients'", "each"}
    # One line in another's place: the sums agree.
    swapped = [LogLine(1, 404), *LINES[1:]]
    assert "each" in missed(ROWS, swapped, scrape_of(swapped))
    assert missed(ROWS, LINES, dataclasses.replace(everything, timed=4)) == {"the"}
    assert missed(ROWS, LINES, dataclasses.replace(everything, lines_lost=1)) == {"clients'"}


def test_another_status_is_seen() -> None:
    other = [LogLine(0, 500), *LINES[1:]]
    assert missed(ROWS, other, scrape_of(other)) == {"the"}
    refused = [*LINES[:4], LogLine(-1, 408), LINES[5]]
    assert missed(ROWS, refused, scrape_of(refused)) == {"the"}


def test_silence_is_told_and_a_cut_is_not_held_against_the_gateway() -> None:
    silent = [Row("kept", 0, 0, lost="reset"), *ROWS[1:]]
    assert missed(silent, LINES, scrape_of(LINES)) == {"whoever"}
    cut = [Row("kept", 0, 200, lost="IncompleteReadError"), *ROWS[1:]]
    assert missed(cut, LINES, scrape_of(LINES)) == set()


def test_log_and_metrics_are_read(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    said = [{"status": 200, "user_agent": "soak/7"}, {"status": 400}, {"status": 499}]
    path.write_text("".join(json.dumps(each) + "\n" for each in said))
    assert read_log([path]) == [LogLine(7, 200), LogLine(-1, 400), LogLine(-1, 499)]
    found = Scrape.of(
        'gateway_requests_total{code_class="2xx",service="a"} 3.0\n'
        'gateway_requests_total{code_class="2xx",service="b"} 2.0\n'
        'gateway_requests_total{code_class="none",service="b"} 1.0\n'
        "# HELP gateway_tunnels Of them.\ngateway_tunnels 4.0\ngateway_connections 5.0\n"
        'gateway_request_seconds_count{service="a"} 5.0\n'
        'gateway_process_stall_seconds_max{process="control",slot=""} 0.25\n'
    )
    assert found.requests == {"2xx": 5, "none": 1}
    assert (found.tunnels, found.connections, found.timed, found.stall) == (4, 5, 5, 0.25)
    assert [class_of(status) for status in (101, 204, 499, 503)] == ["1xx", "2xx", "none", "5xx"]


def played(port: int, kind: str) -> list[Row]:
    """Have one client of a kind come; return what it saw."""

    async def play() -> list[Row]:
        clients = Clients(Order(port, 1.0, 1.0, "none", first=40))
        await clients._one(getattr(clients, kind))
        return clients.rows

    return asyncio.run(play())


def test_clients_number_their_requests() -> None:
    with Upstream(always(b"ok")) as upstream:
        rows = played(upstream.port, "pipelined")
        assert [(row.number, row.status, row.whole) for row in rows] == [
            (number, 200, True) for number in range(40, 45)
        ]
        assert b"User-Agent: soak/44\r\n" in upstream.heads[4]
        (left,) = played(upstream.port, "half_a_head")
        assert (left.number, left.status, left.left) == (-1, 0, True)
        assert played(upstream.port, "says_nothing") == []


def test_an_answer_that_is_cut_is_not_whole() -> None:
    def short(say: Conversation) -> None:
        say.read_head()
        say.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        say.close()

    with Upstream(short) as upstream:
        (row,) = played(upstream.port, "kept")
    assert (row.status, row.whole) == (200, False)
    assert "IncompleteReadError" in row.lost


def test_nobody_who_was_never_connected_is_counted() -> None:
    (port,) = free_ports(1)
    assert played(port, "fresh") == []


def test_the_program_says_what_it_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["--minutes", "0"])
    assert ended.value.code == 2
    assert "above 0" in capsys.readouterr().err
