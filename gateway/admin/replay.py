"""Idempotency-Key: a call repeated under its key gives the first one's answer again.

Kept is what succeeded: a refused call changed nothing and may be tried again under its key. While
the first is still under way (its connection broke), a repetition waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.admin.problems import JSON_TYPE, ProblemError
from gateway.control.store import Answer, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.admin.inbound import Inbound
    from gateway.control.store import Store

log = logging.getLogger("gateway.admin")


class Replays:
    """The keys under way and those kept. ``wall`` is seconds since the epoch."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall
        #: Each key's lock and how many calls hold or await it.
        self._under_way: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}

    async def once(
        self, inbound: Inbound, handle: Callable[[], Awaitable[web.Response]]
    ) -> web.Response:
        """Handle a call, or answer what it was answered before.

        Raises ProblemError (422) where the key was used for something else.
        """
        if inbound.key is None or inbound.identity is None:
            return await handle()
        name = (inbound.identity.name, inbound.key)
        lock, users = self._under_way.get(name, (asyncio.Lock(), 0))
        self._under_way[name] = (lock, users + 1)
        try:
            async with lock:
                return await self._once(inbound, name, handle)
        finally:
            lock, users = self._under_way.pop(name)
            if users > 1:
                self._under_way[name] = (lock, users - 1)

    async def _once(
        self,
        inbound: Inbound,
        name: tuple[str, str],
        handle: Callable[[], Awaitable[web.Response]],
    ) -> web.Response:
        actor, key = name
        digest = _digest(inbound)
        kept = await self._kept(actor, key)
        if kept is not None:
            if kept.request != digest:
                raise ProblemError(
                    422,
                    "idempotency-key-reused",
                    "this Idempotency-Key was used for another call",
                    field="Idempotency-Key",
                )
            return _again(kept)
        response = await handle()
        body = response.body
        assert isinstance(body, bytes)
        await self._keep(
            Answer(
                actor=actor,
                key=key,
                request=digest,
                status=response.status,
                body=body,
                etag=response.headers.get("ETag", ""),
                at=self._wall(),
            )
        )
        return response

    async def _kept(self, actor: str, key: str) -> Answer | None:
        try:
            return await self._store.remembered(actor, key, self._wall())
        except StoreError as error:
            raise ProblemError(
                503, "store-unavailable", f"the state store fails: {error}"
            ) from error

    async def _keep(self, answer: Answer) -> None:
        try:
            await self._store.remember(answer)
        except StoreError:
            # The call is done and is answered; only its repetition would be done again.
            log.exception("the answer under an Idempotency-Key is not kept")


def _digest(inbound: Inbound) -> bytes:
    call = inbound.call
    asked = "\n".join(
        [
            call.method,
            call.path,
            *(f"{name}={value}" for name, value in sorted(inbound.path.items())),
            *(f"{name}={value}" for name, value in sorted(inbound.query.items())),
        ]
    )
    return hashlib.sha256(asked.encode() + b"\n\n" + inbound.raw).digest()


def _again(kept: Answer) -> web.Response:
    headers = {"Idempotency-Replayed": "true"}
    if kept.etag:
        headers["ETag"] = kept.etag
    return web.Response(body=kept.body, status=kept.status, content_type=JSON_TYPE, headers=headers)
