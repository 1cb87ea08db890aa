"""The chaos harness judges rightly: what it calls a failure is one, and a bar not met is told."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from gateway.policy.cohort import cohort_cookie
from loadtests.chaos import __main__ as program
from loadtests.chaos.load import Load, Order, Row
from loadtests.chaos.scenarios import SCENARIOS
from loadtests.chaos.stage import SHORT, Backend, Stage, owner_of
from loadtests.chaos.verdict import (
    Check,
    Verdict,
    bad,
    between,
    no_failure,
    p99_ms,
    said,
    steady_p99_ms,
    table,
)
from loadtests.processes import ToolError
from tests.support.upstream import Conversation, Upstream, always

WHOLE = "X-Whole: 2\r\nX-Backend: it\r\n"


def offered(folder: Path, port: int, **more: object) -> list[Row]:
    """Run a short load in this process."""
    order = {"rate": 50.0, "seconds": 0.2, "patience": 1.0, "output": str(folder / "out"), **more}
    load = Load(Order(port=port, **order))  # type: ignore[arg-type]  # the fields' own types
    asyncio.run(load.run())
    return load.rows


def test_whole_answers_are_good(tmp_path: Path) -> None:
    with Upstream(always(b"ok", WHOLE)) as upstream:
        rows = offered(tmp_path, upstream.port, path="/page/{n}", numbers=3)
        asked = {head.split()[1] for head in upstream.heads}
    assert len(rows) == 10
    assert all(row.good and row.backend == "it" for row in rows)
    assert asked == {b"/page/0", b"/page/1", b"/page/2"}


def test_users_come_in_turn_each_with_a_cookie_of_their_own(tmp_path: Path) -> None:
    with Upstream(always(b"ok", WHOLE)) as upstream:
        rows = offered(tmp_path, upstream.port, users=4, paths=("/a", "/b"))
        asked = [head.decode().split() for head in upstream.heads]
    assert [row.user for row in rows] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    pairs = {(words[words.index("Cookie:") + 1], words[1]) for words in asked}
    assert len(pairs) == 8, "each of four users has asked for both"
    for name in {pair[0] for pair in pairs}:
        value = name.removeprefix("gw_cohort=").encode()
        assert cohort_cookie(name.encode(), b"gw_cohort") == value, "one that counts"


def short_by_length(say: Conversation) -> None:
    say.read_head()
    say.send(b"HTTP/1.1 200 OK\r\nX-Whole: 10\r\nContent-Length: 10\r\n\r\nhalf")
    say.close()


def short_by_chunks(say: Conversation) -> None:
    say.read_head()
    say.send(b"HTTP/1.1 200 OK\r\nX-Whole: 10\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    say.reset()


@pytest.mark.parametrize("script", [short_by_length, short_by_chunks])
def test_an_answer_that_is_cut_has_no_status(
    script: Callable[[Conversation], None], tmp_path: Path
) -> None:
    with Upstream(script) as upstream:
        rows = offered(tmp_path, upstream.port)
    assert {row.status for row in rows} == {0}
    assert all("after the head of 200" in row.failure for row in rows)
    assert not no_failure(rows).ok


def test_a_silently_shortened_answer_is_not_good(tmp_path: Path) -> None:
    """Whole by its own framing, but not all that the backend meant to send."""
    with Upstream(always(b"ok", "X-Whole: 4\r\n")) as upstream:
        rows = offered(tmp_path, upstream.port)
    assert {row.status for row in rows} == {200}
    assert len(bad(rows)) == len(rows)


def test_nobody_there_and_nothing_said_are_failures(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    assert all(row.failure.startswith("connect") for row in offered(tmp_path, port))
    with Upstream(lambda say: say.hang()) as upstream:
        rows = offered(tmp_path, upstream.port, patience=0.3)
    assert {row.failure for row in rows} == {"client-timeout"}
    assert all(row.took >= 0.3 for row in rows)


def test_a_stall_is_charged_to_all_that_waited(tmp_path: Path) -> None:
    def slow_once(say: Conversation) -> None:
        say.read_head()
        time.sleep(0.3)
        say.answer(b"ok")
        while True:
            say.read_head()
            say.answer(b"ok")

    with Upstream(slow_once) as upstream:
        rows = offered(tmp_path, upstream.port, connections=1)
    assert all(row.good for row in rows)
    assert rows[0].took > 0.25
    assert rows[5].took > 0.15, "it was due a tenth of a second after the first"


def test_what_is_judged_by() -> None:
    rows = [Row(due=float(at), took=0.001 * at, status=200) for at in range(1, 101)]
    assert p99_ms(rows) == pytest.approx(99)
    seconds = [Row(due=at / 10, took=9.0 if at < 10 else 0.002, status=200) for at in range(50)]
    assert steady_p99_ms(seconds) == pytest.approx(2), "one bad second of five"
    assert steady_p99_ms([]) == 0
    assert [row.due for row in between(rows, 3, 5)] == [3, 4]
    rows[0].status, rows[0].error = 503, "breaker-open"
    assert said(rows) == "99 x 200, 1 x 503 breaker-open"
    assert no_failure(rows[1:]).ok
    assert not no_failure(rows).ok
    assert not no_failure([]).ok, "no request is no proof"


def test_the_table_tells_what_failed() -> None:
    good = Verdict("calm", (Check("none", "none", ok=True),))
    poor = Verdict("storm", (Check("none", "none", ok=True), Check("few", "many", ok=False)))
    broken = Verdict("fog", (), broken="no compiler")
    assert [each.ok for each in (good, poor, broken, Verdict("empty", ()))] == [True] + [False] * 3
    lines = table([good, poor, broken]).splitlines()
    assert lines[2:] == [
        "| calm | none | none | yes |",
        "| storm | none | none | yes |",
        "| storm | few | many | **no** |",
        "| fog | it can be played | no compiler | **no** |",
    ]


def test_the_program_fails_where_a_bar_is_not_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fine(*_: object) -> list[Check]:
        return [Check("none", "none", ok=True)]

    def poor(*_: object) -> list[Check]:
        return [Check("none", "one", ok=False)]

    def unplayed(*_: object) -> list[Check]:
        raise ToolError("it does not start")

    for name, scenario in {"fine": fine, "poor": poor, "unplayed": unplayed}.items():
        monkeypatch.setitem(SCENARIOS, name, scenario)
    assert program.main(["fine"]) == 0
    assert program.main(["fine", "poor"]) == 1
    assert program.main(["--short", "unplayed"]) == 1
    assert "it does not start" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        program.main(["storm"])
    assert left.value.code == 2


def test_a_backend_obeys_is_killed_and_returns(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        (backend,) = stage.backends("it")
        rows = offered(tmp_path, backend.port)
        assert all(row.good and row.backend == "it" for row in rows)
        assert len(backend.order(mode="refuse").requests) == len(rows)
        accepts = len(backend.order().accepts)
        rows = offered(tmp_path, backend.port)
        assert not any(row.good for row in rows)
        assert len(backend.order(mode="ok", errors=1.0).accepts) - accepts == len(rows)
        assert {row.status for row in offered(tmp_path, backend.port)} == {503}
        backend.kill()
        assert all(row.failure.startswith("connect") for row in offered(tmp_path, backend.port))
        backend.start()
        assert all(row.good for row in offered(tmp_path, backend.port))


@pytest.mark.parametrize("mode", ["cut-length", "cut-chunked", "cut-close"])
def test_a_backend_cuts_its_answers(mode: str, tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        (backend,) = stage.backends("it", mode=mode)
        rows = offered(tmp_path, backend.port)
    assert all("after the head of 200" in row.failure for row in rows)
    assert {row.octets for row in rows} == {512}


def test_a_backend_vanishes(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        (backend,) = stage.backends("it")
        socket.create_connection(("127.0.0.1", backend.port), 0.3).close()
        backend.order(mode="vanish")
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", backend.port), 0.3)


def test_whose_connection_it_is(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        (backend,) = stage.backends("it", mode="hang")
        gateway = stage.gateway({"web": ([backend], {})})
        workers = gateway.pids("worker")
        load = stage.load(gateway, "/web/", 10, 0.1, patience=1.0)
        deadline = time.monotonic() + 5
        while not (waiting := backend.order().waiting) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert owner_of(waiting[0], workers) in workers
        assert owner_of(waiting[0], []) is None
        load.rows()


def test_a_dead_backend_can_be_named(tmp_path: Path) -> None:
    one, two = free_ports(2)
    backend = Backend("gone", tmp_path, one, two)
    backend.stop()
    with pytest.raises(AssertionError):
        backend.kill()
    assert SHORT.short
