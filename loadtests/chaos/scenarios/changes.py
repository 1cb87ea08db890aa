"""What operators and pipelines change every day, while a crowd is there: nobody is to notice."""

from __future__ import annotations

import time
from typing import Any

from loadtests.chaos.crowd import Crowd, Town, servers
from loadtests.chaos.stage import Answer, Gateway, Pace, Stage
from loadtests.chaos.verdict import Check


def moved(stage: Stage, pace: Pace) -> list[Check]:
    """Move all traffic to the other color and back, a hundred times."""
    many, pause = (10, 0.2) if pace.short else (100, 0.2)
    town = Town.on(stage)
    crowd = Crowd.before(stage, town.gateway, pace)
    times = []
    for number in range(many):
        body = {"candidate": 100 if number % 2 == 0 else 0, "services": ["web"]}
        answer = town.gateway.call("PUT", "/v1/traffic", body)
        times.append(float(answer["applied_in_ms"]))
        time.sleep(pause)
    came = crowd.end()
    by_color = {
        color: sum(row.backend == color for row in came.rows) for color in ("blue", "green")
    }
    return [
        came.nothing_lost(),
        Check(
            f"{many} moves, each in force on every worker when it is answered",
            f"{len(times)} moves, the slowest within {max(times):.0f} ms",
            len(times) == many,
        ),
        Check(
            "both colors served",
            ", ".join(f"{color} {count}" for color, count in by_color.items()),
            min(by_color.values()) > len(came.rows) / 10,
        ),
    ]


def reloaded(stage: Stage, pace: Pace) -> list[Check]:
    """Reload real changes of routes, pools and limits; the service beside them is left alone."""
    many, pause = (6, 0.3) if pace.short else (50, 0.2)
    town = Town.on(stage)
    town.others += servers(stage, "another")
    paths = ("/web/kept", "/other/kept", "/other/fresh", "/web/fresh")
    crowd = Crowd.before(stage, town.gateway, pace, paths=paths)
    changed, found = 0, 0
    for number in range(many):
        _change(town, number)
        answer = town.gateway.call("POST", "/v1/config/reload", {})
        changed += bool(answer["changed"])
        found += _in_force(town.gateway, number)
        time.sleep(pause)
    came = crowd.end()
    answered = {each.name: 0 for each in town.others}
    for row in came.rows:
        if row.backend in answered:
            answered[row.backend] += 1
    return [
        came.nothing_lost(),
        came.stayed("WebSockets and event streams of the untouched service stay"),
        Check(
            f"{many} reloads, each in force when it is answered",
            f"{changed} changed something, {found} new routes there and old ones gone",
            changed == found == many,
        ),
        Check(
            "both pools of the changed service served",
            ", ".join(f"{name} {count}" for name, count in answered.items()),
            min(answered.values()) > 0,
        ),
    ]


def _change(town: Town, number: int) -> None:
    """Write a file with another route, another pool and other limits than the one before."""
    config = town.gateway.config
    config["services"]["other"]["blue"]["endpoints"] = [town.others[number % 2].url]
    config["services"]["other"]["max_in_flight"] = 500 + number
    config["limits"] = {"connections": 5000 + number}
    routes = [route for route in config["routes"] if not route["path"].startswith("/extra")]
    extra: dict[str, Any] = {"path": f"/extra{number}/", "service": "other"}
    config["routes"] = [extra, *routes]
    town.gateway.write()


def _in_force(gateway: Gateway, number: int) -> bool:
    """Tell whether the new route is there and the one before is gone, on several connections."""
    there = all(gateway.ask(f"/extra{number}/x").status == 200 for _ in range(4))
    gone = all(gateway.ask(f"/extra{number - 1}/x").status == 404 for _ in range(4))
    return there and gone


#: Three errors at three places, each to be named.
_BROKEN: dict[str, Any] = {
    "workers": "many",
    "no_such_section": {},
    "limits": {"connections": -1},
}


def broken(stage: Stage, pace: Pace) -> list[Check]:
    """Reload a file with errors, and one that is no YAML: nothing changes, every error is told."""
    town = Town.on(stage)
    gateway = town.gateway
    crowd = Crowd.before(stage, gateway, pace)
    before = gateway.api("GET", "/v1/config").body
    good = dict(gateway.config)
    gateway.config = {**good, **_BROKEN}
    gateway.config["routes"] = [*good["routes"], {"path": "/lost/", "service": "nobody"}]
    gateway.write()
    answer = gateway.api("POST", "/v1/config/reload", {})
    words = answer.body.decode()
    wanted = [*_BROKEN, "nobody"]
    named = [each for each in wanted if each in words]
    code, told = town.verb("reload")
    in_words = [each for each in wanted if each in told]
    gateway.path.write_text("version: 1\nlisten: [{address: \n  oops")
    no_yaml = gateway.api("POST", "/v1/config/reload", {})
    time.sleep(1.0 if pace.short else 5.0)
    after = gateway.api("GET", "/v1/config").body
    came = crowd.end()
    return [
        came.nothing_lost(),
        came.stayed(),
        Check("the old configuration stays", f"equal: {before == after}", before == after),
        Check(
            "the caller gets every error (API)",
            f"{answer.status}, {len(named)} of {len(wanted)} named",
            answer.status == 422 and named == wanted,
        ),
        Check(
            "the caller gets every error (gateway reload)",
            f"exit code {code}, {len(in_words)} of {len(wanted)} named",
            code == 4 and in_words == wanted,
        ),
        Check(
            "a file that is no YAML is refused with its line",
            f"{no_yaml.status}, at {_place(no_yaml)}",
            no_yaml.status == 422 and _place(no_yaml).startswith("gateway.yaml:"),
        ),
    ]


def _place(answer: Answer) -> str:
    """Return the first error's place: file, line and column."""
    return str(answer.json["errors"][0]["field"]).rpartition("/")[2]


def pools_replaced(stage: Stage, pace: Pace) -> list[Check]:
    """Put new builds in the other slot, go over, drain what was there and stop it."""
    many = 2 if pace.short else 10
    town = Town.on(stage, drain_timeout="2s")
    gateway = town.gateway
    crowd = Crowd.before(stage, gateway, pace)
    stable = town.blue
    answered = []
    town.green.stop()
    for number in range(many):
        (build,) = servers(stage, f"build-{number}")
        body = {"endpoints": [build.url], "wait": "20s"}
        town.gateway.call("PUT", "/v1/services/web/pools/candidate", body)
        town.gateway.call("PUT", "/v1/traffic", {"candidate": 100, "services": ["web"]})
        town.gateway.call("POST", "/v1/traffic/finalize", {"services": ["web"]})
        drained = town.gateway.call(
            "POST", "/v1/services/web/pools/candidate/drain", {"timeout": "20s"}
        )
        stable.stop()
        answered.append(drained["color"])
        stable = build
    time.sleep(0.5)
    came = crowd.end()
    backends = {row.backend for row in came.rows}
    return [
        came.nothing_lost(),
        Check(
            f"{many} builds put in, drained and stopped; each served",
            f"{len(answered)} drained, {len(backends)} backends answered",
            len(answered) == many and len(backends) == many + 1,
        ),
    ]
