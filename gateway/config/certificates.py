"""Certificates and their keys: read as a pair, found to fit, told what they are for.

What is returned has been written anew from what was understood: a certificate file that also holds
the key, comments or parameters gives the certificates alone.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from gateway.config.files import read_bounded, reason
from gateway.config.snapshot import TlsCertificate
from gateway.openssl import try_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

#: Octets of a file with a certificate and its chain, or with a key.
MAX_FILE: Final = 256 * 1024
#: NIST SP 800-57 part 1 (2020), table 2: shorter keys are not for use; OpenSSL refuses them.
MIN_RSA_BITS: Final = 2048
#: Names of one certificate that are looked at.
MAX_NAMES: Final = 1000
#: Days before the end at which an operator is told, each once.
THRESHOLDS: Final = (30, 7, 1)
DAY: Final = 86_400

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
#: A wildcard is a whole label, the leftmost (RFC 9525 section 6.3).
_NAME: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")

Which = Literal["certificate", "key"]


class PairError(Exception):
    """A pair is of no use. ``which`` file is at fault; the message names neither.

    ``also`` is what is wrong with the other file, where that is known too.
    """

    def __init__(self, which: Which, message: str) -> None:
        super().__init__(message)
        self.which: Which = which
        self.also: PairError | None = None


@contextlib.contextmanager
def _understood(which: Which, message: str) -> Iterator[None]:
    """Have whatever a parser raises at a stranger's octets be a PairError.

    What it may raise is nowhere told, and grows with its versions: unknown algorithms, curves and
    kinds of names, dates that are none.
    """
    try:
        yield
    except PairError:
        raise
    except Exception:  # noqa: BLE001  see above
        raise PairError(which, message) from None


def read_pair(place: str, certificate_file: str, key_file: str) -> TlsCertificate:
    """Return what two files hold, found to fit each other. Blocking. Raises PairError.

    The files are read one after the other: where they are being replaced meanwhile they do not fit,
    and another look is worth it.
    """
    try:
        certificate = _octets("certificate", certificate_file)
    except PairError as error:
        try:
            _octets("key", key_file)
        except PairError as other:
            error.also = other
        raise
    return pair(
        place,
        certificate,
        _octets("key", key_file),
        certificate_file=certificate_file,
        key_file=key_file,
    )


def _octets(which: Which, name: str) -> bytes:
    try:
        octets = read_bounded(Path(name), MAX_FILE)
    except OSError as error:
        message = f"the file that is named here cannot be read: {reason(error)}"
        raise PairError(which, message) from None
    if len(octets) > MAX_FILE:
        limit = MAX_FILE // 1024
        message = f"the file that is named here is too large, expected at most {limit} KiB"
        raise PairError(which, message)
    return octets


def pair(
    place: str, certificate: bytes, key: bytes, *, certificate_file: str = "", key_file: str = ""
) -> TlsCertificate:
    """Return a certificate with its key from PEM. Raises PairError where they are of no use."""
    # Half a tenth of a second to import: only where there is a certificate.
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    chain = _chain(certificate)
    private = _private(key)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with _understood("key", "the key is of a kind that cannot be used"):
        own = private.public_key().public_bytes(*form)
        kept = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _understood("certificate", "the certificate's public key cannot be read"):
        if chain[0].public_key().public_bytes(*form) != own:
            if any(each.public_key().public_bytes(*form) == own for each in chain[1:]):
                raise PairError(
                    "certificate", "the chain is out of order, expected the server's own first"
                )
            message = "the key does not fit the certificate, expected the one it is for"
            raise PairError("key", message)
    with _understood("certificate", "the certificate has parts that cannot be read"):
        found = TlsCertificate(
            place=place,
            names=_names(chain[0]),
            chain=b"".join(each.public_bytes(Encoding.PEM) for each in chain),
            key=kept,
            expires=int(chain[0].not_valid_after_utc.timestamp()),
            kind=_kind(private),
            certificate_file=certificate_file,
            key_file=key_file,
        )
    try:
        try_pair(found.key, found.chain)
    except ValueError as error:
        raise PairError("certificate", str(error)) from None
    return found


def _chain(octets: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    if b"-----BEGIN " not in octets:
        raise PairError(
            "certificate", "the file that is named here is not PEM, expected -----BEGIN …"
        )
    chain: list[x509.Certificate] = []
    message = "the file that is named here holds no certificate that can be read"
    with _understood("certificate", message):
        chain += x509.load_pem_x509_certificates(octets)
    return chain


def _private(octets: bytes) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if b"-----BEGIN " not in octets:
        raise PairError("key", "the file that is named here is not PEM, expected -----BEGIN …")
    with _understood("key", "the file that is named here holds no private key that can be read"):
        try:
            key = load_pem_private_key(octets, None)
        except TypeError:
            message = "the key is encrypted, expected one without a passphrase"
            raise PairError("key", message) from None
    if not _kind(key):
        raise PairError("key", "the key is of an unknown kind, expected RSA, EC or Ed25519")
    if isinstance(key, RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
        raise PairError(
            "key", f"the key has {key.key_size} bits, expected at least {MIN_RSA_BITS} for RSA"
        )
    return key


def _kind(key: PrivateKeyTypes) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if isinstance(key, rsa.RSAPrivateKey):
        return "RSA"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "EC"
    return "Ed" if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else ""


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return what a certificate is for; its common name counts no more (RFC 9525 section 2)."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [each.lower().removesuffix(".") for each in found.get_values_for_type(x509.DNSName)]
        addresses = [str(each) for each in found.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()
    usable = [each for each in names if _NAME.fullmatch(each)]
    return tuple(dict.fromkeys(usable + addresses))[:MAX_NAMES]


def ends_soon(expires: int, now: float) -> int | None:
    """Return the threshold in days that is passed, 0 where it has ended, None where none is."""
    left = expires - now
    if left <= 0:
        return 0
    passed = [days for days in THRESHOLDS if left <= days * DAY]
    return min(passed) if passed else None


def end_in_words(certificate: TlsCertificate, now: float) -> str:
    """Say when a certificate ends, where that is soon or past; empty otherwise."""
    threshold = ends_soon(certificate.expires, now)
    if threshold is None:
        return ""
    days = abs(certificate.expires - now) / DAY
    what = f"the certificate for {certificate.names[0] if certificate.names else 'no name'}"
    if threshold == 0:
        return f"{what} has expired {days:.0f} days ago"
    return f"{what} expires in {days:.1f} days"
