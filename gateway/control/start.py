"""What control starts from: the store, the file, the snapshot that workers serve, the board."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from gateway.board import layout
from gateway.channel import handover, snapshotfile
from gateway.config.secrets import Kept
from gateway.config.snapshot import TlsCertificate
from gateway.control import merge, orphans, statecopy

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.board.board import Board
    from gateway.channel.messages import Apply
    from gateway.config.snapshot import Topology, Traffic
    from gateway.control.allocation import Allocation
    from gateway.control.settings import Settings
    from gateway.control.state import State

log = logging.getLogger("gateway.control")

#: What the file of the admin API's certificates is called beside the snapshot's.
ADMIN: Final = ".admin"
#: Seconds that one worker may take to say what it serves, and all of them together.
ASKING: Final = 0.4
ASKING_ALL: Final = 1.0

#: What the first state was made from where the store did not have it.
Source = Literal["store", "copy", "snapshot", "configuration"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What processes before this one have left: the store's state, the snapshot that workers
    serve, and the state's second copy; None: there is none.
    """

    kept: State | None = None
    running: Apply | None = None
    copy: State | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """The first snapshot of this process."""

    state: State
    topology: Topology
    number: int
    #: What host names resolved to, as workers were told last.
    names: dict[str, tuple[str, ...]]
    #: What was stored, None where nothing was.
    kept: State | None = None
    source: Source = "store"
    #: Whether workers on this board have served a snapshot before.
    served: bool = False


def running_snapshot(path: str, board: Board) -> Apply | None:
    """Return the snapshot that workers serve, None where there is nothing to go on from.

    That is this boot's file; where there is none and workers live on this board all the same, a
    supervisor has taken them over from another boot, whose file is the newest beside it. Where no
    file is left, workers are asked.
    """
    for each in _snapshot_files(path, board):
        try:
            found = snapshotfile.read(str(each))
        except snapshotfile.SnapshotFileError as error:
            log.warning("no use: %s", error)
            continue
        if found is not None:
            return found
    # Those that start with this process have nothing to tell yet.
    serve = bool(board.workers()) and _told(board, layout.S_TRAFFIC) > 0
    return _asked_of_workers(Path(path).parent) if serve else None


def _snapshot_files(path: str, board: Board) -> list[Path]:
    found = [Path(path)]
    if not found[0].exists() and board.workers():
        others = found[0].parent.glob("snapshot-*.bin")
        found += sorted(others, key=_modified, reverse=True)
    return found


def state_copy(path: str, board: Board) -> State | None:
    """Return the second copy of the state that workers on this board were led by, if any."""
    return statecopy.read(_snapshot_files(path, board))


def _asked_of_workers(run_dir: Path) -> Apply | None:
    """Return the newest snapshot that a worker has in memory. Blocking, for ``ASKING_ALL`` at most.

    Workers differ where control ended while it told them.
    """
    served: list[Apply] = []
    until = time.monotonic() + ASKING_ALL
    for path in sorted(run_dir.glob("worker-*.sock")):
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            octets = handover.ask_snapshot(path, min(ASKING, left))
            served.append(snapshotfile.from_octets(octets))
        except handover.NobodyThereError:
            continue
        except (handover.HandoverError, snapshotfile.SnapshotFileError) as error:
            log.warning("no use: %s: %s", path, error)
    if not served:
        return None
    log.error("the snapshot's file is lost; going on from what %d workers serve", len(served))
    return max(served, key=_age)


def _age(snapshot: Apply) -> tuple[int, int, int]:
    traffic, topology = snapshot.traffic, snapshot.topology
    return (
        traffic.revision if traffic is not None else 0,
        topology.number if topology is not None else 0,
        snapshot.number,
    )


class _Admin(msgspec.Struct, frozen=True, kw_only=True):
    """What the admin API serves with, as it is kept."""

    certificates: tuple[TlsCertificate, ...] = ()
    client_ca: tuple[str, bytes] | None = None


def kept(path: str, board: Board) -> Kept:
    """Return what workers and the admin API serve with."""
    running = running_snapshot(path, board)
    if running is None or running.topology is None:
        return Kept()
    served = [each.tls for each in running.topology.listeners if each.tls is not None]
    found = [certificate for tls in served for certificate in tls.certificates]
    admin = _kept_admin(path)
    return Kept(certificates=(*found, *admin.certificates), client_ca=admin.client_ca)


def keep_admin(path: str, settings: Settings) -> None:
    """Keep what the admin API serves with beside the snapshot's file at ``path``.

    No worker is to have its keys, so the snapshot does not hold them; and a control process that
    starts while their files are half replaced, or hold what is of no use, needs them.
    """
    if settings.admin_tls is None:
        Path(path + ADMIN).unlink(missing_ok=True)
        return
    callers = None
    if settings.client_ca is not None:
        callers = (settings.client_ca_file, settings.client_ca)
    admin = _Admin(certificates=settings.admin_tls.certificates, client_ca=callers)
    try:
        snapshotfile.put(path + ADMIN, msgspec.msgpack.encode(admin))
    except OSError:
        log.exception("%s cannot be written: the admin API's certificate is not kept", path + ADMIN)


def _kept_admin(path: str) -> _Admin:
    """Return what the admin API of this boot served with, or of the newest one before."""
    own = Path(path + ADMIN)
    others = own.parent.glob(f"snapshot-*.bin{ADMIN}")
    for each in (own, *sorted(others, key=_modified, reverse=True)):
        try:
            return msgspec.msgpack.decode(each.read_bytes(), type=_Admin)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            log.warning("no use: %s: %s", each, error)
    return _Admin()


def _modified(path: Path) -> float:
    """Return when a snapshot's file was written last, or a move beside it."""
    times = [0.0]
    for each in (path, Path(f"{path}{snapshotfile.MOVED}")):
        with contextlib.suppress(OSError):
            times.append(each.stat().st_mtime)
    return max(times)


def of_other_boots(path: str) -> str:
    """Say what the newest snapshot, or second copy of the state, of a boot before this one has:
    stable and weight by service. Empty where there is none of use.
    """
    own = Path(path)
    found = {
        each.with_name(f"{each.name.partition('.bin')[0]}.bin")
        for each in own.parent.glob("snapshot-*.bin*")
    }
    for each in sorted(found - {own}, key=_modified_copy, reverse=True):
        copy = statecopy.read([each])
        shares = [(of.name, of.stable, of.weight) for of in copy.services] if copy else []
        if not shares:
            with contextlib.suppress(snapshotfile.SnapshotFileError):
                served = snapshotfile.read(str(each))
                traffic = served.traffic if served is not None else None
                shares = [
                    (of.service, of.stable, of.weight)
                    for of in (traffic.services if traffic is not None else ())
                ]
        if shares:
            told = "; ".join(f"{name}: stable {of}, {w / 100:g} %" for name, of, w in shares)
            return f"{each.name} of an earlier start has {told}"
    return ""


def _modified_copy(path: Path) -> float:
    with contextlib.suppress(OSError):
        return Path(f"{path}{statecopy.SUFFIX}").stat().st_mtime
    return _modified(path)


def forget_other_boots(path: str) -> None:
    """Remove snapshot files that belong to supervisors before this one."""
    own = Path(path)
    for each in own.parent.glob("snapshot-*.bin*"):
        if not each.name.startswith(own.name):
            each.unlink(missing_ok=True)


def begin(
    settings: Settings,
    left: Left,
    *,
    board: Board,
    allocation: Allocation,
    fresh: Callable[[], bytes],
    now: float,
    wall: float = 0.0,
) -> Beginning:
    """Return what to serve first. Numbers go on above all that a worker may have been told.

    ``now`` is CLOCK_MONOTONIC in seconds, ``wall`` the epoch's. Raises AllocationError where the
    board has no place.
    """
    kept, running = left.kept, left.running
    if running is not None and running.topology is not None:
        allocation.take_over(running.topology)
    start, source = _first(settings, left, wall)
    state = merge.taken_up(settings, start, fresh, now)
    if kept is None and running is not None and running.topology is not None:
        state = _with_forced(state, running.topology, board)
    told = _told(board, layout.S_TRAFFIC)
    served = running.traffic if running is not None else None
    if served is not None:
        told = max(told, served.revision)
        state = _with_tunnels(state, served)
    same = served is not None and served == state.traffic()
    if not same and state.revision <= told:
        state = msgspec.structs.replace(state, revision=told + 1)
    return Beginning(
        state=state,
        topology=_topology(settings, state, running, board, allocation, fresh),
        number=max(_told(board, layout.S_NUMBER), running.number if running else 0) + 1,
        names=dict(running.names) if running is not None else {},
        kept=kept,
        source=source,
        served=_told(board, layout.S_TRAFFIC) > 0,
    )


def _first(settings: Settings, left: Left, wall: float) -> tuple[State | None, Source]:
    """Return the state to begin with before the file is looked at, and where it is from.

    The store; where it is lost, or so old that it does not know the release that workers serve, the
    copy; and weights, pools and what is closed as workers serve them wherever that is later.
    """
    kept, copy = left.kept, left.copy
    traffic = left.running.traffic if left.running is not None else None
    if traffic is None:
        return kept, "configuration" if kept is None else "store"
    source: Source = "snapshot" if kept is None else "store"
    base = kept
    lost = kept is None or (kept.revision < traffic.revision and orphans.of_nobody(kept, traffic))
    if lost and copy is not None and not orphans.of_nobody(copy, traffic):
        base, source = copy, "copy"
    start = merge.recovered(base, left.running)
    if start is not kept and source == "store":
        log.warning("the state store is behind what workers serve; going on from the latter")
    if start is not None and start is not kept and orphans.of_nobody(start, traffic):
        return orphans.taken_in(start, traffic, settings, wall), "snapshot"
    return start, source


def _with_tunnels(state: State, served: Traffic) -> State:
    """Return the state with the times that workers end a candidate's tunnels at: one that was
    rolled back or drained.

    They are not stored, for they end with the workers; and they must outlive control.
    """
    changed = []
    for service in state.services:
        found = served.of(service.name)
        if found is None or found.stable != service.stable:
            continue
        if state.busy(service.name) is None and service.candidate not in service.drained:
            continue
        if found.tunnels_until and service.weight == 0:
            changed.append(msgspec.structs.replace(service, tunnels_until=found.tunnels_until))
    return state.replaced(*changed)


def _with_forced(state: State, topology: Topology, board: Board) -> State:
    """Return the state with the breakers that are forced open on the board: a store that was lost
    puts nothing back into service.
    """
    forced: dict[str, list[str]] = {}
    for pool in topology.pools:
        service = state.of(pool.service)
        if service is None or service.pool(pool.color).generation != pool.generation:
            continue
        for endpoint in pool.endpoints:
            if board.breaker(endpoint.cell) == layout.BREAKER_FORCED:
                forced.setdefault(pool.service, []).append(endpoint.id)
    services = [
        msgspec.structs.replace(each, forced=tuple(sorted(forced[each.name])))
        for each in state.services
        if each.name in forced
    ]
    return state.replaced(*services)


def _topology(
    settings: Settings,
    state: State,
    running: Apply | None,
    board: Board,
    allocation: Allocation,
    fresh: Callable[[], bytes],
) -> Topology:
    served = running.topology if running is not None else None
    number = served.number if served is not None else 0
    # Workers that serve know one already; another one would be a new topology for nothing.
    kept = served.cohort.probe_secret if served is not None else None
    wanted = merge.topology(settings, state, allocation, number, kept or fresh())
    if wanted == served:
        return wanted
    number = max(number, _told(board, layout.S_TOPOLOGY))
    return msgspec.structs.replace(wanted, number=number + 1)


def _told(board: Board, word: int) -> int:
    """Return the highest number of one kind that a worker on this board has served."""
    return max((board.slab(slab)[word] for slab in range(board.slabs)), default=0)
