"""The aiohttp application: each call of the table on its route, behind Host, token and role."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web

from gateway.admin import auth
from gateway.admin.arrivals import Arrivals
from gateway.admin.calls import CALLS, HTML, Call
from gateway.admin.inbound import MAX_BODY, read
from gateway.admin.patience import Patience
from gateway.admin.problems import ProblemError, plain_problem, problem_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.admin.auth import Identity
    from gateway.admin.inbound import Inbound
    from gateway.admin.logins import Logins
    from gateway.admin.replay import Replays
    from gateway.control.settings import Settings
    from gateway.control.tasks import Tasks
    from gateway.tls import Front

    Handler = Callable[[Inbound], Awaitable[web.StreamResponse]]
    Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("gateway.admin")

#: Seconds for a request's body to arrive, and for answers under way when control is stopped.
BODY_TIMEOUT: Final = 10.0
SHUTDOWN: Final = 1.0

NO_TOKENS: Final = "no token is configured: add one under admin.tokens of the configuration"


class Server:
    """The admin API on inherited sockets.

    ``handlers`` has one for each call that answers at once; ``streams`` those that write for
    themselves and take the request. ``settings`` is asked at each request: a reload may have
    changed the tokens.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        streams: Mapping[str, Endpoint],
        replays: Replays,
        settings: Callable[[], Settings],
        logins: Logins,
    ) -> None:
        self._handlers = handlers
        self._streams = streams
        self._replays = replays
        self._settings = settings
        self._logins = logins
        self._runner: web.AppRunner | None = None
        #: One for TCP and one for the Unix socket: strangers to the first must not fill the second.
        self.patience: dict[bool, Patience] = {}
        self._servers: list[asyncio.Server | Arrivals] = []

    def application(self) -> web.Application:
        """Return the application with every call of the table."""
        application = web.Application(middlewares=[self._as_problems], client_max_size=MAX_BODY)
        application.on_response_prepare.append(_always)
        for call in CALLS:
            application.router.add_route(
                call.method, call.path, self._endpoint(call), expect_handler=_unheard
            )
        return application

    async def start(
        self, sockets: list[socket.socket], tasks: Tasks, front: Front | None = None
    ) -> None:
        """Serve on listening sockets that are open already, over TLS where a front is given."""
        self._runner = web.AppRunner(
            self.application(),
            access_log=None,
            shutdown_timeout=SHUTDOWN,
            handle_signals=False,
            # Content is looked at by the parser, before anybody knows who sends it.
            auto_decompress=False,
        )
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        # aiohttp's own sites take no protocol but theirs, which waits for a slow client for ever.
        assert self._runner.server is not None
        self.patience = {unix: Patience(self._runner.server) for unix in (False, True)}
        for each in sockets:
            if each.family == socket.AF_UNIX:
                self._servers.append(await loop.create_unix_server(self.patience[True], sock=each))
            elif front is not None:
                self._servers.append(Arrivals(each, front, self.patience[False], tasks))
            else:
                self._servers.append(await loop.create_server(self.patience[False], sock=each))

    async def close(self) -> None:
        """Stop serving; answers under way get a second."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- one request ------------------------------------------------------------------------------

    def _endpoint(self, call: Call) -> Endpoint:
        async def endpoint(request: web.Request) -> web.StreamResponse:
            identity = self._admit(request, call)
            if call.name in self._streams:
                return await self._streams[call.name](request)
            try:
                async with asyncio.timeout(BODY_TIMEOUT):
                    await _invite(request)
                    inbound = await read(request, call, identity)
            except TimeoutError as error:
                raise ProblemError(408, "body-timeout", "the body did not arrive") from error
            return await self._handled(call, inbound)

        return endpoint

    async def _handled(self, call: Call, inbound: Inbound) -> web.StreamResponse:
        handler = self._handlers[call.name]
        if not call.guarded:
            return await handler(inbound)

        async def plain() -> web.Response:
            response = await handler(inbound)
            assert isinstance(response, web.Response)
            return response

        return await self._replays.once(inbound, plain)

    def _admit(self, request: web.Request, call: Call) -> Identity | None:
        """Return who calls. Raises ProblemError: 421, 401 or 403."""
        settings = self._settings()
        unix = _unix(request)
        self._logins.turn()
        if not auth.host_accepted(request.headers.get("Host"), settings.admin_hosts, unix=unix):
            raise ProblemError(
                421,
                "unknown-host",
                "the Host field does not name this admin API; admin.hosts lists further names",
                field="Host",
            )
        if call.role is None:
            return None
        token = auth.bearer(request.headers.get("Authorization"))
        identity = self._known(request, token, settings) if token is not None else None
        if identity is None:
            known = "no such token" if token is not None else "a bearer token is needed"
            raise ProblemError(
                401,
                "unauthenticated",
                known,
                hint=None if settings.tokens else NO_TOKENS,
                headers={"WWW-Authenticate": 'Bearer realm="gateway"'},
            )
        if not identity.may(call.role):
            raise ProblemError(
                403,
                "forbidden",
                f"{identity.name} is {identity.role}; this call needs {call.role}",
            )
        return identity

    def _known(self, request: web.Request, token: bytes, settings: Settings) -> Identity | None:
        """Return whose token it is. Raises ProblemError 429 after too many of nobody's."""
        address = request.remote or "unix"
        wait = self._logins.wait(address, token)
        if wait > 0:
            raise ProblemError(
                429,
                "too-many-failed-logins",
                "too many tokens that nobody has came from this address",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        identity = auth.identify(token, settings.tokens)
        if identity is None:
            self._logins.failed_from(address)
        else:
            self._logins.succeeded(address, token)
        return identity

    @web.middleware
    async def _as_problems(self, request: web.Request, handler: Endpoint) -> web.StreamResponse:
        """Turn every refusal and every failure into a problem."""
        patience = self.patience[_unix(request)] if self.patience else None
        if patience is not None:
            patience.began(request.protocol)
        try:
            return await handler(request)
        except ProblemError as error:
            return problem_answer(error)
        except web.HTTPException as error:
            problem = plain_problem(error.status)
            if "Allow" in error.headers:
                problem.headers["Allow"] = error.headers["Allow"]
            return problem_answer(problem)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return problem_answer(plain_problem(500, "internal-error", "see the gateway's log"))
        finally:
            if patience is not None:
                patience.ended(request.protocol)


async def _unheard(request: web.Request) -> None:
    """Leave ``Expect`` for later: nobody's body is asked for before it is known who calls.

    aiohttp's own answers 417 to what it does not know, before the application is asked.
    """
    del request


async def _invite(request: web.Request) -> None:
    """Answer ``Expect: 100-continue``; any other expectation is ignored (RFC 9110, 10.1.1)."""
    expected = request.headers.get("Expect", "")
    if request.version == HttpVersion11 and expected.lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What is counted from here on is the answer's own.
        request.writer.output_size = 0


def _unix(request: web.Request) -> bool:
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    return sock is not None and sock.family == socket.AF_UNIX


async def _always(request: web.Request, response: web.StreamResponse) -> None:
    """Add what every answer bears."""
    del request
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    # No page of another origin embeds what is here, or keeps a handle on a window of it.
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    if response.content_type != HTML:
        response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
