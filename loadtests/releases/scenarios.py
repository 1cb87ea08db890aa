"""The scenarios of releases, by the names that ``CHAOS=`` takes, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable

from loadtests.chaos.stage import Pace
from loadtests.chaos.verdict import Check
from loadtests.releases import candidates, latency, outages, planes, tunnels
from loadtests.releases.platform import Platform

Scenario = Callable[[Platform, Pace], list[Check]]

RELEASES: dict[str, Scenario] = {
    "candidate-dead": candidates.dead,
    "candidate-fails-a-tenth": candidates.tenth,
    "candidate-fails-beside-stable": candidates.noisy,
    "candidate-dead-few-users": candidates.few,
    "candidate-slow": candidates.slow,
    "candidate-healthy": candidates.healthy,
    "pipeline": candidates.pipeline,
    "pipeline-killed": planes.pipeline_killed,
    "shared-outage": outages.shared,
    "both-colors-gone": outages.both_gone,
    "stable-killed": outages.stable_killed,
    "stable-comes-back": outages.stable_back,
    "control-killed-in-each-state": planes.control_killed,
    "rollback-latency": latency.rollbacks,
    "candidate-websockets": tunnels.drained,
}
#: Too long for the test suite, which plays their like.
WHOLE_ONLY = frozenset({"candidate-fails-beside-stable", "candidate-dead-few-users"})
