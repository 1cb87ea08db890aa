"""Made-up answers about one release, as the API gives them, and a time that sleeps move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.admin import release_models as models
from gateway.cli.release_watch import Times

BEGAN = 1_764_072_184.0  # 2025-11-25 12:03:04Z
PATH = "/v1/releases/r-41"

SICK: dict[str, Any] = {
    "id": "ivor-green-7-0",
    "url": "http://127.0.0.1:3201",
    "health": "down",
    "probes": [
        {"level": "L1", "ok": True, "duration_ms": 1.0, "age": 1.0},
        {
            "level": "L2",
            "ok": False,
            "status": 503,
            "detail": "status 503, expected 200",
            "duration_ms": 2.0,
            "age": 1.0,
            "body": "boot\x1b[2Jing",
        },
    ],
}


def side(requests: int, failed: int, p95: float | None = 120.0) -> dict[str, Any]:
    rate = failed / requests if requests else None
    return {"requests": requests, "failed": failed, "error_rate": rate, "p95_ms": p95}


def scope(**changes: Any) -> dict[str, Any]:
    return {
        "scope": "*",
        "candidate": side(132, 0),
        "stable": side(2600, 3, 110.0),
        "evidence": 0.3,
        "threshold": 500.0,
        "progress": 0.0,
        "leading": "errors",
        "verdict": "inconclusive",
        "tests": [
            {
                "name": "regression",
                "speaks": True,
                "verdict": "inconclusive",
                "text": "0 failures of the candidate, 3 are needed",
            },
            {
                "name": "latency",
                "speaks": False,
                "verdict": "inconclusive",
                "text": "stable is cold",
            },
        ],
    } | changes


GATE: dict[str, Any] = {
    "held": 40.0,
    "hold": 300.0,
    "requests": 132,
    "min_requests": 100,
    "keys": 41,
    "min_keys": 5,
    "probes": True,
    "waits": ["260 s of its hold"],
}
POOL: dict[str, Any] = {
    "service": "ivor",
    "color": "green",
    "generation": 7,
    "stable_generation": 6,
    "health": "up",
}


def status(state: str = "stepping", **changes: Any) -> dict[str, Any]:
    """One release in a state: at its first step of four, or what ``changes`` say."""
    step = changes.get("step", 1)
    weights = [5.0, 20.0, 50.0, 100.0]
    plan = [
        {
            "weight": weight,
            "hold": 300.0,
            "early": position == 2,
            "state": "done" if position < step else "current" if position == step else "ahead",
        }
        for position, weight in enumerate(weights, start=1)
    ]
    return {
        "id": "r-41",
        "version": "1.9.0",
        "state": state,
        "step": step,
        "steps": 4,
        "weight": 5.0,
        "services": ["ivor"],
        "began": BEGAN,
        "moved": BEGAN + 47.0,
        "actor": "pipeline",
        "plan": plan,
        "pools": [POOL],
        "gate": GATE,
        "scopes": [scope()],
        "outlook": {"pass_in": 260.0, "fail_in": None, "text": ""},
        "alpha": 0.01,
    } | changes


def over(state: str, **changes: Any) -> dict[str, Any]:
    """The release when it has ended."""
    return status(state, weight=0.0, gate=None, outlook=None, **changes)


FINALIZED = over("finalized", step=4, moved=BEGAN + 2100.0)
FAILED_SCOPE = scope(
    candidate=side(140, 12, 2100.0),
    evidence=812.4,
    progress=1.0,
    verdict="fail",
    tests=[
        {"name": "regression", "speaks": True, "verdict": "fail", "text": "12 against 3 failures"},
        {"name": "latency", "speaks": True, "verdict": "inconclusive", "text": ""},
    ],
)
ROLLED_BACK = over(
    "rolled_back",
    because="the candidate of ivor fails more often than stable",
    trigger="regression",
    verdict="fail",
    scopes=[FAILED_SCOPE],
    pools=[POOL | {"health": "down", "endpoints": [SICK]}],
)
HELD = status("held", because="stable fails as often", trigger="error_rate")
DECISIONS: dict[str, Any] = {
    "release": "r-41",
    "decisions": [
        {
            "id": 1,
            "at": BEGAN,
            "what": "start",
            "state": "validating",
            "step": 0,
            "weight": 0.0,
            "text": "",
        },
        {
            "id": 2,
            "at": BEGAN + 47.0,
            "what": "roll back",
            "state": "rolling_back",
            "step": 1,
            "weight": 5.0,
            "text": "the candidate of ivor fails more often\nthan stable",
            "numbers": {
                "evidence": 812.4375,
                "threshold": 500.0,
                "quick": True,
                "stable_p99": None,
                "ivor": {"candidate": {"requests": 140, "failed": 12}, "stable": {"failed": 3}},
                "steps": [5, 20],
                "cells": [{"w": 0.05}, {"w": 0.2}],
            },
        },
    ],
}


def read(answer: dict[str, Any]) -> models.ReleaseStatus:
    return models.ReleaseStatus.model_validate(answer)


class Time:
    """A clock that its own sleeps move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []
        #: Called after each nap.
        self.then: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    def wall(self) -> float:
        return BEGAN + self.now

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        self.then()

    @property
    def times(self) -> Times:
        return Times(clock=self.clock, wall=self.wall, sleep=self.sleep)
