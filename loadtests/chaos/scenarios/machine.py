"""Faults around the machine: a bad network, memory that readers pin."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from gateway.demo.ports import free_ports
from loadtests.chaos.relay import Order as Relay
from loadtests.chaos.stage import ROOT, Gateway, Pace, Stage, wait_for
from loadtests.chaos.verdict import Check, no_failure, p99_ms
from loadtests.processes import start, wait_listening

# --- a bad network --------------------------------------------------------------------------------

DELAY, LOSS = 0.05, 0.05


def _relay(stage: Stage, target: int) -> int:
    (port,) = free_ports(1)
    order = Relay(port, target, DELAY, LOSS)
    command = [sys.executable, "-m", "loadtests.chaos.relay", json.dumps(asdict(order))]
    child = start(f"relay-{port}", command, stage.folder, {"PYTHONPATH": str(ROOT)})
    stage.owns(child.stop)
    wait_listening(child, port)
    return port


def slow_network(stage: Stage, pace: Pace) -> list[Check]:
    """100 ms there and back, and 5 % of packets lost, before and behind the gateway."""
    far = [
        replace(each, port=_relay(stage, each.port), child=None)
        for each in stage.backends("a", "b")
    ]
    gateway = stage.gateway({"web": (far, {})})
    near = replace(gateway, port=_relay(stage, gateway.port))
    workers = sorted(gateway.ready())
    # Once to warm up: pools, buffers, whatever is made once.
    stage.load(near, "/web/{n}", pace.rate / 3, 3.0, connections=64).rows()
    wait_for(lambda: not _clients(gateway), "the clients have gone")
    files, memory = _files(workers), _memory(workers)
    rows = stage.load(near, "/web/{n}", pace.rate / 3, pace.seconds * 2, connections=64).rows()
    wait_for(lambda: not _clients(gateway), "the clients have gone")
    grown = _memory(workers) - memory
    # Idle connections to backends are kept for a while, and are no leak.
    kept = _files(workers) - files
    return [
        no_failure(rows),
        Check(
            "the network is as slow as it is meant to be",
            f"p99 {p99_ms(rows):.0f} ms",
            p99_ms(rows) > 4 * DELAY * 1000,
        ),
        Check("no descriptor leaks", f"{kept:+d} after the load", kept <= 64),
        Check("no memory leaks (bar 8 MiB)", f"{grown / 2**20:+.1f} MiB", grown < 8 << 20),
    ]


def _clients(gateway: Gateway) -> int:
    text = gateway.api("GET", "/metrics").body.decode()
    line = next(each for each in text.splitlines() if each.startswith("gateway_connections "))
    return int(float(line.split()[1]))


def _files(pids: list[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def _memory(pids: list[int]) -> int:
    """Return the octets of memory that these processes have for themselves."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        line = next(each for each in text.splitlines() if each.startswith("RssAnon:"))
        total += int(line.split()[1]) * 1024
    return total


# --- slow readers ---------------------------------------------------------------------------------

READERS, BODY = 200, 10 << 20
#: Octets of memory that one reader may cost, in both workers together.
A_READER = 512 << 10


def slow_readers(stage: Stage, pace: Pace) -> list[Check]:
    """200 clients each read a body of 10 MiB drop by drop: what they do not take is not held."""
    (backend,) = stage.backends("a", size=BODY)
    (other,) = stage.backends("b")
    gateway = stage.gateway({"web": ([backend], {}), "other": ([other], {})})
    workers = sorted(gateway.ready())
    beside = stage.load(gateway, "/other/{n}", pace.rate / 3, max(6.0, pace.seconds))
    before = _memory(workers)
    most = 0
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(READERS):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.settimeout(10)
            reader.connect(("127.0.0.1", gateway.port))
            reader.sendall(b"GET /web/big HTTP/1.1\r\nHost: chaos.example\r\n\r\n")
            readers.append(reader)
        taken = 0
        while time.monotonic() < beside.at(0.9):
            for reader in readers:
                taken += len(reader.recv(512))
            most = max(most, _memory(workers) - before)
            time.sleep(0.05)
        alive = _clients(gateway)
    rows = beside.rows()
    wait_for(lambda: not _clients(gateway), "the readers have gone")
    return [
        Check(
            f"bounded memory (bar {READERS * A_READER >> 20} MiB of {READERS * BODY >> 20})",
            f"{most / 2**20:.1f} MiB for {READERS} readers, {most / READERS / 1024:.0f} KiB each",
            most <= READERS * A_READER,
        ),
        Check("they are served", f"{alive} connected, {taken} octets taken", alive >= READERS),
        no_failure(rows),
    ]
