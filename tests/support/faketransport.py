"""A transport in memory that behaves as uvloop's does, without a loop.

What a loop would do later stands in ``Soon`` until it is run: ``connection_lost`` after a close or
an abort, octets that had to wait for ``resume_reading``. The peer's side of it is ``feed``,
``feed_eof``, ``reset`` and ``drain``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

#: asyncio's own bounds on a transport's write buffer.
HIGH_WATER = 64 * 1024
LOW_WATER = HIGH_WATER // 4


class Proto(Protocol):
    """A protocol's methods; a compiled class cannot inherit from asyncio.Protocol."""

    def connection_made(self, transport: Any) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Soon:
    """What a loop would call in its next turns."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._turning = False
        #: Writes so far, over all transports.
        self.writes = 0

    def call(self, work: Callable[[], None]) -> None:
        """Have ``work`` done later."""
        self._calls.append(work)

    def turn(self) -> None:
        """Do what stands there by now, and not what comes of it: one turn of the loop."""
        self._turning = True
        try:
            for _ in range(len(self._calls)):
                self._calls.popleft()()
        finally:
            self._turning = False

    def run(self) -> None:
        """Do all of it, and what comes of it."""
        while self._calls and not self._turning:
            self._calls.popleft()()


class FakeTransport(asyncio.Transport):
    """One connection's end. ``sent`` is what has reached the peer, ``buffered`` what has not.

    ``stuck`` makes the peer read nothing until ``drain``. ``octets`` delivers one at a time.
    """

    def __init__(self, soon: Soon, *, peer: object = None, octets: bool = False) -> None:
        super().__init__({"peername": peer})
        self._soon = soon
        self._protocol: Proto | None = None
        self._octets = octets
        self._waiting: deque[bytes | None] = deque()
        self._full = False
        self._delivering = False
        self.sent = bytearray()
        self.buffered = bytearray()
        self.stuck = False
        self.reading = True
        self.closing = False
        self.aborted = False
        self.lost = False
        self.eof_sent = False
        self.eof_fed = False
        #: The largest buffer seen: what bounds are asserted on.
        self.most_buffered = 0
        #: The number of its last write among all.
        self.written_at = 0

    def attach(self, protocol: Proto) -> None:
        """Join it to its protocol."""
        self._protocol = protocol
        protocol.connection_made(self)

    # --- what the protocol calls ----------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.eof_sent, "written after write_eof"
        assert isinstance(data, bytes)
        assert data, "an empty write"
        if self.closing:
            return
        self._soon.writes += 1
        self.written_at = self._soon.writes
        if self.stuck or self.buffered:
            self.buffered += data
            self.most_buffered = max(self.most_buffered, len(self.buffered))
            if len(self.buffered) > HIGH_WATER and not self._full:
                self._full = True
                assert self._protocol is not None
                self._protocol.pause_writing()
        else:
            self.sent += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        assert not self.closing
        self.eof_sent = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        assert not self.lost, "pause_reading on a lost connection"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.lost, "resume_reading on a lost connection"
        if not self.reading:
            self.reading = True
            self._soon.call(self._deliver)

    def is_reading(self) -> bool:
        return self.reading and not self.closing

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return len(self.buffered)

    def close(self) -> None:
        if self.closing:
            return
        self.closing = True
        self._waiting.clear()
        if not self.buffered:
            self._soon.call(lambda: self._lose(None))

    def abort(self) -> None:
        if self.lost or self.aborted:
            return
        self.closing = True
        self.aborted = True
        self.buffered.clear()
        self._waiting.clear()
        self._soon.call(lambda: self._lose(None))

    # --- what the peer does ---------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """The peer sends octets."""
        assert not self.eof_fed, "octets behind the end of sending"
        if self._octets:
            self._waiting.extend(data[i : i + 1] for i in range(len(data)))
        elif data:
            self._waiting.append(data)
        self._deliver()

    def feed_eof(self) -> None:
        """The peer ends its sending."""
        assert not self.eof_fed
        self.eof_fed = True
        self._waiting.append(None)
        self._deliver()

    def reset(self, error: BaseException | None = None) -> None:
        """The peer is gone, whatever it may have sent."""
        if self.lost:
            return
        self.closing = True
        self._waiting.clear()
        self.buffered.clear()
        self._lose(error or ConnectionResetError(104, "Connection reset by peer"))
        self._soon.run()

    def drain(self, count: int | None = None) -> bytes:
        """The peer reads ``count`` octets of what is buffered; all where None."""
        taken = bytes(self.buffered[:count])
        del self.buffered[: len(taken)]
        self.sent += taken
        if self._full and len(self.buffered) <= LOW_WATER and self._protocol is not None:
            self._full = False
            self._protocol.resume_writing()
        if self.closing and not self.buffered:
            self._lose(None)
        self._soon.run()
        return taken

    # --- inside ---------------------------------------------------------------------------------

    def _deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting and self.reading and not self.closing:
                data = self._waiting.popleft()
                assert self._protocol is not None
                if data is None:
                    if not self._protocol.eof_received():
                        self.close()
                else:
                    self._protocol.data_received(data)
                if not self._octets:
                    self._soon.run()
        finally:
            self._delivering = False
        self._soon.run()

    def _lose(self, error: BaseException | None) -> None:
        if self.lost:
            return
        self.lost = True
        protocol, self._protocol = self._protocol, None
        assert protocol is not None
        protocol.connection_lost(error)
