"""Serve PyPI's httpbin on a port of 127.0.0.1: ``python serve_httpbin.py PORT NAME``.

An application and a server that nobody here wrote. ``X-Served-By: NAME`` says which color it plays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from httpbin import app
from werkzeug.serving import WSGIRequestHandler, run_simple

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


def named(name: str) -> Callable[[Environ, StartResponse], Iterable[bytes]]:
    """Wrap httpbin so that its answers bear a name."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, fields: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*fields, ("X-Served-By", name)], *rest)

        # httpbin believes that only one server decodes chunked bodies, and knows it by name;
        # werkzeug's does so, too.
        environ["SERVER_SOFTWARE"] = "gunicorn/werkzeug"
        answer: Iterable[bytes] = app(environ, start)
        return answer

    return application


class Handler(WSGIRequestHandler):
    """HTTP/1.1, so that connections are kept alive and bodies may be chunked."""

    protocol_version = "HTTP/1.1"


if __name__ == "__main__":
    run_simple(
        "127.0.0.1",
        int(sys.argv[1]),
        named(sys.argv[2]),
        threaded=True,
        request_handler=Handler,
    )
