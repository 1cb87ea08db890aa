"""Steps of upgrades are told once, whichever control process comes to them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from gateway.channel import upgrades
from gateway.channel.upgrades import Journal, Step
from gateway.control.events import Events
from gateway.control.state import State
from gateway.control.store import AuditEntry, SqliteStore, StoreError
from gateway.control.upgrades import UpgradeWatch


class Store:
    """A real store that can be full."""

    def __init__(self, inner: SqliteStore) -> None:
        self.inner = inner
        self.full = False

    async def has_audit(self, entry: AuditEntry) -> bool:
        return await self.inner.has_audit(entry)

    async def save(self, state: State, audit: list[AuditEntry]) -> None:
        if self.full:
            raise StoreError("disk full")
        await self.inner.save(state, audit)


@dataclass
class Parts:
    store: Store
    events: Events


@dataclass
class Switch:
    """What the watch needs of a switchboard."""

    parts: Parts
    state: State = field(default_factory=State)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Watched:
    def __init__(self, run_dir: Path, store: SqliteStore) -> None:
        self.run_dir = run_dir
        self.store = Store(store)
        self.journal = Journal()
        self.begin()

    def begin(self) -> None:
        """A control process begins."""
        self.events = Events("e")
        switch = Switch(Parts(self.store, self.events))
        self.watch = UpgradeWatch(self.run_dir, switch)  # type: ignore[arg-type]

    async def happens(self, step: str, **more: object) -> None:
        made = Step(id="a", step=step, at=100.0 + len(self.journal.steps), old="1", uid=7)
        self.journal.add(dataclasses.replace(made, **more))  # type: ignore[arg-type]
        self.journal.write(self.run_dir)
        await self.watch.look()

    def told(self) -> list[str]:
        return [msgspec.json.decode(each.data)["step"] for each in self.events.since("nobody's")]

    async def rows(self) -> list[str]:
        return [each.action for each in reversed(await self.store.inner.audit(None, 50))]


@pytest.fixture
async def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path, await SqliteStore.open(tmp_path / "gateway.db"))


async def test_each_step_is_told_once(watched: Watched) -> None:
    await watched.watch.look()
    await watched.happens(upgrades.ASKED)
    await watched.happens(upgrades.TRIED, new="2")
    await watched.watch.look()
    assert watched.told() == ["asked", "tried"]
    # Another version's control goes on.
    watched.begin()
    await watched.watch.look()
    await watched.happens(upgrades.DONE, new="2", seconds=1.5)
    assert watched.told() == ["done"]
    assert await watched.rows() == ["upgrade.asked", "upgrade.tried", "upgrade.done"]
    (last, *_) = await watched.store.inner.audit(None, 50)
    assert (last.actor, last.address, json.loads(last.before)) == (
        "uid 7",
        "local",
        {"version": "1"},
    )
    assert json.loads(last.after)["version"] == "2"
    assert watched.watch.journal.counts["done"] == 1


async def test_on_a_full_disk_events_come_at_once_and_rows_later(watched: Watched) -> None:
    watched.store.full = True
    await watched.happens(upgrades.ASKED)
    await watched.watch.look()
    assert watched.told() == ["asked"]
    assert await watched.rows() == []
    watched.store.full = False
    await watched.watch.look()
    assert watched.told() == ["asked"]
    assert await watched.rows() == ["upgrade.asked"]


async def test_two_upgrades_within_one_look_are_both_told(watched: Watched) -> None:
    watched.journal.add(Step(id="b", step=upgrades.REFUSED, at=99.0))
    await watched.happens(upgrades.REFUSED, text="no such version")
    assert watched.told() == ["refused", "refused"]
    assert len(await watched.rows()) == 2
