"""What drives a release is killed: the pipeline that renews its lease, control in every state."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable

from loadtests.chaos.stage import Pace, kill, wait_for
from loadtests.chaos.verdict import Check
from loadtests.processes import ToolError
from loadtests.releases.candidates import APPLIED, LONG, nobody_failed, returned
from loadtests.releases.platform import OVER, Platform, color
from loadtests.releases.tunnels import Tunnel, user_on

LEASE = 3.0
#: Control is back this soon after it was killed, and has found its release.
BACK = 2.0


def pipeline_killed(platform: Platform, pace: Pace) -> list[Check]:
    """Kill ``gateway release start --wait`` with -9: the lease decides."""
    load = platform.load(120)
    lease = 1.5 if pace.short else LEASE
    checks = [
        check
        for choice, state in (("rollback", "rolled_back"), ("hold", "held"))
        for check in _lost(platform, lease, choice, state)
    ]
    return [*checks, nobody_failed(load.end())]


def _lost(platform: Platform, lease: float, choice: str, state: str) -> list[Check]:
    options = ["--lease", f"{lease * 1000:.0f}ms", "--on-lease-lost", choice]
    pipeline = platform.pipeline((20, LONG), (100, LONG), options=options)
    platform.until("stepping")
    # Longer than the lease: it is renewed.
    time.sleep(lease + 0.5)
    before = platform.release()
    pipeline.process.kill()
    pipeline.process.wait()
    killed = time.monotonic()
    after = platform.until(state, "held", "rolled_back", within=lease + 5)
    took = time.monotonic() - killed
    if after["state"] == "held":
        platform.verb("abort")
        platform.until(*OVER)
    return [
        Check(
            f"{choice}: renewed while the pipeline lives, then {state} for its lease",
            f"{before['state']} after {lease + 0.5:g} s; killed: {after['state']} after "
            f"{took:.2f} s ({after['because']})",
            before["state"] == "stepping"
            and after["state"] == state
            and after["trigger"] == "lease"
            # Up to a lease from the last renewal, a look, and a rollback until nothing is left.
            and lease / 2 <= took <= lease + 1,
        )
    ]


def control_killed(platform: Platform, pace: Pace) -> list[Check]:
    """Kill control with -9 in each state that it works in."""
    del pace
    candidate = platform.candidate
    load = platform.load(120, users=300)  # each comes back every 1.5 s
    # A candidate that does not become healthy keeps it validating.
    platform.turn(candidate, "events", unhealthy=True)
    _until_unhealthy(platform, candidate)
    platform.start((20, LONG), (100, LONG), lease="2s", on_lease_lost="hold")
    checks = [_killed_in(platform, "validating", lambda: None)]
    platform.turn(candidate, "events", unhealthy=False)
    platform.until("stepping")
    checks.append(_killed_in(platform, "stepping", lambda: None))
    checks.append(_killed_in(platform, "paused", lambda: platform.verb("pause")))
    platform.verb("resume")
    platform.until("stepping")
    checks.append(_killed_in(platform, "held", lambda: platform.until("held", within=6)))
    platform.verb("resume")
    platform.verb("promote", to=100)
    checks.append(_killed_in(platform, "baking", lambda: platform.until("baking", within=6)))
    # An open WebSocket keeps it rolling back until its drain time is over.
    with Tunnel(platform.gateway.port, user_on(platform, candidate)) as tunnel:
        aborted = time.monotonic()
        checks.append(_killed_in(platform, "rolling_back", lambda: platform.verb("abort")))
        ended = platform.until(*OVER, within=15)
        closed = tunnel.closed(2.0)
    checks.append(
        Check(
            "and it ends",
            f"{ended['state']}, weight {ended['weight']:g} %, its WebSocket closed: {closed}",
            ended["state"] == "aborted" and closed and platform.stable != candidate,
        )
    )
    rows = load.end()
    before = [row for row in rows if row.due < aborted - APPLIED]
    users = {row.user for row in before if color(row) == candidate}
    back = returned(before, candidate)
    checks.append(
        Check(
            "meanwhile nobody leaves the candidate",
            f"{back} of {len(users)} users did",
            bool(users) and not back,
        )
    )
    return [*checks, nobody_failed(rows)]


def _until_unhealthy(platform: Platform, candidate: str) -> None:
    urls = [each.placed.url for each in platform.of(candidate, "events")]
    wait_for(
        lambda: all(platform.gateway.health().get(url) != "up" for url in urls),
        "the candidate is unhealthy",
    )


def _killed_in(platform: Platform, state: str, reach: Callable[[], object]) -> Check:
    """Bring a release into a state, kill control there, find it again."""
    reach()
    before = platform.release()
    (control,) = platform.gateway.pids("control")
    killed = kill(control)

    def found() -> dict[str, object] | None:
        with contextlib.suppress(OSError, ToolError, http.client.HTTPException):
            return platform.release()
        return None

    after = wait_for(found, "control is back", 10)
    took = time.monotonic() - killed
    same = all(after[key] == before[key] for key in ("id", "step", "because"))
    return Check(
        f"killed while {state}: back within {BACK:g} s, where it was",
        f"{before['state']}, then {after['state']} at step {after['step']} after {took:.2f} s",
        before["state"] == after["state"] == state and same and took <= BACK,
    )
