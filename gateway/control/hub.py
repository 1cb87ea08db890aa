"""The hub: workers' connections, and the moment when all of them serve a snapshot.

A worker connects, says ``Hello`` and is sent what it lacks; it reconnects by itself when control
was away and serves on meanwhile. ``send`` sends a new snapshot to all, ``acknowledged`` returns
when each serves it. Numbers only grow, also across restarts of control.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from gateway.channel import snapshotfile
from gateway.channel.framing import ChannelError, Decoder, encode
from gateway.channel.messages import (
    PROTOCOL,
    Ack,
    Addresses,
    Apply,
    Asked,
    BreakerMoved,
    Hello,
    KeySets,
    UnknownKey,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from gateway.channel.messages import Failures, FromControl, FromWorker, Tally
    from gateway.config.snapshot import Topology, Traffic

log = logging.getLogger("gateway.control.hub")

#: Octets that may wait for one worker; a worker that reads less is cut off and reconnects.
MAX_UNSENT = 128 * 1024 * 1024
#: More connections than any machine has workers.
MAX_LINKS = 4096


#: Seconds that a call waits for workers, and between two looks at the board meanwhile.
BOUND = 5.0
LOOK_AGAIN = 0.05


class Slabs(Protocol):
    """What the board knows of workers, connected or not."""

    def draining(self, slab: int) -> bool:
        """Tell whether that slab's worker is on its way out."""

    def ready(self) -> Iterable[int]:
        """Return the slabs whose workers live and take traffic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """How an ``apply`` went. ``lagging`` names workers that had not acknowledged in time."""

    number: int
    milliseconds: float
    lagging: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Link(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._decoder: Decoder[FromWorker] = Decoder.from_worker()
        self._transport: asyncio.Transport | None = None
        self.hello: Hello | None = None
        self.acked = 0
        self.error = ""

    @property
    def name(self) -> str:
        """How the worker is called in answers: slot and pid."""
        return f"worker {self.hello.slot} (pid {self.hello.pid})" if self.hello else "a stranger"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._hub.opened(self)

    def data_received(self, data: bytes) -> None:
        """Pass whole messages on; cut off a peer that does not speak this protocol."""
        try:
            for message in self._decoder.feed(data):
                self._hub.received(self, message)
        except ChannelError as error:
            log.warning("%s: %s", self.name, error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the worker: nobody waits for it any more."""
        del exc
        self._hub.lost(self)

    def send(self, frame: bytes) -> None:
        """Send one frame, or cut off a worker that has stopped reading."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() + len(frame) > MAX_UNSENT:
            log.warning("%s reads nothing; its connection is cut", self.name)
            self.abort()
            return
        self._transport.write(frame)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def __repr__(self) -> str:
        """Say who and how far."""
        return f"Link({self.name}, acked={self.acked})"


class Hub:
    """All workers, and the snapshot that they are asked to serve."""

    def __init__(
        self,
        topology: Topology,
        traffic: Traffic,
        *,
        number: int,
        snapshot_file: str,
        clock: Callable[[], float],
        slabs: Slabs,
        names: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.topology = topology
        self.traffic = traffic
        self.number = number
        self.ahead: Callable[[Hello], None] = lambda hello: None
        #: Given the URL of a key set that lacked a token's key.
        self.unknown_key: Callable[[str], None] = lambda source: None
        self.breaker_moved: Callable[[BreakerMoved], None] = lambda moved: None
        #: Given how many requests came, and from which private address.
        self.asked: Callable[[Asked], None] = lambda message: None
        #: Given what workers see of requests, for the release analysis.
        self.seen: Callable[[Failures | Tally], None] = lambda message: None
        self._file = snapshot_file
        self._clock = clock
        self._slabs = slabs
        self._links: set[Link] = set()
        self._names = dict(names or {})
        #: Whether the snapshot's file is behind: the disk has refused it.
        self.unwritten = False
        self._keys: dict[str, bytes] = {}
        self._waiting: set[asyncio.Event] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Accept workers on an inherited listening socket; the first snapshot goes to its file."""
        self._write_file()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Link(self), sock=sock)

    async def close(self) -> None:
        """Stop accepting and let go of all workers, which serve on."""
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.abort()
        # A turn for the connections' ends; wait_closed would wait for peers.
        await asyncio.sleep(0)

    # --- snapshots ------------------------------------------------------------------------------

    def send(self, *, topology: Topology | None = None, traffic: Traffic | None = None) -> int:
        """Send what changed to every worker and return the new snapshot's number.

        Does not wait: from now on this is what workers are asked to serve (see ``acknowledged``).
        """
        self.number += 1
        self.topology = topology or self.topology
        self.traffic = traffic or self.traffic
        frame = encode(Apply(number=self.number, topology=topology, traffic=traffic))
        for link in self._links:
            if link.hello is not None:
                link.send(frame)
        if topology is None:
            self._write_move()
        else:
            self._write_file()
        return self.number

    async def acknowledged(self, number: int, *, began: float, bound: float = BOUND) -> Applied:
        """Return once every worker serves ``number``, or ``bound`` seconds from now.

        Draining workers are not waited for; one that the board shows ready and that has not
        connected yet is. ``began`` is when the caller's work did (the clock's seconds).
        """
        if self.behind(number):
            waits = asyncio.Event()
            self._waiting.add(waits)
            try:
                async with asyncio.timeout(bound):
                    await self._settled(number, waits)
            except TimeoutError:
                log.warning("snapshot %d is not served by %s", number, self.behind(number))
            finally:
                self._waiting.discard(waits)
        errors = tuple(sorted(f"{link.name}: {link.error}" for link in self._links if link.error))
        return Applied(
            number=number,
            milliseconds=round((self._clock() - began) * 1000, 3),
            lagging=self.behind(number),
            errors=errors,
        )

    async def _settled(self, number: int, waits: asyncio.Event) -> None:
        while self.behind(number):
            waits.clear()
            with contextlib.suppress(TimeoutError):
                # The board has no events: a worker that dies unconnected is seen by looking again.
                async with asyncio.timeout(LOOK_AGAIN):
                    await waits.wait()

    def behind(self, number: int) -> tuple[str, ...]:
        """Name the workers that are to serve ``number`` and do not yet."""
        greeted = {link.hello.slab: link for link in self._links if link.hello is not None}
        late = [
            link.name
            for slab, link in greeted.items()
            if (link.acked < number or link.error) and not self._slabs.draining(slab)
        ]
        absent = [
            f"slab {slab} (not connected)" for slab in self._slabs.ready() if slab not in greeted
        ]
        return tuple(sorted(late + absent))

    def _settle(self) -> None:
        for waits in self._waiting:
            waits.set()

    def _write_file(self) -> bool:
        """Write the whole snapshot; tells whether the disk has taken it."""
        snapshot = Apply(
            number=self.number,
            topology=self.topology,
            traffic=self.traffic,
            names=self._names,
            keys=self._keys,
        )
        try:
            snapshotfile.write(self._file, snapshot)
        except OSError as error:
            # Workers that run have the snapshot. One that starts is told by control, and must not
            # serve an older one until then: after a rollback that would be the candidate.
            snapshotfile.drop(self._file)
            self._refused(error)
            return False
        self.unwritten = False
        return True

    def _write_move(self) -> None:
        try:
            snapshotfile.move(self._file, Apply(number=self.number, traffic=self.traffic))
        except OSError as error:
            self._refused(error)
            snapshotfile.drop(self._file)
            self._write_file()  # what was dropped may have made room

    def _refused(self, error: OSError) -> None:
        if not self.unwritten:
            log.error("the snapshot file %s cannot be written: %s", self._file, error)
        self.unwritten = True

    def write_again(self) -> None:
        """Write the snapshot's file where the disk has refused it before."""
        if self.unwritten and self._write_file():
            log.warning("the snapshot file %s is written again", self._file)

    def publish(self, names: dict[str, tuple[str, ...]]) -> None:
        """Tell every worker, now and when it connects, what host names resolve to."""
        if any(self._names.get(name) != found for name, found in names.items()):
            self._names.update(names)
            self._write_file()
        frame = encode(Addresses(names=names))
        for link in self._links:
            if link.hello is not None:
                link.send(frame)

    def publish_keys(self, sources: dict[str, bytes]) -> None:
        """Tell every worker, now and when it connects, which keys issuers of tokens have."""
        self._keys.update(sources)
        if self._server is not None:  # else the first file is yet to be written
            self._write_file()
        frame = encode(KeySets(sources=sources))
        for link in self._links:
            if link.hello is not None:
                link.send(frame)

    def keep_keys(self, sources: set[str]) -> None:
        """Forget the keys of issuers that no scheme names any more."""
        self._keys = {source: found for source, found in self._keys.items() if source in sources}

    def keep_names(self, names: set[str]) -> None:
        """Forget the addresses of names that no endpoint has any more."""
        self._names = {name: found for name, found in self._names.items() if name in names}

    # --- workers --------------------------------------------------------------------------------

    def workers(self) -> list[Link]:
        """Return the workers that have greeted."""
        return [link for link in self._links if link.hello is not None]

    def current(self) -> bool:
        """Tell whether every worker that is not draining serves the current snapshot."""
        return not self.behind(self.number)

    def opened(self, link: Link) -> None:
        """Take a connection in, within the bound."""
        if len(self._links) >= MAX_LINKS:
            link.abort()
            return
        self._links.add(link)

    def lost(self, link: Link) -> None:
        """Let a connection go."""
        self._links.discard(link)
        self._settle()

    def received(self, link: Link, message: FromWorker) -> None:
        """Act on one message. Raises ChannelError for one that has no place."""
        if isinstance(message, Hello):
            self._greet(link, message)
        elif link.hello is None:
            raise ChannelError(f"{type(message).__name__} before Hello")
        elif isinstance(message, Ack):
            link.acked = max(link.acked, message.number)
            link.error = message.error
            if message.error:
                log.error("%s cannot serve %d: %s", link.name, message.number, message.error)
            self._settle()
        elif isinstance(message, BreakerMoved):
            self.breaker_moved(message)
        elif isinstance(message, UnknownKey):
            self.unknown_key(message.source)
        elif isinstance(message, Asked):
            self.asked(message)
        else:
            self.seen(message)

    def _greet(self, link: Link, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise ChannelError(f"protocol {hello.protocol}, this control speaks {PROTOCOL}")
        for stale in [each for each in self._links if each.hello and each.hello.slab == hello.slab]:
            # The same worker again, or who had its slab before: its end may not have come yet.
            self._links.discard(stale)
            stale.abort()
        link.hello = hello
        link.acked = 0
        if hello.topology > self.topology.number:
            # An earlier control numbered further than anything that was left to this one.
            self.topology = msgspec.structs.replace(self.topology, number=hello.topology + 1)
        if hello.traffic > self.traffic.revision:
            self.ahead(hello)
        log.info("%s connected, serving %d/%d", link.name, hello.topology, hello.traffic)
        if self._names:
            # Before the snapshot: its endpoints' names are known when it comes into force.
            self._send(link, Addresses(names=self._names))
        if self._keys:
            self._send(link, KeySets(sources=self._keys))
        same_topology = hello.topology == self.topology.number
        same_traffic = hello.traffic == self.traffic.revision
        self._send(
            link,
            Apply(
                number=self.number,
                topology=None if same_topology else self.topology,
                traffic=None if same_traffic else self.traffic,
            ),
        )

    @staticmethod
    def _send(link: Link, message: FromControl) -> None:
        link.send(encode(message))
