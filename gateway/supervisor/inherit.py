"""How a supervisor takes up what it found running, and what it leaves to one after it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.board.board import Board
from gateway.supervisor.children import Child, Phase
from gateway.supervisor.seats import Seat
from gateway.supervisor.upgrade import Baggage, Carried

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.supervisor.lock import OwnerLock
    from gateway.supervisor.plan import Plan
    from gateway.supervisor.sockets import Sockets
    from gateway.supervisor.takeover import Inheritance


@dataclass(frozen=True, slots=True)
class Adoption:
    """Children that another supervisor started (``all``); of them, those to be retired
    (``old``), and those that go on in their slots (``kept``).
    """

    all: list[Child] = field(default_factory=list)
    old: list[Child] = field(default_factory=list)
    kept: dict[int, Child] = field(default_factory=dict)


def make_board(plan: Plan, found: Inheritance) -> Board:
    """Return the board that runs on, or a new one, with room for new workers beside old."""
    held = {old.slab for old in found.workers if old.slab >= 0}
    slabs = max(plan.slabs, len(found.numbers) + plan.workers)
    board = found.board.grow(slabs) if found.board else Board.create(slabs)
    for slab in range(board.slabs):
        # Whoever died while there was no supervisor has left its gauges standing.
        if slab not in held and board.state(slab) != layout.STATE_FREE:
            board.release(slab)
    board.words[layout.H_SUPERVISOR_PID] = os.getpid()
    board.words[layout.H_SUPERVISOR_STARTED] = time.monotonic_ns()
    board.words[layout.H_SLOTS] = plan.workers
    board.words[layout.H_LEAVING] = 0
    return board


def adopt(found: Inheritance, workers: int) -> Adoption:
    """Make children of the old workers that were found; the plan has ``workers`` slots."""
    adoption = Adoption()
    for old in found.workers:
        child = Child(
            role="worker",
            slot=old.slot,
            slab=old.slab,
            process=old.process,
            started=old.started,
            phase=old.phase,
            was_ready=old.phase is Phase.SERVING,
            kill_at=old.kill_at,
        )
        adoption.all.append(child)
        keep = old.keep and old.phase is Phase.SERVING and old.slot not in adoption.kept
        if keep and old.slot < workers:
            adoption.kept[old.slot] = child
        else:
            adoption.old.append(child)
    return adoption


def worker_seats(board: Board, workers: int, held: set[int], kept: dict[int, Child]) -> list[Seat]:
    """Return a seat for each slot, in slabs that nobody holds; ``kept`` sit in theirs already."""
    free = iter([slab for slab in range(board.slabs) if slab not in held])
    seats = []
    for slot in range(workers):
        child = kept.get(slot)
        slab = child.slab if child is not None and child.slab >= 0 else next(free)
        start_at = None if child is not None else 0.0
        seats.append(Seat(role="worker", slot=slot, slab=slab, child=child, start_at=start_at))
    return seats


def pack(
    lock: OwnerLock,
    board: Board,
    sockets: Sockets,
    children: Iterable[Child],
    seats: Iterable[Seat],
) -> Baggage:
    """Return all that a supervisor after this one needs, without who asked for it."""
    seated = {seat.child.process.pid for seat in seats if seat.child is not None}
    control = [child.process.pid for child in children if child.role == "control"]
    workers = [
        Carried(
            pid=child.process.pid,
            slot=child.slot,
            slab=child.slab,
            started=child.started,
            phase=child.phase.value,
            kill_at=child.kill_at,
            keep=child.process.pid in seated,
        )
        for child in children
        if child.role == "worker"
    ]
    return Baggage(
        lock=lock.fd,
        board=board.fd,
        sockets=tuple(sockets.carried()),
        admin=(sockets.admin_text, sockets.admin),
        given=sockets.given,
        workers=tuple(workers),
        control=tuple(control),
        id="",
        began=0.0,
    )
