"""Letting go of inherited listening sockets without losing who already waits in their queues.

A client whose connection the kernel has accepted believes to be connected. While any descriptor of
a listening socket is open the kernel goes on accepting for it, and when the last one closes it
resets whoever still waits. So a child that ends takes out what waits, then closes *every*
descriptor it has of the socket, the inherited one included. Standard library only.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Connections taken out of one queue at most: a flood must not keep a child from ending.
MOST_WAITING: Final = 4096


def let_go(sockets: Iterable[tuple[int, int]]) -> list[tuple[int, socket.socket]]:
    """Close inherited sockets, given as ``ChildSpec.sockets``; return who waited on them.

    Each comes with its listener's index, non-blocking, the caller's to serve and to close.
    """
    waiting: list[tuple[int, socket.socket]] = []
    for index, fd in sockets:
        # A second descriptor: the first may belong to an event loop's server by now.
        with socket.socket(fileno=os.dup(fd)) as listener:
            listener.settimeout(0.0)
            waiting += ((index, connection) for connection in _take(listener))
        os.close(fd)
    return waiting


def _take(listener: socket.socket) -> list[socket.socket]:
    taken: list[socket.socket] = []
    while len(taken) < MOST_WAITING:
        try:
            connection, _ = listener.accept()
        except ConnectionAbortedError:
            continue  # gone while it waited (accept(2))
        except OSError:
            break  # nobody waits any more, or no descriptors are left
        connection.settimeout(0.0)
        taken.append(connection)
    return taken
