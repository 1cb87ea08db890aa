"""Pairs of certificate and key: what is taken, what is refused and in which words."""

from __future__ import annotations

import base64
import random
import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config.certificates import DAY, PairError, end_in_words, ends_soon, pair
from gateway.config.load import ConfigErrors, parse_text
from gateway.config.secrets import Kept
from tests.support.certificates import Authority, Made, key_pem, rsa_key

AUTHORITY = Authority()
SITE = AUTHORITY.make("Blkout.example", "*.blkout.example", "192.0.2.1")
OTHER = AUTHORITY.make("other.example")
ODD = AUTHORITY.odd()
WEAK = AUTHORITY.make("a", key=ec.generate_private_key(ec.SECP192R1()))


def config(certificate: object, key: object) -> bytes:
    return (
        f"listen: [{{address: '127.0.0.1:8443', tls: {{certificates: "
        f"[{{certificate: {certificate}, key: {key}}}]}}}}]\n"
        "services: {a: {blue: {endpoints: ['http://a']}}}\n"
    ).encode()


def refused(certificate: object, key: object) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parse_text(config(certificate, key), "f", {})
    return [f"{each.path}: {each.message}" for each in caught.value.problems]


def warned(certificate: object, key: object) -> list[str]:
    loaded = parse_text(config(certificate, key), "f", {})
    return [f"{each.path}: {each.message}" for each in loaded.warnings]


def test_what_a_pair_says() -> None:
    found = SITE.read()
    assert found.names == ("blkout.example", "*.blkout.example", "192.0.2.1")
    assert found.kind == "EC"
    assert abs(found.expires - time.time() - 90 * DAY) < 3600
    assert AUTHORITY.make("a", key=rsa_key(2048)).read().kind == "RSA"


def test_no_repr_shows_a_key() -> None:
    found = SITE.read()
    assert "PRIVATE" not in repr(found)
    assert "BEGIN" not in repr(found)


def test_a_file_with_both_in_it_gives_each_its_part() -> None:
    both = SITE.certificate + AUTHORITY.pem + SITE.key
    found = pair("here", both, both)
    assert found.chain == SITE.certificate + AUTHORITY.pem
    assert found.key == SITE.key


@pytest.mark.parametrize(
    ("certificate", "key", "which", "message"),
    [
        (SITE.certificate, OTHER.key, "key", "does not fit the certificate"),
        (AUTHORITY.pem + SITE.certificate, SITE.key, "certificate", "out of order"),
        (b"no", SITE.key, "certificate", "not PEM"),
        (SITE.certificate, b"no", "key", "not PEM"),
        (SITE.key, SITE.key, "certificate", "no certificate that can be read"),
        (SITE.certificate, SITE.certificate, "key", "no private key that can be read"),
        (SITE.certificate[:300], SITE.key, "certificate", "no certificate that can be read"),
        (SITE.certificate, key_pem(rsa_key(2048), b"secret"), "key", "is encrypted"),
        (
            AUTHORITY.make("a", key=rsa_key(1024)).certificate,
            key_pem(rsa_key(1024)),
            "key",
            "has 1024 bits",
        ),
        (ODD.certificate, ODD.key, "certificate", "has parts that cannot be read"),
        (WEAK.certificate, WEAK.key, "certificate", "OpenSSL does not take it: ee key too small"),
    ],
)
def test_what_is_of_no_use(certificate: bytes, key: bytes, which: str, message: str) -> None:
    with pytest.raises(PairError, match=message) as caught:
        pair("here", certificate, key)
    assert caught.value.which == which


def test_nothing_but_a_pair_error_comes_of_what_a_file_may_hold() -> None:
    """A certificate with a few octets changed: what the parser raises at it is its own affair."""
    whole = ssl.PEM_cert_to_DER_cert(SITE.certificate.decode())
    chance = random.Random(1)
    told: dict[str, int] = {}
    for _ in range(400):
        octets = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 4))):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        body = base64.encodebytes(octets)
        pem = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
        try:
            pair("here", pem, SITE.key)
        except PairError as error:
            told[str(error)] = told.get(str(error), 0) + 1
    assert told["the certificate's public key cannot be read"] > 0


def test_a_file_is_told_by_its_place_and_never_by_its_content(tmp_path: Path) -> None:
    certificate, _ = SITE.write(tmp_path)
    _, key = OTHER.write(tmp_path, "other")
    place = "listen[0].tls.certificates[0]"
    assert refused(certificate, key) == [
        f"{place}.key: the key does not fit the certificate, expected the one it is for"
    ]
    message = "the file that is named here cannot be read: No such file or directory"
    assert refused(tmp_path / "none", key) == [f"{place}.certificate: {message}"]


def test_a_pair_in_force_stands_in_for_one_that_is_of_no_use_now(tmp_path: Path) -> None:
    certificate, key = SITE.write(tmp_path)
    good = parse_text(config(certificate, key), "f", {}).config.secrets.certificates
    key.write_bytes(OTHER.key)
    loaded = parse_text(config(certificate, key), "f", {}, kept=Kept(tuple(good.values())))
    assert loaded.config.secrets.certificates == good
    assert "does not fit" in loaded.warnings[0].message


def with_callers(client_ca: object) -> bytes:
    return (
        f"admin: {{tls: {{client_ca: {client_ca}, certificates: []}}}}\n"
        "services: {a: {blue: {endpoints: ['http://a']}}}\n"
    ).encode()


@pytest.mark.parametrize(
    "octets", [SITE.key, b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"]
)
def test_authorities_that_openssl_does_not_take_are_refused(tmp_path: Path, octets: bytes) -> None:
    certificate, key = SITE.write(tmp_path)
    file = tmp_path / "callers.pem"
    pair = f"[{{certificate: {certificate}, key: {key}}}]"
    text = with_callers(file).replace(b"[]", pair.encode())
    file.write_bytes(octets)
    with pytest.raises(ConfigErrors) as caught:
        parse_text(text, "f", {})
    place = "admin.tls.client_ca"
    [told] = [each for each in caught.value.problems if each.path == place]
    assert told.message.startswith("OpenSSL does not take these authorities: ")

    kept = Kept(client_ca=(str(file), AUTHORITY.pem))
    loaded = parse_text(text, "f", {}, kept=kept)
    assert loaded.config.secrets.client_ca == AUTHORITY.pem
    assert place in {each.path for each in loaded.warnings}
    # Another file's are no stand-in.
    kept = Kept(client_ca=(str(tmp_path / "others.pem"), AUTHORITY.pem))
    with pytest.raises(ConfigErrors):
        parse_text(text, "f", {}, kept=kept)

    file.write_bytes(AUTHORITY.pem + Authority().pem)
    loaded = parse_text(text, "f", {}, kept=kept)
    assert loaded.config.secrets.client_ca == file.read_bytes()
    assert place not in {each.path for each in loaded.warnings}


def test_what_works_and_should_not_stay(tmp_path: Path) -> None:
    place = "listen[0].tls.certificates[0]"
    certificate, key = SITE.write(tmp_path)
    assert warned(certificate, key) == []
    key.chmod(0o644)
    assert warned(certificate, key) == [
        f"{place}.key: everybody on this machine can read the key, expected chmod o-rwx"
    ]
    assert warned(*AUTHORITY.make("a", days=-3).write(tmp_path)) == [
        f"{place}.certificate: the certificate for a has expired 3 days ago",
        f"{place}.key: everybody on this machine can read the key, expected chmod o-rwx",
    ]
    assert warned(*AUTHORITY.make(days=6.5).write(tmp_path, "new")) == [
        f"{place}.certificate: the certificate for no name expires in 6.5 days",
        f"{place}.certificate: the certificate is for no name (subjectAltName), browsers refuse it",
    ]


@pytest.mark.parametrize(
    ("days", "threshold"),
    [(31, None), (30, 30), (8, 30), (7, 7), (1.5, 7), (1, 1), (0, 0), (-5, 0)],
)
def test_the_thresholds(days: float, threshold: int | None) -> None:
    assert ends_soon(int(days * DAY), 0.0) == threshold


def test_an_end_in_words() -> None:
    assert end_in_words(SITE.read(), time.time()) == ""
    soon = Made(*vars(AUTHORITY.make("a", days=2)).values()).read()
    assert end_in_words(soon, time.time()) == "the certificate for a expires in 2.0 days"
