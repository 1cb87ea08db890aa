"""The layer between a socket and a connection, in memory, with OpenSSL on the client's side."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from typing import Any, cast

import pytest

from gateway.board import layout
from gateway.config.snapshot import ListenerTls
from gateway.proxy.tls import TlsConnection
from gateway.tls import Front
from tests.support.certificates import Authority
from tests.support.faketransport import FakeTransport
from tests.support.rig import START, Answer, Rig, read_answer

AUTHORITY = Authority()
FRONT = Front(ListenerTls(certificates=(AUTHORITY.make("a.example").read(),)), now=START)
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
#: A record with its header and what TLS 1.2 may add to it.
LARGEST = 5 + 16 * 1024 + 2048


class Loop:
    """As much of a loop as reading on needs."""

    def __init__(self, rig: Rig) -> None:
        self.call_soon = rig.soon.call


class TlsClient:
    """A client over TLS, and the gateway's end of its connection."""

    def __init__(
        self, rig: Rig, version: ssl.TLSVersion = V13, contexts: Any = FRONT, first: bytes = b""
    ) -> None:
        rig.core.loop = cast("asyncio.AbstractEventLoop", Loop(rig))
        self.transport = FakeTransport(rig.soon, peer=("192.0.2.1", 50000), octets=rig.octets)
        self.connection = TlsConnection(rig.core, 0, contexts)
        self.transport.attach(self.connection)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = AUTHORITY.client(version).wrap_bio(
            self.incoming, self.outgoing, server_hostname="a.example"
        )
        self.plain = b""
        self._read = 0
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.transport.feed(self.outgoing.read())
                self.take()
            else:
                break
        # With the end of the handshake, as a client that has something to say does.
        self.transport.feed(self.outgoing.read() + self.seal(first))

    def take(self) -> None:
        """Give our OpenSSL what has come."""
        self.incoming.write(bytes(self.transport.sent[self._read :]))
        self._read = len(self.transport.sent)

    def seal(self, data: bytes) -> bytes:
        """Seal octets into records."""
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        return self.outgoing.read()

    def send(self, data: bytes) -> None:
        """Send octets."""
        self.transport.feed(self.seal(data))

    @property
    def received(self) -> bytes:
        """All that has come, without what was taken as an answer."""
        self.take()
        try:
            while part := self.tls.read(1 << 16):
                self.plain += part
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return self.plain

    def answer(self) -> Answer:
        """Take the next answer."""
        answer, self.plain = read_answer(self.received)
        return answer


@pytest.mark.parametrize("version", [V12, V13])
def test_records_come_in_any_pieces(rig: Rig, version: ssl.TLSVersion) -> None:
    client = TlsClient(rig, version)
    client.send(GET)
    backend = rig.backend().ok(b"first")
    assert client.answer().body == b"first"
    chance = random.Random(5)
    for _ in range(30):
        octets = b"".join(client.seal(part) for part in (GET[:9], GET[9:], GET))
        places = sorted(chance.randrange(len(octets)) for _ in range(chance.randrange(6)))
        for start, end in zip([0, *places], [*places, len(octets)], strict=True):
            client.transport.feed(octets[start:end])
        for body in (b"a", b"b"):
            backend.ok(body)
            assert client.answer().body == body
    client.transport.reset()


@pytest.mark.parametrize("version", [V12, V13])
def test_a_request_comes_with_the_end_of_the_handshake(rig: Rig, version: ssl.TLSVersion) -> None:
    client = TlsClient(rig, version, first=GET)
    rig.backend().ok(b"at once")
    assert client.answer().body == b"at once"
    client.transport.reset()


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("first", [False, True])
def test_a_large_body_passes_both_ways(whole: Rig, version: ssl.TLSVersion, first: bool) -> None:
    body = os.urandom(700_000)
    post = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 700000\r\n\r\n" + body
    client = TlsClient(whole, version, first=post if first else b"")
    if not first:
        client.send(post)
    backend = whole.backend()
    assert backend.take().endswith(body)
    backend.ok(body)
    assert client.answer().body == body
    client.transport.reset()


class Watched:
    """An ``ssl.SSLObject`` that looks at what stands in its BIOs; and what would be its context."""

    most_in = most_out = 0

    @property
    def context(self) -> Watched:
        return self

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *, server_side: bool
    ) -> Watched:
        self.incoming, self.outgoing = incoming, outgoing
        self.tls = FRONT.context.wrap_bio(incoming, outgoing, server_side=server_side)
        return self

    def read(self, size: int) -> bytes:
        self.most_in = max(self.most_in, self.incoming.pending)
        return self.tls.read(size)

    def write(self, data: bytes) -> int:
        done = self.tls.write(data)
        self.most_out = max(self.most_out, self.outgoing.pending)
        return done

    def do_handshake(self) -> None:
        self.most_in = max(self.most_in, self.incoming.pending)
        self.tls.do_handshake()

    def __getattr__(self, name: str) -> Any:
        if name == "_sslobj":
            raise AttributeError(name)
        return getattr(self.tls, name)


@pytest.mark.parametrize("first", [False, True])
def test_a_bio_never_holds_more_than_a_record(whole: Rig, first: bool) -> None:
    """It keeps the room that it once needed for as long as the connection is open."""
    watched = Watched()
    body = os.urandom(200_000)
    post = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 200000\r\n\r\n" + body
    client = TlsClient(whole, contexts=watched, first=post if first else b"")
    if not first:
        client.send(post)
    backend = whole.backend()
    assert backend.take().endswith(body)
    backend.ok(body)
    assert client.answer().body == body
    assert 16 * 1024 < watched.most_in <= LARGEST
    assert 16 * 1024 < watched.most_out <= LARGEST
    client.transport.reset()


@pytest.mark.parametrize(
    "octets",
    [
        b"\x17\x03\x03\xff\xff" + bytes(20_000),
        b"\x17\x03\x03\x48\x01" + bytes(18_433),
        b"\x17\x03\x03\x00\x30" + bytes(48),
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" * 800,
    ],
    ids=["larger", "a little larger", "forged", "no record"],
)
def test_what_is_no_record_ends_the_connection(rig: Rig, octets: bytes) -> None:
    client = TlsClient(rig)
    client.send(GET)
    rig.backend().ok()
    assert client.answer().status == 200
    client.transport.feed(octets)
    assert client.transport.aborted
    with pytest.raises(ssl.SSLError, match="ALERT"):
        assert client.received


def test_what_came_is_kept_sealed_while_a_backend_is_slow(whole: Rig) -> None:
    client = TlsClient(whole)
    client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 400000\r\n\r\n")
    backend = whole.backend()
    backend.transport.stuck = True
    body = os.urandom(400_000)
    client.send(body)
    assert not client.transport.reading
    assert len(backend.transport.buffered) < 300_000
    taken = b""
    while more := backend.transport.drain():
        taken += more
    assert (backend.take() + taken).endswith(body[-1000:])
    backend.ok()
    assert client.answer().status == 200
    client.transport.reset()


def test_the_end_is_told_and_what_comes_after_it_is_nothing(rig: Rig) -> None:
    client = TlsClient(rig)
    client.send(GET)
    backend = rig.backend()
    end = client.outgoing
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.transport.feed(end.read() + b"\x17\x03\x03\x00\x30" + bytes(48))
    backend.ok(b"all the same")
    assert client.answer().body == b"all the same"
    assert rig.words[layout.slab_at(0) + layout.S_TLS_FULL] == 1
    client.transport.reset()
