"""When a breaker opens and for how long; when an endpoint is an outlier. Only numbers.

The state machine itself is pybreaker's (``proxy.breaker``); these are the rules around it.
"""

from __future__ import annotations

import math

#: The chance at which a run of failures is no longer taken for chance.
CHANCE = 1e-6
#: A run is never asked to be longer than this many times the configured one.
LONGEST = 4
#: Other requests in the window, before their failures say how common failures are.
ENOUGH = 20
#: Standard errors by which an outlier's failures exceed its peers'.
DEVIATIONS = 3.0
#: A new endpoint begins with this part of its share (Envoy: ``min_weight_percent``).
FIRST_SHARE = 0.1


def run_that_opens(failures: int, requests: int, failed: int, run: int) -> int:
    """Return how many failures in a row open a breaker.

    ``failures`` is the configured number. Where the window's other requests failed often by
    themselves, so many in a row may be chance: then the run must be so long that its chance is
    below ``CHANCE``. ``requests`` and ``failed`` are the window's, the ``run`` included.
    """
    others = requests - run
    by_chance = max(failed - run, 0)
    if others < ENOUGH or by_chance == 0:
        return failures
    share = by_chance / others
    if share >= 1.0:
        return failures
    return max(failures, min(math.ceil(math.log(CHANCE) / math.log(share)), LONGEST * failures))


def share_opens(share: float | None, minimum: int, requests: int, failed: int) -> bool:
    """Tell whether the share of failures in the window opens a breaker."""
    return share is not None and requests >= minimum and failed >= share * requests


def reset_after(first: float, at_most: float, openings: int) -> float:
    """Return the seconds until an open breaker lets one request try.

    Doubles with each of ``openings`` in a row (1 for the first), up to ``at_most``.
    """
    return min(first * 2.0 ** min(max(openings - 1, 0), 32), at_most)


def may_try_early(enough: bool, probed: bool, unreached: bool) -> bool:
    """Tell whether health probes allow an open breaker's one request ahead of its time.

    ``enough`` have passed since it opened; ``probed`` where a health path is asked. A probe of the
    socket alone says something only where the failure was to connect (``unreached``).
    """
    return enough and (probed or unreached)


def is_outlier(requests: int, failed: int, others: int, others_failed: int, above: float) -> bool:
    """Tell whether an endpoint's failures are beyond ``above`` and surely beyond its peers'.

    Two shares compared by their pooled standard error (the two-proportion z-test): a backend that
    fails like all others is not ejected for a fault that they share.
    """
    if requests == 0 or others == 0:
        return False
    own, theirs = failed / requests, others_failed / others
    if own <= above or own <= theirs:
        return False
    pooled = (failed + others_failed) / (requests + others)
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / requests + 1.0 / others))
    return own - theirs > DEVIATIONS * error


def may_eject(members: int, out: int, share: float) -> bool:
    """Tell whether one more of a pool's ``members`` may be left out: never the last one."""
    return out + 1 < members and out + 1 <= max(1.0, share * members)


def eject_for(first: float, at_most: float, ejections: int) -> float:
    """Return the seconds of an ejection: ``first`` times its number in a row, up to ``at_most``."""
    return min(first * max(ejections, 1), at_most)


def decayed(ejections: int, quiet: float, first: float) -> int:
    """Return what is left of the count after ``quiet`` seconds in service: one less for each
    ``first`` seconds.
    """
    return max(0, ejections - int(max(quiet, 0.0) / first)) if first > 0 else 0


def warmth(passed: float, slow_start: float) -> float:
    """Return the part of its share that an endpoint gets ``passed`` seconds after it came up."""
    if slow_start <= 0.0 or passed >= slow_start:
        return 1.0
    return max(FIRST_SHARE, passed / slow_start)
