"""The limit is the machine's: an attacker on many connections, several workers, real processes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.support.gateway import GatewayProcess
from tests.support.upstream import Upstream, always

RATE, BURST, SECONDS, CONNECTIONS = 100, 50, 10.0, 40
REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


async def _attack(port: int, share: float, until: float) -> list[int]:
    """Ask ``share`` times a second over one connection; return the statuses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    due, statuses = time.monotonic(), []
    while due < until:
        await asyncio.sleep(max(due - time.monotonic(), 0))
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        statuses.append(int(head[9:12]))
        due += 1 / share
    writer.close()
    return statuses


async def _all(port: int) -> tuple[list[int], float]:
    began = time.monotonic()
    share = 10 * RATE / CONNECTIONS
    found = await asyncio.gather(
        *(_attack(port, share, began + SECONDS) for _ in range(CONNECTIONS))
    )
    return [status for each in found for status in each], time.monotonic() - began


def test_an_attacker_at_ten_times_the_rate_gets_the_rate_and_the_burst(tmp_path: Path) -> None:
    with Upstream(always(b"ok")) as upstream:
        gateway = GatewayProcess.for_services(
            tmp_path,
            {"web": ([upstream.url], [])},
            workers=2,
            extra=f"limits: {{rate: {{rate: {RATE}/s, burst: {BURST}}}}}\n",
        )
        with gateway:
            statuses, took = asyncio.run(_all(gateway.port))
    assert set(statuses) == {200, 429}
    admitted = statuses.count(200)
    allowed = RATE * took + BURST
    print(f"asked {len(statuses)} in {took:.2f} s, admitted {admitted}, allowed {allowed:.0f}")
    assert len(statuses) > 5 * allowed  # else it was no attack
    assert abs(admitted - allowed) <= 0.05 * allowed
