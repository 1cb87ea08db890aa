"""The website: a page that calls the three APIs, and one for which it calls them itself.

The files in ``site/`` are templates: ``@COLOR@`` and ``@VERSION@`` are filled in per color, so
the colors' hashed assets differ, and so do their names. As on a real site, a color answers 404 for
the other's assets.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from importlib import resources

import aiohttp
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
    """What one color serves: its pages and its assets by name. ``today`` has one gap left."""

    page: str
    today: str
    assets: dict[str, Asset]


def build_site(identity: Identity) -> Site:
    """Fill in the templates for one color and name the assets by their content."""
    folder = resources.files("gateway.demo").joinpath("site")

    def filled(name: str) -> str:
        text = folder.joinpath(name).read_text("utf-8")
        return text.replace("@COLOR@", identity.color).replace("@VERSION@", identity.version)

    pages = [filled("index.html"), filled("today.html")]
    assets = {}
    for name in ("style.css", "app.js", "icon.svg"):
        body = filled(name).encode()
        stem, _, suffix = name.rpartition(".")
        hashed = f"{stem}.{hashlib.sha256(body).hexdigest()[:10]}.{suffix}"
        assets[hashed] = Asset(hashed, _TYPES[suffix], body)
        pages = [page.replace(f"/assets/{name}", f"/assets/{hashed}") for page in pages]
    return Site(pages[0], pages[1], assets)


#: What the gateway told this service about the visitor, to be quoted to the next one.
PASSED_ON = ("X-Release-Id", "X-Release-Role", "X-Release-Key", "X-Request-Id", "traceparent")

ASK_TIMEOUT = aiohttp.ClientTimeout(total=5)

_ASKED = {
    "ivor": "/api/ivor/resources",
    "events": "/api/events/upcoming",
    "newsroom": "/api/newsroom/articles",
}

#: The gateway's public address, empty where it is not known.
GATEWAY: web.AppKey[str] = web.AppKey("gateway", str)

SITE: web.AppKey[Site] = web.AppKey("site", Site)


async def page(request: web.Request) -> web.Response:
    """Answer the page; nobody may keep it without asking."""
    return web.Response(
        text=request.app[SITE].page,
        content_type="text/html",
        charset="utf-8",
        headers={"Cache-Control": "no-cache"},
    )


async def today(request: web.Request) -> web.Response:
    """Answer a page made from what the other services say to this visitor's side."""
    gateway = request.app[GATEWAY]
    if not gateway:
        return web.Response(status=503, text="this website was not told where the gateway is\n")
    passed = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    async with aiohttp.ClientSession(gateway, timeout=ASK_TIMEOUT) as session:
        boxes = [await _box(session, name, path, passed) for name, path in _ASKED.items()]
    text = request.app[SITE].today.replace("@BOXES@", "".join(boxes))
    return web.Response(text=text, content_type="text/html", charset="utf-8")


async def _box(session: aiohttp.ClientSession, name: str, path: str, passed: dict[str, str]) -> str:
    """Ask one service through the gateway; return a box that says who answered."""
    title = html.escape(name.capitalize())
    try:
        async with session.get(path, headers=passed) as response:
            said = await response.json() if response.ok else {}
            status = response.status
            stand_in = response.headers.get("X-Gateway-Served-By", "")
    except (aiohttp.ClientError, TimeoutError, ValueError):
        said, status, stand_in = {}, 0, ""
    if stand_in == "static":
        who = '<span class="badge">a static page</span> stands in for it'
    elif not isinstance(said, dict) or "color" not in said:
        who = f'<span class="badge failed">failed</span> {status or "no answer"}'
    else:
        color, instance = html.escape(str(said["color"])), html.escape(str(said.get("instance")))
        badge = f'<span class="badge {color}" data-answerer="{name}">{color}</span>'
        who = f"Answered by {badge} ({instance})"
    return f'<section><h2>{title}</h2><p class="who">{who}</p></section>'


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
    app.router.add_get("/today", today)
    app.router.add_get("/assets/{name}", asset)
    app.router.add_get("/auth/callback", callback)
