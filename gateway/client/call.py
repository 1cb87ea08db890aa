"""How one call to the admin API is made: what every group of calls stands on.

Every write carries an idempotency key, which its own repetitions keep: a connection that breaks
half-way (control restarts within two seconds) is tried again without doing anything twice. An
address that refuses the connection is not: nobody is there.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
from pydantic import BaseModel, ValidationError

from gateway.admin import models
from gateway.client.link import Link

T = TypeVar("T", bound=BaseModel)

#: Seconds between the tries of one call.
PAUSES: Final = (0.2, 0.6, 1.2)

CONNECT_TIMEOUT: Final = 5.0
#: Seconds for a call that waits for workers only.
CALL_TIMEOUT: Final = 30.0
#: Seconds on top of the wait that a caller asked for.
WAIT_MARGIN: Final = 15.0

#: An answer beyond this is not the admin API's.
MAX_ANSWER: Final = 32 * 1024 * 1024

_URN: Final = "urn:gateway:"


class AdminError(Exception):
    """The gateway said no, or nothing.

    ``kind`` is the problem's type without its prefix (``stale-revision``), or ``unreachable``,
    ``timeout``, ``not-a-gateway``, for which ``status`` is 0. ``problem`` is the whole answer.
    ``advice`` is what to do where this side knows it; empty: ``detail`` says it.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        status: int = 0,
        problem: models.Problem | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.status = status
        self.problem = problem
        self.advice = advice

    @property
    def field(self) -> str | None:
        """The field at fault, where the gateway named one."""
        return self.problem.field if self.problem else None

    @property
    def hint(self) -> str | None:
        """What to do, where the gateway or this side said so."""
        return self.problem.hint if self.problem else self.advice


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """An answer as a model, and as it came."""

    value: T
    raw: bytes


class Caller:
    """One session with one gateway; its calls are in those that inherit from it."""

    def __init__(
        self,
        link: Link,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        new_key: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._link = link
        self._sleep = sleep
        self._new_key = new_key
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session. Raises AdminError where a file for TLS is no good."""
        address = self._link.address
        connector: aiohttp.BaseConnector
        if address.socket:
            connector = aiohttp.UnixConnector(address.socket)
        elif address.base.startswith("https:"):
            connector = aiohttp.TCPConnector(ssl=self._tls())
        else:
            connector = aiohttp.TCPConnector()  # with files that nobody looks at
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Authorization": f"Bearer {self._link.token}", "Accept": "application/json"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    def _tls(self) -> ssl.SSLContext:
        """Return what an ``https`` address is spoken to with."""
        link = self._link
        try:
            context = ssl.create_default_context(cafile=link.ca)
        except OSError as error:  # ssl.SSLError is one
            why = "no PEM certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
            said = "(--ca, GATEWAY_CA)"
            raise AdminError("bad-ca", f"{link.ca} {said}: {why or 'not readable'}") from error
        if link.client_cert is not None:
            _present(context, link.client_cert, link.client_key)
        return context

    # --- the one call -------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: BaseModel | None = None,
        revision: int | None = None,
        keyed: bool = True,
        patience: float = CALL_TIMEOUT,
    ) -> Reply[T]:
        """Make one call, repeated over broken connections. Raises AdminError."""
        headers = {}
        data = None
        if body is not None:
            data = body.model_dump_json(by_alias=True, exclude_unset=True).encode()
            headers["Content-Type"] = "application/json"
        if revision is not None:
            headers["If-Match"] = f'"{revision}"'
        if method != "GET" and keyed:
            headers["Idempotency-Key"] = self._new_key()
        for pause in (*PAUSES, None):
            try:
                status, raw = await self._exchange(method, path, headers, data, patience)
            except aiohttp.ClientConnectorError as error:
                raise self._unreachable(error) from error
            except aiohttp.ClientConnectionError as error:
                if pause is None:
                    raise self._unreachable(error) from error
                await self._sleep(pause)
                continue
            except aiohttp.ClientError as error:
                raise self._not_a_gateway(error) from error
            return self._read(status, raw, answer)
        raise AssertionError("the last try returns or raises")

    async def _exchange(
        self, method: str, path: str, headers: dict[str, str], data: bytes | None, patience: float
    ) -> tuple[int, bytes]:
        """Send one request and read its answer. Redirects are not followed: the token would be."""
        if self._session is None:
            raise RuntimeError("the client is used outside of its `async with`")
        limits = aiohttp.ClientTimeout(total=patience, connect=CONNECT_TIMEOUT)
        try:
            async with self._session.request(
                method,
                self._link.address.base + path,
                headers=headers,
                data=data,
                timeout=limits,
                allow_redirects=False,
            ) as response:
                raw = bytearray()
                async for piece in response.content.iter_any():
                    raw += piece
                    if len(raw) > MAX_ANSWER:
                        raise self._not_a_gateway(None)
                return response.status, bytes(raw)
        except TimeoutError as error:
            waited = f"no answer from {self._link.address} within {patience:g} s"
            raise AdminError("timeout", waited) from error

    def _unreachable(self, error: Exception) -> AdminError:
        """Turn a connection's failure into words."""
        hung_up = False
        advice = None
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = f"its certificate is not trusted ({error.certificate_error}); see --ca"
            advice = ""
        elif isinstance(error, aiohttp.ClientConnectorError):
            why = error.os_error.strerror or str(error.os_error) or "it hung up"
            hung_up = isinstance(error.os_error, ConnectionResetError)
        else:
            why = str(error) or type(error).__name__
            hung_up = isinstance(error, aiohttp.ServerDisconnectedError)
            # After the handshake, as TLS 1.3 has it, a refusal may come as a reset, too.
            hung_up = hung_up or getattr(error, "errno", None) == errno.ECONNRESET
        if hung_up and self._link.address.base.startswith("https:"):
            # No loop sends the alert that would say so.
            why += "; it may ask for a certificate that it trusts: see --client-cert"
            advice = ""
        elif hung_up and self._link.address.socket is None:
            secured = self._link.address.base.replace("http:", "https:", 1)
            advice = f"it may speak TLS: --admin {secured} (GATEWAY_ADMIN)"
        what = f"cannot reach the gateway at {self._link.address}: {why}"
        return AdminError("unreachable", what, advice=advice)

    def _not_a_gateway(self, error: Exception | None) -> AdminError:
        """Say that whatever answered is not the admin API."""
        why = f": {error}" if error is not None else ""
        what = f"what answers at {self._link.address} is no gateway's admin API{why}"
        return AdminError("not-a-gateway", what)

    def _read(self, status: int, raw: bytes, answer: type[T]) -> Reply[T]:
        """Turn an answer into its model, or raise the AdminError that it is."""
        try:
            if status >= 300:
                problem = models.Problem.model_validate_json(raw)
                raise AdminError(
                    problem.type.removeprefix(_URN),
                    problem.detail or problem.title,
                    status=status,
                    problem=problem,
                )
            return Reply(answer.model_validate_json(raw), raw)
        except ValidationError as error:
            raise self._not_a_gateway(None) from error


def _present(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Have a caller's certificate shown to whoever asks for one. Raises AdminError."""
    try:
        # A key that asks for a passphrase would wait for one at the terminal: there is none.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        files = f"{certificate}" if key is None else f"{certificate} with {key}"
        why = (error.reason or "refused").lower().replace("_", " ")
        expected = "expected a PEM certificate with its key, without a passphrase"
        raise AdminError("bad-certificate", f"{files}: {why}, {expected}") from error
    except OSError as error:
        files = f"{certificate} (--client-cert, GATEWAY_CLIENT_CERT)"
        if key is not None:
            files += f" or {key} (--client-key, GATEWAY_CLIENT_KEY)"
        raise AdminError(
            "bad-certificate", f"{files}: {error.strerror or 'not readable'}"
        ) from error


def query(**parameters: str) -> str:
    """Return a query of the parameters that are not empty, empty itself where all are."""
    given = {name: value for name, value in parameters.items() if value}
    return f"?{urlencode(given)}" if given else ""
