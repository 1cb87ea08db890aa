"""The gateway's own public side, as integration checks come in by it.

Their requests carry a token that forces a color (``gateway.policy.override``). It is minted for
each request, lasts for seconds, and a worker takes it off before it asks anybody else.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.config.addresses import parse_listen
from gateway.policy.override import mint_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.config.snapshot import Color, Listener

#: Seconds that a token is good for: longer than a worker's and control's clocks could differ on
#: one machine, shorter than anybody could make use of one.
TOKEN_LASTS = 30
FIELD = "gw_override"


@dataclass(frozen=True, slots=True)
class Door:
    """Where requests go in and what makes them checks. ``wall`` is seconds since the epoch."""

    #: Scheme, host and port of a public listener.
    origin: str
    secret: bytes = field(repr=False)
    wall: Callable[[], float] = field(repr=False)
    #: The service that is checked.
    service: str = ""

    def fields(self, color: Color) -> dict[str, str]:
        """Return the fields that force ``color`` for one request, now."""
        expires = int(self.wall()) + TOKEN_LASTS
        return {FIELD: mint_probe(self.secret, color, expires, self.service)}


def origin_of(listeners: Sequence[Listener]) -> str:
    """Return where the gateway answers on this machine, ``""`` where it has no listener.

    The first plain listener that serves requests itself, else the first that speaks TLS, else one
    that only redirects. An address for all interfaces is asked on its loopback.
    """
    plain = [each for each in listeners if each.redirect_to_https is None and each.tls is None]
    secure = [each for each in listeners if each.tls is not None]
    for listener in plain or secure or list(listeners):
        address = parse_listen(listener.address)
        scheme = "http" if listener.tls is None else "https"
        return f"{scheme}://{_reached(address.host)}:{address.port}"
    return ""


def _reached(host: str) -> str:
    """Return the host of a URL that reaches what listens on ``host``."""
    if host == "localhost":
        return host
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)
