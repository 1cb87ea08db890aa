"""The handlers of the calls about releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.admin import models, release_models
from gateway.admin.handlers import Handlers
from gateway.admin.problems import answer
from gateway.admin.release_pictures import decision, summary
from gateway.config.scalars import parse_duration
from gateway.control.releasedesk import Ask
from gateway.release.plan import Step, Wish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from gateway.admin.inbound import Inbound
    from gateway.admin.pictures import Pictures
    from gateway.admin.release_pictures import ReleasePictures
    from gateway.control.releasecalls import ReleaseCalls
    from gateway.control.switchboard import Caller, Switchboard, Written

    Verb = Callable[[Caller, str], Awaitable[Written]]


class ReleaseApi(Handlers):
    """Each handler has its call's name (see ``calls``)."""

    def __init__(
        self,
        switchboard: Switchboard,
        calls: ReleaseCalls,
        shown: Pictures,
        releases: ReleasePictures,
    ) -> None:
        super().__init__(switchboard, shown)
        self._calls = calls
        self._releases = releases

    # --- reading ----------------------------------------------------------------------------------

    async def releases(self, inbound: Inbound) -> web.Response:
        """``GET /v1/releases``."""
        limit = int(inbound.query.get("limit", "50"))
        before = int(inbound.query["before"]) if "before" in inbound.query else None
        with self._refusals():
            found = await self._calls.all(before, limit + 1)
        current = self._switch.state.run
        shown = [
            # What is under way may be ahead of what is stored.
            current if current is not None and each.id == current.id else each
            for each in found[:limit]
        ]
        following = shown[-1].number if len(found) > limit else None
        return self._answer(
            release_models.ReleasesPage(releases=[summary(each) for each in shown], next=following)
        )

    async def release(self, inbound: Inbound) -> web.Response:
        """``GET /v1/releases/{id}``."""
        with self._refusals():
            run = await self._calls.one(inbound.path["id"])
            kept = await self._releases.kept(run)
        return self._answer(self._releases.status(run, kept))

    async def decisions(self, inbound: Inbound) -> web.Response:
        """``GET /v1/releases/{id}/decisions``."""
        with self._refusals():
            run, rows = await self._calls.decisions(inbound.path["id"])
        return answer(
            release_models.DecisionsPage(release=run.id, decisions=[decision(row) for row in rows])
        )

    # --- writing ----------------------------------------------------------------------------------

    async def start_release(self, inbound: Inbound) -> web.Response:
        """``POST /v1/releases``."""
        body = inbound.given(release_models.ReleaseStart)
        caller = self._caller(inbound, body.reason)
        ask = Ask(
            services=tuple(body.services) if body.services is not None else None,
            version=body.version,
            generations=body.pools or {},
            wish=_wish(body),
            force=body.force,
            reason=body.reason,
            actor=caller.actor,
        )
        with self._refusals():
            written = await self._calls.start(caller, ask)
        return self._written(written, status=201)

    async def pause_release(self, inbound: Inbound) -> web.Response:
        """``POST /v1/releases/{id}/pause``."""
        return await self._steered(inbound, self._calls.pause)

    async def resume_release(self, inbound: Inbound) -> web.Response:
        """``POST /v1/releases/{id}/resume``."""
        return await self._steered(inbound, self._calls.resume)

    async def promote_release(self, inbound: Inbound) -> web.Response:
        """``POST /v1/releases/{id}/promote``."""
        body = inbound.given(release_models.ReleasePromote)
        to = models.hundredths(body.to) if body.to is not None else None
        with self._refusals():
            caller = self._caller(inbound, body.reason)
            return self._written(
                await self._calls.promote(caller, inbound.path["id"], to, force=body.force)
            )

    async def abort_release(self, inbound: Inbound) -> web.Response:
        """``POST /v1/releases/{id}/abort``."""
        body = inbound.given(release_models.ReleaseVerb)
        with self._refusals():
            caller = self._caller(inbound, body.reason)
            return self._written(
                await self._calls.abort(caller, inbound.path["id"], force=body.force)
            )

    async def finalize_release(self, inbound: Inbound) -> web.Response:
        """``POST /v1/releases/{id}/finalize``."""
        return await self._steered(inbound, self._calls.finalize)

    async def renew_release(self, inbound: Inbound) -> web.Response:
        """``POST /v1/releases/{id}/renew``."""
        inbound.given(release_models.ReleaseRenew)
        with self._refusals():
            caller = self._caller(inbound, "")
            return self._written(await self._calls.renew(caller, inbound.path["id"]))

    async def _steered(self, inbound: Inbound, verb: Verb) -> web.Response:
        body = inbound.given(release_models.ReleaseVerb)
        with self._refusals():
            caller = self._caller(inbound, body.reason)
            return self._written(await verb(caller, inbound.path["id"]))

    def _written(self, written: Written, status: int = 200) -> web.Response:
        run = written.state.run
        assert run is not None
        shown = self._releases.status(run)
        body = release_models.ReleaseAnswer(
            **shown.model_dump(), changed=written.changed, applied_in_ms=self._moved_in(written)
        )
        response = self._answer(body)
        response.set_status(status)
        return response


def _wish(body: release_models.ReleaseStart) -> Wish:
    steps = None
    if body.steps is not None:
        steps = tuple(
            Step(
                weight=models.hundredths(each.weight),
                hold=parse_duration(each.hold),
                early=each.early,
            )
            for each in body.steps
        )
    return Wish(
        steps=steps,
        lease=models.seconds(body.lease) if body.lease is not None else None,
        on_lease_lost=body.on_lease_lost,
        finalize=body.finalize,
        forward_only=body.forward_only,
    )
