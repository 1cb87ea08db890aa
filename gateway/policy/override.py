"""Testers' overrides: a signed token that puts its bearer on one side, whatever the weight.

``1.candidate.1767225600.<HMAC>``: a version, the side, when it ends (seconds since the epoch, in
decimal) and HMAC-SHA256 (RFC 2104) in unpadded URL-safe base64. Host and release are signed too but
not told: a token is good for one host and one release, and for the time that it names. The whole
is safe in a cookie, a field and a query.

A token may come as ``gw_override`` in a cookie, a field or a query parameter. What does not verify
is ignored, never an error: a stale bookmark must not lock anyone out.

The gateway's own integration checks carry a token of another kind in the same field:
``p.green.1767225600.shop.<HMAC>`` names a color and the service that is checked. It is signed with
a secret that only control and the workers have, lasts for seconds and never leaves the machine.
"""

from __future__ import annotations

import binascii
import hmac
from typing import Literal

from gateway.policy.cohort import OVERRIDE_COOKIE, cookie_value

Side = Literal["stable", "candidate"]

PARAMETER = OVERRIDE_COOKIE
#: Longer tokens are not looked at.
MAX_TOKEN = 96
#: A check's token has a service's name in it.
MAX_PROBE = 192
MIN_SECRET = 16
_VERSION = b"1"
_PROBE = b"p"
_COLORS: dict[bytes, Literal["blue", "green"]] = {b"blue": "blue", b"green": "green"}
_SIDES: dict[bytes, Side] = {b"stable": "stable", b"candidate": "candidate"}
_MAX_DIGITS = 11
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def mint(secret: bytes, *, host: str | bytes, release: str, side: Side, expires: int) -> str:
    """Return a token for ``side``, good for one host and release until ``expires``.

    ``host`` is without a port; ``expires`` is in whole seconds since the epoch. Raises ValueError
    for a secret under 16 octets, an unknown side or a time out of range.
    """
    if len(secret) < MIN_SECRET:
        raise ValueError(f"the secret has {len(secret)} octets; at least {MIN_SECRET} are needed")
    if side not in {"stable", "candidate"}:
        raise ValueError(f"the side is {side!r}; it is stable or candidate")
    if not 0 < expires < 10**_MAX_DIGITS:
        raise ValueError(f"the time {expires} is not in seconds since the epoch")
    claim = b"%s.%s.%d" % (_VERSION, side.encode(), expires)
    return (claim + b"." + _signature(secret, claim, host, release)).decode()


def verify(
    secret: bytes | None, token: bytes, *, host: bytes | str, release: str, now: float
) -> Side | None:
    """Return the side that a token gives its bearer now, None where it gives none.

    ``now`` is the wall clock's, in seconds since the epoch. Constant in time over the signature.
    """
    if not secret or len(token) > MAX_TOKEN:
        return None
    claim, _, signature = token.rpartition(b".")
    parts = claim.split(b".")
    if len(parts) != 3 or parts[0] != _VERSION:
        return None
    expires = _seconds(parts[2])
    if not hmac.compare_digest(signature, _signature(secret, claim, host, release)):
        return None
    if now >= expires:
        return None
    return _SIDES.get(parts[1])


def mint_probe(
    secret: bytes, color: Literal["blue", "green"], expires: int, service: str = ""
) -> str:
    """Return the token of an integration check that forces ``color`` until ``expires``.

    ``expires`` is in whole seconds since the epoch, ``service`` the one that is checked (empty:
    whichever it comes to).
    """
    claim = b"%s.%s.%d" % (_PROBE, color.encode(), expires)
    if service:
        claim += b"." + service.encode()
    return (claim + b"." + _probe_signature(secret, claim)).decode()


def verify_probe(
    secret: bytes | None, token: bytes, *, now: float
) -> Literal["blue", "green"] | None:
    """Return the color that a check's token forces now, None where it forces none.

    ``now`` is in seconds since the epoch. Constant in time over the signature.
    """
    # A tester's token is told apart before anything is computed.
    if not secret or not token.startswith(b"p.") or len(token) > MAX_PROBE:
        return None
    claim, _, signature = token.rpartition(b".")
    parts = claim.split(b".", 3)
    if len(parts) < 3 or not hmac.compare_digest(signature, _probe_signature(secret, claim)):
        return None
    return _COLORS.get(parts[1]) if now < _seconds(parts[2]) else None


def probed_service(token: bytes) -> str:
    """Return the service that a check's token, one that verified, is for; empty: any."""
    parts = token.rpartition(b".")[0].split(b".", 3)
    return parts[3].decode() if len(parts) > 3 else ""


def _probe_signature(secret: bytes, claim: bytes) -> bytes:
    return _encoded(hmac.digest(secret, b"gateway-probe:" + claim, "sha256"))


def _encoded(digest: bytes) -> bytes:
    return binascii.b2a_base64(digest, newline=False).translate(_TO_URL_SAFE).rstrip(b"=")


def expiry(token: bytes) -> int:
    """Return when a token that verified ends, in seconds since the epoch (for its cookie)."""
    parts = token.split(b".")
    return _seconds(parts[2]) if len(parts) == 4 else 0


def _seconds(text: bytes) -> int:
    """Read a token's time; 0, long past, where it is none."""
    if not text.isdigit() or len(text) > _MAX_DIGITS or text[:1] == b"0":
        return 0
    return int(text)


def _signature(secret: bytes, claim: bytes, host: bytes | str, release: str) -> bytes:
    host = host.encode() if isinstance(host, str) else host
    host = host.lower()
    # Lengths first: no two (host, release) share one text.
    text = b"gateway-override:%s:%d:%s:%s" % (claim, len(host), host, release.encode())
    return _encoded(hmac.digest(secret, text, "sha256"))


def from_cookie(field: bytes) -> bytes | None:
    """Return the token that a Cookie field carries, unverified."""
    return cookie_value(field, PARAMETER) or None


def from_target(target: bytes) -> bytes | None:
    """Return the token in a target's query (its first ``gw_override``), unverified."""
    # The usual request has none and is done here.
    if PARAMETER not in target:
        return None
    for pair in target.partition(b"?")[2].split(b"&"):
        name, equals, value = pair.partition(b"=")
        if equals and name == PARAMETER:
            return value or None
    return None


def strip_target(target: bytes) -> bytes:
    """Return a target without any ``gw_override`` parameter; all else byte for byte.

    The question mark goes where nothing else was behind it.
    """
    if PARAMETER not in target:
        return target
    path, mark, query = target.partition(b"?")
    pairs = query.split(b"&")
    kept = [pair for pair in pairs if pair.partition(b"=")[0] != PARAMETER]
    if len(kept) == len(pairs):
        return target
    return path + mark + b"&".join(kept) if kept else path
