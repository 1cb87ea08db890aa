"""Keeping last good answers for ``stale`` fallbacks, apart from what the cache serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.policy.caching.storing import LEFT_OUT
from gateway.policy.caching.updating import kept_head
from gateway.proxy.cache import FALLBACK
from gateway.proxy.copies import Terms, answer_record

if TYPE_CHECKING:
    from gateway.proxy.cache import Cache
    from gateway.wire.head import Head


class LastGood:
    """Where one good answer goes: ``scope`` and ``name`` are its URL's, ``names`` what it varies
    by, ``age`` its corrected initial age in seconds.
    """

    __slots__ = ("_age", "_cache", "_name", "_names", "_scope")

    def __init__(
        self, cache: Cache, scope: bytes, name: bytes, names: tuple[bytes, ...], age: float
    ) -> None:
        self._cache = cache
        self._scope = scope
        self._name = name
        self._names = names
        self._age = age

    def wanted(self, request: Head, cookie: bytes) -> bool:
        """Tell whether it is to be written: not if one was just now."""
        variant = self._cache.variant(self._names, request, cookie) if self._names else b""
        primary = self._scope + FALLBACK + self._name
        return not self._cache.kept_lately(self._scope + variant + self._name, primary)

    def store(
        self, request: Head, cookie: bytes, rendered: bytes, body: bytes, now: float, since: float
    ) -> None:
        """Store the answer, whose head is ``rendered`` without hop-by-hop fields."""
        terms = Terms(now, self._age, 0.0, False, False, False, 0, 0, (), 0)
        self._cache.put(
            self._scope,
            self._scope + FALLBACK + self._name,
            self._names,
            request,
            cookie,
            answer_record(terms, kept_head(rendered, LEFT_OUT, len(body)), body),
            since,
        )
