"""Where going back helps nobody: both colors fail, or stable is gone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from loadtests.chaos.stage import Pace, wait_for
from loadtests.chaos.verdict import Check, between, said
from loadtests.releases.candidates import LONG
from loadtests.releases.platform import WELL, Listener, Platform, asked, well

#: Of the demo platform, all of them in the release.
SERVICES = 4

WEIGHT = 20
#: A stable that is gone is found by breakers and probes: three of these, a second apart.
FOUND = 5.0


def shared(platform: Platform, pace: Pace) -> list[Check]:
    """Both colors answer everything with 500, as when their database is gone."""
    lasts = "2s" if pace.short else "15s"
    rules = {"error_rate": {"above": "5%", "for": lasts}}
    platform.configure(triggers=rules)
    try:
        return _both(platform, pace, (None,), {"fail": 1.0}, within=int(lasts[:-1]) + 10)
    finally:
        platform.configure()


def both_gone(platform: Platform, pace: Pace) -> list[Check]:
    """Both colors are gone, the candidate a moment before stable: nobody listens any more."""
    order = (platform.candidate, platform.stable)
    return _both(platform, pace, order, {"dead": True}, within=10)


def _both(
    platform: Platform,
    pace: Pace,
    order: Sequence[str | None],
    change: dict[str, Any],
    within: float,
) -> list[Check]:
    """Break both colors at once, wait for the hold, mend both, go on."""
    with Listener(platform.gateway.admin) as listener:
        platform.start((WEIGHT, LONG), (100, LONG))
        platform.until("stepping")
        load = platform.load(120)
        time.sleep(1.0)
        began = time.monotonic()
        for color in order:
            platform.turn(color, **change)
        held = platform.until("held", "rolling_back", "rolled_back", within=within)
        at = time.monotonic()
        # It stays so while the outage lasts.
        time.sleep(1.0 if pace.short else 10.0)
        platform.turn(None, **WELL)
        platform.gateway.settled([each.placed.url for each in platform.services])
        platform.reset_breakers()
        healed = time.monotonic()
        later = platform.release()
        states = {str(each.data["state"]) for each in listener.told if each.kind == "release"}
        alerts = listener.alerts()
        platform.verb("resume")
        resumed = platform.until("stepping", within=5)
        time.sleep(1.0)
        still = platform.release()
        after = between(load.end(), healed + 0.1, healed + 3600)
    failed = [row for row in after if not row.good]
    return [
        Check(
            "held, never rolled back",
            f"{held['state']} after {at - began:.2f} s ({held['trigger']}: {held['because'][:100]})"
            f", then {later['state']}; seen: {', '.join(sorted(states))}",
            held["state"] == later["state"] == "held"
            and not states & {"rolling_back", "rolled_back"},
        ),
        Check(
            "it is told, of each service once at most",
            ", ".join(
                f"{each.data['severity']}: {each.data['state']} ({each.data['because'][-90:]})"
                for each in alerts
            )
            or "none",
            1 <= len(alerts) <= SERVICES
            and {each.data["severity"] for each in alerts} == {"critical"},
        ),
        Check(
            "when it is over, it goes on where it was",
            f"{resumed['state']} at {resumed['weight']:g} %, then {still['state']}; "
            f"{len(failed)} of {len(after)} failed after ({said(failed)})",
            (still["state"], still["weight"]) == ("stepping", WEIGHT)
            and bool(after)
            and not failed,
        ),
    ]


def stable_killed(platform: Platform, pace: Pace) -> list[Check]:
    """Kill stable of one service during a release: nothing goes back onto it."""
    del pace
    stable, candidate = platform.stable, platform.candidate
    with Listener(platform.gateway.admin) as listener:
        platform.start((WEIGHT, LONG), (100, LONG))
        platform.until("stepping")
        load = platform.load(60)
        time.sleep(0.5)
        killed = platform.kill(stable, "events")
        held = platform.until("held", "rolling_back", "rolled_back", within=FOUND)
        at = time.monotonic()
        # Now one of the candidates fails, too: what can go back goes, the rest waits.
        platform.turn(candidate, "newsroom", fail=1.0)
        wait_for(lambda: _weights(platform).get("newsroom") == 0, "newsroom goes back", 10)
        refused = platform.gateway.api("POST", "/v1/rollback", {})
        weights = _weights(platform)
        between_them = platform.release()
        platform.turn(candidate, "newsroom", fail=0.0)
        platform.revive(stable, "events")
        back = platform.until("rolled_back", within=15)
        rows = load.end()
        alerts = listener.alerts()
    kept = [row for row in asked(rows, candidate) if row.backend.startswith("events-")]
    kept = between(kept, at + 0.5, at + 3600)
    failed = [row for row in kept if not well(row)]
    return [
        Check(
            "held within 5 s, with a critical alert",
            f"{held['state']} after {at - killed:.2f} s ({held['because'][:80]}); alerts: "
            + ", ".join(str(each.data["severity"]) for each in alerts[:3]),
            held["state"] == "held" and bool(alerts) and alerts[0].data["severity"] == "critical",
        ),
        Check(
            "not by hand either",
            f"{refused.status} {refused.json.get('type', '')}",
            refused.status == 409 and "stable-unavailable" in refused.json.get("type", ""),
        ),
        Check(
            "the candidate fails, too: the others go back, this one stays",
            f"{between_them['state']}, weights {weights}; {len(failed)} of {len(kept)} of its "
            "candidate's users failed",
            between_them["state"] == "held"
            and weights.get("events") == WEIGHT
            and weights.get("newsroom") == 0
            and bool(kept)
            and not failed,
        ),
        Check(
            "when stable is back it goes back, too",
            f"{back['state']}: {back['because'][:80]}",
            back["state"] == "rolled_back",
        ),
    ]


def stable_back(platform: Platform, pace: Pace) -> list[Check]:
    """Kill stable of one service and bring it back: the release goes on."""
    del pace
    stable = platform.stable
    platform.start((WEIGHT, LONG), (100, LONG))
    platform.until("stepping")
    load = platform.load(60)
    time.sleep(0.5)
    platform.kill(stable, "events")
    platform.until("held", within=FOUND)
    platform.revive(stable, "events")
    platform.gateway.settled([each.placed.url for each in platform.of(stable, "events")])
    platform.verb("resume")
    resumed = platform.until("stepping", "held", within=5)
    time.sleep(1.0)
    later = platform.release()
    platform.verb("promote", to=100)
    # Until then some are stable's, whose breaker takes its time to be sure.
    moved = time.monotonic()
    promoted = platform.until("baking", within=5)
    time.sleep(0.5)
    rows = between(load.end(), moved, moved + 3600)
    failed = [row for row in rows if not well(row)]
    return [
        Check(
            "stable is back: resumed, it goes on",
            f"{resumed['state']}, {later['state']} at {later['weight']:g} %, then "
            f"{promoted['state']} at {promoted['weight']:g} %; {len(failed)} of {len(rows)} failed "
            f"({said(failed)})",
            (later["state"], promoted["state"]) == ("stepping", "baking") and not failed,
        ),
    ]


def _weights(platform: Platform) -> dict[str, float]:
    services = platform.api("GET", "/v1/traffic")["services"]
    return {str(each["name"]): float(each["weight"]) for each in services}
