"""Nothing is lost in a hand-over: workers that are replaced, upgrades, moved logs, the very end.

The soak's clients send; each request that they saw answered has its line, no line is there twice,
and metrics are what the log is. A connection that a worker closes as it leaves may have a request
under way that nobody read: its client saw no answer, and there is no line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from gateway.demo.ports import free_ports
from loadtests.soak.account import LogLine, Scrape, class_of, read_log
from loadtests.soak.peer import Order, Row
from tests.support.gateway import GatewayProcess
from tests.support.processes import (
    ROOT,
    Process,
    alive,
    children_of,
    start,
    start_listening,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

KEYS = "    drain_timeout: 2s\n    retries: 1"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    port, control = free_ports(2)
    command = [sys.executable, "-m", "loadtests.soak.backend", str(port), str(control), "it"]
    backend = start_listening("backend", command, tmp_path, control, {"PYTHONPATH": str(ROOT)})
    try:
        url = f"http://127.0.0.1:{port}"
        made = GatewayProcess.for_services(
            tmp_path, {"web": ([url], [])}, workers=2, service_keys=KEYS
        )
        with made:
            yield made
    finally:
        backend.stop()


class Clients:
    """The soak's clients, in a process of their own."""

    def __init__(self, gateway: GatewayProcess, seconds: float) -> None:
        self.output = gateway.folder / "clients.json"
        order = Order(gateway.port, 60.0, seconds, str(self.output))
        command = [sys.executable, "-m", "loadtests.soak.clients", json.dumps(asdict(order))]
        self.process: Process = start("clients", command, gateway.folder, {"PYTHONPATH": str(ROOT)})
        began = Path(f"{self.output}.began")
        wait_until(lambda: began.exists() or None, "the clients to begin")

    def end(self) -> list[Row]:
        """Have them come to an end; return what they saw."""
        if self.process.popen.poll() is None:
            self.process.popen.send_signal(signal.SIGTERM)
        assert self.process.popen.wait(60) == 0, self.process.said()[-2000:]
        return [Row(**row) for row in json.loads(self.output.read_text())["rows"]]


def workers(gateway: GatewayProcess) -> list[int]:
    return [
        pid
        for pid in children_of(gateway.pid)
        if b"gateway.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def scraped_when_quiet(gateway: GatewayProcess) -> Scrape:
    """Return the metrics once nobody is connected any more, and the log is written."""

    def quiet() -> bool | None:
        now = Scrape.of(gateway.api("GET", "/metrics").body)
        return not (now.connections or now.tunnels or now.in_flight) or None

    wait_until(quiet, "every connection to be closed")
    time.sleep(1.5)  # what is scraped is at most a second old, the log's last line less
    return Scrape.of(gateway.api("GET", "/metrics").body)


def agree(rows: list[Row], lines: list[LogLine], *, silent: int) -> None:
    """Compare clients and log; at most so many clients may have had no answer."""
    logged = Counter(line.number for line in lines if line.number >= 0)
    status = {line.number: line.status for line in lines}
    assert [number for number, count in logged.items() if count > 1] == []
    assert set(logged) <= {row.number for row in rows}
    for row in rows:
        if row.number >= 0 and row.status:
            assert status.get(row.number) == row.status, row
    unanswered = [row for row in rows if not row.status and not row.left]
    print(f"{len(rows)} requests, {len(lines)} lines, unanswered: {unanswered}")
    assert len(unanswered) <= silent, unanswered
    missing = [row for row in rows if row.number >= 0 and row.number not in logged]
    assert all(not row.status for row in missing)


def test_across_replaced_workers_an_upgrade_and_a_moved_log(gateway: GatewayProcess) -> None:
    log, moved = gateway.folder / "access.log", gateway.folder / "access.log.1"
    clients = Clients(gateway, 60.0)
    time.sleep(2)
    first = workers(gateway)
    os.kill(first[0], signal.SIGTERM)
    wait_until(lambda: not alive(first[0]) or None, "the first worker to have left")
    wait_until(lambda: (len(workers(gateway)) == 2 and gateway.is_ready()) or None, "another")
    log.rename(moved)
    wait_until(lambda: log.exists() or None, "another log", timeout=5)
    before = workers(gateway)
    command = [sys.executable, "-P", "-m", "gateway", "upgrade", "--config", str(gateway.path)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=gateway.folder,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    gateway._remember()
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not any(map(alive, before)) or None, "the former workers to have left")
    assert gateway.api("POST", "/v1/config/reload").status == 200
    time.sleep(1)
    rows = clients.end()
    scrape = scraped_when_quiet(gateway)
    lines = read_log([moved, log])
    assert len(rows) > 200
    # Each of the three workers that left had up to a second in which it closed idle connections.
    agree(rows, lines, silent=6)
    assert scrape.requests == Counter(class_of(line.status) for line in lines)
    assert scrape.timed == len(lines) - scrape.requests["1xx"]
    assert scrape.lines_lost == 0


def test_the_last_line_is_written(gateway: GatewayProcess) -> None:
    """The gateway ends under load: what was answered, and what was cut, has its line."""
    clients = Clients(gateway, 6.0)
    time.sleep(3)
    assert gateway.stop() == 0
    rows = clients.end()
    lines = read_log([gateway.folder / "access.log"])
    assert sum(bool(row.status) for row in rows) > 100
    # From the end of listening on nobody can connect, and has asked nothing.
    agree(rows, lines, silent=10)
