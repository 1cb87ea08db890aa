"""A release in words: a line for a log, and what there is to say when it has ended.

No I/O and no clock: what is printed where is for ``release_report`` to say.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from gateway.admin import release_models as models
from gateway.cli.output import ailing, percent
from gateway.cli.release_waits import forced, in_spans, outlook, probes_pass, span, waits
from gateway.release.record import STAYS

#: States that nothing comes after.
ENDED = frozenset({"finalized", "rolled_back", "aborted"})
#: States that a watch does not wait in any longer.
OVER = ENDED | {"held"}
#: Lines about endpoints, and about scopes, that a report has at most.
MOST = 8
#: Services that are named in a heading.
FEW = 3
#: What there is to say of evidence that has not condemned a release that is through.
NOTHING = "nothing spoke against it"

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


# --- small things -------------------------------------------------------------------------------


def clock_time(at: float) -> str:
    """Write a moment as a time of the day, UTC: ``12:03:04Z``."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%SZ")


def moment(at: float) -> str:
    """Write a moment with its day, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def number(value: float) -> str:
    """Write an evidence: two digits where it is small, none after the point where it is not."""
    if value >= 1_000_000:
        return f"{value:.1e}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def share(rate: float | None) -> str:
    """Write a rate of 0 to 1 as a percentage; a few failures of very many are not 0 %."""
    if rate is None:
        return "none"
    return "<0.01 %" if 0 < rate < 0.00005 else percent(rate * 100)


def milliseconds(value: float | None) -> str:
    """Write a latency."""
    return "none" if value is None else f"{value:.0f} ms"


def title(release: models.ReleaseSummary) -> str:
    """Name a release: ``release r-41 (1.9.0)``."""
    return f"release {release.id}" + (f" ({release.version})" if release.version else "")


def services(status: models.ReleaseSummary) -> str:
    """Name a release's services; how many there are, where the names come below."""
    names = status.services
    return ", ".join(names) if len(names) <= FEW else f"{len(names)} services"


def weight(release: models.ReleaseSummary | models.DecisionRow) -> float:
    """Return the build's share in percent: all of it, where it has become stable."""
    return 100.0 if release.state == "finalized" else release.weight


def position(status: models.ReleaseStatus) -> str:
    """Say which step a release is in, or was in when it ended: ``step 1/4 5 %``."""
    if status.step == 0:
        return "before its first step"
    planned = status.plan[status.step - 1].weight if status.step <= len(status.plan) else None
    weight = status.weight if planned is None else planned
    return f"step {status.step}/{status.steps} {percent(weight)}"


def _at(status: models.ReleaseStatus) -> str:
    """Say the same after a verb: ``at step 1/4 5 %``."""
    return f"at {position(status)}" if status.step else position(status)


def plan(status: models.ReleaseStatus) -> str:
    """Write the steps: ``5 % for 5 m, 20 % for 5 m or less, 100 % for 15 m``."""
    return ", ".join(
        f"{percent(step.weight)} for {span(step.hold)}{' or less' if step.early else ''}"
        for step in status.plan
    )


# --- one line -----------------------------------------------------------------------------------


def line(status: models.ReleaseStatus) -> str:
    """Say in one line where a release is, what was seen, and what it waits for."""
    return _joined(*_seen(status), _opinion(status), _lease(status))


def standing(status: models.ReleaseStatus) -> str:
    """Say the same but for what it waits for, where that is told beside."""
    return _joined(*_seen(status), because(status), _lease(status))


def _seen(status: models.ReleaseStatus) -> list[str]:
    """Say where a release is and what was seen."""
    return [forced(status), _head(status), *_gate(status), *_scope(status)]


def _joined(*parts: str) -> str:
    """Return a line of what there is."""
    return " · ".join(part for part in parts if part)


def _head(status: models.ReleaseStatus) -> str:
    """Say the state and the step."""
    where = position(status)
    words = {
        "validating": "validating, nobody is exposed",
        "stepping": where,
        "baking": f"{where} baking",
        "rolling_back": f"rolling back {_at(status)}",
    }
    return words.get(status.state, f"{status.state.replace('_', ' ')} {_at(status)}")


def _gate(status: models.ReleaseStatus) -> list[str]:
    """Say how much of the hold has run, by how many requests of how many clients."""
    gate = status.gate
    if gate is None or status.step == 0:
        return []
    requests, clients = str(gate.requests), str(gate.keys)
    if gate.requests < gate.min_requests:
        requests += f" of {gate.min_requests}"
    if gate.keys < gate.min_keys:
        clients += f" of {gate.min_keys}"
    parts = [f"held {span(gate.held)} of {span(gate.hold)}"]
    parts.append(f"{requests} requests, {clients} clients")
    if not probes_pass(status):
        parts.append("probes fail")
    return parts


def telling(status: models.ReleaseStatus) -> list[models.ScopeStatus]:
    """Return the scopes, those first that say most against the candidate."""
    return sorted(
        status.scopes,
        key=lambda scope: (scope.verdict == "fail", scope.progress, scope.scope == "*"),
        reverse=True,
    )


def _scope(status: models.ReleaseStatus) -> list[str]:
    """Say what the most telling scope has: both sides' errors and latency, the evidence."""
    scopes = telling(status)
    if not scopes or status.step == 0:
        return []
    scope = scopes[0]
    candidate, stable = scope.candidate, scope.stable
    name = "" if scope.scope == "*" else f"{scope.scope}: "
    parts = [
        f"{name}errors candidate {share(candidate.error_rate)} stable {share(stable.error_rate)}"
    ]
    if candidate.p95_ms is not None:
        stable_p95 = milliseconds(stable.p95_ms)
        parts.append(f"p95 candidate {milliseconds(candidate.p95_ms)} stable {stable_p95}")
    parts.append(f"evidence {number(scope.evidence)} of {number(scope.threshold)}")
    return parts


def _opinion(status: models.ReleaseStatus) -> str:
    """Say what the gateway makes of it, why, and when more can be expected."""
    if status.because:
        return because(status)
    missing = "; ".join(waits(status, counted=False))
    if status.state == "validating":
        return f"waits for {missing}" if missing else ""
    if status.state == "finalized":
        return NOTHING if unopposed(status) else ""
    if status.state in OVER or status.state == "rolling_back":
        return ""
    if _needs_a_hand(status):
        missing = missing or f"gateway release finalize {status.id}"
    waiting = missing or (status.gate is not None and status.gate.waits)
    passes = "well so far" if waiting else "passes"
    words = {"pass": passes, "fail": "fails", "inconclusive": "no verdict yet"}[status.verdict]
    said = f"{words}: {missing}" if missing else words
    ahead = outlook(status)
    return f"{said} ({ahead})" if ahead else said


def unopposed(status: models.ReleaseStatus) -> bool:
    """Tell whether no test has spoken against a release."""
    return status.verdict != "fail" and all(scope.verdict != "fail" for scope in status.scopes)


def _needs_a_hand(status: models.ReleaseStatus) -> bool:
    """Tell whether a release is through but for the call that finalizes it."""
    gate = status.gate
    manual = status.state == "baking" and status.finalize == "manual"
    return manual and gate is not None and gate.held >= gate.hold


def because(release: models.ReleaseSummary) -> str:
    """Return why a release is held or has ended, with the trigger where that says more."""
    why = in_spans(release.because)
    if release.trigger and release.trigger not in why:
        return f"{why} ({release.trigger})" if why else release.trigger
    return why


def _lease(status: models.ReleaseStatus) -> str:
    """Say that a lease is about to run out: nobody seems to renew it."""
    lease = status.lease
    if lease is None or lease.rests or lease.left > lease.seconds / 2:
        return ""
    return f"its lease runs out in {span(lease.left)} (then {_lost(lease)})"


def _lost(lease: models.LeaseStatus) -> str:
    """Say what a lost lease does."""
    return "it is rolled back" if lease.on_lost == "rollback" else "it is held"


def fingerprint(status: models.ReleaseStatus) -> object:
    """Return what has to differ for two pictures to be told apart: counters are left out."""
    return (
        (status.state, status.step, status.weight, status.verdict),
        (status.because, status.trigger),
        tuple((scope.scope, scope.verdict) for scope in status.scopes),
        tuple(
            (scope.scope, test.name, test.verdict)
            for scope in status.scopes
            for test in scope.tests
        ),
        tuple((pool.service, pool.generation, pool.health) for pool in status.pools),
        status.gate is not None and status.gate.probes,
        # "68 more requests" a second ago and "31 more requests" now are the same wait.
        status.gate is not None and tuple(_NUMBER.sub("#", wait) for wait in status.gate.waits),
        sick(status),
    )


# --- endpoints ----------------------------------------------------------------------------------


def sick(status: models.ReleaseStatus) -> object:
    """Return what has to differ for ailments to be told again: not bodies, some have the time."""
    return tuple(
        (endpoint.url, endpoint.health, probe.level, probe.ok, probe.status)
        for pool in status.pools
        for endpoint in pool.endpoints
        for probe in endpoint.probes
    )


def ailments(status: models.ReleaseStatus) -> list[str]:
    """Return a line for each endpoint of the candidate that fails: what its last probe saw."""
    lines = [
        f"{pool.service} {pool.color} generation {pool.generation}: {ailing(endpoint)}"
        for pool in status.pools
        for endpoint in pool.endpoints
    ]
    if len(lines) > MOST:
        return [*lines[:MOST], f"and {len(lines) - MOST} endpoints more"]
    return lines


def decided(row: models.DecisionRow) -> str:
    """Say a decision without its time: what, and why."""
    what = row.what.replace("_", " ")
    text = in_spans(row.text)
    if text.startswith(what):
        return text  # "step 1 passed", "paused by …"
    return f"{what}: {text}" if text else what


# --- the end ------------------------------------------------------------------------------------


def success(status: models.ReleaseStatus) -> str:
    """Say that a release is through."""
    after = span(status.moved - status.began)
    return f"Release {title(status)[8:]} is finalized after {after}: {', '.join(status.services)}."


def ending(status: models.ReleaseStatus) -> list[str]:
    """Return why a release has not gone through: reason, numbers, probes, and what is now."""
    ended = {"held": "is held", "rolled_back": "was rolled back", "aborted": "was aborted"}
    what = ended.get(status.state, f"is {status.state.replace('_', ' ')}")
    after = span(status.moved - status.began)
    lines = [f"{title(status)} {what} {_at(status)}, {after} after it began"]
    if why := because(status):
        lines.append(f"  because: {why}")
    for scope in telling(status)[:MOST]:
        lines += _numbers(scope)
    lines += [f"  {ailment}" for ailment in ailments(status)]
    lines += [f"  it waited for: {wait}" for wait in waits(status)]
    return [*lines, f"  {_now(status)}"]


def _numbers(scope: models.ScopeStatus) -> list[str]:
    """Return a scope's figures, its evidence against the threshold, and what its tests say."""
    if not scope.candidate.requests and scope.verdict != "fail":
        return []
    name = "all services" if scope.scope == "*" else scope.scope
    evidence = f"    evidence against it {number(scope.evidence)}"
    leading = f", most of it from {scope.leading}" if scope.leading else ""
    return [
        f"  {name}: candidate {side(scope.candidate)}; stable {side(scope.stable)}",
        f"{evidence}, rolled back at {number(scope.threshold)}{leading}",
        *(
            f"    {test.name}: {test.verdict}{': ' + test.text if test.text else ''}"
            for test in scope.tests
            if test.verdict == "fail"
        ),
    ]


def side(figures: models.SideFigures) -> str:
    """Write one side: ``12 of 140 failed (8.57 %), 3 refused, p50 20 ms, p95 120 ms``."""
    if not figures.requests:
        return "had no requests"
    rate = figures.failed / figures.requests
    parts = [f"{figures.failed} of {figures.requests} failed ({share(rate)})"]
    if figures.refused:
        parts.append(f"{figures.refused} clients refused")
    for name, value in (("p50", figures.p50_ms), ("p95", figures.p95_ms), ("p99", figures.p99_ms)):
        if value is not None:
            parts.append(f"{name} {milliseconds(value)}")
    return ", ".join(parts)


def _now(status: models.ReleaseStatus) -> str:
    """Say where the traffic is now and who can do what."""
    if status.state == "held" and _goes_back(status):
        return (
            "it goes back by itself as soon as its stable can serve; "
            f"all the same: gateway release abort {status.id} --force"
        )
    if status.state == "held":
        verbs = " | ".join(
            f"gateway release {verb} {status.id}" for verb in ("resume", "promote", "abort")
        )
        return f"the candidate keeps {percent(status.weight)} until someone decides: {verbs}"
    if status.weight:
        return f"the candidate has {percent(status.weight)} now"
    return "everything is on stable now" if status.step else "nobody was exposed"


def _goes_back(status: models.ReleaseStatus) -> bool:
    """Tell whether a held release is on its way back, and only waits for its stable."""
    _, staying, reason = status.because.partition(STAYS)
    by_hand = status.trigger == "manual"  # an abort that is not done yet
    return by_hand or (bool(staying) and "forward only" not in reason)


def left_over(status: models.ReleaseStatus) -> list[str]:
    """Say which services an abort has left where they were, why, and what becomes of them."""
    why, _, staying = in_spans(status.because).partition(STAYS)
    lines = [f"{title(status)} could not be taken back wholly: it is held {_at(status)}"]
    if staying:
        lines += [f"  stays as it was: {each}" for each in staying.split("; ")]
    elif why:
        lines.append(f"  because: {why}")
    return [
        *lines,
        "  it goes back by itself as soon as its stable can serve",
        f"  take it back all the same: gateway release abort {status.id} --force",
    ]


def left_behind(status: models.ReleaseStatus, *, renewing: bool) -> list[str]:
    """Say what becomes of a release that nobody watches any longer."""
    lines = [f"{title(status)} was last seen at: {line(status)}"]
    lease = status.lease
    if lease is None or lease.rests:
        lines.append("  it goes on by itself; nothing was aborted")
    elif renewing:
        within = span(lease.seconds)
        lines.append(f"  its lease is no longer renewed from here: within {within} {_lost(lease)}")
    else:
        lines.append(f"  it goes on as long as its lease is renewed; else {_lost(lease)}")
    lines.append(f"  look again: gateway release watch {status.id}")
    lines.append(f"  take it back: gateway release abort {status.id}")
    return lines
