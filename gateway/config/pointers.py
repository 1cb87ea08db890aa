"""What a configuration points to: secrets in variables and files, certificates in PEM files.

Works on the data as it stands in the file, so that a secret that is missing is told together with
all that is wrong. No message holds a secret, a variable's name or a file's name: what stands there
by mistake may be the secret itself, and the position says where it is.
"""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeGuard

from msgspec.structs import replace

from gateway.config.certificates import PairError, end_in_words, read_pair
from gateway.config.cross import items, mapping
from gateway.config.faults import Fault, place_text
from gateway.config.files import read_bounded, reason
from gateway.config.secrets import Secrets
from gateway.openssl import try_authorities

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config.keys import Place
    from gateway.config.secrets import Kept
    from gateway.config.snapshot import TlsCertificate

#: Octets of a file with one secret, and of one with certificates (a system's bundle has 0.3 MiB).
MAX_SECRET = 64 * 1024
MAX_PEM = 4 * 1024 * 1024
#: Octets of a secret at least: shorter ones are guessed.
MIN_SECRET = 16
#: RFC 6750 section 2.1: what a bearer token may be made of.
_TOKEN_CHARACTERS = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="
)
_PEM = b"-----BEGIN "


class _UnreadableError(Exception):
    """A pointer leads nowhere; the message says why."""


def _file(name: str, limit: int) -> bytes:
    """Return a file's octets. Raises _UnreadableError."""
    try:
        octets = read_bounded(Path(name), limit)
    except OSError as error:
        raise _UnreadableError(
            f"the file that is named here cannot be read: {reason(error)}"
        ) from None
    if len(octets) > limit:
        raise _UnreadableError(
            f"the file that is named here is too large, expected at most {limit // 1024} KiB"
        )
    return octets


def _usable(value: object, *, from_env: bool) -> TypeGuard[str]:
    """Tell whether a pointer can be followed; where not, the types have said so."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    return not from_env or (value.isascii() and value.isidentifier())


def _long_enough(octets: bytes, stem: str) -> bytes:
    """Return a secret. Raises _UnreadableError where it is too short for one."""
    if len(octets) < MIN_SECRET:
        raise _UnreadableError(
            f"the {stem} is too short, expected at least {MIN_SECRET} characters"
        )
    return octets


def _pem(octets: bytes) -> None:
    """Raise _UnreadableError where a file holds no PEM."""
    if _PEM not in octets:
        raise _UnreadableError("the file that is named here is not PEM, expected -----BEGIN …")


class PointerReader:
    """Reads secrets and PEM files; keeps what is wrong in ``faults``, what is odd in ``warnings``.

    ``kept`` stands in for files that are of no use now.
    """

    def __init__(self, env: Mapping[str, str], now: float, kept: Kept | None = None) -> None:
        self._env = env
        self._now = now
        pairs = kept.certificates if kept is not None else ()
        self._kept = {(each.certificate_file, each.key_file): each for each in pairs}
        self._kept_ca = kept.client_ca if kept is not None else None
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []

    def read(self, data: Mapping[str, object]) -> Secrets:
        """Return the secrets that a configuration's data points to."""
        tokens: dict[str, str] = {}
        owners: dict[str, int] = {}
        for index, item in enumerate(items(mapping(data.get("admin")).get("tokens"))):
            place: Place = ("admin", "tokens", index)
            token = self._token(mapping(item), place)
            name = mapping(item).get("name")
            if token is None or not isinstance(name, str):
                continue
            if token in owners:
                message = f"is the same token as admin.tokens[{owners[token]}]'s, expected its own"
                self.faults.append(Fault(place, message))
            owners.setdefault(token, index)
            tokens[name] = token
        cohort = mapping(mapping(data.get("traffic")).get("cohort"))
        secret = self._secret(cohort, ("traffic", "cohort"), "secret")
        for place, value in _pem_files(data):
            self._authorities(place, value)
        certificates = {}
        for place, item in _pairs(data):
            found = self._pair(place, mapping(item))
            if found is not None:
                certificates[found.place] = found
        self._folder(("acme", "folder"), mapping(data.get("acme")).get("folder"))
        return Secrets(
            MappingProxyType(tokens),
            secret,
            MappingProxyType(certificates),
            self._authorities(("admin", "tls", "client_ca"), _client_ca(data), self._kept_ca),
        )

    def _token(self, keys: Mapping[str, object], place: Place) -> str | None:
        octets = self._secret(keys, place, "token")
        if octets is None:
            return None
        if not set(octets) <= _TOKEN_CHARACTERS:
            message = (
                "the token has characters that a bearer token cannot have, "
                "expected letters, digits and -._~+/="
            )
            self.faults.append(Fault(place, message))
            return None
        return octets.decode("ascii")

    def _secret(self, keys: Mapping[str, object], place: Place, stem: str) -> bytes | None:
        """Return the secret that ``stem``_env or ``stem``_file point to, None where none does."""
        for key in (f"{stem}_env", f"{stem}_file"):
            value = keys.get(key)
            from_env = key.endswith("_env")
            if not _usable(value, from_env=from_env):
                continue
            try:
                octets = self._variable(value) if from_env else _file(value, MAX_SECRET)
                return _long_enough(octets.strip(), stem)
            except _UnreadableError as error:
                self.faults.append(Fault((*place, key), str(error)))
                return None
        return None

    def _variable(self, name: str) -> bytes:
        """Return a variable's value. Raises _UnreadableError."""
        value = self._env.get(name)
        if value is None:
            raise _UnreadableError("the environment variable that is named here is not set")
        return value.encode("utf-8", "surrogateescape")

    def _folder(self, place: Place, value: object) -> None:
        """Warn of a folder that is not there: it may be the first challenge's to make."""
        if not _usable(value, from_env=False):
            return
        try:
            there = stat.S_ISDIR(Path(value).stat().st_mode)
            message = "" if there else "is no folder, so no challenge is ever answered"
        except OSError as error:
            message = f"cannot be read now ({reason(error)}), so no challenge is answered"
        if message:
            self.warnings.append(Fault(place, message))

    def _authorities(
        self, place: Place, value: object, kept: tuple[str, bytes] | None = None
    ) -> bytes | None:
        """Return what a side is verified by, None where nothing is named or it is of no use.

        OpenSSL has looked at it: nobody could serve with anything else. ``kept`` stands in for the
        file that it is of.
        """
        if not _usable(value, from_env=False):
            return None
        try:
            octets = _file(value, MAX_PEM)
            _pem(octets)
            try_authorities(octets)
        except (_UnreadableError, ValueError) as error:
            fault = Fault(place, str(error))
            if kept is not None and kept[0] == value:
                self.warnings.append(fault)
                return kept[1]
            self.faults.append(fault)
            return None
        return octets

    def _pair(self, place: Place, item: Mapping[str, object]) -> TlsCertificate | None:
        """Return a certificate with its key, None where the reason is told."""
        certificate, key = item.get("certificate"), item.get("key")
        if not _usable(certificate, from_env=False) or not _usable(key, from_env=False):
            return None
        try:
            found = read_pair(place_text(place), certificate, key)
        except PairError as error:
            kept = self._kept.get((certificate, key))
            wrong = [each for each in (error, error.also) if each is not None]
            told = [Fault((*place, each.which), str(each)) for each in wrong]
            if kept is None:
                self.faults += told
                return None
            self.warnings += told
            return replace(kept, place=place_text(place))
        self._odd(place, found)
        return found

    def _odd(self, place: Place, found: TlsCertificate) -> None:
        """Warn of what works and should not stay as it is."""
        if end := end_in_words(found, self._now):
            self.warnings.append(Fault((*place, "certificate"), end))
        if not found.names:
            message = "the certificate is for no name (subjectAltName), browsers refuse it"
            self.warnings.append(Fault((*place, "certificate"), message))
        with contextlib.suppress(OSError):
            if stat.S_IMODE(Path(found.key_file).stat().st_mode) & 0o007:
                message = "everybody on this machine can read the key, expected chmod o-rwx"
                self.warnings.append(Fault((*place, "key"), message))


def _pem_files(data: Mapping[str, object]) -> Iterator[tuple[Place, object]]:
    """Yield what names PEM files with authorities that services are verified by."""
    for name, service in mapping(data.get("services")).items():
        yield ("services", name, "tls", "ca"), mapping(mapping(service).get("tls")).get("ca")


def _client_ca(data: Mapping[str, object]) -> object:
    return mapping(mapping(data.get("admin")).get("tls")).get("client_ca")


def _pairs(data: Mapping[str, object]) -> Iterator[tuple[Place, object]]:
    """Yield the places of certificates with their keys."""
    sections: list[tuple[Place, object]] = [
        (("listen", index), item) for index, item in enumerate(items(data.get("listen")))
    ]
    for place, section in [*sections, (("admin",), data.get("admin"))]:
        certificates = mapping(mapping(section).get("tls")).get("certificates")
        for index, item in enumerate(items(certificates)):
            yield (*place, "tls", "certificates", index), item
