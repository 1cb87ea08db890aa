"""What the outside tests share: servers and a gateway, each a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from tests.support.gateway import GatewayProcess
from tests.support.processes import start_listening

HERE = Path(__file__).parent

Serve = Callable[[str, int, str, Path], None]


@contextmanager
def two_colors(script: str, folder: Path, keys: str = "") -> Iterator[GatewayProcess]:
    """Start one server a color and a gateway in front of them; end all."""
    with ExitStack() as stack:
        ports = free_ports(2)
        for color, port in zip(("blue", "green"), ports, strict=True):
            command = [sys.executable, str(HERE / script), str(port), color]
            process = start_listening(color, command, folder, port)
            stack.callback(process.stop)
        blue, green = (f"http://127.0.0.1:{port}" for port in ports)
        services = {"app": ([blue], [green])}
        gateway = GatewayProcess.for_services(folder, services, service_keys=keys)
        yield stack.enter_context(gateway)


@pytest.fixture(scope="module")
def httpbin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of two httpbins."""
    pytest.importorskip("httpbin", reason="PyPI's httpbin is not installed")
    with two_colors("serve_httpbin.py", tmp_path_factory.mktemp("httpbin")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of two WebSocket echo servers."""
    with two_colors("serve_echo.py", tmp_path_factory.mktemp("echo")) as gateway:
        yield gateway
