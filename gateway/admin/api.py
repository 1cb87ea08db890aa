"""The calls' handlers: from a request that was read to the switchboard and back to an answer.

Nothing is decided here. Each handler has its call's name (see ``calls``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway import hot
from gateway.admin import models, pictures
from gateway.admin.handlers import Handlers, refused_part
from gateway.admin.problems import ProblemError, answer
from gateway.board import layout
from gateway.channel.upgrades import RESULTS
from gateway.config.addresses import EndpointAddress, parse_endpoint
from gateway.control import desk, pooldesk
from gateway.control.certificates import in_force
from gateway.control.operations import NewPool
from gateway.observe import exposition
from gateway.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.admin.inbound import Inbound
    from gateway.admin.logins import Logins
    from gateway.admin.pictures import Pictures
    from gateway.admin.release_pictures import ReleasePictures
    from gateway.admin.speaker import Unread
    from gateway.config.snapshot import Color
    from gateway.control.desk import ColorOrRole, Facts, Outcome
    from gateway.control.operations import Operations
    from gateway.control.releasecalls import ReleaseCalls
    from gateway.control.state import State
    from gateway.control.switchboard import Caller, Switchboard, Written

    Decision = Callable[[State, Facts], Outcome]


#: Nanoseconds for which the octets of a scrape are given to whoever asks: it needs no token, and
#: costs control's loop milliseconds.
SCRAPE_KEPT: Final = 1_000_000_000


class Api(Handlers):
    """The handlers of the calls that take and give JSON, and the metrics."""

    def __init__(
        self,
        switchboard: Switchboard,
        operations: Operations,
        shown: Pictures,
        releases: ReleaseCalls,
        runs: ReleasePictures,
        logins: Logins,
        unread: Unread,
    ) -> None:
        super().__init__(switchboard, shown)
        self._logins = logins
        self._unread = unread
        #: When the last scrape's octets were made, of which state, and they themselves.
        self._scraped: tuple[int, State, bytes] | None = None
        self._releases = releases
        self._runs = runs
        self._operations = operations
        self._reloads = {"ok": 0, "refused": 0}

    # --- reading ----------------------------------------------------------------------------------

    async def status(self, inbound: Inbound) -> web.Response:
        """``GET /v1/status``."""
        del inbound
        return self._answer(self._shown.status())

    async def traffic(self, inbound: Inbound) -> web.Response:
        """``GET /v1/traffic``."""
        del inbound
        return self._answer(pictures.traffic(self._switch.state))

    async def service_health(self, inbound: Inbound) -> web.Response:
        """``GET /v1/services/{service}/health``."""
        with self._refusals():
            service = desk.one(self._switch.state, inbound.path["service"])
        return answer(self._shown.health(service))

    async def audit(self, inbound: Inbound) -> web.Response:
        """``GET /v1/audit``."""
        limit = int(inbound.query.get("limit", "50"))
        before = int(inbound.query["before"]) if "before" in inbound.query else None
        with self._refusals():
            entries = await self._switch.parts.store.audit(before, limit + 1)
        rows = [pictures.audit_row(each) for each in entries[:limit]]
        following = rows[-1].id if len(entries) > limit else None
        return answer(models.AuditPage(rows=rows, next=following))

    async def healthz(self, inbound: Inbound) -> web.Response:
        """``GET /healthz``: this answers, so control is alive."""
        del inbound
        return answer(models.HealthAnswer(status="ok"))

    async def readyz(self, inbound: Inbound) -> web.Response:
        """``GET /readyz``."""
        del inbound
        hub = self._switch.parts.hub
        if self._switch.parts.board.words[layout.H_LEAVING]:
            raise ProblemError(503, "unready", "the gateway is stopping")
        behind = hub.behind(hub.number)
        if behind or not hub.workers():
            detail = "no worker is connected" if not behind else "not all workers are current"
            raise ProblemError(503, "unready", detail, lagging=list(behind))
        return answer(models.HealthAnswer(status="ok"))

    async def metrics(self, inbound: Inbound) -> web.Response:
        """``GET /metrics``: made anew once in a second at most, and after each write."""
        del inbound
        now, state, kept = self._shown.clock(), self._switch.state, self._scraped
        if kept is None or now - kept[0] >= SCRAPE_KEPT or kept[1] is not state:
            kept = self._scraped = now, state, exposition.render(self._view(now))
        return web.Response(body=kept[2], headers={"Content-Type": exposition.CONTENT_TYPE})

    def _view(self, now: int) -> exposition.MetricsView:
        parts = self._switch.parts
        return exposition.MetricsView(
            board=parts.board,
            topology=parts.hub.topology,
            traffic=parts.hub.traffic,
            reloads=tuple(self._reloads.items()),
            lagging_workers=len(parts.hub.behind(parts.hub.number)),
            state_in_memory=bool(parts.store.fallback),
            state_unstored=self._switch.unstored,
            state_rebuilt=self._switch.rebuilt.at,
            snapshot_unwritten=parts.hub.unwritten,
            names_failing=len(parts.resolver.failing),
            platform=self._shown.platform.look(),
            now=now,
            version=VERSION,
            build=hot.compiled_state(),
            release=self._runs.metrics(self._switch.state.run),
            probes=tuple(sorted(parts.news.counts.items())),
            certificates=tuple(
                (each.place, each.expires) for each in in_force(self._switch.settings)
            ),
            issuers=() if parts.issuers is None else parts.issuers.seen(parts.hub.topology.auth),
            logins_failed=self._logins.counts,
            certificates_refused=self._switch.certificates_refused(),
            unread=self._unread.count,
            upgrades=tuple((each, self._switch.upgrades().counts[each]) for each in RESULTS),
        )

    # --- traffic ----------------------------------------------------------------------------------

    async def set_traffic(self, inbound: Inbound) -> web.Response:
        """``PUT /v1/traffic``."""
        change = inbound.given(models.TrafficChange)
        side, weight = change.share
        share = desk.Share(
            side=side,
            weight=weight,
            services=tuple(change.services) if change.services is not None else None,
            force=change.force,
        )
        return await self._traffic(
            inbound,
            change.reason,
            "traffic.set",
            lambda state, facts: desk.set_traffic(state, facts, share, self._fresh),
        )

    async def finalize(self, inbound: Inbound) -> web.Response:
        """``POST /v1/traffic/finalize``."""
        body = inbound.given(models.FinalizeRequest)
        return await self._traffic(
            inbound,
            body.reason,
            "traffic.finalize",
            lambda state, _: desk.finalize(state, body.services, self._fresh),
        )

    async def adopt(self, inbound: Inbound) -> web.Response:
        """``POST /v1/adopt``."""
        body = inbound.given(models.AdoptRequest)
        return await self._traffic(
            inbound,
            body.reason,
            "adopt",
            lambda state, _: desk.adopt(state, body.color, body.services, self._fresh),
        )

    async def isolate(self, inbound: Inbound) -> web.Response:
        """``POST /v1/services/{service}/isolate``."""
        body = inbound.given(models.IsolateRequest)
        name = inbound.path["service"]
        return await self._traffic(
            inbound,
            body.reason,
            "isolate",
            lambda state, facts: pooldesk.isolate(
                state, facts, name, body.color, force=body.force, fresh=self._fresh
            ),
        )

    async def lift(self, inbound: Inbound) -> web.Response:
        """``DELETE /v1/services/{service}/isolate``."""
        name = inbound.path["service"]
        which = slot_of(inbound.query["color"]) if "color" in inbound.query else None
        return await self._traffic(
            inbound,
            inbound.query.get("reason", ""),
            "isolate.lift",
            lambda state, _: pooldesk.lift(state, name, which, self._fresh),
        )

    async def maintain(self, inbound: Inbound) -> web.Response:
        """``POST /v1/services/{service}/maintenance``."""
        body = inbound.given(models.MaintenanceRequest)
        name, retry_after = inbound.path["service"], models.retry_seconds(body.retry_after)
        return await self._traffic(
            inbound,
            body.reason,
            "maintenance",
            lambda state, _: pooldesk.maintain(state, name, retry_after, self._fresh),
        )

    async def end_maintenance(self, inbound: Inbound) -> web.Response:
        """``DELETE /v1/services/{service}/maintenance``."""
        name = inbound.path["service"]
        return await self._traffic(
            inbound,
            inbound.query.get("reason", ""),
            "maintenance.end",
            lambda state, _: pooldesk.end_maintenance(state, name, self._fresh),
        )

    async def _traffic(
        self, inbound: Inbound, reason: str, action: str, decide: Decision
    ) -> web.Response:
        with self._refusals():
            written = await self._switch.write(self._caller(inbound, reason), action, decide)
        return self._answer(
            pictures.traffic(
                written.state, changed=written.changed, applied_in_ms=self._moved_in(written)
            )
        )

    async def rollback(self, inbound: Inbound) -> web.Response:
        """``POST /v1/rollback``."""
        body = inbound.given(models.RollbackRequest)
        with self._refusals():
            written = await self._rolled_back(self._caller(inbound, body.reason), body)
        return self._answer(
            models.RollbackAnswer(
                revision=written.state.revision,
                mode=pictures.mode(written.state),
                services=pictures.traffic_services(written.state),
                changed=written.changed,
                applied_in_ms=self._moved_in(written),
                rolled_back=list(written.touched),
                refused=[refused_part(part) for part in written.refused],
                persisted=written.persisted,
            )
        )

    async def _rolled_back(self, caller: Caller, body: models.RollbackRequest) -> Written:
        """Snap back: a release that has one of the services in its hands, as a whole."""
        state = self._switch.state
        named = desk.named(state, body.services)
        run = next((busy for each in named if (busy := state.busy(each.name))), None)
        if run is not None and body.to == "stable":
            return await self._releases.take_back(caller, run, force=body.force)
        written = await self._switch.rollback(
            caller,
            lambda state, facts: desk.rollback(
                state,
                facts,
                to=body.to,
                names=body.services,
                force=body.force,
                fresh=self._fresh,
            ),
        )
        self._releases.snapped_back(written)
        return written

    # --- pools ------------------------------------------------------------------------------------

    async def put_pool(self, inbound: Inbound) -> web.Response:
        """``PUT /v1/services/{service}/pools/{slot}``."""
        change = inbound.given(models.PoolChange)
        new = NewPool(
            service=inbound.path["service"],
            slot=slot_of(inbound.path["slot"]),
            endpoints=tuple(each.url for each in _endpoints(change.endpoints)),
            wait=models.seconds(change.wait) if change.wait is not None else None,
            expect=change.expect.body if change.expect is not None else None,
        )
        with self._refusals():
            caller = self._caller(inbound, change.reason)
            written, color, waited = await self._operations.put_pool(caller, new)
        return self._pool(new.service, color, written, waited)

    async def reset_pool(self, inbound: Inbound) -> web.Response:
        """``DELETE /v1/services/{service}/pools/{slot}``."""
        name, slot = inbound.path["service"], slot_of(inbound.path["slot"])
        with self._refusals():
            color = desk.color_of(desk.one(self._switch.state, name), slot)
            settings = self._switch.settings.of(name)
            from_file = settings.endpoints(color) if settings is not None else ()
            written = await self._switch.write(
                self._caller(inbound, inbound.query.get("reason", "")),
                "pool.reset",
                lambda state, facts: pooldesk.reset_pool(
                    state, facts, name, color, from_file, self._fresh
                ),
            )
        return self._pool(name, color, written, 0.0)

    async def drain(self, inbound: Inbound) -> web.Response:
        """``POST /v1/services/{service}/pools/{slot}/drain``."""
        body = inbound.given(models.DrainRequest)
        name, slot = inbound.path["service"], slot_of(inbound.path["slot"])
        with self._refusals():
            written, color, waited = await self._operations.drain(
                self._caller(inbound, body.reason), name, slot, models.seconds(body.timeout)
            )
            self._moved_in(written)
        return self._answer(
            models.DrainAnswer(
                service=name,
                color=color,
                changed=written.changed,
                waited_ms=round(waited * 1000, 3),
            )
        )

    def _pool(self, name: str, color: Color, written: Written, waited: float) -> web.Response:
        service = desk.one(self._switch.state, name)
        return self._answer(
            models.PoolAnswer(
                service=name,
                pool=self._shown.pool(service, color),
                changed=written.changed,
                waited_ms=round(waited * 1000, 3),
                applied_in_ms=self._moved_in(written),
            )
        )

    # --- configuration ----------------------------------------------------------------------------

    async def reload(self, inbound: Inbound) -> web.Response:
        """``POST /v1/config/reload``."""
        self._reloads["refused"] += 1
        with self._refusals():
            caller = self._caller(inbound, inbound.query.get("reason", ""))
            done = await self._operations.reload(caller)
        self._reloads["refused"] -= 1
        self._reloads["ok"] += 1
        return self._answer(
            models.ReloadAnswer(
                changed=bool(done.changes),
                changes=list(done.changes),
                drift=[pictures.drift(each) for each in done.drift],
                snapshot=done.number,
                applied_in_ms=self._applied(done.applied),
            )
        )


def slot_of(text: str) -> ColorOrRole:
    """Return a path's or query's color or role. Raises ProblemError (404)."""
    for known in ("blue", "green", "stable", "candidate"):
        if text == known:
            return known
    raise ProblemError(
        404,
        "unknown-slot",
        f"{text!r} is no slot; expected blue, green, stable or candidate",
        field="slot",
    )


def _endpoints(urls: list[str]) -> list[EndpointAddress]:
    """Read URLs as the configuration does. Raises ProblemError (422) naming each that is none."""
    found, faults = [], []
    for position, url in enumerate(urls):
        try:
            found.append(parse_endpoint(url))
        except ValueError as error:
            faults.append(models.ProblemItem(field=f"endpoints.{position}", detail=str(error)))
    if faults:
        detail = "; ".join(f"{each.field}: {each.detail}" for each in faults)
        raise ProblemError(422, "invalid-body", detail, field=faults[0].field, errors=faults)
    return found
