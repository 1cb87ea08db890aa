"""A worker's listeners as the snapshot has them: which of them speak TLS, which only redirect.

Sockets are what the supervisor opened; a snapshot may know other listeners already, until the next
restart. A socket is told by its address as configured, and one whose address is in the snapshot no
more goes on as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.proxy.downstream import DownstreamConnection
from gateway.proxy.tls import TlsConnection
from gateway.tls import Front

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config.snapshot import Listener
    from gateway.proxy.core import Core


class Doors:
    """``addresses`` are the configured addresses of sockets, ``indexes`` their listeners'."""

    def __init__(self, addresses: Sequence[str], indexes: Sequence[int]) -> None:
        self._indexes = dict(zip(addresses, indexes, strict=False))
        self._fronts: dict[int, Front] = {}
        self._redirects: dict[int, int] = {}
        self._listeners: Sequence[Listener] = ()

    def serve(self, listeners: Sequence[Listener], now: float) -> None:
        """Take the listeners of a snapshot. ``now`` is monotonic, in seconds.

        Raises ValueError where certificates cannot be used; nothing has changed then.
        """
        if listeners is self._listeners:
            return
        fronts, redirects = dict(self._fronts), dict(self._redirects)
        changed = []
        for listener in listeners:
            index = self._indexes.get(listener.address)
            if index is None:
                continue
            redirects.pop(index, None)
            if listener.redirect_to_https is not None:
                redirects[index] = listener.redirect_to_https
            front = fronts.pop(index, None)
            if listener.tls is None:
                continue
            if front is None:
                front = Front(listener.tls, now=now)
            elif front.tls != listener.tls:
                # Tried before anything is touched, so that one that is of no use costs nothing.
                Front(listener.tls, now=now)
                changed.append((front, listener.tls))
            fronts[index] = front
        for front, tls in changed:
            front.serve(tls, now=now)
        self._fronts, self._redirects = fronts, redirects
        self._listeners = listeners

    @property
    def redirects(self) -> dict[int, int]:
        """By listener: the public port of https."""
        return self._redirects

    def turn(self, now: float) -> None:
        """Let keys of tickets grow no older than they may."""
        for front in self._fronts.values():
            front.turn(now)

    def accept(self, core: Core, listener: int) -> DownstreamConnection | TlsConnection:
        """Return the protocol of one more connection."""
        front = self._fronts.get(listener)
        if front is None:
            return DownstreamConnection(core, listener, tls=False)
        return TlsConnection(core, listener, front)
