"""The probes themselves: one question to one endpoint, one answer. They never raise.

L1 opens a connection and closes it. L2 asks for a path and wants a status, L3 sends a request and
looks into the answer; each has a connection of its own, so that a probe also shows that the
endpoint still accepts. L4 goes through the gateway's own public side with the color forced.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.health.answers import Answer, Filled, UnfitError, captured, fill, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.config.snapshot import Color, Endpoint
    from gateway.health.answers import Request
    from gateway.health.door import Door
    from gateway.health.policy import HttpCheck, IntegrationCheck

#: Octets of an answer that are read, and of these kept as evidence.
MAX_BODY = 64 * 1024
KEPT_BODY = 256
#: How the gateway's listener answers a connection that is one too many.
FULL = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one probe found. ``ended`` is monotonic; ``body`` is whole up to ``MAX_BODY``."""

    level: str
    good: bool
    status: int | None = None
    detail: str = ""
    seconds: float = 0.0
    ended: float = 0.0
    body: bytes = b""
    #: False: it says nothing of the pool (the gateway itself could not be asked).
    counts: bool = True

    @property
    def excerpt(self) -> str:
        """The first octets of the answer as text, for people."""
        return self.body[:KEPT_BODY].decode("utf-8", "replace")


class Probes(Protocol):
    """Where the prober gets its results from."""

    async def tcp(self, endpoint: Endpoint, timeout: float) -> Result:  # noqa: ASYNC109  a bound
        """L1: open a connection within ``timeout`` seconds."""

    async def http(
        self,
        endpoint: Endpoint,
        check: HttpCheck,
        timeout: float,  # noqa: ASYNC109  a bound
        tls_ca: str | None,
    ) -> Result:
        """L2: ask for the path within ``timeout`` seconds."""

    async def business(
        self,
        endpoint: Endpoint,
        request: Request,
        timeout: float,  # noqa: ASYNC109  a bound
        tls_ca: str | None,
    ) -> Result:
        """L3: send the request and judge the answer, within ``timeout`` seconds."""

    async def integration(self, door: Door, check: IntegrationCheck, color: Color) -> Result:
        """L4: send the requests one after the other through the gateway to ``color``."""


@dataclass(slots=True)
class _Run:
    """How far one integration check has come."""

    check: IntegrationCheck
    at: int = 0
    answer: Answer | None = None
    values: dict[str, str] = field(default_factory=dict)

    @property
    def more(self) -> bool:
        return self.at < len(self.check.requests)

    def take(self) -> Request:
        """Return the next request; the answer before is no longer the last one."""
        self.answer = None
        self.at += 1
        return self.check.requests[self.at - 1]

    def __str__(self) -> str:
        requests = self.check.requests
        request = requests[max(self.at, 1) - 1]
        of = f"request {self.at} of {len(requests)}, " if len(requests) > 1 else ""
        return f"{of}{request.method} {request.path}"


#: In place of a file of authorities: the gateway's own listener, whose certificate is for names
#: that it is not asked by here. What stands behind its address on this machine is the gateway.
OWN = ""


class Names(AbstractResolver):
    """Gives aiohttp the addresses that control knows: a probe asks no resolver."""

    def __init__(self, known: Mapping[str, tuple[str, ...]]) -> None:
        self._known = known

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return what is known. Raises OSError where nothing is yet."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses(self._known, host)
        ]

    async def close(self) -> None:
        """Hold nothing."""


class NetworkProbes:
    """``Probes`` over the network. ``clock`` is monotonic.

    ``names`` has what host names resolve to, as workers are told it. What they dial is what has to
    be probed; and with a resolver that is dead, backends are not.
    """

    def __init__(
        self, clock: Callable[[], float], names: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        self._clock = clock
        self.names: dict[str, tuple[str, ...]] = {} if names is None else names
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str | None, ssl.SSLContext] = {}

    async def tcp(self, endpoint: Endpoint, timeout: float) -> Result:  # noqa: ASYNC109  a bound
        """L1: open a connection within ``timeout`` seconds."""
        began = self._clock()
        detail = ""
        try:
            async with asyncio.timeout(timeout):
                await self._reach(endpoint)
        except TimeoutError:
            detail = f"no connection within {timeout:g} s"
        except (OSError, UnicodeError) as error:
            detail = _said(error)
        ended = self._clock()
        return Result(
            level="L1", good=not detail, detail=detail, seconds=ended - began, ended=ended
        )

    async def http(
        self,
        endpoint: Endpoint,
        check: HttpCheck,
        timeout: float,  # noqa: ASYNC109  a bound
        tls_ca: str | None,
    ) -> Result:
        """L2: ask for the path within ``timeout`` seconds."""
        began = self._clock()
        answer, detail = None, ""
        try:
            async with asyncio.timeout(timeout):
                answer = await self._get(endpoint, check.path, tls_ca)
            if answer.status != check.status:
                detail = f"answered {answer.status}, expected {check.status}"
        except TimeoutError:
            detail = f"no answer within {timeout:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = _said(error)
        return self._result("L2", began, answer, detail)

    async def business(
        self,
        endpoint: Endpoint,
        request: Request,
        timeout: float,  # noqa: ASYNC109  a bound
        tls_ca: str | None,
    ) -> Result:
        """L3: send the request and judge the answer, within ``timeout`` seconds."""
        began = self._clock()
        answer, detail = None, ""
        try:
            async with asyncio.timeout(timeout):
                answer = await self._ask(
                    f"{endpoint.scheme}://{endpoint.authority}", fill(request, {}), {}, tls_ca
                )
            detail = judge(request.expected, answer)
        except TimeoutError:
            detail = f"no answer within {timeout:g} s"
        except (aiohttp.ClientError, OSError, ValueError, UnfitError) as error:
            detail = _said(error)
        return self._result("L3", began, answer, detail)

    async def integration(self, door: Door, check: IntegrationCheck, color: Color) -> Result:
        """L4: send the requests one after the other through the gateway to ``color``."""
        began = self._clock()
        run = _Run(check)
        detail, counts = "", True
        try:
            async with asyncio.timeout(check.timeout):
                while not detail and run.more:
                    detail = await self._step(door, run, color)
        except TimeoutError:
            detail = f"the sequence took longer than {check.timeout:g} s"
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # Its own door: no worker accepts just now, or one went. Whoever stands behind it is not
            # to blame: for a backend's failure the gateway has an answer.
            counts = run.answer is not None
            detail = f"the gateway's own listener: {_said(error)}"
        except (aiohttp.ClientError, OSError, ValueError, UnfitError) as error:
            detail = _said(error)
        if detail:
            detail = f"{run}: {detail}"
        return self._result("L4", began, run.answer, detail, counts=counts)

    async def _step(self, door: Door, run: _Run, color: Color) -> str:
        """Send a sequence's next request; say what is wrong with the answer."""
        request = run.take()
        sent = fill(request, run.values)
        answer = await self._ask(door.origin, sent, door.fields(color), OWN)
        if _turned_away(answer):
            raise aiohttp.ServerDisconnectedError(f"as many connections as it may have: {FULL}")
        run.answer = answer
        detail = _hidden(answer) or judge(request.expected, answer)
        if not detail:
            run.values |= captured(request, answer)
        return detail

    async def _reach(self, endpoint: Endpoint) -> None:
        """Connect to the first of an endpoint's addresses that lets us. Raises OSError."""
        found = addresses(self.names, endpoint.host)
        for at, address in enumerate(found, 1):
            try:
                _, writer = await asyncio.open_connection(address, endpoint.port)
            except OSError:
                if at == len(found):
                    raise
            else:
                writer.close()
                return

    def _result(
        self, level: str, began: float, answer: Answer | None, detail: str, *, counts: bool = True
    ) -> Result:
        ended = self._clock()
        return Result(
            level=level,
            good=not detail,
            status=answer.status if answer is not None else None,
            detail=detail,
            seconds=ended - began,
            ended=ended,
            body=answer.body if answer is not None else b"",
            counts=counts,
        )

    async def _get(self, endpoint: Endpoint, path: str, tls_ca: str | None) -> Answer:
        origin = f"{endpoint.scheme}://{endpoint.authority}"
        return await self._ask(origin, Filled("GET", path, (), None), {}, tls_ca)

    async def _ask(
        self, origin: str, sent: Filled, more: dict[str, str], tls_ca: str | None
    ) -> Answer:
        """Send one request; return its answer, the body up to ``MAX_BODY``."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    force_close=True, limit=0, resolver=Names(self.names), use_dns_cache=False
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "gateway-health", "Accept": "*/*"},
                timeout=aiohttp.ClientTimeout(total=None),
                # What is sent and judged is the octets: nothing is decompressed.
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "Content-Type"),
            )
        # As configured, octet for octet: yarl would decode and encode it anew.
        url = URL(f"{origin}{sent.path}", encoded=True)
        tls = self._context(tls_ca) if origin.startswith("https:") else True
        async with self._session.request(
            sent.method,
            url,
            headers=[*sent.fields, *more.items()],
            data=sent.body,
            allow_redirects=False,
            ssl=tls,
        ) as answer:
            body = b""
            while len(body) < MAX_BODY and (part := await answer.content.read(MAX_BODY)):
                body += part
            fields = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, fields, body[:MAX_BODY])

    def _context(self, tls_ca: str | None) -> ssl.SSLContext:
        if tls_ca not in self._contexts:
            context = ssl.create_default_context(cafile=tls_ca or None)
            if tls_ca == OWN:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._contexts[tls_ca] = context
        return self._contexts[tls_ca]

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def addresses(known: Mapping[str, tuple[str, ...]], host: str) -> tuple[str, ...]:
    """Return a host's addresses: itself where it is one. Raises OSError where none is known."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = known.get(host, ())
    else:
        found = (host,)
    if not found:
        raise OSError(f"the name {host} could not be resolved yet")
    return found


def _hidden(answer: Answer) -> str:
    """Say where an answer is not the color's own: made by the gateway, or hiding a failure."""
    for name in ("x-gateway-error", "x-gateway-served-by"):
        if name in answer.fields:
            return f"answered {answer.status} by the gateway itself ({answer.fields[name]})"
    return ""


def _turned_away(answer: Answer) -> bool:
    """Tell whether the connection was one too many for the machine (``limits.connections``).

    That is said before any request is read, so that it is about no color: the only answer of the
    gateway's without a request's id. A stranger's idle connections must take no service down.
    """
    said = answer.fields.get("x-gateway-error")
    return answer.status == FULL and said == "overload" and "x-request-id" not in answer.fields


def _said(error: Exception) -> str:
    known = error.strerror if isinstance(error, OSError) else ""
    return known or str(error) or type(error).__name__
