"""Calls that are no JSON answers: server-sent events, and the pages for people."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from gateway.admin.calls import EVENTS, HTML, JSON
from gateway.admin.openapi import document
from gateway.admin.problems import ProblemError
from gateway.control.events import TooManyWatchersError
from gateway.version import VERSION

if TYPE_CHECKING:
    from gateway.control.events import Event, Events

#: Seconds between two signs of life on a silent stream, and before a reader comes back.
HEARTBEAT: Final = 15.0
RETRY_MS: Final = 1000
#: Seconds in which a reader must make room for what is written next.
READ_TIMEOUT: Final = 30.0

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class Streams:
    """Handlers that take the request itself."""

    def __init__(self, events: Events) -> None:
        self._events = events

    async def events(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/events``: what was missed since Last-Event-ID, then what comes."""
        response = web.StreamResponse(
            headers={"Content-Type": EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        try:
            with self._events.watch() as watcher:
                missed = self._events.since(request.headers.get("Last-Event-ID"))
                await response.prepare(request)
                await _write(response, f"retry: {RETRY_MS}\n\n".encode())
                for event in missed:
                    await _write(response, framed(event))
                while True:
                    try:
                        async with asyncio.timeout(HEARTBEAT):
                            following = await watcher.next()
                    except TimeoutError:
                        await _write(response, b": alive\n\n")
                        continue
                    if following is None:
                        return response
                    await _write(response, framed(following))
        except TooManyWatchersError as error:
            raise ProblemError(503, "too-many-watchers", str(error)) from error
        except ConnectionError:
            return response  # the reader has left
        except TimeoutError:
            # It reads nothing: it gives its place up, and comes back where it left off.
            if request.transport is not None:
                request.transport.abort()
            return response

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        """``GET /openapi.json``."""
        del request
        return web.Response(body=_openapi(), content_type=JSON)

    async def docs(self, request: web.Request) -> web.StreamResponse:
        """``GET /docs``."""
        del request
        return _page(_docs())

    async def dashboard(self, request: web.Request) -> web.StreamResponse:
        """``GET /``."""
        del request
        return _page(_text("dashboard.html"))


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Write to a stream. Raises TimeoutError where its reader makes no room."""
    async with asyncio.timeout(READ_TIMEOUT):
        await response.write(data)


def framed(event: Event) -> bytes:
    """Return one event as server-sent text (its data is one line of JSON)."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.kind.encode(), event.data)


@cache
def _text(name: str) -> str:
    return resources.files("gateway.admin").joinpath("pages", name).read_text("utf-8")


@cache
def _openapi() -> bytes:
    return orjson.dumps(document(VERSION), option=orjson.OPT_INDENT_2)


def _page(text: str) -> web.Response:
    """Return a page that may run its own inline script and style and load nothing else."""
    return web.Response(
        body=_encoded(text),
        content_type=HTML,
        charset="utf-8",
        headers={"Content-Security-Policy": policy(text)},
    )


@cache
def _encoded(text: str) -> bytes:
    return text.encode()


@cache
def policy(text: str) -> str:
    """Return the Content-Security-Policy that allows exactly a page's own parts, by digest."""
    digests: dict[str, list[str]] = {"script": [], "style": []}
    for match in _INLINE.finditer(text):
        digest = base64.b64encode(hashlib.sha256(match[2].encode()).digest()).decode()
        digests[match[1]].append(f"'sha256-{digest}'")
    sources = {kind: " ".join(found) or "'none'" for kind, found in digests.items()}
    return (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def _docs() -> str:
    """Return the document as a page: every call with its role, parameters, bodies and statuses."""
    described = document(VERSION)
    sections = [
        _section(method.upper(), path, operation)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = [
        f'<section id="{name}"><h3>{name}</h3><p>{html.escape(schema.get("description", ""))}</p>'
        f"<pre>{html.escape(orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode())}</pre>"
        "</section>"
        for name, schema in described["components"]["schemas"].items()
    ]
    return (
        _text("docs.html")
        .replace("{{version}}", html.escape(VERSION))
        .replace("{{calls}}", "\n".join(sections))
        .replace("{{schemas}}", "\n".join(schemas))
    )


def _section(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{html.escape(each['name'])}</code> ({each['in']}): "
        f"{html.escape(each['description'])}</li>"
        for each in operation["parameters"]
    )
    statuses = "".join(
        f"<li><b>{status}</b> {html.escape(response['description'])}{_schema_link(response)}</li>"
        for status, response in operation["responses"].items()
    )
    body = operation.get("requestBody")
    taken = f"<p>Takes {_schema_link(body)}</p>" if body else ""
    listed = f"<h4>Parameters</h4><ul>{parameters}</ul>" if parameters else ""
    return (
        f"<section><h3><span>{method}</span> <code>{html.escape(path)}</code></h3>"
        f"<p>{html.escape(operation['summary'])}. {html.escape(operation['description'])}</p>"
        f"{taken}{listed}<h4>Answers</h4><ul>{statuses}</ul></section>"
    )


def _schema_link(part: dict[str, Any]) -> str:
    for content in part.get("content", {}).values():
        if reference := content["schema"].get("$ref"):
            name = reference.rpartition("/")[2]
            return f' <a href="#{name}">{name}</a>'
    return ""
