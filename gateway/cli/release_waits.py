"""What a release waits for, and what can be expected of it, in words. No I/O and no clock."""

from __future__ import annotations

import re
from typing import Final

from gateway.admin import release_models as models

#: States in which time alone lets a step pass.
MOVING: Final = frozenset({"stepping", "baking"})
#: Hindrances that are told one by one, at most.
MOST: Final = 8

#: The gateway's words for: every worker is on stable whatever the share.
_FORCED: Final = "rollback --local"
_SECONDS: Final = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?) s(?!\w)")
#: What the figures of the gate say already: its hold, its requests, its clients.
_COUNTED: Final = re.compile(r"held |\d+ of \d+ (requests|clients) of the candidate$")
_PROBES: Final = "probes: "


def span(seconds: float) -> str:
    """Write a span to the second: ``40 s``, ``5 m``, ``1 m 30 s``, ``2 h``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = max(round(seconds), 0)
    for size, unit, smaller, small_unit in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def in_spans(text: str) -> str:
    """Return a text of the gateway's with its seconds written as everything else here is."""
    return _SECONDS.sub(lambda found: span(float(found[1])), text)


def waits(status: models.ReleaseStatus, *, counted: bool = True) -> list[str]:
    """Return what a step still waits for: each endpoint that hinders it by itself.

    ``counted``: also what the gate's figures say. Validating waits for probes alone.
    """
    if status.gate is None:
        return []
    found = []
    for wait in status.gate.waits:
        if _COUNTED.match(wait) and (not counted or status.state == "validating"):
            continue
        if wait.startswith(_PROBES):
            found += wait.removeprefix(_PROBES).split("; ")
        else:
            found.append(wait)
    if len(found) > MOST:
        found[MOST:] = [f"{len(found) - MOST} more"]
    return [in_spans(each) for each in found]


def outlook(status: models.ReleaseStatus) -> str:
    """Say when a verdict can be expected, and nothing of passing where time does not do it."""
    ahead = status.outlook
    if ahead is None:
        return ""
    moves = status.state in MOVING and not forced(status)
    if ahead.text:
        parts = ahead.text.split("; ")
        return in_spans("; ".join(each for each in parts if moves or "step" not in each))
    parts = []
    if ahead.pass_in is not None and moves:
        parts.append(f"may pass in {span(ahead.pass_in)}")
    if ahead.fail_in is not None:
        parts.append(f"may fail in {span(ahead.fail_in)}")
    return ", ".join(parts)


def forced(status: models.ReleaseStatus) -> str:
    """Say that everybody is on stable whatever the release asks for, where that is so."""
    if status.gate is None or not any(_FORCED in wait for wait in status.gate.waits):
        return ""
    return "everybody is on stable by force (`gateway rollback --local --undo` lifts it)"


def probes_pass(status: models.ReleaseStatus) -> bool:
    """Tell whether the candidate's endpoints pass their probes: being forced is none of these."""
    gate = status.gate
    if gate is None or gate.probes:
        return True
    return bool(forced(status)) and all(
        _FORCED in each
        for wait in gate.waits
        if wait.startswith(_PROBES)
        for each in wait.removeprefix(_PROBES).split("; ")
    )
