"""A seat is what the supervisor keeps filled: one for control, one for each worker slot."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.board import layout
from gateway.channel.childspec import ChildSpec
from gateway.channel.unix import bind_unix
from gateway.supervisor.children import Child, Started
from gateway.supervisor.watch import RestartPolicy

if TYPE_CHECKING:
    from gateway.board.board import Board
    from gateway.supervisor.plan import Plan
    from gateway.supervisor.sockets import Sockets
    from gateway.supervisor.spare import Spare

#: Where workers connect (``ChildSpec.control_socket``).
CONTROL_CHANNEL: Final = "control.sock"

#: What control leaves for workers that start without it (``ChildSpec.snapshot_file``). That of
#: an earlier run is control's to remove: it learns from it what taken-over workers serve.
SNAPSHOTS: Final = "snapshot-*.bin*"

#: In seconds. Starts and heartbeats are compared, so both are converted in one way.
NANOSECOND: Final = 1e-9


@dataclass(slots=True, kw_only=True)
class Seat:
    """One place and who holds it. ``start_at`` is when it is filled again, None for never."""

    role: str
    slot: int = -1
    slab: int = -1
    child: Child | None = None
    start_at: float | None = 0.0
    policy: RestartPolicy = field(default_factory=RestartPolicy)


class Starter:
    """Starts children with what they inherit, and says so on the board."""

    def __init__(self, plan: Plan, board: Board, sockets: Sockets, spare: Spare) -> None:
        """Binds ``control.sock``. Raises OSError."""
        self._spare = spare
        self._plan = plan
        self._board = board
        self._sockets = sockets
        #: Names this run: a snapshot that an earlier run left is not served from.
        self.boot = os.urandom(8).hex()
        self._channel = bind_unix(Path(plan.run_dir) / CONTROL_CHANNEL)

    def start(self, seat: Seat) -> tuple[Child, Started]:
        """Fill a seat. Raises OSError where no process can be made."""
        words = self._board.words
        started_ns = time.monotonic_ns()
        if seat.role == "control":
            # The last heartbeat stays: by it workers tell how long control has been away. On a
            # new board it has been away since now.
            if words[layout.H_CONTROL_HEARTBEAT] == 0:
                words[layout.H_CONTROL_HEARTBEAT] = started_ns
            words[layout.H_CONTROL_STATE] = layout.STATE_STARTING
            words[layout.H_CONTROL_STARTED] = started_ns
        else:
            self._board.claim(seat.slab, seat.slot, started_ns)
        spec = self._spec(seat)
        taken = self._spare.take(spec) if seat.role == "worker" else None
        process = taken.process if taken else Started(spec, self._plan.argv(seat.role))
        if seat.role == "control":
            words[layout.H_CONTROL_PID] = process.pid
        else:
            words[layout.slab_at(seat.slab) + layout.S_PID] = process.pid
        child = Child(
            role=seat.role,
            slot=seat.slot,
            slab=seat.slab,
            process=process,
            started=started_ns * NANOSECOND,
            start_limit=taken.start_limit if taken else 0.0,
        )
        return child, process

    def close(self) -> None:
        """Close ``control.sock``."""
        self._channel.close()

    def _spec(self, seat: Seat) -> ChildSpec:
        plan = self._plan
        control = seat.role == "control"
        return ChildSpec(
            role=seat.role,
            slot=seat.slot,
            slab=seat.slab,
            slabs=self._board.slabs,
            board=self._board.fd,
            boot=self.boot,
            run_dir=plan.run_dir,
            config=plan.config,
            sockets=() if control else self._sockets.of_slot(seat.slot),
            admin=(self._sockets.admin,) if control else (),
            channel=self._channel.fileno() if control else -1,
            addresses=(self._sockets.admin_text,) if control else self._sockets.texts,
            drain_timeout=plan.drain_timeout,
        )
