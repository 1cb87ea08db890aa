"""Watching a release: how it ends, a gateway that goes away meanwhile, the lease beside it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
from typing import Any

import pytest

from gateway.admin import release_models as models
from gateway.cli import release_follow, release_watch
from gateway.cli.release_report import HEARTBEAT, Documents, Lines, for_people
from gateway.cli.release_show import Picture
from gateway.cli.release_watch import RECONNECT, Renewal, Watch, Watched
from gateway.client.api import PAUSES, AdminClient, AdminError, Reply
from gateway.client.exits import Exit
from gateway.client.link import Link, parse_admin
from tests.cli.fake_admin import TOKEN, FakeAdmin, Run
from tests.cli.release_answers import (
    DECISIONS,
    FINALIZED,
    GATE,
    HELD,
    PATH,
    ROLLED_BACK,
    Time,
    over,
    status,
)

CURRENT = "/v1/releases/current"
LEASE = {"seconds": 30.0, "left": 30.0, "on_lost": "rollback", "rests": False}


def seen(answer: dict[str, Any]) -> Reply[models.ReleaseStatus]:
    raw = json.dumps(answer, indent=1).encode()
    return Reply(models.ReleaseStatus.model_validate_json(raw), raw)


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.notes: list[str] = []

    def seen(self, reply: Reply[models.ReleaseStatus]) -> None:
        self.states.append(reply.value.state)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass


class Stage:
    """A watch of the fake admin API under a time of its own."""

    def __init__(self, admin: FakeAdmin, url: str = "") -> None:
        self.link = Link(address=parse_admin(url or admin.url), token=TOKEN)
        self.time = Time()
        self.told = Told()
        self.watched = Watched()

    async def watch(self, *, ident: str = "current", timeout: float | None = None) -> Exit:
        async with AdminClient(self.link, sleep=self.time.sleep) as client:
            watch = Watch(client, self.told, self.time.times, timeout)
            return await watch.until_over(ident, self.watched)


@pytest.fixture
def stage(admin: FakeAdmin) -> Stage:
    return Stage(admin)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Commands whose naps take no time."""
    time = Time()
    monkeypatch.setattr(release_follow, "REAL", time.times)
    return time


# --- how it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FINALIZED, Exit.DONE),
        (ROLLED_BACK, Exit.ROLLED_BACK),
        (over("aborted"), Exit.ROLLED_BACK),
        (HELD, Exit.HELD),
    ],
)
async def test_it_is_watched_each_second_until_it_is_over_or_held(
    admin: FakeAdmin, stage: Stage, answer: dict[str, Any], expected: Exit
) -> None:
    admin.answer("GET", CURRENT, status("validating", step=0, weight=0.0))
    for state in ("stepping", "paused", "stepping", "baking", "rolling_back"):
        admin.answer("GET", PATH, status(state))
    admin.answer("GET", PATH, answer)
    assert await stage.watch() == expected
    assert stage.time.naps == [1.0] * 6
    assert stage.told.states[-1] == answer["state"]


async def test_what_was_current_is_watched_by_its_id(admin: FakeAdmin, stage: Stage) -> None:
    admin.answer("GET", CURRENT, status())
    admin.answer("GET", PATH, FINALIZED)
    await stage.watch()
    assert [asked.path for asked in admin.asked] == [CURRENT, PATH]


async def test_the_wait_runs_out(admin: FakeAdmin, stage: Stage) -> None:
    admin.answer("GET", PATH, status())
    assert await stage.watch(ident="r-41", timeout=4.5) == Exit.WAIT_RAN_OUT
    assert stage.time.naps == [1.0, 1.0, 1.0, 1.0, 0.5]


async def test_an_unknown_release_is_told_at_once(admin: FakeAdmin, stage: Stage) -> None:
    admin.problem("GET", PATH, 404, "unknown-release", detail="there is no r-41")
    with pytest.raises(AdminError, match="there is no r-41"):
        await stage.watch(ident="r-41")
    assert stage.time.naps == []


# --- a gateway that is away ---------------------------------------------------------------------


async def test_it_reconnects_within_a_minute(admin: FakeAdmin, stage: Stage) -> None:
    admin.answer("GET", PATH, status())
    admin.problem("GET", PATH, 503, "starting", detail="control has just begun")
    admin.answer("GET", PATH, FINALIZED)

    def break_off() -> None:
        if stage.time.now == 1.0:
            admin.breaks = 1000
        if len(stage.told.notes) == 4:
            admin.breaks = 0

    stage.time.then = break_off
    assert await stage.watch(ident="r-41") == Exit.DONE
    assert stage.told.states == ["stepping", "finalized"]
    trying = [note for note in stage.told.notes if "trying again" in note]
    assert len(trying) == 5
    assert "cannot reach the gateway" in trying[0]
    assert "control has just begun" in trying[-1]
    assert stage.told.notes[-1].startswith("the gateway answers again, after ")
    backoffs = [nap for nap in stage.time.naps if nap not in PAUSES]
    assert backoffs == [1.0, 0.5, 1.0, 2.0, 4.0, 5.0]


async def test_it_gives_up_after_a_minute(admin: FakeAdmin) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes it
        stage = Stage(admin, f"http://127.0.0.1:{held.getsockname()[1]}")
        with pytest.raises(
            AdminError, match="no answer for 1 m; the last try: cannot reach"
        ) as why:
            await stage.watch()
    assert why.value.kind == "unreachable"
    assert RECONNECT <= stage.time.now < RECONNECT + 1
    assert max(stage.time.naps) == 5.0


async def test_a_minute_is_counted_anew_after_an_answer(admin: FakeAdmin, stage: Stage) -> None:
    for _ in range(2):
        for _ in range(11):
            admin.problem("GET", PATH, 500, "internal-error")
        admin.answer("GET", PATH, status())
    admin.answer("GET", PATH, FINALIZED)
    assert await stage.watch(ident="r-41") == Exit.DONE
    assert stage.time.now > RECONNECT


async def test_a_wait_may_run_out_while_the_gateway_is_away(admin: FakeAdmin, stage: Stage) -> None:
    admin.problem("GET", PATH, 503, "starting")
    assert await stage.watch(ident="r-41", timeout=10.0) == Exit.WAIT_RAN_OUT
    assert stage.time.now == 10.0


async def test_what_never_was_a_gateway_is_not_waited_for(admin: FakeAdmin, stage: Stage) -> None:
    admin.answer("GET", CURRENT, "a page", 200)
    with pytest.raises(AdminError, match="no gateway's admin API"):
        await stage.watch()
    admin.answers.clear()
    admin.answer("GET", CURRENT, status())
    admin.answer("GET", PATH, "the page of a proxy in front of it", 502)
    admin.answer("GET", PATH, FINALIZED)
    assert await stage.watch() == Exit.DONE


# --- the lease ----------------------------------------------------------------------------------


class OverError(Exception):
    """Ends a renewal that would go on for good."""


async def renewals(admin: FakeAdmin, seconds: float, until: float) -> tuple[list[float], list[str]]:
    """Keep a lease until a moment; return when it was renewed, and what was said."""
    stage = Stage(admin)
    when: list[float] = []

    def nap() -> None:
        if stage.time.now > until:
            raise OverError

    def renewed() -> dict[str, Any]:
        when.append(stage.time.now)
        return status()

    stage.time.then = nap
    admin.answer("POST", f"{PATH}/renew", renewed)
    lease = models.LeaseStatus(seconds=seconds, left=seconds, on_lost="rollback", rests=False)
    async with AdminClient(stage.link, sleep=stage.time.sleep) as client:
        renewal = Renewal(client, "r-41", lease, stage.told.note, stage.time.times)
        with pytest.raises(OverError):
            await renewal.keep()
    return when, stage.told.notes


@pytest.mark.parametrize(
    ("seconds", "expected"), [(6.0, [2.0, 4.0, 6.0]), (30.0, [10.0, 20.0]), (600.0, [10.0, 20.0])]
)
async def test_a_lease_is_renewed_three_times_over_and_at_least_each_ten_seconds(
    admin: FakeAdmin, seconds: float, expected: list[float]
) -> None:
    when, notes = await renewals(admin, seconds, until=expected[-1])
    assert when == expected
    assert notes == []
    assert json.loads(admin.asked[0].body) == {}
    assert "Idempotency-Key" not in admin.asked[0].headers


async def test_a_renewal_that_failed_is_tried_again_each_second(admin: FakeAdmin) -> None:
    for _ in range(3):
        admin.problem("POST", f"{PATH}/renew", 503, "starting", detail="control is away")
    when, notes = await renewals(admin, 30.0, until=25.0)
    assert when == [13.0, 23.0]
    assert notes == [
        "cannot renew the lease, 20 s left: control is away",
        "the lease is renewed again",
    ]


async def test_a_lease_that_ran_out_while_control_was_away_is_still_renewed(
    admin: FakeAdmin,
) -> None:
    for _ in range(9):
        admin.problem("POST", f"{PATH}/renew", 503, "starting", detail="control is away")
    when, notes = await renewals(admin, 6.0, until=12.0)
    assert when == [11.0]
    assert notes == [
        "cannot renew the lease, 4 s left: control is away",
        "the lease has run out here, which means a rollback; still trying",
        "the lease is renewed again",
    ]


async def test_a_lease_that_cannot_be_renewed_now_is_no_reason_to_stop(admin: FakeAdmin) -> None:
    admin.problem("POST", f"{PATH}/renew", 409, "release-paused")
    when, notes = await renewals(admin, 30.0, until=25.0)
    assert when == [20.0]
    assert notes == []


# --- what is told -------------------------------------------------------------------------------


def test_a_log_gets_a_line_for_each_change_and_one_in_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    time = Time()
    lines = Lines(time.clock, time.wall)
    for second in range(26):
        time.now = float(second)
        step = 1 if second < 14 else 2
        lines.seen(seen(status(step=step, gate=GATE | {"held": 40.0 + second})))
    out = capsys.readouterr().out.splitlines()
    assert [line[:22] for line in out] == [
        "12:03:04Z step 1/4 5 %",
        "12:03:14Z step 1/4 5 %",
        "12:03:18Z step 2/4 20 ",
        "12:03:28Z step 2/4 20 ",
    ]
    assert "held 50 s of 5 m" in out[1]
    assert HEARTBEAT == 10.0


def test_a_log_gets_the_evidence_of_a_sick_endpoint_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    time = Time()
    lines = Lines(time.clock, time.wall)
    sick = status("validating", step=0, pools=ROLLED_BACK["pools"])
    for second in range(12):
        time.now = float(second)
        lines.seen(seen(sick))
    lines.seen(seen(status()))
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4  # two lines of the same, one ailment, one step
    assert "\x1b" not in "".join(out)
    assert r"is down: L2 503 status 503, expected 200 'boot\x1b[2Jing'" in out[1]


def test_documents_are_one_line_each_and_the_last_is_the_last_that_was_seen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    documents = Documents()
    for requests in (130, 131, 132):
        documents.seen(seen(status(gate=GATE | {"requests": requests}, news="of a later version")))
    documents.seen(seen(status(step=2)))
    documents.seen(seen(status(step=2, gate=GATE | {"requests": 140})))
    documents.close()
    documents.close()
    read = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["step"], each["gate"]["requests"]) for each in read] == [
        (1, 130), (2, 132), (2, 140)
    ]  # fmt: skip
    assert read[0]["news"] == "of a later version"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def look_at(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in standard output's place: in the test, its capture comes after fixtures."""
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "50")
    monkeypatch.delenv("CI", raising=False)
    return stream


def test_a_terminal_gets_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = look_at(monkeypatch)
    time = Time()
    reporter = for_people(time.clock, time.wall)
    assert isinstance(reporter, Picture)
    scopes = status()["scopes"]
    lease = LEASE | {"left": 20.0}
    reporter.seen(seen(status(pools=ROLLED_BACK["pools"], lease=lease, scopes=scopes)))
    reporter.note("cannot reach\x1b[2J the gateway")
    reporter.close()
    text = terminal.getvalue()
    for words in ("release r-41 (1.9.0)", "40 s of 5 m, 4 m 20 s left", "132 (at least 100)",
                  "41 (at least 5)", "0.3/500", "120 ms", "no verdict", "20 s left of 30 s",
                  "4 m 20 s of its hold", "may pass in 4 m 20 s", "expected 200",
                  "12:03:04Z cannot", "━"):  # fmt: skip
        assert words in text
    assert r"cannot reach\x1b[2J" in text
    assert "\x1b[2J" not in text


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb"), ("TERM", "")])
def test_a_runner_that_looks_like_a_terminal_gets_lines(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    look_at(monkeypatch)
    monkeypatch.setenv(name, value)
    time = Time()
    assert isinstance(for_people(time.clock, time.wall), Lines)


# --- whole commands -----------------------------------------------------------------------------


async def test_a_finalized_release_ends_with_0_and_says_so(
    admin: FakeAdmin, gateway: Run, no_waiting: Time
) -> None:
    admin.answer("GET", CURRENT, status())
    admin.answer("GET", PATH, FINALIZED)
    ended = await gateway("release", "watch")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.splitlines()[0].startswith("12:03:04Z step 1/4 5 % · held 40 s of 5 m")
    assert ended.out.splitlines()[-1] == "Release r-41 (1.9.0) is finalized after 35 m: ivor."
    assert no_waiting.naps == [1.0]


async def test_a_rolled_back_release_ends_with_1_and_all_that_is_known(
    admin: FakeAdmin, gateway: Run
) -> None:
    admin.answer("GET", PATH, ROLLED_BACK)
    admin.answer("GET", f"{PATH}/decisions", DECISIONS)
    ended = await gateway("release", "watch", "r-41")
    assert ended.code == 1
    for words in ("was rolled back at step 1/4 5 %, 47 s after it began",
                  "fails more often than stable (regression)", "12 of 140 failed (8.57 %)",
                  "812, rolled back at 500", "503, expected 200", "everything is on stable",
                  r"12:03:51Z roll back: the candidate of ivor fails more often\nthan stable",
                  "gateway release explain r-41"):  # fmt: skip
        assert words in ended.err
    assert "\x1b" not in ended.out + ended.err


async def test_a_held_release_ends_with_5_also_where_its_ledger_cannot_be_had(
    admin: FakeAdmin, gateway: Run
) -> None:
    admin.answer("GET", PATH, HELD)
    admin.problem("GET", f"{PATH}/decisions", 500, "internal-error")
    ended = await gateway("release", "watch", "r-41")
    assert ended.code == 5
    assert "is held at step 1/4" in ended.err
    assert "gateway release resume r-41" in ended.err
    assert "last decisions" not in ended.err


async def test_a_wait_that_ran_out_ends_with_6_and_says_that_the_release_goes_on(
    admin: FakeAdmin, gateway: Run, no_waiting: Time
) -> None:
    admin.answer("GET", PATH, status())
    ended = await gateway("release", "watch", "r-41", "--timeout", "3s")
    assert ended.code == 6
    assert no_waiting.now == 3.0
    for words in ("the wait ran out", "last seen at: step 1/4 5 %", "it goes on by itself",
                  "gateway release watch r-41", "gateway release abort r-41"):  # fmt: skip
        assert words in ended.err


async def test_a_gateway_that_stays_away_ends_with_3(
    admin: FakeAdmin, gateway: Run, no_waiting: Time
) -> None:
    admin.answer("GET", PATH, status(lease=LEASE))
    admin.problem("GET", PATH, 503, "starting", detail="control is away")
    ended = await gateway("release", "watch", "r-41")
    assert ended.code == 3
    assert no_waiting.now >= RECONNECT
    assert "control is away; trying again for 1 m" in ended.err
    assert "no answer for 1 m; the last try: control is away" in ended.err
    assert "as long as its lease is renewed; else it is rolled back" in ended.err


async def test_json_is_a_document_per_change_and_words_go_to_stderr(
    admin: FakeAdmin, gateway: Run, no_waiting: Time
) -> None:
    del no_waiting
    admin.answer("GET", PATH, status())
    admin.answer("GET", PATH, status(gate=GATE | {"requests": 133}))
    admin.answer("GET", PATH, ROLLED_BACK)
    admin.answer("GET", f"{PATH}/decisions", DECISIONS)
    ended = await gateway("release", "watch", "r-41", "--json")
    assert ended.code == 1
    read = [json.loads(line) for line in ended.out.splitlines()]
    assert [each["state"] for each in read] == ["stepping", "rolled_back"]
    assert read[-1] == ROLLED_BACK
    assert "was rolled back" in ended.err


def beginning(**changes: Any) -> dict[str, Any]:
    return status("validating", step=0, weight=0.0, changed=True, **changes)


async def test_start_and_wait_renews_until_it_is_over(
    admin: FakeAdmin, gateway: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_watch, "INTERVAL", 0.01)

    def look() -> dict[str, Any]:
        renewed = sum(asked.path == f"{PATH}/renew" for asked in admin.asked)
        return FINALIZED if renewed >= 2 else status()

    admin.answer("POST", "/v1/releases", beginning(lease=LEASE | {"seconds": 0.06}), 201)
    admin.answer("GET", PATH, look)
    admin.answer("POST", f"{PATH}/renew", status())
    ended = await gateway("release", "start", "--version", "1.9.0", "--lease", "1s", "--wait")
    assert ended.code == 0
    assert ended.out.splitlines()[0] == (
        "Release r-41 (1.9.0) of ivor has begun: 5 % for 5 m, 20 % for 5 m or less, "
        "50 % for 5 m, 100 % for 5 m; lease 60 ms, lost: rollback."
    )
    assert ended.out.splitlines()[-1].startswith("Release r-41 (1.9.0) is finalized")
    assert CURRENT not in [asked.path for asked in admin.asked]


async def test_start_and_wait_without_a_lease_renews_nothing(
    admin: FakeAdmin, gateway: Run, no_waiting: Time
) -> None:
    admin.answer("POST", "/v1/releases", beginning(), 201)
    admin.answer("GET", PATH, status())
    admin.answer("GET", PATH, ROLLED_BACK)
    admin.answer("GET", f"{PATH}/decisions", DECISIONS)
    ended = await gateway("release", "start", "--wait", "--json")
    assert ended.code == 1
    states = [json.loads(line)["state"] for line in ended.out.splitlines()]
    assert states == ["validating", "stepping", "rolled_back"]
    assert not [asked for asked in admin.asked if asked.path.endswith("/renew")]
    assert no_waiting.naps == [1.0]


async def test_a_start_that_is_refused_ends_with_4_and_watches_nothing(
    admin: FakeAdmin, gateway: Run
) -> None:
    admin.problem("POST", "/v1/releases", 409, "release-running", detail="r-40 runs")
    ended = await gateway("release", "start", "--wait")
    assert ended.code == 4
    assert ended.err == "gateway: r-40 runs (409 release-running)\n"
    assert len(admin.asked) == 1


async def test_a_wait_that_ran_out_says_what_becomes_of_the_lease(
    admin: FakeAdmin, gateway: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_watch, "INTERVAL", 0.01)
    admin.answer("POST", "/v1/releases", beginning(lease=LEASE), 201)
    admin.answer("GET", PATH, status(lease=LEASE))
    ended = await gateway("release", "start", "--wait", "--timeout", "50ms")
    assert ended.code == 6
    assert "no longer renewed from here: within 30 s it is rolled back" in ended.err


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_the_release_alone_and_says_so(
    admin: FakeAdmin, gateway: Run, kill: signal.Signals
) -> None:
    del gateway  # only its environment
    admin.answer("POST", "/v1/releases", beginning(lease=LEASE), 201)
    admin.answer("GET", PATH, status(lease=LEASE))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "release", "start", "--wait",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert (await process.stdout.readline()).startswith(b"Release r-41")
        assert b"step 1/4 5 %" in await process.stdout.readline()
        process.send_signal(kill)
        _, err = await process.communicate()
    assert process.returncode == 130
    said = err.decode()
    assert said.startswith("gateway: interrupted\n")
    assert "within 30 s it is rolled back" in said
    assert "Traceback" not in said
    assert {(asked.method, asked.path) for asked in admin.asked} <= {
        ("POST", "/v1/releases"), ("GET", PATH), ("POST", f"{PATH}/renew")
    }  # fmt: skip
