"""Slow clients of the admin API: each way to wait has an end, and there are only so many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from gateway.admin import server, streams
from gateway.admin.patience import Patience
from tests.control.world import OPERATOR, VIEWER, World, client, running

HEAD = (
    f"POST /v1/rollback HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {OPERATOR}\r\n"
    "Content-Type: application/json\r\n"
).encode()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, workers=1) as world:
        patience = _patience(world)
        patience.head_timeout = 0.3
        patience.next_timeout = 0.3
        yield world


def _patience(world: World) -> Patience:
    assert world.control is not None
    assert world.control._server is not None
    return world.control._server.patience[False]


async def _connect(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(world.url.rpartition(":")[2])
    return await asyncio.open_connection("127.0.0.1", port)


async def _gone(reader: asyncio.StreamReader, within: float = 5.0) -> bytes:
    """Return what came until the gateway ended the connection."""
    got = b""
    async with asyncio.timeout(within):
        try:
            while data := await reader.read(65536):
                got += data
        except ConnectionError:
            pass
    return got


@pytest.mark.parametrize("said", [b"", b"GET /v1/st", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_head_that_does_not_come(world: World, said: bytes) -> None:
    reader, writer = await _connect(world)
    writer.write(said)
    assert await _gone(reader) == b""
    assert len(_patience(world)) == 0
    writer.close()


async def test_a_head_that_trickles(world: World) -> None:
    """Octets do not buy time."""
    reader, writer = await _connect(world)
    began = time.monotonic()
    gone = asyncio.ensure_future(_gone(reader))
    for octet in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 500:
        if gone.done():
            break
        writer.write(bytes((octet,)))
        await asyncio.sleep(0.02)
    assert await gone == b""
    assert time.monotonic() - began < 3
    writer.close()


async def test_a_body_that_does_not_come_is_408(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_TIMEOUT", 0.1)
    reader, writer = await _connect(world)
    writer.write(HEAD + b'Content-Length: 100\r\n\r\n{"')
    assert b" 408 " in await _gone(reader)
    writer.close()


async def test_a_kept_connection_is_not_kept_for_ever(world: World) -> None:
    reader, writer = await _connect(world)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b" 200 " in await _gone(reader)
    writer.close()


async def test_an_answer_that_nobody_reads(world: World) -> None:
    _, writer = await _connect(world)
    writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400)
    await asyncio.sleep(0.1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
    async with asyncio.timeout(10):
        while len(_patience(world)):
            await asyncio.sleep(0.01)
    writer.close()


async def test_a_stream_whose_reader_does_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "READ_TIMEOUT", 0.2)
    reader, writer = await _connect(world)
    writer.write(
        b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Bearer %s\r\n\r\n" % VIEWER.encode()
    )
    await reader.readuntil(b"retry:")
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
    control = world.control
    assert control is not None
    async with asyncio.timeout(20):
        while len(_patience(world)):
            control.events.publish("note", text="x" * 100_000)
            await asyncio.sleep(0.01)
    assert not control.events._watchers
    writer.close()


async def test_beyond_the_bound_who_waits_longest_gives_way(world: World) -> None:
    patience = _patience(world)
    patience.most = 5
    patience.head_timeout = 60.0
    slow = [await _connect(world) for _ in range(40)]
    async with client(world, OPERATOR) as api, api.post("/v1/rollback", json={}) as answer:
        assert answer.status in {200, 409}, await answer.text()
    assert len(patience) <= 5
    for reader, _ in slow[:30]:
        assert await _gone(reader) == b""
    for _, writer in slow:
        writer.close()


async def test_beyond_the_bound_the_address_that_holds_most_gives_way(world: World) -> None:
    patience = _patience(world)
    patience.most = 5
    patience.head_timeout = patience.next_timeout = 60.0
    kept = await _connect(world)
    port = int(world.url.rpartition(":")[2])
    flood = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        for _ in range(40)
    ]
    for reader, _ in flood[:30]:
        assert await _gone(reader) == b""
    kept[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(5):
        assert b" 200 " in await kept[0].readline()
    for _, writer in (kept, *flood):
        writer.close()


async def test_a_request_under_way_gives_way_to_nobody(world: World) -> None:
    patience = _patience(world)
    patience.most = 2
    patience.head_timeout = 60.0
    async with client(world, VIEWER) as one, client(world, VIEWER) as two:
        first = await one.get("/v1/events")
        second = await two.get("/v1/events")
        reader, writer = await _connect(world)
        assert await _gone(reader) == b""
        writer.close()
        assert (await first.content.readuntil(b"\n\n")).startswith(b"retry:")
        assert (await second.content.readuntil(b"\n\n")).startswith(b"retry:")
        first.close()
        second.close()


class _Listener(asyncio.Protocol):
    """Says nothing, as one does that waits for a head."""


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.Loop])
def test_a_silent_client_is_cut_on_either_loop(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def wait() -> bytes:
        patience = Patience(_Listener, head_timeout=0.05)
        served = await asyncio.get_running_loop().create_server(patience, "127.0.0.1", 0)
        async with served:
            reader, writer = await asyncio.open_connection(*served.sockets[0].getsockname())
            got = await _gone(reader)
            writer.close()
        return got

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(wait()) == b""
