"""Workers without descriptors for more clients: nobody accepted is cut, who comes waits."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.processes import wait_until
from tests.support.upstream import Upstream, always

pytestmark = pytest.mark.slow

#: Descriptors left to a worker beyond what it has at rest, and how many clients that makes.
LEFT = 64
MOST = 20


def _worker(gateway: GatewayProcess) -> int:
    rows = gateway.api("GET", "/v1/status").body["processes"]
    return next(int(row["pid"]) for row in rows if row["role"] == "worker")


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _metric(gateway: GatewayProcess, name: str) -> float:
    text = gateway.api("GET", "/metrics").body
    [line] = [each for each in text.splitlines() if each.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway whose one worker has ``LEFT`` descriptors for connections."""
    with Upstream(always(b"x")) as upstream:
        services: dict[str, tuple[list[str], list[str]]] = {"web": ([upstream.url], [])}
        with GatewayProcess.for_services(tmp_path, services) as gateway:
            worker = _worker(gateway)
            _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
            limit = _open_files(worker) + LEFT
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, hard))
            time.sleep(0.5)  # a worker looks at its limit ten times a second
            yield gateway
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (hard, hard))


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    with Upstream(always(b"x")) as upstream:
        services: dict[str, tuple[list[str], list[str]]] = {"web": ([upstream.url], [])}
        with GatewayProcess.for_services(tmp_path, services) as gateway:
            soft, hard = resource.prlimit(_worker(gateway), resource.RLIMIT_NOFILE)
            assert soft == min(hard, 1 << 20) or soft == resource.RLIM_INFINITY


def test_fresh_connections_beyond_the_limit_wait_and_none_is_cut(narrow: GatewayProcess) -> None:
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port), timeout=20))
            for _ in range(5 * MOST)
        ]
        wait_until(
            lambda: _metric(narrow, "gateway_workers_not_accepting") == 1 or None,
            "the worker stops accepting",
        )
        assert MOST // 2 <= _metric(narrow, "gateway_connections") <= MOST + 3
        worker = _worker(narrow)
        before = _processor_time(worker)
        time.sleep(1.0)
        assert _processor_time(worker) - before < 0.5  # it waits and burns nothing
        assert any("no descriptors" in each for each in _warnings(narrow))
        # All of them ask, whichever of them were accepted: all are answered in the end.
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        answers = [_read(client) for client in clients]
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers), answers
    wait_until(
        lambda: _metric(narrow, "gateway_workers_not_accepting") == 0 or None, "it accepts again"
    )
    assert _metric(narrow, "gateway_accept_pauses_total") >= 1
    assert not any("no descriptors" in each for each in _warnings(narrow))
    assert "cannot accept" not in narrow.said()


def test_kept_alive_clients_make_room_for_others_and_none_is_cut(narrow: GatewayProcess) -> None:
    clients, each = 3 * MOST, 10
    together = threading.Barrier(clients)

    def browse(_: int) -> list[int]:
        together.wait()
        found = []
        connection = http.client.HTTPConnection("127.0.0.1", narrow.port, timeout=20)
        for _ in range(each):
            # http.client connects anew where it was told that the connection ends, and only then.
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            found.append(answer.status)
        connection.close()
        return found

    with ThreadPoolExecutor(clients) as pool:
        statuses = [status for found in pool.map(browse, range(clients)) for status in found]
    assert statuses == [200] * (clients * each)
    assert _metric(narrow, "gateway_accept_pauses_total") >= 1


def _read(client: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\nx"):
        piece = client.recv(4096)
        if not piece:
            break
        data += piece
    client.close()
    return data


def _warnings(gateway: GatewayProcess) -> list[str]:
    found: list[str] = gateway.api("GET", "/v1/status").body["warnings"]
    return found
