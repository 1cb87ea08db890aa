"""Who may ask: schemes of authentication by name, and what a route asks of them."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from gateway.config.scalars import shown
from gateway.config.schema.types import (
    Duration,
    FilePath,
    HttpToken,
    Seconds,
    Section,
    key,
    names_schema,
    one_or_many,
)

#: A scheme's or key's name, a key's hash, a scope, as files have them.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HASH = re.compile(r"sha256:[0-9a-f]{64}")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")  # RFC 6749 section 3.3: scope-token
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
#: What frames a request, ends at a hop or is the gateway's own to say: no identity's field.
_NOT_IDENTITY = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-request-id",
    }
)


def _scheme_name(value: object) -> str:
    if not isinstance(value, str) or NAME.fullmatch(value) is None or value == "off":
        raise ValueError(
            f"{shown(value)} is not a scheme's name, expected up to 64 letters, digits, dots, "
            "hyphens and underscores, and not off"
        )
    return value


def _key_name(value: object) -> str:
    if not isinstance(value, str) or NAME.fullmatch(value) is None:
        raise ValueError(
            "not a key's name, expected up to 64 letters, digits, dots, hyphens and underscores"
        )
    return value


def _hash(value: object) -> bytes:
    # Not quoted: what stands here by mistake is likely the key itself.
    if not isinstance(value, str) or HASH.fullmatch(value) is None:
        raise ValueError(
            "not the hash of a key, expected sha256: and 64 lower-case hex digits "
            "(as `gateway api-key` prints it; the key itself never stands in the file)"
        )
    return bytes.fromhex(value[7:])


def _scope(value: object) -> str:
    if not isinstance(value, str) or SCOPE.fullmatch(value) is None:
        raise ValueError(f"{shown(value)} is not a scope, expected such as orders:read")
    return value


def _identity_field(value: object) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z0-9-]{1,64}", value) is None:
        raise ValueError(f"{shown(value)} is not an identity's field, expected such as X-User-Id")
    name = value.lower()
    if name in _NOT_IDENTITY or name.startswith(("x-forwarded-", "x-release-", "x-gateway-")):
        raise ValueError(
            f"{shown(value)} is not free to carry an identity, expected such as X-User-Id"
        )
    return value


def _claim(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 128:
        raise ValueError(f"{shown(value)} is not the name of a claim, expected such as sub")
    return value


def _jwks_url(value: object) -> str:
    expected = "expected https://…, or http:// to this machine"
    if not isinstance(value, str):
        raise ValueError(f"found {shown(value)}, {expected}")  # noqa: TRY004 - pydantic
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"not a URL, {expected}") from None
    if not host or not value.isascii() or any(letter <= " " for letter in value):
        raise ValueError(f"not a URL, {expected}")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError(f"credentials and fragments may not stand here, {expected}")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        # Who can change these keys on their way can sign in as anybody.
        raise ValueError(f"keys may not travel in the clear, {expected}")
    return value


def _schemes(value: object) -> tuple[str, ...]:
    if value == "off":
        return ()
    names = (value,) if isinstance(value, str) else value
    if (
        not isinstance(names, (tuple, list))
        or not 0 < len(names) <= 8
        or not all(isinstance(name, str) and name != "off" for name in names)
    ):
        raise ValueError(
            f"found {shown(value)}, expected off, the name of a scheme or a list of up to 8 names"
        )
    return tuple(str(name) for name in names)


def _text(title: str, pattern: str = "") -> WithJsonSchema:
    schema = {"type": "string", "title": title}
    return WithJsonSchema(schema | ({"pattern": pattern} if pattern else {}))


SchemeName = Annotated[str, PlainValidator(_scheme_name), _text("name")]
KeyName = Annotated[str, PlainValidator(_key_name), _text("name")]
KeyHash = Annotated[bytes, PlainValidator(_hash), _text("hash", "^sha256:[0-9a-f]{64}$")]
Scope = Annotated[str, PlainValidator(_scope), _text("scope")]
IdentityField = Annotated[str, PlainValidator(_identity_field), _text("field name")]
Claim = Annotated[str, PlainValidator(_claim), _text("claim")]
JwksUrl = Annotated[str, PlainValidator(_jwks_url), _text("URL", "^https?://")]
#: Names of schemes; none for ``off``.
Schemes = Annotated[
    tuple[str, ...],
    PlainValidator(_schemes),
    WithJsonSchema(
        {
            "title": "off, a scheme or schemes",
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 8},
            ],
        }
    ),
]


#: Names of which one must be in ``aud``.
Audience = Annotated[
    tuple[str, ...],
    Field(min_length=1, max_length=16),
    BeforeValidator(one_or_many),
    names_schema({"type": "string"}, 16),
]


class ApiKey(Section):
    """One API key, by its hash."""

    name: KeyName = Field(description="Whose it is, as the backend and the log are told.")
    hash: KeyHash = Field(description="sha256: and the key's SHA-256, as `gateway api-key` prints.")
    scopes: tuple[Scope, ...] = key((), description="What it may do.")


class ApiKeys(Section):
    """API keys, of ``keys`` and of ``keys_file`` together."""

    keys: tuple[ApiKey, ...] = key((), description="Keys that stand in this file, hashed.")
    keys_file: FilePath | None = key(
        None, description="File with a line for each key: name, hash and its scopes, by blanks."
    )
    field: HttpToken | None = key(
        "X-API-Key",
        description="Field that keys are taken from besides Authorization: Bearer; null: none.",
    )
    name_field: IdentityField | None = key(
        None, description="Field that tells the backend the key's name; null: it is not told."
    )


class Jwt(Section):
    """Signed tokens (JWT). Exactly one of ``jwks_url`` and ``jwks_file``."""

    issuer: str = Field(min_length=1, max_length=512, description="What iss must be, exactly.")
    audience: Audience = Field(description="One name or a list; one of these must be in aud.")
    jwks_url: JwksUrl | None = key(None, description="Where the issuer's public keys are.")
    jwks_file: FilePath | None = key(None, description="File with the issuer's key set instead.")
    refresh: Seconds = key("10m", description="How often jwks_url is read again.")
    algorithms: tuple[Literal["RS256", "ES256", "EdDSA"], ...] = key(
        ("RS256", "ES256", "EdDSA"), min_length=1, description="Signatures that are accepted."
    )
    leeway: Duration = key("30s", description="How far clocks may be apart; at most 5m.")
    require: tuple[Claim, ...] = key(
        ("exp",), description="Claims that must be there besides iss, aud and the subject's."
    )
    type: str = key("", max_length=64, description="What typ must be, such as at+jwt; empty: any.")
    subject: Claim = key("sub", description="The claim that tells who it is.")
    scopes: Claim = key("scope", description="The claim with scopes, by blanks or as a list.")
    claims: dict[Claim, IdentityField] = key(
        {}, description="Claims that the backend is told, each with its field."
    )


class AuthScheme(Section):
    """One way to tell who asks. Exactly one of ``api_keys`` and ``jwt``."""

    api_keys: ApiKeys | None = key(None, description="By keys that were handed out.")
    jwt: Jwt | None = key(None, description="By tokens that an issuer has signed.")
