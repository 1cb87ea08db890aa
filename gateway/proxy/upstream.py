"""A connection to a backend: HTTP/1.1's client side as an asyncio protocol.

It writes what an attempt gives it, reads answers strictly, and tells the attempt: ``on_inform``
(1xx), ``on_head``, ``on_data``, ``on_switch`` (101), ``on_fail``. A backend's broken framing is a
``Failure`` and the end of the connection. It decides nothing about the request.

Compiled where a compiler is there: no ``async def`` here; dialling stands in ``dial``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.proxy.errors import Failure
from gateway.proxy.wheel import NEVER, NOWHERE, TICK
from gateway.wire.body import ChunkedDecoder
from gateway.wire.errors import WireError
from gateway.wire.fields import UPGRADE
from gateway.wire.head import BODY_CHUNKED, BODY_LENGTH, BODY_NONE, Head

if TYPE_CHECKING:
    import asyncio

    from gateway.proxy.endpoint import Endpoint
    from gateway.proxy.links import Answered, Clocked
    from gateway.proxy.tunnel import Tunnel
    from gateway.proxy.wheel import Wheel

#: An answer's head may be this large: twice what a client may send.
MAX_HEAD = 64 * 1024
#: 1xx answers before the final one: more are an attack on whoever has to pass them on.
MAX_INFORMS = 16

_MAX_INFORMS = cython.declare(cython.int, MAX_INFORMS)
_BODY_NONE = cython.declare(cython.int, BODY_NONE)
_BODY_LENGTH = cython.declare(cython.int, BODY_LENGTH)
_BODY_CHUNKED = cython.declare(cython.int, BODY_CHUNKED)
_TICK = cython.declare(cython.double, TICK)
_NEVER = cython.declare(cython.double, NEVER)
_NOWHERE = cython.declare(cython.longlong, NOWHERE)


@cython.final
@cython.cclass
class UpstreamConnection:
    """One connection to one endpoint, carrying one attempt at a time.

    ``served`` counts the answers it has finished: 0 means fresh, so a reset cannot be the backend's
    idle timeout.
    """

    endpoint: Endpoint = cython.declare(object, visibility="readonly")
    served: cython.int = cython.declare(cython.int, visibility="readonly")
    closed: cython.bint = cython.declare(cython.bint, visibility="readonly")
    received: cython.bint = cython.declare(cython.bint, visibility="readonly")
    tunnel: Tunnel | None = cython.declare(object, visibility="public")
    _wheel: Wheel
    _transport: asyncio.Transport
    _attempt: Answered | None
    _partial: bytes
    _body: cython.int
    _in_body: cython.bint
    _left: cython.longlong
    _decoder: ChunkedDecoder | None
    _head: Head | None
    _to_head: cython.bint
    _informs: cython.int
    _paused: cython.bint
    _full: cython.bint
    _deadline: cython.double
    _place: cython.longlong
    _timeout_kind: str
    _between: cython.double

    def __init__(self, core: Clocked, endpoint: Endpoint) -> None:
        self._wheel = core.wheel
        self.endpoint = endpoint
        self.served = 0
        self.closed = False
        self.received = False
        self.tunnel = None
        self._transport = None  # type: ignore[assignment]  # set by connection_made, before use
        self._attempt = None
        self._partial = b""
        self._body = 0
        self._in_body = False
        self._left = 0
        self._decoder = None
        self._head = None
        self._to_head = False
        self._informs = 0
        self._paused = False
        self._full = False
        self._deadline = _NEVER
        self._place = _NOWHERE
        self._timeout_kind = "first-byte-timeout"
        self._between = 0.0

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self._attempt is not None else "idle"
        return f"<UpstreamConnection to {self.endpoint.id} {state} served={self.served}>"

    # --- what an attempt asks -------------------------------------------------------------------

    @cython.ccall
    def start(
        self, attempt: Answered, data: bytes, to_head: cython.bint, deadline: cython.double
    ) -> None:
        """Send a request's head (and what there is of its body); wait for its first byte."""
        self._attempt = attempt
        self._to_head = to_head
        self._in_body = False
        self._informs = 0
        self.received = False
        self._timeout_kind = "first-byte-timeout"
        self._between = 0.0
        self._arm(deadline)
        self._transport.write(data)

    @cython.ccall
    def write(self, data: bytes) -> None:
        """Send more of the request's body, framed already."""
        if not self.closed:
            self._transport.write(data)

    @cython.ccall
    def expect_within(self, kind: str, deadline: cython.double, between: cython.double) -> None:
        """Have the attempt fail with ``kind`` when nothing comes by ``deadline``.

        Where ``between`` is not 0, each octet that comes moves the deadline to so many seconds on.
        """
        self._timeout_kind = kind
        self._between = between
        self._arm(deadline)

    @cython.ccall
    def pause(self) -> None:
        """Stop reading: the client is slower than the backend."""
        if not self._paused and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    @cython.ccall
    def resume(self) -> None:
        """Read on. The backend could not be heard meanwhile: it has its time again."""
        if self._paused and not self.closed:
            self._paused = False
            if self._between > 0.0:
                self._arm(self._wheel.now + self._between)
            self._transport.resume_reading()

    @cython.ccall
    def rest(self) -> None:
        """Wait for a request, for as long as an idle connection is kept."""
        if self.closed:
            self.endpoint.forget(self)
            return
        self._arm(self._wheel.now + self.endpoint.idle_timeout)
        self.endpoint.give_back(self)

    @cython.ccall
    def abort(self) -> None:
        """Close at once; the attempt hears nothing more."""
        self._attempt = None
        self.closed = True
        self._place = _NOWHERE
        self._transport.abort()

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what the backend sent."""
        attempt = self._attempt
        if self.tunnel is not None:
            self.tunnel.from_backend(data)
            return
        if attempt is None:
            # An answer that nobody asked for: whoever came next would be given it.
            self.abort()
            self.endpoint.forget(self)
            return
        self.received = True
        try:
            if self._in_body:
                self._take_body(data, 0, attempt)
            else:
                self._take_head(data, attempt)
        except WireError as error:
            self._fail(Failure("bad-answer", str(error), cause=error))

    def eof_received(self) -> bool:
        """Take the backend's end of sending: the end of a body until close, else a failure."""
        if self.tunnel is not None:
            return bool(self.tunnel.backend_ended())
        if self._attempt is None:
            # At once: nothing may be sent over it between now and ``connection_lost``.
            self.closed = True
            self.endpoint.forget(self)
        elif self._in_body and self._body == 3:
            self._end(self._attempt, b"", None)
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the attempt, if one is under way."""
        self.closed = True
        self._place = _NOWHERE
        if self.tunnel is not None:
            self.tunnel.backend_lost()
            return
        if self._attempt is None:
            self.endpoint.forget(self)
            return
        if self._in_body:
            self._fail(Failure("truncated", "the connection ended within the body", cause=exc))
        else:
            self._fail(Failure("reset", str(exc) if exc else "closed before an answer", cause=exc))

    def pause_writing(self) -> None:
        """The backend reads slowly: have the client pause."""
        self._full = True
        if self.tunnel is not None:
            self.tunnel.backend_full()
        elif self._attempt is not None:
            self._attempt.on_full()

    def resume_writing(self) -> None:
        """The backend has read on."""
        self._full = False
        if self.tunnel is not None:
            self.tunnel.backend_ready()
        elif self._attempt is not None:
            self._attempt.on_ready()

    def on_wheel(self, place: int, now: float) -> None:
        """Be visited by the timer wheel."""
        if place != self._place:
            return
        self._place = _NOWHERE
        if self.closed or self._deadline == _NEVER:
            return
        if now < self._deadline:
            self._place = self._wheel.put(self, self._deadline)
        elif self._paused and self._attempt is not None:
            # It is the client who is slow here; its own side has a bound for that.
            self._arm(now + 1.0)
        elif self._attempt is None:
            self.abort()
            self.endpoint.forget(self)
        else:
            self._fail(Failure(self._timeout_kind))

    # --- inside ---------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _arm(self, deadline: cython.double) -> cython.bint:
        self._deadline = deadline
        if deadline < (self._place - 1) * _TICK:
            self._place = self._wheel.put(self, deadline)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _fail(self, failure: Failure) -> cython.bint:
        attempt = self._attempt
        self.abort()
        self.endpoint.forget(self)
        if attempt is not None:
            attempt.on_fail(failure)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _take_head(self, data: bytes, attempt: object) -> cython.bint:
        """Parse heads until the final one is there; hand it on with what follows it."""
        head: Head
        if self._partial:
            joined: bytes = self._partial + data
            if b"\n" not in data and len(joined) <= MAX_HEAD:
                self._partial = joined
                return True
            data = joined
            self._partial = b""
        while True:
            head = Head(data, 0)
            if not head.read_response(self._to_head):
                if len(data) > MAX_HEAD:
                    raise WireError("head-too-large", f"more than {MAX_HEAD} octets")
                self._partial = data
                return True
            if head.end > MAX_HEAD:
                raise WireError("head-too-large", f"more than {MAX_HEAD} octets")
            if head.status >= 200:
                break
            data = data[head.end :]
            if head.status == 101:
                self._switch(head, data, attempt)
                return True
            self._informs += 1
            if self._informs > _MAX_INFORMS:
                raise WireError("too-many-informs", f"more than {MAX_INFORMS} answers of 1xx")
            attempt.on_inform(head)  # type: ignore[attr-defined]
            if self._attempt is not attempt or not data:
                return True
        self._begin_body(head, data, attempt)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _begin_body(self, head: Head, data: bytes, attempt: object) -> cython.bint:
        """Hand on the final head, with the body where all of it is here already."""
        at: cython.Py_ssize_t = head.end
        here: cython.Py_ssize_t = len(data) - at
        self._body = head.body
        self._head = head
        if self._body == _BODY_NONE:
            if here:
                # The answer is whole without them. It is the client who asked for HEAD, or with a
                # condition: where a backend answers that with content, whoever asks so again and
                # again must not open its breaker. The next answer never begins with them.
                self._transport.abort()
            self._complete(head)
            attempt.on_head(head, b"", True)  # type: ignore[attr-defined]
            return True
        if self._body == _BODY_LENGTH:
            self._left = head.length
            if here > self._left:
                raise WireError("bad-answer", "more octets than Content-Length says")
            if here == self._left:
                self._complete(head)
                attempt.on_head(head, data[at:], True)  # type: ignore[attr-defined]
                return True
            self._left -= here
            self._in_body = True
            attempt.on_head(head, data[at:], False)  # type: ignore[attr-defined]
            return True
        self._in_body = True
        self._decoder = ChunkedDecoder() if self._body == _BODY_CHUNKED else None
        attempt.on_head(head, b"", False)  # type: ignore[attr-defined]
        if here and self._attempt is attempt:
            self._take_body(data, at, attempt)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _take_body(self, data: bytes, at: cython.Py_ssize_t, attempt: object) -> cython.bint:
        here: cython.Py_ssize_t = len(data) - at
        if self._between > 0.0:
            self._deadline = self._wheel.now + self._between
        if self._body == _BODY_LENGTH:
            if here > self._left:
                raise WireError("bad-answer", "more octets than Content-Length says")
            self._left -= here
            if self._left == 0:
                self._end(attempt, data if at == 0 else data[at:], None)
            else:
                attempt.on_data(data if at == 0 else data[at:], False, None)  # type: ignore[attr-defined]
        elif self._body == _BODY_CHUNKED:
            decoder = self._decoder
            assert decoder is not None
            payload = decoder.feed(data, at)
            if decoder.done:
                if decoder.used < len(data):
                    raise WireError("bad-answer", "octets behind the last chunk")
                self._end(attempt, payload, decoder.trailers)
            elif payload:
                attempt.on_data(payload, False, None)  # type: ignore[attr-defined]
        else:
            attempt.on_data(data if at == 0 else data[at:], False, None)  # type: ignore[attr-defined]
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _end(self, attempt: object, payload: bytes, trailers: object) -> cython.bint:
        head = self._head
        if head is not None:
            self._complete(head)
        attempt.on_data(payload, True, trailers)  # type: ignore[attr-defined]
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _complete(self, head: Head) -> cython.bint:
        """The answer is whole: give the connection back, or close it, before anybody is told."""
        attempt = self._attempt
        # One that has not been read to the end would have the next request wait behind this one.
        reusable = (
            head.persistent
            and attempt is not None
            and attempt.request_sent
            and not self._full
            and not self._transport.is_closing()
        )
        self._attempt = None
        self._in_body = False
        self._decoder = None
        self._head = None
        self.served += 1
        if reusable and not self.closed:
            self.resume()
            self.rest()
        else:
            self.endpoint.forget(self)
            if not self.closed:
                self.closed = True
                self._place = _NOWHERE
                self._transport.close()
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _switch(self, head: Head, rest: bytes, attempt: object) -> cython.bint:
        """101: this connection is a tunnel from now on, if it was asked to become one."""
        if not head.upgrade or not attempt.asked_for(head.get(UPGRADE)):  # type: ignore[attr-defined]
            raise WireError("bad-answer", "an answer of 101 that was not asked for")
        self._attempt = None
        self._deadline = _NEVER
        attempt.on_switch(head, rest)  # type: ignore[attr-defined]
        return True

    def transport(self) -> asyncio.Transport:
        """The transport, for the tunnel that takes the connection over."""
        return self._transport
