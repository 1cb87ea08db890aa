"""CORS: which other origins' pages may read an answer (the Fetch standard, "CORS protocol"). Pure.

An origin is compared as browsers serialize it (HTML, "serialization of an origin"), octet for
octet. ``null`` is nobody's in particular (a sandboxed frame, a local file), so it never matches,
not even ``*`` with anything more than what everybody may read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.snapshot import Cors

#: What a backend may say on the matter: it is the gateway's to say where a route has a profile.
ANSWER_FIELDS = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-allow-private-network",
    "access-control-expose-headers",
    "access-control-max-age",
)

#: Longest origin that is looked at: a scheme, the longest host, a port.
MAX_ORIGIN = 300
#: One label or more of a name, as a browser writes it.
_LABELS = re.compile(rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_ANY = "*"


class CorsRules:
    """One profile, ready as bytes.

    ``vary`` goes on every answer of the route (RFC 9110 section 12.5.5): what another origin was
    told is not for this one. With ``*`` everybody is told the same, and nothing varies.
    """

    __slots__ = (
        "_answer",
        "_asterisk",
        "_exact",
        "_preflight",
        "_private",
        "_wild",
        "upgrades",
        "vary",
        "vary_preflight",
    )

    def __init__(self, cors: Cors) -> None:
        self._asterisk = cors.origins == (_ANY,)
        self._exact = frozenset(each.encode("ascii") for each in cors.origins if "*" not in each)
        self._wild = tuple(_parts(each) for each in cors.origins if "*" in each and each != _ANY)
        credentials = b"Access-Control-Allow-Credentials: true\r\n" if cors.credentials else b""
        self._answer = credentials + _listed(b"Access-Control-Expose-Headers", cors.expose)
        self._preflight = b"".join(
            (
                credentials,
                _listed(b"Access-Control-Allow-Methods", cors.methods),
                _listed(b"Access-Control-Allow-Headers", cors.headers),
                b"Access-Control-Max-Age: %d\r\n" % cors.max_age,
            )
        )
        self._private = cors.private_network
        self.upgrades = cors.upgrades
        self.vary = b"" if self._asterisk else b"Vary: Origin\r\n"
        asked = b"Access-Control-Request-Method, Access-Control-Request-Headers"
        if cors.private_network:
            asked += b", Access-Control-Request-Private-Network"
        origin = b"" if self._asterisk else b"Origin, "
        self.vary_preflight = b"Vary: " + origin + asked + b"\r\n"

    def __repr__(self) -> str:
        what = "any" if self._asterisk else f"{len(self._exact)} exact, {len(self._wild)} patterns"
        return f"<CorsRules {what}>"

    def allows(self, origin: bytes) -> bool:
        """Tell whether pages of this origin may read the answers."""
        if self._asterisk or origin in self._exact:
            return True
        if len(origin) > MAX_ORIGIN:
            return False
        return any(
            origin.startswith(begin)
            and origin.endswith(end)
            and _LABELS.fullmatch(origin, len(begin), len(origin) - len(end)) is not None
            for begin, end in self._wild
        )

    def answer(self, origin: bytes | None) -> bytes:
        """Return the lines of an answer to a request from ``origin`` (None: it names none)."""
        if origin is None or not self.allows(origin):
            return self.vary
        return self._allowed(origin) + self._answer + self.vary

    def preflight(self, origin: bytes, private: bool) -> bytes:
        """Return the lines of the answer to a preflight from ``origin``.

        ``private``: it asks to reach from the public internet into a private network (Private
        Network Access). Without a line that allows it a browser goes no further.
        """
        if not self.allows(origin):
            return self.vary_preflight
        lines = self._allowed(origin) + self._preflight
        if private and self._private:
            lines += b"Access-Control-Allow-Private-Network: true\r\n"
        return lines + self.vary_preflight

    def _allowed(self, origin: bytes) -> bytes:
        if self._asterisk:
            return b"Access-Control-Allow-Origin: *\r\n"
        return b"Access-Control-Allow-Origin: " + origin + b"\r\n"


def _parts(pattern: str) -> tuple[bytes, bytes]:
    begin, _, end = pattern.encode("ascii").partition(b"*")
    return begin, end


def _listed(name: bytes, values: tuple[str, ...]) -> bytes:
    if not values:
        return b""
    return name + b": " + ", ".join(values).encode("ascii") + b"\r\n"
