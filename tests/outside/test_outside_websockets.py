"""Tunnels, driven and served by PyPI's ``websockets``."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from websockets.sync.client import connect

from tests.support.gateway import GatewayProcess

pytestmark = pytest.mark.outside


def address(gateway: GatewayProcess, path: str = "/") -> str:
    return f"ws://127.0.0.1:{gateway.port}{path}"


def test_text_and_binary_messages_come_back(echo: GatewayProcess) -> None:
    with connect(address(echo), proxy=None, compression=None) as socket:
        for message in ("hello", "", "grüße", b"\x00\xff", b"x" * 70_000, "y" * 300_000):
            socket.send(message)
            assert socket.recv(timeout=20) == message


def test_compression_is_the_ends_business(echo: GatewayProcess) -> None:
    with connect(address(echo), proxy=None, compression="deflate", max_size=None) as socket:
        message = "again and again " * 50_000
        socket.send(message)
        assert socket.recv(timeout=20) == message


def test_pings_and_the_closing_handshake_pass(echo: GatewayProcess) -> None:
    with connect(address(echo), proxy=None) as socket:
        assert socket.ping().wait(20)
        socket.close(4001, "going home")
        assert socket.close_code == 4001


def test_many_tunnels_at_once_keep_apart(echo: GatewayProcess) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(address(echo), proxy=None)) for _ in range(50)]
        for number, socket in enumerate(sockets):
            socket.send(f"number {number}")
        for number, socket in enumerate(sockets):
            assert socket.recv(timeout=20) == f"number {number}"


def test_an_open_tunnel_keeps_its_color(echo: GatewayProcess) -> None:
    with connect(address(echo), proxy=None) as before:
        echo.set_weight(100)
        try:
            with connect(address(echo), proxy=None) as after:
                after.send("who")
                assert after.recv(timeout=20) == "green"
            before.send("who")
            assert before.recv(timeout=20) == "blue"
        finally:
            assert echo.api("POST", "/v1/rollback", {"reason": "test"}).status == 200
