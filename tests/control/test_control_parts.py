"""The small parts: places on the board, names, events, the snapshot file, the file's settings."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from pathlib import Path

import msgspec
import pytest

from gateway.board import layout
from gateway.channel import snapshotfile
from gateway.channel.messages import Apply
from gateway.config.snapshot import (
    Endpoint,
    Pool,
    Service,
    ServiceTraffic,
    Topology,
    Traffic,
)
from gateway.control import events as ring
from gateway.control import merge
from gateway.control.allocation import Allocation, AllocationError
from gateway.control.events import Events, TooManyWatchersError
from gateway.control.operations import subset
from gateway.control.read import read
from gateway.control.resolver import INTERVAL, INTERVAL_FAILED, Resolver, is_name
from gateway.control.settings import SettingsError
from gateway.control.state import ServiceState, State
from gateway.control.tasks import Tasks

# --- places on the board ------------------------------------------------------------------------


class FakeCells:
    def __init__(self) -> None:
        self.busy: set[int] = set()
        self.cleared: list[int] = []

    def endpoint_in_flight(self, cell: int) -> int:
        return int(cell in self.busy)

    def clear_cell(self, cell: int) -> None:
        self.cleared.append(cell)


def test_a_place_is_kept_until_it_is_given_up() -> None:
    allocation = Allocation(FakeCells())
    assert [allocation.row(name) for name in ("a", "b", "a")] == [1, 2, 1]
    assert [allocation.cell(name) for name in ("x", "y", "x")] == [0, 1, 0]
    allocation.retain(["b"], ["y"])
    assert allocation.row("b") == 2
    assert allocation.row("c") == 3
    assert allocation.cell("z") == 2  # in a circle: not the one just given up


def test_a_cell_with_requests_in_flight_is_not_given_to_another() -> None:
    cells = FakeCells()
    cells.busy = {0, 1, 2}
    assert Allocation(cells).cell("x") == 3
    assert cells.cleared == [3]


def test_a_row_that_is_free_again_is_the_last_to_be_given() -> None:
    """Its counts are there yet: they would be taken for the next service's."""
    allocation = Allocation(FakeCells())
    assert [allocation.row(name) for name in "abc"] == [1, 2, 3]
    allocation.retain(["a", "c"], [])
    assert allocation.row("d") == 4
    for number in range(5, layout.MAX_SERVICES):
        assert allocation.row(str(number)) == number
    assert allocation.row("e") == 2


def test_a_full_board_says_so() -> None:
    allocation = Allocation(FakeCells())
    for number in range(layout.MAX_SERVICES - 1):
        allocation.row(str(number))
    with pytest.raises(AllocationError):
        allocation.row("one more")
    for number in range(layout.MAX_ENDPOINTS):
        allocation.cell(str(number))
    with pytest.raises(AllocationError):
        allocation.cell("one more")


def endpoint(name: str, cell: int) -> Endpoint:
    return Endpoint(id=name, cell=cell, url="http://h:1", scheme="http", host="h", port=1)


def topology() -> Topology:
    pool = Pool(
        service="a", color="blue", generation=1, source="file", endpoints=(endpoint("a-1", 7),)
    )
    return Topology(number=3, services=(Service(name="a", row=5),), pools=(pool,))


def test_places_are_taken_over_from_a_running_snapshot() -> None:
    cells = FakeCells()
    allocation = Allocation(cells)
    allocation.take_over(topology())
    assert allocation.row("a") == 5
    assert allocation.row("b") == 6
    assert allocation.cell("a-1") == 7
    assert allocation.cell("a-2") == 8
    assert cells.cleared == [8]


# --- the snapshot file ----------------------------------------------------------------------------


def test_maintenance_and_isolation_are_taken_up_from_what_workers_serve() -> None:
    """A worker may serve something later than what was stored: control died in between."""
    kept = State(revision=3, services=(ServiceState(name="a", stable="blue", isolated=("green",)),))
    served = ServiceTraffic(service="a", stable="blue", closed=("green",), maintenance=60.0)
    traffic = Traffic(revision=4, services=(served,))
    found = merge.recovered(kept, Apply(number=9, topology=Topology(number=1), traffic=traffic))
    assert found is not None
    assert found.services[0].maintenance == 60.0
    assert found.services[0].isolated == ("green",)
    # Where the store was lost, what workers serve still tells isolated from drained.
    alone = msgspec.structs.replace(served, closed=("blue", "green"), isolated=("green",))
    lost = Apply(
        number=9,
        topology=Topology(number=1),
        traffic=Traffic(revision=4, services=(alone,)),
    )
    anew = merge.recovered(None, lost)
    assert anew is not None
    assert (anew.services[0].isolated, anew.services[0].drained) == (("green",), ("blue",))
    lifted = msgspec.structs.replace(served, maintenance=None)
    traffic = Traffic(revision=5, services=(lifted,))
    again = merge.recovered(found, Apply(number=9, topology=Topology(number=1), traffic=traffic))
    assert again is not None
    assert again.services[0].maintenance is None
    same = Apply(number=9, topology=Topology(number=1), traffic=traffic)
    assert merge.recovered(again, same) is again


def test_a_snapshot_file_is_read_as_written(tmp_path: Path) -> None:
    path = str(tmp_path / "snapshot-b.bin")
    assert snapshotfile.read(path) is None
    snapshot = Apply(number=9, topology=topology(), traffic=Traffic(revision=4))
    snapshotfile.write(path, snapshot)
    assert snapshotfile.read(path) == snapshot
    assert [each.name for each in tmp_path.iterdir()] == ["snapshot-b.bin"]
    assert Path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x80", b"\xff" * 100])
def test_what_is_no_snapshot_file_is_that_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "snapshot-b.bin"
    path.write_bytes(content)
    with pytest.raises(snapshotfile.SnapshotFileError):
        snapshotfile.read(str(path))


def test_a_move_beside_a_snapshot_file_counts_until_the_next_snapshot(tmp_path: Path) -> None:
    path = str(tmp_path / "snapshot-b.bin")
    first = Apply(number=9, topology=topology(), traffic=Traffic(revision=4))
    snapshotfile.write(path, first)
    snapshotfile.move(path, Apply(number=10, traffic=Traffic(revision=5, salt=b"s")))
    moved = snapshotfile.read(path)
    assert moved is not None
    assert (moved.number, moved.topology) == (10, first.topology)
    assert moved.traffic == Traffic(revision=5, salt=b"s")
    assert Path(f"{path}.traffic").stat().st_mode & 0o777 == 0o600
    later = Apply(number=11, topology=topology(), traffic=Traffic(revision=6))
    snapshotfile.write(path, later)
    assert snapshotfile.read(path) == later
    with pytest.raises(ValueError, match="traffic alone"):
        snapshotfile.move(path, later)


def test_a_move_without_its_snapshot_is_none(tmp_path: Path) -> None:
    path = str(tmp_path / "snapshot-b.bin")
    snapshotfile.move(path, Apply(number=10, traffic=Traffic(revision=5)))
    assert snapshotfile.read(path) is None
    snapshotfile.write(path, Apply(number=1, topology=topology(), traffic=Traffic(revision=1)))
    Path(f"{path}.traffic").write_bytes(b"\xc1")
    with pytest.raises(snapshotfile.SnapshotFileError):
        snapshotfile.read(path)


def test_half_a_snapshot_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both parts"):
        snapshotfile.write(str(tmp_path / "x"), Apply(number=1, topology=topology()))
    with pytest.raises(OSError, match="No such file"):
        snapshotfile.write(
            str(tmp_path / "no" / "x"),
            Apply(number=1, topology=topology(), traffic=Traffic(revision=1)),
        )


# --- names ----------------------------------------------------------------------------------------


def test_literals_are_no_names() -> None:
    assert [is_name(host) for host in ("h", "a.b", "10.0.0.1", "::1")] == [
        True,
        True,
        False,
        False,
    ]


class FakeNames:
    """Answers from a table, and sleeps only as long as the test lets it."""

    def __init__(self) -> None:
        self.table: dict[str, tuple[str, ...]] = {"api": ("10.0.0.1",)}
        self.published: list[dict[str, tuple[str, ...]]] = []
        self.slept: list[float] = []
        self.turn = asyncio.Event()
        self.asleep = asyncio.Event()

    async def resolve(self, name: str) -> tuple[str, ...]:
        if name not in self.table:
            raise OSError("no such name")
        return self.table[name]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.asleep.set()
        await self.turn.wait()
        self.turn.clear()

    async def next(self) -> None:
        """Let one interval pass."""
        await self.asleep.wait()
        self.asleep.clear()
        self.turn.set()
        await self.asleep.wait()


async def test_names_are_asked_again_and_the_last_answer_is_kept() -> None:
    names, tasks = FakeNames(), Tasks()
    resolver = Resolver(
        names.published.append,
        tasks,
        random=random.Random(1),
        resolve=names.resolve,
        sleep=names.sleep,
    )
    resolver.watch(["api", "127.0.0.1"])
    await names.next()
    assert names.published == [{"api": ("10.0.0.1",)}]
    assert INTERVAL[0] <= names.slept[0] <= INTERVAL[1]
    names.table["api"] = ("10.0.0.2",)
    await names.next()
    assert names.published[1:] == [{"api": ("10.0.0.2",)}]
    del names.table["api"]
    await names.next()
    assert names.published[2:] == []
    assert resolver.known == {"api": ("10.0.0.2",)}
    assert INTERVAL_FAILED[0] <= names.slept[-1] <= INTERVAL_FAILED[1]
    resolver.watch([])
    assert resolver.known == {}
    await tasks.close()


async def test_new_names_are_resolved_before_they_come_into_force() -> None:
    names, tasks = FakeNames(), Tasks()
    resolver = Resolver(
        names.published.append, tasks, random=random.Random(1), resolve=names.resolve
    )
    await resolver.prepare(["api", "nope", "10.0.0.9"], seconds=5)
    assert names.published == [{"api": ("10.0.0.1",)}]
    await tasks.close()


async def test_a_name_that_hangs_holds_up_no_other_and_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over, asked = threading.Event(), []

    def system(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        if host.startswith("slow"):
            over.wait(20)
            raise OSError("nobody answered")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", system)
    monkeypatch.setattr("gateway.control.resolver.TIMEOUT", 0.05)
    published: list[dict[str, tuple[str, ...]]] = []
    tasks = Tasks()
    resolver = Resolver(published.append, tasks, random=random.Random(1))
    try:
        # More of them than any pool has threads.
        slow = [f"slow{number}" for number in range(64)]
        assert not any(await asyncio.gather(*(resolver.ask(name) for name in slow)))
        assert await resolver.ask("fine")
        assert published == [{"fine": ("10.0.0.1",)}]
        assert not await resolver.ask("slow0")
        assert asked.count("slow0") == 1
        assert resolver.failing.keys() == set(slow)
        assert "not answered" in resolver.failing["slow0"]
    finally:
        over.set()
    await tasks.close()


async def test_what_was_known_before_stands_while_a_name_fails() -> None:
    names, tasks = FakeNames(), Tasks()
    names.table.clear()
    resolver = Resolver(
        names.published.append,
        tasks,
        random=random.Random(1),
        resolve=names.resolve,
        sleep=names.sleep,
        known={"api": ("10.0.0.9",), "other": ("10.0.0.8",)},
    )
    resolver.watch(["api"])
    await names.asleep.wait()
    assert resolver.known == {"api": ("10.0.0.9",)}
    assert resolver.failing == {"api": "no such name"}
    names.table["api"] = ("10.0.0.9",)
    await names.next()
    assert resolver.failing == {}
    assert names.published == []
    await tasks.close()


# --- events ---------------------------------------------------------------------------------------


async def test_events_are_a_bounded_ring() -> None:
    events = Events("e")
    first = events.publish("traffic", revision=1)
    assert events.since(None) == []
    assert events.since(first.id) == []
    for _ in range(ring.KEPT + 5):
        events.publish("health", endpoint="x")
    assert len(events.since(first.id)) == ring.KEPT  # it has gone: all that is kept
    with events.watch() as watcher:
        events.publish("pool", service="a")
        following = await watcher.next()
        assert following is not None
        assert (following.kind, following.data) == ("pool", b'{"service":"a"}')
        for _ in range(ring.MAX_WAITING + 5):
            events.publish("pool", service="a")
        count = 0
        while await watcher.next() is not None:
            count += 1
        assert count == ring.MAX_WAITING


def test_watchers_are_bounded() -> None:
    events = Events("e")
    with pytest.raises(TooManyWatchersError):
        _enter(events, ring.MAX_WATCHERS + 1)


def _enter(events: Events, count: int) -> None:
    if count:
        with events.watch():
            _enter(events, count - 1)


# --- tasks ----------------------------------------------------------------------------------------


async def test_a_task_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise RuntimeError("oh")

    tasks = Tasks()
    task = tasks.start(fails(), name="the one that fails")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert "the one that fails" in caplog.text
    assert repr(tasks) == "Tasks([])"
    await tasks.close()


# --- settings -------------------------------------------------------------------------------------

CONFIG = """\
version: 1
admin:
  hosts: [gw.example]
  tokens: [{name: pipeline, role: operator, token_env: TOKEN}]
services:
  ivor:
    initial_stable: blue
    blue: {endpoints: ["http://LOCALHOST:3101/"]}
    health: {interval: 2s, L1: {tcp: true}, L2: {path: /health}}
"""


def test_settings_come_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    settings = read(path, {"TOKEN": "a-long-enough-secret-token"})
    (service,) = settings.services
    assert service.initial_stable == "blue"
    assert service.blue == ("http://localhost:3101",)
    assert service.green == ()
    assert service.health.interval == 2.0
    assert service.health.http is not None
    assert service.health.http.path == "/health"
    assert [(token.name, token.role) for token in settings.tokens] == [("pipeline", "operator")]
    assert "gw.example" in settings.admin_hosts
    assert "a-long-enough-secret-token" not in repr(settings)


def test_a_wrong_file_gives_every_fault_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 2\nservices: {}\n")
    with pytest.raises(SettingsError) as error:
        read(path, {})
    assert len(error.value.faults) >= 2
    assert all(where.startswith(f"{path}:") for where, _ in error.value.faults)


@pytest.mark.parametrize(
    ("wanted", "found", "holds"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
        ({"a": {"b": 1}}, {"a": 1}, False),
        ({"a": None}, {}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({}, {"a": 1}, True),
        ({}, [], False),
    ],
)
def test_expected_json_is_a_subset(wanted: object, found: object, holds: bool) -> None:
    assert subset(wanted, found) is holds
