"""What children of a supervisor that has died left running, and how a new one takes it over."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.board.board import Board, BoardError
from gateway.channel import childspec
from gateway.channel.childspec import ChildSpec
from gateway.channel.handover import Handed, HandoverError, NobodyThereError, take_over
from gateway.supervisor.children import Adopted, Phase, readable_within
from gateway.supervisor.sockets import Taken

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.supervisor.plan import Plan
    from gateway.supervisor.upgrade import Baggage

#: A child gets this long to answer, twice; a busy machine is not a hung child (seconds).
ASK_TIMEOUT: Final = 3.0
CONTROL_SOCKET: Final = "control-admin.sock"
WORKER_SOCKETS: Final = "worker-*.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class OldWorker:
    """A worker to be retired once the new ones serve.

    ``slab`` is -1 where it counts on another board than the one taken over; ``number`` is its slab
    there, by which its own socket is called. ``started``
    (CLOCK_MONOTONIC, seconds) is long ago where nobody knows: heartbeats count from the first
    check. One to ``keep`` is not retired but goes on in its slot.
    """

    slot: int
    slab: int
    process: Adopted
    started: float = 0.0
    phase: Phase = Phase.SERVING
    kill_at: float = 0.0
    keep: bool = False
    number: int = -1


@dataclass(slots=True)
class Inheritance:
    """All that was found running. Empty on an ordinary start."""

    workers: list[OldWorker] = field(default_factory=list)
    control: list[Adopted] = field(default_factory=list)
    taken: Taken = field(default_factory=Taken)
    board: Board | None = None

    @property
    def found(self) -> bool:
        """Whether any process of an earlier supervisor still runs."""
        return bool(self.workers or self.control)

    @property
    def numbers(self) -> set[int]:
        """Slabs that no new worker may have: old ones count there, or are called by them."""
        return {number for old in self.workers for number in (old.slab, old.number)} - {-1}


def worker_socket(slab: int) -> str:
    """Return the name of a worker's own socket (``ChildSpec.worker_socket``)."""
    return WORKER_SOCKETS.replace("*", str(slab))


def find(plan: Plan, say: Callable[[str], None]) -> Inheritance:
    """Ask every child that still listens in the run folder, and take over what it hands.

    Nothing is changed for the running children, except that one that hangs is killed: it can
    neither serve nor hand over.
    """
    run_dir = Path(plan.run_dir)
    inheritance = Inheritance()
    for path in sorted(run_dir.glob(WORKER_SOCKETS)):
        handed = _ask(path, say)
        if handed is not None:
            _take_worker(inheritance, handed, say)
    handed = _ask(run_dir / CONTROL_SOCKET, say)
    if handed is not None:
        inheritance.taken.add_admin(handed.sockets)
        _take_board(inheritance, handed, say)
        _adopt_control(inheritance, handed.state.pid)
    _take_strays(inheritance, plan, say)
    return inheritance


def unpack(baggage: Baggage, say: Callable[[str], None]) -> Inheritance:
    """Take up what the version before left in this process.

    Descriptors are second ones: the originals stay open for the way back.
    """
    inheritance = Inheritance()
    taken = inheritance.taken
    taken.given = set(baggage.given)
    for text, slot, fd in baggage.sockets:
        taken.add_worker(slot, [(text, os.dup(fd))])
    taken.add_admin([(baggage.admin[0], os.dup(baggage.admin[1]))])
    board = os.dup(baggage.board)
    try:
        inheritance.board = Board.attach(board)
    except BoardError as error:
        os.close(board)
        say(f"the version before has another board: {error}; counts and breakers begin anew")
    for pid in baggage.control:
        _adopt_control(inheritance, pid)
    for each in baggage.workers:
        with contextlib.suppress(ProcessLookupError):
            old = OldWorker(
                slot=each.slot,
                slab=each.slab if inheritance.board is not None else -1,
                process=Adopted(each.pid),
                started=each.started,
                phase=Phase(each.phase),
                kill_at=each.kill_at,
                keep=each.keep and baggage.back is None,
                number=each.slab,
            )
            inheritance.workers.append(old)
    return inheritance


def end_control(old: list[Adopted], patience: float) -> None:
    """End old control processes: SIGTERM, after ``patience`` seconds SIGKILL. Blocks till then.

    Two control processes never write one state store.
    """
    for process in old:
        process.send(signal.SIGTERM)
        if not _ends_within(process, patience):
            process.send(signal.SIGKILL)
            _ends_within(process, patience)
        process.close()


def _ask(path: Path, say: Callable[[str], None]) -> Handed | None:
    """Take what one child hands over; None where there is none, or none any more."""
    problem: HandoverError | None = None
    for _ in range(2):
        try:
            return take_over(path, ASK_TIMEOUT)
        except NobodyThereError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return None
        except HandoverError as error:
            problem = error
    assert problem is not None
    say(f"{problem}; it is killed")
    # The kernel itself named the process behind the socket, so this is no stranger's number.
    if problem.pid > 0 and problem.pid != os.getpid():
        with contextlib.suppress(ProcessLookupError):
            process = Adopted(problem.pid)
            process.send(signal.SIGKILL)
            _ends_within(process, ASK_TIMEOUT)
            process.close()
    return None


def _take_worker(inheritance: Inheritance, handed: Handed, say: Callable[[str], None]) -> None:
    state = handed.state
    inheritance.taken.add_worker(state.slot, handed.sockets)
    slab = state.slab if _take_board(inheritance, handed, say) else -1
    with contextlib.suppress(ProcessLookupError):
        process = Adopted(state.pid)
        old = OldWorker(slot=state.slot, slab=slab, process=process, number=state.slab)
        inheritance.workers.append(old)


def _take_board(inheritance: Inheritance, handed: Handed, say: Callable[[str], None]) -> bool:
    """Map the first board that fits; returns whether the child's is the one mapped.

    Another version's board cannot be used, and counts begin anew.
    """
    if inheritance.board is not None:
        same = os.path.sameopenfile(inheritance.board.fd, handed.board)
        os.close(handed.board)
        return same
    try:
        inheritance.board = Board.attach(handed.board)
    except BoardError as error:
        say(f"the running workers' board cannot be used: {error}; counts begin anew")
        os.close(handed.board)
        return False
    return True


def _adopt_control(inheritance: Inheritance, pid: int) -> None:
    if any(process.pid == pid for process in inheritance.control):
        return
    with contextlib.suppress(ProcessLookupError):
        inheritance.control.append(Adopted(pid))


def _take_strays(inheritance: Inheritance, plan: Plan, say: Callable[[str], None]) -> None:
    """Find children that answered at no socket: those that were just starting."""
    known = {worker.process.pid for worker in inheritance.workers}
    for pid, spec in _running_children(plan):
        if spec.role == "control":
            _adopt_control(inheritance, pid)
        elif pid not in known:
            # A spare was told its place after its start: its environment does not name it, but
            # the board does, where it counts from then on.
            which = "spare worker" if spec.slot < 0 else f"worker {spec.slot}"
            say(f"{which} (process {pid}) of an earlier run does not answer")
            with contextlib.suppress(ProcessLookupError):
                board = inheritance.board
                number = spec.slab if spec.slot >= 0 else _given(board, pid)
                slab = number if _holds(board, number, pid) else -1
                old = OldWorker(slot=spec.slot, slab=slab, process=Adopted(pid), number=number)
                inheritance.workers.append(old)


def _given(board: Board | None, pid: int) -> int:
    """Return the slab of a spare that has been told its place; -1 for none."""
    held = board.workers() if board is not None else ()
    return next((each.slab for each in held if each.pid == pid), -1)


def _holds(board: Board | None, slab: int, pid: int) -> bool:
    """Tell whether the board taken over is the one that a process counts on."""
    return board is not None and 0 <= slab < board.slabs and board.worker(slab).pid == pid


def _running_children(plan: Plan) -> list[tuple[int, ChildSpec]]:
    """Return processes of this run folder by their environment and command (Linux only)."""
    if sys.platform != "linux":
        return []
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        spec = _spec_of(folder)
        if spec is not None and spec.run_dir == plan.run_dir and _runs(folder, plan, spec.role):
            found.append((int(folder.name), spec))
    return found


def _spec_of(folder: Path) -> ChildSpec | None:
    """Read one process's inheritance; None for a foreign one."""
    prefix = f"{childspec.VARIABLE}=".encode()
    try:
        variables = (folder / "environ").read_bytes().split(b"\0")
        text = next(each for each in variables if each.startswith(prefix))
        return ChildSpec.decode(text[len(prefix) :].decode())
    except (OSError, StopIteration, ValueError, TypeError, KeyError):
        return None


def _runs(folder: Path, plan: Plan, role: str) -> bool:
    """Tell whether a process runs our program for the role, with whichever interpreter."""
    try:
        argv = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return False
    return [os.fsdecode(each) for each in argv[1:]] == list(plan.argv(role)[1:])


def _ends_within(process: Adopted, patience: float) -> bool:
    if process.fileno() >= 0:
        return readable_within(process.fileno(), patience)
    # Without pidfds the caller's patience is all there is to wait with.
    select.select([], [], [], 0 if process.ended() else patience)
    return process.ended()
