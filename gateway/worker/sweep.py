"""Tunnels that a rollback ends: those to the candidate get their time, then they are closed.

A tunnel keeps its color for as long as it is open, so that only this gets its clients off a
candidate that was rolled back.
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
    """Closes what ``ServiceTraffic.tunnels_until`` says, as a drain would."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, bool], float] = {}
        self._next = 0.0

    def serve(self, traffic: Traffic) -> None:
        """Follow this traffic from now on."""
        self._until = {
            (each.service, each.candidate == "green"): each.tunnels_until
            for each in traffic.services
            if each.tunnels_until > 0.0
        }
        self._next = 0.0

    def turn(self, now: float, tunnels: Collection[Tunnel]) -> None:
        """Close the tunnels whose time is over at ``now`` (CLOCK_MONOTONIC, seconds).

        Requests that were under way to the candidate may yet become tunnels, and are closed later.
        A tester's that was opened since is let be: who looks at what was rolled back means to.
        """
        if now < self._next or not self._until or now < min(self._until.values()):
            return
        self._next = now + EVERY
        closed = 0
        for tunnel in list(tunnels):
            until = self._until.get((tunnel.service, tunnel.green))
            if until is None or now < until or (tunnel.override and tunnel.opened > until):
                continue
            if closed == PER_TURN:
                self._next = now
                break
            tunnel.close()
            closed += 1
