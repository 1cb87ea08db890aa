"""An upgraded connection: octets both ways, with back-pressure, until both sides are done.

A tunnel keeps its color and counts as in flight on its endpoint until it ends. Each side may end
its sending alone (half-close); silence of both for ``idle`` seconds ends it.

A WebSocket's frames are followed on their way to the client, so that it can be told that the
gateway goes away: between two frames, where a close frame is no backend's octets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.proxy.wheel import NOWHERE
from gateway.wire.websocket import GOING_AWAY, Frames

if TYPE_CHECKING:
    import asyncio

    from gateway.proxy.links import Clocked, TunnelOwner
    from gateway.proxy.wheel import Wheel

#: Seconds without progress after which what a closed tunnel has not delivered is given up.
FLUSH_SECONDS = 5.0

_FLUSH_SECONDS = cython.declare(cython.double, FLUSH_SECONDS)
_NOWHERE = cython.declare(cython.longlong, NOWHERE)


@cython.final
@cython.cclass
class Tunnel:
    """Two transports joined. ``up`` and ``down`` count octets to the backend and to the client.

    It goes to ``service``'s blue or ``green`` since ``opened`` (seconds, monotonic); ``override``:
    because a tester asked for that side.
    """

    up: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    down: cython.longlong = cython.declare(cython.longlong, visibility="readonly")
    closed: cython.bint = cython.declare(cython.bint, visibility="readonly")
    service: str = cython.declare(str, visibility="readonly")
    green: cython.bint = cython.declare(cython.bint, visibility="readonly")
    override: cython.bint = cython.declare(cython.bint, visibility="readonly")
    opened: cython.double = cython.declare(cython.double, visibility="readonly")
    _wheel: Wheel
    _exchange: TunnelOwner | None
    _client: asyncio.Transport
    _backend: asyncio.Transport
    _client_done: cython.bint
    _backend_done: cython.bint
    _idle: cython.double
    _deadline: cython.double
    _place: cython.longlong
    _left: cython.Py_ssize_t
    _frames: Frames | None
    #: It is told that the gateway, or its color, goes away.
    leaving: cython.bint = cython.declare(cython.bint, visibility="readonly")
    _told: cython.bint

    def __init__(
        self,
        core: Clocked,
        exchange: TunnelOwner,
        client: asyncio.Transport,
        backend: asyncio.Transport,
        idle: cython.double,
        service: str,
        green: cython.bint,
        override: cython.bint,
    ) -> None:
        self._frames = None
        self.leaving = False
        self._told = False
        self.service = service
        self.green = green
        self.override = override
        self.opened = core.wheel.now
        self.up = 0
        self.down = 0
        self.closed = False
        self._wheel = core.wheel
        self._exchange = exchange
        self._client = client
        self._backend = backend
        self._client_done = False
        self._backend_done = False
        self._idle = idle
        self._left = 0
        self._deadline = core.wheel.now + idle
        self._place = core.wheel.put(self, self._deadline)

    def follow_frames(self) -> None:
        """It carries a WebSocket. Before the first octet of it."""
        self._frames = Frames()

    def from_client(self, data: bytes) -> None:
        """Carry octets to the backend."""
        self.up += len(data)
        self._deadline = self._wheel.now + self._idle
        if not self.closed and not self._backend.is_closing():
            self._backend.write(data)

    def from_backend(self, data: bytes) -> None:
        """Carry octets to the client."""
        frames = self._frames
        end: cython.Py_ssize_t = -1
        self._deadline = self._wheel.now + self._idle
        if frames is not None:
            if self._told:
                return  # nothing follows a close frame
            end = frames.feed(data)
            # The backend's own close frame, if it is in there, says it as well.
            if self.leaving and end >= 0 and not frames.closing:
                data = data[:end]
        self.down += len(data)
        if not self.closed and not self._client.is_closing():
            self._client.write(data)
            if self.leaving and end >= 0 and frames is not None:
                self._tell(frames)

    def client_ended(self) -> bool:
        """Pass the client's end of sending on; True keeps its connection for reading."""
        self._client_done = True
        return self._half(self._backend)

    def backend_ended(self) -> bool:
        """Pass the backend's end of sending on; True keeps its connection for writing."""
        self._backend_done = True
        return self._half(self._client)

    def client_full(self) -> None:
        """The client reads slowly: the backend waits."""
        if not self._backend.is_closing():
            self._backend.pause_reading()

    def client_ready(self) -> None:
        """The client has read on."""
        if not self._backend.is_closing():
            self._backend.resume_reading()

    def backend_full(self) -> None:
        """The backend reads slowly: the client waits."""
        if not self._client.is_closing():
            self._client.pause_reading()

    def backend_ready(self) -> None:
        """The backend has read on."""
        if not self._client.is_closing():
            self._client.resume_reading()

    def client_lost(self) -> None:
        """The client's connection is gone: so is the tunnel."""
        self.close()

    def backend_lost(self) -> None:
        """The backend's connection is gone: so is the tunnel."""
        self.close()

    def close(self) -> None:
        """End both sides, once what is written has gone out."""
        if self.closed:
            return
        self.closed = True
        self._place = _NOWHERE
        exchange, self._exchange = self._exchange, None
        self._client.close()
        self._backend.close()
        self._left = self._unsent()
        if self._left:
            self._flush_within()
        assert exchange is not None
        exchange.on_tunnel_closed(self)

    def leave(self) -> None:
        """Tell a WebSocket's client that the gateway goes away, once a frame has ended.

        Its own close frame goes to the backend, which ends the tunnel. Other protocols have no
        such word: they end at once.
        """
        frames = self._frames
        if frames is None:
            self.close()
        elif not self.closed and not self.leaving:
            self.leaving = True
            if frames.between:
                self._tell(frames)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _tell(self, frames: Frames) -> cython.bint:
        """Send the close frame, unless the backend has sent one."""
        if not frames.closing and not self._told and not self._client.is_closing():
            self._told = True
            self.down += len(GOING_AWAY)
            self._client.write(GOING_AWAY)
        return True

    def on_wheel(self, place: int, now: float) -> None:
        """Be visited by the timer wheel."""
        if place != self._place:
            return
        self._place = _NOWHERE
        if now < self._deadline:
            self._place = self._wheel.put(self, self._deadline)
        elif not self.closed:
            self.close()
        else:
            before = self._left
            self._left = self._unsent()
            if 0 < self._left < before:
                self._flush_within()
            else:
                self._client.abort()
                self._backend.abort()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _flush_within(self) -> cython.bint:
        self._deadline = self._wheel.now + _FLUSH_SECONDS
        self._place = self._wheel.put(self, self._deadline)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _unsent(self) -> cython.Py_ssize_t:
        """Return the octets that neither peer has taken yet."""
        return self._client.get_write_buffer_size() + self._backend.get_write_buffer_size()

    @cython.cfunc
    @cython.exceptval(check=True)
    def _half(self, other: asyncio.Transport) -> cython.bint:
        if self.closed:
            return False
        if self._client_done and self._backend_done:
            self.close()
            return False
        if not other.can_write_eof():
            # TLS has no half-close that a protocol above it could see.
            self.close()
            return False
        if not other.is_closing():
            other.write_eof()
        return True
