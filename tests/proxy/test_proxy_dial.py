"""Dialling: every way in which it can end, and what the request hears of it."""

from __future__ import annotations

import asyncio
import gc
import ssl
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest

from gateway.proxy.dial import dial
from tests.support.faketransport import FakeTransport
from tests.support.rig import Rig, endpoint, pool, topology

Script = Callable[[str], Awaitable[None]]


class Loop:
    """A loop whose ``create_connection`` follows a script and then connects in memory."""

    def __init__(self, rig: Rig, script: Script) -> None:
        self.rig = rig
        self.script = script
        self.asked: list[tuple[str, int, object, object]] = []
        self.transports: list[FakeTransport] = []

    async def create_connection(
        self, factory: Callable[[], Any], host: str, port: int, **more: object
    ) -> tuple[FakeTransport, Any]:
        self.asked.append((host, port, more["ssl"], more["server_hostname"]))
        await self.script(host)
        transport = FakeTransport(self.rig.soon)
        protocol = factory()
        transport.attach(protocol)
        self.transports.append(transport)
        return transport, protocol


@pytest.fixture
def play() -> Iterator[Rig]:
    rig = Rig()
    try:
        yield rig
    finally:
        rig.close()


def _loop(rig: Rig, script: Script) -> Loop:
    loop = Loop(rig, script)
    rig.core.loop = cast("asyncio.AbstractEventLoop", loop)
    return loop


async def _dial(rig: Rig, within: float = 5.0) -> None:
    wanted = rig.core.dials.pop(0)
    await dial(rig.core, wanted.endpoint, wanted.attempt, within)
    rig.soon.run()


def _raises(error: BaseException) -> Script:
    async def script(host: str) -> None:
        del host
        raise error

    return script


async def _connects(host: str) -> None:
    del host


async def _hangs(host: str) -> None:
    del host
    await asyncio.Event().wait()


def _end(rig: Rig, loop: Loop, statuses: list[int]) -> None:
    for transport in loop.transports:
        transport.reset()
    rig.over(statuses)


async def test_a_connection_is_made_and_used(play: Rig) -> None:
    loop = _loop(play, _connects)
    play.client.get()
    await _dial(play)
    assert loop.asked == [("10.0.0.1", 8000, None, None)]
    assert bytes(loop.transports[0].sent).startswith(b"GET / HTTP/1.1\r\n")
    loop.transports[0].feed(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert play.client.answer().status == 204
    _end(play, loop, [204])


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ConnectionRefusedError(111, "refused"), 502, b"connect"),
        (TimeoutError(110, "timed out"), 502, b"connect"),
        (OSError(113, "no route to host"), 502, b"connect"),
        (ssl.SSLCertVerificationError(1, "wrong name"), 502, b"tls"),
        (ssl.SSLError(1, "wrong version"), 502, b"tls"),
        (UnicodeError("label too long"), 502, b"connect"),
    ],
)
async def test_how_it_can_fail(play: Rig, error: Exception, status: int, kind: bytes) -> None:
    loop = _loop(play, _raises(error))
    play.client.get()
    if isinstance(error, UnicodeError):
        with pytest.raises(UnicodeError):
            await _dial(play)
        play.soon.run()
    else:
        await _dial(play)
    answer = play.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (status, kind)
    assert play.client.open
    _end(play, loop, [status])


async def test_time_runs_out(play: Rig) -> None:
    loop = _loop(play, _hangs)
    play.client.get()
    await _dial(play, 0.01)
    answer = play.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (504, b"connect-timeout")
    _end(play, loop, [504])


async def test_the_next_address_is_tried(play: Rig) -> None:
    async def script(host: str) -> None:
        if host != "10.1.0.3":
            raise ConnectionRefusedError(111, host)

    loop = _loop(play, script)
    play.serve(topology(pools=[pool("web", "blue", endpoint(0, host="web.internal"))]))
    play.core.addresses["web.internal"] = ("10.1.0.1", "10.1.0.2", "10.1.0.3")
    play.client.get()
    await _dial(play)
    assert [asked[0] for asked in loop.asked] == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
    loop.transports[0].feed(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert play.client.answer().status == 204
    _end(play, loop, [204])


async def test_a_name_that_control_has_not_resolved(play: Rig) -> None:
    loop = _loop(play, _connects)
    play.serve(topology(pools=[pool("web", "blue", endpoint(0, host="web.internal"))]))
    play.client.get()
    await _dial(play)
    answer = play.client.answer()
    assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"unresolved")
    assert not loop.asked
    _end(play, loop, [502])


async def test_a_dial_that_is_cancelled_answers_503(play: Rig) -> None:
    loop = _loop(play, _hangs)
    play.client.get()
    task = asyncio.ensure_future(_dial(play))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    play.soon.run()
    assert play.client.answer().status == 503
    _end(play, loop, [503])


async def test_a_client_that_leaves_within_a_dial_that_fails(play: Rig) -> None:
    loop = _loop(play, _raises(ConnectionRefusedError(111, "refused")))
    play.client.get()
    play.client.leaves()
    await _dial(play)
    _end(play, loop, [499])


async def test_a_client_that_leaves_within_a_dial_that_is_cancelled(play: Rig) -> None:
    loop = _loop(play, _hangs)
    play.client.get()
    task = asyncio.ensure_future(_dial(play))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    play.client.leaves()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _end(play, loop, [499])


async def test_a_drain_within_a_dial(play: Rig) -> None:
    gate = asyncio.Event()

    async def script(host: str) -> None:
        del host
        await gate.wait()

    loop = _loop(play, script)
    play.client.get()
    task = asyncio.ensure_future(_dial(play))
    await asyncio.sleep(0)
    play.core.draining = True
    assert not play.client.connection.close_when_idle()
    gate.set()
    await task
    loop.transports[0].feed(b"HTTP/1.1 204 No Content\r\n\r\n")
    answer = play.client.answer()
    assert (answer.status, answer.field(b"connection")) == (204, b"close")
    assert play.client.closed
    _end(play, loop, [204])


class Kept:
    """An attempt that keeps what it hears."""

    failure: BaseException

    def on_dial_failed(self, failure: BaseException) -> None:
        self.failure = failure


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(111, "refused"), ssl.SSLError(1, "wrong version")]
)
async def test_a_failed_dial_is_freed_without_the_collector(play: Rig, error: OSError) -> None:
    loop = _loop(play, _raises(error))
    play.client.get()
    wanted = play.core.dials[0].endpoint
    attempt = Kept()
    gone = weakref.ref(attempt)
    gc.disable()
    try:
        await dial(play.core, wanted, cast("Any", attempt), 5.0)
        assert str(error) in str(attempt.failure)
        assert error.__traceback__ is None
        del attempt
        assert gone() is None
    finally:
        gc.enable()
    await _dial(play)
    _end(play, loop, [502])
