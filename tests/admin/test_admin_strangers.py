"""What strangers send to the admin API: read strictly, answered shortly, at nobody else's cost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.admin import api, patience
from gateway.observe import exposition
from tests.control.world import OPERATOR, VIEWER, World, client, running

SECRET = b"SEKRET"
WHO = f"Authorization: Bearer {VIEWER}\r\n".encode()
NOBODY = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, workers=1) as world:
        yield world


async def _connect(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))


async def said(world: World, octets: bytes) -> bytes:
    """Send octets; return all that comes back, to the end of the head where nothing ends it."""
    reader, writer = await _connect(world)
    writer.write(octets)
    async with asyncio.timeout(10):
        got = await reader.readuntil(b"\r\n\r\n")
        if b"Connection: close" in got or got.startswith(b"HTTP/1.0"):
            got += await reader.read()
    writer.close()
    return got


def request(*fields: bytes, target: bytes = b"/v1/status") -> bytes:
    return b"\r\n".join((b"GET " + target + b" HTTP/1.1", *fields, b"", b""))


async def status(world: World, octets: bytes) -> int:
    return int((await said(world, octets)).split(b" ", 2)[1])


# --- what is no request ---------------------------------------------------------------------------

UNREAD = [
    request(b"Host: localhost", b"Authorization: Bearer SEKRET\x01"),
    request(b"Host: localhost", b"Authorization Bearer SEKRET"),
    request(b"Host: localhost", target=b"/v1/status?token=SEKRET\x01"),
    request(b"Host: localhost", b"X: " + SECRET * 5000),
    b"SEKRET / HTTP/9.9\r\n\r\n",
    b"POST /v1/rollback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\nSEKRET\r\n" % OPERATOR.encode(),
]


@pytest.mark.parametrize("octets", UNREAD)
async def test_what_cannot_be_read_is_repeated_nowhere(
    world: World, octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the log, where a token would stand and a stranger could fill the disk."""
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    got = await said(world, octets)
    assert got.split(b" ", 2)[1] == b"400", got
    assert SECRET not in got
    for field in (
        b"Content-Type: application/problem+json",
        b"X-Content-Type-Options: nosniff",
        b"Content-Security-Policy: default-src 'none'",
    ):
        assert field in got
    assert b"\r\nServer:" not in got
    assert [each.getMessage() for each in caplog.records if each.name != "asyncio"] == []
    assert SECRET.decode() not in caplog.text
    assert "gateway_admin_requests_refused_total 1.0" in await _scrape(world)


async def test_content_that_cannot_be_read_is_400_and_repeated_nowhere(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp's parser in Python says so later than the one in C, and quotes as well."""

    async def unreadable(_: web.Request) -> bytes:
        raise web.RequestPayloadError(SECRET)

    monkeypatch.setattr(web.Request, "read", unreadable)
    got = await said(world, NOBODY)
    assert got.startswith(b"HTTP/1.1 400 "), got
    assert SECRET not in got
    assert caplog.text == ""


async def test_a_client_that_leaves_before_its_content_came_is_nobodys_news(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for head in (NOBODY.replace(b"GET", b"POST", 1), UNREAD[-1], NOBODY):
        _, writer = await _connect(world)
        fields = b"\r\nContent-Length: 100\r\n\r\n{"
        writer.write(head.partition(b"\r\nTransfer-Encoding")[0].removesuffix(b"\r\n\r\n") + fields)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0.05)
    assert caplog.text == ""


async def _scrape(world: World) -> str:
    async with aiohttp.ClientSession(world.url) as nobody, nobody.get("/metrics") as answer:
        return await answer.text()


# --- what is one, read strictly -------------------------------------------------------------------


async def test_no_answer_names_the_software(world: World) -> None:
    async with aiohttp.ClientSession(world.url) as nobody:
        for path in ("/", "/docs", "/metrics", "/healthz", "/v1/status", "/nothing"):
            async with nobody.get(path) as answer:
                assert "Server" not in answer.headers, path


async def test_of_two_tokens_none_counts(world: World) -> None:
    other = b"Authorization: Bearer other"
    who = WHO.rstrip()
    assert await status(world, request(b"Host: localhost", who)) == 200
    for fields in ((who, other), (other, who), (who, who), (who, b"authorization: Basic eDp5")):
        assert await status(world, request(b"Host: localhost", *fields)) == 401


async def test_a_target_that_names_another_than_host_is_refused(world: World) -> None:
    for host, authority, expected in (
        (b"localhost", b"localhost:9090", 200),
        (b"localhost", b"127.0.0.1", 200),
        (b"localhost", b"evil.example", 421),
        (b"localhost", b"evil.example:80", 421),
        (b"localhost", b"localhost@evil.example", 421),
        (b"evil.example", b"localhost", 421),
    ):
        target = b"http://%s/v1/status?x" % authority if expected == 421 else b""
        target = target or b"http://%s/v1/status" % authority
        octets = request(b"Host: " + host, WHO.rstrip(), target=target)
        assert await status(world, octets) == expected, (host, authority)


async def test_content_that_is_not_coded_may_say_so_in_any_case(world: World) -> None:
    async with client(world) as admin:
        for coding, expected in (("Identity", 200), ("IDENTITY", 200), ("identity, gzip", 415)):
            async with admin.put(
                "/v1/traffic",
                data=b'{"candidate": 1}',
                headers={"Content-Encoding": coding, "Content-Type": "application/json"},
            ) as answer:
                assert answer.status == expected, coding


# --- what it costs --------------------------------------------------------------------------------


async def test_a_scrape_is_made_once_in_a_second_whoever_asks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no token and takes control's loop: a stranger must not have one made for each."""
    made = itertools.count()
    render = exposition.render

    def counted(view: exposition.MetricsView) -> bytes:
        next(made)
        return render(view)

    monkeypatch.setattr(exposition, "render", counted)
    monkeypatch.setattr(api, "SCRAPE_KEPT", 10**18)
    assert len({await _scrape(world) for _ in range(20)}) == 1
    assert next(made) == 1
    # What was written is seen at once.
    async with client(world) as admin, admin.put("/v1/traffic", json={"candidate": 7}) as answer:
        assert answer.status == 200
    assert 'gateway_traffic_weight{role="candidate",service="ivor"} 7.0' in await _scrape(world)
    assert next(made) == 3
    monkeypatch.setattr(api, "SCRAPE_KEPT", 0)
    await _scrape(world)
    await _scrape(world)
    assert next(made) == 6


@pytest.mark.parametrize("target", [b"/healthz", b"/v1/status", b"/nothing"])
async def test_strangers_wait_in_line_and_operators_do_not(
    world: World, target: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "STRANGERS", 1)
    monkeypatch.setattr(patience, "TURN", 3600.0)
    held = [await _connect(world) for _ in range(20)]
    for _, writer in held:
        writer.write(request(b"Host: localhost", target=target) * 8)
    assert world.control is not None
    assert world.control._server is not None
    line = world.control._server.patience[False]._line
    async with asyncio.timeout(5):
        while len(line) < 20:
            await asyncio.sleep(0.005)
    async with client(world, OPERATOR) as pipeline, asyncio.timeout(5):
        assert (await pipeline.post("/v1/rollback", json={})).status == 200
    # Who leaves, leaves the line as well.
    for _, writer in held:
        writer.transport.abort()
    async with asyncio.timeout(5):
        while line:
            await asyncio.sleep(0.005)


async def test_everybody_in_line_is_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "STRANGERS", 3)
    monkeypatch.setattr(patience, "TURN", 0.01)
    began = time.monotonic()
    async with aiohttp.ClientSession(world.url) as nobody:
        answers = await asyncio.gather(*(nobody.get("/healthz") for _ in range(30)))
        assert {answer.status for answer in answers} == {200}
    assert time.monotonic() - began >= 0.08


async def test_a_stranger_with_content_that_does_not_come_gives_way(world: World) -> None:
    """It is no request under way: nobody could get in while all of them wait for it."""
    assert world.control is not None
    assert world.control._server is not None
    world.control._server.patience[False].most = 5
    held = [await _connect(world) for _ in range(5)]
    for _, writer in held:
        writer.write(NOBODY[:-2] + b"Content-Length: 5\r\n\r\n")
    await asyncio.sleep(0.1)
    async with client(world, OPERATOR) as pipeline:
        assert (await pipeline.post("/v1/rollback", json={})).status == 200
    for _, writer in held:
        writer.close()


async def test_it_stops_in_time_whatever_strangers_ask(world: World) -> None:
    async def ask() -> None:
        reader, writer = await _connect(world)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(request(b"Host: localhost", target=b"/docs") * 8)
                if not await reader.read(65536):
                    break

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(ask())
        await asyncio.sleep(0.3)
        async with asyncio.timeout(8):
            await world.stop()
