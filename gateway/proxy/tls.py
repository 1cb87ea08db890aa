"""A client's connection over TLS: between the socket's transport and a ``DownstreamConnection``.

It is a protocol to the loop and a transport to the connection above it. That one exists, and is
counted, from the accept on: a client that never finishes its handshake stands under the same
bounds as any other, and under ``header_timeout``.

Plain octets come in through one memory BIO, sealed ones go out through another, with one read and
one write for what the loop delivers at once.

Compiled where a compiler is there: no ``async def`` here.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

import cython
from gateway.board import layout
from gateway.proxy.downstream import DownstreamConnection
from gateway.proxy.errors import Failure
from gateway.proxy.wheel import NEVER, NOWHERE
from gateway.wire.hello import FAILURE, MORE, REFUSED, judge

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable
    from typing import Any, Protocol

    from gateway.proxy.core import Core
    from gateway.proxy.wheel import Wheel

    class Contexts(Protocol):
        """Where a connection's context comes from (``gateway.tls.Front``)."""

        context: ssl.SSLContext


#: A record holds no more (RFC 8446 section 5.1).
_RECORD = cython.declare(cython.Py_ssize_t, 16 * 1024)
#: Octets of TLS's own that wait for the next answer to go out with.
_SAID = cython.declare(cython.Py_ssize_t, 2048)
#: The first octet of a TLS connection: a handshake record (RFC 8446 section 5.1).
_HANDSHAKE_RECORD = cython.declare(cython.int, 22)

#: Nothing has come; a handshake is under way; octets pass; our end is said and theirs is read away;
#: the same without TLS; nothing passes any more.
NEW, SHAKING, OPEN, LINGERING, PLAIN, CLOSED = range(6)
_NEW = cython.declare(cython.int, NEW)
_SHAKING = cython.declare(cython.int, SHAKING)
_OPEN = cython.declare(cython.int, OPEN)
_LINGERING = cython.declare(cython.int, LINGERING)
_PLAIN = cython.declare(cython.int, PLAIN)
_CLOSED = cython.declare(cython.int, CLOSED)

_MORE = cython.declare(cython.int, MORE)
_REFUSED = cython.declare(cython.int, REFUSED)
_NEVER = cython.declare(cython.double, NEVER)
_NOWHERE = cython.declare(cython.longlong, NOWHERE)

_STATES = ("new", "shaking", "open", "lingering", "plain", "closed")


@cython.final
@cython.cclass
class TlsConnection:
    """One client's connection; ``contexts`` is its listener's."""

    _core: Core
    _wheel: Wheel
    _contexts: Contexts
    _above: DownstreamConnection | None
    _transport: asyncio.Transport
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _tls: ssl.SSLObject | None
    _state: cython.int
    _held: cython.bint
    _reading: cython.bint
    _ended: cython.bint
    _told_end: cython.bint
    _older: cython.bint
    _hello: bytes
    _stays: cython.bint
    _deadline: cython.double
    _place: cython.longlong

    def __init__(self, core: Core, listener: int, contexts: Contexts) -> None:
        self._core = core
        self._wheel = core.wheel
        self._contexts = contexts
        self._above = DownstreamConnection(core, listener, True)
        self._transport = None  # type: ignore[assignment]  # set by connection_made, before use
        self._incoming = None  # type: ignore[assignment]  # made with _tls
        self._outgoing = None  # type: ignore[assignment]  # made with _tls
        self._tls = None
        self._state = _NEW
        self._held = False
        self._reading = False
        self._ended = False
        self._told_end = False
        self._older = False
        self._hello = b""
        self._stays = False
        self._deadline = _NEVER
        self._place = _NOWHERE

    def __repr__(self) -> str:
        return f"<TlsConnection {_STATES[self._state]}>"

    # --- the loop's protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin; the connection above may refuse it at once."""
        self._transport = transport
        assert self._above is not None
        self._above.connection_made(self)  # type: ignore[arg-type]  # as much of one as it needs
        if self._state != _CLOSED:
            self._deadline = self._wheel.now + self._core.serving.limits.header_timeout
            self._place = self._wheel.put(self, self._deadline)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._state == _OPEN:
            self._incoming.write(data)
            self._read()
        elif self._state == _SHAKING:
            self._incoming.write(data)
            self._shake()
        elif self._state == _NEW:
            self._first(data)
        elif self._state != _CLOSED and self._above is not None:
            # Refused already: above it is counted and thrown away.
            self._above.data_received(data)

    def eof_received(self) -> bool:
        """Take the end of the client's sending, said in TLS (close_notify) or not.

        What was not said may be an attacker's: HTTP's own framing tells whether something is
        missing (RFC 9112 section 9.8).
        """
        if self._state in (_NEW, _SHAKING):
            self.abort()
            return False
        self._ended = True
        if self._state == _OPEN:
            if not self._held:
                self._read()
                self._tell_end()
                return bool(self._stays)
            return True  # told once what came before it has been read
        if self._above is not None:
            return bool(self._above.eof_received())
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the connection above; let go of everything."""
        above = self._above
        self._state = _CLOSED
        self._above = None
        self._tls = None
        self._deadline = _NEVER
        self._place = _NOWHERE
        if above is not None:
            above.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slowly."""
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """The client has read on."""
        if self._above is not None:
            self._above.resume_writing()

    def on_wheel(self, place: int, now: float) -> None:
        """Be visited by the timer wheel: a handshake that takes too long is cut."""
        if place != self._place:
            return
        self._place = _NOWHERE
        if self._deadline == _NEVER:
            return
        if now < self._deadline:
            self._place = self._wheel.put(self, self._deadline)
            return
        self._count(layout.S_TLS_FAILED)
        self.abort()

    # --- the transport of the connection above --------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the socket's transport knows."""
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes) -> None:
        """Seal and send."""
        if self._state == _OPEN:
            self._seal(data)
            self._flush()
        elif self._state == _PLAIN:
            self._transport.write(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Seal several parts and send them at once."""
        if self._state == _OPEN:
            for part in parts:
                if part:
                    self._seal(part)
            self._flush()
        elif self._state == _PLAIN:
            self._transport.write(b"".join(parts))

    def can_write_eof(self) -> bool:
        """A tunnel's end cannot be told: most peers take close_notify for both directions' end."""
        return False

    def write_eof(self) -> None:
        """End our sending; what still comes is handed up as it is, to be thrown away."""
        if self._state == _OPEN:
            self._say_end()
        elif self._state != _PLAIN:
            return
        self._state = _LINGERING
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close once all is written."""
        if self._state == _CLOSED:
            return
        if self._state == _OPEN:
            self._say_end()
        self._state = _CLOSED
        self._deadline = _NEVER
        self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._state = _CLOSED
        self._deadline = _NEVER
        self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether it is closed or about to be."""
        return bool(self._state == _CLOSED or self._transport.is_closing())

    def pause_reading(self) -> None:
        """Deliver nothing more; what has come stays sealed."""
        self._held = True
        if self._state != _CLOSED:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Deliver on, from the next turn of the loop."""
        self._held = False
        if self._state == _CLOSED:
            return
        self._transport.resume_reading()
        if self._state == _OPEN and (self._ended or self._more()):
            self._core.loop.call_soon(self.read_on)

    def read_on(self) -> None:
        """Deliver what had come while reading was paused."""
        if self._state == _OPEN and not self._held:
            self._read()
            if self._ended:
                self._tell_end()
                if not self._stays:
                    self.close()

    def get_write_buffer_size(self) -> int:
        """Return the sealed octets that the client has not taken."""
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Bound them."""
        self._transport.set_write_buffer_limits(high, low)

    # --- the handshake --------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _first(self, data: bytes) -> cython.bint:
        """Look at what comes first: TLS, plain HTTP, or nothing that we could answer."""
        if self._hello:
            data = self._hello + data
        if data[0] == _HANDSHAKE_RECORD:
            verdict: cython.int = judge(data)
            if verdict == _MORE:
                self._hello = data
                return True
            self._hello = b""
            if verdict == _REFUSED:
                self._count(layout.S_TLS_FAILED)
                self._transport.write(FAILURE)
                self.close()
                return True
            self._incoming = ssl.MemoryBIO()
            self._outgoing = ssl.MemoryBIO()
            self._tls = self._contexts.context.wrap_bio(
                self._incoming, self._outgoing, server_side=True
            )
            self._state = _SHAKING
            self._incoming.write(data)
            self._shake()
            return True
        self._count(layout.S_TLS_FAILED)
        self._deadline = _NEVER
        if 65 <= data[0] <= 90 and self._above is not None:  # a method's letter
            self._state = _PLAIN
            self._above.reject(Failure("bad-request", "plain HTTP where https is spoken"))
        else:
            self.abort()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _shake(self) -> cython.bint:
        tls = self._tls
        assert tls is not None
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return True
        except (ssl.SSLError, ValueError):
            self._count(layout.S_TLS_FAILED)
            self._flush()  # the alert that says why
            self.close()
            return True
        self._state = _OPEN
        self._deadline = _NEVER
        self._count(layout.S_TLS_RESUMED if tls.session_reused else layout.S_TLS_FULL)
        self._older = tls.version() != "TLSv1.3"
        if self._older:
            self._flush()  # TLS 1.3 is done without us: its tickets go out with the first answer
        if self._more():
            self._read()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _count(self, word: cython.int) -> cython.bint:
        self._core.count(word)
        return True

    # --- octets ---------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _more(self) -> cython.bint:
        """Tell whether anything waits to be opened."""
        tls = self._tls
        return tls is not None and (self._incoming.pending > 0 or tls.pending() > 0)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _read(self) -> cython.bint:
        """Open what has come, a record at a time, and hand it up."""
        data: bytes
        if self._reading:
            return True  # the loop below goes on with it
        self._reading = True
        try:
            while self._state == _OPEN and not self._held and self._tls is not None:
                data = self._tls.read(_RECORD)
                if not data:
                    self._tell_end()
                    break
                if self._above is not None:
                    self._above.data_received(data)
                # No read just to hear that nothing is left: the exception would cost as much.
                if self._tls is None or (self._incoming.pending == 0 and self._tls.pending() == 0):
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._tell_end()
        except ssl.SSLError:
            self._flush()
            self.abort()
        finally:
            self._reading = False
        # What TLS itself has to say (an answer to a key update) goes out with the next answer. A
        # client that has it say much before one, or that asks for a renegotiation (all that TLS 1.2
        # has an answer to), gets no more: what it does not read would be ours to keep.
        if self._state == _OPEN and self._outgoing.pending > (0 if self._older else _SAID):
            self._flush()
            self.abort()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _tell_end(self) -> cython.bint:
        """Tell the connection above, once, that nothing more comes."""
        if self._told_end or self._above is None:
            return True
        self._told_end = True
        self._stays = self._above.eof_received()
        if not self._stays and self._state == _OPEN and not self._ended:
            self.close()
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _seal(self, data: bytes) -> cython.bint:
        tls = self._tls
        if tls is None:
            return True
        done: cython.Py_ssize_t = tls.write(data)
        if done < len(data):  # a record at a time
            view = memoryview(data)
            while done < len(data):
                done += tls.write(view[done:])
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _flush(self) -> cython.bint:
        sealed: bytes = self._outgoing.read()
        if sealed and not self._transport.is_closing():
            self._transport.write(sealed)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _say_end(self) -> cython.bint:
        """Send close_notify (RFC 8446 section 6.1); the client's own is not waited for."""
        tls = self._tls
        if tls is not None:
            # Theirs has not come yet, or something else has: all the same now.
            with contextlib.suppress(ssl.SSLError, ValueError):
                tls.unwrap()
            self._flush()
        return True
