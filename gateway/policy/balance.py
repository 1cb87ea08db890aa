"""Which endpoint of a pool: power of two choices, round robin, rendezvous hashing. Only numbers.

The caller keeps the pool and the loads, draws the chance (32 bits) and claims the endpoint in the
same synchronous step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import cython

if TYPE_CHECKING:
    from collections.abc import Sequence

#: ``pick_two`` divides 16 bits for each choice; more endpoints than this have no fair share.
MAX_ENDPOINTS = 4096


def pick_two(count: int, draw: int) -> tuple[int, int]:
    """Return two distinct positions below ``count``, each equally likely to within count / 65,536.

    ``draw`` is 32 random bits. Twice position 0 where ``count`` is 1; ValueError for 0 or more than
    MAX_ENDPOINTS.
    """
    pair: cython.longlong = pick_pair(count, draw & 0xFFFFFFFF)
    return pair >> 16, pair & 0xFFFF


@cython.ccall
@cython.exceptval(-1)
def pick_pair(n: cython.longlong, bits: cython.longlong) -> cython.longlong:
    """Do the work of ``pick_two`` in C's numbers: the first position times 65,536, plus the second.

    ``bits`` has 32 of them.
    """
    first: cython.longlong
    second: cython.longlong
    if n < 1 or n > 4096:  # MAX_ENDPOINTS
        raise ValueError(f"{n} endpoints: 1 to {MAX_ENDPOINTS} can be chosen from")
    if n == 1:
        return 0
    first = ((bits & 0xFFFF) * n) >> 16
    second = (((bits >> 16) & 0xFFFF) * (n - 1)) >> 16
    if second >= first:
        second += 1
    return (first << 16) | second


def least(first: int, second: int, load_first: float, load_second: float) -> int:
    """Return the less loaded of two positions; the first, itself a matter of chance, on a tie."""
    return second if load_second < load_first else first


def power_of_two(loads: Sequence[float], draw: int) -> int:
    """Return the position of the less loaded of two that chance picks (``pick_two``, ``least``).

    Mitzenmacher, "The power of two choices in randomized load balancing", 2001. ``loads`` are
    requests in flight, perhaps divided by a weight.
    """
    if len(loads) == 1:
        return 0
    first, second = pick_two(len(loads), draw)
    return second if loads[second] < loads[first] else first


def next_in_turn(last: int, count: int) -> int:
    """Return the position after ``last`` below ``count``; 0 where the pool has shrunk."""
    after: cython.longlong = last
    after += 1
    return after if after < count else 0


# --- rendezvous hashing ---------------------------------------------------------------------------

# As C variables: a literal over 31 bits would be a Python number.
_FIRST = cython.declare(cython.ulonglong, 0x85EBCA6B)
_SECOND = cython.declare(cython.ulonglong, 0xC2B2AE35)
_GOLDEN = cython.declare(cython.ulonglong, 0x9E3779B9)
_LOW = cython.declare(cython.ulonglong, 0xFFFFFFFF)


@cython.cfunc
def _mix(value: cython.ulonglong) -> cython.ulonglong:
    """Scatter 32 bits into 32 bits, one to one (MurmurHash3's finalizer).

    Products stay below 2**64, so that C's numbers and Python's agree.
    """
    value = ((value ^ (value >> 16)) * _FIRST) & _LOW
    value = ((value ^ (value >> 13)) * _SECOND) & _LOW
    return value ^ (value >> 16)


def seed(identity: bytes) -> int:
    """Return the 32 bits that stand for an endpoint's identity or a client's key."""
    mixed: int = _mix(crc32(identity))
    return mixed


def by_hash(key: int, seeds: Sequence[int]) -> int:
    """Return the position of the endpoint that ``key`` belongs to.

    ``key`` and ``seeds`` are from ``seed``. Highest random weight (Thaler and Ravishankar, 1998):
    each endpoint that goes moves only its own keys, each that comes takes only its share; the order
    of ``seeds`` does not matter. ValueError for no endpoints.
    """
    k: cython.ulonglong = key & 0xFFFFFFFF
    own: cython.ulonglong
    score: cython.longlong
    best: cython.longlong = -1
    at: cython.Py_ssize_t = -1
    i: cython.Py_ssize_t = 0
    for own in seeds:
        score = _mix(k ^ _mix(own ^ _GOLDEN))
        # No ties: mixing is one to one, so different seeds have different scores.
        if score > best:
            best = score
            at = i
        i += 1  # noqa: SIM113 - a C index; enumerate() would make objects
    if at < 0:
        raise ValueError("no endpoints to choose from")
    return at
