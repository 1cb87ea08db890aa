"""SIGTERM: what clients, an outer balancer and whoever asked see of the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from gateway.admin.problems import URN
from loadtests.mixed.backend import Backend
from loadtests.mixed.clients import Clients
from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.rawclient import RawClient


@contextlib.contextmanager
def serving(folder: Path, shutdown: str) -> Iterator[GatewayProcess]:
    with Backend() as backend:
        made = GatewayProcess.for_services(
            folder, {"web": ([backend.url], [])}, workers=2, extra=f"shutdown: {shutdown}\n"
        )
        with made:
            yield made


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_is_in_flight_ends_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, "{timeout: 2s}") as gateway:
        clients = Clients(gateway.port, kept=0, fresh=0, others=2)
        try:
            wait_until(lambda: clients.done["message"] > 3 and clients.done["event"] > 3, "a start")
            with RawClient(gateway.port) as slow:
                slow.send(b"GET /slow?for=1 HTTP/1.1\r\nHost: x.example\r\n\r\n")
                time.sleep(0.1)
                assert gateway.process is not None
                gateway.process.popen.send_signal(signal.SIGTERM)
                # Nobody is let in any more: clients that come back are to find somebody else.
                clients.give_up()
                answer = slow.answer()
                assert (answer.status, answer.body) == (200, b"slow")
                assert answer.field("connection") == "close"
            assert gateway.process.popen.wait(20) == 0
        finally:
            clients.stop()
    assert clients.lost == []


async def until_the_end(port: int) -> tuple[int, bytes]:
    """Open a WebSocket and an event stream; return the close code and how the stream ended."""
    async with aiohttp.ClientSession() as session:
        socket_ = await session.ws_connect(f"http://127.0.0.1:{port}/ws")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x.example\r\n\r\n")
        stream = asyncio.create_task(reader.read())
        message = await socket_.receive(20)
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        # The library has answered with a close frame of its own.
        await socket_.close()
        text = await asyncio.wait_for(stream, 20)
        writer.close()
        return message.data, text


def test_websockets_are_told_and_event_streams_end_whole(tmp_path: Path) -> None:
    with serving(tmp_path, "{timeout: 1s}") as gateway:
        assert gateway.process is not None
        popen = gateway.process.popen

        async def play() -> tuple[int, bytes]:
            ends = asyncio.create_task(until_the_end(gateway.port))
            await asyncio.sleep(1.0)
            popen.send_signal(signal.SIGTERM)
            return await ends

        code, text = asyncio.run(play())
        assert code == 1001
        assert text.endswith(b"\n\n\r\n0\r\n\r\n")
        assert popen.wait(20) == 0


def test_an_outer_balancer_is_told_first(tmp_path: Path) -> None:
    with serving(tmp_path, "{delay: 2s, timeout: 1s}") as gateway:
        assert gateway.process is not None
        gateway.process.popen.send_signal(signal.SIGTERM)
        told = time.monotonic()
        wait_until(lambda: gateway.api("GET", "/readyz").status == 503, "it to be unready")
        answer = gateway.api("GET", "/readyz").body
        assert (answer["type"], answer["detail"]) == (f"{URN}unready", "the gateway is stopping")
        # Everything else is as before, for as long as the delay lasts.
        with RawClient(gateway.port) as kept:
            ready = kept.get("/.well-known/gateway/ready")
            assert (ready.status, ready.body) == (503, b'{"status":"stopping"}')
            first = kept.get()
            assert (first.status, first.field("connection")) == (200, None)
            assert not refused(gateway.port)
            wait_until(lambda: refused(gateway.port), "nobody to be let in")
            assert time.monotonic() - told > 1.9
            assert kept.get().field("connection") == "close"
        assert gateway.process.popen.wait(20) == 0


@pytest.mark.parametrize(("again", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_told_again(tmp_path: Path, again: signal.Signals, code: int) -> None:
    """SIGTERM leaves out the rest of the delay, SIGINT twice everything."""
    with serving(tmp_path, "{delay: 60s, timeout: 60s}") as gateway:
        assert gateway.process is not None
        popen = gateway.process.popen
        with RawClient(gateway.port) as slow:
            slow.send(b"GET /slow?for=3 HTTP/1.1\r\nHost: x.example\r\n\r\n")
            time.sleep(0.1)
            popen.send_signal(again)
            wait_until(lambda: gateway.api("GET", "/readyz").status == 503, "it to be unready")
            popen.send_signal(again)
            if code == 0:
                assert slow.answer().status == 200
        assert popen.wait(20) == code
