"""API keys: 256 bits of chance, kept as their SHA-256.

SHA-256 and not bcrypt or Argon2: those are slow on purpose, to make up for passwords that can be
guessed. A key of 256 random bits cannot be guessed however fast the guesses are, so slowness would
buy nothing, and would hand everybody who sends wrong keys a way to use the processor up.

A key is looked up by its hash. What an attacker could time is how far *hashes* agree, of which he
controls nothing (to choose one he would have to invert SHA-256); the one that is found is compared
in constant time all the same.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from gateway.policy.auth.subject import MAX_CREDENTIAL, CredentialError, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config.snapshot import ApiKey

#: Begins every key that is made here, so that scanners for leaked secrets know one.
PREFIX = "gwk_"
#: Octets of the shortest key that is looked up: shorter ones could be guessed.
MIN_KEY = 16


def digest(key: bytes) -> bytes:
    """Return what stands for a key: its SHA-256."""
    return hashlib.sha256(key).digest()


def mint(chance: bytes) -> tuple[str, str]:
    """Return a new key and its hash as a file has it. ``chance`` is 32 octets of it.

    Raises ValueError for fewer.
    """
    if len(chance) < 32:
        raise ValueError("a key needs 32 octets of chance")
    key = PREFIX + chance.hex()
    return key, "sha256:" + digest(key.encode("ascii")).hex()


class ApiKeyBook:
    """The keys of one scheme. ``field``, in lower case, tells the backend a key's name."""

    def __init__(self, scheme: str, keys: Iterable[ApiKey], field: str | None = None) -> None:
        self._subjects: dict[bytes, tuple[bytes, Subject]] = {}
        for key in keys:
            name = f"{scheme}:{key.name}"
            line = "" if field is None else f"{field}: {key.name}\r\n"
            subject = Subject(
                name.encode("ascii"), name, frozenset(key.scopes), line.encode("ascii")
            )
            self._subjects[key.digest] = (key.digest, subject)

    def __repr__(self) -> str:
        return f"ApiKeyBook({len(self._subjects)} keys)"

    def find(self, key: bytes) -> Subject:
        """Return whose key it is. Raises CredentialError where it is nobody's."""
        if not MIN_KEY <= len(key) <= MAX_CREDENTIAL:
            raise CredentialError("unknown key")
        hashed = digest(key)
        found = self._subjects.get(hashed)
        if found is None or not hmac.compare_digest(found[0], hashed):
            raise CredentialError("unknown key")
        return found[1]
