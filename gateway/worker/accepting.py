"""A worker accepts clients for as long as it has descriptors left to serve them, and waits then.

Left alone, libuv accepts and closes whoever comes once the process has no descriptor left, and
asyncio goes on until nothing is left to reach a backend with. So a worker stops listening while
each client that it has could still be given a connection to a backend. Who comes meanwhile waits in
the socket's queue, which the supervisor keeps open, and is accepted once somebody has gone. The
clients that are there are told ``Connection: close`` with their next answer, and make room.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from enum import Enum
from typing import TYPE_CHECKING

from gateway.board import layout
from gateway.channel.vitals import open_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.proxy.core import Core

logger = logging.getLogger(__name__)

#: Connections that wait to be accepted, per listening socket.
BACKLOG = 4096

#: Descriptors beside those of clients and backends: log files, certificates, what is opened for a
#: moment, and clients that were accepted and are not counted yet.
SPARE = 24

#: Seconds for which nobody may have been turned away before the log says that it is over.
QUIET = 5.0

#: Where the kernel makes up names for Unix sockets.
_DUMMY = sys.platform == "linux"

#: From Python 3.13 on, loops remove a Unix socket's path with its server; it is not ours.
_PATH_STAYS = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class _Phase(Enum):
    CLOSED = 0
    OPENING = 1
    OPEN = 2
    PAUSED = 3


def file_limit() -> int | None:
    """Return how many descriptors this process may have; None where there is no limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


class Accepting:
    """The servers on a worker's listening sockets, given as ``ChildSpec.sockets``.

    ``words`` is the worker's slab, ``protocol`` makes the protocol of one more connection of a
    listener. ``used`` and ``limit`` are tests' to replace.
    """

    def __init__(
        self,
        core: Core,
        sockets: Sequence[tuple[int, int]],
        words: memoryview,
        protocol: Callable[[int], object],
        *,
        used: Callable[[], int] = open_files,
        limit: Callable[[], int | None] = file_limit,
    ) -> None:
        self._core = core
        self._sockets = sockets
        self._words = words
        self._protocol = protocol
        self._used = used
        self._limit = limit
        self._phase = _Phase.CLOSED
        #: Each with its own descriptor and the inherited one that this is of.
        self._servers: list[tuple[asyncio.AbstractServer, int, int]] = []
        self._muzzled: socket.socket | None = None
        self._own = 0
        #: Connections that may come before they are counted again.
        self._left = 0
        self._said = False
        self._paused_at = 0.0

    @property
    def begun(self) -> bool:
        """Whether it has begun to accept (and was not closed since)."""
        return self._phase is not _Phase.CLOSED

    async def open(self) -> None:
        """Begin to accept."""
        self._own = self._used() - len(self._core.connections)
        await self._open()

    def close(self) -> None:
        """Stop accepting for good; the sockets themselves stay open."""
        self._phase = _Phase.CLOSED
        self._words[layout.S_NOT_ACCEPTING] = 0
        self._close_servers()

    def turn(self, now: float) -> None:
        """Pause or go on, as the descriptors allow; ``now`` is monotonic seconds."""
        if self._phase not in {_Phase.OPEN, _Phase.PAUSED}:
            return
        self._left = self._room()
        if self._phase is _Phase.OPEN:
            if self._left <= 0:
                self._pause()
            elif self._said and now - self._paused_at > QUIET:
                self._said = False
                logger.warning("there are descriptors again: all who come are accepted at once")
        elif self._left > 0:
            self._core.spawn("accept again", self._open())

    def most(self) -> int | None:
        """Return how many clients there may be, each with a connection to a backend of its own;
        None for any number.
        """
        limit = self._limit()
        if limit is None:
            return None
        return max(1, (limit - self._own - SPARE) // 2)

    def _room(self) -> int:
        most = self.most()
        return 1 << 30 if most is None else most - len(self._core.connections)

    async def _open(self) -> None:
        self._phase = _Phase.OPENING
        self._left = self._room()
        loop = asyncio.get_running_loop()
        for listener, fd in self._sockets:
            sock = socket.socket(fileno=os.dup(fd))
            sock.settimeout(0.0)
            make = self._maker(listener)
            # The loops take any object with a protocol's methods; a compiled class cannot inherit
            # from asyncio.Protocol, hence no type that asyncio's stubs would take.
            if sock.family == socket.AF_UNIX:
                server: asyncio.AbstractServer = await loop.create_unix_server(
                    make,  # type: ignore[arg-type]
                    sock=sock,
                    backlog=BACKLOG,
                    **_PATH_STAYS,  # type: ignore[arg-type]
                )
            else:
                server = await loop.create_server(make, sock=sock, backlog=BACKLOG)  # type: ignore[arg-type]
            self._servers.append((server, sock.fileno(), fd))
        if not self.begun:  # closed meanwhile
            self._close_servers()
            return
        self._phase = _Phase.OPEN
        self._core.crowded = False
        self._words[layout.S_NOT_ACCEPTING] = 0

    def _maker(self, listener: int) -> Callable[[], object]:
        def connected() -> object:
            self._left -= 1
            if self._left <= 0 and self._muzzled is None:
                self._muzzle()
            return self._protocol(listener)

        return connected

    def _muzzle(self) -> None:
        """Have nobody accepted any more in this turn of the loop.

        Called for a connection that libuv has in its hands, and would lose if its server were
        closed now. Its loop goes on for as long as ``accept`` finds somebody, so for the rest of
        the turn the server's descriptor is that of a socket to which nobody comes.
        """
        if _DUMMY:
            self._muzzled = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._muzzled.settimeout(0.0)
            self._muzzled.bind("")  # a name that the kernel makes up
            self._muzzled.listen(1)
            for _, own, _ in self._servers:
                os.dup2(self._muzzled.fileno(), own, inheritable=False)
        self._core.loop.call_soon(self._count_again)

    def _count_again(self) -> None:
        """Go on, or pause: those who were accepted are counted by now, and some have gone."""
        self._unmuzzle()
        self._left = self._room()
        if self._left <= 0 and self._phase is _Phase.OPEN:
            self._pause()

    def _unmuzzle(self) -> None:
        """Give the servers their descriptors back: the loop knows them by their files, too."""
        if self._muzzled is not None:
            self._muzzled.close()
            self._muzzled = None
            for _, own, fd in self._servers:
                os.dup2(fd, own, inheritable=False)

    def _pause(self) -> None:
        self._phase = _Phase.PAUSED
        self._paused_at = self._core.clock()
        self._core.crowded = True
        self._words[layout.S_NOT_ACCEPTING] = 1
        self._words[layout.S_ACCEPT_PAUSES] += 1
        self._close_servers()
        if not self._said:
            self._said = True
            logger.warning(
                "no descriptors for more than %d clients (limit %s, see LimitNOFILE or ulimit -n): "
                "who comes waits until somebody has gone",
                len(self._core.connections),
                self._limit(),
            )

    def _close_servers(self) -> None:
        self._unmuzzle()
        servers, self._servers = self._servers, []
        for server, _, _ in servers:
            server.close()
