"""Certificates in force: replaced as their files change, told of before they end.

The clock is the test's; a look at the files is asked for and not waited for.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.certificates import DAY, read_pair
from gateway.config.snapshot import Listener, ListenerTls, TlsCertificate
from gateway.control import certificates
from gateway.control.switchboard import Caller
from tests.control.world import World, client, settings
from tests.support.certificates import Authority, Made

AUTHORITY = Authority()
PLACE = "listen[0].tls.certificates[0]"


class Watched:
    """A control process whose only listener has a certificate of 90 days."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tls"
        self.first = AUTHORITY.make("site.example", days=90)
        self.install(self.first)
        pair = read_pair(PLACE, str(self.folder / "site.pem"), str(self.folder / "site.key"))
        made = settings(folder, "web")
        listener = Listener(address="127.0.0.1:8443", tls=ListenerTls(certificates=(pair,)))
        template = msgspec.structs.replace(made.template, listeners=(listener,))
        self.world = World(folder, base=replace(made, template=template))
        self.now = time.time()
        self.world.time = {"wall": lambda: self.now}
        self.expires = pair.expires

    def install(self, made: Made) -> None:
        made.write(self.folder)

    async def look(self) -> None:
        assert self.world.control is not None
        await self.world.control._certificates.turn()

    @property
    def served(self) -> bytes:
        assert self.world.control is not None
        [found] = certificates.in_force(self.world.control.switchboard.settings)
        return found.chain

    @property
    def told(self) -> list[tuple[str, dict[str, Any]]]:
        assert self.world.control is not None
        events = self.world.control.events.since("none")
        return [(each.kind, json.loads(each.data)) for each in events]

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [data for kind, data in self.told if kind == "alert"]

    async def get(self, path: str) -> Any:
        async with client(self.world) as session, session.get(path) as answer:
            assert answer.status == 200
            return await (answer.json() if path != "/metrics" else answer.text())


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(certificates, "EVERY", 3600.0)
    watched = Watched(tmp_path)
    try:
        await watched.world.start()
        await watched.world.worker()
        await watched.look()  # behind control's own first look
        yield watched
    finally:
        await watched.world.close()


async def test_an_end_is_told_at_each_threshold_once(watched: Watched) -> None:
    for days, severity, threshold in (
        (31, None, None),
        (30, "warning", 30),
        (8, None, None),
        (7, "warning", 7),
        (1, "critical", 1),
        (-2, "critical", 0),
    ):
        before = len(watched.alerts)
        watched.now = watched.expires - days * DAY
        await watched.look()
        await watched.look()
        fresh = watched.alerts[before:]
        assert [(each["severity"], each["threshold_days"]) for each in fresh] == (
            [] if severity is None else [(severity, threshold)]
        ), days
    last = watched.alerts[-1]
    assert last["about"] == "certificate"
    assert last["certificate"] == PLACE
    assert last["names"] == ["site.example"]
    assert last["expires"] == watched.expires
    assert last["detail"] == "the certificate for site.example has expired 2 days ago"


async def test_an_end_is_told_by_every_means_and_again_after_a_restart(watched: Watched) -> None:
    watched.now = watched.expires - 2 * DAY
    async with client(watched.world) as session, session.get("/v1/events") as stream:
        await watched.look()
        async with asyncio.timeout(5):
            async for line in stream.content:
                if line.startswith(b"data:") and b"certificate" in line:
                    break
        assert json.loads(line[5:])["threshold_days"] == 7
    [warning] = (await watched.get("/v1/status"))["warnings"]
    assert warning == f"{PLACE}: the certificate for site.example expires in 2.0 days"
    name = "gateway_certificate_expiry_timestamp_seconds"
    line = next(each for each in (await watched.get("/metrics")).splitlines() if PLACE in each)
    assert line.startswith(f'{name}{{certificate="{PLACE}"}} ')
    assert float(line.split()[1]) == watched.expires
    await watched.world.stop()
    await watched.world.start()
    await watched.look()
    assert [each["threshold_days"] for each in watched.alerts] == [7]


async def test_a_renewal_ends_the_warning_and_is_audited(watched: Watched) -> None:
    watched.now = watched.expires - 2 * DAY
    await watched.look()
    assert len((await watched.get("/v1/status"))["warnings"]) == 1
    fresh = AUTHORITY.make("site.example", days=180)
    watched.install(fresh)
    await watched.look()
    assert (await watched.get("/v1/status"))["warnings"] == []
    assert watched.served == fresh.certificate
    [row] = [
        each for each in (await watched.get("/v1/audit"))["rows"] if "certif" in each["action"]
    ]
    assert (row["actor"], row["action"]) == ("certificates", "certificates.renew")
    [(_, event)] = [each for each in watched.told if each[0] == "config"]
    assert event["changes"][0].startswith(f"{PLACE}: renewed, good until ")
    worker = watched.world.workers[0]
    assert worker.topology is not None
    tls = worker.topology.listeners[0].tls
    assert tls is not None
    assert tls.certificates[0].chain == fresh.certificate
    assert "PRIVATE" not in json.dumps(watched.told) + json.dumps(row)


def written_over(folder: Path, made: Made) -> None:
    made.write(folder)


def renamed(folder: Path, made: Made) -> None:
    for path in made.write(folder.parent / "new"):
        path.rename(folder / path.name)


def link_moved(folder: Path, made: Made) -> None:
    """As certbot does: new files in an archive, and links that are moved to them."""
    for path in made.write(folder.parent / "archive"):
        (folder / "next").symlink_to(path)
        (folder / "next").rename(folder / path.name)


def folder_moved(folder: Path, made: Made) -> None:
    """As Kubernetes does: files are links through ``..data``, a link that is moved."""
    made.write(folder.parent / "v2")
    for path in list(folder.iterdir()):
        path.unlink()
    (folder / "..data").symlink_to(folder.parent / "v2")
    for name in ("site.pem", "site.key"):
        (folder / name).symlink_to(Path("..data") / name)


@pytest.mark.parametrize("way", [written_over, renamed, link_moved, folder_moved])
async def test_a_pair_is_seen_however_it_is_replaced(
    watched: Watched, way: Callable[[Path, Made], None]
) -> None:
    await watched.look()
    assert watched.served == watched.first.certificate
    fresh = AUTHORITY.make("site.example")
    way(watched.folder, fresh)
    await watched.look()
    assert watched.served == fresh.certificate


async def test_files_of_the_same_size_and_time_are_told_apart(watched: Watched) -> None:
    """As `cp -p` and `tar` write them."""
    await watched.look()
    fresh = AUTHORITY.make("site.example")
    path = watched.folder / "site.pem"
    times = path.stat()
    watched.install(fresh)
    for each in (path, watched.folder / "site.key"):
        os.utime(each, ns=(times.st_atime_ns, times.st_mtime_ns))
    await watched.look()
    assert watched.served == fresh.certificate


@pytest.mark.parametrize("order", [("pem", "key"), ("key", "pem")])
async def test_half_a_renewal_is_waited_out(watched: Watched, order: tuple[str, str]) -> None:
    fresh = AUTHORITY.make("site.example")
    octets = {"pem": fresh.certificate, "key": fresh.key}
    for part in order:
        await watched.look()
        assert watched.served == watched.first.certificate
        (watched.folder / f"site.{part}").write_bytes(octets[part])
    await watched.look()
    assert watched.served == fresh.certificate


def gone(folder: Path) -> None:
    (folder / "site.key").unlink()


def emptied(folder: Path) -> None:
    (folder / "site.pem").write_bytes(b"")


def unreadable(folder: Path) -> None:
    (folder / "site.pem").unlink()
    (folder / "site.pem").symlink_to(folder / "site.pem")


def anothers(folder: Path) -> None:
    (folder / "site.key").write_bytes(AUTHORITY.make("x").key)


@pytest.mark.parametrize("harm", [gone, emptied, unreadable, anothers])
async def test_what_is_of_no_use_is_told_once_and_not_served(
    watched: Watched, harm: Callable[[Path], None]
) -> None:
    await watched.look()
    harm(watched.folder)
    await watched.look()
    await watched.look()
    assert watched.served == watched.first.certificate
    [alert] = watched.alerts
    assert (alert["severity"], alert["certificate"]) == ("warning", PLACE)
    assert str(watched.folder) in alert["detail"]
    assert alert["detail"].endswith("; the certificate before it is served on")
    [warning] = (await watched.get("/v1/status"))["warnings"]
    assert warning == f"{PLACE}: {alert['detail']}"
    refused = f'gateway_certificate_files_refused{{certificate="{PLACE}"}}'
    assert f"{refused} 1.0" in await watched.get("/metrics")

    for name in ("site.pem", "site.key"):
        (watched.folder / name).unlink(missing_ok=True)
    watched.install(watched.first)
    await watched.look()
    assert [each["severity"] for each in watched.alerts] == ["warning", "info"]
    assert (await watched.get("/v1/status"))["warnings"] == []
    assert f"{refused} 0.0" in await watched.get("/metrics")


async def test_a_reload_that_had_read_before_a_renewal_does_not_undo_it_for_good(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the files, waits for names, and puts what it has read into force."""
    control = watched.world.control
    assert control is not None
    resolver = control.switchboard.parts.resolver
    reading, renewed = asyncio.Event(), asyncio.Event()

    async def prepare(hosts: Iterable[str], *, seconds: float) -> None:
        reading.set()
        await renewed.wait()

    monkeypatch.setattr(resolver, "prepare", prepare)
    caller = Caller(actor="boss", address="x")
    reload = asyncio.ensure_future(control.operations.reload(caller))
    await reading.wait()
    fresh = AUTHORITY.make("site.example", days=120)
    watched.install(fresh)
    await watched.look()
    assert watched.served == fresh.certificate
    renewed.set()
    assert (await reload).changes == ("listeners: changed",)
    assert watched.served == watched.first.certificate
    await watched.look()
    assert watched.served == fresh.certificate


async def test_a_renewal_of_nothing_is_told_to_nobody(watched: Watched) -> None:
    """A reload with other files at the place came between a look and its end."""
    control = watched.world.control
    assert control is not None
    pair = read_pair(PLACE, str(watched.folder / "site.pem"), str(watched.folder / "site.key"))
    before, number = len(watched.told), control.switchboard.parts.hub.number
    moved = msgspec.structs.replace(pair, certificate_file="/elsewhere.pem")
    await control._certificates._serve({PLACE: moved})
    assert (len(watched.told), control.switchboard.parts.hub.number) == (before, number)
    rows = (await watched.get("/v1/audit"))["rows"]
    assert [each for each in rows if "certif" in each["action"]] == []


@pytest.mark.parametrize("odd", [True, False])
async def test_what_is_wrong_at_one_place_keeps_no_other_from_its_renewal(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: bool
) -> None:
    control = watched.world.control
    assert control is not None
    switch = control.switchboard
    second = "listen[0].tls.certificates[1]"
    old = read_pair(second, *map(str, watched.first.write(watched.folder, "second")))
    [first] = certificates.in_force(switch.settings)
    listener = Listener(address="127.0.0.1:8443", tls=ListenerTls(certificates=(first, old)))
    template = msgspec.structs.replace(switch.settings.template, listeners=(listener,))
    switch.settings = replace(switch.settings, template=template)
    watched.install(AUTHORITY.odd())
    fresh = AUTHORITY.make("site.example", days=200)
    fresh.write(watched.folder, "second")

    def read(place: str, certificate: str, key: str) -> TlsCertificate:
        if place == PLACE:
            raise RuntimeError("a surprise")
        return read_pair(place, certificate, key)

    if not odd:
        monkeypatch.setattr(certificates, "read_pair", read)
    await watched.look()
    assert [each.chain for each in certificates.in_force(switch.settings)] == [
        watched.first.certificate,
        fresh.certificate,
    ]
    assert control._certificates.refused == {PLACE}
    [alert] = watched.alerts
    assert ("parts that cannot be read" if odd else "failed (RuntimeError)") in alert["detail"]


async def test_one_surprise_does_not_end_the_watch(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched.world.control is not None
    watch = watched.world.control._certificates
    looks = []

    def look(found: object) -> certificates.Found:
        looks.append(found)
        raise RuntimeError("a surprise")

    monkeypatch.setattr(watch, "_look", look)
    monkeypatch.setattr(certificates, "EVERY", 0.0)
    task = asyncio.ensure_future(watch.watch())
    async with asyncio.timeout(5):
        while len(looks) < 3:
            await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
