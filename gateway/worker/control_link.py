"""A worker's end of the channel: it connects, says hello, serves what it is told, acknowledges.

When control goes away the worker serves on and tries again every quarter of a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from gateway.channel.framing import ChannelError, Decoder, encode
from gateway.channel.messages import PROTOCOL, Ack, Addresses, Apply, Hello, KeySets
from gateway.channel.unix import short_address
from gateway.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.channel.childspec import ChildSpec
    from gateway.channel.messages import Drain, FromControl, FromWorker
    from gateway.proxy.core import Core

logger = logging.getLogger(__name__)

#: Seconds between two tries to reach control.
RETRY = 0.25
#: Octets that control has not read yet: with more than that it is told nothing new.
MAX_UNREAD = 1024 * 1024
_READ = 256 * 1024


class ControlLink:
    """Follows control for as long as the worker lives."""

    def __init__(
        self,
        spec: ChildSpec,
        core: Core,
        apply: Callable[[Apply], Awaitable[None]],
        tell: Callable[[Addresses | KeySets], None],
        drain: Callable[[Drain], None],
    ) -> None:
        self._spec = spec
        self._core = core
        self._apply = apply
        self._tell = tell
        self._drain = drain
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._task = self._core.spawn("control link", self._run())

    def stop(self) -> None:
        """Follow no longer."""
        if self._task is not None:
            self._task.cancel()

    def tell(self, message: FromWorker) -> bool:
        """Tell control of what has happened; False, and nobody is told, while it is away.

        One that has stopped reading is away, too.
        """
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() > MAX_UNREAD:
            return False
        writer.write(encode(message))
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except (OSError, ChannelError, asyncio.IncompleteReadError) as error:
                logger.debug("control is away: %s", error)
            except Exception:  # whatever it is: a worker that no longer follows is out of reach
                logger.exception("what control said could not be taken, asking it again")
            await asyncio.sleep(RETRY)

    async def _follow(self) -> None:
        with short_address(self._spec.control_socket) as path:
            reader, writer = await asyncio.open_unix_connection(path)
        try:
            serving = self._core.serving
            writer.write(
                encode(
                    Hello(
                        protocol=PROTOCOL,
                        version=VERSION,
                        slot=self._spec.slot,
                        slab=self._spec.slab,
                        pid=os.getpid(),
                        topology=serving.topology,
                        traffic=serving.traffic,
                    )
                )
            )
            self._writer = writer
            decoder = Decoder.from_control()
            while data := await reader.read(_READ):
                for message in decoder.feed(data):
                    await self._take(message, writer)
        finally:
            self._writer = None
            writer.close()

    async def _take(self, message: FromControl, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, Apply):
            error = ""
            try:
                await self._apply(message)
            except ValueError as problem:
                error = str(problem)
                logger.warning("snapshot %d cannot be served: %s", message.number, error)
            except Exception as problem:  # control must hear of it, whatever it is
                error = f"{type(problem).__name__}: {problem}"
                logger.exception("snapshot %d cannot be served", message.number)
            writer.write(encode(Ack(number=message.number, error=error)))
        elif isinstance(message, Addresses | KeySets):
            self._tell(message)
        else:
            self._drain(message)
