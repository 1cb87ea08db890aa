"""Clients that arrive at the admin API over TLS: bounded in number and in time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from gateway.admin.arrivals import Arrivals
from gateway.config.snapshot import ListenerTls
from gateway.control.app import ADMIN_CURVE
from gateway.control.tasks import Tasks
from gateway.tls import TICKET_KEYS_LAST, Front
from tests.support.certificates import Authority

AUTHORITY, OTHERS = Authority(), Authority("others")
SITE = ListenerTls(certificates=(AUTHORITY.make("localhost").read(),))


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's says it is none

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Place:
    def __init__(self, front: Front, arrivals: Arrivals, port: int) -> None:
        self.front, self.arrivals, self.port = front, arrivals, port

    async def plain(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def until(self, shaking: int) -> None:
        async with asyncio.timeout(5):
            while len(self.arrivals) != shaking:
                await asyncio.sleep(0.005)

    def ask(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> tuple[bool | None, ssl.SSLSession | None]:
        """Shake hands, say hello and hear it; whether the session was resumed, and the next."""
        plain = socket.create_connection(("127.0.0.1", self.port), 10)
        with context.wrap_socket(plain, server_hostname="localhost", session=session) as done:
            done.sendall(b"hello")
            if done.recv(100) != b"hello":
                raise ConnectionError("no answer")
            return done.session_reused, done.session


@asynccontextmanager
async def place(*, most: int = 64, timeout: float = 10.0) -> AsyncIterator[Place]:
    listener = socket.create_server(("127.0.0.1", 0))
    tasks = Tasks()
    front = Front(SITE, now=time.monotonic(), curve=ADMIN_CURVE)
    arrivals = Arrivals(listener, front, Echo, tasks, most=most, timeout=timeout)
    try:
        yield Place(front, arrivals, listener.getsockname()[1])
    finally:
        arrivals.close()
        await tasks.close()


def known(*, client: Authority | None = None) -> ssl.SSLContext:
    context = AUTHORITY.client()
    if client is not None:
        made = client.make("pipeline", client=True)
        context.load_cert_chain(*made.write(Path(tempfile.mkdtemp(prefix="gw"))))
    return context


async def test_who_says_nothing_is_cut_in_time() -> None:
    async with place(timeout=0.2) as at:
        reader, writer = await at.plain()
        await at.until(1)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await at.until(0)


@pytest.mark.parametrize(
    "octets", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 50, b"\x16\x03\x01\xff\xff"]
)
async def test_what_is_no_handshake_is_closed_and_others_are_served(octets: bytes) -> None:
    async with place(timeout=0.5) as at:
        reader, writer = await at.plain()
        writer.write(octets)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await at.until(0)
        await asyncio.to_thread(at.ask, known())


async def test_at_the_bound_who_came_first_gives_way() -> None:
    async with place(most=3) as at:
        held = [await at.plain() for _ in range(3)]
        await at.until(3)
        await asyncio.to_thread(at.ask, known())
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(held[0][0].read(), 5) == b""
        await at.until(2)
        for _, writer in held:
            writer.close()


async def test_other_authorities_of_callers_count_from_the_next_connection_on() -> None:
    async with place() as at:
        open_before = await asyncio.open_connection(
            "127.0.0.1", at.port, ssl=known(), server_hostname="localhost"
        )
        await asyncio.to_thread(at.ask, known())
        for wanted, other in ((AUTHORITY, OTHERS), (OTHERS, AUTHORITY)):
            at.front.serve(SITE, wanted.pem)
            await asyncio.to_thread(at.ask, known(client=wanted))
            for stranger in (None, other):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.to_thread(at.ask, known(client=stranger))
        at.front.serve(SITE, None)
        await asyncio.to_thread(at.ask, known())
        open_before[1].write(b"still")
        assert await open_before[0].readexactly(5) == b"still"
        open_before[1].close()


async def test_no_session_outlives_the_authorities_that_let_it_in() -> None:
    async with place() as at:
        at.front.serve(SITE, AUTHORITY.pem)
        caller = known(client=AUTHORITY)
        _, session = await asyncio.to_thread(at.ask, caller)
        assert (await asyncio.to_thread(at.ask, caller, session))[0] is True
        at.front.serve(SITE, OTHERS.pem)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(at.ask, caller, session)


@pytest.mark.parametrize("group", ["ffdhe8192", "ffdhe2048", "secp521r1"])
async def test_keys_are_exchanged_over_one_curve(group: str) -> None:
    """Not over fields that cost control a tenth of a second for each."""
    async with place() as at:
        context = known()
        context.set_ecdh_curve(group)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(at.ask, context)
        await asyncio.to_thread(at.ask, known())


async def test_keys_of_tickets_grow_old_here_too() -> None:
    async with place() as at:
        caller = known()
        _, session = await asyncio.to_thread(at.ask, caller)
        at.front.turn(time.monotonic() + TICKET_KEYS_LAST + 1)
        assert (await asyncio.to_thread(at.ask, caller, session))[0] is False


async def test_it_closes_with_handshakes_under_way() -> None:
    async with place() as at:
        reader, writer = await at.plain()
        await at.until(1)
        at.arrivals.close()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        with pytest.raises(ConnectionError):
            await at.plain()


@pytest.mark.parametrize(
    "scenario",
    [
        test_who_says_nothing_is_cut_in_time,
        functools.partial(test_what_is_no_handshake_is_closed_and_others_are_served, b"GET / HTTP"),
        test_at_the_bound_who_came_first_gives_way,
        test_other_authorities_of_callers_count_from_the_next_connection_on,
        test_it_closes_with_handshakes_under_way,
    ],
)
def test_the_same_on_the_loop_that_control_has(
    scenario: Callable[[], Coroutine[None, None, None]],
) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
