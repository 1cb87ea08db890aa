"""What is measured, one function each: a round of wrk, a constant rate, idle connections.

Loads are bounded in time and stay on loopback.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.processes import (
    ToolError,
    processor_seconds,
    raise_file_limit,
    resident_octets,
)
from loadtests.steady import Steady

HERE = Path(__file__).parent
_MARK = "@@"

#: Seconds for opening the idle connections; a proxy that stops answering must not stop the bench.
IDLE_PATIENCE = 60.0

#: The most that the constant-rate client itself keeps up with, requests a second.
MOST_STEADY = 12_000.0


@dataclass(frozen=True, slots=True)
class Round:
    """One run of wrk. Times are microseconds of processor time per request, and milliseconds."""

    requests: int
    rate: float
    worker_us: float
    all_us: float
    p50_ms: float
    p99_ms: float
    errors: int


def wrk_round(
    port: int,
    seconds: float,
    connections: int,
    workers: Sequence[int],
    everyone: Sequence[int],
    host: str = "",
    *,
    scheme: str = "http",
    closed: bool = False,
) -> Round:
    """Run wrk once against ``port`` and weigh the processes' time by its own request count.

    With a ``host`` its requests are for that, and take what is stored (``request.lua``). Where
    ``closed``, each asks for its connection to be closed.

    The processes are read when wrk has gone: a request still in hand then is work without a count,
    at most one a connection.
    """
    before = processor_seconds(workers), processor_seconds(everyone)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    command += ["-s", str(HERE / "request.lua"), f"{scheme}://127.0.0.1:{port}"]
    command += ["--", host] if host or closed else []
    command += ["close"] if closed else []
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 30, check=False
    )
    after = processor_seconds(workers), processor_seconds(everyone)
    line = next((each for each in done.stdout.splitlines() if each.startswith(_MARK)), None)
    if line is None:
        raise ToolError(f"wrk said nothing: {done.stdout[-500:]} {done.stderr[-500:]}")
    said = json.loads(line.removeprefix(_MARK))
    count = int(said["requests"])
    if count == 0:
        raise ToolError(f"not one answer from port {port}: {said}")
    return Round(
        requests=count,
        rate=count / float(said["seconds"]),
        worker_us=(after[0] - before[0]) * 1e6 / count,
        all_us=(after[1] - before[1]) * 1e6 / count,
        p50_ms=float(said["p50_ms"]),
        p99_ms=float(said["p99_ms"]),
        errors=int(said["errors"]) + int(said["refused"]),
    )


def constant_rate(port: int, rate: float, seconds: float) -> Steady:
    """Offer ``rate`` requests a second for ``seconds``; see ``loadtests.steady``."""
    command = [sys.executable, "-m", "loadtests.steady", str(port), f"{rate:.1f}", f"{seconds:g}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 30, check=False, cwd=HERE.parent
    )
    if done.returncode != 0:
        raise ToolError(f"steady load: {done.stdout[-500:]} {done.stderr[-500:]}")
    return Steady(**json.loads(done.stdout))


@dataclass(frozen=True, slots=True)
class Idle:
    """Idle keep-alive connections: how many were held, and resident octets for each."""

    connections: int
    octets_each: float
    note: str


def idle_connections(
    port: int, wanted: int, workers: Sequence[int], *, secure: bool = False
) -> Idle:
    """Open ``wanted`` connections, one small request on each, hold them, weigh the workers.

    Half the limit of open files is ours at most (the backend connections and the proxy have their
    own limits). Several source addresses of 127.0.0.0/8 keep clear of the range of ports.
    """
    limit = raise_file_limit(wanted + 512) - 256
    count = max(1, min(wanted, limit))
    note = "" if count == wanted else f"{count} of {wanted}: the limit of open files is {limit}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if secure else None
    if context is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return asyncio.run(_idle(port, count, workers, note, context))


async def _idle(
    port: int,
    count: int,
    workers: Sequence[int],
    note: str,
    context: ssl.SSLContext | None,
) -> Idle:
    head = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n"
    held: list[asyncio.StreamWriter] = []
    gate = asyncio.Semaphore(64)

    async def hold(number: int) -> None:
        async with gate:
            source = f"127.0.{1 + number // 8000}.1"
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(source, 0), limit=4096, ssl=context
                ),
                10,
            )
            try:
                writer.write(head)
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            except BaseException:
                writer.transport.abort()
                raise
            held.append(writer)

    async def hold_all(numbers: range) -> list[BaseException]:
        holding = [asyncio.ensure_future(hold(number)) for number in numbers]
        done, late = await asyncio.wait(holding, timeout=IDLE_PATIENCE)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        failed = [error for task in done if (error := task.exception()) is not None]
        return [*failed, *(TimeoutError("not opened in time") for _ in late)]

    try:
        # A first few hundred fill the proxy's own pools, so that the rest weighs connections alone.
        warm = min(200, count // 10)
        failed = await hold_all(range(warm))
        await asyncio.sleep(0.5)
        before = resident_octets(workers)
        opened_before = len(held)
        failed += await hold_all(range(warm, count))
        opened = len(held) - opened_before
        await asyncio.sleep(1)
        after = resident_octets(workers)
        if failed:
            note = f"{note} {len(failed)} could not be opened ({failed[0]!r})".strip()
        return Idle(len(held), (after - before) / max(1, opened), note)
    finally:
        for writer in held:
            writer.transport.abort()


def machine() -> str:
    """Say what this is measured on: processor, cores, kernel, memory."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    system = os.uname()
    return f"{model}, {cores} cores, {pages / 2**30:.0f} GiB, {system.sysname} {system.release}"


def today() -> str:
    """Return the date in UTC, as the report bears it."""
    return time.strftime("%Y-%m-%d", time.gmtime())
