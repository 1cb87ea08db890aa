"""A fake admin API, and how a command line that was run against it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

TOKEN = "secret-of-the-tests"


@dataclass(slots=True)
class Asked:
    """One request as the fake received it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class FakeAdmin:
    """Answers what it is told to and keeps what it was asked."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    #: Answers by method and path; the last one of a list is given again and again. One that can be
    #: called is asked for the answer.
    answers: dict[tuple[str, str], list[tuple[int, object]]] = field(default_factory=dict)
    #: Connections to break before answering.
    breaks: int = 0

    def answer(self, method: str, path: str, body: object, status: int = 200) -> None:
        self.answers.setdefault((method, path), []).append((status, body))

    def problem(self, method: str, path: str, status: int, kind: str, **more: object) -> None:
        problem = {"type": f"urn:gateway:{kind}", "title": kind, "status": status, **more}
        self.answer(method, path, problem, status)

    async def handle(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            problem = {"type": "urn:gateway:unauthorized", "title": "Unauthorized", "status": 401}
            return web.json_response(problem, status=401)
        body = await request.read()
        self.asked.append(
            Asked(request.method, request.path, dict(request.query), dict(request.headers), body)
        )
        if self.breaks:
            self.breaks -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        queue = self.answers[request.method, request.path]
        status, answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if callable(answer):
            answer = answer()
        return web.json_response(answer, status=status)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ended]]
