"""Traffic moved by one call, over the real command, real sockets and real processes."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path

from tests.e2e.conftest import Platform
from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.rawclient import RawClient
from tests.support.upstream import Upstream, always


def cookie() -> str:
    # 22 characters of base64url whose last one holds four zero bits, as the gateway makes them.
    return secrets.token_urlsafe(16)


def sides(port: int, cookies: list[str]) -> dict[str, bytes]:
    with RawClient(port) as client:
        return {
            value: client.get(fields=f"Cookie: gw_cohort={value}\r\n").body for value in cookies
        }


def test_nobody_leaves_the_candidate_while_the_weight_rises(platform: Platform) -> None:
    gateway = platform.gateway
    cookies = [cookie() for _ in range(300)]
    assert set(sides(gateway.port, cookies).values()) == {b"blue"}
    before: set[str] = set()
    for weight in (5, 20, 50, 99.99):
        gateway.set_weight(weight)
        got = sides(gateway.port, cookies)
        on_green = {value for value, body in got.items() if body == b"green"}
        assert before <= on_green, f"somebody left the candidate at {weight} %"
        assert abs(len(on_green) - 3 * weight) < 60
        before = on_green
    gateway.set_weight(100)
    assert set(sides(gateway.port, cookies).values()) == {b"green"}
    gateway.set_weight(0)
    assert set(sides(gateway.port, cookies).values()) == {b"blue"}


def test_another_split_has_other_guinea_pigs(platform: Platform) -> None:
    gateway = platform.gateway
    cookies = [cookie() for _ in range(400)]
    pigs = []
    for _ in range(2):
        gateway.set_weight(50)
        got = sides(gateway.port, cookies)
        pigs.append({value for value, body in got.items() if body == b"green"})
        gateway.set_weight(0)
    both = len(pigs[0] & pigs[1])
    assert 50 < both < 150, f"{both} of 400 in both splits at 50 %; independent would be 100"


def test_the_answer_says_how_long_it_took_and_survives_a_restart(platform: Platform) -> None:
    gateway = platform.gateway
    answer = gateway.set_weight(20)
    assert 0 < answer.body["applied_in_ms"] < 2000
    revision = answer.fields["ETag"]
    assert gateway.stop() == 0
    gateway.start()
    after = gateway.api("GET", "/v1/traffic")
    assert after.fields["ETag"] == revision
    assert after.body["services"][0]["weight"] == 20


def test_if_match_and_idempotency_keys_are_obeyed(platform: Platform) -> None:
    gateway = platform.gateway
    tag = gateway.set_weight(10).fields["ETag"]
    moved = gateway.api("PUT", "/v1/traffic", {"candidate": 20}, If_Match=tag)
    assert moved.status == 200
    stale = gateway.api("PUT", "/v1/traffic", {"candidate": 30}, If_Match=tag)
    assert stale.status == 412
    first = gateway.api("PUT", "/v1/traffic", {"candidate": 40}, Idempotency_Key="k-1")
    gateway.api("PUT", "/v1/traffic", {"candidate": 50})
    again = gateway.api("PUT", "/v1/traffic", {"candidate": 40}, Idempotency_Key="k-1")
    assert again.body["revision"] == first.body["revision"]
    assert gateway.api("GET", "/v1/traffic").body["services"][0]["weight"] == 50


def test_a_rollback_ends_every_split_and_is_audited(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.set_weight(50)
    answer = gateway.api("POST", "/v1/rollback", {"reason": "the test says so"})
    assert answer.status == 200
    cookies = [cookie() for _ in range(50)]
    assert set(sides(gateway.port, cookies).values()) == {b"blue"}
    row = gateway.api("GET", "/v1/audit").body["rows"][0]
    assert row["reason"] == "the test says so"
    assert gateway.api("POST", "/v1/rollback", {}).status in {200, 409}


def test_a_navigation_is_given_the_cookie_that_it_is_assigned_by(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.set_weight(50)
    page = "Sec-Fetch-Mode: navigate\r\nAccept: text/html\r\n"
    with RawClient(gateway.port) as client:
        for _ in range(30):
            answer = client.get(fields=page)
            line = answer.field("set-cookie")
            assert line is not None
            assert "HttpOnly" in line
            assert "SameSite=Lax" in line
            value = re.match(r"gw_cohort=([\w-]{22});", line)
            assert value is not None
            again = client.get(fields=f"{page}Cookie: gw_cohort={value[1]}\r\n")
            assert again.body == answer.body
            assert again.field("set-cookie") is None
        assert client.get(fields="Sec-Fetch-Mode: cors\r\n").field("set-cookie") is None
    seen = b"".join(platform.blue.heads + platform.green.heads)
    assert b"gw_cohort" not in seen, "the gateway's cookie went upstream"


def test_the_pipeline_replaces_a_pool_and_drains_the_old_one(
    platform: Platform, tmp_path: Path
) -> None:
    gateway = platform.gateway
    del tmp_path
    with Upstream(always(b"green2")) as build:
        answer = gateway.api(
            "PUT", "/v1/services/web/pools/candidate", {"endpoints": [build.url], "wait": "20s"}
        )
        assert answer.status == 200, answer
        gateway.set_weight(100)
        with RawClient(gateway.port) as client:
            assert client.get().body == b"green2"
        refused = gateway.api(
            "PUT", "/v1/services/web/pools/green", {"endpoints": [platform.green.url]}
        )
        assert refused.status == 409, "a pool that carries traffic was replaced"
        assert gateway.api("POST", "/v1/traffic/finalize").status == 200
        drained = gateway.api("POST", "/v1/services/web/pools/blue/drain", {"timeout": "5s"})
        assert drained.status == 200, drained
        status = gateway.api("GET", "/v1/status").body
        assert status["services"][0]["stable"] == "green"


def test_a_pool_that_stays_unhealthy_is_refused_with_the_evidence(platform: Platform) -> None:
    gateway = platform.gateway
    answer = gateway.api(
        "PUT",
        "/v1/services/web/pools/green",
        {"endpoints": ["http://127.0.0.1:9"], "wait": "1s"},
    )
    assert answer.status == 409
    assert "127.0.0.1:9" in str(answer.body)
    gateway.set_weight(100)
    with RawClient(gateway.port) as client:
        assert client.get().body == b"green", "the old pool is still in place"


def test_a_broken_file_is_refused_whole_and_nothing_moves(platform: Platform) -> None:
    gateway = platform.gateway
    good = gateway.path.read_text()
    gateway.path.write_text(good + "unknown_key: 1\nworkers: many\n")
    answer = gateway.api("POST", "/v1/config/reload")
    assert answer.status == 422
    assert "unknown_key" in str(answer.body)
    assert "workers" in str(answer.body)
    with RawClient(gateway.port) as client:
        assert client.get().body == b"blue"
    gateway.path.write_text(good + "limits: {body: 1KiB}\n")
    assert gateway.api("POST", "/v1/config/reload").status == 200
    with RawClient(gateway.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n")
        assert client.answer().status == 413


def test_the_access_log_has_a_line_for_every_request(platform: Platform) -> None:
    gateway = platform.gateway
    with RawClient(gateway.port) as client:
        for at in range(20):
            client.get(f"/{at}?q=1")
    log = gateway.folder / "access.log"

    def written() -> bool:
        return log.exists() and len(log.read_text().splitlines()) >= 20

    wait_until(written, "twenty lines in the access log")
    assert '"target":"/19?q=1"' in log.read_text()


def test_two_services_give_one_user_one_color(tmp_path: Path) -> None:
    with (
        Upstream(always(b"blue")) as web_blue,
        Upstream(always(b"green")) as web_green,
        Upstream(always(b"blue")) as api_blue,
        Upstream(always(b"green")) as api_green,
        GatewayProcess.for_services(
            tmp_path,
            {
                "web": ([web_blue.url], [web_green.url]),
                "api": ([api_blue.url], [api_green.url]),
            },
        ) as gateway,
    ):
        gateway.set_weight(50)
        with RawClient(gateway.port) as client:
            for _ in range(100):
                fields = f"Cookie: gw_cohort={cookie()}\r\n"
                assert client.get("/", fields).body == client.get("/api/x", fields).body


def test_an_upstream_is_told_its_side_and_an_internal_call_keeps_it(tmp_path: Path) -> None:
    extra = 'internal_callers: ["127.0.0.1/32"]\n'
    with (
        Upstream(always(b"blue")) as blue,
        Upstream(always(b"green")) as green,
        GatewayProcess.for_services(
            tmp_path, {"web": ([blue.url], [green.url])}, extra=extra
        ) as gateway,
    ):
        gateway.set_weight(50)
        with RawClient(gateway.port) as client:
            for _ in range(20):
                body = client.get(fields=f"Cookie: gw_cohort={cookie()}\r\n").body
                upstream = green if body == b"green" else blue
                head = upstream.heads[-1].decode()
                told = dict(
                    line.split(": ", 1) for line in head.splitlines() if line.startswith("X-Rel")
                )
                assert told["X-Release-Color"] == body.decode()
                fields = "".join(
                    f"{name}: {told[name]}\r\n"
                    for name in ("X-Release-Id", "X-Release-Role", "X-Release-Key")
                )
                assert client.get(fields=fields).body == body


def test_time_passes_between_a_call_and_all_workers_within_a_second(platform: Platform) -> None:
    gateway = platform.gateway
    gateway.set_weight(0)
    took = []
    for weight in (100, 0) * 10:
        began = time.monotonic()
        assert gateway.api("PUT", "/v1/traffic", {"candidate": weight}).status == 200
        took.append(time.monotonic() - began)
        with RawClient(gateway.port) as client:
            assert client.get().body == (b"green" if weight else b"blue")
    assert sorted(took)[len(took) // 2] < 1.0
