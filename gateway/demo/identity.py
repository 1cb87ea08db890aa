"""Who a demo process is, and how its answers say so."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from gateway.config.snapshot import Color

#: The releases that the two colors stand for.
VERSIONS: dict[Color, str] = {"blue": "1.8.0", "green": "1.9.0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One process of the platform. ``replica`` counts from 1 within a service and color."""

    service: str
    color: Color
    replica: int = 1

    @property
    def name(self) -> str:
        """How people call it: ``ivor-green-2``."""
        return f"{self.service}-{self.color}-{self.replica}"

    @property
    def version(self) -> str:
        """The version that this color stands for."""
        return VERSIONS[self.color]

    def json(self) -> dict[str, str]:
        """Return what every JSON answer carries about who gave it."""
        return {"service": self.service, "color": self.color, "version": self.version,
                "instance": self.name}  # fmt: skip


IDENTITY: web.AppKey[Identity] = web.AppKey("identity", Identity)


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put the answerer's name into an answer's fields (an ``on_response_prepare`` signal)."""
    identity = request.app[IDENTITY]
    response.headers["X-Demo-Service"] = identity.service
    response.headers["X-Demo-Color"] = identity.color
    response.headers["X-Demo-Version"] = identity.version
    response.headers["X-Demo-Instance"] = identity.name


def answer(request: web.Request, **content: object) -> web.Response:
    """Return a JSON answer that says who gave it."""
    return web.json_response({**request.app[IDENTITY].json(), **content})
