"""A second copy of what control intends, beside the snapshot's file: should the store be lost.

Workers need to know weights, pools and what is closed, and no more: which release moves them, its
plan and where it is are control's alone. So control keeps its whole state a second time, in the run
folder, written whenever it changes and never synced, as the snapshot is: it has to outlive
processes. It is read where there is no store to be read, and by nobody else.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.channel import snapshotfile
from gateway.control.state import State

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("gateway.control")

#: What the copy is called beside the snapshot's file.
SUFFIX: Final = ".state"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(State)


class StateCopy:
    """Writes the copy. ``snapshot_file`` is the path of the snapshot that it belongs to."""

    def __init__(self, snapshot_file: str) -> None:
        self._path = snapshot_file + SUFFIX
        self._kept: State | None = None

    def keep(self, state: State) -> None:
        """Put ``state`` in place of the copy; where the disk refuses there is none.

        An old one would be worse: a release that rests by now would go on from it.
        """
        if state is self._kept:
            return
        try:
            snapshotfile.put(self._path, _encoder.encode(state))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)
            with contextlib.suppress(OSError):
                Path(self._path).unlink()
            self._kept = None
        else:
            self._kept = state


def read(snapshot_files: Iterable[Path]) -> State | None:
    """Return the copy beside the first of these snapshot files that has one of use."""
    for each in snapshot_files:
        path = Path(f"{each}{SUFFIX}")
        try:
            found: State = _decoder.decode(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.warning("no use: %s: %s", path, error)
            continue
        return found
    return None
