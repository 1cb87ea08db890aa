"""The last snapshot as a file: what a worker serves from when it starts without control.

Control writes it on every change, a worker reads it once. It holds one ``Apply`` with both parts
as msgpack. It belongs to one run of the supervisor (the boot is in its name), so it needs to
survive processes, not power: it is renamed into place, never synced.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from gateway.channel.messages import Apply

#: Octets of a file that is still taken for a snapshot.
MAX_OCTETS = 64 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Apply)


class SnapshotFileError(Exception):
    """The file is not a snapshot with both parts, or cannot be read; the message says why."""


def write(path: str, snapshot: Apply) -> None:
    """Put ``snapshot`` (with both parts) in place of the file at ``path``, whole or not at all.

    Raises OSError where the disk refuses, ValueError where a part is missing.
    """
    if snapshot.topology is None or snapshot.traffic is None:
        raise ValueError("a snapshot file holds both parts, topology and traffic")
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    # It may hold the secret that signs testers' overrides: the owner's alone.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_encoder.encode(snapshot))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(path: str) -> Apply | None:
    """Return the snapshot at ``path``, None where there is no file.

    Raises SnapshotFileError where there is one and it is of no use.
    """
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
        snapshot = _decoder.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SnapshotFileError(f"{path}: not a snapshot: {error}") from error
    if snapshot.topology is None or snapshot.traffic is None:
        raise SnapshotFileError(f"{path}: a part is missing")
    return snapshot
