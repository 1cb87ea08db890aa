"""TLS on a worker's listeners, with real sockets and OpenSSL on the other side."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from msgspec.structs import replace

from gateway.board import layout
from gateway.channel.messages import Apply
from gateway.config.snapshot import Limits, Listener, ListenerTls, TlsCertificate
from tests.support.certificates import Authority, Made, rsa_key
from tests.support.processes import need
from tests.support.worker import WorkerRig, backend, endpoint, snapshot

AUTHORITY = Authority()
SITE = AUTHORITY.make("site.example", "*.site.example", "127.0.0.1")
OTHER = AUTHORITY.make("other.example")
HEAD = b"GET / HTTP/1.1\r\nHost: site.example\r\n"
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def with_tls(
    made: Apply, *certificates: TlsCertificate, limits: Limits | None = None, redirect: int = 0
) -> Apply:
    """Return the snapshot with these certificates at the rig's only listener."""
    assert made.topology is not None
    listener = Listener(
        address="127.0.0.1:0",
        tls=ListenerTls(certificates=certificates) if certificates else None,
        redirect_to_https=redirect or None,
    )
    topology = replace(made.topology, listeners=(listener,), limits=limits or Limits())
    return replace(made, topology=topology)


@asynccontextmanager
async def serving(
    *made: Made, body: bytes = b"blue", limits: Limits | None = None
) -> AsyncIterator[WorkerRig]:
    """Run a worker that serves with certificates."""
    rig = WorkerRig(Path(tempfile.mkdtemp(prefix="gw")))
    async with backend(body) as blue, rig.running():
        await rig.control.hello()
        pairs = [each.read() for each in made]
        rig.control.say(with_tls(snapshot(1, endpoint("blue", blue)), *pairs, limits=limits))
        assert (await rig.control.ack()).error == ""
        rig.blue = blue  # type: ignore[attr-defined]
        yield rig


class Peer:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def meet(
        cls, rig: WorkerRig, name: str | None = "site.example", version: ssl.TLSVersion = V13
    ) -> Peer:
        context = AUTHORITY.client(version)
        if name is None or "." not in name:
            context.check_hostname = False
        return cls(
            *await asyncio.open_connection(
                "127.0.0.1", rig.port, ssl=context, server_hostname=name or ""
            )
        )

    @property
    def tls(self) -> ssl.SSLObject:
        found: ssl.SSLObject = self.writer.get_extra_info("ssl_object")
        return found

    @property
    def names(self) -> list[str]:
        octets = self.tls.getpeercert(binary_form=True)
        assert octets is not None
        found = x509.load_der_x509_certificate(octets)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)

    async def get(self, fields: bytes = b"") -> bytes:
        self.writer.write(HEAD + fields + b"\r\n")
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head + await asyncio.wait_for(self.reader.readexactly(length), 10)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), 10)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@pytest.mark.parametrize("version", [V12, V13])
async def test_both_versions_are_spoken_with_alpn(version: ssl.TLSVersion) -> None:
    async with serving(SITE) as rig:
        peer = await Peer.meet(rig, version=version)
        assert peer.tls.version() == {V12: "TLSv1.2", V13: "TLSv1.3"}[version]
        assert peer.tls.selected_alpn_protocol() == "http/1.1"
        assert peer.tls.compression() is None
        for _ in range(3):
            assert (await peer.get()).endswith(b"blue")
        await peer.close()
        assert rig.word(layout.S_TLS_FULL) == 1
        await rig.until(layout.S_CONNECTIONS, 0)


def older() -> ssl.SSLContext:
    context = AUTHORITY.client()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.deprecated_call():
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def weaker() -> ssl.SSLContext:
    context = AUTHORITY.client(V12)
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("made", [older, weaker])
async def test_nothing_older_and_nothing_weak(made: Callable[[], ssl.SSLContext]) -> None:
    async with serving(SITE) as rig:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(
                "127.0.0.1", rig.port, ssl=made(), server_hostname="site.example"
            )
        await rig.until(layout.S_TLS_FAILED, 1)
        await rig.until(layout.S_CONNECTIONS, 0)


async def test_the_certificate_is_for_the_name_asked_for() -> None:
    async with serving(SITE, OTHER) as rig:
        for name, first in (
            ("site.example", "site.example"),
            ("www.Site.example", "site.example"),
            ("other.example", "other.example"),
        ):
            peer = await Peer.meet(rig, name)
            assert peer.names[0] == first, name
            await peer.close()
        context = AUTHORITY.client()
        context.check_hostname = False
        for name in ("a.b.site.example", "nobody.example", ""):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", rig.port, ssl=context, server_hostname=name
            )
            assert Peer(reader, writer).names[0] == "site.example", "the first is the default"
            await Peer(reader, writer).close()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_an_exact_name_goes_before_a_wildcard_s(order: tuple[int, int]) -> None:
    both = (AUTHORITY.make("*.site.example"), AUTHORITY.make("www.site.example"))
    async with serving(*(both[at] for at in order)) as rig:
        for name, first in (
            ("www.site.example", "www.site.example"),
            ("WWW.SITE.EXAMPLE", "www.site.example"),
            ("mail.site.example", "*.site.example"),
        ):
            peer = await Peer.meet(rig, name)
            assert peer.names == [first], name
            await peer.close()


async def test_two_kinds_of_keys_for_the_same_names() -> None:
    rsa = AUTHORITY.make("site.example", key=rsa_key(2048))
    async with serving(rsa, AUTHORITY.make("site.example")) as rig:
        for ciphers in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"):
            context = AUTHORITY.client(V12)
            context.set_ciphers(ciphers)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", rig.port, ssl=context, server_hostname="site.example"
            )
            found = Peer(reader, writer).tls.cipher()
            assert found is not None
            assert found[0] == ciphers
            await Peer(reader, writer).close()


async def test_a_renewal_drops_no_connection() -> None:
    async with serving(SITE) as rig:
        peer = await Peer.meet(rig)
        await peer.get()
        begun = await asyncio.open_connection("127.0.0.1", rig.port)  # no handshake yet
        renewed = AUTHORITY.make("site.example", "renewed.example")
        blue: int = rig.blue  # type: ignore[attr-defined]
        rig.control.say(with_tls(snapshot(2, endpoint("blue", blue)), renewed.read()))
        assert (await rig.control.ack()).error == ""
        assert (await peer.get()).endswith(b"blue")
        await begun[1].start_tls(AUTHORITY.client(), server_hostname="site.example")
        for each in (Peer(*begun), await Peer.meet(rig)):
            assert "renewed.example" in each.names
            assert (await each.get()).endswith(b"blue")
            await each.close()
        await peer.close()


async def test_a_pair_that_openssl_does_not_take_leaves_the_one_before() -> None:
    async with serving(SITE) as rig:
        broken = replace(SITE.read(), key=OTHER.key)
        blue: int = rig.blue  # type: ignore[attr-defined]
        rig.control.say(with_tls(snapshot(2, endpoint("blue", blue)), broken))
        error = (await rig.control.ack()).error
        assert "listen[0].tls.certificates[0]: OpenSSL does not take it" in error
        assert "PRIVATE" not in error
        peer = await Peer.meet(rig)
        assert (await peer.get()).endswith(b"blue")
        await peer.close()


@pytest.mark.parametrize("version", [V12, V13])
async def test_sessions_are_resumed_through_a_renewal_too(version: ssl.TLSVersion) -> None:
    async with serving(SITE) as rig:

        def once(session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
            import socket

            with (
                socket.create_connection(("127.0.0.1", rig.port)) as plain,
                context.wrap_socket(plain, server_hostname="site.example", session=session) as sock,
            ):
                sock.sendall(HEAD + b"\r\n")
                sock.recv(65536)
                return sock.session_reused, sock.session

        context = AUTHORITY.client(version)
        reused, session = await asyncio.to_thread(once, None)
        assert not reused
        reused, session = await asyncio.to_thread(once, session)
        assert reused
        blue: int = rig.blue  # type: ignore[attr-defined]
        renewed = AUTHORITY.make("site.example")
        rig.control.say(with_tls(snapshot(2, endpoint("blue", blue)), renewed.read()))
        await rig.control.ack()
        reused, _ = await asyncio.to_thread(once, session)
        assert reused
        assert rig.word(layout.S_TLS_RESUMED) == 2


async def test_plain_http_is_told_so_and_closed() -> None:
    async with serving(SITE) as rig:
        answer = await rig.get()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"plain HTTP where https is spoken" in answer
        assert b"Connection: close" in answer
        await rig.until(layout.S_CONNECTIONS, 0)


@pytest.mark.parametrize("octets", [b"\x80\x2e\x01", b"\x00", b"\x16\x03\x01\xff\xff", b"\x16\x03"])
async def test_what_is_no_handshake_ends_in_time(octets: bytes) -> None:
    async with serving(SITE, limits=Limits(header_timeout=0.3, idle_timeout=60.0)) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(octets)
        with contextlib.suppress(ConnectionError):
            assert (await asyncio.wait_for(reader.read(), 5))[:1] in {b"", b"\x15"}
        writer.close()
        await rig.until(layout.S_CONNECTIONS, 0)
        assert rig.word(layout.S_TLS_FAILED) == 1


def hello(octets: int) -> bytes:
    """Return a client's hello of that length without its end, in records of 16,000 octets."""
    message = b"\x01" + octets.to_bytes(3, "big") + b"\x03\x03" + bytes(octets)
    parts = [message[at : at + 16_000] for at in range(0, len(message), 16_000)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


async def test_a_hello_that_is_too_large_is_refused_before_it_has_come() -> None:
    """It may not have memory for as long as a handshake may take."""
    async with serving(SITE, limits=Limits(header_timeout=60.0)) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(hello(1 << 20)[:16_005])  # one record
        with contextlib.suppress(ConnectionError):
            assert (await asyncio.wait_for(reader.read(), 5))[:1] in {b"", b"\x15"}
        writer.close()
        await rig.until(layout.S_CONNECTIONS, 0)
        assert rig.word(layout.S_TLS_FAILED) == 1


async def test_a_hello_that_trickles_has_the_time_of_a_head() -> None:
    """Each octet is some news; the time runs from the beginning on."""
    async with serving(SITE, limits=Limits(header_timeout=0.5, idle_timeout=60.0)) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        began = asyncio.get_running_loop().time()
        octets = iter(hello(30_000))
        closed = asyncio.ensure_future(reader.read())
        while not closed.done():
            writer.write(bytes([next(octets)]))
            await asyncio.wait([closed], timeout=0.02)
        assert asyncio.get_running_loop().time() - began < 5
        with contextlib.suppress(ConnectionError):
            closed.result()
        writer.close()
        await rig.until(layout.S_CONNECTIONS, 0)
        assert rig.word(layout.S_TLS_FAILED) == 1


@pytest.mark.parametrize("group", ["ffdhe2048", "ffdhe8192"])
async def test_no_client_has_us_raise_large_numbers_to_large_powers(group: str) -> None:
    """Key exchange over finite fields: a packet of the client's, a tenth of a second of ours."""
    async with serving(SITE) as rig:
        context = AUTHORITY.client()
        context.set_ecdh_curve(group)
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            await asyncio.open_connection(
                "127.0.0.1", rig.port, ssl=context, server_hostname="site.example"
            )
        await rig.until(layout.S_CONNECTIONS, 0)
        assert rig.word(layout.S_TLS_FAILED) == 1


@pytest.mark.parametrize("curve", ["X25519", "prime256v1", "secp384r1", "secp521r1", "X448"])
async def test_every_curve_is_taken(curve: str) -> None:
    async with serving(SITE) as rig:
        context = AUTHORITY.client()
        context.set_ecdh_curve(curve)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", rig.port, ssl=context, server_hostname="site.example"
        )
        assert (await Peer(reader, writer).get()).endswith(b"blue")
        await Peer(reader, writer).close()


async def test_who_says_nothing_is_counted_and_cut() -> None:
    async with serving(SITE, limits=Limits(header_timeout=0.3, idle_timeout=60.0)) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        await rig.until(layout.S_CONNECTIONS, 1)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await rig.until(layout.S_CONNECTIONS, 0)


async def test_connections_in_a_handshake_stand_under_the_bound() -> None:
    async with serving(SITE, limits=Limits(connections=2)) as rig:
        held = [await asyncio.open_connection("127.0.0.1", rig.port) for _ in range(2)]
        await rig.until(layout.S_CONNECTIONS, 2)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await Peer.meet(rig)
        # Closed without a word: a handshake for a 503 would cost what is short, and plain text
        # would be no TLS. Counted as one that came, not as a handshake that failed.
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await rig.until(layout.S_CONNECTIONS, 2)
        assert rig.word(layout.S_ACCEPTED) == 4
        assert rig.word(layout.S_CONNECTIONS_SHED) == 2
        assert rig.word(layout.S_TLS_FAILED) == 0
        held[0][1].close()
        await rig.until(layout.S_CONNECTIONS, 1)
        peer = await Peer.meet(rig)
        assert (await peer.get()).endswith(b"blue")
        await peer.close()
        held[1][1].close()
        await rig.until(layout.S_CONNECTIONS, 0)


@asynccontextmanager
async def s_client(rig: WorkerRig, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run openssl's own client, whose commands (R: renegotiate, K: new keys) Python has not."""
    pipe = asyncio.subprocess.PIPE
    client = await asyncio.create_subprocess_exec(
        need("openssl"), "s_client", "-connect", f"127.0.0.1:{rig.port}", *options,
        stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        await rig.until(layout.S_TLS_FULL, 1)
        yield client
    finally:
        if client.returncode is None:
            client.kill()
        await client.communicate()


async def test_a_renegotiation_ends_the_connection() -> None:
    async with serving(SITE) as rig, s_client(rig, "-tls1_2") as client:
        assert client.stdin is not None
        await rig.until(layout.S_CONNECTIONS, 1)
        client.stdin.write(b"R\n")
        await rig.until(layout.S_CONNECTIONS, 0)
        assert rig.word(layout.S_TLS_FULL) == 1


async def test_new_keys_are_had_now_and_then_and_no_more() -> None:
    """Each is answered: a client that reads no answers would have them kept."""
    async with serving(SITE) as rig, s_client(rig, "-tls1_3", "-quiet", "-no_ign_eof") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for _ in range(3):
            client.stdin.write(b"K\n")
            await asyncio.sleep(0.02)  # it looks at the first octet of what it reads at once
        client.stdin.write(HEAD + b"\r\n")
        async with asyncio.timeout(10):
            await client.stdout.readuntil(b"blue")
        asked = 0
        while rig.word(layout.S_CONNECTIONS) and asked < 2000:
            with contextlib.suppress(ConnectionError):
                client.stdin.write(b"K\n")
            asked += 1
            await asyncio.sleep(0.003)
        assert rig.word(layout.S_CONNECTIONS) == 0
        assert asked >= 50


async def test_no_data_is_taken_before_the_handshake_is_done() -> None:
    """Early data (0-RTT) can be sent again by whoever has seen it (RFC 8446 section 8)."""
    async with serving(SITE) as rig, s_client(rig, "-tls1_3", "-msg") as client:
        assert client.stdin is not None
        client.stdin.write(HEAD + b"Connection: close\r\n\r\n")
        assert client.stdout is not None
        said = (await asyncio.wait_for(client.stdout.read(), 10)).decode()
        assert "blue" in said
        assert "Max Early Data: 0" in said


async def test_requests_in_one_record_and_one_in_many() -> None:
    async with serving(SITE) as rig:
        peer = await Peer.meet(rig)
        peer.writer.write((HEAD + b"\r\n") * 5)
        for _ in range(5):
            await peer.reader.readuntil(b"blue")
        for octet in HEAD + b"\r\n":
            peer.writer.write(bytes([octet]))
            await peer.writer.drain()
        await peer.reader.readuntil(b"blue")
        await peer.close()


@pytest.mark.parametrize("version", [V12, V13])
async def test_a_large_answer_to_a_slow_reader_is_whole(version: ssl.TLSVersion) -> None:
    body = os.urandom(1 << 20) * 12
    async with serving(SITE, body=body) as rig:
        peer = await Peer.meet(rig, version=version)
        peer.writer.write(HEAD + b"Connection: close\r\n\r\n")
        await peer.reader.readuntil(b"\r\n\r\n")
        found = bytearray()
        while part := await asyncio.wait_for(peer.reader.read(200_000), 10):
            found += part
            await asyncio.sleep(0)
        assert bytes(found) == body
        await peer.close()


async def test_a_refused_upload_is_answered_before_the_end() -> None:
    """The answer must be readable though the client has not stopped sending (RFC 9112 9.6)."""
    async with serving(SITE, limits=Limits(body=1000)) as rig:
        peer = await Peer.meet(rig)
        peer.writer.write(
            b"POST / HTTP/1.1\r\nHost: site.example\r\nContent-Length: 500000\r\n\r\n"
        )
        peer.writer.write(b"x" * 300_000)
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 413 ")
        await peer.close()
        await rig.until(layout.S_CONNECTIONS, 0)


async def test_a_client_that_leaves_without_a_word_is_let_go() -> None:
    async with serving(SITE) as rig:
        peer = await Peer.meet(rig)
        await peer.get()
        peer.writer.transport.abort()
        await rig.until(layout.S_CONNECTIONS, 0)


async def test_a_drain_ends_idle_connections() -> None:
    async with serving(SITE) as rig:
        peer = await Peer.meet(rig)
        await peer.get()
        import signal

        os.kill(os.getpid(), signal.SIGTERM)
        assert await peer.rest() == b""
        await peer.close()
