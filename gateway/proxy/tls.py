"""A client's connection over TLS: between the socket's transport and a ``DownstreamConnection``.

It is a protocol to the loop and a transport to the connection above it. That one exists, and is
counted, from the accept on: a client that never finishes its handshake stands under the same
bounds as any other, and under ``header_timeout``.

Sealed octets go into OpenSSL through one memory BIO and come out of it through another. A BIO keeps
the room that it once needed for as long as the connection is there, so no more than a record is put
into one at a time. That a record is whole is seen in its header: OpenSSL is asked when there is an
answer, for it has only an exception to say that something is missing.

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

    class Engine(Protocol):
        """What opens and seals: an ``ssl.SSLObject``, or what is within it."""

        def read(self, size: int, /) -> bytes:
            """Open what is in the BIO, at most ``size`` octets of it."""

        def write(self, data: bytes | memoryview, /) -> int:
            """Seal; return how much of it."""


#: A record holds no more (RFC 8446 section 5.1).
_RECORD = cython.declare(cython.Py_ssize_t, 16 * 1024)
_HEADER = cython.declare(cython.Py_ssize_t, 5)
#: With its header and what TLS 1.2 may add (RFC 5246 section 6.2.3); what says that it is larger is
#: none, and OpenSSL will say so.
_LARGEST = cython.declare(cython.Py_ssize_t, 5 + 16 * 1024 + 2048)
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

#: Called as they are, with nothing looked up by name for each string of octets.
_put: Any = cython.declare(object, ssl.MemoryBIO.write)
_take: Any = cython.declare(object, ssl.MemoryBIO.read)

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
    _handshake: ssl.SSLObject | None
    _tls: Engine | None
    _state: cython.int
    _sealed: bytes
    _held: cython.bint
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
        self._handshake = None
        self._tls = None
        self._state = _NEW
        self._sealed = b""
        self._held = False
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
            if self._sealed:
                data = self._sealed + data
                self._sealed = b""
            self._open(data)
        elif self._state == _SHAKING:
            self._shake(data)
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
                self._open_on()
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
        self._handshake = None
        self._tls = None
        self._sealed = b""
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
            if len(data) <= _RECORD and self._tls is not None:
                self._tls.write(data)
                self._flush()
            else:
                self._seal([data])
        elif self._state == _PLAIN:
            self._transport.write(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Seal several parts and send them at once."""
        if self._state == _OPEN:
            self._seal(parts)
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
        if self._state == _OPEN and (self._ended or self._sealed):
            self._core.loop.call_soon(self.read_on)

    def read_on(self) -> None:
        """Deliver what had come while reading was paused."""
        if self._state == _OPEN and not self._held:
            self._open_on()
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
            self._handshake = self._contexts.context.wrap_bio(
                self._incoming, self._outgoing, server_side=True
            )
            self._state = _SHAKING
            self._shake(data)
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
    def _shake(self, data: bytes) -> cython.bint:
        """Go on with the handshake; what comes behind it is the first request's."""
        at: cython.Py_ssize_t = 0
        here: cython.Py_ssize_t = len(data)
        while at < here and self._state == _SHAKING:
            _put(self._incoming, data if here <= _LARGEST else data[at : at + _LARGEST])
            at += _LARGEST
            self._shake_on()
        if self._state == _OPEN and (at < here or self._incoming.pending > 0):
            self._open(_take(self._incoming) + data[at:])
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _shake_on(self) -> cython.bint:
        tls = self._handshake
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
        self._handshake = None
        # Each method of an SSLObject calls one of the same name of the object in it: a Python frame
        # for nothing, twice a request.
        self._tls = getattr(tls, "_sslobj", tls)
        self._deadline = _NEVER
        self._count(layout.S_TLS_RESUMED if tls.session_reused else layout.S_TLS_FULL)
        self._older = tls.version() != "TLSv1.3"
        if self._older:
            self._flush()  # TLS 1.3 is done without us: its tickets go out with the first answer
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _count(self, word: cython.int) -> cython.bint:
        self._core.count(word)
        return True

    # --- octets ---------------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=True)
    def _open_on(self) -> cython.bint:
        data: bytes = self._sealed
        self._sealed = b""
        self._open(data)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _open(self, data: bytes) -> cython.bint:
        """Open the whole records in ``data`` and hand up what was in them; keep what is left."""
        at: cython.Py_ssize_t = 0
        end: cython.Py_ssize_t
        here: cython.Py_ssize_t = len(data)
        plain: bytes
        while here - at >= _HEADER and self._state == _OPEN and not self._held:
            end = at + _HEADER + data[at + 3] * 256 + data[at + 4]
            if end > here:
                if end - at <= _LARGEST:
                    break
                end = here
            plain = self._unseal(data if end - at == here else data[at:end])
            at = end
            if plain and self._above is not None:
                self._above.data_received(plain)
        if at < here and self._state == _OPEN:
            self._sealed = data[at:]
        return True

    @cython.cfunc
    def _unseal(self, record: bytes) -> bytes:
        """Open one record; return nothing where there is nothing in it for those above."""
        tls = self._tls
        if tls is None:
            return b""
        try:
            _put(self._incoming, record)
            plain: bytes = tls.read(len(record))  # it holds less than that
        except ssl.SSLWantReadError:
            # What TLS itself has to say (an answer to a key update) goes out with the next answer.
            # A client that has it say much before one, or that asks for a renegotiation (all that
            # TLS 1.2 has an answer to), gets no more: what it does not read would be ours to keep.
            if self._outgoing.pending > (0 if self._older else _SAID):
                self._flush()
                self.abort()
            return b""
        except ssl.SSLZeroReturnError:
            plain = b""
        except ssl.SSLError:
            self._flush()
            self.abort()
            return b""
        if not plain:
            self._tell_end()
        return plain

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
    def _seal(self, parts: Iterable[bytes]) -> cython.bint:
        """Seal, a record at a time, and send them all at once."""
        sealed = []
        tls = self._tls
        if tls is None:
            return True
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[tls.write(view[:_RECORD]) :]
                sealed.append(_take(self._outgoing))
        if sealed:
            self._transport.writelines(sealed)
        return True

    @cython.cfunc
    @cython.exceptval(check=True)
    def _flush(self) -> cython.bint:
        sealed: bytes = _take(self._outgoing)
        if sealed:  # a transport that is closing takes it and does nothing
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
                (getattr(tls, "shutdown", None) or tls.unwrap)()  # type: ignore[attr-defined]
            self._flush()
        return True
