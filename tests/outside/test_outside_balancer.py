"""Two gateways behind a balancer, each replaced in turn under load: nothing is lost.

Each is process 1 of a container of its own where that can be had. The balancers' configurations
are those of ``docs/operations.md``, with other addresses and shorter times.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from loadtests.mixed.backend import Backend
from loadtests.mixed.clients import Clients
from tests.support.container import Container, need_namespaces
from tests.support.processes import ROOT, need, start_listening, wait_until
from tests.support.rawclient import RawClient

pytestmark = [pytest.mark.outside, pytest.mark.timeout(150)]

CONFIGS = ROOT / "config" / "balancer"
ROUNDS = 2 if os.environ.get("OUTSIDE") == "whole" else 1
#: Of the gateways here; `delay` is more than the 2 * 200 ms in which HAProxy notices.
SHUTDOWN = "shutdown: {delay: 1s, timeout: 2s}\n"


@contextmanager
def pair(folder: Path) -> Iterator[list[Container]]:
    """Two gateways in front of one backend, each with a state of its own."""
    need_namespaces()
    with ExitStack() as stack:
        backend = stack.enter_context(Backend())
        found = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            made = Container.for_services(
                folder / name, {"web": ([backend.url], [])}, workers=1, extra=SHUTDOWN
            )
            found.append(stack.enter_context(made))
        yield found


def written(name: str, folder: Path, port: int, gateways: list[Container]) -> Path:
    """Write a balancer's configuration for these addresses; return its path."""
    text = (CONFIGS / name).read_text()
    changes = {
        "0.0.0.0:80": f"127.0.0.1:{port}",
        "10.0.0.11:8080": f"127.0.0.1:{gateways[0].port}",
        "10.0.0.12:8080": f"127.0.0.1:{gateways[1].port}",
        "inter 2s": "inter 200ms",
    }
    for old, new in changes.items():
        assert old in text or old == "inter 2s", old
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text)
    return path


def replace_in_turn(gateways: list[Container], port: int) -> None:
    """End each gateway under load and start another in its place; nobody notices."""
    clients = Clients(port)
    try:
        wait_until(lambda: clients.done["message"] > 5 and clients.done["upload"], "a start")
        for _ in range(ROUNDS):
            for gateway in gateways:
                before = clients.done.copy()
                began = time.monotonic()
                assert gateway.stop() == 0
                print(f"ended within {time.monotonic() - began:.1f} s")
                gateway.start()
                time.sleep(1.0)  # it is for the balancer to see that it is back
                wait_until(
                    lambda before=before: (
                        clients.lost  # type: ignore[misc]
                        or all(clients.done[kind] > before[kind] + 20 for kind in ("kept", "fresh"))
                    ),
                    "requests to go on",
                )
    finally:
        clients.stop()
    print(dict(clients.done), dict(clients.closes))
    assert clients.lost == []
    # Both ways of ending were seen.
    assert min(clients.closes["event stream"], clients.closes["websocket"]) >= ROUNDS


def test_haproxy_that_asks_first_loses_nothing(tmp_path: Path) -> None:
    program = need("haproxy")
    (port,) = free_ports(1)
    with pair(tmp_path) as gateways, ExitStack() as stack:
        path = written("haproxy.cfg", tmp_path, port, gateways)
        # The proof is of the delay: whoever tries again would hide what was refused.
        path.write_text(path.read_text().replace("retries 2", "retries 0"))
        checked = subprocess.run(
            [program, "-c", "-f", path], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        command = [program, "-db", "-f", str(path)]
        stack.callback(start_listening("haproxy", command, tmp_path, port).stop)
        with RawClient(port) as client:
            wait_until(lambda: client.get().status == 200, "HAProxy to serve")
        replace_in_turn(gateways, port)


def test_nginx_that_tries_the_other_loses_nothing(tmp_path: Path) -> None:
    program = need("nginx")
    (port,) = free_ports(1)
    with pair(tmp_path) as gateways, ExitStack() as stack:
        path = written("nginx.conf", tmp_path, port, gateways)
        whole = (
            f"daemon off;\nmaster_process off;\npid {tmp_path}/nginx.pid;\n"
            f"error_log {tmp_path}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n"
            f"client_body_temp_path {tmp_path}/body;\nproxy_temp_path {tmp_path}/proxy;\n"
        )
        path.write_text(whole + path.read_text() + "}\n")
        command = [program, "-c", str(path), "-e", str(tmp_path / "error.log")]
        stack.callback(start_listening("nginx", command, tmp_path, port).stop)
        replace_in_turn(gateways, port)


def test_the_examples_are_in_the_docs() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for path in CONFIGS.iterdir():
        assert f"config/balancer/{path.name}" in text
