"""Certificates for tests: an authority, and pairs of its making in files."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.config.certificates import pair
from gateway.config.snapshot import TlsCertificate

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """Return one key for all tests: making one takes half a second."""
    return rsa.generate_private_key(65537, bits)


def key_pem(key: Key, passphrase: bytes = b"") -> bytes:
    """Return a private key as PEM."""
    sealed = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)


@dataclass(frozen=True)
class Made:
    """A certificate (PEM) with its key."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, stem: str = "site") -> tuple[Path, Path]:
        """Write both files; return their paths."""
        folder.mkdir(exist_ok=True)
        certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
        certificate.write_bytes(self.certificate)
        key.touch(mode=0o600)
        key.write_bytes(self.key)
        return certificate, key

    def read(self, place: str = "listen[0].tls.certificates[0]") -> TlsCertificate:
        """Return it as a snapshot has it."""
        return pair(place, self.certificate, self.key)


class Authority:
    """An authority that clients of a test trust."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._own = self._built(self._name, self._key, days=30, names=(), authority=True)

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self._own.public_bytes(Encoding.PEM)

    def make(
        self,
        *names: str,
        days: float = 90,
        key: Key | None = None,
        client: bool = False,
    ) -> Made:
        """Make a certificate for host names and addresses."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made by a test")])
        made = self._built(subject, key, days=days, names=names, client=client)
        return Made(made.public_bytes(Encoding.PEM), key_pem(key))

    def _built(
        self,
        subject: x509.Name,
        key: Key,
        *,
        days: float,
        names: Sequence[str],
        authority: bool = False,
        client: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=100))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
            built = built.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            built = built.add_extension(
                x509.SubjectAlternativeName([_general(each) for each in names]), critical=False
            )
        return built.sign(self._key, hashes.SHA256())

    def odd(self) -> Made:
        """Make one that OpenSSL reads and Python's parser does not: a name of a rare kind in it."""
        key = ec.generate_private_key(ec.SECP256R1())
        party = x509.UnrecognizedExtension(  # an ediPartyName (RFC 5280 section 4.2.1.6)
            x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("3005a503300100")
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made by a test")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=90))
            .add_extension(party, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Made(made.public_bytes(Encoding.PEM), key_pem(key))

    def client(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts it."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
