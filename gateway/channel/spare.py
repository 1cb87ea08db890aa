"""How a worker that was started ahead of need is told whose place it takes.

The supervisor keeps one end of a Unix stream, the spare inherits the other, whose number is in
``GATEWAY_SPARE``. The spare says ``READY`` once it has loaded all that it needs, and waits. Then
comes one line, the ``ChildSpec`` of the place, and with it the descriptors that a worker otherwise
inherits (``SCM_RIGHTS``): the board's, then the listening sockets' in the spec's order. The end of
the stream before that means that nobody needs the spare any more: its supervisor has ended, or
has become another version.

Standard library only: the supervisor has the one end.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import Final

from gateway.channel.childspec import ChildSpec

VARIABLE: Final = "GATEWAY_SPARE"
READY: Final = b"\n"

#: Descriptors that go with one message at most (Linux takes 253).
MAX_DESCRIPTORS: Final = 250
_READ: Final = 64 * 1024


def nobody(run_dir: str) -> ChildSpec:
    """Return the inheritance of one that has no place yet: by it a takeover finds its process."""
    return ChildSpec(role="worker", slabs=0, board=-1, boot="", run_dir=run_dir, config="")


def fits(spec: ChildSpec) -> bool:
    """Tell whether a place's descriptors can be handed to a process that runs already."""
    return len(spec.sockets) < MAX_DESCRIPTORS


def hand(to: socket.socket, spec: ChildSpec) -> bool:
    """Give a spare its place; False where it cannot be given, and the spare is of no use."""
    line = spec.encode().encode() + b"\n"
    try:
        return socket.send_fds(to, [line], [spec.board, *(fd for _, fd in spec.sockets)]) == len(
            line
        )
    except OSError:
        return False  # it has died, or takes nothing


def inherited() -> ChildSpec | None:
    """Return this process's place: at once, or for a spare once it is told; None for none.

    Raises KeyError, ValueError and TypeError where the process was started by no supervisor.
    """
    number = os.environ.get(VARIABLE)
    if number is None:
        return ChildSpec.inherited()
    with socket.socket(fileno=int(number)) as stream:
        try:
            stream.sendall(READY)
            spec = _take(stream)
        except OSError:
            return None  # the supervisor is gone
        # One that comes after it has given the places anew by now, and knows nothing of this one.
        return None if _ended(stream) else spec


def _take(stream: socket.socket) -> ChildSpec | None:
    line = b""
    fds: list[int] = []
    while not line.endswith(b"\n"):
        data, more, _, _ = socket.recv_fds(stream, _READ, MAX_DESCRIPTORS)
        fds += more
        if not data:
            return None
        line += data
    spec = ChildSpec.decode(line.decode())
    board, *listening = fds
    indices = (index for index, _ in spec.sockets)
    return dataclasses.replace(
        spec, board=board, sockets=tuple(zip(indices, listening, strict=True))
    )


def _ended(stream: socket.socket) -> bool:
    try:
        return not stream.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
