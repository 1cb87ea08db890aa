"""Who may call: bearer tokens, roles, and the Host that a request names.

Only SHA-256 digests of tokens are held; a presented one is compared with each of them in constant
time. The Host check keeps a web page that resolves its own name to this address (DNS rebinding)
from being answered.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.control.settings import Token, TokenRole

RANKS: Final[dict[str, int]] = {"viewer": 1, "operator": 2, "admin": 3}

#: Octets of a presented token that are looked at.
MAX_TOKEN: Final = 4096

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that presented a known token."""

    name: str
    role: TokenRole

    def may(self, role: TokenRole) -> bool:
        """Tell whether this caller's role includes ``role``."""
        return RANKS[self.role] >= RANKS[role]


def bearer(fields: Sequence[str]) -> bytes | None:
    """Return the token of a request's one Authorization field (RFC 6750 section 2.1), or None.

    Of two fields none counts: who reads the other one would see somebody else.
    """
    if len(fields) != 1 or len(fields[0]) > MAX_TOKEN:
        return None
    field = fields[0]
    scheme, _, token = field.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return None
    return token.encode("utf-8", "surrogateescape")


def identify(token: bytes, known: Iterable[Token]) -> Identity | None:
    """Return whose token it is, None for nobody's. Every known token is compared with."""
    digest = hashlib.sha256(token).digest()
    found = None
    for each in known:
        if hmac.compare_digest(digest, each.digest) and found is None:
            found = Identity(each.name, each.role)
    return found


def host_accepted(host: str | None, names: Iterable[str], *, unix: bool) -> bool:
    """Tell whether a request's Host is one of ours: a loopback's, the address, or configured.

    Over a Unix socket any Host will do: no browser reaches one.
    """
    if unix:
        return True
    if host is None:
        return False
    name = _name(host)
    if name is None:
        return False
    if name in LOOPBACK or _loopback(name):
        return True
    return name in {each.lower() for each in names}


def authorities(host: str | None, target: str) -> tuple[str | None, ...]:
    """Return each name that a request is addressed to: Host's, and that of its target.

    A target in absolute form (RFC 9112, 3.2.2) has one, and it is that one which counts.
    """
    _, scheme, rest = target.partition("://")
    if target.startswith("/") or not scheme:
        return (host,)
    return host, re.split("[/?#]", rest, maxsplit=1)[0]


def _name(host: str) -> str | None:
    """Return a Host field's name without its port, lower case; None where it is malformed."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not _port(rest)):
            return None
        return name.lower()
    name, colon, port = host.partition(":")
    if colon and not _port(":" + port):
        return None
    return name.lower().removesuffix(".") or None


def _port(text: str) -> bool:
    return text.startswith(":") and (text[1:] == "" or (text[1:].isascii() and text[1:].isdigit()))


def _loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
