"""Names of endpoints, resolved here so that no worker ever waits for a resolver.

Each name is asked again after a jittered interval. The last answer is kept for as long as newer
ones fail; only what changed is published. The system's resolver may hang for as long as it likes:
each question has a thread of its own, so that it holds up neither the loop nor another name, and a
name whose question is not answered is not asked about again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
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


#: Names that a thread asks about now.
_asked: set[str] = set()


async def getaddrinfo(host: str) -> Addresses:
    """Return a name's addresses, sorted. Raises OSError where it has none, and where the question
    before this one has not come back.

    Not the loop's own: libuv has four threads for all names, and waits for them when it ends.
    """
    if host in _asked:
        raise TimeoutError("the resolver has not answered the last question yet")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Addresses] = loop.create_future()

    def tell(found: Addresses | Exception) -> None:
        if answer.done():
            return  # whoever asked has given up
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def ask() -> None:
        found: Addresses | Exception
        try:
            rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found = tuple(sorted({str(each[4][0]) for each in rows}))[:MAX_ADDRESSES]
        except (OSError, UnicodeError) as error:
            found = error
        _asked.discard(host)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, found)

    _asked.add(host)
    try:
        threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    except RuntimeError as error:
        _asked.discard(host)
        raise OSError(f"no thread to ask with: {error}") from error
    return await answer


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
        known: dict[str, Addresses] | None = None,
    ) -> None:
        self._publish = publish
        self._tasks = tasks
        self._random = random
        self._resolve = resolve
        self._sleep = sleep
        self._running: dict[str, asyncio.Task[None]] = {}
        #: Each name's last answer. Given at the start: what others read, or what was known before.
        self.known: dict[str, Addresses] = {} if known is None else known
        #: Names whose last question has failed, and why.
        self.failing: dict[str, str] = {}

    def watch(self, hosts: Iterable[str]) -> None:
        """Keep exactly these resolved; literals among them need nothing."""
        names = {host for host in hosts if is_name(host)}
        for name in self._running.keys() - names:
            self._running.pop(name).cancel()
            self.failing.pop(name, None)
        for name in self.known.keys() - names:
            del self.known[name]
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
            why = str(error) or f"no answer within {TIMEOUT:g} s"
            if name not in self.failing:  # once, not at every try
                kept = self.known.get(name)
                log.warning("cannot resolve %s (%s); kept: %s", name, why, kept or "nothing")
            self.failing[name] = why
            return False
        if self.failing.pop(name, None) is not None:
            log.info("%s can be resolved again", name)
        if addresses and addresses != self.known.get(name):
            log.info("%s resolves to %s", name, ", ".join(addresses))
            self.known[name] = addresses
            self._publish({name: addresses})
        return bool(addresses)
