"""Copies of stable's assets, so that open tabs go on working after their version is gone.

A page that was loaded before a release asks for its hashed assets after it. While both pools are
there, the other color is asked; once the former stable's pool is replaced, only these copies are
left (``traffic.assets.keep``). A copy is one file holding an HTTP answer, named by the hash of host
and target and by its content coding; the workers share the folder. One thread reads and writes:
the loop waits for no disk. What the disk refuses is not kept, and nothing else happens.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.wire.fields import (
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_LENGTH,
    HOP_BY_HOP,
    SET_COOKIE,
    mask,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.wire.head import Head

#: Octets of one copy, and of all of them.
MAX_COPY = 2 * 1024 * 1024
MAX_TOTAL = 256 * 1024 * 1024
#: Seconds after which a copy that is still asked for is written again, and so stays young.
REFRESH = 3600.0
#: Names remembered as written lately; jobs that wait for the thread; copies between two prunings.
MAX_REMEMBERED = 8192
MAX_WAITING = 64
PRUNE_EVERY = 256

#: Content codings that are told apart, the smallest answers first. Others are not kept.
CODINGS = ("br", "zstd", "gzip", "identity")

_DROP = HOP_BY_HOP | mask(CONTENT_LENGTH)
_UNKEPT_REQUEST = mask(AUTHORIZATION)
_UNKEPT_ANSWER = mask(SET_COOKIE)


class Keeper:
    """Collects one answer's body beside its way to the client; see ``KeptAssets.keeper``."""

    __slots__ = ("_head", "_name", "_pieces", "_size", "_store")

    def __init__(self, store: KeptAssets, name: str, head: Head) -> None:
        self._store = store
        self._name = name
        self._head = head
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, payload: bytes, ended: bool) -> bool:
        """Take more of the body; True while it is worth going on, False once done or too large."""
        self._size += len(payload)
        if self._size > MAX_COPY:
            return False
        self._pieces.append(payload)
        if ended:
            self._store.write(self._name, self._head, b"".join(self._pieces))
        return not ended


class KeptAssets:
    """The folder of copies. ``keep`` is how long one lives, ``wall`` the epoch's clock, in seconds.

    ``call_soon`` runs a callback on the loop's thread.
    """

    def __init__(
        self,
        folder: Path,
        keep: float,
        wall: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._folder = folder
        self.keep = keep
        self._wall = wall
        self._call_soon = call_soon
        self._written: dict[str, float] = {}
        self._count = 0
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kept assets", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what waits and end the thread."""
        self._jobs.put(None)
        self._thread.join(timeout=5.0)

    def keeper(self, host: bytes, target: bytes, request: Head, answer: Head) -> Keeper | None:
        """Return what collects this answer, None where it is not to be kept (or was lately)."""
        if answer.status != 200 or request.seen & _UNKEPT_REQUEST or answer.seen & _UNKEPT_ANSWER:
            return None
        control = b",".join(answer.get_all(CACHE_CONTROL)).lower()
        if b"no-store" in control or b"private" in control or answer.length > MAX_COPY:
            return None
        coding = (answer.find(b"content-encoding") or b"identity").lower().decode("latin-1")
        if coding not in CODINGS:
            return None
        name = f"{_digest(host, target)}.{coding}"
        now = self._wall()
        if now - self._written.get(name, -REFRESH) < REFRESH or self._jobs.qsize() >= MAX_WAITING:
            return None
        if _varies(answer):
            return None
        if len(self._written) >= MAX_REMEMBERED:
            self._written.clear()
        self._written[name] = now
        return Keeper(self, name, answer)

    def write(self, name: str, head: Head, body: bytes) -> None:
        """Have one copy written."""
        lines = b"Content-Length: %d\r\n" % len(body)
        data = head.render(b"HTTP/1.1 200 OK\r\n", _DROP, lines) + body
        self._jobs.put(lambda: self._write(name, data))

    def read(
        self, host: bytes, target: bytes, accepted: bytes, then: Callable[[bytes | None], None]
    ) -> None:
        """Call ``then`` on the loop with a stored answer that the client understands, or None.

        ``accepted`` is the request's Accept-Encoding.
        """
        digest = _digest(host, target)
        offered = accepted.lower().decode("latin-1")
        names = [
            f"{digest}.{coding}"
            for coding in CODINGS
            if coding == "identity" or (coding in offered and f"{coding};q=0" not in offered)
        ]
        if self._jobs.qsize() >= MAX_WAITING:
            self._call_soon(lambda: then(None))
            return

        def job() -> None:
            found = self._find(names)
            self._call_soon(lambda: then(found))

        self._jobs.put(job)

    # --- on the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            # A full or broken disk costs copies, never the thread.
            with contextlib.suppress(OSError):
                job()

    def _find(self, names: list[str]) -> bytes | None:
        oldest = self._wall() - self.keep
        for name in names:
            path = self._folder / name
            try:
                if path.stat().st_mtime >= oldest:
                    return path.read_bytes()
            except OSError:
                continue
        return None

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._folder / f"{name}.{os.getpid()}.tmp"
        try:
            # Not synced: a copy that a power cut takes is written again by the next request.
            temporary.write_bytes(data)
            temporary.replace(self._folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._count += 1
        if self._count % PRUNE_EVERY == 1:
            self._prune()

    def _prune(self) -> None:
        """Remove what is too old, then the oldest beyond the bound on all."""
        oldest = self._wall() - self.keep
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if state.st_mtime < oldest:
                    path.unlink()
                else:
                    found.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= MAX_TOTAL:
                break
            path.unlink(missing_ok=True)
            total -= size


def _varies(answer: Head) -> bool:
    """Tell whether an answer depends on more of its request than the names of copies tell apart."""
    fields = [value for name, value in answer.items() if name == b"vary"]
    named = {part.strip().lower() for value in fields for part in value.split(b",")}
    return not named <= {b"", b"accept-encoding"}


def _digest(host: bytes, target: bytes) -> str:
    return hashlib.sha256(host + b"\0" + target).hexdigest()
