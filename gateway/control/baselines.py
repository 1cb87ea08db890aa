"""Stable's past: how fast each service has been, and how often it is asked, for about an hour.

Thresholds of a release come from here, so that a candidate is measured by what stable was before it
began. A service's past is that of one generation of its stable pool; a candidate that becomes
stable brings along what it was seen to do.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.channel.histogram import Histogram, add_up
from gateway.release.record import OBJECTIVE, QUANTILES, Threshold

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.channel.messages import Tally
    from gateway.control.state import State

log = logging.getLogger("gateway.control")

#: Seconds that one slot holds, and how many slots are kept.
SLOT: Final = 300.0
SLOTS: Final = 13
#: Latencies below which a past says nothing of its tail.
LEAST_TIMED: Final = 500


class Slot(msgspec.Struct):
    """Five minutes. ``seconds`` of them have been watched."""

    seconds: float = 0.0
    requests: int = 0
    latency: dict[int, int] = {}


class Past(msgspec.Struct):
    """One service's slots, the newest last."""

    generation: int
    slots: list[Slot] = msgspec.field(default_factory=lambda: [Slot()])

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        newest = self.slots[-1]
        newest.seconds += seconds
        if newest.seconds >= SLOT:
            self.slots.append(Slot())
            del self.slots[:-SLOTS]

    def take(self, requests: int, latency: Iterable[tuple[int, int]]) -> None:
        """Add what was seen just now."""
        newest = self.slots[-1]
        newest.requests += requests
        add_up(newest.latency, latency)

    def histogram(self) -> Histogram:
        """Return all latencies."""
        found = Histogram()
        for slot in self.slots:
            found.merge(slot.latency.items())
        return found

    def rate(self) -> float:
        """Return requests a second over the last slots, five minutes at least where there are."""
        recent = self.slots[-2:]
        seconds = sum(slot.seconds for slot in recent)
        return sum(slot.requests for slot in recent) / seconds if seconds > 0 else 0.0


class Baselines:
    """Every service's past."""

    def __init__(self) -> None:
        self._pasts: dict[str, Past] = {}
        self._changed: set[str] = set()

    def load(self, documents: Mapping[str, bytes]) -> None:
        """Take up what was stored; what cannot be read is forgotten."""
        for name, document in documents.items():
            try:
                self._pasts[name] = msgspec.msgpack.decode(document, type=Past)
            except msgspec.DecodeError as error:
                log.warning("the latencies of %s that were stored are of no use: %s", name, error)

    def changed(self) -> dict[str, bytes]:
        """Return what is to be stored since the last time."""
        names, self._changed = self._changed & self._pasts.keys(), set()
        return {name: msgspec.msgpack.encode(self._pasts[name]) for name in names}

    def unstored(self, names: Iterable[str]) -> None:
        """Note that these are yet to be stored after all."""
        self._changed |= set(names)

    def turn(self, state: State, seconds: float) -> None:
        """Let time pass for the services that there are."""
        names = {service.name for service in state.services}
        self._pasts = {name: past for name, past in self._pasts.items() if name in names}
        for service in state.services:
            self._past(service.name, service.pool(service.stable).generation).turn(seconds)

    def take(self, state: State, message: Tally) -> None:
        """Add what stable was seen to do."""
        for row in message.rows:
            service = state.of(row.service)
            if service is None or row.candidate or row.color != service.stable:
                continue
            past = self._past(row.service, service.pool(service.stable).generation)
            past.take(row.requests, row.histogram)
            self._changed.add(row.service)

    def succeed(self, service: str, generation: int, latency: dict[int, int]) -> None:
        """Give a service that has a new stable pool what that was seen to do as candidate."""
        past = Past(generation=generation)
        past.take(0, latency.items())
        self._pasts[service] = past
        self._changed.add(service)

    def _past(self, service: str, generation: int) -> Past:
        past = self._pasts.get(service)
        if past is None or past.generation != generation:
            past = self._pasts[service] = Past(generation=generation)
        return past

    def rate(self, service: str) -> float:
        """Return how many requests a second stable has had lately."""
        past = self._pasts.get(service)
        return past.rate() if past is not None else 0.0

    def thresholds(self, service: str, objective: float) -> tuple[tuple[Threshold, ...], bool]:
        """Return the latencies to watch, rising, and whether stable is cold: the objective alone.

        A quantile that is no slower than another, or than the objective, is watched all the same:
        each is a label of its own.
        """
        found = [Threshold(name=OBJECTIVE, seconds=objective)]
        past = self._pasts.get(service)
        histogram = past.histogram() if past is not None else Histogram()
        cold = histogram.total < LEAST_TIMED
        if not cold:
            found += [Threshold(name=name, seconds=histogram.quantile(q)) for name, q in QUANTILES]
        return tuple(sorted(found, key=lambda each: each.seconds)), cold
