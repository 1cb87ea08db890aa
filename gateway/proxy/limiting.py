"""Phase 4, limits: the check that has rate limits decide, and says so to the client.

Several limits of one check are asked first and counted after, so that a request that one of them
refuses takes nothing of the others. Fields are those of draft-ietf-httpapi-ratelimit-headers-11:
``RateLimit-Policy`` says what a limit is, ``RateLimit`` what of it is left. Compiled where a
compiler is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from gateway.board import layout
from gateway.policy.limit import Limit, LimiterTable
from gateway.proxy.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.config.snapshot import RateLimit
    from gateway.proxy.guard import Admission, Asked

_SECOND = cython.declare(cython.longlong, 1_000_000_000)
_CLIENT = cython.declare(cython.int, 0)
_SUBJECT = cython.declare(cython.int, 1)
_IDENTITY = cython.declare(cython.int, 2)
_SOURCES = {"client": 0, "subject": 1, "identity": 2}


@cython.final
@cython.cclass
class Bucket:
    """A limit with what clients are told apart by, and what they are told of it."""

    limit: Limit
    sources: tuple[int, ...]
    dry_run: cython.bint
    name: bytes
    policy: bytes

    def __init__(self, limit: Limit, keys: Sequence[str], dry_run: bool, name: str) -> None:
        self.limit = limit
        self.sources = tuple(_SOURCES[key] for key in keys)
        self.dry_run = dry_run
        self.name = name.encode("ascii")
        self.policy = b'"%b";q=%d;w=%d' % (self.name, limit.quota, limit.window)

    def client_of(self, asked: Asked, admission: Admission) -> bytes | str:
        """Return the first of the sources that is there; at last the address is."""
        source: cython.int
        for source in self.sources:
            if source == _SUBJECT and admission.subject:
                return admission.subject
            if source == _IDENTITY and asked.identity:
                return asked.identity
            if source == _CLIENT:
                break
        return asked.client


@cython.final
@cython.cclass
class LimitCheck:
    """Rate limits of one stage: before authentication (addresses), or after (subjects)."""

    _buckets: tuple[Bucket, ...]
    _policies: bytes
    _words: memoryview
    _refused: int
    _would: int

    def __init__(self, buckets: Iterable[Bucket], words: memoryview, row_at: int) -> None:
        self._buckets = tuple(buckets)
        shown = b", ".join(each.policy for each in self._buckets if not each.dry_run)
        self._policies = b"RateLimit-Policy: " + shown + b"\r\n" if shown else b""
        self._words = words
        self._refused = row_at + layout.ROW_RATE_LIMITED
        self._would = row_at + layout.ROW_RATE_LIMITED_DRY

    def __repr__(self) -> str:
        return f"<LimitCheck {self._policies!r}>"

    def check(self, asked: Asked, admission: Admission) -> None:
        """Admit or raise Failure ``rate-limited``. Callers of the platform's own are exempt."""
        bucket: Bucket
        limit: Limit
        wait: cython.longlong
        longest: cython.longlong = 0
        dry: cython.bint = False
        now: cython.longlong = cython.cast(cython.longlong, asked.now * 1e9)
        said: bytes = b""
        refusing: bytes = b""
        if asked.internal:
            return
        for bucket in self._buckets:
            limit = bucket.limit
            wait = limit.ask(bucket.client_of(asked, admission), now)
            if bucket.dry_run:
                if wait > 0:
                    dry = True
                else:
                    limit.take()
                continue
            if wait > longest:
                longest = wait
                refusing = bucket.name
            said += b'%b"%b";r=%d;t=%d' % (
                b", " if said else b"",
                bucket.name,
                limit.left,
                -(-limit.reset // _SECOND),
            )
        if dry:
            self._words[self._would] += 1
        if said:
            admission.lines += b"%bRateLimit: %b\r\n" % (self._policies, said)
        if longest > 0:
            self._words[self._refused] += 1
            raise Failure("rate-limited", refusing.decode(), retry_after=longest / 1e9)
        for bucket in self._buckets:
            if not bucket.dry_run:
                bucket.limit.take()


def limiter_table(words: memoryview) -> LimiterTable:
    """Return the view on the board's table."""
    at = layout.H_LIMIT_SECRET
    secret = bytes(words[at : at + layout.LIMIT_SECRET_WORDS])
    return LimiterTable(words, layout.LIMITS_AT, layout.LIMIT_SETS, secret)


def buckets_of(
    table: LimiterTable, where: str, limits: Sequence[RateLimit]
) -> tuple[list[Bucket], list[Bucket]]:
    """Return the buckets of ``limits``: those before authentication, and those after.

    ``where`` (a route, or everywhere) and the place in the list are their identity.
    """
    before: list[Bucket] = []
    after: list[Bucket] = []
    for at, each in enumerate(limits):
        keys = "-".join(each.key)
        identity = f"{where} {at} {keys}".encode()
        limit = Limit(table, identity, each.count, each.period, each.burst)
        name = each.name or (f"{keys}-{at + 1}" if len(limits) > 1 else keys)
        if not each.name and not where:
            name = f"global-{name}"  # a route's own stand beside it
        stage = after if "subject" in each.key else before
        stage.append(Bucket(limit, each.key, each.dry_run, name))
    return before, after


def limit_checks(
    table: LimiterTable,
    slab: int,
    row: int,
    common: tuple[list[Bucket], list[Bucket]],
    where: str,
    limits: Sequence[RateLimit],
) -> tuple[LimitCheck | None, LimitCheck | None]:
    """Return a route's two checks, before and after authentication; None: nothing to ask.

    ``common`` are the buckets that all routes share.
    """
    own = buckets_of(table, where, limits)
    words = table.words
    row_at = layout.slab_at(slab) + layout.ROWS_AT + row * layout.ROW_WORDS
    before, after = (shared + mine for shared, mine in zip(common, own, strict=True))
    return (
        LimitCheck(before, words, row_at) if before else None,
        LimitCheck(after, words, row_at) if after else None,
    )
