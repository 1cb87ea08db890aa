"""The scenarios, by the names that ``CHAOS=`` takes, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable

from loadtests.chaos.scenarios import (
    bodies,
    changes,
    clock,
    deaths,
    endpoints,
    errors,
    fallbacks,
    machine,
    names,
    outage,
    planes,
    replacing,
    workers,
)
from loadtests.chaos.stage import Pace, Stage
from loadtests.chaos.verdict import Check

Scenario = Callable[[Stage, Pace], list[Check]]

SCENARIOS: dict[str, Scenario] = {
    "one-of-two-killed": endpoints.one_of_two_killed,
    "only-one-killed": fallbacks.only_one_killed,
    "silent": endpoints.silent,
    "cut-bodies": bodies.cut_bodies,
    "random-errors": errors.random_errors,
    "default-budget": errors.default_budget,
    "all-killed": outage.all_killed,
    "one-of-two-vanished": endpoints.one_of_two_vanished,
    "control-killed": planes.control_killed,
    "prober-killed": planes.prober_killed,
    "reload-while-open": planes.reload_while_open,
    "clock-jumps": clock.clock_jumps,
    "clock-jumps-hour": clock.clock_jumps_hour,
    "worker-hung": workers.worker_hung,
    "worker-blocked": workers.worker_blocked,
    "names-gone": names.names_gone,
    "slow-network": machine.slow_network,
    "slow-readers": machine.slow_readers,
    "moved": changes.moved,
    "reloaded": changes.reloaded,
    "reload-broken": changes.broken,
    "pools-replaced": changes.pools_replaced,
    "upgraded": replacing.upgraded,
    "restarted": replacing.restarted,
    "balanced": replacing.balanced,
    "killed-worker": deaths.worker,
    "killed-control": deaths.control,
    "killed-supervisor": deaths.supervisor,
}
