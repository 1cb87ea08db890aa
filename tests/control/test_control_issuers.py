"""Issuers' keys, of a real server that goes away and comes back with others."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.config.snapshot import AuthScheme, Jwt
from gateway.control.issuers import AGAIN, Issuers, SourceError, read_url
from gateway.control.tasks import Tasks
from tests.support.issuer import jwk, key_set

WALL = 1_900_000_000.0
OLD = key_set(jwk("ES256", "old", 1))
NEW = key_set(jwk("ES256", "old", 1), jwk("ES256", "new", 2))


class Source:
    """An issuer's server."""

    def __init__(self) -> None:
        self.body = OLD
        self.status = 200
        self.asked = 0
        self.coding = ""
        self.asked_for = ""
        app = web.Application()
        app.router.add_get("/jwks", self._answer)
        app.router.add_get("/elsewhere", self._redirect)
        self.server = TestServer(app)

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.asked_for = request.headers.get("Accept-Encoding", "")
        fields = {"Content-Encoding": self.coding} if self.coding else {}
        return web.Response(body=self.body, status=self.status, headers=fields)

    async def _redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/jwks")

    @property
    def url(self) -> str:
        return str(self.server.make_url("/jwks"))


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    made = Source()
    await made.server.start_server()
    yield made
    await made.server.close()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    made = Tasks()
    yield made
    await made.close()


@pytest.fixture
def told() -> list[dict[str, bytes]]:
    return []


@pytest.fixture
def make(tasks: Tasks, told: list[dict[str, bytes]], tmp_path: Path) -> Callable[[], Issuers]:
    return lambda: Issuers(
        told.append,
        tasks,
        tmp_path / "issuers",
        random=random.Random(1),
        clock=asyncio.get_running_loop().time,
        wall=lambda: WALL,
    )


def scheme(url: str) -> tuple[AuthScheme, ...]:
    return (AuthScheme(name="users", jwt=Jwt(issuer="i", source=url)),)


async def test_keys_are_read_and_told(
    source: Source, make: Callable[[], Issuers], told: list[dict[str, bytes]]
) -> None:
    issuers = make()
    issuers.watch(scheme(source.url))
    await issuers.prepare(seconds=5)
    assert told == [{source.url: OLD}]
    assert source.asked == 1


async def test_a_rotation_is_told(
    source: Source, make: Callable[[], Issuers], told: list[dict[str, bytes]]
) -> None:
    issuers = make()
    issuers.watch(scheme(source.url))
    await issuers.prepare(seconds=5)
    source.body = NEW
    assert await issuers.ask(source.url)
    assert told == [{source.url: OLD}, {source.url: NEW}]
    assert await issuers.ask(source.url)
    assert len(told) == 2


@pytest.mark.parametrize(("status", "body"), [(500, NEW), (200, b"<html>"), (404, b""), (302, b"")])
async def test_the_last_keys_outlast_an_outage(
    source: Source,
    make: Callable[[], Issuers],
    told: list[dict[str, bytes]],
    status: int,
    body: bytes,
) -> None:
    issuers = make()
    issuers.watch(scheme(source.url))
    await issuers.prepare(seconds=5)
    source.status, source.body = status, body
    assert not await issuers.ask(source.url)
    assert issuers.seen(scheme(source.url)) == (("users", WALL, 1, 1),)
    assert issuers.known == {source.url: OLD}
    assert told == [{source.url: OLD}]


async def test_a_restart_without_the_source_goes_on_with_what_the_disk_has(
    source: Source, make: Callable[[], Issuers], told: list[dict[str, bytes]], tmp_path: Path
) -> None:
    first = make()
    first.watch(scheme(source.url))
    await first.prepare(seconds=5)
    await first.ask(source.url)
    url = source.url
    await source.server.close()
    (kept,) = (tmp_path / "issuers").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    told.clear()
    second = make()
    second.watch(scheme(url))
    assert told == [{url: OLD}]
    assert not await second.ask(url)
    assert second.known == {url: OLD}


async def test_what_the_disk_has_is_looked_at(
    source: Source, make: Callable[[], Issuers], told: list[dict[str, bytes]], tmp_path: Path
) -> None:
    first = make()
    first.watch(scheme(source.url))
    await first.prepare(seconds=5)
    await first.ask(source.url)
    for kept in (tmp_path / "issuers").iterdir():
        kept.write_bytes(b"torn")
    told.clear()
    make().watch(scheme(source.url))
    assert told == []


async def test_unknown_keys_have_a_source_read_soon_but_not_at_once_again() -> None:
    """``AGAIN`` is kept by the loop that reads; here its time is looked at, not waited for."""
    assert AGAIN >= 5
    read: list[str] = []

    async def fetch(url: str) -> bytes:
        read.append(url)
        return OLD

    tasks = Tasks()
    issuers = Issuers(
        lambda told: None,
        tasks,
        Path("/nonexistent/nowhere"),
        random=random.Random(1),
        clock=asyncio.get_running_loop().time,
        wall=lambda: WALL,
        fetch=fetch,
    )
    issuers.watch(scheme("https://id.example/jwks"))
    await issuers.prepare(seconds=5)
    for _ in range(100):
        issuers.unknown_key("https://id.example/jwks")
        issuers.unknown_key("https://elsewhere.example/jwks")
        await asyncio.sleep(0)
    assert read == ["https://id.example/jwks"]
    await tasks.close()


async def test_unknown_keys_bring_a_rotation_in(
    source: Source,
    make: Callable[[], Issuers],
    told: list[dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.control.issuers.AGAIN", 0.0)
    issuers = make()
    issuers.watch(scheme(source.url))
    await issuers.prepare(seconds=5)
    source.body = NEW
    async with asyncio.timeout(5):
        while {source.url: NEW} not in told:
            issuers.unknown_key(source.url)
            await asyncio.sleep(0.01)


async def test_no_redirect_is_followed(source: Source) -> None:
    with pytest.raises(SourceError, match="answered 302"):
        await read_url(str(source.server.make_url("/elsewhere")))


async def test_a_key_set_without_end_is_not_read(source: Source) -> None:
    source.body = b" " * 300_000
    with pytest.raises(SourceError, match="more than 256 KiB"):
        await read_url(source.url)


async def test_a_key_set_is_never_decompressed(source: Source) -> None:
    """A hundred KiB that become a hundred MiB: refused by its first field, not by its size."""
    source.body, source.coding = gzip.compress(b" " * 100_000_000), "gzip"
    with pytest.raises(SourceError, match="compressed"):
        await read_url(source.url)
    assert source.asked_for == "identity"


async def test_a_source_that_no_scheme_names_is_read_no_more(
    source: Source, make: Callable[[], Issuers]
) -> None:
    issuers = make()
    issuers.watch(scheme(source.url))
    await issuers.prepare(seconds=5)
    issuers.watch(())
    assert issuers.known == {}


async def test_what_was_never_read_says_so_and_a_restart_knows_when_it_was(
    source: Source, make: Callable[[], Issuers], tmp_path: Path
) -> None:
    source.status = 500
    first = make()
    first.watch(scheme(source.url))
    await first.prepare(seconds=5)
    assert first.seen(scheme(source.url)) == (("users", 0.0, 0, 1),)
    source.status = 200
    assert await first.ask(source.url)
    (kept,) = (tmp_path / "issuers").glob("*.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    os.utime(kept, (1000.0, 1000.0))
    again = make()
    again.watch(scheme(source.url))
    assert again.seen(scheme(source.url)) == (("users", 1000.0, 0, 0),)
    # The same set, read again, is younger on the disk too.
    assert await again.ask(source.url)
    assert kept.stat().st_mtime > 1000.0
    again.watch(())
    assert again.readings == {}
