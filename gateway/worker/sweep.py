"""Tunnels that a rollback or an isolation ends.

A tunnel keeps its color for as long as it is open, so that only this gets its clients off a
candidate that was rolled back, where they have their time, or off a color that is isolated, where
they have none: nothing more is to be sent there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.config.snapshot import Traffic
    from gateway.proxy.tunnel import Tunnel

#: Tunnels closed in one turn of the wheel at most: each is a few system calls, and a client that
#: comes back.
PER_TURN = 500
#: Seconds between two looks at all tunnels once the time has come.
EVERY = 1.0


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

    def turn(self, now: float, tunnels: Collection[Tunnel]) -> None:
        """Close the tunnels whose time is over at ``now`` (CLOCK_MONOTONIC, seconds).

        Requests that were under way to the candidate may yet become tunnels, and are closed later.
        A tester's that was opened since is let be: who looks at what was rolled back means to. Of
        an isolated color none is.
        """
        if now < self._next:
            return
        if not self._isolated and (not self._until or now < min(self._until.values())):
            return
        self._next = now + EVERY
        closed = 0
        for tunnel in list(tunnels):
            side = (tunnel.service, tunnel.green)
            if side not in self._isolated and not self._over(self._until.get(side), now, tunnel):
                continue
            if closed == PER_TURN:
                self._next = now
                break
            tunnel.close()
            closed += 1

    @staticmethod
    def _over(until: float | None, now: float, tunnel: Tunnel) -> bool:
        """Tell whether a rolled back tunnel's time is over."""
        if until is None or now < until:
            return False
        return not (tunnel.override and tunnel.opened > until)
