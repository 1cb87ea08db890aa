"""Ivor, the platform's assistant: a chat that streams its answer as server-sent events."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from gateway.demo.identity import IDENTITY, answer

#: Seconds between two words of an answer.
PACE = 0.06

MAX_QUESTION = 500

_ANSWERS = {
    "blue": (
        "Hello, this is Ivor, the version that everybody knows. You asked: {question} "
        "While a release goes on, some visitors talk to my successor instead."
    ),
    "green": (
        "Hi! I am the new Ivor. Your question was: {question} "
        "If I fail, the gateway sends you back to the version before me, and you may never notice."
    ),
}

_RESOURCES = (
    {"title": "Getting started", "kind": "guide"},
    {"title": "Finding support near you", "kind": "directory"},
    {"title": "Talking to Ivor", "kind": "guide"},
)


async def chat(request: web.Request) -> web.StreamResponse:
    """Stream an answer word by word; the last event is ``done``."""
    question = await _question(request)
    if not question:
        return web.json_response({"error": "q: empty, expected a question"}, status=400)
    identity = request.app[IDENTITY]
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    await _event(response, "who", identity.json())
    for word in _ANSWERS[identity.color].format(question=question).split():
        await _event(response, "word", {"text": word})
        await asyncio.sleep(request.app[PACE_KEY])
    await _event(response, "done", {})
    await response.write_eof()
    return response


async def _question(request: web.Request) -> str:
    """Take the question from the query or from a JSON body's ``q``."""
    if request.method == "GET":
        text = request.query.get("q", "")
    else:
        try:
            body = await request.json()
        except ValueError:
            return ""
        text = str(body.get("q", "")) if isinstance(body, dict) else ""
    return text.strip()[:MAX_QUESTION]


async def _event(response: web.StreamResponse, name: str, data: object) -> None:
    """Write one server-sent event."""
    await response.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())


async def selftest(request: web.Request) -> web.Response:
    """Say that the chat's own parts work (the L3 probe asks this)."""
    return answer(request, status="ok")


async def resources(request: web.Request) -> web.Response:
    """List what Ivor points people to; a shared cache may keep it for a minute."""
    response = answer(request, resources=_RESOURCES)
    response.headers["Cache-Control"] = "public, max-age=60"
    return response


PACE_KEY: web.AppKey[float] = web.AppKey("pace", float)


def add_routes(app: web.Application) -> None:
    """Make ``app`` an Ivor."""
    app[PACE_KEY] = PACE
    app.router.add_get("/api/ivor/chat", chat)
    app.router.add_post("/api/ivor/chat", chat)
    app.router.add_get("/api/ivor/resources", resources)
    app.router.add_get("/api/chat/selftest", selftest)
