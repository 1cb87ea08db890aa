"""The last snapshot as a file: what a worker serves from when it starts without control.

Control writes it on every change, a worker reads it once. It holds one ``Apply`` with both parts
as msgpack; a move of traffic alone goes into a small file beside it (``.traffic``), for the
topology may be megabytes and nothing that moves traffic must wait for their writing. It belongs to
one run of the supervisor (the boot is in its name), so it needs to survive processes, not power:
it is renamed into place, never synced.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from gateway.channel.messages import Apply

#: Octets of a file that is still taken for a snapshot.
MAX_OCTETS = 64 * 1024 * 1024

#: What a move's file is called beside the snapshot's.
MOVED = ".traffic"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Apply)


class SnapshotFileError(Exception):
    """The file is not a snapshot with both parts, or cannot be read; the message says why."""


def write(path: str, snapshot: Apply) -> None:
    """Put ``snapshot`` (with both parts) in place of the file at ``path``, whole or not at all.

    Raises OSError where the disk refuses, ValueError where a part is missing.
    """
    put(path, octets_of(snapshot))


def octets_of(snapshot: Apply) -> bytes:
    """Return what a file of ``snapshot`` has. Raises ValueError where a part is missing."""
    if snapshot.topology is None or snapshot.traffic is None:
        raise ValueError("a snapshot file holds both parts, topology and traffic")
    return _encoder.encode(snapshot)


def from_octets(octets: bytes) -> Apply:
    """Return the snapshot that ``octets`` are. Raises SnapshotFileError."""
    try:
        snapshot = _decoder.decode(octets)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SnapshotFileError(f"not a snapshot: {error}") from error
    if snapshot.topology is None or snapshot.traffic is None:
        raise SnapshotFileError("not a snapshot: a part is missing")
    return snapshot


def move(path: str, snapshot: Apply) -> None:
    """Put another traffic beside the file at ``path``; raises as ``write``.

    What ``write`` puts in place later has a higher number, which voids it.
    """
    if snapshot.topology is not None or snapshot.traffic is None:
        raise ValueError("a move holds traffic alone")
    put(path + MOVED, _encoder.encode(snapshot))


def drop(path: str) -> None:
    """Remove the file at ``path``, and a move beside it: an old one is worse than none."""
    for each in (path + MOVED, path):
        with contextlib.suppress(OSError):
            Path(each).unlink()


def put(path: str, octets: bytes) -> None:
    """Put octets in place of the file at ``path``, whole or not at all. Raises OSError."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    # It may hold private keys and the secret that signs testers' overrides: the owner's alone.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(octets)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(path: str) -> Apply | None:
    """Return the snapshot at ``path``, as last moved; None where there is no file.

    Raises SnapshotFileError where there is one and it is of no use.
    """
    snapshot = _read(path)
    if snapshot is None:
        return None
    if snapshot.topology is None or snapshot.traffic is None:
        raise SnapshotFileError(f"{path}: a part is missing")
    moved = _read(path + MOVED)
    if moved is None or moved.traffic is None or moved.number <= snapshot.number:
        return snapshot
    return msgspec.structs.replace(snapshot, number=moved.number, traffic=moved.traffic)


def _read(path: str) -> Apply | None:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_OCTETS + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotFileError(f"{path}: {error.strerror}") from error
    if len(content) > MAX_OCTETS:
        raise SnapshotFileError(f"{path}: longer than {MAX_OCTETS} octets")
    try:
        return _decoder.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SnapshotFileError(f"{path}: not a snapshot: {error}") from error
