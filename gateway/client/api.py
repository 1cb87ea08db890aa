"""The one client of the admin API. Answers are ``gateway.admin.models``.

Rollback needs no idempotency key, it may be repeated at will; how the others are made is in
``call``.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from gateway.admin import breaker_models, models
from gateway.client.call import PAUSES, WAIT_MARGIN, AdminError, Reply, query
from gateway.client.releases import ReleaseCalls

__all__ = ["PAUSES", "AdminClient", "AdminError", "Reply", "Slot"]

Slot = Literal["blue", "green", "stable", "candidate"]


class AdminClient(ReleaseCalls):
    """One session with one gateway: ``async with AdminClient(link) as client``."""

    async def ready(self) -> Reply[models.HealthAnswer]:
        """``GET /readyz``: whether all workers serve the current snapshot."""
        return await self._call("GET", "/readyz", models.HealthAnswer)

    async def status(self) -> Reply[models.StatusAnswer]:
        """``GET /v1/status``."""
        return await self._call("GET", "/v1/status", models.StatusAnswer)

    async def health(self, service: str) -> Reply[models.ServiceHealth]:
        """``GET /v1/services/{service}/health``."""
        path = f"/v1/services/{quote(service, safe='')}/health"
        return await self._call("GET", path, models.ServiceHealth)

    async def traffic(self) -> Reply[models.TrafficAnswer]:
        """``GET /v1/traffic``."""
        return await self._call("GET", "/v1/traffic", models.TrafficAnswer)

    async def set_traffic(
        self, change: models.TrafficChange, *, revision: int | None = None
    ) -> Reply[models.TrafficAnswer]:
        """``PUT /v1/traffic``; with ``revision`` only if that is the one in force."""
        return await self._call(
            "PUT", "/v1/traffic", models.TrafficAnswer, body=change, revision=revision
        )

    async def finalize(
        self, request: models.FinalizeRequest, *, revision: int | None = None
    ) -> Reply[models.TrafficAnswer]:
        """``POST /v1/traffic/finalize``."""
        path = "/v1/traffic/finalize"
        return await self._call("POST", path, models.TrafficAnswer, body=request, revision=revision)

    async def rollback(self, request: models.RollbackRequest) -> Reply[models.RollbackAnswer]:
        """``POST /v1/rollback``."""
        path = "/v1/rollback"
        return await self._call("POST", path, models.RollbackAnswer, body=request, keyed=False)

    async def adopt(self, request: models.AdoptRequest) -> Reply[models.TrafficAnswer]:
        """``POST /v1/adopt``."""
        return await self._call("POST", "/v1/adopt", models.TrafficAnswer, body=request)

    async def set_pool(
        self, service: str, slot: Slot, change: models.PoolChange
    ) -> Reply[models.PoolAnswer]:
        """``PUT /v1/services/{service}/pools/{slot}``; waits as long as ``change.wait`` says."""
        wait = models.seconds(change.wait) if change.wait else 0.0
        return await self._call(
            "PUT",
            _pool_path(service, slot),
            models.PoolAnswer,
            body=change,
            patience=wait + WAIT_MARGIN,
        )

    async def reset_pool(
        self, service: str, slot: Slot, *, reason: str = ""
    ) -> Reply[models.PoolAnswer]:
        """``DELETE /v1/services/{service}/pools/{slot}``: back to the file's endpoints."""
        path = _pool_path(service, slot) + query(reason=reason)
        return await self._call("DELETE", path, models.PoolAnswer)

    async def drain_pool(
        self, service: str, slot: Slot, request: models.DrainRequest
    ) -> Reply[models.DrainAnswer]:
        """``POST /v1/services/{service}/pools/{slot}/drain``."""
        return await self._call(
            "POST",
            f"{_pool_path(service, slot)}/drain",
            models.DrainAnswer,
            body=request,
            patience=models.seconds(request.timeout) + WAIT_MARGIN,
        )

    async def isolate(
        self, service: str, request: models.IsolateRequest
    ) -> Reply[models.TrafficAnswer]:
        """``POST /v1/services/{service}/isolate``: nothing goes to a color until lifted."""
        path = f"/v1/services/{quote(service, safe='')}/isolate"
        return await self._call("POST", path, models.TrafficAnswer, body=request)

    async def maintain(
        self, service: str, request: models.MaintenanceRequest
    ) -> Reply[models.TrafficAnswer]:
        """``POST /v1/services/{service}/maintenance``: 503 with Retry-After until lifted."""
        path = f"/v1/services/{quote(service, safe='')}/maintenance"
        return await self._call("POST", path, models.TrafficAnswer, body=request)

    async def end_maintenance(
        self, service: str, *, reason: str = ""
    ) -> Reply[models.TrafficAnswer]:
        """``DELETE /v1/services/{service}/maintenance``: the service answers again."""
        path = f"/v1/services/{quote(service, safe='')}/maintenance" + query(reason=reason)
        return await self._call("DELETE", path, models.TrafficAnswer)

    async def lift(
        self, service: str, slot: Slot, *, reason: str = ""
    ) -> Reply[models.TrafficAnswer]:
        """``DELETE /v1/services/{service}/isolate``: the color may be used again."""
        path = f"/v1/services/{quote(service, safe='')}/isolate"
        said = query(color=slot, reason=reason)
        return await self._call("DELETE", path + said, models.TrafficAnswer)

    async def breakers(self) -> Reply[breaker_models.BreakersAnswer]:
        """``GET /v1/breakers``."""
        return await self._call("GET", "/v1/breakers", breaker_models.BreakersAnswer)

    async def open_breaker(
        self, endpoint: str, request: breaker_models.BreakerOpen
    ) -> Reply[breaker_models.BreakerAnswer]:
        """``POST /v1/breakers/{endpoint}/open``: nothing is sent there until it is reset."""
        path = f"/v1/breakers/{quote(endpoint, safe='')}/open"
        return await self._call("POST", path, breaker_models.BreakerAnswer, body=request)

    async def reset_breaker(
        self, endpoint: str, request: breaker_models.BreakerReset
    ) -> Reply[breaker_models.BreakerAnswer]:
        """``POST /v1/breakers/{endpoint}/reset``: whoever opened it."""
        path = f"/v1/breakers/{quote(endpoint, safe='')}/reset"
        return await self._call("POST", path, breaker_models.BreakerAnswer, body=request)

    async def reload(self, *, reason: str = "") -> Reply[models.ReloadAnswer]:
        """``POST /v1/config/reload``."""
        path = "/v1/config/reload" + query(reason=reason)
        return await self._call("POST", path, models.ReloadAnswer)

    async def audit(self, *, limit: int, before: int | None = None) -> Reply[models.AuditPage]:
        """``GET /v1/audit``: newest first, ``limit`` rows, those before a row's id."""
        said = query(limit=str(limit), before="" if before is None else str(before))
        return await self._call("GET", "/v1/audit" + said, models.AuditPage)


def _pool_path(service: str, slot: Slot) -> str:
    """Return a pool's path. Whatever the service is called, it stays one segment."""
    return f"/v1/services/{quote(service, safe='')}/pools/{slot}"
