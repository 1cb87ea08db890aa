"""How the parts of the data plane see each other, so that none imports who stands above it.

An exchange sees a ``Stream`` and never a transport; an upstream connection sees the attempt that it
carries and never the exchange; endpoints and the core see connections that can be closed. Whatever
gives an answer or takes one fits in here: an HTTP/2 codec is another ``Stream``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    from gateway.policy.fallback import StaticAnswer
    from gateway.proxy.errors import Failure
    from gateway.proxy.wheel import Wheel
    from gateway.wire.head import Head


class Clocked(Protocol):
    """Whoever has the worker's timer wheel."""

    @property
    def wheel(self) -> Wheel:
        """The wheel, and with it the coarse time."""


class Dialler(Clocked, Protocol):
    """What dialling needs of the core."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The worker's loop."""

    def addresses_of(self, host: str) -> tuple[str, ...]:
        """Return what a host resolves to, as control last told it."""


class Closable(Protocol):
    """A connection as its endpoint sees it."""

    @property
    def closed(self) -> bool:
        """Whether it is of no more use."""

    def abort(self) -> None:
        """Close it at once."""


class Client(Protocol):
    """A client's connection as the core sees it."""

    @property
    def peer(self) -> str:
        """The connection's own peer address, empty on a Unix socket."""

    def close_when_idle(self) -> bool:
        """Close it where no request is under way (True)."""

    def leave(self) -> None:
        """End in order what can."""

    def leave_color(self, service: str, green: bool, until: float) -> bool:
        """End an event stream that comes from this color of this service; tell whether."""

    def cut(self) -> None:
        """Close it at once."""


class Passage(Protocol):
    """A tunnel as the client's connection, and whoever records it, see it."""

    @property
    def up(self) -> int:
        """Octets carried to the backend."""

    @property
    def down(self) -> int:
        """Octets carried to the client."""

    def from_client(self, data: bytes) -> None:
        """Carry octets to the backend."""

    def client_ended(self) -> bool:
        """Pass the client's end of sending on; True keeps its connection for reading."""

    def client_full(self) -> None:
        """The client reads slowly."""

    def client_ready(self) -> None:
        """The client has read on."""

    def client_lost(self) -> None:
        """The client's connection is gone."""


class TunnelOwner(Protocol):
    """Who is told that a tunnel has ended."""

    def on_tunnel_closed(self, tunnel: Passage) -> None:
        """Count it out and record it."""


class Answered(Protocol):
    """An attempt as the connection that carries it sees it."""

    @property
    def request_sent(self) -> bool:
        """Whether all of the request has been written."""

    @property
    def wants_upgrade(self) -> bool:
        """Whether 101 was asked for."""

    # Any: the connection's own type stands above this module.
    def on_connected(self, connection: Any) -> None:
        """A connection was made for it."""

    def on_dial_failed(self, failure: Failure) -> None:
        """None could be made."""

    def on_inform(self, head: Head) -> None:
        """A 1xx answer came."""

    def on_head(self, head: Head, body: bytes, ended: bool) -> None:
        """The final head came, with what there is of the body."""

    def on_data(self, payload: bytes, ended: bool, trailers: Head | None) -> None:
        """More of the body came."""

    def on_switch(self, head: Head, rest: bytes) -> None:
        """101 came."""

    def on_fail(self, failure: Failure) -> None:
        """The backend failed."""

    def on_full(self) -> None:
        """The backend reads slowly."""

    def on_ready(self) -> None:
        """The backend has read on."""


class Stream(Protocol):
    """A request's downstream as its exchange sees it (RFC 9110's messages, in any version of HTTP).

    ``memo`` is the exchange's own, kept for the connection's next request.
    """

    memo: Any  # the exchange's own type

    @property
    def listener(self) -> int:
        """The listener's index that it came in by; -1: none."""

    @property
    def peer(self) -> str:
        """The connection's own peer address, empty on a Unix socket."""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""

    @property
    def sent(self) -> int:
        """Octets of content sent to the client."""

    @property
    def taken(self) -> int:
        """Octets of content taken from the client."""

    @property
    def full(self) -> bool:
        """Whether the client has more to read than it should have."""

    @property
    def held(self) -> bool:
        """Whether the client is kept from sending: the backend does not take what it has sent."""

    def transport(self) -> asyncio.Transport:
        """The transport, for the tunnel that takes the connection over."""

    def expect(self, deadline: float, between: float) -> None:
        """Bound the exchange: ``deadline`` for the whole, ``between`` for each silence."""

    def limit_body(self, limit: int) -> None:
        """Bound the request's content, in octets. Raises Failure where it says that it is more."""

    def pause(self) -> None:
        """Stop reading: the backend is slower than the client."""

    def resume(self) -> None:
        """Read on."""

    def inform(self, head: Head) -> None:
        """Pass a 1xx answer on."""

    def respond(self, head: Head, drop: int, extra: bytes, body: bytes, ended: bool) -> None:
        """Send a final head, with what there is of its body."""

    def deliver(self, block: bytes, lines: bytes, body: bytes) -> None:
        """Send a whole answer: status line and field lines, more field lines, content."""

    def write(self, payload: bytes) -> None:
        """Send more of the answer's body."""

    def end(self, payload: bytes, trailers: Head | None) -> None:
        """Send the rest of the answer's body, and its end."""

    def refuse(self, failure: Failure, extra: bytes, page: StaticAnswer | None = None) -> None:
        """Answer with the gateway's own error, or cut where an answer has begun already."""

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Answer with a head and content of the gateway's own."""

    def reply(self, status: int, lines: bytes) -> None:
        """Answer with a head of the gateway's own and no content."""

    def switch(self, head: Head, extra: bytes, tunnel: Passage) -> None:
        """Send 101 and become one end of a tunnel."""
