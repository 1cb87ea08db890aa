"""Tokens with real keys; the attacks of RFC 8725 (JWT Best Current Practices), each as a test."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.keyset import read_keyset
from gateway.config.snapshot import Jwt
from gateway.policy.auth.subject import MAX_CREDENTIAL, CredentialError, Subject
from gateway.policy.auth.token import verify
from tests.support.issuer import (
    NOW,
    b64,
    claims,
    jwk,
    key_set,
    private_key,
    public_pem,
    terms,
    token,
)

KEYS = read_keyset(key_set())


def read(octets: bytes, wanted: Jwt | None = None, now: float = NOW) -> Subject:
    return verify(octets, KEYS, "users", wanted or terms(), now)


def refused(octets: bytes, wanted: Jwt | None = None, now: float = NOW) -> str:
    with pytest.raises(CredentialError) as caught:
        read(octets, wanted, now)
    return caught.value.reason


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_good_token_of_each_algorithm_is_believed(algorithm: str) -> None:
    subject = read(token(algorithm))
    assert subject.name == b"users:alice"
    assert subject.until == NOW + 630
    assert b"alice" not in subject.shown.encode()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_another_keys_signature_is_refused(algorithm: str) -> None:
    assert refused(token(algorithm, which=1)) == "bad signature"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_changed_claims_are_refused(algorithm: str) -> None:
    head, _, signature = token(algorithm).split(b".")
    other = b64(json.dumps(claims(sub="mallory")).encode()).encode()
    assert refused(b".".join((head, other, signature))) == "bad signature"


# --- RFC 8725 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_section_2_1_no_signature_at_all(name: str) -> None:
    unsigned = token(header={"alg": name}, signature=b"")
    assert refused(unsigned) in {"algorithm not accepted", "not a signed token"}
    assert refused(token(header={"alg": name})) == "algorithm not accepted"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("name", ["HS256", "HS384", "HS512"])
def test_section_2_1_a_public_key_is_no_hmac_secret(algorithm: str, name: str) -> None:
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[name]
    message = token(algorithm, header={"alg": name}).rpartition(b".")[0]
    signed = hmac.new(public_pem(algorithm), message, digest).digest()
    assert refused(message + b"." + b64(signed).encode()) == "algorithm not accepted"


def test_section_3_1_the_algorithm_is_the_keys_not_the_tokens() -> None:
    # The name of the RSA key with the EC algorithm: no such key there.
    assert refused(token("ES256", header={"kid": "RS256"})) == "unknown signing key"
    assert refused(token("RS256"), terms(algorithms=("ES256",))) == "algorithm not accepted"


@pytest.mark.parametrize("name", ["RS384", "RS512", "PS256", "ES384", "ES256K", "Ed448", "rs256"])
def test_section_3_1_other_algorithms_are_refused(name: str) -> None:
    assert refused(token(header={"alg": name})) == "algorithm not accepted"


def test_section_2_3_an_encrypted_token_is_refused() -> None:
    assert refused(b".".join([b"eyJhbGciOiJSU0EtT0FFUCJ9"] * 5)) == "not a signed token"


def test_section_3_4_an_all_zero_signature_is_refused() -> None:
    """CVE-2022-21449: r = s = 0 must not verify."""
    assert refused(token("ES256", signature=bytes(64))) == "bad signature"


def test_section_3_4_points_off_the_curve_are_no_keys() -> None:
    wrong = jwk("ES256", "wrong") | {"x": b64(bytes(31) + b"\1"), "y": b64(bytes(31) + b"\1")}
    with pytest.raises(ValueError, match="none of its keys"):
        read_keyset(key_set(wrong))


def test_section_3_5_short_rsa_keys_are_no_keys() -> None:
    from jwt.algorithms import RSAAlgorithm

    short = RSAAlgorithm.to_jwk(private_key("RS256", 9, 1024).public_key(), as_dict=True)
    with pytest.raises(ValueError, match="none of its keys"):
        read_keyset(json.dumps({"keys": [short]}).encode())


def test_section_3_6_compression_is_refused() -> None:
    assert refused(token(header={"zip": "DEF"})) == "extension not understood"


@pytest.mark.parametrize("octets", [b"\xff\xfe{}", '{"iss":"é"}'.encode("latin-1"), b"[]", b"1"])
def test_section_3_7_claims_that_are_no_utf_8_object_are_refused(octets: bytes) -> None:
    assert refused(token(body=octets)) == "not a signed token"


@pytest.mark.parametrize("issuer", ["https://id.example", "https://ID.example/", "", None, ["x"]])
def test_section_3_8_another_issuer_is_refused(issuer: object) -> None:
    assert refused(token(iss=issuer)) in {
        "another issuer",
        "a required claim is missing",
        "not a signed token",
    }


@pytest.mark.parametrize("subject", ["", None, 7, ["alice"], {"a": 1}, "x" * 1025])
def test_section_3_8_a_token_of_nobody_is_refused(subject: object) -> None:
    assert refused(token(sub=subject)) in {"no subject", "not a signed token"}


@pytest.mark.parametrize("audience", ["other", ["a", "b"], "blkou", None, [], 7, ["blkout", 7]])
def test_section_3_9_a_token_for_somebody_else_is_refused(audience: object) -> None:
    assert refused(token(aud=audience)) in {
        "for another audience",
        "a required claim is missing",
        "not a signed token",
    }


def test_section_3_9_one_audience_of_several_is_enough() -> None:
    assert read(token(aud=["other", "blkout"])).name == b"users:alice"


def test_section_3_10_a_key_that_the_token_brings_is_not_believed() -> None:
    """``jwk``, ``jku``, ``x5u`` and ``x5c`` are not looked at."""
    brought: dict[str, Any] = {
        "jwk": jwk("ES256", "ES256", 1),
        "jku": "https://evil.example/jwks",
        "x5u": "https://evil.example/cert",
        "x5c": ["MIIB"],
    }
    assert refused(token("ES256", which=1, header=brought)) == "bad signature"


@pytest.mark.parametrize("kid", ["../../etc/passwd", "' OR 1=1 --", "nobody", "x" * 257, 7, [], {}])
def test_section_3_10_a_keys_name_is_compared_and_no_more(kid: object) -> None:
    assert refused(token(header={"kid": kid})) in {"unknown signing key", "not a signed token"}


@pytest.mark.parametrize("typ", ["JWT", None, 7, "id+jwt"])
def test_section_3_11_another_type_is_refused_where_one_is_asked_for(typ: object) -> None:
    wanted = terms(type="at+jwt")
    assert refused(token(header={"typ": typ}), wanted) == "another type of token"
    assert read(token(header={"typ": "application/AT+JWT"}), wanted).name == b"users:alice"


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"crit": 7}])
def test_critical_extensions_are_refused(header: dict[str, Any]) -> None:
    assert refused(token(header=header)) == "extension not understood"


# --- times ----------------------------------------------------------------------------------------


def test_expiry_counts_with_the_leeway() -> None:
    made = token(exp=NOW)
    assert read(made, now=NOW + 29.9).until == NOW + 30
    assert refused(made, now=NOW + 30) == "expired"


def test_not_before_counts_with_the_leeway() -> None:
    made = token(nbf=NOW + 100)
    assert refused(made, now=NOW + 69.9) == "not valid yet"
    assert read(made, now=NOW + 70).since == NOW + 70


def test_a_token_of_the_future_is_refused() -> None:
    assert refused(token(iat=NOW + 31)) == "not valid yet"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["soon", True, [], {}, float("inf"), float("nan")])
def test_times_that_are_no_numbers_are_refused(name: str, value: Any) -> None:
    assert refused(token(**{name: value})) == "a time that is no number"


def test_a_token_without_an_end_is_refused() -> None:
    assert refused(token(exp=None)) == "a required claim is missing"


def test_required_claims_are_required() -> None:
    assert refused(token(), terms(require=("exp", "tenant"))) == "a required claim is missing"


# --- claims as fields -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("a b", b"X-C: a b\r\n"),
        (7, b"X-C: 7\r\n"),
        (True, b"X-C: true\r\n"),
        (["a", "b"], b"X-C: a,b\r\n"),
        ("", b""),
        (None, b""),
    ],
)
def test_claims_become_fields(value: object, line: bytes) -> None:
    assert read(token(c=value), terms(claims=(("c", "X-C"),))).lines == line


@pytest.mark.parametrize(
    "value",
    ["a\r\nX-Admin: 1", "a\nb", "a\0", "\x7f", " a", "é", "x" * 1025, 1.5, {}, ["a,b"], [1], 2**63],
)
def test_claims_that_no_field_can_have_are_refused(value: object) -> None:
    assert (
        refused(token(c=value), terms(claims=(("c", "X-C"),))) == "a claim that no field can have"
    )


def test_scopes_come_as_text_or_as_a_list() -> None:
    assert read(token(scope="read write")).scopes == {"read", "write"}
    assert read(token(scp=["a", 7]), terms(scopes="scp")).scopes == {"a"}
    assert read(token(scope=7)).scopes == frozenset()


# --- shapes ---------------------------------------------------------------------------------------


def test_a_token_that_is_too_long_is_not_read() -> None:
    assert refused(b"a" * (MAX_CREDENTIAL + 1)) == "too long"


@pytest.mark.parametrize("octets", [b"", b"a", b"a.b", b"..", b"a.b.c", b"a.b.c.d", b"[.].["])
def test_what_is_no_token_is_refused(octets: bytes) -> None:
    assert refused(octets) == "not a signed token"


def test_deep_nesting_is_refused() -> None:
    assert refused(b64(b"[" * 4000).encode() + b".e30.AA") == "not a signed token"


@given(st.binary(max_size=200))
def test_any_octets_are_refused_in_one_way(octets: bytes) -> None:
    refused(octets)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_token_with_an_octet_changed_is_refused_or_is_the_same(at: int, octet: int) -> None:
    """The same: base64url of a last letter has bits that say nothing."""
    made = token("EdDSA")
    at %= len(made)
    changed = made[:at] + bytes([octet]) + made[at + 1 :]
    try:
        assert read(changed).name == b"users:alice"
    except CredentialError:
        return
    assert changed == made or at == len(made) - 1


def test_without_a_keys_name_all_keys_of_the_algorithm_are_tried() -> None:
    keys = read_keyset(key_set(jwk("ES256", "a", 1), jwk("ES256", "b", 0)))
    made = token(header={"kid": None})
    assert verify(made, keys, "users", terms(), NOW).name == b"users:alice"


def test_an_unknown_key_is_told_apart() -> None:
    with pytest.raises(CredentialError) as caught:
        read(token(header={"kid": "next"}))
    assert caught.value.unknown_key


@pytest.mark.parametrize(
    "more", [{"use": "enc"}, {"alg": "ES384"}, {"key_ops": ["sign"]}, {"d": "AA"}, {"kid": 7}]
)
def test_keys_for_something_else_are_passed_over(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="none of its keys"):
        read_keyset(
            key_set(jwk("ES256", "a", **more) if "kid" not in more else jwk("ES256", "a") | more)
        )


def test_symmetric_keys_are_passed_over() -> None:
    with pytest.raises(ValueError, match="none of its keys"):
        read_keyset(key_set({"kty": "oct", "k": b64(b"secret" * 8), "kid": "a"}))


@pytest.mark.parametrize("octets", [b"", b"[]", b"{}", b'{"keys": {}}', b"<html>", b"[" * 9000])
def test_what_is_no_key_set_is_refused(octets: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected|not JSON"):
        read_keyset(octets)
