"""The knob of a demo service: how slow, failing or dead it is right now.

The knob never touches ``/health`` unless ``unhealthy`` says so: a version that answers its probes
and fails its users is the interesting case.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

Sleep = Callable[[float], Awaitable[None]]

#: An hour; a longer delay is a typing error.
MAX_SLOW_MS: Final = 3_600_000

#: Paths that the knob leaves alone.
EXEMPT: Final = frozenset({"/health", "/_demo", "/api/chat/selftest"})


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a service behaves: milliseconds before each answer, share of requests failed (0-1)."""

    slow_ms: int = 0
    fail: float = 0.0
    dead: bool = False
    unhealthy: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change to a setting; what is not named stays as it is."""

    slow_ms: int | msgspec.UnsetType = msgspec.UNSET
    fail: float | msgspec.UnsetType = msgspec.UNSET
    dead: bool | msgspec.UnsetType = msgspec.UNSET
    unhealthy: bool | msgspec.UnsetType = msgspec.UNSET


def changed(setting: Setting, change: Change) -> Setting:
    """Return ``setting`` with ``change`` made. Raises ValueError for what is out of range."""
    named = {
        name: value
        for name in change.__struct_fields__
        if (value := getattr(change, name)) is not msgspec.UNSET
    }
    result = msgspec.structs.replace(setting, **named)
    if not 0 <= result.slow_ms <= MAX_SLOW_MS:
        raise ValueError(f"slow_ms: {result.slow_ms}, expected 0 to {MAX_SLOW_MS}")
    if not 0 <= result.fail <= 1:
        raise ValueError(f"fail: {result.fail}, expected a share from 0 to 1")
    return result


class Knob:
    """The setting in force, and who is told when it moves."""

    def __init__(
        self, chance: Callable[[], float] = random.random, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.setting = Setting()
        self._chance = chance
        self._sleep = sleep
        self._listeners: list[Callable[[Setting], Awaitable[None]]] = []

    def on_change(self, listener: Callable[[Setting], Awaitable[None]]) -> None:
        """Call ``listener`` with every setting that comes into force."""
        self._listeners.append(listener)

    async def turn(self, change: Change) -> Setting:
        """Make a change. Raises ValueError, with nothing changed, for what is out of range."""
        self.setting = changed(self.setting, change)
        for listener in self._listeners:
            await listener(self.setting)
        return self.setting

    def middleware(self) -> Middleware:
        """Return the aiohttp middleware that delays and fails requests as the knob says."""

        @web.middleware
        async def obey(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path in EXEMPT:
                return await handler(request)
            if self.setting.slow_ms:
                await self._sleep(self.setting.slow_ms / 1000)
            if self.setting.fail and self._chance() < self.setting.fail:
                return web.json_response({"error": "broken on purpose"}, status=500)
            return await handler(request)

        return obey

    async def handle(self, request: web.Request) -> web.Response:
        """Answer ``GET`` and ``POST /_demo``.

        Only JSON is taken: a browser sends that across origins after a preflight alone, which is
        never granted here, so no web page that somebody has open can turn the knob.
        """
        if request.method == "POST":
            if request.content_type != "application/json":
                return web.json_response(
                    {"error": "Content-Type must be application/json"}, status=415
                )
            try:
                await self.turn(msgspec.json.decode(await request.read(), type=Change))
            except (ValueError, msgspec.DecodeError) as error:
                return web.json_response({"error": str(error)}, status=400)
        return web.json_response(msgspec.to_builtins(self.setting))
