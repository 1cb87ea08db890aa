"""Serve answers of two sizes on a port of 127.0.0.1: ``python serve_sizes.py PORT NAME``.

``/large`` is a quarter of a mebibyte, everything else a kibibyte; content is read and thrown away.
"""

from __future__ import annotations

import sys

from aiohttp import web

SMALL = b"x" * 1024
LARGE = b"y" * 256 * 1024


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=LARGE if request.path == "/large" else SMALL)


def main(port: int) -> None:
    """Serve until SIGTERM."""
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", answer)
    web.run_app(application, host="127.0.0.1", port=port, print=None, backlog=4096)


if __name__ == "__main__":
    main(int(sys.argv[1]))
