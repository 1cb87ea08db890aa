"""Workers and control over a real socket: greeting, acknowledging, restarts, rollbacks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path

import pytest

from gateway.board import layout
from gateway.channel import handover, snapshotfile
from gateway.channel.framing import encode
from gateway.channel.messages import PROTOCOL, Ack, Hello
from gateway.control import desk
from gateway.control.desk import Outcome, Refused, Share
from gateway.control.hub import Hub
from gateway.control.state import State
from gateway.control.store import AuditEntry, SqliteStore, StoreError
from gateway.control.switchboard import Caller, Switchboard, Written
from gateway.release.record import Decision
from tests.control.world import World, running

CALLER = Caller(actor="test", address="here")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


def switchboard(world: World) -> Switchboard:
    assert world.control is not None
    return world.control.switchboard


def hub(world: World) -> Hub:
    return switchboard(world).parts.hub


async def set_traffic(world: World, weight: int) -> None:
    switch = switchboard(world)
    share = Share(side="candidate", weight=weight, force=True)
    await switch.write(
        CALLER,
        "traffic.set",
        lambda state, facts: desk.set_traffic(state, facts, share, switch.parts.fresh),
    )


def back(switch: Switchboard, *, force: bool = False) -> Coroutine[object, object, Written]:
    def decide(state: State, facts: desk.Facts) -> Outcome:
        return desk.rollback(
            state, facts, to="stable", names=None, force=force, fresh=switch.parts.fresh
        )

    return switch.rollback(CALLER, decide)


async def test_traffic_moves_without_topology(world: World) -> None:
    before = world.workers[0].topology
    await set_traffic(world, 100)
    assert world.workers[0].topology is before
    assert world.workers[0].traffic == hub(world).traffic


async def test_the_snapshot_file_is_what_workers_serve(world: World) -> None:
    await set_traffic(world, 100)
    kept = snapshotfile.read(str(world.path / "run" / "snapshot-b00t.bin"))
    assert kept is not None
    assert kept.traffic == world.workers[0].traffic
    assert kept.topology == world.workers[0].topology
    assert kept.number == hub(world).number


async def test_a_restarted_control_takes_the_workers_over(world: World) -> None:
    await set_traffic(world, 2000)
    worker = world.workers[0]
    served, topology, numbers = worker.traffic, worker.topology, list(worker.numbers)
    await world.stop()
    await world.start()
    for each in world.workers:
        await each.stop(layout.STATE_READY)
        await each.start()
        await each.until(numbers[-1] + 1)
    assert worker.numbers == sorted(worker.numbers)
    assert worker.topology is topology  # nothing was sent that it had
    assert worker.traffic is served
    assert switchboard(world).state.traffic() == served
    await set_traffic(world, 3000)
    assert worker.traffic is not None
    assert served is not None
    assert worker.traffic.revision == served.revision + 1
    assert worker.traffic.salt == served.salt


async def test_rows_and_cells_stay_across_a_restart(world: World) -> None:
    topology = hub(world).topology
    await world.stop()
    # An endpoint is known as it was, before any probe has come back.
    world.probes.down.update(f"http://127.0.0.1:{port}" for port in (3000, 3001, 4000, 4001))
    await world.start()
    assert hub(world).topology == topology
    assert switchboard(world).parts.facts.proven("ivor", "blue")


async def test_without_its_store_control_goes_on_from_what_workers_serve(world: World) -> None:
    await set_traffic(world, 10_000)
    switch = switchboard(world)
    await switch.write(CALLER, "f", lambda state, _: desk.finalize(state, None, switch.parts.fresh))
    await set_traffic(world, 500)
    traffic = hub(world).traffic
    await world.stop()
    for each in world.path.glob("gateway.db*"):
        each.unlink()
    await world.start()
    assert switchboard(world).state.traffic() == traffic
    assert {each.stable for each in hub(world).traffic.services} == {"green"}


async def test_without_store_and_file_numbers_still_only_grow(world: World) -> None:
    await set_traffic(world, 500)
    worker = world.workers[0]
    served, topology = worker.traffic, worker.topology
    assert served is not None
    assert topology is not None
    await world.stop()
    for each in [*world.path.glob("gateway.db*"), *(world.path / "run").glob("snapshot*")]:
        each.unlink()
    await world.start()
    await worker.stop(layout.STATE_READY)
    number = worker.numbers[-1]
    await worker.start()
    await worker.until(number + 1)
    assert worker.traffic is not None
    assert worker.traffic.revision > served.revision
    assert worker.topology is not None
    assert worker.topology.number > topology.number


async def test_a_worker_that_is_ahead_of_everything_is_numbered_above(world: World) -> None:
    worker = world.workers[0]
    assert worker.traffic is not None
    assert worker.topology is not None
    await worker.stop(layout.STATE_READY)
    worker.traffic = type(worker.traffic)(revision=1000)
    worker.topology = type(worker.topology)(number=2000)
    await worker.start()
    async with asyncio.timeout(5):
        while worker.traffic.revision != 1001:
            worker.changed.clear()
            await worker.changed.wait()
    assert worker.topology.number == 2001
    assert switchboard(world).state.revision == 1001


async def test_a_worker_that_is_ready_and_not_connected_is_waited_for(world: World) -> None:
    await world.workers[1].stop(layout.STATE_READY)
    move = asyncio.ensure_future(set_traffic(world, 100))
    await world.workers[0].until(hub(world).number)
    await asyncio.sleep(0)
    assert not move.done()
    await world.workers[1].start()
    await move
    assert world.workers[1].traffic == world.workers[0].traffic


async def test_a_draining_worker_is_not_waited_for(world: World) -> None:
    world.workers[1].answers = False
    world.board.slab(1)[layout.S_STATE] = layout.STATE_DRAINING
    await set_traffic(world, 100)
    assert hub(world).current()


async def test_a_worker_that_cannot_serve_it_lags_by_name(world: World) -> None:
    world.workers[1].error = "no memory"
    number = hub(world).send()
    applied = await hub(world).acknowledged(number, began=0.0, bound=0.2)
    assert applied.lagging == ("worker 1 (pid 1001)",)
    assert applied.errors == ("worker 1 (pid 1001): no memory",)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        encode(Ack(number=1)),
        encode(Hello(protocol=PROTOCOL + 1, version="x", slot=0, slab=0, pid=1)),
    ],
)
async def test_whoever_does_not_speak_the_protocol_is_cut_off(world: World, said: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(world.path / "run" / "control.sock"))
    writer.write(said)
    try:
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    except ConnectionResetError:
        pass
    writer.close()
    assert len(hub(world).workers()) == 2


# --- rollback on a store that fails -------------------------------------------------------------


class FailingStore:
    """A store whose disk is full while ``full``."""

    fallback = ""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.full = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def save(
        self, state: State, audit: Sequence[AuditEntry], decisions: Sequence[Decision] = ()
    ) -> None:
        await self.gate.wait()
        if self.full:
            raise StoreError("disk full")
        await self._store.save(state, audit, decisions)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.fixture
async def failing(tmp_path: Path) -> AsyncIterator[tuple[World, FailingStore]]:
    world = World(tmp_path)
    store = FailingStore(await SqliteStore.open(world.settings.state_path))
    try:
        await world.start(store)  # type: ignore[arg-type]  # the rest goes through __getattr__
        await world.worker(0)
        yield world, store
    finally:
        await world.close()


async def test_a_write_that_cannot_be_stored_changes_nothing(
    failing: tuple[World, FailingStore],
) -> None:
    world, store = failing
    store.full = True
    number = hub(world).number
    with pytest.raises(StoreError):
        await set_traffic(world, 100)
    assert hub(world).number == number
    assert switchboard(world).state.zero


async def test_a_rollback_works_on_a_full_disk_and_is_stored_once_it_can_be(
    failing: tuple[World, FailingStore],
) -> None:
    world, store = failing
    await set_traffic(world, 2000)
    switch = switchboard(world)
    store.full = True
    written = await back(switch)
    assert written.changed
    assert not written.persisted
    assert world.workers[0].traffic is not None
    assert {each.weight for each in world.workers[0].traffic.services} == {0}
    assert any("not stored" in each for each in switch.warnings)
    # Control dies before the disk has room: the snapshot file knows better than the store.
    await world.stop()
    await world.start()
    assert switchboard(world).state.zero
    kept = await world.store.load() if world.store else None
    assert kept is not None
    assert kept.zero


async def test_a_rollback_waits_for_no_disk_and_overtakes_who_does(
    failing: tuple[World, FailingStore],
) -> None:
    world, store = failing
    await set_traffic(world, 2000)
    store.gate.clear()
    writer = asyncio.ensure_future(set_traffic(world, 5000))
    await asyncio.sleep(0)
    rollback = asyncio.ensure_future(back(switchboard(world)))
    await world.workers[0].until(hub(world).number + 1)
    assert switchboard(world).state.zero
    store.gate.set()
    with pytest.raises(Refused) as refused:
        await writer
    assert refused.value.kind == "overtaken"
    await rollback
    assert switchboard(world).state.zero
    assert hub(world).traffic == switchboard(world).state.traffic()
    kept = await store._store.load()
    assert kept is not None
    assert kept.zero


# --- the supervisor's side ------------------------------------------------------------------------


async def test_control_says_who_it_is_and_hands_its_sockets_over(world: World) -> None:
    path = world.path / "run" / "control-admin.sock"
    state = await asyncio.to_thread(handover.ask_state, path)
    assert (state.role, state.pid, state.state, state.boot) == (
        "control",
        os.getpid(),
        "ready",
        "b00t",
    )
    handed = await asyncio.to_thread(handover.take_over, path)
    try:
        (address, fd), _ = handed.sockets
        assert address == "127.0.0.1:9090"
        with socket.socket(fileno=os.dup(fd)) as taken:
            assert f":{taken.getsockname()[1]}" in world.url
    finally:
        handed.close()


async def test_control_beats_on_the_board(world: World) -> None:
    words = world.board.words
    assert words[layout.H_CONTROL_PID] == os.getpid()
    assert words[layout.H_CONTROL_STATE] == layout.STATE_READY
    assert words[layout.H_CONTROL_HEARTBEAT] >= words[layout.H_CONTROL_STARTED] > 0
    await world.stop()
    assert words[layout.H_CONTROL_STATE] == layout.STATE_GONE
