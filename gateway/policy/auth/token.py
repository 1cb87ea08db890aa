"""Signed tokens (JWT, RFC 7519), read as RFC 8725 advises.

The library verifies signature, issuer and audience; times are compared here, with a clock that
comes in. Whatever in a header points to a key (``jku``, ``jwk``, ``x5u``, ``x5c``) is ignored: keys
come from the configured source alone. ``crit`` is refused: no extension is understood.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any

import jwt
from jwt.exceptions import (
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from gateway.config.keyset import ALGORITHMS, MAX_KID, KeySet
from gateway.policy.auth.subject import MAX_CREDENTIAL, CredentialError, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config.snapshot import Jwt

#: Keys that are tried for a token that names none.
MAX_TRIES = 4
#: Octets of one claim's value as a field.
MAX_VALUE = 1024
#: RFC 9110 section 5.5 without obs-text and tabs: what no backend reads in two ways.
_SAFE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_SEGMENT = re.compile(rb"[A-Za-z0-9_-]+")


def verify(token: bytes, keys: KeySet, scheme: str, terms: Jwt, now: float) -> Subject:
    """Return whom a token is of. ``now`` is the epoch's seconds.

    Raises CredentialError, and nothing else, for every other token.
    """
    algorithm, kid = _header(token, terms)
    candidates = keys.candidates(kid, algorithm)
    if not candidates:
        raise CredentialError("unknown signing key", unknown_key=True)
    claims: dict[str, Any] | None = None
    for candidate in candidates[:MAX_TRIES]:
        try:
            claims = _claims(token, candidate.key, algorithm, terms)
            break
        except InvalidSignatureError:
            continue
    if claims is None:
        raise CredentialError("bad signature")
    since, until = _times(claims, terms, now)
    return _subject(claims, scheme, terms, since, until)


def _header(token: bytes, terms: Jwt) -> tuple[str, str | None]:
    """Return algorithm and key's name of a compact JWS. Raises CredentialError."""
    if len(token) > MAX_CREDENTIAL:
        raise CredentialError("too long")
    parts = token.split(b".")
    if len(parts) != 3 or not all(_SEGMENT.fullmatch(part) for part in parts):
        raise CredentialError("not a signed token")
    try:
        header = json.loads(base64.urlsafe_b64decode(parts[0] + b"=" * (-len(parts[0]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise CredentialError("not a signed token") from None
    if not isinstance(header, dict):
        raise CredentialError("not a signed token")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in terms.algorithms:
        raise CredentialError("algorithm not accepted")
    if algorithm not in ALGORITHMS:
        raise CredentialError("algorithm not accepted")
    if "crit" in header or "b64" in header or "zip" in header:
        raise CredentialError("extension not understood")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID):
        raise CredentialError("not a signed token")
    if terms.type and not _type_is(header.get("typ"), terms.type):
        raise CredentialError("another type of token")
    return algorithm, kid


def _type_is(found: object, wanted: str) -> bool:
    """Compare media types in any case, ``application/`` left out (RFC 7515 section 4.1.9)."""
    return isinstance(found, str) and found.lower().removeprefix("application/") == wanted.lower()


def _claims(token: bytes, key: Any, algorithm: str, terms: Jwt) -> dict[str, Any]:
    """Return a token's claims, signature, issuer and audience verified.

    Raises InvalidSignatureError for another signature, CredentialError for all else.
    """
    required = sorted({*terms.require, "iss", *(("aud",) if terms.audience else ())})
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=terms.issuer,
            audience=list(terms.audience) or None,
            options={
                "require": required,
                "verify_aud": bool(terms.audience),
                # Times are compared below.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except InvalidSignatureError:
        raise
    except MissingRequiredClaimError:
        raise CredentialError("a required claim is missing") from None
    except InvalidIssuerError:
        raise CredentialError("another issuer") from None
    except InvalidAudienceError:
        raise CredentialError("for another audience") from None
    # The library is to raise its own; a claim of a shape that it did not expect is no reason to
    # answer with an error of ours.
    except (PyJWTError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        raise CredentialError("not a signed token") from None
    return claims


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), None where it is absent."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CredentialError("a time that is no number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise CredentialError("a time that is no number")
    return seconds


def _times(claims: Mapping[str, Any], terms: Jwt, now: float) -> tuple[float, float]:
    """Return from when and until when it counts, the leeway included. Raises CredentialError."""
    expiry, begin, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
    since = max(begin if begin is not None else -math.inf, issued if issued else -math.inf)
    since -= terms.leeway
    until = math.inf if expiry is None else expiry + terms.leeway
    if now >= until:
        raise CredentialError("expired")
    if now < since:
        raise CredentialError("not valid yet")
    return since, until


def _subject(
    claims: Mapping[str, Any], scheme: str, terms: Jwt, since: float, until: float
) -> Subject:
    name = claims.get(terms.subject)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_VALUE:
        raise CredentialError("no subject")
    # The log has no names of people: what stands for one tells requests of one from another's.
    hashed = hashlib.sha256(f"{scheme}\0{name}".encode("utf-8", "replace")).hexdigest()[:16]
    lines = "".join(
        f"{field}: {value}\r\n"
        for claim, field in terms.claims
        if (value := _field_value(claims.get(claim)))
    )
    return Subject(
        f"{scheme}:{name}".encode("utf-8", "replace"),
        f"{scheme}:{hashed}",
        _scopes(claims.get(terms.scopes)),
        lines.encode("ascii"),
        until,
        since,
    )


def _field_value(value: object) -> str:
    """Return a claim as a field's value, empty for none. Raises CredentialError where it is unsafe.

    A list is joined by commas, so none of its members may have one.
    """
    if value is None or value in ("", []):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 2**63:
        return str(value)
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and all(
        isinstance(each, str) and "," not in each for each in value
    ):
        text = ",".join(value)
    else:
        raise CredentialError("a claim that no field can have")
    if len(text) > MAX_VALUE or _SAFE.fullmatch(text) is None:
        raise CredentialError("a claim that no field can have")
    return text


def _scopes(value: object) -> frozenset[str]:
    """Return scopes from ``"read write"`` (RFC 8693 section 4.2) or a list of them."""
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list):
        return frozenset(each for each in value if isinstance(each, str))
    return frozenset()
