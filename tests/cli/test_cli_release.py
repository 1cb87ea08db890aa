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
    FINALIZED,
    GATE,
    HELD,
    PATH,
    POOL,
    ROLLED_BACK,
    SICK,
    side,
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
        (["--lease", "200h"], "expected 1s up to 99m"),
        (["--lease", "soon"], "expected 1s up to 99m"),
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


HALF = "taken back by demo; not rolled back: events: green has no endpoint that could serve"


@pytest.mark.parametrize(
    ("because", "said"),
    [
        (HALF, "stays as it was: events: green has no endpoint that could serve"),
        ("taken back by demo", "because: taken back by demo"),
    ],
)
async def test_an_abort_that_could_not_be_done_wholly_ends_with_4_and_says_what_stays(
    admin: FakeAdmin, gateway: Run, because: str, said: str
) -> None:
    held = answer("held", because=because, applied_in_ms=3.26)
    admin.answer("POST", f"{CURRENT}/abort", held)
    ended = await gateway("release", "abort")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err.splitlines() == [
        "gateway: release r-41 (1.9.0) could not be taken back wholly: it is held at step 1/4 5 %",
        f"gateway:   {said}",
        "gateway:   it goes back by itself as soon as its stable can serve",
        "gateway:   take it back all the same: gateway release abort r-41 --force",
    ]
    programs = await gateway("release", "abort", "--json")
    assert (programs.code, json.loads(programs.out)) == (4, held)


@pytest.mark.parametrize("verb", ["show", "watch", "explain"])
async def test_before_the_first_release_there_is_none_to_look_at(
    admin: FakeAdmin, gateway: Run, verb: str
) -> None:
    for path in (CURRENT, PATH):
        admin.problem("GET", path, 404, "unknown-release", detail="there is no release")
    ended = await gateway("release", verb)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("There has been no release yet")
    programs = await gateway("release", verb, "--json")
    assert (programs.code, json.loads(programs.out)) == (0, None)
    assert (await gateway("release", verb, "r-41")).code == 4  # one that was named is another thing


async def test_services_are_told_once(admin: FakeAdmin, gateway: Run) -> None:
    parts = [{"service": name, "type": "x", "detail": "at 5 %"} for name in ("ivor", "events")]
    listed = "traffic is split by hand: ivor is at 5 %, events is at 5 %"
    admin.problem("POST", "/v1/releases", 409, "split-in-force", detail=listed, services=parts,
                  hint="PUT /v1/traffic to 0, finalize it, or roll back first")  # fmt: skip
    assert (await gateway("release", "start")).err.splitlines() == [
        "gateway: traffic is split by hand (409 split-in-force)",
        "gateway:   ivor: at 5 %",
        "gateway:   events: at 5 %",
        "gateway:   `gateway traffic set 0`, finalize it, or roll back first",
    ]


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
                  "4 m 20 s of its hold", "outlook: may pass in 4 m 20 s"):  # fmt: skip
        assert words in ended.out
    assert "\x1b" not in ended.out


async def test_show_of_one_that_is_over_ends_with_0(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("GET", PATH, ROLLED_BACK)
    ended = await gateway("release", "show", "r-41")
    assert ended.code == 0
    assert "because: the candidate of ivor fails more often than stable (regression)" in ended.out


async def shown(admin: FakeAdmin, gateway: Run, release: dict[str, Any]) -> str:
    admin.answer("GET", CURRENT, release)
    return (await gateway("release", "show")).out


async def test_show_of_one_that_is_through_has_no_doubts(admin: FakeAdmin, gateway: Run) -> None:
    out = await shown(admin, gateway, FINALIZED)
    for words in ("100 %", "nothing against it", "nothing spoke against it"):
        assert words in out
    for words in ("no verdict", "inconclusive", "health"):
        assert words not in out


async def test_show_of_validating_has_only_what_that_waits_for(
    admin: FakeAdmin, gateway: Run
) -> None:
    waits = ["0 of 100 requests of the candidate", "probes: ivor-green-7-0: L2: status 503"]
    early = status("validating", step=0, weight=0.0, gate=GATE | {"waits": waits})
    out = await shown(admin, gateway, early)
    assert "  ivor-green-7-0: L2: status 503" in out
    for words in ("requests", "clients", "hold", "verdict"):
        assert words not in out


async def test_show_says_first_that_everybody_is_on_stable_by_force(
    admin: FakeAdmin, gateway: Run
) -> None:
    waits = ["probes: `rollback --local` or on_control_lost has everybody on stable"]
    out = await shown(admin, gateway, status(gate=GATE | {"waits": waits}))
    assert out.startswith("everybody is on stable by force (`gateway rollback --local --undo`")


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


def scopes_row(ident: int, what: str, text: str = "", **scopes: Any) -> dict[str, Any]:
    """A row of the ledger, a second after the one before, with the numbers of some scopes."""
    named = {
        name.replace("whole", "*"): {
            "evidence": evidence,
            "threshold": 500.0,
            "leading": "errors" if evidence > 1 else "",
            "failures": {"candidate": failed, "stable": 0},
            "candidate": {"requests": 140, "failed": failed, "p50_ms": 20.0, "p95_ms": 120.0},
            "stable": {"requests": 2600, "failed": 3},
        }
        for name, (evidence, failed) in scopes.items()
    }
    gate = {"held": 40.0, "hold": 300.0, "waits": []}
    return {
        "id": ident,
        "at": BEGAN + ident,
        "what": what,
        "state": "finalized" if what == "ended" else "stepping",
        "step": 1,
        "weight": 0.0 if what == "ended" else 5.0,
        "text": text,
        "numbers": {"scopes": named, "gate": gate},
    }


async def explained(
    admin: FakeAdmin, gateway: Run, shown: dict[str, Any], rows: list[dict[str, Any]], *more: str
) -> list[str]:
    admin.answer("GET", CURRENT, shown)
    admin.answer("GET", f"{PATH}/decisions", {"release": "r-41", "decisions": rows})
    ended = await gateway("release", "explain", *more)
    assert ended.code == 0
    return ended.out.splitlines()


async def test_explain_tells_each_decision_in_a_line(admin: FakeAdmin, gateway: Run) -> None:
    lines = await explained(admin, gateway, ROLLED_BACK, DECISIONS["decisions"])
    figures = (
        "candidate 12 of 140 failed (8.57 %), p95 2100 ms; "
        "stable 3 of 2600 failed (0.12 %), p95 110 ms"
    )
    rolled_back = r"roll back: the candidate of ivor fails more often\nthan stable"
    assert lines == [
        "Release r-41 (1.9.0) of ivor",
        "  began 2025-11-25 12:03:04Z by pipeline",
        "  plan: 5 % for 5 m, 20 % for 5 m or less, 50 % for 5 m, 100 % for 5 m; finalize: auto",
        "  a healthy release is taken back with a chance of 1 % at most",
        "  ivor: green generation 7 against generation 6",
        "",
        "2025-11-25 12:03:04Z       -  start",
        f"2025-11-25 12:03:51Z     5 %  {rolled_back}",
        "",
        "What the tests say",
        f"  all services: evidence 812 of 500, most of it from errors; {figures}",
        "    regression fails: 12 against 3 failures",
        "",
        lines[-1],
    ]
    assert lines[-1].startswith("It is over: rolled back at step 1/4 5 %")


async def test_explain_in_full_has_every_number(admin: FakeAdmin, gateway: Run) -> None:
    lines = await explained(admin, gateway, ROLLED_BACK, DECISIONS["decisions"], "-v")
    at = lines.index("2025-11-25 12:03:51Z  roll back  (rolling back, step 1 5 %)")
    assert lines[at + 1 : at + 4] == [
        r"  the candidate of ivor fails more often\nthan stable",
        "    evidence 812.4 · threshold 500 · quick yes · stable p99 none · steps 5, 20",
        "    ivor, candidate: requests 140 · failed 12",
    ]
    for words in ("What each test can say at this traffic", "  all services: fail",
                  "    regression  fail: 12 against 3 failures",
                  "    evidence  812 of 500, most of it from errors"):  # fmt: skip
        assert words in lines


async def test_explain_has_only_scopes_that_say_something_and_none_twice(
    admin: FakeAdmin, gateway: Run
) -> None:
    quiet, loud, better = (0.9, 0), (40.0, 6), (0.2, 1)
    rows = [
        scopes_row(1, "evaluation", "held 40 s of 300 s", ivor=quiet, events=loud, agenda=better),
        scopes_row(2, "evaluation", "passes", ivor=quiet, events=loud, agenda=(0.1, 1)),
        scopes_row(3, "rolling_back", "why", ivor=quiet, events=loud, agenda=(0.1, 1)),
    ]
    lines = await explained(admin, gateway, ROLLED_BACK, rows)
    told = [line.strip().partition(":")[0] for line in lines if line.startswith("    ")]
    assert told[:4] == ["events", "agenda", "agenda", "ivor"]
    events = next(line for line in lines if line.startswith("    events"))
    assert events == (
        "    events: evidence 40 of 500, most of it from errors; candidate 6 of 140 failed "
        "(4.29 %), p95 120 ms; stable 3 of 2600 failed (0.12 %)"
    )
    assert "2025-11-25 12:03:05Z     5 %  evaluation: held 40 s of 5 m" in lines
    text = "\n".join(lines)
    assert "scopes," not in text
    assert "leading" not in text


async def test_explain_folds_an_evaluation_into_the_step_that_came_of_it(
    admin: FakeAdmin, gateway: Run
) -> None:
    same, other = (0.9, 0), (0.8, 0)
    rows = [
        scopes_row(1, "evaluation", "one", ivor=other),
        scopes_row(2, "evaluation", "two", ivor=same),
        scopes_row(3, "step", "three", ivor=same),
        scopes_row(4, "evaluation", "four", ivor=other),
        scopes_row(5, "step", "five", ivor=same),
    ]
    short = "\n".join(await explained(admin, gateway, status(), rows))
    full = "\n".join(await explained(admin, gateway, status(), rows, "--verbose"))
    assert [word for word in ("one", "two", "three", "four", "five") if f": {word}" in short] == [
        "one", "three", "four", "five",
    ]  # fmt: skip
    assert "  two\n" in full


async def test_explain_of_a_release_that_is_through_is_short_and_has_no_doubt(
    admin: FakeAdmin, gateway: Run
) -> None:
    names = [f"service-{n}" for n in range(12)]
    quiet = {**status()["scopes"][0], "candidate": side(140, 0), "stable": side(2600, 0)}
    shown = FINALIZED | {
        "services": names,
        "pools": [POOL | {"service": name} for name in names],
        "scopes": [{**quiet, "scope": name} for name in ["*", *names]],
    }
    scopes = dict.fromkeys(["whole", *names], (0.9, 0))
    rows = [scopes_row(n, "evaluation", "passes", **scopes) for n in range(1, 9)]
    rows.append(scopes_row(9, "ended", "the candidate is stable now", **scopes))
    lines = await explained(admin, gateway, shown, rows)
    assert len(lines) < 50
    text = "\n".join(lines)
    assert lines[0] == "Release r-41 (1.9.0) of 12 services"
    assert "   100 %  ended: the candidate is stable now" in text
    assert lines[-1] == "It is over: finalized, the build has 100 %; nothing spoke against it."
    for words in ("inconclusive", "no verdict", " 0 %  ended"):
        assert words not in text
    full = "\n".join(await explained(admin, gateway, shown, rows, "-v"))
    assert "inconclusive" not in full
    assert "nothing spoke against it" in full


async def test_explain_of_a_running_one_says_who_cannot_speak_and_what_comes_next(
    admin: FakeAdmin, gateway: Run
) -> None:
    one = {**status()["scopes"][0], "cold": True}
    scopes = [one, *({**one, "scope": f"s{n}"} for n in range(3))]
    shown = status(scopes=scopes, outlook={"text": "a verdict in about 180 s"})
    lines = await explained(admin, gateway, shown, [])
    for words in ("No decision was made yet.", "  latency cannot speak of 4 scopes: stable is cold",
                  "  4 m 20 s of its hold", "Outlook: a verdict in about 3 m"):  # fmt: skip
        assert words in lines
    assert lines[-4].startswith("Now: step 1/4 5 %")
    assert "of its hold" not in lines[-4]  # it stands below
    full = await explained(admin, gateway, shown, [], "-v")
    assert "    latency     cannot speak: stable is cold" in full
    assert "    stable has no history of latencies: only the fixed limit is tested" in full


async def test_explain_says_once_what_is_true_of_many(admin: FakeAdmin, gateway: Run) -> None:
    def silent(name: str) -> dict[str, Any]:
        text = f"critical_down: {name} is not critical"
        test = {"name": "critical_down", "speaks": False, "verdict": "inconclusive", "text": text}
        return {**status()["scopes"][0], "scope": name, "tests": [test]}

    lines = await explained(admin, gateway, status(scopes=[silent("ivor"), silent("events")]), [])
    assert "  critical_down cannot speak of ivor, events: it is not critical" in lines


@pytest.mark.parametrize("arguments", [[], ["--verbose"]])
async def test_explain_keeps_control_characters_from_the_terminal(
    admin: FakeAdmin, gateway: Run, arguments: list[str]
) -> None:
    evil = "\x1b[2J\r\u202e"
    rows = [{**DECISIONS["decisions"][0], "text": evil, "what": evil, "numbers": {evil: evil}}]
    admin.answer("GET", CURRENT, HELD | {"because": evil, "actor": evil, "reason": evil})
    admin.answer("GET", f"{PATH}/decisions", {"release": "r-41", "decisions": rows})
    ended = await gateway("release", "explain", *arguments)
    assert ended.code == 0
    assert not {"\x1b", "\r", "\u202e"} & set(ended.out)
    assert ended.out.count(r"\x1b[2J\r\u202e") >= 4


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
