"""What the admin API speaks TLS with: put into force by a reload, kept for a restart of control."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from gateway.config.certificates import read_pair
from gateway.config.snapshot import ListenerTls
from gateway.control import start
from gateway.control.settings import Settings
from gateway.control.switchboard import Caller
from tests.control.world import World, settings
from tests.support.certificates import Authority

AUTHORITY, OTHER = Authority(), Authority()
BOSS = Caller(actor="boss", address="x")


def with_tls(base: Settings, path: Path, min_version: Literal["1.2", "1.3"] = "1.2") -> Settings:
    pair = read_pair("admin.tls.certificates[0]", str(path / "site.pem"), str(path / "site.key"))
    return replace(
        base,
        admin_tls=ListenerTls(certificates=(pair,), min_version=min_version),
        client_ca=AUTHORITY.pem,
        client_ca_file="callers.pem",
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    AUTHORITY.make("localhost").write(tmp_path)
    world = World(tmp_path, base=with_tls(settings(tmp_path, "web"), tmp_path))
    try:
        await world.start()
        yield world
    finally:
        await world.close()


def context(world: World) -> ssl.SSLContext:
    assert world.control is not None
    assert world.control._admin_front is not None
    return world.control._admin_front.context


async def test_a_reload_has_it_in_force_at_once_and_is_audited(world: World) -> None:
    control = world.control
    assert control is not None
    world.settings = with_tls(world.settings, world.path, "1.3")
    assert (await control.operations.reload(BOSS)).changes == ("admin.tls: changed",)
    assert context(world).minimum_version == ssl.TLSVersion.TLSv1_3

    world.settings = replace(world.settings, client_ca=OTHER.pem)
    assert (await control.operations.reload(BOSS)).changes == ("admin.tls.client_ca: changed",)
    assert context(world).get_ca_certs(binary_form=True) == [
        ssl.PEM_cert_to_DER_cert(OTHER.pem.decode())
    ]
    rows = await control.switchboard.parts.store.audit(2**40, 5)
    assert [row.action for row in rows] == ["config.reload"] * 2
    assert (await control.operations.reload(BOSS)).changes == ()


async def test_authorities_that_cannot_be_served_with_leave_what_was(world: World) -> None:
    """They were tried when they were read; whatever it is, the reload has been, and is told."""
    control = world.control
    assert control is not None
    before = context(world)
    world.settings = replace(world.settings, client_ca=b"none")
    assert (await control.operations.reload(BOSS)).changes == ("admin.tls.client_ca: changed",)
    assert context(world) is before
    await control._certificates.turn()
    assert context(world) is before


async def test_what_it_serves_with_is_kept_for_a_restart_of_control(world: World) -> None:
    control = world.control
    assert control is not None
    file = control._spec.snapshot_file
    assert world.settings.admin_tls is not None
    kept = start.kept(file, world.board)
    assert kept.client_ca == ("callers.pem", AUTHORITY.pem)
    assert kept.certificates == world.settings.admin_tls.certificates
    assert "PRIVATE" not in repr(kept)
    assert Path(file + start.ADMIN).stat().st_mode & 0o777 == 0o600

    world.settings = replace(world.settings, client_ca=OTHER.pem, client_ca_file="others.pem")
    await control.operations.reload(BOSS)
    assert start.kept(file, world.board).client_ca == ("others.pem", OTHER.pem)
    world.settings = replace(world.settings, client_ca=None, client_ca_file="")
    await control.operations.reload(BOSS)
    assert start.kept(file, world.board).client_ca is None
