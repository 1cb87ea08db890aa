"""The test helpers themselves: an upstream that lies must lie exactly as scripted."""

from __future__ import annotations

import pytest

from gateway.demo.ports import free_ports
from tests.support.processes import listens
from tests.support.rawclient import RawClient
from tests.support.upstream import Conversation, Upstream, always


def test_upstream_answers_every_request_on_a_connection() -> None:
    with Upstream(always(b"hello", "X-Color: blue\r\n")) as up, RawClient(up.port) as client:
        for target in ("/a", "/b"):
            answer = client.get(target)
            assert (answer.status, answer.body, answer.field("X-Color")) == (200, b"hello", "blue")
        assert [head.split(b" ")[1] for head in up.heads] == [b"/a", b"/b"]


def test_upstream_reads_bodies_and_can_cut_its_answer_short() -> None:
    def script(say: Conversation) -> None:
        assert say.read_body(say.read_head()) == b"abc"
        say.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    with Upstream(script) as up, RawClient(up.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        with pytest.raises(ConnectionError, match="closed 6 octets early"):
            client.answer()


def test_client_reads_chunks_and_answers_without_a_body() -> None:
    def script(say: Conversation) -> None:
        say.read_head()
        say.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n")
        say.send(b"\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n")
        say.read_head()
        say.answer(b"")

    with Upstream(script) as up, RawClient(up.port) as client:
        assert client.get().status == 100
        assert client.answer().body == b"abcde"
        assert client.get().body == b""


def test_upstream_resets() -> None:
    with Upstream(Conversation.reset) as up, RawClient(up.port) as client:
        assert client.closed()


def test_a_failing_script_fails_the_test() -> None:
    def script(say: Conversation) -> None:
        assert say.read_head() == b"nothing like it"

    def play() -> None:
        with Upstream(script) as up, RawClient(up.port) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert client.closed()

    with pytest.raises(AssertionError):
        play()


def test_free_ports_are_free_and_different() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert not any(listens(port) for port in ports)
