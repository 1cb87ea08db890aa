"""A worker is asked for the snapshot that it serves."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.channel import handover, snapshotfile
from gateway.channel.messages import Apply
from gateway.channel.unix import bind_unix
from gateway.config.snapshot import Service, Topology, Traffic
from tests.channel.test_handover import STATE


def served(names: int = 1) -> Apply:
    services = tuple(Service(name=f"service-{each}", row=each) for each in range(names))
    return Apply(
        number=7,
        topology=Topology(number=3, services=services),
        traffic=Traffic(revision=5),
        names={"web": ("10.0.0.1",)},
    )


@contextmanager
def worker(path: Path, snapshot: Callable[[], bytes]) -> Iterator[None]:
    server = handover.Server(
        bind_unix(path),
        asyncio.get_running_loop(),
        board=0,
        state=lambda: STATE,
        sockets=tuple,
        snapshot=snapshot,
    )
    try:
        yield
    finally:
        server.close()


def descriptors() -> int:
    gc.collect()  # what tests before this one have left
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("services", [1, 20_000])
async def test_a_snapshot_of_any_size_is_told_whole(tmp_path: Path, services: int) -> None:
    what = served(services)
    with worker(tmp_path / "w.sock", lambda: snapshotfile.octets_of(what)):
        before = descriptors()
        for _ in range(3):
            octets = await asyncio.to_thread(handover.ask_snapshot, tmp_path / "w.sock")
            assert snapshotfile.from_octets(octets) == what
        assert descriptors() <= before


@pytest.mark.parametrize("octets", [b"", b"x" * 101])
async def test_none_and_one_that_is_too_large_are_not_told(
    tmp_path: Path, octets: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "MAX_SNAPSHOT", 100)
    with (
        worker(tmp_path / "w.sock", lambda: octets),
        pytest.raises(handover.HandoverError, match="too large"),
    ):
        await asyncio.to_thread(handover.ask_snapshot, tmp_path / "w.sock")


@pytest.mark.parametrize("line", [{"octets": 5}, {"octets": -1}, {"octets": "5"}, {"pid": 1}])
async def test_an_answer_without_a_snapshot_is_none(
    tmp_path: Path, line: dict[str, object]
) -> None:
    with bind_unix(tmp_path / "liar.sock") as listener:
        listener.settimeout(5.0)
        asked = asyncio.create_task(
            asyncio.to_thread(handover.ask_snapshot, tmp_path / "liar.sock")
        )
        connection, _ = await asyncio.to_thread(listener.accept)
        with connection:
            connection.settimeout(5.0)
            await asyncio.to_thread(connection.recv, 1024)
            connection.sendall(json.dumps(line).encode() + b"\n")
        with pytest.raises(handover.HandoverError, match="no snapshot"):
            await asked


@pytest.mark.parametrize("octets", [b"", b"junk", b"\x81\xa4type\xa5apply"])
def test_octets_that_are_no_snapshot_are_refused(octets: bytes) -> None:
    with pytest.raises(snapshotfile.SnapshotFileError, match="not a snapshot"):
        snapshotfile.from_octets(octets)


def test_half_a_snapshot_is_refused() -> None:
    half = snapshotfile._encoder.encode(Apply(number=1, traffic=Traffic(revision=1)))
    with pytest.raises(snapshotfile.SnapshotFileError, match="a part is missing"):
        snapshotfile.from_octets(half)
