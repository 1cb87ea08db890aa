"""Issuers' public keys, read here so that no worker ever waits for an issuer.

Each source (a JWKS URL) is read again after its interval, and at once when a worker meets a token
of an unknown key, though never more often than ``AGAIN``: whoever sends made-up keys' names must
not make the gateway beat on the issuer. The last set that could be read is kept for as long as
newer ones fail, and on the disk, so that a restart during an issuer's outage locks nobody out.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from gateway.config.files import OwnFolder, reason
from gateway.config.keyset import MAX_OCTETS, read_keyset

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from gateway.config.snapshot import AuthScheme
    from gateway.control.tasks import Tasks

log = logging.getLogger("gateway.control.issuers")

#: Seconds: one reading; after a failure (jittered by a half); between two for unknown keys.
TIMEOUT = 10.0
AFTER_FAILURE = 10.0
AGAIN = 10.0


_FIELDS = {"Accept": "application/json", "Accept-Encoding": "identity"}


class SourceError(Exception):
    """A source that gave no key set; the message says why."""


async def read_url(url: str) -> bytes:
    """Return a key set's octets. Raises SourceError; follows no redirect."""
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with (
            # A few KiB that become a gigabyte cost no more than they have octets.
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, allow_redirects=False, headers=_FIELDS) as answer,
        ):
            if answer.status != 200:
                raise SourceError(f"answered {answer.status}")
            if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
                raise SourceError(f"compressed ({coding}), though that was not asked for")
            octets = bytearray()
            async for piece in answer.content.iter_any():
                octets += piece
                if len(octets) > MAX_OCTETS:
                    raise SourceError(f"more than {MAX_OCTETS // 1024} KiB")
            return bytes(octets)
    except TimeoutError as error:
        raise SourceError(f"no answer within {TIMEOUT:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise SourceError(str(error) or type(error).__name__) from error


def _sources(schemes: Iterable[AuthScheme]) -> dict[str, float]:
    """Return schemes' sources, with how often each is to be read in seconds."""
    found: dict[str, float] = {}
    for scheme in schemes:
        if scheme.jwt is not None and scheme.jwt.source:
            source, refresh = scheme.jwt.source, scheme.jwt.refresh
            found[source] = min(refresh, found.get(source, refresh))
    return found


class IssuerView(NamedTuple):
    """One scheme's source: when it was read last (the epoch's seconds, 0: never), how often."""

    scheme: str
    read_at: float
    well: int
    badly: int


class Issuers:
    """Keeps key sets read. ``publish`` is called with what changed, by URL."""

    def __init__(
        self,
        publish: Callable[[dict[str, bytes]], None],
        tasks: Tasks,
        folder: Path,
        *,
        random: random.Random,
        clock: Callable[[], float],
        wall: Callable[[], float],
        fetch: Callable[[str], Awaitable[bytes]] = read_url,
    ) -> None:
        self._publish = publish
        self._tasks = tasks
        self._folder = folder
        self._random = random
        self._clock = clock
        self._wall = wall
        self._fetch = fetch
        self._running: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._wanted: dict[str, asyncio.Event] = {}
        self._tried: dict[str, asyncio.Event] = {}
        #: Schemes of a reload under way: their sources are watched before they come into force.
        self.coming: tuple[AuthScheme, ...] = ()
        self.known: dict[str, bytes] = {}
        #: When each source was last read well, also by an earlier control (the epoch's seconds).
        self.read_at: dict[str, float] = {}
        #: How many readings went well and how many failed, since each source is watched.
        self.readings: dict[str, list[int]] = {}

    def watch(self, schemes: Iterable[AuthScheme]) -> None:
        """Keep exactly these schemes' sources read; what the disk has of new ones counts at once.

        And those of ``coming``. Blocking, for files of a few KiB and sources that were not watched
        before.
        """
        wanted = _sources(self.coming) | _sources(schemes)
        for source in list(self._running):
            if wanted.get(source) != self._running[source][0]:
                self._running.pop(source)[1].cancel()
        held: tuple[dict[str, Any], ...]
        held = (self.known, self.read_at, self.readings, self._wanted, self._tried)
        for each in held:
            for source in each.keys() - wanted.keys():
                del each[source]
        for source, refresh in wanted.items():
            self.readings.setdefault(source, [0, 0])
            if source not in self.known:
                self._restore(source)
            if source not in self._running:
                self._wanted.setdefault(source, asyncio.Event())
                self._tried.setdefault(source, asyncio.Event())
                task = self._tasks.start(self._keep(source, refresh), name=f"keys of {source}")
                self._running[source] = (refresh, task)

    async def prepare(self, *, seconds: float) -> None:
        """Wait for the sources that nothing is known of, for ``seconds`` at most."""
        missing = [source for source in self._running if source not in self.known]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self._tried[source].wait() for source in missing))

    def unknown_key(self, source: str) -> None:
        """Have a source read soon: a token's key was not in its set."""
        if source in self._wanted:
            self._wanted[source].set()

    def seen(self, schemes: Iterable[AuthScheme]) -> tuple[IssuerView, ...]:
        """Return how reading went for each scheme that has a source."""
        found = []
        for scheme in schemes:
            if scheme.jwt is not None and scheme.jwt.source:
                well, badly = self.readings.get(scheme.jwt.source, (0, 0))
                read_at = self.read_at.get(scheme.jwt.source, 0.0)
                found.append(IssuerView(scheme.name, read_at, well, badly))
        return tuple(found)

    async def _keep(self, source: str, refresh: float) -> None:
        wanted, tried = self._wanted[source], self._tried[source]
        while True:
            try:
                read = await self.ask(source)
            except Exception:  # whatever it is, the next rotation has to be seen
                log.exception("keys of %s: reading them failed", source)
                self._count(source, well=False)
                read = False
            tried.set()
            wait = refresh if read else AFTER_FAILURE * self._random.uniform(1.0, 1.5)
            until = self._clock() + wait
            # What comes within AGAIN of a reading waits for its end.
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until - self._clock())):
                    await asyncio.sleep(min(AGAIN, wait))
                    await wanted.wait()

    async def ask(self, source: str) -> bool:
        """Read one source now; tells whether it gave a key set that can be used."""
        self._wanted[source].clear()
        try:
            octets = await self._fetch(source)
            keys = read_keyset(octets)
        except (SourceError, ValueError) as error:
            self._count(source, well=False)
            kept = "the last keys stay in force" if source in self.known else "there are none yet"
            log.warning("keys of %s cannot be read (%s); %s", source, error, kept)
            return False
        self._count(source, well=True)
        self.read_at[source] = self._wall()
        if octets != self.known.get(source):
            log.info("%s has %d keys", source, len(keys.keys))
            self.known[source] = octets
            self._publish({source: octets})
            await asyncio.to_thread(self._store, source, octets)
        else:
            await asyncio.to_thread(self._touch, source)
        return True

    def _count(self, source: str, *, well: bool) -> None:
        if source in self.readings:
            self.readings[source][not well] += 1

    # --- the disk: public keys, but who could write them could sign in as anybody -----------------

    def _restore(self, source: str) -> None:
        """Take what an earlier control left; of no use is as good as none."""
        try:
            with OwnFolder(self._folder) as folder:
                octets, read_at = folder.read(_file_of(source), MAX_OCTETS)
            read_keyset(octets)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else error
            log.warning("the kept keys of %s are of no use: %s", source, why)
            return
        self.known[source] = octets
        self.read_at[source] = read_at
        self._publish({source: octets})

    def _touch(self, source: str) -> None:
        """Note on the disk that the set kept there was read again: a restart tells its age."""
        with suppress(OSError), OwnFolder(self._folder) as folder:
            folder.touch(_file_of(source))

    def _store(self, source: str, octets: bytes) -> None:
        try:
            with OwnFolder(self._folder, make=True) as folder:
                folder.write(_file_of(source), octets)
        except OSError as error:
            why = f"{self._folder}: {reason(error)}"
            log.warning("the keys of %s cannot be kept on the disk: %s", source, why)


def _file_of(source: str) -> str:
    return f"{hashlib.sha256(source.encode()).hexdigest()[:32]}.json"
