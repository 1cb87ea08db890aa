"""Tunnels and event streams that a rollback, a drain or an isolation ends.

Both keep their color for as long as they are open, so that only this gets their clients off a
candidate that was rolled back or drained, where they have their time, or (tunnels) off a color that
is isolated, where they have none: nothing more is to be sent there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.config.snapshot import Traffic
    from gateway.proxy.links import Client
    from gateway.proxy.tunnel import Tunnel

#: Tunnels closed in one turn of the wheel at most: each is a few system calls, and a client that
#: comes back.
PER_TURN = 500
#: Seconds between two looks at all tunnels once the time has come.
EVERY = 1.0
#: Seconds that a WebSocket's client has for its own close frame before its tunnel is closed.
LEAVE_GRACE = 2.0
#: Seconds in which event streams are looked for once the time has come: what was under way then.
STREAMS = 60.0


class TunnelSweep:
    """Closes what ``ServiceTraffic.tunnels_until`` says, as a drain would, and ``isolated``."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, bool], float] = {}
        self._isolated: frozenset[tuple[str, bool]] = frozenset()
        self._next = 0.0

    def serve(self, traffic: Traffic) -> None:
        """Follow this traffic from now on."""
        self._until = {
            (each.service, each.candidate == "green"): each.tunnels_until
            for each in traffic.services
            if each.tunnels_until > 0.0
        }
        self._isolated = frozenset(
            (each.service, color == "green") for each in traffic.services for color in each.isolated
        )
        self._next = 0.0

    def turn(
        self,
        now: float,
        tunnels: Collection[Tunnel],
        connections: Collection[Client] = (),
    ) -> None:
        """End the tunnels, and the connections' event streams, whose time is over at ``now``.

        ``now`` is CLOCK_MONOTONIC, in seconds. WebSockets are told (1001) and closed soon after.
        Requests that were under way to the candidate may yet become tunnels, and are closed later.
        A tester's that was opened since is let be: who looks at what was rolled back means to. Of
        an isolated color none is.
        """
        if now < self._next:
            return
        if not self._isolated and (not self._until or now < min(self._until.values())):
            return
        self._next = now + EVERY
        if self._sweep_tunnels(now, tunnels) or self._sweep_streams(now, connections):
            self._next = now

    def _sweep_streams(self, now: float, connections: Collection[Client]) -> bool:
        """End event streams whose time is over; returns whether the next turn has more to do."""
        ended = 0
        for (service, green), until in self._until.items():
            if not until <= now < until + STREAMS:
                continue
            for connection in list(connections):
                if connection.leave_color(service, green, until):
                    ended += 1
                if ended == PER_TURN:
                    return True
        return False

    def _sweep_tunnels(self, now: float, tunnels: Collection[Tunnel]) -> bool:
        """Tell or close those whose time is over; returns whether the next turn has more to do."""
        ended = 0
        for tunnel in list(tunnels):
            side = (tunnel.service, tunnel.green)
            until = self._until.get(side)
            at_once = side in self._isolated
            if not at_once and (until is None or not self._over(until, now, tunnel)):
                continue
            at_once = at_once or (until is not None and now >= until + LEAVE_GRACE)
            if tunnel.leaving and not at_once:
                continue
            if ended == PER_TURN:
                return True
            tunnel.leave()
            if at_once:
                tunnel.close()
            ended += 1
        return False

    @staticmethod
    def _over(until: float, now: float, tunnel: Tunnel) -> bool:
        """Tell whether a rolled back tunnel's time is over."""
        return now >= until and not (tunnel.override and tunnel.opened > until)
