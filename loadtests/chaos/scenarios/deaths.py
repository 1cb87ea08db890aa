"""Processes of the gateway's own that are killed while a crowd is there."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from gateway.demo.ports import free_ports
from loadtests.chaos.crowd import Crowd, Town
from loadtests.chaos.stage import Gateway, Pace, Stage, breaker_of, held, kill, wait_for
from loadtests.chaos.verdict import Check
from loadtests.processes import alive, descendants

#: A client notices its connection's end when its program has its turn; a WebSocket's, half a second
#: apart, with its next message.
NOTICED = 1.0
#: Connections that a worker accepts between a look at it and its death.
JUST_ACCEPTED = 5


def worker(stage: Stage, pace: Pace) -> list[Check]:
    """Kill workers with -9: what each held is lost, nothing else, and nothing is forgotten."""
    many = 2 if pace.short else 10
    town = Town.on(stage, start=False)
    gateway = town.gateway
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    gateway.config["services"]["dead"] = {
        "blue": {"endpoints": [dead]},
        "health": {"interval": "250ms", "interval_down": "250ms"},
    }
    gateway.config["routes"].append({"path": "/dead/", "service": "dead"})
    gateway.start()
    gateway.settled([town.blue.url, town.green.url])
    wait_for(lambda: gateway.health()[dead] == "down", "the dead one is down")
    town.gateway.call("PUT", "/v1/traffic", {"candidate": 30, "services": ["web"]})
    _open_breaker(town, "other")
    crowd = Crowd.before(stage, gateway, pace)
    before = _memory(gateway)
    spans, took, most = [], [], 0
    for number in range(many):
        workers = sorted(gateway.pids("worker"))
        victim = workers[number % len(workers)]
        most += held(gateway.port, victim) + JUST_ACCEPTED
        at = kill(victim)
        spans.append((at - NOTICED, at + NOTICED))  # they may notice before this program goes on
        wait_for(partial(_others_serve, gateway, {victim}, 2), "a new worker serves")
        took.append(time.monotonic() - at)
        time.sleep(1.0)
    after = _memory(gateway)
    refused = sum(
        gateway.ask("/other/x").fields.get("x-gateway-error") == "breaker-open" for _ in range(20)
    )
    came = crowd.end()
    return [
        came.lost_only_between(spans, most),
        Check(
            "replaced in under 1 s",
            f"{many} times, the slowest within {max(took):.2f} s ({_list(took)})",
            max(took) < 1,
        ),
        Check(
            "no breaker, health or weight is forgotten",
            f"the same: {before == after}; {refused} of 20 stopped by the open breaker",
            before == after and refused == 20,
        ),
    ]


def _list(seconds: list[float]) -> str:
    return " ".join(f"{each:.2f}" for each in seconds)


def _open_breaker(town: Town, service: str) -> None:
    """Open the breakers of a service's endpoints by hand."""
    for each in town.gateway.call("GET", "/v1/status")["services"]:
        if each["name"] == service:
            for pool in each["pools"]:
                for endpoint in pool["endpoints"]:
                    town.gateway.call(
                        "POST", f"/v1/breakers/{endpoint['id']}/open", {"force": True}
                    )


def _memory(gateway: Gateway) -> list[Any]:
    """Return what must outlive every process: weights, roles, health, breakers, generations."""
    found: list[Any] = []
    for service in gateway.api("GET", "/v1/status").json["services"]:
        found.append((service["name"], service["stable"], service["weights"]))
        for pool in service["pools"]:
            found += [
                (pool["color"], pool["generation"], each["url"], each["health"], breaker_of(each))
                for each in pool["endpoints"]
            ]
    return found


def _others_serve(gateway: Gateway, gone: set[int], count: int) -> bool:
    """Tell whether ``count`` workers are ready, none of them of those."""
    ready = gateway.ready()
    return len(ready - gone) >= count and not ready & gone


def control(stage: Stage, pace: Pace) -> list[Check]:
    """Kill control ten times; once its database goes meanwhile, once it stays away for a while."""
    many = 3 if pace.short else 10
    town = Town.on(stage)
    gateway = town.gateway
    town.gateway.call("PUT", "/v1/traffic", {"candidate": 30, "services": ["web"]})
    crowd = Crowd.before(stage, gateway, pace)
    before = _memory(gateway)
    took = []
    local: list[Check] = []
    for number in range(many):
        (victim,) = gateway.pids("control")
        at = kill(victim)
        if number == 1:
            _delete_store(stage.folder)
        if number == 2:
            local = _away(town)
            at = time.monotonic()
        wait_for(partial(_control_is_back, gateway, victim), "control is back", 20)
        took.append(time.monotonic() - at)
        time.sleep(0.3)
    after = _memory(gateway)
    warnings = " ".join(map(str, gateway.api("GET", "/v1/status").json.get("warnings", [])))
    said = [line for line in gateway.everything().splitlines() if "store" in line]
    came = crowd.end()
    return [
        came.nothing_lost(),
        came.stayed(),
        Check(
            "back within 2 s",
            f"{many} times, the slowest within {max(took):.2f} s ({_list(took)})",
            max(took) < 2,
        ),
        Check(
            "its database deleted: weights, roles, pools and health as before",
            "the same" if before == after else f"{before} became {after}",
            before == after,
        ),
        Check(
            "and it is said loudly",
            f"{len(said)} lines in the log; status: {warnings[:120] or 'nothing'}",
            bool(said),
        ),
        *local,
    ]


def _control_is_back(gateway: Gateway, old: int) -> bool:
    with contextlib.suppress(OSError, KeyError, ValueError):
        if gateway.api("GET", "/readyz").status == 200:
            return gateway.pids("control") not in ([], [old])
    return False


def _delete_store(folder: Path) -> None:
    for path in folder.glob("gateway.db*"):
        path.unlink()


def _away(town: Town) -> list[Check]:
    """Keep the supervisor from replacing control; roll back without it, and undo that."""
    gateway = town.gateway
    assert gateway.child is not None
    supervisor = gateway.child.pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        # One that was started before the stop must be gone, too.
        for pid in _controls(supervisor):
            kill(pid)
        file = str(gateway.path)
        code, told = town.verb("rollback", "--local", "--config", file)
        served = {gateway.ask("/web/kept").fields.get("x-backend", "") for _ in range(40)}
        undone, _ = town.verb("rollback", "--local", "--undo", "--config", file)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    lines = sum("worker" in line for line in told.splitlines())
    return [
        Check(
            "gateway rollback --local works meanwhile, on every worker",
            f"exit code {code}, {lines} workers, then answered by {', '.join(sorted(served))}; "
            f"undone with {undone}",
            code == 0 and lines >= 2 and served == {"blue"} and undone == 0,
        )
    ]


def _controls(supervisor: int) -> list[int]:
    found = []
    for pid in descendants(supervisor):
        with contextlib.suppress(OSError):
            if b"gateway.control" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def supervisor(stage: Stage, pace: Pace) -> list[Check]:
    """Kill the supervisor with -9 and run the gateway again: its sockets are taken over."""
    many = 1 if pace.short else 5
    town = Town.on(stage, drain_timeout="1s" if pace.short else "5s")
    gateway = town.gateway
    town.gateway.call("PUT", "/v1/traffic", {"candidate": 30, "services": ["web"]})
    crowd = Crowd.before(stage, gateway, pace)
    before = _memory(gateway)
    left = []
    for _ in range(many):
        assert gateway.child is not None
        old = set(gateway.pids("worker"))
        kill(gateway.child.pid)
        gateway.child.process.wait()
        time.sleep(0.5)
        gateway.start()
        wait_for(partial(_others_serve, gateway, old, 2), "new workers serve")
        wait_for(partial(all_gone, old), "the old workers end", 40)
        left.append(len(old))
    after = _memory(gateway)
    came = crowd.end()
    return [
        came.nothing_lost(),
        Check(
            "sockets taken over, old workers drained and gone",
            f"{many} times, {sum(left)} old workers",
            sum(left) == 2 * many,
        ),
        Check("nothing is forgotten", f"the same: {before == after}", before == after),
    ]


def all_gone(pids: set[int]) -> bool:
    """Tell whether none of these processes runs."""
    return not any(map(alive, pids))
