"""Names of endpoints, resolved here so that no worker ever waits for a resolver.

Each name is asked again after a jittered interval. The last answer is kept for as long as newer
ones fail; only what changed is published.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable

    from gateway.control.tasks import Tasks

log = logging.getLogger("gateway.control.resolver")

Addresses = tuple[str, ...]

#: Seconds between two questions: after an answer, and after a failure.
INTERVAL = (10.0, 30.0)
INTERVAL_FAILED = (2.0, 5.0)
TIMEOUT = 10.0
MAX_ADDRESSES = 64


def is_name(host: str) -> bool:
    """Tell a host name from an IP literal."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


async def getaddrinfo(host: str) -> Addresses:
    """Return a name's addresses, sorted. Raises OSError where it has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(sorted({str(each[4][0]) for each in found}))[:MAX_ADDRESSES]


class Resolver:
    """Keeps names resolved. ``publish`` is called with what changed."""

    def __init__(
        self,
        publish: Callable[[dict[str, Addresses]], None],
        tasks: Tasks,
        *,
        random: random.Random,
        resolve: Callable[[str], Awaitable[Addresses]] = getaddrinfo,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._publish = publish
        self._tasks = tasks
        self._random = random
        self._resolve = resolve
        self._sleep = sleep
        self._running: dict[str, asyncio.Task[None]] = {}
        self.known: dict[str, Addresses] = {}

    def watch(self, hosts: Iterable[str]) -> None:
        """Keep exactly these resolved; literals among them need nothing."""
        names = {host for host in hosts if is_name(host)}
        for name in self._running.keys() - names:
            self._running.pop(name).cancel()
            self.known.pop(name, None)
        for name in sorted(names - self._running.keys()):
            self._running[name] = self._tasks.start(self._keep(name), name=f"resolve {name}")

    async def prepare(self, hosts: Iterable[str], *, seconds: float) -> None:
        """Resolve the names among ``hosts`` that have no answer yet, for ``seconds`` at most.

        For endpoints that are about to come into force: their addresses go out before they do.
        """
        missing = [host for host in set(hosts) if is_name(host) and host not in self.known]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self.ask(name) for name in missing))

    async def _keep(self, name: str) -> None:
        while True:
            answered = await self.ask(name)
            low, high = INTERVAL if answered else INTERVAL_FAILED
            await self._sleep(self._random.uniform(low, high))

    async def ask(self, name: str) -> bool:
        """Resolve one name now; tells whether there was an answer."""
        try:
            async with asyncio.timeout(TIMEOUT):
                addresses = await self._resolve(name)
        except (OSError, UnicodeError, TimeoutError) as error:
            kept = self.known.get(name)
            log.warning("cannot resolve %s (%s); kept: %s", name, error, kept or "nothing")
            return False
        if addresses and addresses != self.known.get(name):
            log.info("%s resolves to %s", name, ", ".join(addresses))
            self.known[name] = addresses
            self._publish({name: addresses})
        return bool(addresses)
