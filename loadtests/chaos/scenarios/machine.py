"""Faults of the machine itself: a worker that hangs, a bad network, memory that readers pin."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from gateway.demo.ports import free_ports
from loadtests.chaos.relay import Order as Relay
from loadtests.chaos.stage import (
    ROOT,
    Gateway,
    Pace,
    Stage,
    sleep_until,
    wait_for,
)
from loadtests.chaos.verdict import Check, bad, between, no_failure, p99_ms, said
from loadtests.processes import start, wait_listening

#: Seconds within which a worker that hangs is found and another serves in its place.
REPLACED = 2.0
#: What a busy machine may take more to start a process: the suite's, that runs much beside.
BUSY = 1.0


def ready(gateway: Gateway) -> set[int]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        rows = gateway.api("GET", "/v1/status").json["processes"]
        return {
            int(row["pid"]) for row in rows if row["role"] == "worker" and row["state"] == "ready"
        }
    return set()


def worker_hung(stage: Stage, pace: Pace) -> list[Check]:
    """Stop one of two workers (SIGSTOP) under load: it is found by its heartbeat and replaced."""
    (backend,) = stage.backends("a", delay=0.1)  # so that there are connections, and to both
    gateway = stage.gateway({"web": ([backend], {})})
    seconds = max(pace.seconds, 6.0)
    load = stage.load(gateway, "/web/{n}", pace.rate, seconds)
    sleep_until(load.at(0.3))
    before = ready(gateway)
    hung = max(before, key=lambda pid: _connections(pid, gateway.port))
    os.kill(hung, signal.SIGSTOP)
    stopped = time.monotonic()
    in_hands = _connections(hung, gateway.port)

    def found() -> float | None:
        return None if _alive(hung) else time.monotonic()

    def replaced() -> float | None:
        now = ready(gateway)
        return time.monotonic() if hung not in now and len(now) == len(before) else None

    killed = wait_for(found, "it is killed", 10) - stopped
    took = wait_for(replaced, "another worker", 10) - stopped
    bar = REPLACED + (BUSY if pace.short else 0.0)
    rows = load.rows()
    failed = bad(rows)
    after = between(rows, stopped + bar + 0.5, rows[-1].due + 1)
    longest = max((row.seconds for row in rows), default=0.0)
    return [
        Check(
            f"replaced within {bar:g} s",
            f"{took:.2f} s, of these {killed:.2f} s until it was found and killed",
            took <= bar,
        ),
        Check(
            "lost: only what it held",
            f"{len(failed)} of {len(rows)} failed ({said(failed)}); it held {in_hands} connections",
            in_hands > 0 and len(failed) <= in_hands,
        ),
        Check(
            "nobody waits longer than that",
            f"the longest took {longest:.2f} s",
            longest <= bar + 0.5,
        ),
        no_failure(after),
    ]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _connections(pid: int, port: int) -> int:
    """Return how many established connections a process has on a local port (Linux)."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port and fields[3] == "01":
            inodes.add(f"socket:[{fields[9]}]")
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(entry.readlink()) in inodes
    return found


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
    workers = sorted(ready(gateway))
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
    workers = sorted(ready(gateway))
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
