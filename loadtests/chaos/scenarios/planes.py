"""Faults of backends while parts of the gateway itself die or change."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from loadtests.chaos.stage import (
    Gateway,
    Pace,
    Stage,
    breaker_of,
    kill,
    owner_of,
    sleep_until,
    wait_for,
)
from loadtests.chaos.verdict import Check, between, no_failure, said
from loadtests.processes import ToolError


def control_killed(stage: Stage, pace: Pace) -> list[Check]:
    """Kill an endpoint and control with one blow: the data plane needs nobody's advice."""
    first, second = stage.backends("a", "b", delay=0.005)
    gateway = stage.gateway({"web": ([first, second], {"retries": 1})})
    (control,) = gateway.pids("control")
    load = stage.load(gateway, "/web/{n}", pace.rate, pace.seconds)
    sleep_until(load.at(0.4))
    kill(control)
    killed = second.kill()
    rows = load.rows()
    after = between(rows, killed, killed + pace.seconds)
    back = wait_for(lambda: _control(gateway), "control is back", 10)
    return [
        no_failure(rows),
        Check(
            "the one that is left answers, and control comes back",
            f"{len(after)} requests after; control {control} became {back}",
            bool(after) and back != control,
        ),
    ]


def _control(gateway: Gateway) -> int:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return gateway.pids("control")[0]
    return 0


RESET_AFTER = 1.0


def prober_killed(stage: Stage, pace: Pace) -> list[Check]:
    """Kill the worker whose request is the open breaker's one probe: another takes its place."""
    (backend,) = stage.backends("only", fields="")
    keys: dict[str, Any] = {
        "breaker": {"failures": 5, "reset_after": f"{RESET_AFTER:g}s"},
        "timeouts": {"first_byte": "8s"},
        "health": {"interval": "1h", "interval_down": "1h"},
    }
    gateway = stage.gateway({"web": ([backend], keys)})
    workers = gateway.pids("worker")
    load = stage.load(gateway, "/web/{n}", pace.rate / 5, 5.5 if pace.short else 12)
    backend.order(errors=1.0)

    def asked() -> int:
        return next(iter(backend.order().waiting), 0)

    try:
        wait_for(lambda: _opened(gateway), "the breaker opens", 3)
        backend.order(mode="hang")
        hung = time.monotonic()
        port = wait_for(asked, "a probe arrives", 4)
    except ToolError as error:
        return [Check("the open breaker probes", str(error), ok=False)]
    prober = owner_of(port, workers)
    time.sleep(0.3)
    alone = len(backend.order().waiting)
    backend.order(mode="ok", errors=0.0)
    if prober is None:
        return [Check("one worker holds the probe", f"none of {workers}", ok=False)]
    killed = kill(prober)
    rows = load.rows()
    good = [row for row in rows if row.good and row.due > killed]
    early = [row for row in rows if row.good and hung < row.due <= killed]
    again = min((row.due for row in good), default=0.0)
    # Two: the interval may begin anew with the failure that the kill was.
    bar = 2 * RESET_AFTER + 0.5
    later = between(rows, killed + bar, killed + 3600)
    return [
        Check(
            "one probe at a time on the machine, and nobody else served meanwhile",
            f"{alone} under way, {len(early)} served",
            alone == 1 and not early,
        ),
        Check(
            f"its holder killed, another probes within an interval (bar {bar:g} s)",
            f"served again after {again - killed:.2f} s" if again else "never served again",
            0 < again - killed <= bar,
        ),
        Check(
            "then everybody is served",
            f"{sum(not row.good for row in later)} of {len(later)} failed ({said(later)})",
            bool(later) and all(row.good for row in later),
        ),
    ]


def _opened(gateway: Gateway) -> bool:
    """Tell whether the breaker is open, as a client sees it."""
    return gateway.ask("/web/peek").fields.get("x-gateway-error") == "breaker-open"


def _told(gateway: Gateway) -> str:
    """Return the breaker's state as the API has it."""
    return ", ".join(breaker_of(endpoint) for endpoint in gateway.endpoints())


def reload_while_open(stage: Stage, pace: Pace) -> list[Check]:
    """Reload the configuration while a breaker is open: it stays open."""
    (backend,) = stage.backends("only", errors=1.0)
    keys: dict[str, Any] = {
        "breaker": {"failures": 5, "reset_after": "30s"},
        "health": {"interval": "1h", "interval_down": "1h"},
    }
    gateway = stage.gateway({"web": ([backend], keys)})
    load = stage.load(gateway, "/web/{n}", pace.rate / 5, 3 if pace.short else 8)
    try:
        wait_for(lambda: _opened(gateway), "the breaker opens", 3)
    except ToolError as error:
        return [Check("the breaker opens", str(error), ok=False)]
    time.sleep(0.2)
    before = len(backend.order().requests)
    gateway.config["services"]["web"]["max_in_flight"] = 99
    gateway.config["limits"] = {"connections": 5000}
    gateway.write()
    answer = gateway.api("POST", "/v1/config/reload", {})
    rows = load.rows()
    after = len(backend.order().requests) - before
    return [
        Check("the reload is done", f"{answer.status}", answer.status == 200),
        Check(
            "the breaker stays open: nothing reaches the endpoint",
            f"{after} requests after the reload ({said(rows)})",
            after == 0,
        ),
        Check("the API says so", _told(gateway), _told(gateway) == "open"),
    ]
