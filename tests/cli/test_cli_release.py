"""The verbs of ``gateway release`` but for watching: what they ask, print and refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.client.api import AdminClient
from gateway.client.link import Link, parse_admin
from tests.cli.fake_admin import TOKEN, FakeAdmin, Run
from tests.cli.release_answers import (
    BEGAN,
    DECISIONS,
    FAILED_SCOPE,
    GATE,
    HELD,
    PATH,
    POOL,
    ROLLED_BACK,
    SICK,
    status,
)

CURRENT = "/v1/releases/current"
LEASE = {"seconds": 30.0, "left": 12.0, "on_lost": "hold", "rests": False}


def answer(state: str = "stepping", **changes: Any) -> dict[str, Any]:
    return status(state, changed=True, **changes)


def sent(admin: FakeAdmin) -> Any:
    return json.loads(admin.asked[-1].body)


# --- start --------------------------------------------------------------------------------------


async def test_start_asks_for_what_was_said(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("POST", "/v1/releases", answer("validating", step=0, weight=0.0), 201)
    ended = await gateway(
        "release", "start", "--service", "ivor", "--service", "events", "--version", "1.9.0",
        "--pool", "ivor=7", "--pool", "events=3", "--step", "5%:30s", "--step", "20:10m:early",
        "--step", "100:2h", "--lease", "60s", "--on-lease-lost", "hold", "--finalize", "manual",
        "--forward-only", "--reason", "a new search", "--force",
    )  # fmt: skip
    assert ended.code == 0
    assert sent(admin) == {
        "services": ["ivor", "events"],
        "version": "1.9.0",
        "pools": {"ivor": 7, "events": 3},
        "steps": [
            {"weight": 5.0, "hold": "30s", "early": False},
            {"weight": 20.0, "hold": "10m", "early": True},
            {"weight": 100.0, "hold": "2h", "early": False},
        ],
        "lease": "60s",
        "on_lease_lost": "hold",
        "finalize": "manual",
        "forward_only": True,
        "force": True,
        "reason": "a new search",
    }
    assert "Idempotency-Key" in admin.asked[-1].headers
    assert "Release r-41 (1.9.0) of ivor has begun: 5 % for 5 m, 20 % for 5 m or less" in ended.out
    assert "gateway release watch r-41" in ended.out


@pytest.mark.parametrize(
    ("arguments", "body"), [([], {}), (["--no-forward-only"], {"forward_only": False})]
)
async def test_start_leaves_to_the_configuration_what_was_not_said(
    admin: FakeAdmin, gateway: Run, arguments: list[str], body: dict[str, Any]
) -> None:
    admin.answer("POST", "/v1/releases", answer(), 201)
    assert (await gateway("release", "start", *arguments)).code == 0
    assert sent(admin) == body


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--step", "5"], "expected WEIGHT:HOLD"),
        (["--step", "5:5m:soon"], "expected WEIGHT:HOLD"),
        (["--step", "5:5m:"], "expected WEIGHT:HOLD"),
        (["--step", "101:5m"], "expected 0 to 100"),
        (["--step", "5:5"], "expected a duration"),
        (["--step", "5:9999999m"], "hold"),
        (["--step", "5:5m"], "the last step is 5, expected 100"),
        (["--step", "20:5m", "--step", "5:5m", "--step", "100:5m"], "5 follows 20"),
        (["--pool", "ivor"], "expected SERVICE=GENERATION"),
        (["--pool", "ivor=x"], "expected SERVICE=GENERATION"),
        (["--pool", "ivor=0"], "pools.ivor"),
        (["--pool", "ivor=1", "--pool", "ivor=2"], "named twice"),
        (["--lease", "2d"], "lease"),
        (["--lease", "soon"], "expected a duration"),
        (["--service", "a/b"], "services.0"),
        (["--on-lease-lost", "cry"], "'rollback', 'hold'"),
        (["--timeout", "5m"], "--timeout goes with --wait"),
        (["--version", "x" * 201], "version"),
        (["r-41"], "unexpected extra argument"),
    ],
)
async def test_wrong_usage_of_start_ends_with_2_and_asks_nothing(
    admin: FakeAdmin, gateway: Run, arguments: list[str], said: str
) -> None:
    ended = await gateway("release", "start", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert admin.asked == []


@pytest.mark.parametrize(
    ("code", "kind", "more", "said"),
    [
        (409, "release-running", {"detail": "r-40 is running"}, "r-40 is running"),
        (412, "stale-generation", {"field": "pools.ivor", "detail": "it is 8"}, "ivor: it is 8"),
        (409, "rolled-back-before", {"hint": "--force does it"}, "--force does it"),
        (
            409,
            "no-candidate",
            {"services": [{"service": "events", "type": "x", "detail": "has no green pool"}]},
            "events: has no green pool",
        ),
    ],
)
async def test_a_refused_start_ends_with_4_and_says_why(
    admin: FakeAdmin, gateway: Run, code: int, kind: str, more: dict[str, Any], said: str
) -> None:
    admin.problem("POST", "/v1/releases", code, kind, **more)
    ended = await gateway("release", "start")
    assert ended.code == 4
    assert said in ended.err
    assert kind in ended.err


# --- steering -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (["pause", "--reason", "look"], "current/pause", {"reason": "look"}),
        (["resume", "r-41"], "r-41/resume", {"reason": ""}),
        (["abort", "r-41", "--force"], "r-41/abort", {"reason": "", "force": True}),
        (["finalize"], "current/finalize", {"reason": ""}),
        (["promote"], "current/promote", {"to": None, "reason": "", "force": False}),
        (["promote", "--to", "50"], "current/promote",
         {"to": 50.0, "reason": "", "force": False}),
    ],
)  # fmt: skip
async def test_a_verb_steers_the_release_that_is_named_or_the_current_one(
    admin: FakeAdmin, gateway: Run, arguments: list[str], path: str, body: dict[str, Any]
) -> None:
    admin.answer("POST", f"/v1/releases/{path}", answer(applied_in_ms=3.26))
    ended = await gateway("release", *arguments)
    assert ended.code == 0
    assert sent(admin) == body
    # An abort is a rollback: it replays no old answer.
    assert ("Idempotency-Key" in admin.asked[-1].headers) is not path.endswith("/abort")
    assert ended.out.startswith("Release r-41 (1.9.0): step 1/4 5 % · ")
    assert ended.out.endswith("served by every worker after 3.3 ms\n")


async def test_a_verb_whose_work_is_done_says_so(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("POST", f"{CURRENT}/pause", status("paused", changed=False))
    ended = await gateway("release", "pause")
    assert ended.out.startswith("Nothing to change. Release r-41 (1.9.0): paused at step 1/4")


async def test_an_unknown_release_ends_with_4(admin: FakeAdmin, gateway: Run) -> None:
    admin.problem("POST", "/v1/releases/r-9/abort", 404, "unknown-release", detail="no r-9")
    ended = await gateway("release", "abort", "r-9")
    assert (ended.code, ended.err) == (4, "gateway: no r-9 (404 unknown-release)\n")


@pytest.mark.parametrize("arguments", [["promote", "--to", "101"], ["abort", "a", "b"], ["undo"]])
async def test_wrong_usage_of_a_verb_ends_with_2(
    admin: FakeAdmin, gateway: Run, arguments: list[str]
) -> None:
    assert (await gateway("release", *arguments)).code == 2
    assert admin.asked == []


async def test_an_id_stays_one_segment_of_the_path(admin: FakeAdmin) -> None:
    admin.answer("GET", "/v1/releases/../status?x", status())  # as the fake decodes it
    async with AdminClient(Link(address=parse_admin(admin.url), token=TOKEN)) as client:
        await client.release("../status?x")
    assert admin.asked[-1].query == {}


@pytest.mark.parametrize(
    ("lease", "said"),
    [
        (LEASE, "12 s until its lease is lost (then hold)"),
        (LEASE | {"rests": True}, "its lease of 30 s rests"),
        (None, "has no lease: nothing to renew"),
    ],
)
async def test_renew_says_how_long_the_lease_has(
    admin: FakeAdmin, gateway: Run, lease: dict[str, Any] | None, said: str
) -> None:
    admin.answer("POST", f"{PATH}/renew", answer(lease=lease))
    ended = await gateway("release", "renew", "r-41")
    assert ended.code == 0
    assert said in ended.out
    assert sent(admin) == {}
    assert "Idempotency-Key" not in admin.asked[-1].headers


# --- looking ------------------------------------------------------------------------------------

SUMMARY = {
    "id": "r-41",
    "version": "1.9.0\x1b[2J",
    "state": "rolled_back",
    "step": 1,
    "steps": 4,
    "weight": 0.0,
    "services": ["ivor", "events"],
    "began": BEGAN,
    "moved": BEGAN + 47.0,
    "actor": "pipeline",
    "because": "the candidate fails",
    "trigger": "regression",
}


async def test_list_shows_releases_and_the_way_to_older_ones(
    admin: FakeAdmin, gateway: Run
) -> None:
    admin.answer("GET", "/v1/releases", {"releases": [SUMMARY], "next": 17})
    ended = await gateway("release", "list", "--limit", "1", "--before", "18")
    assert ended.code == 0
    assert admin.asked[-1].query == {"limit": "1", "before": "18"}
    for words in ("r-41", r"1.9.0\x1b[2J", "rolled back", "1/4", "ivor, events",
                  "2025-11-25 12:03:04Z", "the candidate fails (regression)",
                  "gateway release list --before 17"):  # fmt: skip
        assert words in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--limit", "501"], ["--before", "0"]])
async def test_list_checks_its_page(gateway: Run, arguments: list[str]) -> None:
    assert (await gateway("release", "list", *arguments)).code == 2


async def test_show_has_the_whole_picture(admin: FakeAdmin, gateway: Run) -> None:
    shown = status(lease=LEASE, pools=[POOL | {"health": "down", "endpoints": [SICK]}])
    admin.answer("GET", CURRENT, shown)
    ended = await gateway("release", "show")
    assert ended.code == 0
    for words in ("release r-41 (1.9.0) of ivor: stepping, step 1/4 5 %", "40 s of 5 m",
                  "132 (at least 100)", "41 (at least 5)", "0.12 %", "110 ms", "0.3/500",
                  "12 s left of 30 s, lost: hold", r"503, expected 200 'boot\x1b[2Jing'",
                  "260 s of its hold", "outlook: may pass in 4 m 20 s"):  # fmt: skip
        assert words in ended.out
    assert "\x1b" not in ended.out


async def test_show_of_one_that_is_over_ends_with_0(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("GET", PATH, ROLLED_BACK)
    ended = await gateway("release", "show", "r-41")
    assert ended.code == 0
    assert "because: the candidate of ivor fails more often than stable (regression)" in ended.out


@pytest.mark.parametrize("verb", ["show", "explain", "list", "abort", "renew"])
async def test_json_is_the_answer_as_it_came(admin: FakeAdmin, gateway: Run, verb: str) -> None:
    news = {"news": "of a later version"}
    admin.answer("GET", CURRENT, status() | news)
    admin.answer("GET", f"{PATH}/decisions", DECISIONS | news)
    admin.answer("GET", "/v1/releases", {"releases": [SUMMARY]} | news)
    for name in ("abort", "renew"):
        admin.answer("POST", f"{CURRENT}/{name}", answer() | news)
    ended = await gateway("release", verb, "--json")
    expected = {"explain": DECISIONS, "list": {"releases": [SUMMARY]}, "show": status()}
    assert json.loads(ended.out) == expected.get(verb, answer()) | news


async def test_explain_tells_each_decision_with_its_numbers(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("GET", CURRENT, ROLLED_BACK)
    admin.answer("GET", f"{PATH}/decisions", DECISIONS)
    ended = await gateway("release", "explain")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[:5] == [
        "Release r-41 (1.9.0) of ivor",
        "  began 2025-11-25 12:03:04Z by pipeline",
        "  plan: 5 % for 5 m, 20 % for 5 m or less, 50 % for 5 m, 100 % for 5 m; finalize: auto",
        "  a healthy release is taken back with a chance of 1 % at most",
        "  ivor: green generation 7 against generation 6",
    ]
    at = lines.index("2025-11-25 12:03:51Z  roll back  (rolling back, step 1 5 %)")
    assert lines[at + 1 : at + 4] == [
        r"  the candidate of ivor fails more often\nthan stable",
        "    evidence 812.4 · threshold 500 · quick yes · stable p99 none · steps 5, 20",
        "    ivor, candidate: requests 140 · failed 12",
    ]
    for words in ("What each test can say at this traffic", "all services: fail",
                  "    regression  fail: 12 against 3 failures",
                  "812 of 500, most of it from errors",
                  "It is over: rolled back at step 1/4 5 %"):  # fmt: skip
        assert words in ended.out


async def test_explain_of_a_running_one_says_who_cannot_speak_and_what_comes_next(
    admin: FakeAdmin, gateway: Run
) -> None:
    scopes = [{**status()["scopes"][0], "cold": True}]
    admin.answer("GET", PATH, status(scopes=scopes, outlook={"text": "a verdict in about 3 m"}))
    admin.answer("GET", f"{PATH}/decisions", {"release": "r-41", "decisions": []})
    ended = await gateway("release", "explain", "r-41")
    for words in ("No decision was made yet.", "    latency     cannot speak: stable is cold",
                  "no history of latencies", "Now: step 1/4 5 %", "  260 s of its hold",
                  "Outlook: a verdict in about 3 m"):  # fmt: skip
        assert words in ended.out


async def test_explain_keeps_control_characters_from_the_terminal(
    admin: FakeAdmin, gateway: Run
) -> None:
    evil = "\x1b[2J\r\u202e"
    rows = [{**DECISIONS["decisions"][0], "text": evil, "what": evil, "numbers": {evil: evil}}]
    admin.answer("GET", CURRENT, HELD | {"because": evil, "actor": evil, "reason": evil})
    admin.answer("GET", f"{PATH}/decisions", {"release": "r-41", "decisions": rows})
    ended = await gateway("release", "explain")
    assert ended.code == 0
    assert not {"\x1b", "\r", "\u202e"} & set(ended.out)
    assert ended.out.count(r"\x1b[2J\r\u202e") >= 5


@pytest.mark.parametrize("verb", ["show", "watch", "pause"])
async def test_no_text_of_a_release_moves_the_cursor(
    admin: FakeAdmin, gateway: Run, verb: str
) -> None:
    evil = "\x1b[2J\r\u202e"
    test = {"name": evil, "speaks": True, "verdict": "fail", "text": evil}
    sick = {**SICK, "id": evil, "url": evil, "probes": [{**SICK["probes"][1], "detail": evil}]}
    shown = answer(
        "held",
        **dict.fromkeys(("version", "actor", "reason", "because", "trigger"), evil),
        services=[evil],
        scopes=[{**FAILED_SCOPE, "scope": evil, "leading": evil, "tests": [test]}],
        pools=[POOL | {"service": evil, "endpoints": [sick]}],
        gate=GATE | {"waits": [evil]},
        outlook={"text": evil},
    )
    rows = [{**DECISIONS["decisions"][0], "text": evil, "what": evil}]
    admin.answer("GET", CURRENT, shown)
    admin.answer("POST", f"{CURRENT}/pause", shown)
    admin.answer("GET", f"{PATH}/decisions", {"release": "r-41", "decisions": rows})
    ended = await gateway("release", verb)
    assert ended.code == (5 if verb == "watch" else 0)
    assert not {"\x1b", "\r", "\u202e"} & set(ended.out + ended.err)
    assert r"\x1b[2J\r\u202e" in ended.out


async def test_verbs_need_a_token(
    nowhere: object, gateway: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    del nowhere
    monkeypatch.delenv("GATEWAY_TOKEN")
    ended = await gateway("release", "watch")
    assert ended.code == 2
    assert "no token" in ended.err
