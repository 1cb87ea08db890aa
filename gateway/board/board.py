"""The views on the board's shared memory: who maps it, who may write which word, what sums mean.

One writer a word: the supervisor writes the header (control its own heartbeat and state there),
control the endpoint cells' health, a worker its slab. A cell's breaker is written by whoever holds
the cell's lock (``board.locks``). The supervisor also writes a slab that no process
holds, before a worker takes it and after one has gone. A read of one aligned 64-bit word is whole,
so nothing here takes a lock; sums over slabs are of words read one after the other and may be off
by what happened in between.

A *counter* goes on after its writer has died; a *gauge* (connections, in flight, tunnels) of a
slab that no live process holds counts nothing. Standard library only: the supervisor maps it too.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Final

from gateway.board import layout
from gateway.board.judge import can_serve

#: States in which a process holds a slab.
LIVE: Final = frozenset({layout.STATE_STARTING, layout.STATE_READY, layout.STATE_DRAINING})

SLAB_GAUGES: Final = (
    layout.S_CONNECTIONS,
    layout.S_IN_FLIGHT,
    layout.S_TUNNELS,
    layout.S_NOT_ACCEPTING,
    layout.S_TASKS,
    layout.S_TIMERS,
    layout.S_UPSTREAM_BUSY,
    layout.S_UPSTREAM_IDLE,
)
ROW_GAUGES: Final = (layout.ROW_IN_FLIGHT, layout.ROW_WAITING)
ENDPOINT_GAUGES: Final = (layout.ENDPOINT_IN_FLIGHT, layout.ENDPOINT_TUNNELS)

#: What describes one process and means nothing for the next that takes the slab.
_OF_ONE_PROCESS: Final = (
    layout.S_PID,
    layout.S_HEARTBEAT,
    layout.S_TOPOLOGY,
    layout.S_TRAFFIC,
    layout.S_STALL_MAX,
    layout.S_FORCED_STABLE,
    layout.S_NUMBER,
)

#: A board beyond this is a mistake, not a machine.
MAX_SLABS: Final = 4096


class BoardError(Exception):
    """The memory is not a board that this version can use; the text says what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerWords:
    """One worker process as its slab shows it. Times are CLOCK_MONOTONIC in nanoseconds."""

    slab: int
    slot: int
    pid: int
    state: int
    started: int
    heartbeat: int
    topology: int
    traffic: int
    number: int
    connections: int
    in_flight: int
    tunnels: int
    forced_stable: bool

    @property
    def state_name(self) -> str:
        """The state in words."""
        return layout.STATE_NAMES[self.state]


class Board:
    """One mapping of the shared memory. It owns ``fd`` and closes it in ``close``."""

    __slots__ = ("_mapping", "fd", "slabs", "words")

    fd: int
    slabs: int
    #: All words of the mapping (format ``Q``).
    words: memoryview

    def __init__(self, fd: int, slabs: int) -> None:
        self.fd = fd
        self.slabs = slabs
        self._mapping = mmap.mmap(fd, layout.board_bytes(slabs))
        self.words = memoryview(self._mapping).cast("Q")

    @classmethod
    def create(cls, slabs: int) -> Board:
        """Make a new board with that many slabs, all free, every count 0."""
        _check_slabs(slabs)
        fd = _anonymous_file()
        try:
            os.ftruncate(fd, layout.board_bytes(slabs))
            board = cls(fd, slabs)
        except BaseException:
            os.close(fd)
            raise
        board.words[layout.H_LAYOUT] = layout.LAYOUT
        board.words[layout.H_SLABS] = slabs
        secret = memoryview(os.urandom(layout.LIMIT_SECRET_WORDS * layout.WORD)).cast("Q")
        for at, word in enumerate(secret):
            board.words[layout.H_LIMIT_SECRET + at] = word
        board.words[layout.H_MAGIC] = layout.MAGIC
        return board

    @classmethod
    def attach(cls, fd: int, slabs: int = 0) -> Board:
        """Map the board behind ``fd``; ``slabs`` 0 takes as many as it says it has.

        Raises BoardError where it is none, of another layout, too short, or has fewer slabs. The
        descriptor stays the caller's then.
        """
        has = _slabs_behind(fd)
        if slabs > has:
            raise BoardError(f"the board has {has} slabs, expected at least {slabs}")
        return cls(fd, slabs or has)

    def grow(self, slabs: int) -> Board:
        """Return a board over the same memory with ``slabs`` slabs; this one is closed.

        Mappings of other processes stay valid: slabs are added at the end.
        """
        _check_slabs(slabs)
        if slabs <= self.slabs:
            return self
        fd = os.dup(self.fd)
        try:
            os.ftruncate(fd, layout.board_bytes(slabs))
            grown = Board(fd, slabs)
        except BaseException:
            os.close(fd)
            raise
        grown.words[layout.H_SLABS] = slabs
        self.close()
        return grown

    def close(self) -> None:
        """Close the descriptor and unmap, unless views of it are still held somewhere."""
        self.words.release()
        with contextlib.suppress(BufferError):  # a slab's view lives on; the last one unmaps
            self._mapping.close()
        os.close(self.fd)

    # --- slabs --------------------------------------------------------------------------------

    def slab(self, slab: int) -> memoryview:
        """Return one slab's words. Raises IndexError where there is no such slab."""
        if not 0 <= slab < self.slabs:
            raise IndexError(f"the board has slabs 0 to {self.slabs - 1}, not {slab}")
        at = layout.slab_at(slab)
        return self.words[at : at + layout.SLAB_WORDS]

    def state(self, slab: int) -> int:
        """Return a slab's ``STATE_*``."""
        return self.words[layout.slab_at(slab) + layout.S_STATE]

    def live(self, slab: int) -> bool:
        """Tell whether a process holds the slab."""
        return self.state(slab) in LIVE

    def claim(self, slab: int, slot: int, now: int) -> None:
        """Prepare a slab that nobody holds for a worker about to start (supervisor only).

        ``now`` is CLOCK_MONOTONIC in nanoseconds. The heartbeat is 0 until the worker's first.
        """
        words = self.slab(slab)
        self.reset_gauges(slab)
        for word in _OF_ONE_PROCESS:
            words[word] = 0
        words[layout.S_SLOT] = slot
        words[layout.S_STARTED] = now
        words[layout.S_STATE] = layout.STATE_STARTING

    def release(self, slab: int) -> None:
        """Mark a slab's process as gone, once it surely is (supervisor only)."""
        self.words[layout.slab_at(slab) + layout.S_STATE] = layout.STATE_GONE
        self.reset_gauges(slab)

    def reset_gauges(self, slab: int) -> None:
        """Put a slab's gauges to 0; its counters go on."""
        words = self.slab(slab)
        for word in SLAB_GAUGES:
            words[word] = 0
        for row in range(layout.MAX_SERVICES):
            for word in ROW_GAUGES:
                words[layout.ROWS_AT + row * layout.ROW_WORDS + word] = 0
        for cell in range(layout.MAX_ENDPOINTS):
            for word in ENDPOINT_GAUGES:
                words[layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS + word] = 0

    def workers(self) -> list[WorkerWords]:
        """Return the live workers, in the order of their slabs."""
        return [self.worker(slab) for slab in range(self.slabs) if self.live(slab)]

    def worker(self, slab: int) -> WorkerWords:
        """Return what one slab says about its process, live or not."""
        words = self.slab(slab)[: layout.SLAB_HEADER_WORDS].tolist()
        return WorkerWords(
            slab=slab,
            slot=words[layout.S_SLOT],
            pid=words[layout.S_PID],
            state=words[layout.S_STATE],
            started=words[layout.S_STARTED],
            heartbeat=words[layout.S_HEARTBEAT],
            topology=words[layout.S_TOPOLOGY],
            traffic=words[layout.S_TRAFFIC],
            number=words[layout.S_NUMBER],
            connections=words[layout.S_CONNECTIONS],
            in_flight=words[layout.S_IN_FLIGHT],
            tunnels=words[layout.S_TUNNELS],
            forced_stable=bool(words[layout.S_FORCED_STABLE]),
        )

    # --- sums over slabs ----------------------------------------------------------------------

    def total(self, word: int) -> int:
        """Return the sum of one ``S_*`` word: a counter over all slabs, a gauge over live ones."""
        gauge = word in SLAB_GAUGES
        return self._sum(word, gauge=gauge)

    def row(self, slab: int, row: int) -> memoryview:
        """Return one service's words in one slab (``ROW_WORDS`` of them)."""
        if not 0 <= row < layout.MAX_SERVICES:
            raise IndexError(f"the board has rows 0 to {layout.MAX_SERVICES - 1}, not {row}")
        at = layout.ROWS_AT + row * layout.ROW_WORDS
        return self.slab(slab)[at : at + layout.ROW_WORDS]

    def row_total(self, row: int) -> list[int]:
        """Return one service's words summed over slabs, gauges over the live ones only."""
        rows = [self.row(slab, row).tolist() for slab in range(self.slabs)]
        sums = [sum(column) for column in zip(*rows, strict=True)]
        for word in ROW_GAUGES:
            sums[word] = self._sum(layout.ROWS_AT + row * layout.ROW_WORDS + word, gauge=True)
        return sums

    def service_in_flight(self, row: int) -> int:
        """Return one service's requests in flight in all live workers."""
        at = layout.ROWS_AT + row * layout.ROW_WORDS + layout.ROW_IN_FLIGHT
        return self._sum(at, gauge=True)

    def endpoint_total(self, cell: int, word: int) -> int:
        """Return one ``ENDPOINT_*`` word of a cell summed over slabs (gauges: live ones)."""
        _check_cell(cell)
        at = layout.ENDPOINTS_AT + cell * layout.ENDPOINT_WORDS + word
        return self._sum(at, gauge=word in ENDPOINT_GAUGES)

    def endpoint_in_flight(self, cell: int) -> int:
        """Return the requests and tunnels in flight to one endpoint in all live workers."""
        return self.endpoint_total(cell, layout.ENDPOINT_IN_FLIGHT)

    def endpoint_tunnels(self, cell: int) -> int:
        """Return the tunnels open to one endpoint in all live workers."""
        return self.endpoint_total(cell, layout.ENDPOINT_TUNNELS)

    def _sum(self, word: int, *, gauge: bool) -> int:
        return sum(
            self.words[layout.slab_at(slab) + word]
            for slab in range(self.slabs)
            if not gauge or self.live(slab)
        )

    # --- endpoint cells (control writes) ------------------------------------------------------

    def health(self, cell: int) -> int:
        """Return an endpoint's health: ``UNKNOWN``, ``UP`` or ``DOWN``."""
        _check_cell(cell)
        return self.words[layout.CELLS_AT + cell * layout.CELL_WORDS + layout.CELL_HEALTH]

    def health_changed(self, cell: int) -> int:
        """Return when an endpoint's health last changed: CLOCK_MONOTONIC, ns; 0 for never."""
        _check_cell(cell)
        return self.words[layout.CELLS_AT + cell * layout.CELL_WORDS + layout.CELL_CHANGED]

    def set_health(self, cell: int, health: int, now: int) -> bool:
        """Set an endpoint's health; returns whether it is another than before."""
        if health not in {layout.UNKNOWN, layout.UP, layout.DOWN}:
            raise ValueError(f"no such health: {health}")
        if self.health(cell) == health:
            return False
        at = layout.CELLS_AT + cell * layout.CELL_WORDS
        self.words[at + layout.CELL_CHANGED] = now
        self.words[at + layout.CELL_HEALTH] = health
        return True

    def breaker(self, cell: int) -> int:
        """Return an endpoint's breaker's state: a ``BREAKER_*``."""
        _check_cell(cell)
        return self.words[layout.cell_at(cell) + layout.CELL_BREAKER]

    def breaker_opened(self, cell: int) -> int:
        """Return how often an endpoint's breaker has opened."""
        _check_cell(cell)
        return self.words[layout.cell_at(cell) + layout.CELL_OPENED]

    def ejected(self, cell: int, now: int) -> bool:
        """Tell whether an endpoint is left out as an outlier at ``now`` (CLOCK_MONOTONIC, ns)."""
        _check_cell(cell)
        return self.words[layout.cell_at(cell) + layout.CELL_EJECTED_UNTIL] > now

    def serves(self, cell: int) -> bool:
        """Tell whether an endpoint can be sent requests (``judge.can_serve``)."""
        _check_cell(cell)
        return can_serve(self.words, cell)

    def force_breaker(self, cell: int, now: int) -> bool:
        """Open an endpoint's breaker until it is reset; returns whether it was not yet."""
        at = layout.cell_at(cell)
        if self.breaker(cell) == layout.BREAKER_FORCED:
            return False
        self.words[at + layout.CELL_BREAKER_CHANGED] = now
        self.words[at + layout.CELL_BREAKER] = layout.BREAKER_FORCED
        return True

    def reset_breaker(self, cell: int, now: int) -> bool:
        """Close an endpoint's breaker and forget its failures; returns whether it was not closed.

        An outlier is back in service with it. What comes back so begins its slow start.
        """
        at = layout.cell_at(cell)
        changed = self.breaker(cell) != layout.BREAKER_CLOSED or self.ejected(cell, now)
        if changed:
            self.words[at + layout.CELL_WARM_FROM] = now
        for word in (
            layout.CELL_RUN,
            layout.CELL_OPENINGS,
            layout.CELL_EJECTED_UNTIL,
            layout.CELL_EJECTIONS,
            layout.CELL_WINDOW,
            layout.CELL_EARLY,
        ):
            self.words[at + word] = 0
        self.words[at + layout.CELL_BREAKER_CHANGED] = now
        self.words[at + layout.CELL_BREAKER] = layout.BREAKER_CLOSED
        return changed

    def warm(self, cell: int, now: int) -> None:
        """Begin an endpoint's slow start."""
        _check_cell(cell)
        self.words[layout.cell_at(cell) + layout.CELL_WARM_FROM] = now

    def passes(self, cell: int) -> int:
        """Return how many probes of an endpoint's L2 (L1 where it has none) passed in a row."""
        _check_cell(cell)
        return self.words[layout.cell_at(cell) + layout.CELL_PASSES]

    def set_passes(self, cell: int, passes: int) -> None:
        """Set how many passed in a row; 0 after a failure."""
        _check_cell(cell)
        at = layout.cell_at(cell)
        self.words[at + layout.CELL_PASSES] = passes
        if passes == 0:
            # Whatever passed before the breaker opened: those that follow are new.
            self.words[at + layout.CELL_PASSES_BEFORE] = 0

    def clear_cell(self, cell: int) -> None:
        """Make a cell ready for another endpoint: health unknown, never changed."""
        _check_cell(cell)
        at = layout.CELLS_AT + cell * layout.CELL_WORDS
        for word in range(layout.CELL_WORDS):
            self.words[at + word] = 0

    # --- control's own words ------------------------------------------------------------------

    def beat_control(self, now: int, *, late: int = 0, tasks: int = 0) -> None:
        """Note that control's loop turns: CLOCK_MONOTONIC, nanoseconds.

        ``late`` are nanoseconds by which that is later than meant, ``tasks`` the loop's.
        """
        words = self.words
        words[layout.H_CONTROL_HEARTBEAT] = now
        words[layout.H_CONTROL_STALL_MAX] = max(words[layout.H_CONTROL_STALL_MAX], late, 0)
        words[layout.H_CONTROL_TASKS] = tasks

    def set_control_state(self, state: int) -> None:
        """Set control's ``STATE_*``."""
        self.words[layout.H_CONTROL_STATE] = state


def _check_slabs(slabs: int) -> None:
    if not 1 <= slabs <= MAX_SLABS:
        raise BoardError(f"a board has 1 to {MAX_SLABS} slabs, not {slabs}")


def _check_cell(cell: int) -> None:
    if not 0 <= cell < layout.MAX_ENDPOINTS:
        raise IndexError(f"the board has cells 0 to {layout.MAX_ENDPOINTS - 1}, not {cell}")


def _anonymous_file() -> int:
    """Open a file that no path names: memory where the system has it, else unlinked."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # a sandbox may forbid the call
            return os.memfd_create("gateway-board", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix="gateway-board-") as file:
        return os.dup(file.fileno())


def _slabs_behind(fd: int) -> int:
    """Return how many slabs the board behind ``fd`` has; raises BoardError where it is none."""
    try:
        size = os.fstat(fd).st_size
    except OSError as error:
        raise BoardError(f"no board behind descriptor {fd}: {error.strerror}") from error
    if size < layout.HEADER_WORDS * layout.WORD:
        raise BoardError(f"{size} octets are too few for a board's header")
    with (
        mmap.mmap(fd, layout.HEADER_WORDS * layout.WORD, prot=mmap.PROT_READ) as mapping,
        memoryview(mapping) as raw,
        raw.cast("Q") as header,
    ):
        magic, version = header[layout.H_MAGIC], header[layout.H_LAYOUT]
        slabs = header[layout.H_SLABS]
    if magic != layout.MAGIC:
        raise BoardError(f"not a board: it begins with {magic:#x}, expected {layout.MAGIC:#x}")
    if version != layout.LAYOUT:
        raise BoardError(f"the board has layout {version}, this version knows {layout.LAYOUT}")
    _check_slabs(slabs)
    if size < layout.board_bytes(slabs):
        expected = layout.board_bytes(slabs)
        raise BoardError(f"a board of {slabs} slabs has {expected} octets, not {size}")
    return slabs
