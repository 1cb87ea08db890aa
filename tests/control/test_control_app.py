"""What control does beside its calls goes on through any failure, and tells the truth."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.board import layout
from gateway.control import app
from tests.control.stage import staged

if TYPE_CHECKING:
    from pathlib import Path


async def test_one_part_that_fails_ends_no_other_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "LOOK_AT_MACHINE", 0.001)
    async with staged(tmp_path) as stage:
        turns = {"store": 0, "upgrades": 0}

        async def mend_store() -> None:
            turns["store"] += 1
            raise ValueError("nobody thought of this")

        async def look() -> None:
            turns["upgrades"] += 1

        monkeypatch.setattr(stage.control.switchboard, "mend_store", mend_store)
        monkeypatch.setattr(stage.control.upgrades, "look", look)
        await stage.really(lambda: min(turns.values()) >= 3)
        assert caplog.text.count("mend the store failed") == 1
        assert caplog.text.count("watching the machine") == 1


async def _hangs(_: Any) -> None:
    await asyncio.Event().wait()


async def _breaks(_: Any) -> None:
    raise RuntimeError("nobody thought of this")


@pytest.mark.parametrize("reload", [_breaks, _hangs])
async def test_a_reload_that_does_not_get_to_its_end_is_no_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reload: Any
) -> None:
    async with staged(tmp_path) as stage:
        words = stage.world.board.words
        before = words[layout.H_RELOADS], words[layout.H_RELOADS_REFUSED]
        monkeypatch.setattr(stage.control.operations, "reload", reload)
        task = asyncio.ensure_future(stage.control._reload())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises((RuntimeError, asyncio.CancelledError)):
            await task
        after = words[layout.H_RELOADS], words[layout.H_RELOADS_REFUSED]
        assert after == (before[0] + 1, before[1] + 1)


async def test_a_reload_that_is_done_is_counted_as_done(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        words = stage.world.board.words
        before = words[layout.H_RELOADS], words[layout.H_RELOADS_REFUSED]
        await stage.control._reload()
        after = words[layout.H_RELOADS], words[layout.H_RELOADS_REFUSED]
        assert after == (before[0] + 1, before[1])
