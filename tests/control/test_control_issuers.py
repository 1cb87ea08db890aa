"""Issuers' keys, of a real server that goes away and comes back with others."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.config.snapshot import AuthScheme, Jwt
from gateway.control.issuers import AGAIN, Issuers, SourceError, read_url
from gateway.control.settings import Settings
from gateway.control.switchboard import Caller, StaleRevisionError
from gateway.control.tasks import Tasks
from tests.control.world import World, settings
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


async def kept_file(make: Callable[[], Issuers], source: Source, tmp_path: Path) -> Path:
    """Have a control read a source and end; return the file that it leaves."""
    first = make()
    first.watch(scheme(source.url))
    await first.prepare(seconds=5)
    await first.ask(source.url)
    first.watch(())
    (kept,) = (tmp_path / "issuers").iterdir()
    return kept


def others_folder(kept: Path) -> None:
    kept.parent.chmod(0o777)


def others_file(kept: Path) -> None:
    kept.chmod(0o620)


def linked_file(kept: Path) -> None:
    kept.rename(kept.parent.parent / "elsewhere")
    kept.symlink_to(kept.parent.parent / "elsewhere")


def linked_folder(kept: Path) -> None:
    kept.parent.rename(kept.parent.parent / "elsewhere")
    kept.parent.symlink_to(kept.parent.parent / "elsewhere")


def pipe(kept: Path) -> None:
    kept.unlink()
    os.mkfifo(kept, 0o600)


@pytest.mark.parametrize("harm", [others_folder, others_file, linked_file, linked_folder, pipe])
async def test_keys_that_another_may_have_written_are_not_believed(
    source: Source,
    make: Callable[[], Issuers],
    told: list[dict[str, bytes]],
    tmp_path: Path,
    harm: Callable[[Path], None],
) -> None:
    """Who can write them can sign in as anybody. And a pipe would be waited for without end."""
    harm(await kept_file(make, source, tmp_path))
    source.status = 500
    told.clear()
    again = make()
    again.watch(scheme(source.url))
    assert (told, again.known) == ([], {})


async def test_keys_of_another_users_are_not_believed(
    source: Source,
    make: Callable[[], Issuers],
    told: list[dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await kept_file(make, source, tmp_path)
    told.clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        make().watch(scheme(source.url))
    assert told == []
    make().watch(scheme(source.url))
    assert told == [{source.url: OLD}]


async def test_keys_are_kept_where_nobody_has_laid_a_link(
    source: Source, make: Callable[[], Issuers], tmp_path: Path
) -> None:
    kept = await kept_file(make, source, tmp_path)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    Path(f"{kept}.{os.getpid()}.tmp").symlink_to(precious)
    kept.parent.chmod(0o775)
    source.body = NEW
    again = make()
    again.watch(scheme(source.url))
    assert await again.ask(source.url)
    assert precious.read_bytes() == b"precious"
    assert list(kept.parent.iterdir()) == [kept]
    assert kept.read_bytes() == NEW
    assert kept.parent.stat().st_mode & 0o777 == 0o700


async def test_one_surprise_does_not_end_a_source(
    tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.issuers.AFTER_FAILURE", 0.0)
    answers: list[Exception] = [RuntimeError("a surprise"), RecursionError()]
    told: list[dict[str, bytes]] = []

    async def fetch(url: str) -> bytes:
        if answers:
            raise answers.pop()
        return OLD

    issuers = Issuers(
        told.append,
        tasks,
        tmp_path / "issuers",
        random=random.Random(1),
        clock=asyncio.get_running_loop().time,
        wall=lambda: WALL,
        fetch=fetch,
    )
    issuers.watch(scheme("https://id.example/jwks"))
    async with asyncio.timeout(5):
        while not told:
            await asyncio.sleep(0)
    assert issuers.seen(scheme("")) == ()
    assert issuers.readings["https://id.example/jwks"] == [1, 2]


async def test_a_reload_has_a_new_issuers_keys_before_its_scheme(tmp_path: Path) -> None:
    one, two = "https://one.example/jwks", "https://two.example/jwks"
    answers = {one: asyncio.Event(), two: asyncio.Event()}
    answers[one].set()

    async def fetch(url: str) -> bytes:
        await answers[url].wait()
        return OLD

    def with_source(url: str) -> Settings:
        made = settings(tmp_path, "web")
        return replace(made, template=msgspec.structs.replace(made.template, auth=scheme(url)))

    world = World(tmp_path, base=with_source(one))
    world.time = {"fetch": fetch}
    try:
        control = await world.start()
        worker = await world.worker()
        hub, issuers = control.switchboard.parts.hub, control.switchboard.parts.issuers
        assert issuers is not None
        world.settings = with_source(two)
        reload = asyncio.ensure_future(control.operations.reload(Caller(actor="b", address="x")))
        async with asyncio.timeout(5):
            while two not in issuers.readings:
                await asyncio.sleep(0.001)
        assert (hub.topology.auth, set(hub._keys)) == (scheme(one), {one})
        # Another write meanwhile leaves it alone.
        control.switchboard.watch(hub.topology)
        assert set(issuers.readings) == {one, two}
        answers[two].set()
        assert (await reload).changes == ("auth: changed",)
        assert worker.topology is not None
        assert worker.topology.auth == scheme(two)
        assert set(hub._keys) == {two}

        # One that comes to nothing is forgotten.
        world.settings = with_source(one)
        stale = Caller(actor="b", address="x", revisions=frozenset({10**6}))
        with pytest.raises(StaleRevisionError):
            await control.operations.reload(stale)
        assert set(hub._keys) == set(issuers.known) == set(issuers.readings) == {two}
    finally:
        await world.close()


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
    held = (issuers.known, issuers.readings, issuers.read_at, issuers._wanted, issuers._tried)
    assert held == ({}, {}, {}, {}, {})
    issuers.unknown_key(source.url)


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
