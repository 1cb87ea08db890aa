"""Tells an operator where one private address makes nearly all requests (``policy.sharing``)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gateway.policy.forwarded import ProxyTrust
from gateway.policy.sharing import Sharing

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.channel.messages import Asked
    from gateway.config.snapshot import Topology
    from gateway.control.events import Events
    from gateway.policy.sharing import Shared

log = logging.getLogger("gateway.control")


class SharingWatch:
    """``topology`` gives what is in force, ``clock`` monotonic seconds."""

    def __init__(
        self, topology: Callable[[], Topology], events: Events, clock: Callable[[], float]
    ) -> None:
        self._topology = topology
        self._events = events
        self._clock = clock
        self._sharing = Sharing()
        self._believed: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._told: Shared | None = None

    def hear(self, message: Asked) -> None:
        """Take what a worker has counted."""
        self.look()
        rows = [(message.address, message.of_address, message.forwarded)] if message.address else []
        self._sharing.hear(message.requests, rows, self._clock())
        self.look()

    def look(self) -> Shared | None:
        """Return the address of now; publish an alert where it is another than before."""
        topology = self._topology()
        believed = (tuple(topology.trusted_proxies), tuple(topology.internal_callers))
        if believed != self._believed:
            # What was counted is of who seemed to ask until now.
            self._believed = believed
            self._sharing.reset()
        found, before = self._sharing.look(self._clock()), self._told
        self._told = found
        if (found and found.address) != (before and before.address):
            self._tell(found, before)
        return found

    @property
    def warnings(self) -> list[str]:
        """What ``status`` says: one sentence, where there is something to say."""
        found = self.look()
        return [] if found is None else [f"{_detail(found)}; {self._hint(found)}"]

    def _tell(self, found: Shared | None, before: Shared | None) -> None:
        if found is not None:
            detail, hint = _detail(found), self._hint(found)
            log.warning("%s; %s", detail, hint)
        else:
            assert before is not None
            detail = f"{before.address} no longer makes nearly all requests"
            hint = ""
            log.info("%s", detail)
        shown = found or before
        assert shown is not None
        self._events.publish(
            "alert",
            severity="info" if found is None else "warning",
            about="shared-address",
            address=shown.address,
            share=round(shown.share, 3) if found is not None else None,
            requests=shown.requests if found is not None else None,
            over=found is None,
            detail=detail,
            hint=hint,
        )

    def _hint(self, found: Shared) -> str:
        topology = self._topology()
        host = found.address.partition("/")[0]
        if ProxyTrust(topology.trusted_proxies).trusts(host):
            return "a trusted proxy that does not say for whom: have it send X-Forwarded-For"
        if found.forwards:
            return (
                f'it says for whom: if it is your proxy, add "{found.address}" to trusted_proxies'
            )
        return (
            "if it is a proxy, have it send X-Forwarded-For and add it to trusted_proxies; "
            "if it is a container bridge, use the host's network (docs/limits.md)"
        )


def _detail(found: Shared) -> str:
    return (
        f"{found.address} makes {found.share:.0%} of {found.requests} requests: "
        "all behind it are one cohort and one rate limit"
    )
