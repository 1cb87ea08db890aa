"""What control and workers say to each other. Pure: no I/O, no clock.

The worker connects, says ``Hello``; control answers with ``Apply``. A worker acknowledges every
``Apply`` by number once *it serves it*. Each frame is a length and one msgpack message (see
``framing``). A peer of another ``PROTOCOL`` is refused by its greeting.
"""

from __future__ import annotations

import msgspec

from gateway.config.snapshot import Topology, Traffic

PROTOCOL = 1


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

    ``names`` is for the snapshot file alone: what host names resolved to when it was written, so
    that a worker that starts without control knows where to connect.
    """

    number: int
    topology: Topology | None = None
    traffic: Traffic | None = None
    names: dict[str, tuple[str, ...]] = {}


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag="ack"):
    """This worker serves snapshot ``number``; ``error`` says why it cannot, if it cannot."""

    number: int
    error: str = ""


class Addresses(msgspec.Struct, frozen=True, kw_only=True, tag="addresses"):
    """Facts: the addresses that host names resolve to now. Names not told keep their last."""

    names: dict[str, tuple[str, ...]]


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Stop accepting, finish what is in flight within ``timeout`` seconds, exit."""

    timeout: float = 30.0


class RequestFailed(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One failed first attempt, as the release analysis needs it."""

    service: str
    color: str
    candidate: bool
    weight: int
    key: int
    kind: str
    status: int
    at: float


class Failures(msgspec.Struct, frozen=True, kw_only=True, tag="failures"):
    """Failures since the last such message, one by one, batched per turn of the loop."""

    failures: tuple[RequestFailed, ...]
    #: Failures not told one by one since the bound on a batch was reached.
    dropped: int = 0


class BreakerMoved(msgspec.Struct, frozen=True, kw_only=True, tag="breaker"):
    """An endpoint's breaker went from one state to another, by this worker's doing.

    States are ``closed``, ``open``, ``half_open``; ``ejected`` from ``in_service`` for an outlier.
    The state itself stands on the board: this is told for the events only.
    """

    endpoint: str
    was: str
    now: str


FromWorker = Hello | Ack | Failures | BreakerMoved
FromControl = Apply | Addresses | Drain
