"""The newsroom: articles, and uploads that it counts and throws away."""

from __future__ import annotations

import hashlib

from aiohttp import web

from gateway.demo.identity import answer

_ARTICLES = (
    {"id": 1, "title": "A library stays open", "minutes": 4},
    {"id": 2, "title": "What a slow release taught us", "minutes": 7},
    {"id": 3, "title": "Letters from readers", "minutes": 3},
)


async def articles(request: web.Request) -> web.Response:
    """List the articles."""
    return answer(request, articles=_ARTICLES)


async def upload(request: web.Request) -> web.Response:
    """Read a body of any length piece by piece; answer its length and SHA-256."""
    digest = hashlib.sha256()
    length = 0
    async for piece in request.content.iter_any():
        digest.update(piece)
        length += len(piece)
    return answer(request, length=length, sha256=digest.hexdigest())


def add_routes(app: web.Application) -> None:
    """Make ``app`` a newsroom."""
    app.router.add_get("/api/newsroom/articles", articles)
    for path in ("/api/newsroom/upload", "/api/upload/"):
        app.router.add_post(path, upload)
        app.router.add_put(path, upload)
