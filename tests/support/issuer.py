"""An issuer of tokens with real keys: what it signs, and the key set that it publishes."""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.config.snapshot import Jwt

ISSUER = "https://id.example/"
AUDIENCE = "blkout"
NOW = 1_893_456_000.0


def b64(octets: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


@lru_cache
def private_key(algorithm: str, which: int = 0, bits: int = 2048) -> Any:
    """Return one of an algorithm's keys, made once."""
    del which
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, kid: str, which: int = 0, **more: Any) -> dict[str, Any]:
    """Return a public key as an issuer publishes it."""
    public = private_key(algorithm, which).public_key()
    kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
    made: dict[str, Any] = kinds[algorithm].to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": kid, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    """Return a JWKS document, of one key for each algorithm where none are given."""
    listed = keys or tuple(jwk(each, each) for each in ("RS256", "ES256", "EdDSA"))
    return json.dumps({"keys": listed}).encode()


def sign(algorithm: str, message: bytes, which: int = 0) -> bytes:
    """Return a signature as RFC 7518 section 3 has it."""
    key = private_key(algorithm, which)
    if algorithm == "RS256":
        return bytes(key.sign(message, padding.PKCS1v15(), hashes.SHA256()))
    if algorithm == "ES256":
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return bytes(key.sign(message))


def claims(**more: Any) -> dict[str, Any]:
    """Return what a good token says; None takes a claim away."""
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 600, "iat": NOW - 5}
    return {name: value for name, value in (usual | more).items() if value is not None}


def token(
    algorithm: str = "ES256",
    *,
    header: dict[str, Any] | None = None,
    body: dict[str, Any] | bytes | None = None,
    signature: bytes | None = None,
    which: int = 0,
    **more: Any,
) -> bytes:
    """Return a signed token. ``header`` is laid over the usual one; None there takes a key away."""
    usual: dict[str, Any] = {"alg": algorithm, "kid": algorithm, "typ": "JWT"} | (header or {})
    first = b64(json.dumps({k: v for k, v in usual.items() if v is not None}).encode())
    payload = body if isinstance(body, bytes) else json.dumps(body or claims(**more)).encode()
    message = f"{first}.{b64(payload)}".encode()
    signed = sign(algorithm, message, which) if signature is None else signature
    return message + b"." + b64(signed).encode()


def public_pem(algorithm: str) -> bytes:
    """Return a public key as PEM: what an attacker signs with as if it were a secret."""
    return bytes(
        private_key(algorithm)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def terms(**more: Any) -> Jwt:
    """Return what a token must be."""
    values: dict[str, Any] = {"issuer": ISSUER, "audience": (AUDIENCE,)}
    return Jwt(**(values | more))
