"""aiohttp's protocol of one connection, which repeats nothing of what it could not read.

aiohttp's own logs a traceback for each request that is none, and both it and the answer quote the
line: a token with an octet too many would stand in the log, and a stranger could fill the disk.
Here it is counted, and the answer is a problem like any other.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.admin.calls import HTML
from gateway.admin.problems import plain_problem, problem_answer

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("gateway.admin")

MALFORMED = "it is no request that can be read"


@dataclass(slots=True)
class Unread:
    """How many requests could not be read since control began."""

    count: int = 0


class Speaker(web.RequestHandler):
    """One connection of a ``server``; what it cannot read is counted in ``unread``."""

    def __init__(self, server: web.Server, unread: Unread) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as aiohttp's own runners have it
            # Content is looked at by the parser, before anybody knows who sends it.
            auto_decompress=False,
        )
        self._unread = unread

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is no request, or to what failed beyond the application."""
        del message
        if status == 400:
            self._unread.count += 1
        elif not isinstance(exc, ConnectionError):
            log.error("a request of the admin API failed: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer was begun")
        detail = MALFORMED if status == 400 else ""
        answer = _Bare(problem_answer(plain_problem(status, detail=detail)))
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Tell what kind of failure it is, and none of its text."""
        del args
        log.error("a connection of the admin API failed: %s", type(kw.get("exc_info")).__name__)


def speakers(server: web.Server, unread: Unread) -> Callable[[], Speaker]:
    """Return what makes the protocol of a new connection."""
    return lambda: Speaker(server, unread)


def bear(response: web.StreamResponse) -> None:
    """Add what every answer bears, and take off what tells of the software."""
    headers = response.headers
    headers.popall("Server", None)
    headers.setdefault("Cache-Control", "no-store")
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    # No page of another origin embeds what is here, or keeps a handle on a window of it.
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    if response.content_type != HTML:
        headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"


class _Bare(web.Response):
    """An answer to what reached no application, whose hooks see every other."""

    def __init__(self, like: web.Response) -> None:
        super().__init__(body=like.body, status=like.status, content_type=like.content_type)

    async def _write_headers(self) -> None:
        bear(self)
        await super()._write_headers()
