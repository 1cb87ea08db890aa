"""Each verb against a fake admin API: what it asks, prints and exits with."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gateway.policy import override
from tests.cli.fake_admin import FakeAdmin, Run

TRAFFIC: dict[str, object] = {
    "revision": 7,
    "mode": "split",
    "services": [
        {"name": "ivor", "stable": "blue", "candidate": "green", "weight": 20.0, "closed": []}
    ],
    "changed": True,
    "applied_in_ms": 3.25,
}
ENDPOINT = {
    "id": "ivor-green-2-0",
    "url": "http://127.0.0.1:3201",
    "health": "down",
    "in_flight": 3,
    "probes": [
        {
            "level": "L2",
            "ok": False,
            "status": 503,
            "detail": "status 503, expected 200",
            "duration_ms": 2.0,
            "age": 1.0,
            "body": "boot\x1b[2Jing",
        }
    ],
}
POOL = {
    "color": "green",
    "role": "candidate",
    "source": "api",
    "generation": 2,
    "endpoints": [ENDPOINT],
}
MAINTAINED: dict[str, object] = {
    "revision": 8,
    "mode": "stable",
    "services": [
        {
            "name": "ivor",
            "stable": "blue",
            "candidate": "green",
            "weight": 0.0,
            "maintenance": 7200.0,
        }
    ],
    "changed": True,
    "applied_in_ms": 2.0,
}
STATUS: dict[str, object] = {
    "version": "0.1.0",
    "traffic_revision": 7,
    "snapshot": 12,
    "mode": "split",
    "release": "r-41",
    "services": [
        {
            "name": "ivor",
            "stable": "blue",
            "candidate": "green",
            "weights": {"stable": 80.0, "candidate": 20.0},
            "pools": [POOL],
        }
    ],
    "processes": [
        {"role": "supervisor", "pid": 10, "uptime": 7500.0},
        {"role": "worker", "pid": 12, "uptime": 42.0, "slot": 1, "snapshot": 12},
    ],
}


def sent(admin: FakeAdmin) -> dict[str, object]:
    """The last request's JSON body."""
    body = json.loads(admin.asked[-1].body)
    assert isinstance(body, dict)
    return body


# --- status -------------------------------------------------------------------------------------


async def test_status_shows_services_pools_and_processes(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("GET", "/v1/status", STATUS)
    ended = await gateway("status")
    assert ended.code == 0
    for words in ("traffic revision 7", "blue 80 %", "green 20 %", "0/1 up, generation 2, api",
                  "3 in flight", "worker 1", "2 h", "r-41"):  # fmt: skip
        assert words in ended.out
    assert "no pool" in ended.out
    assert "\x1b" not in ended.out


async def test_status_verbose_shows_endpoints_with_their_last_probe(
    admin: FakeAdmin, gateway: Run
) -> None:
    admin.answer("GET", "/v1/status", STATUS)
    ended = await gateway("status", "-v")
    assert "ivor-green-2-0" in ended.out
    assert "L2 failed 1 s ago: status 503, expected 200" in ended.out
    assert "boot" in ended.out
    assert "\x1b" not in ended.out


async def test_status_verbose_shows_certificates(admin: FakeAdmin, gateway: Run) -> None:
    place = "listen[1].tls.certificates[0]"
    shown = {"place": place, "names": ["a.example", "b.example"], "expires": 1767225599}
    names = [f"{letter}.example" for letter in "abcde"]
    other = {**shown, "place": "admin.tls.certificates[0]", "names": names, "refused": True}
    nobody = {**shown, "place": "listen[2].tls.certificates[0]", "names": []}
    admin.answer("GET", "/v1/status", {**STATUS, "certificates": [shown, other, nobody]})
    ended = await gateway("status", "-v")
    one, two, three = (" ".join(row.split()) for row in ended.out.splitlines() if ".tls." in row)
    assert one == f"{place} a.example, b.example 2025-12-31 23:59Z served"
    assert "a.example, b.example, c.example and 2 more 2025" in two
    assert two.endswith("its files are refused")
    assert "no name" in three
    assert place not in (await gateway("status")).out


async def test_status_says_who_waits_for_whom(admin: FakeAdmin, gateway: Run) -> None:
    service = {
        **STATUS["services"][0],  # type: ignore[index]
        "depends_on": ["events", "stock"],
        "dependency_down": ["events"],
        "pools": [{**POOL, "waiting": ["events"]}],
    }
    admin.answer("GET", "/v1/status", {**STATUS, "services": [service]})
    ended = await gateway("status")
    assert ended.code == 0
    assert "waits for events" in ended.out
    assert "ivor: events, which it needs, is down" in ended.err


async def test_status_json_is_the_answer_as_it_came(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("GET", "/v1/status", {**STATUS, "news": "of a later version"})
    ended = await gateway("status", "--json")
    assert json.loads(ended.out) == {**STATUS, "news": "of a later version"}


async def test_status_says_on_stderr_what_somebody_should_look_at(
    admin: FakeAdmin, gateway: Run
) -> None:
    drift = {"service": "ivor", "field": "stable", "file": "blue", "store": "green"}
    admin.answer("GET", "/v1/status", {**STATUS, "forced_stable": True, "drift": [drift]})
    ended = await gateway("status")
    assert "forced to stable" in ended.err
    assert "ivor: stable is green by API, blue in the file" in ended.err


async def test_status_shows_who_is_left_alone(admin: FakeAdmin, gateway: Run) -> None:
    endpoints = [
        {**ENDPOINT, "health": "up", "breaker": breaker, "ejected": ejected}
        for breaker, ejected in (("closed", False), ("open", False), ("closed", True))
    ]
    service = {
        "name": "ivor",
        "stable": "blue",
        "candidate": "green",
        "weights": {"stable": 80.0, "candidate": 20.0},
        "pools": [{**POOL, "endpoints": endpoints}],
    }
    admin.answer("GET", "/v1/status", {**STATUS, "services": [service]})
    ended = await gateway("status", "-v")
    assert "3/3 up, 2 left alone, generation 2" in ended.out
    assert "closed, ejected" in ended.out


# --- breakers -----------------------------------------------------------------------------------

BREAKER = {
    "endpoint": "ivor-blue-1-0",
    "service": "ivor",
    "color": "blue",
    "role": "stable",
    "url": "http://127.0.0.1:3101",
    "state": "closed",
    "failures": 0,
    "openings": 3,
}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, " closed "),
        ({"state": "half_open"}, "half open"),
        ({"state": "forced_open"}, "open by hand"),
        ({"state": "open", "next_try": 12.3}, "open, tries in 12 s"),
        ({"state": "open", "next_try": 0.0}, "open, tries next"),
        ({"ejected": True, "ejected_for": 29.6}, "closed, ejected for 30 s"),
    ],
)
async def test_breakers_lists_each_with_its_state_in_words(
    admin: FakeAdmin, gateway: Run, more: dict[str, object], words: str
) -> None:
    admin.answer("GET", "/v1/breakers", {"breakers": [{**BREAKER, **more}]})
    ended = await gateway("breakers")
    assert ended.code == 0
    assert "ivor-blue-1-0" in ended.out
    assert words in ended.out


async def test_breakers_opens_and_resets_one(admin: FakeAdmin, gateway: Run) -> None:
    path = "/v1/breakers/ivor-blue-1-0"
    opened = {"breaker": {**BREAKER, "state": "forced_open"}, "changed": True}
    admin.answer("POST", f"{path}/open", opened)
    admin.answer("POST", f"{path}/reset", {"breaker": BREAKER, "changed": False})
    ended = await gateway("breakers", "open", "ivor-blue-1-0", "--force", "--reason", "its disk")
    assert (ended.code, sent(admin)) == (0, {"reason": "its disk", "force": True})
    assert "The breaker of ivor-blue-1-0 (http://127.0.0.1:3101) is open by hand." in ended.out
    assert admin.asked[-1].headers["Idempotency-Key"]
    ended = await gateway("breakers", "reset", "ivor-blue-1-0")
    assert (ended.code, sent(admin)) == (0, {"reason": ""})
    assert "is closed (it was so already)." in ended.out


async def test_the_last_endpoint_is_refused_with_what_to_do(admin: FakeAdmin, gateway: Run) -> None:
    admin.problem(
        "POST", "/v1/breakers/ivor-blue-1-0/open", 409, "last-endpoint",
        detail="no other endpoint", field="endpoint", hint="force opens it",
    )  # fmt: skip
    ended = await gateway("breakers", "open", "ivor-blue-1-0")
    assert ended.code == 4
    assert "409 last-endpoint" in ended.err
    assert "force opens it" in ended.err


async def test_options_of_the_list_do_not_get_lost_before_a_verb(
    admin: FakeAdmin, gateway: Run
) -> None:
    ended = await gateway("breakers", "--json", "reset", "ivor-blue-1-0")
    assert ended.code == 2
    assert "behind reset" in ended.err
    assert admin.asked == []


# --- traffic ------------------------------------------------------------------------------------


async def test_traffic_get_shows_each_services_shares(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("GET", "/v1/traffic", TRAFFIC)
    ended = await gateway("traffic", "get")
    assert ended.code == 0
    assert "80 %" in ended.out
    assert "20 %" in ended.out


async def test_traffic_set_asks_for_the_candidates_share(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("PUT", "/v1/traffic", TRAFFIC)
    ended = await gateway("traffic", "set", "20")
    assert ended.code == 0
    assert sent(admin)["candidate"] == 20
    assert "force" not in sent(admin)
    assert "served by every worker after 3.2 ms" in ended.out
    assert admin.asked[-1].headers["Idempotency-Key"]
    assert "If-Match" not in admin.asked[-1].headers


async def test_traffic_set_takes_all_its_options(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("PUT", "/v1/traffic", TRAFFIC)
    await gateway(
        "traffic", "set", "0.05 %", "--color", "green", "--service", "ivor", "--service", "events",
        "--reason", "a try", "--if-revision", "6", "--force",
    )  # fmt: skip
    assert sent(admin) == {
        "green": 0.05,
        "services": ["ivor", "events"],
        "reason": "a try",
        "force": True,
    }
    assert admin.asked[-1].headers["If-Match"] == '"6"'


@pytest.mark.parametrize("percent", ["101", "-1", "20.001", "a fifth", "1e1", "٢٠", ""])
async def test_a_percentage_that_is_none_is_wrong_usage(
    admin: FakeAdmin, gateway: Run, percent: str
) -> None:
    ended = await gateway("traffic", "set", "--", percent)
    assert ended.code == 2
    assert "0 to 100" in ended.err
    assert admin.asked == []


async def test_traffic_finalize_swaps(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("POST", "/v1/traffic/finalize", TRAFFIC)
    ended = await gateway("traffic", "finalize", "--service", "ivor", "--if-revision", "0")
    assert ended.code == 0
    assert sent(admin) == {"services": ["ivor"], "reason": ""}
    assert admin.asked[-1].headers["If-Match"] == '"0"'


async def test_a_refusal_says_what_where_and_what_to_do(admin: FakeAdmin, gateway: Run) -> None:
    admin.problem(
        "PUT", "/v1/traffic", 409, "candidate-unavailable",
        detail="ivor: green has no healthy endpoint", field="candidate",
        hint="force overrides", endpoints=[{**ENDPOINT, "probes": ENDPOINT["probes"]}],
    )  # fmt: skip
    ended = await gateway("traffic", "set", "20")
    assert ended.code == 4
    assert ended.out == ""
    assert "candidate: ivor: green has no healthy endpoint (409 candidate-unavailable)" in ended.err
    assert "force overrides" in ended.err
    assert "http://127.0.0.1:3201 is down: L2 503" in ended.err
    assert "\x1b" not in ended.err


# --- rollback and adopt -------------------------------------------------------------------------


async def test_rollback_needs_no_key_and_says_what_went_back(
    admin: FakeAdmin, gateway: Run
) -> None:
    admin.answer("POST", "/v1/rollback", {**TRAFFIC, "rolled_back": ["ivor"]})
    ended = await gateway("rollback", "--reason", "errors")
    assert ended.code == 0
    assert "Rolled back: ivor." in ended.out
    assert "Idempotency-Key" not in admin.asked[-1].headers
    assert sent(admin) == {"reason": "errors", "to": "stable", "services": None, "force": False}


async def test_a_rollback_that_leaves_a_service_exits_with_refused(
    admin: FakeAdmin, gateway: Run
) -> None:
    refused = {"service": "events", "type": "stable-unavailable", "detail": "blue is down"}
    answer = {**TRAFFIC, "rolled_back": ["ivor"], "refused": [refused], "persisted": False}
    admin.answer("POST", "/v1/rollback", answer)
    ended = await gateway("rollback")
    assert ended.code == 4
    assert "events stays as it was: blue is down" in ended.err
    assert "not on disk" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--local"],
        ["--undo"],
        ["--local", "--config", "nothing-here.yaml"],
        ["--local", "--config", "here.yaml", "--service", "ivor"],
        ["--local", "--config", "here.yaml", "--to", "previous"],
    ],
)
async def test_rollback_locally_wants_the_right_options(
    gateway: Run, nowhere: Path, arguments: list[str]
) -> None:
    (nowhere / "here.yaml").write_text("")
    assert (await gateway("rollback", *arguments)).code == 2


@pytest.mark.parametrize(("undo", "status"), [(False, 0), (True, 0), (False, 6)])
async def test_rollback_locally_needs_no_token_and_ends_as_it_went(
    gateway: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch, undo: bool, status: int
) -> None:
    asked: list[tuple[Path, bool]] = []

    def rollback_local(config: Path, lift: bool) -> int:
        asked.append((config, lift))
        return status

    monkeypatch.setattr("gateway.cli.rollback_local.rollback_local", rollback_local)
    monkeypatch.delenv("GATEWAY_TOKEN")
    (nowhere / "here.yaml").write_text("")
    ended = await gateway(
        "rollback", "--local", "--config", "here.yaml", *(["--undo"] if undo else [])
    )
    assert ended.code == status
    assert asked == [(Path("here.yaml"), undo)]


async def test_adopt_names_the_color(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("POST", "/v1/adopt", TRAFFIC)
    ended = await gateway("adopt", "green", "--reason", "the store was lost")
    assert ended.code == 0
    assert sent(admin) == {"color": "green", "services": None, "reason": "the store was lost"}


# --- pools --------------------------------------------------------------------------------------


async def test_pool_set_sends_the_new_build(admin: FakeAdmin, gateway: Run) -> None:
    path = "/v1/services/ivor/pools/candidate"
    admin.answer("PUT", path, {"service": "ivor", "pool": POOL, "changed": True})
    ended = await gateway(
        "pool", "set", "ivor", "candidate", "http://127.0.0.1:3201", "http://127.0.0.1:3202",
        "--wait", "90s", "--expect", '{"version": "2"}', "--reason", "build 2",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert sent(admin) == {
        "endpoints": ["http://127.0.0.1:3201", "http://127.0.0.1:3202"],
        "wait": "90s",
        "expect": {"json": {"version": "2"}},
        "reason": "build 2",
    }
    assert "generation 2" in ended.out


async def test_pool_set_without_waiting(admin: FakeAdmin, gateway: Run) -> None:
    path = "/v1/services/ivor/pools/green"
    admin.answer("PUT", path, {"service": "ivor", "pool": POOL, "changed": False})
    ended = await gateway("pool", "set", "ivor", "green", "http://127.0.0.1:1", "--wait", "0s")
    assert sent(admin)["wait"] is None
    assert "it was so already" in ended.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["pool", "set", "ivor", "green"],
        ["pool", "set", "ivor", "red", "http://x"],
        ["pool", "set", "ivor", "green", "http://x", "--wait", "soon"],
        ["pool", "set", "ivor", "green", "http://x", "--wait", "9h"],
        ["pool", "set", "ivor", "green", "http://x", "--expect", "{"],
        ["pool", "set", "ivor", "green", "http://x", "--expect", "[1]"],
        ["pool", "drain", "ivor", "green", "--timeout", "9h"],
        ["pool"],
        ["status", "extra"],
        ["audit", "--limit", "0"],
        ["nonsense"],
    ],
)
async def test_wrong_usage_is_2_and_asks_nothing(
    admin: FakeAdmin, gateway: Run, arguments: list[str]
) -> None:
    ended = await gateway(*arguments)
    assert ended.code == 2
    assert ended.err
    assert admin.asked == []


async def test_pool_reset_returns_to_the_file(admin: FakeAdmin, gateway: Run) -> None:
    path = "/v1/services/ivor/pools/green"
    admin.answer("DELETE", path, {"service": "ivor", "pool": POOL, "changed": True})
    assert (await gateway("pool", "reset", "ivor", "green", "--reason", "a & b")).code == 0
    assert admin.asked[-1].query == {"reason": "a & b"}


async def test_a_services_name_stays_one_segment(admin: FakeAdmin, gateway: Run) -> None:
    admin.problem("DELETE", "/v1/services/../audit/pools/green", 404, "not-found")
    await gateway("pool", "reset", "../audit", "green")
    assert admin.asked[-1].path == "/v1/services/../audit/pools/green"


async def test_a_build_that_stays_unhealthy_exits_with_6_and_its_last_words(
    admin: FakeAdmin, gateway: Run
) -> None:
    path = "/v1/services/ivor/pools/green"
    admin.problem("PUT", path, 409, "pool-unhealthy", detail="not healthy", endpoints=[ENDPOINT])
    ended = await gateway("pool", "set", "ivor", "green", "http://127.0.0.1:3201")
    assert ended.code == 6
    assert "L2 503 status 503, expected 200 'boot\\x1b[2Jing'" in ended.err


async def test_a_color_is_isolated_and_lifted(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("POST", "/v1/services/ivor/isolate", TRAFFIC)
    admin.answer("DELETE", "/v1/services/ivor/isolate", TRAFFIC)
    assert (await gateway("pool", "isolate", "ivor", "green", "--reason", "odd")).code == 0
    assert sent(admin) == {"color": "green", "reason": "odd", "force": False}
    assert (await gateway("pool", "lift", "ivor", "green")).code == 0
    assert admin.asked[-1].query == {"color": "green"}


async def test_isolate_is_a_verb_of_its_own(admin: FakeAdmin, gateway: Run) -> None:
    admin.answer("POST", "/v1/services/ivor/isolate", TRAFFIC)
    admin.answer("DELETE", "/v1/services/ivor/isolate", TRAFFIC)
    assert (await gateway("isolate", "ivor", "green", "--force")).code == 0
    assert sent(admin) == {"color": "green", "reason": "", "force": True}
    assert (await gateway("isolate", "ivor", "green", "--lift", "--reason", "well")).code == 0
    assert admin.asked[-1].query == {"color": "green", "reason": "well"}
    count = len(admin.asked)
    assert (await gateway("isolate", "ivor", "green", "--lift", "--force")).code == 2
    assert len(admin.asked) == count


async def test_maintenance_is_switched_on_and_off(admin: FakeAdmin, gateway: Run) -> None:
    path = "/v1/services/ivor/maintenance"
    admin.answer("POST", path, MAINTAINED)
    admin.answer("DELETE", path, TRAFFIC)
    ended = await gateway("maintenance", "on", "ivor", "--retry-after", "2h", "--reason", "disks")
    assert ended.code == 0
    assert sent(admin) == {"retry_after": "2h", "reason": "disks"}
    assert "maintenance" in ended.out
    assert "7200 s" in ended.out
    assert (await gateway("maintenance", "on", "ivor")).code == 0
    assert sent(admin)["retry_after"] == "5m"
    ended = await gateway("maintenance", "off", "ivor", "--reason", "done")
    assert ended.code == 0
    assert admin.asked[-1].query == {"reason": "done"}
    assert "maintenance" not in ended.out
    count = len(admin.asked)
    assert (await gateway("maintenance", "on", "ivor", "--retry-after", "soon")).code == 2
    assert len(admin.asked) == count


async def test_status_shows_states_maintenance_and_isolation(
    admin: FakeAdmin, gateway: Run
) -> None:
    service = {
        "name": "ivor", "stable": "blue", "candidate": "green", "state": "down",
        "maintenance": 300.0, "weights": {"stable": 100.0, "candidate": 0.0},
        "pools": [{**POOL, "closed": True, "isolated": True}],
    }  # fmt: skip
    admin.answer("GET", "/v1/status", {**STATUS, "platform": "read_only", "services": [service]})
    ended = await gateway("status")
    assert "platform read_only" in ended.out
    assert "down, maintenance (300 s)" in ended.out
    assert ", isolated" in ended.out


@pytest.mark.parametrize(
    ("stable_out", "candidate_out", "words"),
    [
        (True, False, ["blue 80 %, to green", "green 20 %"]),
        (False, True, ["blue 80 %", "green 20 %, to blue"]),
        (True, True, ["blue 80 %", "green 20 %"]),
    ],
)
async def test_status_shows_where_the_share_of_a_color_that_is_out_goes(
    admin: FakeAdmin, gateway: Run, stable_out: bool, candidate_out: bool, words: list[str]
) -> None:
    service = {
        "name": "ivor", "stable": "blue", "candidate": "green",
        "weights": {"stable": 80.0, "candidate": 20.0},
        "pools": [
            {**POOL, "color": "blue", "closed": stable_out, "isolated": stable_out},
            {**POOL, "color": "green", "closed": candidate_out},
        ],
    }  # fmt: skip
    admin.answer("GET", "/v1/status", {**STATUS, "services": [service]})
    ended = await gateway("status")
    row = next(line for line in ended.out.splitlines() if "80 %" in line)
    assert [cell.strip() for cell in row.split("  ") if "%" in cell] == words


async def test_what_the_api_finds_malformed_is_wrong_usage(admin: FakeAdmin, gateway: Run) -> None:
    path = "/v1/services/ivor/pools/green"
    admin.problem("PUT", path, 422, "invalid-body", detail="no URL", field="endpoints.0")
    ended = await gateway("pool", "set", "ivor", "green", "nonsense")
    assert ended.code == 2
    assert "endpoints.0: no URL" in ended.err


async def test_workers_that_lag_are_named(admin: FakeAdmin, gateway: Run) -> None:
    admin.problem("PUT", "/v1/traffic", 504, "workers-lagging", lagging=["worker 1 (pid 9)"])
    ended = await gateway("traffic", "set", "20")
    assert ended.code == 6
    assert "not yet confirmed by worker 1 (pid 9)" in ended.err


async def test_drain_says_when_it_is_empty(admin: FakeAdmin, gateway: Run) -> None:
    answer = {"service": "ivor", "color": "green", "changed": True, "waited_ms": 120.0}
    admin.answer("POST", "/v1/services/ivor/pools/green/drain", answer)
    ended = await gateway("pool", "drain", "ivor", "green", "--timeout", "5s")
    assert ended.code == 0
    assert "drained, after 120 ms" in ended.out
    assert sent(admin)["timeout"] == "5s"


async def test_a_drain_that_runs_out_of_time_exits_with_6(admin: FakeAdmin, gateway: Run) -> None:
    path = "/v1/services/ivor/pools/green/drain"
    admin.problem("POST", path, 409, "still-in-flight", detail="2 are left", in_flight=2)
    ended = await gateway("pool", "drain", "ivor", "green")
    assert ended.code == 6
    assert "2 are left" in ended.err


# --- audit, reload, token -----------------------------------------------------------------------


async def test_audit_lists_rows_and_the_way_to_older_ones(admin: FakeAdmin, gateway: Run) -> None:
    row = {
        "id": 41, "at": 1_767_225_600.0, "actor": "pipeline", "address": "127.0.0.1",
        "action": "traffic.set", "reason": "a\x1b[31m try", "before": {"ivor": 0},
        "after": {"ivor": 20},
    }  # fmt: skip
    admin.answer("GET", "/v1/audit", {"rows": [row], "next": 41})
    ended = await gateway("audit", "--limit", "1", "--before", "50")
    assert admin.asked[-1].query == {"limit": "1", "before": "50"}
    assert "2026-01-01 00:00:00Z" in ended.out
    assert "traffic.set" in ended.out
    assert "--before 41" in ended.out
    assert "\x1b" not in ended.out


async def test_reload_lists_changes_and_drift(admin: FakeAdmin, gateway: Run) -> None:
    drift = {"service": "ivor", "field": "stable", "file": "blue", "store": "green"}
    answer = {"changed": True, "changes": ["limits"], "drift": [drift], "snapshot": 13}
    admin.answer("POST", "/v1/config/reload", answer)
    ended = await gateway("reload")
    assert "changed: limits" in ended.out
    assert "ivor: stable stays green, the file has blue" in ended.out


async def test_a_refused_reload_lists_every_error(admin: FakeAdmin, gateway: Run) -> None:
    errors = [
        {"field": "services.ivor", "detail": "gateway.yaml:3:5: first"},
        {"detail": "gateway.yaml:9:1: second"},
    ]
    admin.problem("POST", "/v1/config/reload", 422, "invalid-configuration", errors=errors)
    ended = await gateway("reload")
    assert ended.code == 4
    assert "services.ivor: gateway.yaml:3:5: first" in ended.err
    assert "gateway.yaml:9:1: second" in ended.err


async def test_a_cohort_token_is_bound_to_host_and_the_split_in_force(
    admin: FakeAdmin, gateway: Run, nowhere: Path
) -> None:
    secret = b"a secret of the tests"
    (nowhere / "secret").write_bytes(secret + b"\n")
    admin.answer("GET", "/v1/status", STATUS)
    ended = await gateway(
        "cohort-token", "candidate", "--ttl", "1h", "--host", "blkout.example",
        "--secret-file", "secret",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    token = ended.out.strip().encode()

    def side(host: str, release: str, now: float) -> str | None:
        return override.verify(secret, token, host=host, release=release, now=now)

    now = time.time()
    assert side("blkout.example", "r-41", now) == "candidate"
    assert side("blkout.example", "r-42", now) is None
    assert side("other.example", "r-41", now) is None
    assert side("blkout.example", "r-41", now + 3602) is None


async def test_a_cohort_token_for_a_named_release_asks_nobody(
    admin: FakeAdmin, gateway: Run, nowhere: Path
) -> None:
    (nowhere / "secret").write_bytes(b"a secret of the tests")
    (nowhere / "config.yaml").write_text(
        "version: 1\nlisten: [{address: 127.0.0.1:8080}]\n"
        "traffic: {cohort: {secret_file: secret}}\n"
        "admin: {tokens: [{name: a, role: viewer, token_env: NOT_SET_HERE}]}\n"
        "services: {ivor: {blue: {endpoints: ['http://127.0.0.1:1']}}}\n"
        "routes: [{path: /, service: ivor}]\n"
    )
    ended = await gateway(
        "cohort-token", "stable", "--release", "r", "--config", "config.yaml", "--json"
    )
    assert ended.code == 0, ended.err
    token = json.loads(ended.out)
    assert token["host"] == "localhost"
    found = override.verify(
        b"a secret of the tests",
        token["token"].encode(),
        host="localhost",
        release="r",
        now=token["expires"] - 1,
    )
    assert found == "stable"
    assert admin.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["candidate"],
        ["candidate", "--secret-file", "secret", "--config", "secret"],
        ["candidate", "--secret-file", "secret", "--ttl", "8d"],
        ["candidate", "--secret-file", "secret", "--release", "r"],
        ["candidate", "--config", "secret", "--release", "r"],
        ["everybody", "--secret-file", "secret"],
    ],
)
async def test_a_cohort_token_is_not_made_from_nothing(
    gateway: Run, nowhere: Path, arguments: list[str]
) -> None:
    (nowhere / "secret").write_bytes(b"short\n")
    ended = await gateway("cohort-token", *arguments)
    assert ended.code == 2
    assert ended.out == ""
