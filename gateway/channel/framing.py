"""Messages between control and workers as bytes: four octets of length (big-endian), msgpack.

Pure: bytes in, messages out. Whatever the bytes, a decoder gives messages or ``ChannelError``,
never anything else; after an error it stays broken, since nobody knows where the next frame is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from gateway.channel.messages import FromControl, FromWorker

if TYPE_CHECKING:
    from collections.abc import Callable

#: Octets of one message at most: ten thousand routes are about a megabyte.
MAX_MESSAGE: Final = 64 * 1024 * 1024

_LENGTH_OCTETS: Final = 4

#: The messages that one side sends.
M = TypeVar("M")


class ChannelError(Exception):
    """The bytes are not messages of this channel; the connection is of no further use."""


_encoder = msgspec.msgpack.Encoder()
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_from_control: msgspec.msgpack.Decoder[FromControl] = msgspec.msgpack.Decoder(FromControl)


def encode(message: FromWorker | FromControl) -> bytes:
    """Return one frame. Raises ChannelError where the message is longer than ``MAX_MESSAGE``."""
    body = _encoder.encode(message)
    if len(body) > MAX_MESSAGE:
        raise ChannelError(f"a message has at most {MAX_MESSAGE} octets, this one {len(body)}")
    return len(body).to_bytes(_LENGTH_OCTETS, "big") + body


class Decoder(Generic[M]):
    """Takes bytes as they come and gives the whole messages among them.

    Make one with ``Decoder.from_worker()`` (control's side) or ``Decoder.from_control()`` (a
    worker's): a message of the other direction is an error.
    """

    __slots__ = ("_broken", "_buffer", "_decode", "_limit")

    def __init__(self, decode: Callable[[bytes], M], limit: int = MAX_MESSAGE) -> None:
        self._decode = decode
        self._limit = limit
        self._buffer = bytearray()
        self._broken: ChannelError | None = None

    @staticmethod
    def from_worker(limit: int = MAX_MESSAGE) -> Decoder[FromWorker]:
        """Return a decoder of what workers send."""
        return Decoder(_from_worker.decode, limit)

    @staticmethod
    def from_control(limit: int = MAX_MESSAGE) -> Decoder[FromControl]:
        """Return a decoder of what control sends."""
        return Decoder(_from_control.decode, limit)

    @property
    def pending(self) -> int:
        """Octets held of a message that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[M]:
        """Return the messages that ``data`` completes, in order.

        Raises ChannelError at the first frame that is malformed; messages before it in the same
        ``data`` are lost with it, as is the connection.
        """
        if self._broken is not None:
            raise self._broken
        self._buffer += data
        messages: list[M] = []
        at = 0
        try:
            while (end := self._frame_end(at)) is not None:
                messages.append(self._message(bytes(self._buffer[at + _LENGTH_OCTETS : end])))
                at = end
        except ChannelError as error:
            self._broken = error
            self._buffer.clear()
            raise
        del self._buffer[:at]
        return messages

    def _frame_end(self, at: int) -> int | None:
        """Return where the frame at ``at`` ends, None while it is not whole."""
        have = len(self._buffer) - at
        if have < _LENGTH_OCTETS:
            return None
        length = int.from_bytes(self._buffer[at : at + _LENGTH_OCTETS], "big")
        if not 0 < length <= self._limit:
            raise ChannelError(f"a message of {length} octets; expected 1 to {self._limit}")
        return at + _LENGTH_OCTETS + length if have >= _LENGTH_OCTETS + length else None

    def _message(self, body: bytes) -> M:
        try:
            return self._decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            raise ChannelError(f"not a message of this channel: {error}") from error
