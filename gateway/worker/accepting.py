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
from asyncio import AbstractServer
from enum import Enum
from typing import TYPE_CHECKING, Protocol

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


class Backends(Protocol):
    """What ``Builder`` tells of connections to backends."""

    def upstreams(self) -> tuple[int, int]:
        """Return how many are busy, and how many are idle."""

    def close_idle(self, count: int) -> None:
        """Close as many idle ones."""


class Accepting:
    """The servers on a worker's listening sockets, given as ``ChildSpec.sockets``.

    ``backends`` tells of connections to backends, ``words`` is the worker's slab, ``protocol``
    makes the protocol of one more connection of a listener. ``used`` and ``limit`` are tests' to
    replace.
    """

    def __init__(
        self,
        core: Core,
        backends: Backends,
        sockets: Sequence[tuple[int, int]],
        words: memoryview,
        protocol: Callable[[int], object],
        *,
        used: Callable[[], int] = open_files,
        limit: Callable[[], int | None] = file_limit,
    ) -> None:
        self._core = core
        self._backends = backends
        self._sockets = sockets
        self._words = words
        self._protocol = protocol
        self._used = used
        self._limit = limit
        self._phase = _Phase.CLOSED
        #: Each with its own descriptor and the inherited one that this is of.
        self._servers: list[tuple[AbstractServer, int, int]] = []
        self._muzzled: socket.socket | None = None
        self._own = 0
        #: Connections that may come before they are counted again.
        self._left = 0
        self._said = False
        self._failed = False
        self._paused_at = 0.0

    @property
    def begun(self) -> bool:
        """Whether it has begun to accept (and was not closed since)."""
        return self._phase is not _Phase.CLOSED

    async def open(self) -> None:
        """Begin to accept, now or, where there are no descriptors for it, in a later turn."""
        self._own = self._used() - len(self._core.connections)
        self._phase = _Phase.OPENING
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
            self._phase = _Phase.OPENING  # here, not in the task: ``close`` may come before it runs
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
        """Return how many more clients there may be.

        Idle connections to backends may be of no use to them (to the color that had the traffic
        before): where they leave no room, half of them are closed, or more where it takes more.
        """
        most = self.most()
        if most is None:
            return 1 << 30
        clients = len(self._core.connections)
        busy, idle = self._backends.upstreams()
        free = 2 * (most - clients) - max(0, busy - clients)
        if idle and free - idle < 2:
            closed = min(idle, max(idle + 2 - free, (idle + 1) // 2))
            self._backends.close_idle(closed)
            idle -= closed
        return (free - idle) // 2

    async def _open(self) -> None:
        """Listen on every socket, or on none and try again in a later turn."""
        self._left = self._room()
        try:
            for listener, fd in self._sockets:
                if self._phase is not _Phase.OPENING:  # closed meanwhile, and ``fd`` may be
                    return
                await self._listen(listener, fd)
        except Exception as error:  # noqa: BLE001 - EMFILE, ENFILE, ENOBUFS, whatever it is
            self._give_way(error)
            return
        if self._phase is not _Phase.OPENING:
            return
        self._phase = _Phase.OPEN
        self._failed = False
        self._core.crowded = False
        self._words[layout.S_NOT_ACCEPTING] = 0

    async def _listen(self, listener: int, fd: int) -> None:
        sock = socket.socket(fileno=os.dup(fd))
        try:
            sock.settimeout(0.0)
            sock.listen(BACKLOG)  # uvloop, which does it again, raises nothing where it fails
            server = await self._serve(self._maker(listener), sock)
        except BaseException:
            sock.close()
            raise
        if self._phase is _Phase.OPENING:
            self._servers.append((server, sock.fileno(), fd))
        else:
            server.close()

    async def _serve(self, make: Callable[[], object], sock: socket.socket) -> AbstractServer:
        loop = asyncio.get_running_loop()
        # The loops take any object with a protocol's methods; a compiled class cannot inherit
        # from asyncio.Protocol, hence no type that asyncio's stubs would take.
        if sock.family == socket.AF_UNIX:
            return await loop.create_unix_server(
                make,  # type: ignore[arg-type]
                sock=sock,
                backlog=BACKLOG,
                **_PATH_STAYS,  # type: ignore[arg-type]
            )
        return await loop.create_server(make, sock=sock, backlog=BACKLOG)  # type: ignore[arg-type]

    def _give_way(self, error: Exception) -> None:
        """It could not listen: pause, so that a later turn tries again."""
        self._close_servers()
        if self._phase is not _Phase.OPENING:
            return
        self._phase = _Phase.PAUSED
        self._core.crowded = True
        self._words[layout.S_NOT_ACCEPTING] = 1
        if not self._failed:
            self._failed = True
            logger.warning("nobody can be listened for, it is tried again: %s", error)

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
