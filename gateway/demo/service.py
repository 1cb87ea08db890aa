"""One demo service's process: ``python -m gateway.demo.service --service ivor --color blue …``.

It serves on ``--port``, and the knob alone on a control port of its own, which still answers while
the service is dead. Once both accept it prints one line of JSON (``Ready``). It ends on SIGTERM,
and when its standard input ends: whoever started it is gone then, however that ended.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from contextlib import suppress

import msgspec
from aiohttp import web

from gateway.demo import events, ivor, newsroom, website
from gateway.demo.identity import IDENTITY, Identity, sign
from gateway.demo.knob import Knob, Setting

HOST = "127.0.0.1"

#: A demo's upload may be large; the gateway's own limit is what counts.
MAX_BODY = 1 << 31

ROUTES = {
    "website": website.add_routes,
    "ivor": ivor.add_routes,
    "events": events.add_routes,
    "newsroom": newsroom.add_routes,
}

#: Exit status where the port is taken (the platform says which).
EXIT_PORT_TAKEN = 98


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The one line that a started process prints."""

    instance: str
    port: int
    control: int


async def health(request: web.Request) -> web.Response:
    """Answer the L2 probe."""
    knob = request.app[KNOB]
    if knob.setting.unhealthy:
        return web.json_response(
            {**request.app[IDENTITY].json(), "status": "unhealthy on purpose"}, status=503
        )
    return web.json_response({**request.app[IDENTITY].json(), "status": "ok"})


KNOB: web.AppKey[Knob] = web.AppKey("knob", Knob)


def make_app(identity: Identity, knob: Knob, gateway: str = "") -> web.Application:
    """Compose one service; ``gateway`` is the public address that it calls others through.

    Raises KeyError for a service that the platform has not.
    """
    app = web.Application(middlewares=[knob.middleware()], client_max_size=MAX_BODY)
    app[IDENTITY] = identity
    app[KNOB] = knob
    app[website.GATEWAY] = gateway
    app.on_response_prepare.append(sign)
    app.router.add_get("/health", health)
    app.router.add_get("/_demo", knob.handle)
    app.router.add_post("/_demo", knob.handle)
    ROUTES[identity.service](app)
    return app


def make_control_app(knob: Knob) -> web.Application:
    """Compose the control port: the knob and nothing else."""
    app = web.Application()
    app.router.add_get("/_demo", knob.handle)
    app.router.add_post("/_demo", knob.handle)
    return app


class Service:
    """A service on its port. Dead means: nobody listens, and open connections are reset."""

    def __init__(self, identity: Identity, knob: Knob, port: int, gateway: str = "") -> None:
        app = make_app(identity, knob, gateway)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.5, keepalive_timeout=120
        )
        self._site: web.TCPSite | None = None
        self.port = port
        knob.on_change(self._obey)

    async def start(self) -> None:
        """Serve. Raises OSError where the port is taken."""
        await self._runner.setup()
        await self._listen()

    async def stop(self) -> None:
        """Stop serving; requests in flight have half a second."""
        await self._runner.cleanup()

    async def _listen(self) -> None:
        site = web.TCPSite(self._runner, HOST, self.port)
        await site.start()
        self._site = site
        # Port 0 was the operating system's choice; a revived service comes back to the same one.
        self.port = self._runner.addresses[-1][1]

    async def _obey(self, setting: Setting) -> None:
        """Die or come back as the knob says."""
        if setting.dead and self._site is not None:
            site, self._site = self._site, None
            await site.stop()
            server = self._runner.server
            for connection in server.connections if server is not None else []:
                if connection.transport is not None:
                    connection.transport.abort()
        elif not setting.dead and self._site is None:
            await self._listen()


async def serve(identity: Identity, port: int, gateway: str, stopped: asyncio.Event) -> None:
    """Serve until ``stopped``. Raises OSError where the port is taken."""
    knob = Knob()
    service = Service(identity, knob, port, gateway)
    control = web.AppRunner(make_control_app(knob), access_log=None, shutdown_timeout=0.5)
    try:
        await service.start()
        await control.setup()
        await web.TCPSite(control, HOST, 0).start()
        ready = Ready(instance=identity.name, port=service.port, control=control.addresses[0][1])
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()
        await stopped.wait()
    finally:
        await service.stop()
        await control.cleanup()


async def _run(identity: Identity, port: int, gateway: str) -> None:
    """Serve until SIGTERM, SIGINT or the end of standard input."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin)
            stopped.set()

    loop.add_reader(sys.stdin, on_input)
    await serve(identity, port, gateway, stopped)


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="gateway.demo.service")
    parser.add_argument("--service", required=True, choices=sorted(ROUTES))
    parser.add_argument("--color", required=True, choices=["blue", "green"])
    parser.add_argument("--replica", type=int, default=1)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gateway", default="", metavar="URL")
    arguments = parser.parse_args()
    identity = Identity(service=arguments.service, color=arguments.color, replica=arguments.replica)
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(_run(identity, arguments.port, arguments.gateway))
        except OSError as error:
            sys.stderr.write(f"{identity.name}: port {arguments.port}: {error.strerror}\n")
            sys.exit(EXIT_PORT_TAKEN)


if __name__ == "__main__":
    main()
