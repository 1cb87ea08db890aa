"""The data plane on real sockets and uvloop: what memory cannot show."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.config.snapshot import Limits, Topology
from gateway.proxy.core import Core
from gateway.proxy.downstream import DownstreamConnection
from gateway.proxy.record import Recorder
from gateway.proxy.serving import Builder
from tests.support.rig import Answer, board, endpoint, pool, read_answer, service, topology, traffic

MIB = 1024 * 1024
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
#: What a transport may hold: its mark, and one read of uvloop's.
BUFFER = 64 * 1024 + 256 * 1024 + 1024


def _run(work: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work(), 60))


class Upstream:
    """A server of asyncio's that plays a handler and counts its connections."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.accepted = 0
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self.handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def open(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


class Gateway:
    """One worker's data plane on a socket of its own."""

    def __init__(self) -> None:
        self.words = board()
        self.port = 0
        self.builder = Builder(self.words, 0, 2)
        self.lines: list[bytes] = []
        self.core = Core(
            loop=asyncio.get_running_loop(),
            clock=time.monotonic,
            wall=time.time,
            random=os.urandom,
            draw=lambda bits: 0,
            recorder=Recorder(self.words, 0, 2, time.time, str, self.lines.append),
            words=self.words,
            slab=0,
            slabs=2,
        )

    @asynccontextmanager
    async def open(self, what: Topology) -> AsyncIterator[Gateway]:
        self.core.serving = await self.builder.build(what, traffic())
        factory: Any = lambda: DownstreamConnection(self.core, 0, False)  # noqa: E731
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.core.start()
        try:
            yield self
        finally:
            server.close()
            for known in self.builder.endpoints.values():
                known.retire()
            for connection in list(self.core.connections):
                connection.cut()
            self.core.stop()
            await self.core.cancel_tasks()
            await asyncio.sleep(0.01)
            assert not self.core.connections


def _at(port: int, **more: Any) -> Topology:
    values: dict[str, Any] = {"host": "127.0.0.1", "port": port, **more}
    return topology(
        pools=[pool("web", "blue", endpoint(0, **values))],
        limits=Limits(await_body=0, body=128 * MIB),
    )


async def _until(wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not wanted():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.005)


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    answer, _ = read_answer(head.replace(b"Content-Length", b"X-Length"), ended=True)
    length = int(answer.field(b"x-length") or 0)
    body = await reader.readexactly(length)
    return Answer(answer.minor, answer.status, answer.fields, body)


def test_events_pass_one_by_one_as_they_are_sent() -> None:
    async def play() -> None:
        seen = asyncio.Queue[int]()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            for number in range(20):
                writer.write(b"data: %d\n\n" % number)
                # The next one is not sent before the client has this one.
                assert await seen.get() == number
            writer.close()

        async with Upstream(handler).open() as upstream, Gateway().open(_at(upstream.port)) as gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
            writer.write(b"GET /events HTTP/1.1\r\nHost: a.example\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            for number in range(20):
                event = b"data: %d\n\n" % number
                assert await reader.readuntil(event + b"\r\n") == b"%x\r\n%b\r\n" % (
                    len(event),
                    event,
                )
                seen.put_nowait(number)
            assert await reader.readexactly(5) == b"0\r\n\r\n"
            writer.close()

    _run(play)


def test_64_mib_down_to_a_slow_client() -> None:
    async def play() -> None:
        piece = os.urandom(MIB)

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
            for _ in range(64):
                writer.write(piece)
                await writer.drain()
            await reader.read()

        async with Upstream(handler).open() as upstream, Gateway().open(_at(upstream.port)) as gate:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            sock.connect(("127.0.0.1", gate.port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=16 * 1024)
            writer.write(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            (connection,) = gate.core.connections
            assert isinstance(connection, DownstreamConnection)
            await _until(lambda: connection.full)
            await reader.readuntil(b"\r\n\r\n")
            digest, got, most = hashlib.sha256(), 0, 0
            while got < 64 * MIB:
                data = await reader.read(256 * 1024)
                digest.update(data)
                got += len(data)
                most = max(most, connection.transport().get_write_buffer_size())
            assert digest.digest() == hashlib.sha256(piece * 64).digest()
            assert 64 * 1024 < most <= BUFFER
            writer.close()

    _run(play)


def test_64_mib_up_to_a_slow_backend() -> None:
    async def play() -> None:
        piece = os.urandom(MIB)
        go = asyncio.Event()
        digest = hashlib.sha256()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await go.wait()
            left = 64 * MIB
            while left:
                data = await reader.read(64 * 1024)
                digest.update(data)
                left -= len(data)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await reader.read()

        async with Upstream(handler).open() as upstream, Gateway().open(_at(upstream.port)) as gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
            writer.write(
                b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % (64 * MIB)
            )

            async def send() -> None:
                for _ in range(64):
                    writer.write(piece)
                    await writer.drain()

            sending = asyncio.ensure_future(send())
            known = gate.builder.endpoints["web-blue-1-0"]
            await _until(lambda: bool(known.connections))
            (connection,) = known.connections
            transport = connection.transport()  # type: ignore[attr-defined]
            await _until(lambda: transport.get_write_buffer_size() > 64 * 1024)
            most = 0
            go.set()
            while not sending.done():
                most = max(most, transport.get_write_buffer_size())
                await asyncio.sleep(0)
            assert (await _answer(reader)).body == b"ok"
            assert digest.digest() == hashlib.sha256(piece * 64).digest()
            assert most <= BUFFER
            writer.close()

    _run(play)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request on a connection with its own target."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split(b" ")[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))
        await writer.drain()


async def _ask(port: int, *targets: bytes) -> list[Answer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for target in targets:
        writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
        answers.append(await _answer(reader))
    writer.close()
    return answers


def test_a_backends_connection_is_kept() -> None:
    async def play() -> None:
        async with Upstream(_echo).open() as upstream, Gateway().open(_at(upstream.port)) as gate:
            answers = await _ask(gate.port, b"/1", b"/2", b"/3")
            assert [a.body for a in answers] == [b"/1", b"/2", b"/3"]
            assert (await _ask(gate.port, b"/4"))[0].body == b"/4"
            assert upstream.accepted == 1

    _run(play)


def test_nobody_listens() -> None:
    async def play() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with Gateway().open(_at(port)) as gate:
            answers = await _ask(gate.port, b"/1", b"/2")
            assert [a.status for a in answers] == [502, 502]

    _run(play)


def test_a_backend_that_closes_its_idle_connection_costs_no_request() -> None:
    async def play() -> None:
        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with Upstream(once).open() as upstream, Gateway().open(_at(upstream.port)) as gate:
            answers = await _ask(gate.port, *[b"/%d" % i for i in range(50)])
            assert [a.status for a in answers] == [200] * 50
            assert upstream.accepted == 50

    _run(play)


def test_a_refusal_is_read_by_a_client_that_still_sends() -> None:
    """No reset may overtake the answer (RFC 9112 section 9.6)."""

    async def play() -> None:
        async with Gateway().open(_at(9)) as gate:
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
                writer.write(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: ")
                writer.write(b"%d\r\n\r\n" % (500 * MIB))
                for _ in range(8):
                    writer.write(b"x" * 65536)
                assert (await _answer(reader)).status == 413
                assert await reader.read() == b""
                writer.close()

    _run(play)


# --- https ----------------------------------------------------------------------------------------


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    folder: Path,
    name: str,
    names: list[x509.GeneralName],
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer[0].subject if issuer else _name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority of the tests' own and two servers' certificates."""
    folder = tmp_path_factory.mktemp("tls")
    ca = _certificate(folder, "ca", [], None)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    _certificate(folder, "good", [x509.DNSName("web.internal"), loopback], ca)
    _certificate(folder, "wrong", [x509.DNSName("other.internal")], ca)
    _certificate(folder, "stranger", [], None)
    return folder


def _server_context(folder: Path, name: str, seen: list[str | None]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.sni_callback = lambda _, asked, __: seen.append(asked)
    return context


def _https(port: int, authorities: Path, host: str = "web.internal") -> Topology:
    return topology(
        services=[service(tls_ca=str(authorities))],
        pools=[pool("web", "blue", endpoint(0, scheme="https", host=host, port=port))],
    )


@pytest.mark.parametrize("host", ["web.internal", "127.0.0.1"])
def test_https_is_verified_and_kept(authority: Path, host: str) -> None:
    async def play() -> None:
        seen: list[str | None] = []
        upstream = Upstream(_echo)
        async with upstream.open(_server_context(authority, "good", seen)):
            what = _https(upstream.port, authority / "ca.pem", host)
            async with Gateway().open(what) as gate:
                gate.core.addresses["web.internal"] = ("127.0.0.1",)
                answers = await _ask(gate.port, b"/1", b"/2")
                assert [(a.status, a.body) for a in answers] == [(200, b"/1"), (200, b"/2")]
                assert upstream.accepted == 1
                assert seen == ([host] if host == "web.internal" else [None])

    _run(play)


@pytest.mark.parametrize(("name", "ca"), [("wrong", "ca"), ("good", "stranger")])
def test_https_that_is_not_what_it_should_be_is_502(authority: Path, name: str, ca: str) -> None:
    async def play() -> None:
        upstream = Upstream(_echo)
        async with (
            upstream.open(_server_context(authority, name, [])),
            Gateway().open(_https(upstream.port, authority / f"{ca}.pem")) as gate,
        ):
            gate.core.addresses["web.internal"] = ("127.0.0.1",)
            (answer,) = await _ask(gate.port, b"/")
            assert (answer.status, answer.field(b"x-gateway-error")) == (502, b"tls")
            # What was wrong with it is told to the log, not to the client.
            assert b"web.internal" not in answer.body

    _run(play)


def test_a_plain_server_behind_https_is_502(authority: Path) -> None:
    async def play() -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with (
            Upstream(plain).open() as upstream,
            Gateway().open(_https(upstream.port, authority / "ca.pem")) as gate,
        ):
            gate.core.addresses["web.internal"] = ("127.0.0.1",)
            (answer,) = await _ask(gate.port, b"/")
            assert answer.status == 502

    _run(play)
