"""Resets in the middle of a body."""

from __future__ import annotations

from loadtests.chaos.stage import Backend, Gateway, Pace, Stage
from loadtests.chaos.verdict import Check, said

FRAMINGS = ("length", "chunked", "close")


def cut_bodies(stage: Stage, pace: Pace) -> list[Check]:
    """Cut answers of each framing: their clients are cut, and nothing of it is kept."""
    (backend,) = stage.backends("cutter", fields="Cache-Control: max-age=600\r\n")
    keys = {"breaker": {"failures": 1000}, "health": {"interval": "1h", "interval_down": "1h"}}
    gateway = stage.gateway({"cached": ([backend], keys)}, cache=["cached"])
    seconds = pace.seconds / 4
    rows = []
    for framing in FRAMINGS:
        backend.order(mode=f"cut-{framing}")
        path = f"/cached/{framing}/{{n}}"
        rows += stage.load(gateway, path, pace.rate / 3, seconds).rows()
    whole = [row for row in rows if row.status]
    shortened = [row for row in whole if row.octets != row.meant]
    backend.order(mode="ok")
    return [
        Check(
            "every client's connection is cut",
            f"{len(rows) - len(whole)} of {len(rows)} cut ({said(rows)})",
            bool(rows) and not whole,
        ),
        Check(
            "never a silently shortened answer",
            f"{len(shortened)} of {len(rows)}",
            bool(rows) and not shortened,
        ),
        *_nothing_kept(backend, gateway),
    ]


def _nothing_kept(backend: Backend, gateway: Gateway) -> list[Check]:
    """Ask for what was cut again, twice: once upstream, whole, then from the cache."""
    paths = [f"/cached/{framing}/{number}" for framing in FRAMINGS for number in range(5)]
    before = backend.order().paths
    first = [gateway.ask(path) for path in paths]
    between = backend.order().paths
    second = [gateway.ask(path) for path in paths]
    after = backend.order().paths
    whole = [each for each in first + second if each.status == 200 and len(each.body) == 1024]
    asked = sum(between.get(path, 0) > before.get(path, 0) for path in paths)
    hits = sum(after.get(path) == between.get(path) for path in paths)
    return [
        Check(
            "nothing of it is cached: asked again, the backend is asked and the answer whole",
            f"{asked} of {len(paths)} asked, {len(whole)} of {2 * len(paths)} whole",
            asked == len(paths) and len(whole) == 2 * len(paths),
        ),
        Check(
            "whole answers are cached (else the bar above says nothing)",
            f"{hits} of {len(paths)} then from the cache",
            hits == len(paths),
        ),
    ]
