"""The calls that move breakers by hand: decided, persisted, then put on the board."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from gateway.config.snapshot import Breaker
from gateway.control import breakerdesk
from gateway.control.store import AuditEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.config.snapshot import Color, Endpoint
    from gateway.control.breakers import Look
    from gateway.control.desk import Outcome
    from gateway.control.state import State
    from gateway.control.switchboard import Caller, Switchboard

log = logging.getLogger("gateway.control")


@dataclass(frozen=True, slots=True)
class Placed:
    """An endpoint of the topology in force, where it stands and how its breaker does."""

    service: str
    color: Color
    endpoint: Endpoint
    look: Look


class BreakerCalls:
    """Breakers moved by hand, over one switchboard."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switch = switchboard

    def all(self) -> Iterator[Placed]:
        """Yield the breakers of all endpoints in force."""
        parts = self._switch.parts
        topology = parts.hub.topology
        policies = {service.name: service.breaker for service in topology.services}
        for pool in topology.pools:
            policy = policies.get(pool.service, Breaker())
            for endpoint in pool.endpoints:
                look = parts.breakers.look(endpoint.cell, policy)
                yield Placed(pool.service, pool.color, endpoint, look)

    def one(self, endpoint: str) -> Placed | None:
        """Return one breaker, None where no endpoint in force has that id."""
        return next((each for each in self.all() if each.endpoint.id == endpoint), None)

    async def open(self, caller: Caller, endpoint: str, *, force: bool) -> bool:
        """Open a breaker until it is reset; returns whether that changed anything.

        Raises as ``Switchboard.write``.
        """
        parts = self._switch.parts
        return await self._write(
            caller,
            "breaker.open",
            endpoint,
            lambda state: breakerdesk.force_open(
                state, endpoint, parts.breakers.usable(parts.hub.topology), force=force
            ),
        )

    async def reset(self, caller: Caller, endpoint: str) -> bool:
        """Close a breaker, whoever opened it, and bring an outlier back; returns whether that
        changed anything. Raises as ``Switchboard.write``.
        """
        return await self._write(
            caller, "breaker.reset", endpoint, lambda state: breakerdesk.reset(state, endpoint)
        )

    async def _write(
        self, caller: Caller, action: str, endpoint: str, decide: Callable[[State], Outcome]
    ) -> bool:
        switch = self._switch
        breakers = switch.parts.breakers
        async with switch.lock:
            outcome = switch.decided(caller, lambda state, _: decide(state))
            before = self.one(endpoint)
            if before is None:
                return False  # located in the state, so in the topology too
            after = "forced_open" if action == "breaker.open" else "closed"
            entry = _entry(switch.parts.wall(), caller, action, before, after)
            if outcome.state != switch.state:
                await switch.commit(caller, action, outcome.state, entry=entry)
            elif action == "breaker.reset" and not breakers.at_rest(before.endpoint.cell):
                # It opened, or was ejected, by itself: that stands on the board alone.
                await switch.parts.store.save(switch.state, [entry])
                breakers.reset(before.endpoint.cell)
                switch.parts.prober.integration.reconsider()
            else:
                return False
        self._tell(caller, before, after)
        return True

    def _tell(self, caller: Caller, before: Placed, after: str) -> None:
        log.warning("the breaker of %s: %s by %s", before.endpoint.id, after, caller.actor)
        was = before.look.state
        self._switch.parts.events.publish(
            "breaker",
            endpoint=before.endpoint.id,
            service=before.service,
            color=before.color,
            state=after,
            was="ejected" if was == "closed" and before.look.ejected else was,
            actor=caller.actor,
            reason=caller.reason,
        )


def _entry(at: float, caller: Caller, action: str, before: Placed, after: str) -> AuditEntry:
    """Return the audit row of one breaker moved by hand."""
    endpoint = before.endpoint.id
    ejected = before.look.ejected > 0
    was = {"endpoint": endpoint, "breaker": before.look.state, "ejected": ejected}
    now = {"endpoint": endpoint, "breaker": after, "ejected": ejected and after != "closed"}
    return AuditEntry(
        at=at,
        actor=caller.actor,
        address=caller.address,
        action=action,
        reason=caller.reason,
        before=msgspec.json.encode(was),
        after=msgspec.json.encode(now),
    )
