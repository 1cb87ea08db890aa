"""What control and workers say to each other. Pure: no I/O, no clock.

The worker connects, says ``Hello``; control answers with ``Apply``. A worker acknowledges every
``Apply`` by number once *it serves it*. Each frame is a length and one msgpack message (see
``framing``). A peer of another ``PROTOCOL`` is refused by its greeting.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.config.snapshot import Color, Topology, Traffic

PROTOCOL = 3


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """A worker's greeting: who it is and which snapshot it serves (0: none yet)."""

    protocol: int
    version: str
    slot: int
    slab: int
    pid: int
    topology: int = 0
    traffic: int = 0


class Apply(msgspec.Struct, frozen=True, kw_only=True, tag="apply"):
    """Serve this. A part that did not change is None. ``number`` is the snapshot's.

    ``names`` and ``keys`` are for the snapshot file alone: what host names resolved to and which
    keys issuers of tokens had when it was written, so that a worker that starts without control
    knows where to connect and whom to believe.
    """

    number: int
    topology: Topology | None = None
    traffic: Traffic | None = None
    names: dict[str, tuple[str, ...]] = {}
    keys: dict[str, bytes] = {}


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag="ack"):
    """This worker serves snapshot ``number``; ``error`` says why it cannot, if it cannot."""

    number: int
    error: str = ""


class Addresses(msgspec.Struct, frozen=True, kw_only=True, tag="addresses"):
    """Facts: the addresses that host names resolve to now. Names not told keep their last."""

    names: dict[str, tuple[str, ...]]


class KeySets(msgspec.Struct, frozen=True, kw_only=True, tag="keys"):
    """Facts: the key sets (JWKS documents) of issuers, by URL. Those not told keep their last."""

    sources: dict[str, bytes]


class UnknownKey(msgspec.Struct, frozen=True, kw_only=True, tag="unknown-key"):
    """A token was signed by a key that the set from ``source`` does not have."""

    source: str


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Stop accepting, finish what is in flight within ``timeout`` seconds, exit."""

    timeout: float = 30.0


#: What a release is judged by: a first attempt that failed; a 401, 403, 404 or 422; a request that
#: took longer than one of the watched thresholds; a page that a browser reports a violation of.
Metric = Literal["error", "refusal", "slow", "csp"]


class RequestFailed(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request that speaks against its side, as the release analysis needs it.

    ``weight`` (hundredths of a percent) is the one in force when the request was assigned, ``key``
    the cohort key's hash as a number, ``at`` seconds since the epoch. ``kind`` is the failure's
    name or the status; of a violation it is the directive (they are told only where ``Watch.csp``),
    and its ``key`` is the reporter's address's, whatever cookie it had.
    ``slower`` is a bit for each of the service's watched thresholds (1 << i for ``thresholds[i]``)
    that the request was slower than and its key had not been told of yet (metric ``slow`` only). A
    worker tells of a key once a metric and a threshold; another worker may tell of the same key
    again.
    """

    service: str
    color: Color
    candidate: bool
    weight: int
    key: int
    metric: Metric
    kind: str
    at: float
    slower: int = 0


class Failures(msgspec.Struct, frozen=True, kw_only=True, tag="failures"):
    """Failures since the last such message, one by one, batched per turn of the loop.

    ``release`` is the split's id that all of them belong to.
    """

    release: str
    failures: tuple[RequestFailed, ...]
    #: Failures not told one by one since a bound (on what waits, on keys remembered) was reached.
    dropped: int = 0


class Counted(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Requests of one service, side and weight that a backend was asked for, since the last time.

    Side and outcome are the first attempt's. Overrides, probes, a backend's 429s, the gateway's own
    refusals, copies and clients that left are not among them.
    """

    service: str
    color: Color
    candidate: bool
    weight: int
    #: All of them, and of these the ones whose first attempt failed.
    requests: int
    failed: int
    #: Those with a latency (no event streams or upgrades, no cold pool), and of these the ones
    #: slower than the service's watched objective.
    timed: int
    slow: int
    #: Those that the two sides are compared by: they have a key, it had not failed before (to this
    #: worker's knowledge), the assigned side was asked, and no cache might have answered; of these
    #: the ones that failed now, so that a row is whole in itself.
    judged: int
    spoiled: int = 0
    #: Hashed cohort keys of the candidate that this worker has not told before at this weight.
    keys: tuple[int, ...] = ()
    #: Seconds to the response head: how many, by bucket of ``gateway.channel.histogram``.
    histogram: tuple[tuple[int, int], ...] = ()


class Tally(msgspec.Struct, frozen=True, kw_only=True, tag="tally"):
    """What a worker has counted since its last tally. ``release`` as in ``Failures``."""

    release: str
    rows: tuple[Counted, ...]


class BreakerMoved(msgspec.Struct, frozen=True, kw_only=True, tag="breaker"):
    """An endpoint's breaker went from one state to another, by this worker's doing.

    States are ``closed``, ``open``, ``half_open``; ``ejected`` from ``in_service`` for an outlier.
    The state itself stands on the board: this is told for the events only.
    """

    endpoint: str
    was: str
    now: str


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag="asked"):
    """Requests that a worker was asked since the last time, internal callers' left out.

    ``address`` (of IPv6 the /64) is the private one that made ``of_address``, half of them or more,
    of which ``forwarded`` said for whom; empty: there is none.
    """

    requests: int
    address: str = ""
    of_address: int = 0
    forwarded: int = 0


FromWorker = Hello | Ack | Failures | Tally | BreakerMoved | UnknownKey | Asked
FromControl = Apply | Addresses | KeySets | Drain
