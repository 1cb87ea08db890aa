"""The events service: a list of events, and a WebSocket that answers what it is told."""

from __future__ import annotations

import json

from aiohttp import WSMsgType, web

from gateway.demo.identity import IDENTITY, answer

MAX_MESSAGE = 64 * 1024

_EVENTS = (
    {"id": 1, "title": "Poetry in the courtyard", "when": "Thursday, 19:00", "where": "Brixton"},
    {"id": 2, "title": "Housing rights, an open clinic", "when": "Saturday, 11:00",
     "where": "Leeds"},
    {"id": 3, "title": "Sunday walk along the canal", "when": "Sunday, 14:00",
     "where": "Manchester"},
)  # fmt: skip


async def upcoming(request: web.Request) -> web.Response:
    """List the events to come."""
    return answer(request, events=_EVENTS)


async def live(request: web.Request) -> web.WebSocketResponse:
    """Greet, then echo every message with who heard it, until the client closes."""
    identity = request.app[IDENTITY]
    socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, heartbeat=30)
    await socket.prepare(request)
    await socket.send_json({**identity.json(), "hello": "live"})
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(json.dumps({"echo": message.data, "color": identity.color}))
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


def add_routes(app: web.Application) -> None:
    """Make ``app`` an events service."""
    app.router.add_get("/api/events/upcoming", upcoming)
    app.router.add_get("/api/events/live", live)
