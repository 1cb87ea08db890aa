"""How soon after a decision every worker is on stable, with workers busy."""

from __future__ import annotations

import time
from collections.abc import Sequence

from loadtests.chaos.stage import Pace
from loadtests.chaos.verdict import Check
from loadtests.releases.candidates import APPLIED, LONG, nobody_failed
from loadtests.releases.platform import Platform, asked
from loadtests.steady import percentile

ROLLBACKS, ROLLBACKS_SHORT = 300, 60
#: Rollbacks by a release itself.
RELEASES, RELEASES_SHORT = 20, 2
#: Workers have this much to do meanwhile.
BUSY, BUSY_SHORT = 600.0, 300.0


def rollbacks(platform: Platform, pace: Pace) -> list[Check]:
    """Split and snap back again and again; then have releases snap back by themselves."""
    rate = BUSY_SHORT if pace.short else BUSY
    load = platform.load(240, rate=rate)
    by_hand = []
    for _ in range(ROLLBACKS_SHORT if pace.short else ROLLBACKS):
        platform.api("PUT", "/v1/traffic", {"candidate": 50})
        answer = platform.api("POST", "/v1/rollback", {"reason": "measured"})
        by_hand.append(float(answer["applied_in_ms"]))
    rows = load.end()
    late, judged = [], 0
    for _ in range(RELEASES_SHORT if pace.short else RELEASES):
        platform.settle()
        more, last = _by_itself(platform, rate)
        late.append(last)
        judged += more
    by_hand.sort()
    return [
        Check(
            f"by hand: every worker within {APPLIED * 1e3:g} ms at p99, {rate:g} requests/s",
            f"{_spread(by_hand)} ms in {len(by_hand)} rollbacks",
            percentile(by_hand, 0.99) <= APPLIED * 1e3,
        ),
        nobody_failed(rows),
        Check(
            f"by itself: nobody sent to the candidate {APPLIED * 1e3:g} ms after the decision",
            f"the last was due {max(late) * 1e3:+.0f} ms from it at most, in {len(late)} rollbacks "
            f"with {judged} requests after",
            max(late) <= APPLIED,
        ),
    ]


def _by_itself(platform: Platform, rate: float) -> tuple[int, float]:
    """Have one release of a dead candidate at 50 %; how late its last request was due."""
    candidate = platform.candidate
    platform.start((50, LONG), (100, LONG))
    platform.until("stepping")
    load = platform.load(60, rate=rate)
    time.sleep(0.3)
    platform.turn(candidate, fail=1.0)
    platform.until("rolled_back", within=20)
    at, _ = platform.decided("rolling_back")
    time.sleep(0.2)
    rows = load.end()
    after = sum(row.due > at for row in rows)
    return after, max((row.due - at for row in asked(rows, candidate)), default=0.0)


def _spread(ordered: Sequence[float]) -> str:
    shares = ((0.5, "median"), (0.95, "p95"), (0.99, "p99"), (1.0, "most"))
    return ", ".join(f"{name} {percentile(ordered, share):.1f}" for share, name in shares)
