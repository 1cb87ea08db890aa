"""What the supervisor tells a child that it starts: one JSON object in ``GATEWAY_CHILD``.

Standard library only, shared by the supervisor and both kinds of children. It carries numbers and
paths, never a secret.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass

VARIABLE = "GATEWAY_CHILD"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A child's inheritance. File descriptors are inherited open; -1 stands for none.

    ``sockets`` are a worker's listening sockets as (listener's index, descriptor). ``channel`` is
    control's listening Unix socket; workers connect to ``run_dir``/control.sock instead. ``boot``
    names this run of the supervisor: a snapshot file of another boot is not served from.
    ``addresses`` are the configured addresses of ``sockets`` (of ``admin`` for control), in their
    order, by which a next supervisor knows them again. ``drain_timeout`` is in seconds.
    """

    role: str
    slot: int = -1
    slab: int = -1
    slabs: int
    board: int
    boot: str
    run_dir: str
    config: str
    sockets: tuple[tuple[int, int], ...] = ()
    admin: tuple[int, ...] = ()
    channel: int = -1
    addresses: tuple[str, ...] = ()
    drain_timeout: float = 30.0

    @property
    def control_socket(self) -> str:
        """The path of the socket that control accepts workers on."""
        return f"{self.run_dir}/control.sock"

    @property
    def worker_socket(self) -> str:
        """The path of this worker's own socket: takeover and local questions."""
        return f"{self.run_dir}/worker-{self.slab}.sock"

    @property
    def admin_socket(self) -> str:
        """The path of control's own socket for the same questions (its sockets: the admin's)."""
        return f"{self.run_dir}/control-admin.sock"

    @property
    def snapshot_file(self) -> str:
        """Where control leaves the last snapshot for a worker that starts without control."""
        return f"{self.run_dir}/snapshot-{self.boot}.bin"

    @property
    def rollback_flag(self) -> str:
        """The file that puts every worker on stable while it exists (``rollback --local``)."""
        return f"{self.run_dir}/force-stable"

    def encode(self) -> str:
        """Return the value of ``VARIABLE`` that ``decode`` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, text: str) -> ChildSpec:
        """Read ``VARIABLE``'s value. Raises ValueError or TypeError where it is not one."""
        values = json.loads(text)
        values["sockets"] = tuple((int(index), int(fd)) for index, fd in values["sockets"])
        values["admin"] = tuple(int(fd) for fd in values["admin"])
        values["addresses"] = tuple(str(address) for address in values["addresses"])
        return cls(**values)

    @classmethod
    def inherited(cls) -> ChildSpec:
        """Return this process's own spec. Raises KeyError where it was not started by one."""
        return cls.decode(os.environ[VARIABLE])
