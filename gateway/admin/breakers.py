"""The handlers of the calls about breakers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.admin.breaker_models import (
    BreakerAnswer,
    BreakerOpen,
    BreakerReset,
    BreakersAnswer,
    BreakerStatus,
    breaker_state,
)
from gateway.admin.handlers import Handlers
from gateway.admin.problems import ProblemError
from gateway.board import layout

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.admin.inbound import Inbound
    from gateway.admin.pictures import Pictures
    from gateway.control.breakercalls import BreakerCalls, Placed
    from gateway.control.switchboard import Switchboard


class BreakerApi(Handlers):
    """Each handler has its call's name (see ``calls``)."""

    def __init__(self, switchboard: Switchboard, breakers: BreakerCalls, shown: Pictures) -> None:
        super().__init__(switchboard, shown)
        self._breakers = breakers

    async def breakers(self, inbound: Inbound) -> web.Response:
        """``GET /v1/breakers``."""
        del inbound
        return self._answer(BreakersAnswer(breakers=[self._one(p) for p in self._breakers.all()]))

    async def open_breaker(self, inbound: Inbound) -> web.Response:
        """``POST /v1/breakers/{endpoint}/open``."""
        body = inbound.given(BreakerOpen)
        endpoint = inbound.path["endpoint"]
        with self._refusals():
            caller = self._caller(inbound, body.reason)
            changed = await self._breakers.open(caller, endpoint, force=body.force)
        return self._moved(endpoint, changed)

    async def reset_breaker(self, inbound: Inbound) -> web.Response:
        """``POST /v1/breakers/{endpoint}/reset``."""
        body = inbound.given(BreakerReset)
        endpoint = inbound.path["endpoint"]
        with self._refusals():
            changed = await self._breakers.reset(self._caller(inbound, body.reason), endpoint)
        return self._moved(endpoint, changed)

    def _moved(self, endpoint: str, changed: bool) -> web.Response:
        placed = self._breakers.one(endpoint)
        if placed is None:  # replaced between the write and this line
            raise ProblemError(404, "unknown-endpoint", f"there is no endpoint {endpoint!r} now")
        return self._answer(BreakerAnswer(breaker=self._one(placed), changed=changed))

    def _one(self, placed: Placed) -> BreakerStatus:
        service = self._switch.state.of(placed.service)
        stable = service is not None and service.stable == placed.color
        look = placed.look
        return BreakerStatus(
            endpoint=placed.endpoint.id,
            service=placed.service,
            color=placed.color,
            role="stable" if stable else "candidate",
            url=placed.endpoint.url,
            state=breaker_state(layout.BREAKER_NAMES.index(look.state)),
            failures=look.failures,
            openings=look.openings,
            next_try=None if look.next_try is None else round(look.next_try, 3),
            ejected=look.ejected > 0,
            ejected_for=round(look.ejected, 3) if look.ejected > 0 else None,
        )
