"""The fake admin API as a server, and a way to run a command line against it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.cli import invoke
from tests.cli.fake_admin import TOKEN, Ended, FakeAdmin, Run


@pytest.fixture
async def admin() -> AsyncIterator[FakeAdmin]:
    fake = FakeAdmin()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    server = TestServer(app)
    await server.start_server()
    fake.url = f"http://127.0.0.1:{server.port}"
    yield fake
    await server.close()


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder with no gateway in sight; returns the folder."""
    for name in (
        "GATEWAY_ADMIN",
        "GATEWAY_TOKEN",
        "GATEWAY_CA",
        "GATEWAY_CLIENT_CERT",
        "GATEWAY_CLIENT_KEY",
        "NO_COLOR",
        "FORCE_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gateway(
    admin: FakeAdmin,
    nowhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run ``gateway ARGUMENTS…`` against the fake, in a thread: it has its own event loop."""
    del nowhere
    monkeypatch.setenv("GATEWAY_ADMIN", admin.url)
    monkeypatch.setenv("GATEWAY_TOKEN", TOKEN)

    async def call(*arguments: str) -> Ended:
        code = await asyncio.to_thread(invoke, arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call
