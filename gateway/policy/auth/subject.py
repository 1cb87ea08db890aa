"""What authentication makes of a request: a subject. And what refuses one, in fixed words."""

from __future__ import annotations

from dataclasses import dataclass

#: Octets of a credential that is looked at: longer ones are refused unread (a token with 40 roles
#: has about 2 KiB).
MAX_CREDENTIAL = 8 * 1024


@dataclass(frozen=True, slots=True)
class Subject:
    """A verified identity.

    ``name`` is unique among schemes (``partners:acme``). ``shown`` stands for it in the access log.
    ``lines`` are whole field lines for the backend. ``until`` (the epoch's seconds) is when what
    was verified ends; ``since`` when it begins.
    """

    name: bytes
    shown: str
    scopes: frozenset[str] = frozenset()
    lines: bytes = b""
    until: float = float("inf")
    since: float = float("-inf")


class CredentialError(Exception):
    """A credential that does not count. ``reason`` is one of few fixed words: never a part of it.

    ``unknown_key``: it may count once the issuer's keys have been read again.
    """

    def __init__(self, reason: str, *, unknown_key: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unknown_key = unknown_key
