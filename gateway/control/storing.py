"""What a state store keeps, and what it says where it cannot: the words of ``store``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from gateway.control.state import State
from gateway.release.record import Decision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.control.releaserows import Keys
    from gateway.release.record import Release


class StoreError(Exception):
    """The store cannot keep or give what was asked. The message says why."""


class WholeError(StoreError):
    """The file that could not be read at the start can be read now: it is not written over."""


class OvertakenError(StoreError):
    """A state of a lower revision than the one that is stored, ``stored``: it is not kept."""

    def __init__(self, revision: int, stored: int) -> None:
        super().__init__(f"revision {revision} is behind revision {stored}, which is stored")
        self.stored = stored


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One write. ``before`` and ``after`` are JSON. ``id`` 0: not stored yet."""

    id: int = 0
    at: float
    actor: str
    address: str
    action: str
    reason: str = ""
    before: bytes = b"null"
    after: bytes = b"null"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A finished call's answer, kept under the caller's Idempotency-Key.

    ``request`` is the digest of what was asked, so that a key used for something else is noticed.
    """

    actor: str
    key: str
    request: bytes
    status: int
    body: bytes
    etag: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishap:
    """What had become of the store's file, and whether all that it had is in the new one.

    ``aside`` is where what lay at its path is now.
    """

    what: str
    whole: bool
    aside: Path | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a release so far. ``keys`` are those that are new or count for more now;
    ``anew``: all that were kept before are void.
    """

    release: str
    document: bytes
    keys: dict[tuple[str, int], int] = {}
    anew: bool = False
    decisions: tuple[Decision, ...] = ()


class Store(Protocol):
    """Where intent is kept. Every method raises StoreError where the store fails."""

    #: Why nothing is kept beyond this process; empty where it is.
    fallback: str

    async def load(self) -> State | None:
        """Return the state as last saved (every service ever seen), None for a new store."""

    async def save(
        self, state: State, audit: Sequence[AuditEntry], decisions: Sequence[Decision] = ()
    ) -> None:
        """Keep a state, its audit rows and its release's decisions in one durable transaction.

        Raises OvertakenError where a later state is stored already; nothing is kept then.
        """

    async def remember(self, answer: Answer) -> None:
        """Keep an answer."""

    async def remembered(self, actor: str, key: str, now: float) -> Answer | None:
        """Return the answer kept under a key that is not older than a day."""

    async def audit(self, before: int | None, limit: int) -> list[AuditEntry]:
        """Return audit rows with ids under ``before``, newest first."""

    async def has_audit(self, entry: AuditEntry) -> bool:
        """Tell whether a row of that action, by that actor and of that moment, is there."""

    async def releases(self, before: int | None, limit: int) -> list[Release]:
        """Return releases with numbers under ``before``, newest first."""

    async def release(self, name: str) -> Release | None:
        """Return one release by its id."""

    async def decisions(self, name: str) -> list[Decision]:
        """Return a release's ledger, oldest first."""

    async def condemned(self) -> set[tuple[str, int]]:
        """Return (service, generation) of builds that were rolled back for what they did."""

    async def keep_progress(self, progress: Progress) -> None:
        """Keep what was seen of a release that is under way."""

    async def progress(self, name: str) -> tuple[bytes, Keys] | None:
        """Return what was seen of a release before."""

    async def keep_baselines(self, documents: Mapping[str, bytes]) -> None:
        """Keep stable's latencies by service."""

    async def baselines(self) -> dict[str, bytes]:
        """Return stable's latencies by service."""

    async def mend(self) -> Mishap | None:
        """Where ``fallback`` says that nothing is kept: try again; what was in the way of it, and
        None where it is not mended.
        """

    async def look(self) -> Mishap | None:
        """Look whether what was kept is still there; tell what was done about it if not."""

    async def last(self, action: str) -> AuditEntry | None:
        """Return the newest audit row of an action."""

    async def close(self) -> None:
        """Finish what is under way and let go."""
