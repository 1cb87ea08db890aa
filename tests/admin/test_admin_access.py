"""Who may call what, what every answer bears, and the pages for people."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.admin import auth
from gateway.admin.api import Api
from gateway.admin.breakers import BreakerApi
from gateway.admin.calls import CALLS, Call
from gateway.admin.releases import ReleaseApi
from gateway.admin.server import Server
from gateway.admin.streams import Streams, policy
from tests.control.world import OPERATOR, TOKENS, VIEWER, World, client, running

SECRETS = {"viewer": VIEWER, "operator": OPERATOR, "admin": "admin-secret"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, workers=1) as world:
        yield world


def path_of(call: Call) -> str:
    return call.path.format(service="ivor", slot="green", endpoint="ivor-blue-1-0", id="current")


def test_every_call_has_its_handler() -> None:
    for call in CALLS:
        assert any(hasattr(each, call.name) for each in (Api, BreakerApi, ReleaseApi, Streams)), (
            call.name
        )


async def test_every_call_asks_for_its_role(world: World) -> None:
    async with aiohttp.ClientSession(world.url) as nobody:
        for call in (each for each in CALLS if each.role is not None):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": VIEWER}):
                async with nobody.request(call.method, path_of(call), headers=headers) as answer:
                    assert answer.status == 401, call.name
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_a_role_reaches_what_is_at_or_below_it(world: World, role: str) -> None:
    async with client(world, SECRETS[role]) as api:
        for call in (each for each in CALLS if each.role is not None):
            below = auth.RANKS[role] < auth.RANKS[str(call.role)]
            async with api.request(call.method, path_of(call)) as answer:
                assert (answer.status == 403) is below, (role, call.name, answer.status)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_compressed_content_is_refused_and_never_unpacked(
    world: World, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser would unpack it before anybody knows who sends it."""

    def unpacks(*_: object, **__: object) -> None:
        raise AssertionError("decompressed")

    monkeypatch.setattr("aiohttp.compression_utils.ZLibDecompressor.__init__", unpacks)
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    async with (
        client(world, OPERATOR) as api,
        api.put("/v1/traffic", data=bomb, headers=headers) as answer,
    ):
        problem = await answer.json(content_type=None)
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")
    assert problem["type"].endswith("compressed")


async def test_what_needs_no_role_needs_no_token(world: World) -> None:
    async with aiohttp.ClientSession(world.url) as nobody:
        for call in (each for each in CALLS if each.role is None):
            async with nobody.request(call.method, call.path) as answer:
                assert answer.status == 200, call.name
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"


async def test_without_tokens_nothing_is_written_and_a_hint_says_why(world: World) -> None:
    control = world.control
    assert control is not None
    bare = dataclasses.replace(world.settings, tokens=())
    control.switchboard.settings = bare
    async with client(world) as api, api.put("/v1/traffic", json={"candidate": 1}) as answer:
        problem = await answer.json(content_type=None)
        assert answer.status == 401
    assert "admin.tokens" in problem["hint"]


async def test_a_foreign_host_is_refused(world: World) -> None:
    async with client(world) as api:
        for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:9090", "[::1", ""):
            async with api.get("/v1/status", headers={"Host": host}) as answer:
                assert answer.status in {421, 400}, host
        for host in ("localhost", "LOCALHOST:9090", "127.0.0.1", "[::1]:9090", "127.0.0.2:1"):
            async with api.get("/v1/status", headers={"Host": host}) as answer:
                assert answer.status == 200, host


def test_hosts_of_the_configuration_are_accepted() -> None:
    assert auth.host_accepted("gw.internal:9090", ("GW.internal",), unix=False)
    assert not auth.host_accepted("gw.internal:x", ("gw.internal",), unix=False)
    assert not auth.host_accepted(None, ("gw.internal",), unix=False)
    assert auth.host_accepted("whatever", (), unix=True)


async def test_other_methods_are_405_and_other_paths_404(world: World) -> None:
    async with client(world) as api:
        async with api.patch("/v1/traffic") as answer:
            assert answer.status == 405
            assert set(answer.headers["Allow"].split(",")) == {"GET", "PUT"}
            assert answer.content_type == "application/problem+json"
        for path in (
            "/v1/releases/none/pause",
            "/v1/breakers/x/reset",
            "/v1/services/ivor/repairs",
        ):
            async with api.post(path) as answer:
                assert answer.status == 404


async def test_nothing_here_is_of_use_to_another_origin(world: World) -> None:
    """No cookie, no CORS, nothing to embed; a form's content type is refused, token or not."""
    origin = {"Origin": "https://evil.example"}
    preflight = {**origin, "Access-Control-Request-Method": "PUT"}
    async with client(world) as api:
        for call in (each for each in CALLS if each.method == "GET" and "events" not in each.path):
            async with api.get(path_of(call), headers=origin) as answer:
                assert not [name for name in answer.headers if name.startswith("Access-Control")]
                assert "Set-Cookie" not in answer.headers
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        async with api.options("/v1/traffic", headers=preflight) as answer:
            assert answer.status == 405
            assert not [name for name in answer.headers if name.startswith("Access-Control")]
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            body = b'{"candidate": 1}'
            async with api.put("/v1/traffic", data=body, headers={"Content-Type": kind}) as answer:
                assert answer.status == 415


def test_no_secret_is_in_a_repr() -> None:
    assert VIEWER not in repr(TOKENS)
    assert TOKENS[0].digest.hex() not in repr(TOKENS)
    assert repr(TOKENS[0].digest) not in repr(TOKENS)


def test_bearer_reads_the_field_strictly() -> None:
    assert auth.bearer("Bearer  abc ") == b"abc"
    assert auth.bearer("bearer abc") == b"abc"
    for field in (None, "", "Bearer", "Bearer ", "Basic abc", "Bearer" + "x" * 5000):
        assert auth.bearer(field) is None


async def test_status_is_one_picture(world: World) -> None:
    async with client(world, VIEWER) as api, api.get("/v1/status") as answer:
        status = await answer.json()
    assert [each["name"] for each in status["services"]] == ["events", "ivor"]
    pools = status["services"][1]["pools"]
    assert [(each["color"], each["role"], each["source"]) for each in pools] == [
        ("blue", "stable", "file"),
        ("green", "candidate", "file"),
    ]
    endpoint = pools[0]["endpoints"][0]
    assert (endpoint["id"], endpoint["health"]) == ("ivor-blue-1-0", "up")
    assert {each["level"] for each in endpoint["probes"]} == {"L1", "L2"}
    assert [each["role"] for each in status["processes"]] == ["supervisor", "control", "worker"]
    assert status["processes"][2]["snapshot"] == status["snapshot"]
    assert status["warnings"] == []


async def test_readyz_waits_for_workers_and_nothing_else(world: World) -> None:
    async with aiohttp.ClientSession(world.url) as api:
        assert (await api.get("/readyz")).status == 200
        world.probes.down.update({"http://127.0.0.1:3000", "http://127.0.0.1:4000"})
        assert (await api.get("/readyz")).status == 200
        world.workers[0].answers = False
        control = world.control
        assert control is not None
        number = control.switchboard.parts.hub.send()
        async with api.get("/readyz") as answer:
            assert answer.status == 503
            assert "worker 0" in (await answer.json(content_type=None))["lagging"][0]
        await world.workers[0].until(number)
        world.workers[0].acknowledge(number)
        async with asyncio.timeout(5):
            while not control.switchboard.parts.hub.current():
                await asyncio.sleep(0)
        assert (await api.get("/readyz")).status == 200


async def test_a_unix_socket_serves_the_same_whatever_the_host(world: World) -> None:
    connector = aiohttp.UnixConnector(str(world.path / "run" / "admin.sock"))
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with aiohttp.ClientSession("http://whatever", connector=connector) as api:
        assert (await api.get("/v1/status")).status == 401
        async with api.put("/v1/traffic", json={"candidate": 1}, headers=headers) as answer:
            assert answer.status == 200
        async with api.get("/v1/audit", headers=headers) as answer:
            assert (await answer.json())["rows"][0]["address"] == "unix"


async def test_metrics_come_from_the_board(world: World) -> None:
    async with aiohttp.ClientSession(world.url) as api, api.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        text = await answer.text()
    assert 'gateway_traffic_weight{role="stable",service="ivor"} 100.0' in text
    assert "gateway_workers 1.0" in text


async def test_events_can_be_resumed(world: World) -> None:
    async with client(world, VIEWER) as watcher, client(world) as api:

        async def following(last: str | None) -> tuple[str, str, dict[str, object]]:
            headers = {"Last-Event-ID": last} if last else {}
            async with watcher.get("/v1/events", headers=headers) as stream:
                assert stream.content_type == "text/event-stream"
                assert (await stream.content.readuntil(b"\n\n")).startswith(b"retry:")
                if last is None:
                    await api.put("/v1/traffic", json={"candidate": 10})
                block = (await stream.content.readuntil(b"\n\n")).decode()
            lines = dict(line.split(": ", 1) for line in block.strip().split("\n"))
            return lines["id"], lines["event"], json.loads(lines["data"])

        first = await following(None)
        assert first[1] == "traffic"
        assert first[2]["weights"] == {"events": 10, "ivor": 10}
        await api.post("/v1/rollback", json={"reason": "oh"})
        second = await following(first[0])
        assert second[2]["action"] == "rollback"
        # What another process said is not known here: all that is kept comes.
        assert (await following("0-17"))[1] in {"pool", "health", "traffic"}


async def test_pages_run_their_own_script_and_load_nothing(world: World) -> None:
    async with aiohttp.ClientSession(world.url) as api:
        for path in ("/", "/docs"):
            async with api.get(path) as answer:
                text = await answer.text()
                assert answer.headers["Content-Security-Policy"] == policy(text)
                assert "default-src 'none'" in policy(text)
                assert "src=" not in text
                assert "{{" not in text
        async with api.get("/openapi.json") as answer:
            document = await answer.json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {call.path for call in CALLS}


def test_every_route_of_the_application_is_a_row_of_the_table() -> None:
    """Nothing is served that the table, and with it the tests above, does not know of."""
    nothing: Any = {}
    application = Server(nothing, nothing, nothing, nothing, nothing).application()
    served = [
        (route.method, route.resource.canonical if route.resource is not None else "")
        for route in application.router.routes()
    ]
    assert sorted(served) == sorted((call.method, call.path) for call in CALLS)
    # Who may call is said for each of them here, once more: a new one has to be thought about.
    for call in CALLS:
        if call.role is None:
            assert call.path in OPEN, call.path
            assert call.method == "GET"
        elif call.method == "GET":
            assert call.role == "viewer", call.name
        elif call.name == "reload":
            assert call.role == "admin"
        else:
            assert call.role == "operator", call.name


OPEN = {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"}


async def test_a_whole_number_is_one_however_it_is_written(world: World) -> None:
    async with client(world) as api:
        for query in ("limit=3.0", "limit=3", "before=3623.0", "limit=3.000&before=7.0"):
            for call in ("/v1/releases", "/v1/audit"):
                assert (await api.get(f"{call}?{query}")).status == 200, query
        for query in (
            "limit=3.5",
            "limit=3.",
            "limit=.0",
            "limit=501.0",
            "limit=-1.0",
            "limit=3e0",
        ):
            assert (await api.get(f"/v1/audit?{query}")).status == 422, query
        for generation, kind in (("3623.0", "stale-generation"), ("3623.5", "invalid-body")):
            body = f'{{"pools": {{"ivor": {generation}}}}}'
            async with api.post("/v1/releases", data=body, headers=JSON) as answer:
                problem = await answer.json(content_type=None)
                assert problem["type"] == f"urn:gateway:{kind}", problem


JSON = {"Content-Type": "application/json"}


async def raw(world: World, *lines: str) -> bytes:
    """Send a head by hand; return what comes back before a body is sent."""
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write("\r\n".join((*lines, "Host: localhost", "", "")).encode())
    first = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return first


async def test_nobodys_body_is_asked_for_before_it_is_known_who_calls(world: World) -> None:
    put = "PUT /v1/traffic HTTP/1.1", "Content-Type: application/json", "Content-Length: 16"
    who = f"Authorization: Bearer {OPERATOR}"
    waits = "Expect: 100-continue"
    assert (await raw(world, *put, waits, who)).startswith(b"HTTP/1.1 100 ")
    assert (await raw(world, *put, waits)).startswith(b"HTTP/1.1 401 ")
    assert (await raw(world, *put, waits, who.lower())).startswith(b"HTTP/1.1 100 ")
    # Another expectation is ignored.
    assert (await raw(world, "GET /healthz HTTP/1.1", "Expect: tea")).startswith(b"HTTP/1.1 200 ")
