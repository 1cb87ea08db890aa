"""A client's connection: HTTP/1.1 and 1.0's server side as an asyncio protocol.

Here stand pipelining, keep-alive, the chunked coding and the connection's bounds in time and size.
A request becomes an ``Exchange``; the exchange answers through ``inform``, ``respond``, ``write``,
``end``, ``refuse`` and ``switch`` and never touches the transport. Requests are answered in order:
the next one is parsed only when the answer before it is complete.

Compiled where a compiler is there: no ``async def`` here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.proxy.errors import Failure, status_of
from gateway.proxy.exchange import Exchange
from gateway.proxy.line import MOST, SLICE
from gateway.proxy.problem import PHRASES, problem
from gateway.proxy.shared import Shared
from gateway.proxy.states import (
    ANSWER_BODY,
    ANSWER_DONE,
    ANSWER_END,
    ANSWER_HEAD,
    ANSWER_IDLE,
    ANSWER_INFORMS,
    ANSWER_RESET,
    ANSWER_TABLE,
    BODY_END,
    EXCHANGE_BEGINS,
    HEAD_ALONE,
    HEAD_WITH_BODY,
    ILLEGAL,
    REQUEST_BODY,
    REQUEST_DONE,
    REQUEST_IDLE,
    REQUEST_RESET,
    REQUEST_STOP,
    REQUEST_TABLE,
    IllegalTransition,
)
from gateway.proxy.stream import ClientStream
from gateway.proxy.wheel import NEVER, NOWHERE, TICK
from gateway.wire.body import ChunkedDecoder, encode_chunk, encode_last_chunk
from gateway.wire.errors import WireError
from gateway.wire.fields import (
    CONTENT_LENGTH,
    HOP_BY_HOP,
    X_GATEWAY_ERROR,
    X_GATEWAY_SERVED_BY,
    X_REQUEST_ID,
    mask,
)
from gateway.wire.head import BODY_CHUNKED, BODY_LENGTH, BODY_NONE, Head

if TYPE_CHECKING:
    import asyncio

    from gateway.policy.fallback import StaticAnswer
    from gateway.proxy.core import Core
    from gateway.proxy.links import Passage
    from gateway.proxy.wheel import Wheel

#: Octets of pipelined requests that are held while an answer is under way.
MAX_AHEAD = 64 * 1024
#: Below this an answer's head and body are joined into one buffer: cheaper than two.
JOIN = 16 * 1024
#: After a refusal, how long and how much is read and thrown away before closing, so that the
#: client gets to read the answer (RFC 9112 section 9.6).
LINGER_SECONDS = 2.0
LINGER_OCTETS = 1024 * 1024

_JOIN = cython.declare(cython.Py_ssize_t, JOIN)
_MAX_AHEAD = cython.declare(cython.Py_ssize_t, MAX_AHEAD)
_MOST = cython.declare(cython.int, MOST)
_SLICE = cython.declare(cython.double, SLICE)
#: Octets of chunked content in one read that are looked at with a clock.
_LARGE = cython.declare(cython.Py_ssize_t, 16 * 1024)
_TICK = cython.declare(cython.double, TICK)
_NEVER = cython.declare(cython.double, NEVER)
_NOWHERE = cython.declare(cython.longlong, NOWHERE)
_BODY_NONE = cython.declare(cython.int, BODY_NONE)
_BODY_LENGTH = cython.declare(cython.int, BODY_LENGTH)
_BODY_CHUNKED = cython.declare(cython.int, BODY_CHUNKED)
_ILLEGAL = cython.declare(cython.int, ILLEGAL)
_REQUEST_TABLE = cython.declare(bytes, REQUEST_TABLE)
_ANSWER_TABLE = cython.declare(bytes, ANSWER_TABLE)
_EXCHANGE_BEGINS = cython.declare(cython.int, EXCHANGE_BEGINS)
_ANSWER_INFORMS = cython.declare(cython.int, ANSWER_INFORMS)
_ANSWER_HEAD = cython.declare(cython.int, ANSWER_HEAD)
_ANSWER_END = cython.declare(cython.int, ANSWER_END)
_ANSWER_RESET = cython.declare(cython.int, ANSWER_RESET)
_HEAD_ALONE = cython.declare(cython.int, HEAD_ALONE)
_HEAD_WITH_BODY = cython.declare(cython.int, HEAD_WITH_BODY)
_BODY_END = cython.declare(cython.int, BODY_END)
_REQUEST_RESET = cython.declare(cython.int, REQUEST_RESET)
_REQUEST_STOP = cython.declare(cython.int, REQUEST_STOP)
_R_IDLE = cython.declare(cython.int, REQUEST_IDLE)
_R_BODY = cython.declare(cython.int, REQUEST_BODY)
_R_DONE = cython.declare(cython.int, REQUEST_DONE)
_A_IDLE = cython.declare(cython.int, ANSWER_IDLE)
_A_BODY = cython.declare(cython.int, ANSWER_BODY)
_A_DONE = cython.declare(cython.int, ANSWER_DONE)

#: Never passed on from a backend: hop-by-hop, and what only the gateway says.
_DROP = HOP_BY_HOP | mask(X_REQUEST_ID, X_GATEWAY_ERROR, X_GATEWAY_SERVED_BY)
_DROP_MASK = cython.declare(cython.ulonglong, _DROP)
_CONTENT_LENGTH_BIT = cython.declare(cython.ulonglong, mask(CONTENT_LENGTH))

_CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"
_CLOSE_LINE = b"Connection: close\r\n"
_KEEP_LINE = b"Connection: keep-alive\r\n"


_FULL = cython.declare(
    bytes,
    b"HTTP/1.1 503 Service Unavailable\r\nX-Gateway-Error: overload\r\nRetry-After: 1\r\n"
    b"Cache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
)


@cython.cclass
class DownstreamConnection(ClientStream):
    """One client's connection.

    ``peer`` is its address as text (empty on a Unix socket), ``tls`` whether it is encrypted,
    ``forwarded`` and ``host_memo`` what the exchange keeps for the next request of the connection.
    """

    core: Core = cython.declare(object, visibility="readonly")
    _shared: Shared
    closed: cython.bint = cython.declare(cython.bint, visibility="readonly")
    tunnel: Passage | None = cython.declare(object, visibility="readonly")
    _wheel: Wheel
    _transport: asyncio.Transport
    _exchange: Exchange | None
    _ahead: bytes
    _request: cython.int
    _answer: cython.int
    _body: cython.int
    _left: cython.longlong
    _limit: cython.longlong
    _decoder: ChunkedDecoder | None
    _minor: cython.int
    _keep: cython.bint
    _to_head: cython.bint
    _answer_body: cython.int
    _answer_left: cython.longlong
    _paused: cython.bint
    _held: cython.bint
    _full: cython.bint
    _ended: cython.bint
    _taking: cython.bint
    _due: cython.bint
    _fresh: cython.bint
    _head_begun: cython.bint
    _idle_until: cython.double
    _lingering: cython.longlong
    _unread: cython.Py_ssize_t
    _deadline: cython.double
    _place: cython.longlong
    _between: cython.double
    #: The snapshot whose limits these two are.
    _limited_by: object
    _head_limit: cython.Py_ssize_t
    _idle_timeout: cython.double
    _window_at: cython.double
    _window_taken: cython.longlong

    def __init__(self, core: Core, listener: int, tls: bool) -> None:
        self.core = core
        self._shared = core
        self._wheel = core.wheel
        self.listener = listener
        self.peer = ""
        self.tls = tls
        self.closed = False
        self.sent = 0
        self.taken = 0
        self.memo = None
        self.tunnel = None
        self._transport = None  # type: ignore[assignment]  # set by connection_made, before use
        self._exchange = None
        self._ahead = b""
        self._request = _R_IDLE
        self._answer = _A_IDLE
        self._body = 0
        self._left = 0
        self._limit = 0
        self._decoder = None
        self._minor = 1
        self._keep = True
        self._to_head = False
        self._answer_body = 0
        self._answer_left = 0
        self._paused = False
        self._held = False
        self._full = False
        self._ended = False
        self._taking = False
        self._due = False
        self._fresh = False
        self._head_begun = False
        self._idle_until = _NEVER
        self._lingering = -1
        self._unread = 0
        self._deadline = _NEVER
        self._place = _NOWHERE
        self._between = 30.0
        self._limited_by = None
        self._head_limit = 0
        self._idle_timeout = 75.0
        self._window_at = -1.0
        self._window_taken = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"request={self._request} answer={self._answer}"
        return f"<DownstreamConnection from {self.peer or 'unix'} {state}>"

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin; what is over the machine's bound on connections is told so, and closed at once."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = peer[0]
            if self.peer.startswith("::ffff:") and "." in self.peer:
                self.peer = self.peer[7:]  # IPv4 on a dual-stack socket is one address, not two
        if not self.core.admit(self):
            self.closed = True
            # Nothing is read of it, and of a client that does not read nothing is waited for: this
            # fits any socket's buffer. Over TLS it is said to nobody: no handshake has begun.
            transport.write(_FULL)
            transport.close()
            return
        # As long as the first head may take: a connection that says nothing is idle, not slow.
        self._arm(self._wheel.now + self._shared.serving.limits.idle_timeout)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if self.tunnel is not None:
            self.tunnel.from_client(data)
            return
        if self._lingering >= 0:
            self._lingering += len(data)
            if self._lingering > LINGER_OCTETS:
                self._abort()
            return
        self._taking = True
        try:
            if self._request == _R_BODY and not self._ahead:
                self._take_body(data, 0)
            elif not self._ahead:
                self._fresh = True
                self._ahead = data
            else:
                self._ahead += data
                # A head is parsed again only when a line has ended: octet by octet it would be
                # quadratic.
                if b"\n" in data or len(self._ahead) > self._shared.serving.limits.head:
                    self._fresh = True
            if self._due:
                self._apply_pause()
            else:
                self._drive(False)
        finally:
            self._taking = False

    def eof_received(self) -> bool:
        """Take the client's end of sending. It may still read: answers under way are finished."""
        self._ended = True
        if self.tunnel is not None:
            return bool(self.tunnel.client_ended())
        if self._answer == _A_IDLE and self._ahead and (self._full or self._due):
            return True  # whole requests may be waiting, until the client has read or in line
        if self._lingering >= 0 or (self._answer == _A_IDLE and not self._ahead):
            self._close()
            return False
        if self._answer == _A_IDLE or self._request == _R_BODY:
            self._stop(Failure("client-left", "the request ended early"))
            return False
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the exchange and the tunnel, count the connection out."""
        del exc
        early: cython.bint = self._head_begun and not self.closed
        self.closed = True
        self._deadline = _NEVER
        self._place = _NOWHERE
        self.core.dismiss(self)
        if early and self._exchange is None:
            # Half a head, and then a reset: counted as one that ends in good order is.
            self._head_begun = False
            self.core.refused(self, Failure("client-left"), 499)
        if self.memo is not None:
            self.memo.tell(self.core.requests)
        if self.tunnel is not None:
            self.tunnel.client_lost()
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            exchange.on_client_left(Failure("client-left"))

    def pause_writing(self) -> None:
        """The client reads slowly: have the backend pause."""
        self._full = True
        if self.tunnel is not None:
            self.tunnel.client_full()
            return
        self._unread = self._transport.get_write_buffer_size()
        exchange = self._exchange
        # A client that reads nothing holds resources for as long as a silent backend may.
        if exchange is None:
            self._arm(self._wheel.now + self._between)
        else:
            self._arm_body(exchange.deadline)
            exchange.on_client_full()

    def resume_writing(self) -> None:
        """The client has read on."""
        self._full = False
        if self.tunnel is not None:
            self.tunnel.client_ready()
            return
        exchange = self._exchange
        if exchange is not None:
            if self._request == _R_BODY:
                self._arm_body(exchange.deadline)
            else:
                self._arm(exchange.deadline)
            exchange.on_client_ready()
        elif self._answer == _A_IDLE and not self.closed:
            self._next()

    def on_wheel(self, place: int, now: float) -> None:
        """Be visited by the timer wheel."""
        if place != self._place:
            return
        self._place = _NOWHERE
        if self._deadline == _NEVER:
            return
        if now < self._deadline:
            self._place = self._wheel.put(self, self._deadline)
            return
        self._deadline = _NEVER
        self._timed_out()

    def go_on(self) -> None:
        """Have its turn in the worker's line: begin more of the requests that are here."""
        if not self._due:
            return
        self._due = False
        if self.closed:
            return
        self._taking = True
        try:
            self._drive(True)
        finally:
            self._taking = False

    # --- what the exchange asks -----------------------------------------------------------------

    @cython.ccall
    def expect(self, deadline: cython.double, between: cython.double) -> None:
        """Bound the exchange: ``deadline`` for the whole, ``between`` for each silence."""
        self._between = between
        if self._request == _R_BODY:
            body_deadline: cython.double = self._wheel.now + between
            deadline = min(deadline, body_deadline)
        self._arm(deadline)

    def limit_body(self, limit: cython.longlong) -> None:
        """Bound the request's content, in octets. Raises Failure where it says that it is more."""
        self._limit = limit
        if self._body == _BODY_LENGTH and self._left > limit:
            raise Failure("body-too-large", f"{self._left} octets where {limit} are allowed")

    def pause(self) -> None:
        """Stop reading: the backend is slower than the client."""
        self._held = True
        self._apply_pause()

    def resume(self) -> None:
        """Read on."""
        self._held = False
        self._window_at = -1.0  # the time in which it was not read is not the client's
        self._apply_pause()

    @property
    def full(self) -> bool:
        """Whether the client has more to read than it should have."""
        return self._full

    @property
    def held(self) -> bool:
        """Whether the client is kept from sending: the backend does not take what it has sent."""
        return self._held

    def inform(self, head: Head) -> None:
        """Pass a 1xx answer on; HTTP/1.0 knows none."""
        if self._minor == 1 and not self.closed:
            self._answer_to(_ANSWER_INFORMS)
            self._transport.write(
                head.render(_status_line(head), _DROP_MASK | _CONTENT_LENGTH_BIT, b"")
            )

    @cython.ccall
    def respond(
        self, head: Head, drop: cython.ulonglong, extra: bytes, body: bytes, ended: cython.bint
    ) -> None:
        """Send a backend's final head, with what there is of its body.

        ``drop`` are fields left out beside the hop-by-hop ones, ``extra`` complete lines added.
        """
        lines: bytes = extra
        framing: cython.int = head.body
        drop |= _DROP_MASK
        self._answer_to(_ANSWER_HEAD)
        if head.status == 204:
            drop |= _CONTENT_LENGTH_BIT
        self._answer_body = framing
        if framing not in (_BODY_NONE, _BODY_LENGTH):
            if self._minor == 1:
                self._answer_body = _BODY_CHUNKED
                lines += _CHUNKED_LINE
            else:
                self._answer_body = 3
                self._keep = False
        self._answer_left = head.length if framing == _BODY_LENGTH else 0
        if not self._goes_on():
            self._keep = False
            lines += _CLOSE_LINE
        elif self._minor == 0:
            lines += _KEEP_LINE
        self._send(head.render(_status_line(head), drop, lines), body, ended, None)

    def deliver(self, block: bytes, lines: bytes, body: bytes) -> None:
        """Send a whole answer whose head is built already.

        ``block`` are its status line and field lines, its length among them, ``lines`` more of
        them, each with its CRLF. ``body`` is empty where the method or the status wants none.
        """
        self._answer_to(_ANSWER_HEAD)
        self._answer_body = _BODY_NONE
        if not self._goes_on():
            self._keep = False
            lines += _CLOSE_LINE
        elif self._minor == 0:
            lines += _KEEP_LINE
        if not self.closed:
            self.sent += len(body)
            self._transport.write(b"".join((block, lines, b"\r\n", body)))
            self._finish()

    def write(self, payload: bytes) -> None:
        """Send more of the answer's body."""
        if payload:
            self._send(b"", payload, False, None)

    def end(self, payload: bytes, trailers: Head | None) -> None:
        """Send the rest of the answer's body, and its end."""
        self._send(b"", payload, True, trailers)

    def refuse(self, failure: Failure, extra: bytes, page: StaticAnswer | None = None) -> None:
        """Answer with the gateway's own error, or cut where an answer has begun already.

        ``page`` stands in place of the problem document.
        """
        if self.closed:
            return
        if self._answer == _A_BODY:
            # Never a silently shortened answer: the client sees the connection break.
            self._abort()
            return
        status = status_of(failure)
        if failure.name in {"client-left", "client-slow"}:
            self._abort()
            return
        if failure.kind.closes or not self._goes_on():
            self._keep = False
        extra += self.core.date_line()
        head, body = problem(
            failure, status, keep=self._keep, minor=self._minor, extra=extra, page=page
        )
        self._answer_to(_ANSWER_HEAD)
        self._answer_body = _BODY_LENGTH
        self._answer_left = 0 if self._to_head else len(body)
        self._send(head, b"" if self._to_head else body, True, None)

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Answer with a head and content of the gateway's own."""
        lines += self.core.date_line()
        self._answer_to(_ANSWER_HEAD)
        self._answer_body = _BODY_LENGTH
        self._answer_left = 0 if self._to_head else len(body)
        if not self._goes_on():
            self._keep = False
            lines += _CLOSE_LINE
        elif self._minor == 0:
            lines += _KEEP_LINE
        head = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n\r\n" % (
            status,
            PHRASES.get(status, b""),
            lines,
            len(body),
        )
        self._send(head, b"" if self._to_head else body, True, None)

    def reply(self, status: int, lines: bytes) -> None:
        """Answer with a head of the gateway's own and no content."""
        lines += self.core.date_line()
        self._answer_to(_ANSWER_HEAD)
        self._answer_body = _BODY_NONE
        if not self._goes_on():
            self._keep = False
            lines += _CLOSE_LINE
        elif self._minor == 0:
            lines += _KEEP_LINE
        if status != 204:  # RFC 9110 section 8.6
            lines += b"Content-Length: 0\r\n"
        head = b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, PHRASES.get(status, b""), lines)
        self._send(head, b"", True, None)

    def switch(self, head: Head, extra: bytes, tunnel: Passage) -> None:
        """Send 101 and become one end of a tunnel."""
        upgrade = head.find(b"upgrade") or b""
        lines = extra + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n"
        self._answer_to(_ANSWER_HEAD)
        self._transport.write(
            head.render(_status_line(head), _DROP_MASK | _CONTENT_LENGTH_BIT, lines)
        )
        self._exchange = None
        self._deadline = _NEVER
        self.tunnel = tunnel
        self._held = False
        self._due = False
        self._apply_pause()
        if self._full:
            tunnel.client_full()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            tunnel.from_client(ahead)
        if self._ended:
            tunnel.client_ended()

    def transport(self) -> asyncio.Transport:
        """The transport, for the tunnel that takes the connection over."""
        return self._transport

    def close_when_idle(self) -> bool:
        """Drain: close now if no request is under way (True), else after its answer (False)."""
        if self.closed:
            return True
        if self.tunnel is not None or self._answer != _A_IDLE or self._due:
            return False
        self._close()
        return True

    def leave(self) -> None:
        """Drain, at its end: what can end in order does."""
        exchange = self._exchange
        if exchange is not None and self._answer == _A_BODY and not self.closed:
            exchange.leave()

    def leave_color(self, service: str, green: bool, until: float) -> bool:
        """A color's drain, at its end: an event stream from it ends in order; tells whether."""
        exchange = self._exchange
        if exchange is None or self._answer != _A_BODY or self.closed:
            return False
        return exchange.leave_color(service, green, until)

    def reject(self, failure: Failure) -> None:
        """Refuse what came in place of a request: it is none that could be read."""
        self._stop(failure)

    def cut(self) -> None:
        """Close whatever is under way: at a drain's end, or where it has failed."""
        self._abort()

    # --- reading --------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _take_head(self, data: bytes) -> cython.bint:
        """Parse a request's head from the data's first octet; begin its exchange."""
        head: Head
        started: cython.double
        at: cython.Py_ssize_t = 0
        # RFC 9112 section 2.2: an empty line before a request is ignored. So are several, however
        # they are cut into reads.
        while at + 1 < len(data) and data[at] == 13 and data[at + 1] == 10:
            at += 2
        if at:
            data = data[at:]
            if not data:
                if self._head_begun:
                    # Silence goes on being counted from where it began: such lines buy no time.
                    self._head_begun = False
                    self._arm(self._idle_until)
                return True
        try:
            head = Head(data, 0)
            if not head.read_request():
                self._head_incomplete(data)
                return True
        except WireError as error:
            self._stop(_bad_request(error))
            return True
        end: cython.Py_ssize_t = head.end
        if self._limited_by is not self._shared.serving:
            self._limited_by = self._shared.serving
            self._head_limit = self._shared.serving.limits.head
            self._idle_timeout = self._shared.serving.limits.idle_timeout
        if end > self._head_limit:
            self._too_large(data)
            return True
        started = self._shared.clock()
        self._minor = head.minor
        self._keep = head.persistent
        self._body = head.body
        self._left = head.length if self._body == _BODY_LENGTH else 0
        self._limit = 0
        self.sent = 0
        self.taken = 0
        self._window_at = -1.0
        self._to_head = False
        self._request_to(_HEAD_ALONE if self._body == _BODY_NONE else _HEAD_WITH_BODY)
        self._answer_to(_EXCHANGE_BEGINS)
        self._head_begun = False
        exchange = Exchange(self, self.core, head, started)
        self._exchange = exchange
        self._to_head = exchange.to_head
        if self._body == _BODY_CHUNKED:
            self._decoder = ChunkedDecoder()
        elif self._body == _BODY_NONE and end < len(data):
            # Before the exchange begins: it may be refused at once, and what is left decides
            # whether the connection goes on.
            self._fresh = True
            self._ahead = data[end:]
        exchange.begin()
        if self._request == _R_BODY and self._exchange is exchange and end < len(data):
            self._take_body(data, end)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _head_incomplete(self, data: bytes) -> cython.bint:
        if len(data) > self._shared.serving.limits.head:
            self._too_large(data)
            return True
        if not self._head_begun:
            self._head_begun = True
            self._idle_until = self._deadline
            self._arm(self._wheel.now + self._shared.serving.limits.header_timeout)
        self._ahead = data
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _too_large(self, data: bytes) -> cython.bint:
        """Refuse a head: its request line alone is too long (414), or all of it (431)."""
        limit: cython.Py_ssize_t = self._shared.serving.limits.head
        if data.find(b"\n", 0, limit) < 0:
            self._stop(Failure("target-too-long", f"a request line of more than {limit} octets"))
        else:
            self._stop(Failure("head-too-large", f"more than {limit} octets"))
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _drive(self, lined: cython.bint) -> cython.bint:
        """Begin the requests that are here, one after the other, without recursion.

        Those that are answered at once would hold the loop for as long as a client sends more: a
        few in a row are enough, then it is others' turn. ``lined``: it has waited for its own.
        """
        ahead: bytes
        count: cython.int = 0
        until: cython.double = 0.0
        while (
            self._fresh
            and self._ahead
            and self._answer == _A_IDLE
            and self._request == _R_IDLE
            and not self.closed
            # Answers to a client that does not read would pile up.
            and not self._full
        ):
            if count:
                if count == 1 and (lined or not self.core.line):
                    until = self._shared.clock() + _SLICE
                if count >= _MOST or self._shared.clock() >= until:
                    self._line_up()
                    break
            count += 1
            ahead = self._ahead
            self._ahead = b""
            self._fresh = False
            self._take_head(ahead)
        else:
            # The loop may have the next read at hand, and one more behind that.
            if count > 1 and not self.closed and self._shared.clock() >= until - _SLICE / 2:
                self._line_up()
        if (
            self._ended
            and self._ahead
            and self._answer == _A_IDLE
            and self._request == _R_IDLE
            and not self.closed
            and not self._full
            and not self._due
        ):
            self._stop(Failure("client-left", "the request ended early"))
        self._apply_pause()
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _line_up(self) -> cython.bint:
        """Read no more, which also ends the loop's reading, until it is this connection's turn."""
        if not self._due and self.tunnel is None:
            self._due = True
            self.core.line.join(self)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _take_body(self, data: bytes, at: cython.Py_ssize_t) -> cython.bint:
        """Take the request's content; what lies behind it is the next request's."""
        exchange = self._exchange
        here: cython.Py_ssize_t = len(data) - at
        payload: bytes
        trailers: Head | None = None
        used: cython.Py_ssize_t
        if exchange is None:
            return True
        if self._body == _BODY_LENGTH:
            used = here if here < self._left else cython.cast(cython.Py_ssize_t, self._left)
            payload = data if used == len(data) else data[at : at + used]
            self._left -= used
            done = self._left == 0
            used += at
        else:
            decoder = self._decoder
            assert decoder is not None
            began: cython.double = self._shared.clock() if here > _LARGE else 0.0
            try:
                payload = decoder.feed(data, at)
            except WireError as error:
                self._keep = False
                exchange.fail(_bad_request(error))
                return True
            used = decoder.used
            done = decoder.done
            trailers = decoder.trailers
            # A chunk for each octet costs as much as a request: the loop may have more at hand.
            if here > _LARGE and self._shared.clock() >= began + _SLICE / 2:
                self._line_up()
        self.taken += len(payload)
        if self.taken > self._limit:
            self._keep = False
            exchange.fail(Failure("body-too-large", f"more than {self._limit} octets"))
            return True
        if done:
            self._request_to(_BODY_END)
            self._decoder = None
            self._arm(exchange.deadline)
            if used < len(data):
                self._fresh = True
                self._ahead = data[used:]
            exchange.on_body(payload, True, trailers)
        elif self._answer != _A_BODY and self._trickles():
            self._keep = False
            exchange.fail(Failure("body-timeout", "slower than limits.min_rate"))
        else:
            self._arm_body(exchange.deadline)
            if payload:
                exchange.on_body(payload, False, None)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _trickles(self) -> cython.bint:
        """Tell whether content comes so slowly that only its silences are in time."""
        now: cython.double = self._wheel.now
        rate: cython.double
        if self._window_at < 0.0:
            self._window_at = now
            self._window_taken = self.taken
            return False
        if now - self._window_at < self._between:
            return False
        rate = (self.taken - self._window_taken) / (now - self._window_at)
        self._window_at = now
        self._window_taken = self.taken
        return rate < self._shared.serving.limits.min_rate

    @cython.cfunc
    @cython.exceptval(-1)
    def _arm_body(self, total: cython.double) -> cython.bint:
        deadline: cython.double = self._wheel.now + self._between
        self._arm(deadline if deadline < total else total)
        return True

    # --- writing --------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _send(
        self, head: bytes, payload: bytes, ended: cython.bint, trailers: Head | None
    ) -> cython.bint:
        """Write head and payload in the answer's framing; complete the answer where it ended."""
        size: cython.Py_ssize_t = len(payload)
        if self.closed:
            return True
        self.sent += size
        if self._answer_body == _BODY_CHUNKED and not self._to_head:
            if size:
                payload = encode_chunk(payload)
            if ended:
                payload += encode_last_chunk(trailers)
        elif self._answer_body == _BODY_LENGTH:
            self._answer_left -= size
        if not head:
            if payload:
                self._transport.write(payload)
        elif not payload:
            self._transport.write(head)
        elif len(payload) < _JOIN:
            self._transport.write(head + payload)
        else:
            self._transport.writelines([head, payload])
        if ended:
            self._finish()
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _finish(self) -> cython.bint:
        """The answer is complete: next request, or the connection's end."""
        exchange = self._exchange
        self._exchange = None
        self._answer_to(_ANSWER_END)
        if exchange is not None:
            exchange.on_answered()
        if self.closed:
            return True
        if not self._keep or self._request != _R_DONE or self._shared.draining:
            self._linger()
            return True
        self._answer_to(_ANSWER_RESET)
        self._request_to(_REQUEST_RESET)
        self._held = False
        self._to_head = False
        if self._paused:
            self._apply_pause()
        self._next()
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _next(self) -> cython.bint:
        """Between two requests: begin the one that is here already, or wait for it."""
        if self._ahead and not self._full:
            self._arm(self._wheel.now + self._shared.serving.limits.header_timeout)
            if not self._taking and not self._due:
                self._taking = True
                try:
                    self._drive(False)
                finally:
                    self._taking = False
        elif self._ended and not self._ahead:
            self._linger()
        elif self._full:
            self._arm(self._wheel.now + self._between)
        else:
            self._arm(self._wheel.now + self._idle_timeout)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _goes_on(self) -> cython.bint:
        """Tell whether another request may follow the one that is being answered."""
        return (
            self._keep
            and self._request != _R_BODY
            and not (self._ended and not self._ahead)
            and not self._shared.draining
            and not self._shared.crowded
        )

    @cython.cfunc
    @cython.exceptval(-1)
    def _linger(self) -> cython.bint:
        """Close: at once where the client sends nothing more, else after reading it away."""
        silent: cython.bint = self._ended or (self._request == _R_DONE and not self._ahead)
        self._request_to(_REQUEST_STOP)
        if silent:
            self._close()
            return True
        self._lingering = 0
        self._ahead = b""
        self._held = False
        self._apply_pause()
        self._unread = self._transport.get_write_buffer_size()
        self._arm(self._wheel.now + LINGER_SECONDS)
        # TLS says its end too, though it is no half-close that a tunnel could use.
        if self.tls or self._transport.can_write_eof():
            self._transport.write_eof()
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _close(self) -> cython.bint:
        """Close once all is written; a client that does not read it is cut."""
        self.closed = True
        self._ahead = b""
        self._unread = self._transport.get_write_buffer_size()
        if self._unread:
            self._arm(self._wheel.now + self._between)
        else:
            self._deadline = _NEVER
            self._place = _NOWHERE
        self._transport.close()
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _reads_on(self, seconds: cython.double) -> cython.bint:
        """Tell whether the client has read enough in the seconds since this was last asked."""
        before: cython.Py_ssize_t = self._unread
        wanted: cython.double = self._shared.serving.limits.min_rate * seconds
        self._unread = self._transport.get_write_buffer_size()
        return self._unread < before and (before - self._unread >= wanted or self._unread == 0)

    @cython.cfunc
    @cython.exceptval(-1)
    def _stop(self, failure: Failure) -> cython.bint:
        """Refuse what is no request, or end one under way; the connection goes no further."""
        exchange = self._exchange
        self._keep = False
        if exchange is not None:
            exchange.fail(failure)
            return True
        self._ahead = b""
        self._head_begun = False
        self.core.refused(self, failure, status_of(failure))
        if failure.name == "client-left":
            self._close()  # not cut: it may not have read the answers before
        else:
            self.refuse(failure, b"")
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _timed_out(self) -> cython.bint:
        if self._exchange is not None and not self.closed:
            self._exchange_timed_out()
        elif self.closed or self._full or self._lingering >= 0:
            # What is left of the answer goes out for as long as the client reads it.
            patience: cython.double = LINGER_SECONDS if self._lingering >= 0 else self._between
            if self._reads_on(patience):
                self._arm(self._wheel.now + patience)
            else:
                self._abort()
        elif self._due:
            # It has sent its requests, and waits for us.
            self._arm(self._wheel.now + self._shared.serving.limits.header_timeout)
        elif self._ahead:
            self._stop(Failure("header-timeout"))
        else:
            self._close()
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _exchange_timed_out(self) -> cython.bint:
        exchange = self._exchange
        assert exchange is not None
        if self._wheel.now >= exchange.deadline:
            exchange.on_total_timeout()
        elif self._full:
            if self._reads_on(self._between):
                self._arm_body(exchange.deadline)
            else:
                exchange.fail(Failure("client-slow"))
        elif self._request != _R_BODY:
            self._arm(exchange.deadline)
        elif self._held or self._due:
            # The backend is the slow one; its own side has a bound for that. Or we are.
            self._arm_body(exchange.deadline)
        else:
            exchange.fail(Failure("body-timeout"))
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _abort(self) -> cython.bint:
        self._deadline = _NEVER
        self._place = _NOWHERE
        self._transport.abort()
        return True

    # --- state ----------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _arm(self, deadline: cython.double) -> cython.bint:
        self._deadline = deadline
        if deadline < (self._place - 1) * _TICK:
            self._place = self._wheel.put(self, deadline)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _apply_pause(self) -> cython.bint:
        wanted: cython.bint = (
            self._held
            or self._due
            or (
                len(self._ahead) > _MAX_AHEAD
                and (self._full or (self._answer != _A_IDLE and self._request != _R_BODY))
            )
        )
        if wanted == self._paused or self.closed:
            return True
        self._paused = wanted
        if wanted:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _request_to(self, event: cython.int) -> cython.bint:
        table: bytes = _REQUEST_TABLE
        after: cython.int = table[self._request * 5 + event]
        if after == _ILLEGAL:
            raise IllegalTransition(f"request: state {self._request}, event {event}")
        self._request = after
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _answer_to(self, event: cython.int) -> cython.bint:
        table: bytes = _ANSWER_TABLE
        after: cython.int = table[self._answer * 5 + event]
        if after == _ILLEGAL:
            raise IllegalTransition(f"answer: state {self._answer}, event {event}")
        self._answer = after
        return True


@cython.cfunc
def _status_line(head: Head) -> bytes:
    line: bytes = head.cut_line()
    # "HTTP/1.1 200 O" and CRLF is the shortest with a reason.
    if len(line) >= 16 and line[7] == 49:
        return line
    # The blank before an empty reason must not be missing (RFC 9112 section 4).
    return b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)


def _bad_request(error: WireError) -> Failure:
    if error.status == 431:
        return Failure("head-too-large", str(error), cause=error)
    return Failure("bad-request", str(error), status=error.status, cause=error)
