"""The state store is lost while control is down: what is served stays, and it is said loudly."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.channel import handover, snapshotfile
from gateway.channel.messages import Apply
from gateway.channel.unix import bind_unix
from gateway.config.snapshot import BUCKETS
from gateway.control import statecopy
from gateway.control.desk import Refused, Share, set_traffic
from gateway.control.state import State
from gateway.control.store import SqliteStore, StoreError
from tests.control.stage import PERSON, Stage, alerts, ask, post, staged
from tests.control.test_control_store_lost import checkpointed
from tests.control.world import OPERATOR, client


def lose(stage: Stage, *more: str) -> None:
    """Delete the store; ``copy`` and ``snapshot`` besides."""
    for each in stage.world.path.glob("gateway.db*"):
        each.unlink()
    run = stage.world.path / "run"
    if "copy" in more:
        (run / "snapshot-b00t.bin.state").unlink()
    if "snapshot" in more:
        for each in run.glob("snapshot-*"):
            each.unlink()


async def lost(stage: Stage, *more: str) -> None:
    """Kill control, lose what it kept, have another one on what is left."""
    assert stage.world.control is not None
    await stage.world.kill()
    await stage.store.inner.close()
    lose(stage, *more)
    await stage.start()
    for worker in stage.world.workers:
        await worker.stop(worker.state)
        await worker.start()
    await stage.really(stage.control.switchboard.parts.hub.current)
    await stage.settled()


def told(stage: Stage) -> list[dict[str, Any]]:
    return [each for each in alerts(stage) if each["about"] == "store"]


async def rows(stage: Stage) -> list[str]:
    return [each.action for each in await stage.store.inner.audit(None, 100)]


def moved(weight: int) -> Callable[[State, Any], Any]:
    def decide(state: State, facts: Any) -> Any:
        return set_traffic(state, facts, Share(side="candidate", weight=weight), lambda: b"x" * 22)

    return decide


async def share(stage: Stage, weight: int) -> None:
    await stage.control.switchboard.write(PERSON, "traffic.set", moved(weight))


async def test_a_split_by_hand_stays_and_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with staged(tmp_path) as stage:
        await share(stage, 3000)
        before = stage.state
        await lost(stage)
        assert stage.state == before
        assert stage.weights == {3000}
        [alert] = told(stage)
        assert alert["severity"] == "critical"
        assert "was deleted or emptied" in alert["detail"]
        assert "the audit log" in alert["detail"]
        assert await rows(stage) == ["state.rebuilt"]
        assert any(each.levelname == "ERROR" and "lost:" in each.message for each in caplog.records)
        [warning] = stage.control.switchboard.warnings
        assert warning == alert["detail"]
        # Nobody hushes it up by killing control again; an hour later it is history.
        at = stage.control.switchboard.rebuilt.at
        await stage.restarted()
        assert told(stage) == []
        assert stage.control.switchboard.warnings == [warning]
        assert stage.control.switchboard.rebuilt.at == at
        stage.clock.now += 3601.0
        assert stage.control.switchboard.warnings == []
        assert await rows(stage) == ["state.rebuilt"]


async def test_pools_isolation_and_maintenance_stay_without_the_copy(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, client(stage.world, OPERATOR) as api:
        path = "/v1/services/ivor/pools/candidate"
        status, body = await ask(
            api, "PUT", path, {"endpoints": ["http://127.0.0.1:4999"], "wait": "5s"}
        )
        assert status == 200, body
        status, body = await post(api, "/v1/services/events/maintenance", {"retry_after": "60s"})
        assert status == 200, body
        status, body = await post(api, "/v1/services/events/isolate", {"color": "candidate"})
        assert status == 200, body
        before = stage.state
        await lost(stage, "copy")
        assert stage.state.traffic() == before.traffic()
        for name in ("events", "ivor"):
            now, then = stage.state.of(name), before.of(name)
            assert now is not None
            assert then is not None
            assert (now.blue, now.green) == (then.blue, then.green)
            assert (now.isolated, now.drained) == (then.isolated, then.drained)
        assert "the snapshot that workers serve" in told(stage)[0]["detail"]


Bring = Callable[[Stage], Awaitable[None]]


async def validating(stage: Stage) -> None:
    await stage.lost("green")
    await stage.begins(force=True)


async def stepping(stage: Stage) -> None:
    await stage.at(20)


async def paused(stage: Stage) -> None:
    await stage.at(20)
    await stage.control.release_calls.pause(PERSON, "current")


async def held(stage: Stage) -> None:
    await stage.at(20)
    await stage.until(lambda: stage.run.state == "held")


async def baking(stage: Stage) -> None:
    await stage.at(100)


STATES = [validating, stepping, paused, held, baking]


@pytest.mark.parametrize("bring", STATES)
async def test_a_release_goes_on_where_it_was(tmp_path: Path, bring: Bring) -> None:
    async with staged(tmp_path, lease="30s") as stage:
        await bring(stage)
        run, weights = stage.run, stage.weights
        assert run.state == bring.__name__
        await lost(stage)
        assert stage.run == run
        assert stage.weights == weights
        assert "the second copy of the state" in told(stage)[0]["detail"]
        assert await stage.store.inner.release(run.id) == run
        stage.recovers()
        await stage.world.until_up("green")
        if run.state in {"paused", "held"}:
            await stage.control.release_calls.resume(PERSON, "current")
        assert (await stage.is_over()).state == "finalized"


async def test_a_release_is_judged_on(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        await lost(stage)
        await stage.fails(*range(1, 13))
        await stage.really(lambda: stage.weights == {0})
        assert stage.run.trigger == "regression"


@pytest.mark.parametrize("bring", STATES)
async def test_one_that_nobody_knows_any_more_goes_back_and_says_so(
    tmp_path: Path, bring: Bring
) -> None:
    async with staged(tmp_path, lease="30s") as stage:
        await bring(stage)
        run = stage.run
        await lost(stage, "copy")
        assert stage.run.id == run.id
        assert stage.run.names == run.names
        await stage.until(lambda: stage.run.over)
        assert stage.weights == {0}
        assert stage.run.state == "rolled_back"
        assert stage.run.trigger == "state_lost"
        assert "state store was lost" in stage.run.because
        assert f"Nobody knows the plan of release {run.id}" in told(stage)[0]["detail"]
        # No build is condemned for it, and whoever waits for it is told how it ended.
        assert await stage.store.inner.condemned() == set()
        async with client(stage.world, OPERATOR) as api:
            status, body = await ask(api, "GET", f"/v1/releases/{run.id}")
        assert (status, body["state"]) == (200, "rolled_back")
        releases = [each for each in alerts(stage) if each["about"] == "release"]
        assert any("state store was lost" in each["because"] for each in releases)
        stage.recovers()
        await stage.world.until_up("green")
        await stage.begins()  # the next one


async def test_one_that_is_forward_only_is_held(tmp_path: Path) -> None:
    async with staged(tmp_path, forward_only=True) as stage:
        await stage.at(20)
        run = stage.run
        await lost(stage, "copy")
        await stage.passes(3.0)
        assert (stage.run.id, stage.run.state, stage.weights) == (run.id, "held", {2000})
        assert stage.run.weight == 2000
        assert "forward only" in stage.run.because
        await stage.control.release_calls.promote(PERSON, "current", None)
        await stage.until(lambda: stage.weights == {BUCKETS})


async def test_it_waits_for_a_stable_that_can_serve(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        await stage.lost("blue")
        await lost(stage, "copy")
        await stage.passes(2.0)
        assert (stage.run.state, stage.weights) == ("held", {2000})
        stage.recovers()
        await stage.world.until_up("blue")
        await stage.until(lambda: stage.weights == {0})
        assert stage.run.trigger == "state_lost"


async def test_a_store_from_before_the_release_does_not_leave_it_to_nobody(tmp_path: Path) -> None:
    """Somebody put yesterday's copy of the store back."""
    async with staged(tmp_path) as stage:
        inner = stage.store.inner
        assert isinstance(inner, SqliteStore)
        to = str(tmp_path / "yesterday.db")
        await inner._run(lambda: inner._db.execute("VACUUM INTO ?", (to,)))
        run = await stage.at(20)
        await stage.world.kill()
        await inner.close()
        lose(stage)
        (tmp_path / "yesterday.db").rename(tmp_path / "gateway.db")
        await stage.start()
        assert stage.run == run
        assert "is older than what workers serve" in told(stage)[0]["detail"]


# --- the snapshot is lost, too --------------------------------------------------------------------


class Telling:
    """Workers' own sockets: each tells what its worker serves, as real ones do."""

    def __init__(self, stage: Stage) -> None:
        self._servers = [
            handover.Server(
                bind_unix(stage.world.path / "run" / f"worker-{worker.slab}.sock"),
                asyncio.get_running_loop(),
                board=0,
                state=_never,
                sockets=tuple,
                snapshot=lambda worker=worker: snapshotfile.octets_of(  # type: ignore[misc]
                    Apply(number=99, topology=worker.topology, traffic=worker.traffic)
                ),
            )
            for worker in stage.world.workers
        ]

    def close(self) -> None:
        for each in self._servers:
            each.close()


def _never() -> handover.State:
    raise AssertionError("nobody asks for it here")


async def test_workers_are_asked_where_no_file_is_left(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await share(stage, 3000)
        before = stage.state
        cells = [
            endpoint.cell
            for pool in stage.control.switchboard.parts.hub.topology.pools
            for endpoint in pool.endpoints
        ]
        telling = Telling(stage)
        try:
            await lost(stage, "snapshot")
        finally:
            telling.close()
        assert stage.weights == {3000}
        assert stage.state.salt == before.salt
        hub = stage.control.switchboard.parts.hub
        assert [e.cell for pool in hub.topology.pools for e in pool.endpoints] == cells
        assert hub.number > 99


async def test_the_newest_of_what_workers_serve_counts(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await share(stage, 3000)
        late = stage.world.workers[0]
        behind = late.traffic
        await share(stage, 4000)
        late.traffic = behind
        telling = Telling(stage)
        try:
            await lost(stage, "snapshot")
        finally:
            telling.close()
        assert stage.weights == {4000}


async def test_a_release_that_only_workers_know_goes_back(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        telling = Telling(stage)
        try:
            await lost(stage, "snapshot")
        finally:
            telling.close()
        await stage.until(lambda: stage.run.over)
        assert (stage.run.state, stage.weights) == ("rolled_back", {0})


async def test_with_all_of_it_lost_the_configuration_counts_and_it_is_told(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await share(stage, 3000)
        await lost(stage, "snapshot")
        assert stage.weights == {0}
        assert "the configuration alone" in told(stage)[0]["detail"]


async def test_the_first_start_there_ever_was_tells_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        assert told(stage) == []
        assert stage.control.switchboard.rebuilt.at == 0.0
        assert "state.rebuilt" not in await rows(stage)


# --- while control runs ---------------------------------------------------------------------------


async def test_a_store_that_is_deleted_below_control_is_made_again(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        lose(stage)
        await stage.control.switchboard.mend_store()
        [alert] = told(stage)
        assert "nothing is lost" in alert["detail"]
        run = stage.run
        await stage.restarted()
        assert told(stage) == []
        assert stage.run == run
        assert "state.rebuilt" in await rows(stage)
        assert (await stage.decisions())[0].what == "started"


async def test_evidence_is_stored_again_where_the_store_begins_from_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.at(20)
        await stage.fails(1, 2)
        inner = stage.store.inner
        assert isinstance(inner, SqliteStore)
        await stage.control._walk.store()
        checkpointed(tmp_path / "gateway.db")
        os.truncate(tmp_path / "gateway.db", 0)
        await stage.control.switchboard.mend_store()
        assert "rebuilt from what is in force" in told(stage)[0]["detail"]
        await stage.control._walk.store()
        keys, run = dict(stage.judgement.keys), stage.run
        assert keys
        await stage.restarted()
        assert stage.run == run
        assert stage.judgement.keys == keys


async def begins_on_a_new_board(stage: Stage) -> None:
    stage.world.board = type(stage.world.board).create(4)
    for worker in stage.world.workers:
        await worker.stop()
    stage.world.workers.clear()
    await stage.start()


async def unread(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have control begin anew, as after a reboot, beside a store that it cannot read."""
    assert stage.world.control is not None
    await stage.world.kill()
    await stage.store.inner.close()
    for each in (stage.world.path / "run").glob("snapshot-*"):
        each.rename(each.with_name(each.name.replace("b00t", "old")))

    def refuse(*_: object) -> None:
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.control.store.make_private", refuse)
        patch.setattr(SqliteStore, "_copy_in", refuse)
        await begins_on_a_new_board(stage)


async def test_a_store_that_cannot_be_read_is_told_and_gone_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        await share(stage, 3000)
        before = stage.state
        await unread(stage, monkeypatch)
        assert {each.weight for each in stage.state.services} == {0}
        [alert] = told(stage)
        assert "cannot be used" in alert["detail"]
        assert "out of reach: the audit log" in alert["detail"]
        assert "the configuration alone" in alert["detail"]
        assert "events: stable blue, 30 %" in alert["detail"]
        assert (tmp_path / "run" / "snapshot-old.bin.state").exists()
        await stage.control.switchboard.mend_store()
        assert "can be read again" in stage.control.switchboard.warnings[0]
        assert not list(tmp_path.glob("*.broken-*"))
        await stage.world.kill()
        await stage.store.inner.close()
        await stage.start()
        assert stage.state.services == before.services
        assert not list((tmp_path / "run").glob("snapshot-old*"))


async def test_with_a_folder_in_its_place_the_store_is_lost_and_not_out_of_reach(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        await share(stage, 3000)
        assert stage.world.control is not None
        await stage.world.kill()
        await stage.store.inner.close()
        lose(stage)
        (tmp_path / "gateway.db").mkdir()
        await stage.start()
        assert stage.weights == {3000}
        [alert] = told(stage)
        assert "cannot be used" in alert["detail"]
        assert "; lost: the audit log" in alert["detail"]


@pytest.mark.parametrize("without", [(), ("copy",), ("copy", "snapshot")])
async def test_a_start_beside_a_damaged_store_says_what_the_last_one_had(
    tmp_path: Path, without: tuple[str, ...]
) -> None:
    async with staged(tmp_path) as stage:
        await share(stage, 3000)
        assert stage.world.control is not None
        await stage.world.kill()
        await stage.store.inner.close()
        (tmp_path / "gateway.db").write_bytes(b"no database at all" * 100)
        run = tmp_path / "run"
        for each in run.glob("snapshot-*"):
            each.rename(each.with_name(each.name.replace("b00t", "old")))
        if "copy" in without:
            (run / "snapshot-old.bin.state").unlink()
        if "snapshot" in without:
            (run / "snapshot-old.bin").unlink()
            (run / "snapshot-old.bin.state").write_bytes(b"of no use")
        await begins_on_a_new_board(stage)
        [alert] = told(stage)
        assert "was of no use" in alert["detail"]
        had = "events: stable blue, 30 %; ivor: stable blue, 30 %: gateway adopt" in alert["detail"]
        assert had == ("snapshot" not in without)
        assert ("adopt" in alert["detail"]) == had
        assert list(run.glob("snapshot-old*"))


async def test_an_unread_store_that_is_damaged_is_told_when_it_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        await unread(stage, monkeypatch)
        for each in tmp_path.glob("gateway.db*"):
            each.write_bytes(b"no database at all" * 100)
        await stage.control.switchboard.mend_store()
        await stage.really(lambda: len(told(stage)) == 2)
        assert "out of reach since control began" in told(stage)[1]["detail"]
        assert (await rows(stage)).count("state.rebuilt") == 2


async def test_a_store_that_is_mended_during_a_write_keeps_that_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with staged(tmp_path) as stage:
        switch = stage.control.switchboard
        stage.store.gate = asyncio.Event()
        write = asyncio.ensure_future(share(stage, 3000))
        await stage.really(switch.lock.locked)
        lose(stage)
        mending = asyncio.ensure_future(switch.mend_store())
        await asyncio.sleep(0.05)  # long enough for it to reach the gate with the older state
        stage.store.gate.set()
        stage.store.gate = None
        await asyncio.gather(write, mending)
        assert "is behind" not in caplog.text
        assert stage.weights == {3000}
        assert [each.revision for each in stage.store.saved] == sorted(
            each.revision for each in stage.store.saved
        )
        assert await stage.store.inner.load() == stage.state


async def test_a_write_that_a_rollback_overtakes_in_the_store_too_is_told_so(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        switch = stage.control.switchboard
        await share(stage, 3000)
        gate = stage.store.gate = asyncio.Event()
        write = asyncio.ensure_future(share(stage, 4000))
        await stage.really(switch.lock.locked)
        await asyncio.sleep(0)
        stage.store.gate = None  # whoever comes now is not held up
        await switch.rollback(PERSON, moved(0))
        gate.set()
        with pytest.raises(Refused, match="a rollback came in between"):
            await write
        await stage.really(lambda: not switch.lock.locked())
        assert stage.weights == {0}
        assert await stage.store.inner.load() == stage.state


async def test_a_write_behind_the_store_fails_once(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        ahead = msgspec.structs.replace(stage.state, revision=stage.state.revision + 5)
        await stage.store.inner.save(ahead, [])
        with pytest.raises(StoreError, match="is behind"):
            await share(stage, 3000)
        await stage.until(lambda: stage.state.revision > ahead.revision)
        await share(stage, 3000)
        assert await stage.store.inner.load() == stage.state


async def test_a_write_that_was_given_up_on_its_way_is_numbered_above(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        switch = stage.control.switchboard
        ahead = msgspec.structs.replace(stage.state, revision=stage.state.revision + 5)
        await stage.store.inner.save(ahead, [])
        async with switch.lock:
            assert not await switch.store_soon()
        assert "what was done last is in force but not stored: the store fails" in switch.warnings
        await stage.until(lambda: not switch.unstored)
        assert stage.state.revision == ahead.revision + 1
        assert await stage.store.inner.load() == stage.state


# --- the copy -------------------------------------------------------------------------------------


def test_a_copy_that_cannot_be_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "snapshot-b.bin"
    copy = statecopy.StateCopy(str(path))
    first, second = State(revision=1), State(revision=2)
    copy.keep(first)
    assert statecopy.read([path]) == first
    assert (tmp_path / "snapshot-b.bin.state").stat().st_mode & 0o777 == 0o600

    def full(path: str, octets: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(snapshotfile, "put", full)
        copy.keep(second)
        assert statecopy.read([path]) is None
    copy.keep(second)
    assert statecopy.read([path]) == second


@pytest.mark.parametrize("octets", [b"", b"junk", b"\x80\x80"])
def test_a_copy_of_no_use_is_none(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "snapshot-b.bin"
    Path(f"{path}.state").write_bytes(octets)
    assert statecopy.read([path]) is None
