"""The client's calls about releases. Answers are ``gateway.admin.release_models``.

A release is named by its id, or as ``current``: the one that runs, else the last.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from gateway.admin import release_models as models
from gateway.client.call import CALL_TIMEOUT, Caller, Reply, query

Verb = Literal["pause", "resume", "abort", "finalize"]


class ReleaseCalls(Caller):
    """Start, look at and steer releases."""

    async def start_release(self, request: models.ReleaseStart) -> Reply[models.ReleaseAnswer]:
        """``POST /v1/releases``."""
        return await self._call("POST", "/v1/releases", models.ReleaseAnswer, body=request)

    async def releases(
        self, *, limit: int, before: int | None = None
    ) -> Reply[models.ReleasesPage]:
        """``GET /v1/releases``: newest first, ``limit`` of them, those before a page's end."""
        said = query(limit=str(limit), before="" if before is None else str(before))
        return await self._call("GET", "/v1/releases" + said, models.ReleasesPage)

    async def release(
        self, ident: str, *, patience: float = CALL_TIMEOUT
    ) -> Reply[models.ReleaseStatus]:
        """``GET /v1/releases/{id}``, waited for as many seconds as ``patience``."""
        return await self._call("GET", _path(ident), models.ReleaseStatus, patience=patience)

    async def decisions(
        self, ident: str, *, patience: float = CALL_TIMEOUT
    ) -> Reply[models.DecisionsPage]:
        """``GET /v1/releases/{id}/decisions``: oldest first."""
        path = f"{_path(ident)}/decisions"
        return await self._call("GET", path, models.DecisionsPage, patience=patience)

    async def steer_release(
        self, ident: str, verb: Verb, request: models.ReleaseVerb
    ) -> Reply[models.ReleaseAnswer]:
        """``POST /v1/releases/{id}/pause``, ``resume``, ``abort`` or ``finalize``.

        An abort is a rollback: it may be repeated at will, and replays no old answer.
        """
        path = f"{_path(ident)}/{verb}"
        return await self._call(
            "POST", path, models.ReleaseAnswer, body=request, keyed=verb != "abort"
        )

    async def promote_release(
        self, ident: str, request: models.ReleasePromote
    ) -> Reply[models.ReleaseAnswer]:
        """``POST /v1/releases/{id}/promote``: on to the next step, or to ``request.to``."""
        path = f"{_path(ident)}/promote"
        return await self._call("POST", path, models.ReleaseAnswer, body=request)

    async def renew_release(
        self, ident: str, *, patience: float = CALL_TIMEOUT
    ) -> Reply[models.ReleaseAnswer]:
        """``POST /v1/releases/{id}/renew``. Without a key: each renewal is one of its own."""
        return await self._call(
            "POST",
            f"{_path(ident)}/renew",
            models.ReleaseAnswer,
            body=models.ReleaseRenew(),
            keyed=False,
            patience=patience,
        )


def _path(ident: str) -> str:
    """Return a release's path. Whatever it is called, it stays one segment."""
    return f"/v1/releases/{quote(ident, safe='')}"
