from __future__ import annotations

import os
import socket

import pytest

from gateway.channel import inherited


def test_who_waits_is_taken_and_who_comes_later_is_refused() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    where = listener.getsockname()
    clients = [socket.create_connection(where, timeout=5.0) for _ in range(5)]
    waiting = inherited.let_go([(3, listener.detach())])
    assert [index for index, _ in waiting] == [3] * 5
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where, timeout=5.0)
    for client, (_, connection) in zip(clients, waiting, strict=True):
        connection.sendall(b"served")
        assert client.recv(10) == b"served"
        connection.close()
        client.close()


def test_another_holder_of_the_socket_goes_on() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    assert inherited.let_go([(0, os.dup(listener.fileno()))]) == []
    with socket.create_connection(listener.getsockname(), timeout=5.0):
        listener.accept()[0].close()
    listener.close()


def test_a_flood_keeps_nobody_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherited, "MOST_WAITING", 2)
    listener = socket.create_server(("127.0.0.1", 0))
    clients = [socket.create_connection(listener.getsockname(), timeout=5.0) for _ in range(4)]
    waiting = inherited.let_go([(0, listener.detach())])
    assert len(waiting) == 2
    for end in (*clients, *(connection for _, connection in waiting)):
        end.close()
