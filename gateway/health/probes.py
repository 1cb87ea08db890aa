"""The probes themselves: one question to one endpoint, one answer. They never raise.

L1 opens a connection and closes it. L2 asks for a path and wants a status; its connection is its
own, so that a probe also shows that the endpoint still accepts.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import aiohttp
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.snapshot import Endpoint
    from gateway.health.policy import HttpCheck

#: Octets of an answer that are read, and of these kept as evidence.
MAX_BODY = 64 * 1024
KEPT_BODY = 256


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


class NetworkProbes:
    """``Probes`` over the network. ``clock`` is monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str | None, ssl.SSLContext] = {}

    async def tcp(self, endpoint: Endpoint, timeout: float) -> Result:  # noqa: ASYNC109  a bound
        """L1: open a connection within ``timeout`` seconds."""
        began = self._clock()
        detail = ""
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            writer.close()
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
        status, body, detail = None, b"", ""
        try:
            async with asyncio.timeout(timeout):
                status, body = await self._get(endpoint, check.path, tls_ca)
            if status != check.status:
                detail = f"answered {status}, expected {check.status}"
        except TimeoutError:
            detail = f"no answer within {timeout:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = _said(error)
        ended = self._clock()
        return Result(
            level="L2",
            good=not detail,
            status=status,
            detail=detail,
            seconds=ended - began,
            ended=ended,
            body=body,
        )

    async def _get(self, endpoint: Endpoint, path: str, tls_ca: str | None) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "gateway-health", "Accept": "*/*"},
                timeout=aiohttp.ClientTimeout(total=None),
            )
        # As configured, octet for octet: yarl would decode and encode it anew.
        url = URL(f"{endpoint.scheme}://{endpoint.authority}{path}", encoded=True)
        tls = self._context(tls_ca) if endpoint.scheme == "https" else True
        async with self._session.get(url, allow_redirects=False, ssl=tls) as answer:
            body = b""
            while len(body) < MAX_BODY and (part := await answer.content.read(MAX_BODY)):
                body += part
            return answer.status, body[:MAX_BODY]

    def _context(self, tls_ca: str | None) -> ssl.SSLContext:
        if tls_ca not in self._contexts:
            self._contexts[tls_ca] = ssl.create_default_context(cafile=tls_ca)
        return self._contexts[tls_ca]

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _said(error: Exception) -> str:
    known = error.strerror if isinstance(error, OSError) else ""
    return known or str(error) or type(error).__name__
