"""How the gateway's own processes are: memory, descriptors, tasks, timers, connections, stalls.

What a leak shows in first. Workers and control write their own numbers to the board (a worker once
a second, whatever its traffic); memory and descriptors are asked of the system by whoever wants to
know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import GaugeMetricFamily, Metric

from gateway.board import layout
from gateway.board.board import Board
from gateway.channel.vitals import open_files, resident


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """One process. ``slot`` is a worker's (-1: it is none).

    ``memory`` is in octets, ``stall`` in seconds. None: it is not told (a supervisor has no loop),
    or the system does not say.
    """

    process: Literal["supervisor", "control", "worker"]
    pid: int
    slot: int = -1
    memory: int | None = None
    files: int | None = None
    tasks: int | None = None
    timers: int | None = None
    connections: int | None = None
    upstream_busy: int | None = None
    upstream_idle: int | None = None
    stall: float | None = None


def vitals(board: Board) -> list[Vitals]:
    """Return how the supervisor, control and every live worker are."""
    words = board.words
    supervisor, control = words[layout.H_SUPERVISOR_PID], words[layout.H_CONTROL_PID]
    return [
        Vitals(
            process="supervisor",
            pid=supervisor,
            memory=_memory(supervisor),
            files=_files(supervisor),
        ),
        Vitals(
            process="control",
            pid=control,
            memory=_memory(control),
            files=_files(control),
            tasks=words[layout.H_CONTROL_TASKS],
            stall=words[layout.H_CONTROL_STALL_MAX] / 1e9,
        ),
        *(_worker(board, each.slab, each.slot, each.pid) for each in board.workers()),
    ]


def _worker(board: Board, slab: int, slot: int, pid: int) -> Vitals:
    words = board.slab(slab)
    return Vitals(
        process="worker",
        pid=pid,
        slot=slot,
        memory=_memory(pid),
        files=_files(pid),
        tasks=words[layout.S_TASKS],
        timers=words[layout.S_TIMERS],
        connections=words[layout.S_CONNECTIONS],
        upstream_busy=words[layout.S_UPSTREAM_BUSY],
        upstream_idle=words[layout.S_UPSTREAM_IDLE],
        stall=words[layout.S_STALL_MAX] / 1e9,
    )


def _memory(pid: int) -> int | None:
    return (resident(pid) or None) if pid else None


def _files(pid: int) -> int | None:
    return (open_files(pid) or None) if pid else None


def _each(
    name: str, about: str, every: Iterable[Vitals], value: Callable[[Vitals], float | None]
) -> GaugeMetricFamily:
    """Return one gauge by process and slot; two of one slot (a hand-over) are added up."""
    family = GaugeMetricFamily(name, about, labels=["process", "slot"])
    sums: dict[tuple[str, str], float] = {}
    for each in every:
        found = value(each)
        if found is not None:
            key = (each.process, "" if each.slot < 0 else str(each.slot))
            sums[key] = sums.get(key, 0.0) + found
    for labels, total in sums.items():
        family.add_metric(labels, total)
    return family


def metrics(every: list[Vitals]) -> Iterator[Metric]:
    """Yield how the processes are."""
    yield _each(
        "gateway_process_resident_memory_bytes", "Resident memory.", every, lambda it: it.memory
    )
    yield _each("gateway_process_open_fds", "Descriptors open.", every, lambda it: it.files)
    yield _each("gateway_process_tasks", "Tasks of the loop not done.", every, lambda it: it.tasks)
    yield _each("gateway_process_timers", "Places on the timer wheel.", every, lambda it: it.timers)
    yield _each(
        "gateway_process_connections",
        "Clients' connections open.",
        every,
        lambda it: it.connections,
    )
    yield _each(
        "gateway_process_stall_seconds_max",
        "The longest stall of its loop since its start.",
        every,
        lambda it: it.stall,
    )
    upstream = GaugeMetricFamily(
        "gateway_upstream_connections", "Connections to backends.", labels=["slot", "state"]
    )
    sums: dict[tuple[str, str], int] = {}
    for each in every:
        for state, count in (("busy", each.upstream_busy), ("idle", each.upstream_idle)):
            if count is not None:
                key = (str(each.slot), state)
                sums[key] = sums.get(key, 0) + count
    for labels, total in sums.items():
        upstream.add_metric(labels, total)
    yield upstream


def told(board: Board) -> dict[str, object]:
    """Return how control is, as its own socket tells it."""
    words = board.words
    return {
        "memory": resident(),
        "descriptors": open_files(),
        "tasks": words[layout.H_CONTROL_TASKS],
        "stall_max_ms": round(words[layout.H_CONTROL_STALL_MAX] / 1e6, 1),
    }
