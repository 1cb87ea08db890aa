"""What control starts from: the store, the file, the snapshot that workers serve, the board."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.board import layout
from gateway.channel import snapshotfile
from gateway.config.secrets import Kept
from gateway.config.snapshot import TlsCertificate
from gateway.control import merge

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


def running_snapshot(path: str, board: Board) -> Apply | None:
    """Return the snapshot that workers serve, None where there is nothing to go on from.

    That is this boot's file; where there is none and workers live on this board all the same, a
    supervisor has taken them over from another boot, whose file is the newest beside it.
    """
    candidates = [Path(path)]
    if not candidates[0].exists() and board.workers():
        others = Path(path).parent.glob("snapshot-*.bin")
        candidates += sorted(others, key=_modified, reverse=True)
    for each in candidates:
        try:
            found = snapshotfile.read(str(each))
        except snapshotfile.SnapshotFileError as error:
            log.warning("no use: %s", error)
            continue
        if found is not None:
            return found
    return None


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


def forget_other_boots(path: str) -> None:
    """Remove snapshot files that belong to supervisors before this one."""
    own = Path(path)
    for each in own.parent.glob("snapshot-*.bin*"):
        if not each.name.startswith(own.name):
            each.unlink(missing_ok=True)


def begin(
    settings: Settings,
    kept: State | None,
    running: Apply | None,
    *,
    board: Board,
    allocation: Allocation,
    fresh: Callable[[], bytes],
    now: float,
) -> Beginning:
    """Return what to serve first. Numbers go on above all that a worker may have been told.

    ``now`` is CLOCK_MONOTONIC in seconds. Raises AllocationError where the board has no place.
    """
    if running is not None and running.topology is not None:
        allocation.take_over(running.topology)
    start = merge.recovered(kept, running)
    if start is not kept:
        log.warning("the state store is behind what workers serve; going on from the latter")
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
    )


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
