"""The website: one page that calls the three APIs, with hashed assets of its own color.

The files in ``site/`` are templates: ``@COLOR@`` and ``@VERSION@`` are filled in per color, so
the colors' assets differ, and so do their names. As on a real site, a color answers 404 for the
other's assets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from aiohttp import web

from gateway.demo.identity import IDENTITY, Identity

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file under ``/assets/``."""

    name: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Site:
    """What one color serves: the page and its assets by name."""

    page: str
    assets: dict[str, Asset]


def build_site(identity: Identity) -> Site:
    """Fill in the templates for one color and name the assets by their content."""
    folder = resources.files("gateway.demo").joinpath("site")

    def filled(name: str) -> str:
        text = folder.joinpath(name).read_text("utf-8")
        return text.replace("@COLOR@", identity.color).replace("@VERSION@", identity.version)

    page = filled("index.html")
    assets = {}
    for name in ("style.css", "app.js", "icon.svg"):
        body = filled(name).encode()
        stem, _, suffix = name.rpartition(".")
        hashed = f"{stem}.{hashlib.sha256(body).hexdigest()[:10]}.{suffix}"
        assets[hashed] = Asset(hashed, _TYPES[suffix], body)
        page = page.replace(f"/assets/{name}", f"/assets/{hashed}")
    return Site(page, assets)


SITE: web.AppKey[Site] = web.AppKey("site", Site)


async def page(request: web.Request) -> web.Response:
    """Answer the page; nobody may keep it without asking."""
    return web.Response(
        text=request.app[SITE].page,
        content_type="text/html",
        charset="utf-8",
        headers={"Cache-Control": "no-cache"},
    )


async def asset(request: web.Request) -> web.Response:
    """Answer one hashed asset, which may be kept for good; 404 for another color's."""
    found = request.app[SITE].assets.get(request.match_info["name"])
    if found is None:
        return web.Response(status=404, text="no such asset in this version\n")
    return web.Response(
        body=found.body,
        content_type=found.content_type,
        charset="utf-8",
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )


async def callback(request: web.Request) -> web.Response:
    """Answer a GET with effects (a sign-in's return): counted, never to be repeated."""
    count = request.app[CALLBACKS]
    count.append(request.query.get("state", ""))
    del count[:-100]
    return web.json_response({**request.app[IDENTITY].json(), "callbacks": len(count)})


CALLBACKS: web.AppKey[list[str]] = web.AppKey("callbacks", list)


def add_routes(app: web.Application) -> None:
    """Make ``app`` the website."""
    app[SITE] = build_site(app[IDENTITY])
    app[CALLBACKS] = []
    app.router.add_get("/", page)
    app.router.add_get("/assets/{name}", asset)
    app.router.add_get("/auth/callback", callback)
