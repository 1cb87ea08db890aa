"""An issuer's public keys (JWKS, RFC 7517), each good for one algorithm.

RFC 8725 section 3.1: the algorithm is the key's, never the token's to choose. An RSA key verifies
RS256 and a P-256 key ES256; symmetric keys are not read at all, so that no public key can ever be
taken for an HMAC's secret.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

#: Octets of a key set, and keys of one that are read.
MAX_OCTETS = 256 * 1024
MAX_KEYS = 64
#: RFC 7518 section 3.3; larger ones cost time at every token.
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_KID = 256

#: Key type and curve to the one algorithm.
_ALGORITHMS = {
    ("RSA", ""): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
ALGORITHMS = tuple(_ALGORITHMS.values())


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key. ``kid`` is empty where it has none."""

    kid: str
    algorithm: str
    key: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys in the issuer's order."""

    keys: tuple[PublicKey, ...] = ()

    def candidates(self, kid: str | None, algorithm: str) -> tuple[PublicKey, ...]:
        """Return the keys that may have signed: those of that name, or without one all."""
        return tuple(
            key
            for key in self.keys
            if key.algorithm == algorithm and (kid is None or key.kid == kid)
        )


def read_keyset(octets: bytes) -> KeySet:
    """Return the usable keys of a JWKS document; what is of another kind is passed over.

    Raises ValueError where it is no key set, or none of its keys can be used.
    """
    if len(octets) > MAX_OCTETS:
        raise ValueError(f"larger than {MAX_OCTETS // 1024} KiB")
    try:
        document = json.loads(octets)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError('not a key set, expected {"keys": [...]}')  # noqa: TRY004 - of a document
    keys = [key for key in map(_key, listed[:MAX_KEYS]) if key is not None]
    if not keys:
        raise ValueError("none of its keys can be used, expected RSA, P-256 or Ed25519 ones")
    return KeySet(tuple(keys))


def _key(item: object) -> PublicKey | None:
    if not isinstance(item, dict):
        return None
    kind, curve = item.get("kty"), item.get("crv", "")
    if not isinstance(kind, str) or not isinstance(curve, str):
        return None
    algorithm = _ALGORITHMS.get((kind, "" if kind == "RSA" else curve))
    kid = item.get("kid", "")
    operations = item.get("key_ops", ["verify"])
    if (
        algorithm is None
        or "d" in item  # somebody has published a private key: it is nobody's any more
        or item.get("alg", algorithm) != algorithm
        or item.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
        or not isinstance(kid, str)
        or len(kid) > MAX_KID
    ):
        return None
    try:
        key = PyJWK(item, algorithm=algorithm).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return None
    return PublicKey(kid, algorithm, key)
