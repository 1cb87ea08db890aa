"""A judgement in numbers and words: for the ledger, and for whoever watches. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gateway.channel.histogram import add_up
from gateway.release.judgement import Figures
from gateway.release.record import WHOLE

if TYPE_CHECKING:
    from gateway.release.analysis import ServiceEvidence
    from gateway.release.judgement import Judgement
    from gateway.release.record import Release

#: Requests of the candidate below which its share is not worth telling: counts lag behind failures.
LEAST_SHOWN = 20

Verdict = Literal["pass", "fail", "inconclusive"]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a step may pass: ``waits`` says what is missing, in words; none: it passes.

    ``enough``: the minimum of requests and clients is there. ``hold`` is what has to run.
    """

    held: float
    hold: float
    requests: int
    keys: int
    enough: bool
    probes: bool
    near: bool
    waits: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing is missing."""
        return not self.waits


def gate(release: Release, judgement: Judgement, unproven: list[str], now: float) -> Gate:
    """Return what the step in force still waits for."""
    plan, step, seen = release.plan, release.current, judgement.known.seen
    hold = step.hold if step is not None else 0.0
    # Alone, a candidate proves nothing about being no worse.
    early = step is not None and step.early and not release.full
    near = judgement.near(now)
    waits = []
    if seen.requests < plan.min_requests:
        waits.append(f"{seen.requests} of {plan.min_requests} requests of the candidate")
    if len(seen.keys) < plan.min_keys:
        waits.append(f"{len(seen.keys)} of {plan.min_keys} clients of the candidate")
    enough = not waits
    if seen.held < hold and not (early and judgement.known.mirror.evidence >= 1 / release.beta):
        waits.append(f"held {seen.held:.0f} s of {hold:g} s")
    if unproven:
        waits.append("probes: " + "; ".join(unproven))
    if near:
        waits.append("a trigger is near")
    return Gate(
        held=seen.held,
        hold=hold,
        requests=seen.requests,
        keys=len(seen.keys),
        enough=enough,
        probes=not unproven,
        near=near,
        waits=tuple(waits),
    )


def verdict(judgement: Judgement, scope: str, *, enough: bool, now: float) -> Verdict:
    """Return what one scope says now: it fails, it has what a step needs, or neither."""
    evidence = judgement.known.scopes[scope]
    if evidence.over(judgement.bound(scope)):
        return "fail"
    rules = judgement.rules.services.get(scope)
    over = rules.near(now) if rules is not None else judgement.rules.near(now)
    over = over or judgement.violations_lean(scope)
    if scope in judgement.violating():
        return "fail"
    return "pass" if enough and not judgement.leans(scope) and not over else "inconclusive"


def side(figures: Figures) -> dict[str, Any]:
    """Return one side's figures as JSON values; latencies in milliseconds."""
    found: dict[str, Any] = {"requests": figures.requests, "failed": figures.failed}
    if figures.error_rate is not None:
        found["error_rate"] = round(figures.error_rate, 6)
    if figures.refused:
        found["refused"] = figures.refused
    return found | figures.quantiles_ms()


def numbers(release: Release, judgement: Judgement, shut: Gate | None) -> dict[str, Any]:
    """Return everything that a decision of now is made by, as JSON values."""
    known = judgement.known
    scopes = {}
    for name, evidence in known.scopes.items():
        sides = known.figures.get(name)
        scopes[name] = {
            "evidence": rounded(evidence.evidence),
            "threshold": rounded(judgement.bound(name)),
            "leading": leading(evidence),
            "failures": {
                "candidate": evidence.errors.candidate + evidence.objective.failed,
                "stable": evidence.errors.stable,
            },
        }
        if sides is not None:
            scopes[name] |= {"candidate": side(sides.candidate), "stable": side(sides.stable)}
    found: dict[str, Any] = {"weight": release.weight / 100, "scopes": scopes}
    if shut is not None:
        found["gate"] = {
            "held": round(shut.held, 1),
            "hold": shut.hold,
            "requests": shut.requests,
            "clients": shut.keys,
            "waits": list(shut.waits),
        }
    if known.mirror.log_evidence:
        found["early"] = rounded(known.mirror.evidence)
    if known.violations:
        found["csp_violations"] = {
            name: {
                "evidence": rounded(each.evidence),
                "threshold": rounded(judgement.violations_bound(name)),
                "clients": {"candidate": each.candidate, "stable": each.stable},
            }
            for name, each in known.violations.items()
        }
    if known.dropped:
        found["not_told_one_by_one"] = known.dropped
    return found


def rounded(value: float) -> float:
    """Return a number with four figures that count."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))


def in_words(release: Release, judgement: Judgement, scope: str) -> str:
    """Say why a scope speaks against the candidate."""
    known = judgement.known
    evidence = known.scopes[scope]
    where = "all services together" if scope == WHOLE else scope
    metric = evidence.why()
    what = {
        "errors": "failures",
        "refusals": "401, 403, 404 and 422",
        "slow": "slow answers",
        "objective": "failures against the objective",
    }[metric]
    text = (
        f"{where}: {what} speak against the candidate, evidence {rounded(evidence.evidence):g} of "
        f"{rounded(judgement.bound(scope)):g} needed, {evidence.counted(metric)} clients of the "
        f"candidate at {release.weight / 100:g} %"
    )
    sides = known.figures.get(scope)
    if sides is not None and sides.candidate.requests >= LEAST_SHOWN:
        text += f"; failed {_share(sides.candidate)}, stable's {_share(sides.stable)}"
    return text


def violations_in_words(judgement: Judgement, service: str) -> str:
    """Say what browsers' reports come to."""
    each = judgement.known.violations[service]
    return (
        f"{service}: browsers of {each.candidate} clients of the candidate and {each.stable} of "
        f"stable's reported violations of content policies, evidence {rounded(each.evidence):g} of "
        f"{rounded(judgement.violations_bound(service)):g} needed"
    )


def _share(figures: Figures) -> str:
    rate = figures.error_rate
    if rate is None:
        return "no requests"
    return f"{figures.failed} of {figures.requests} ({rate * 100:.3g} %)"


def leading(evidence: ServiceEvidence) -> str:
    """Return the metric that carries most of a scope's evidence; empty where none has any."""
    metrics = evidence.metrics
    name = evidence.why()
    return name if metrics[name] > 1.0 else ""


def progress(evidence: ServiceEvidence, bound: float) -> float:
    """Return how far evidence has come on its way from 1 to its bound, 0 to 1, by logarithms."""
    if evidence.evidence <= 1.0 or bound <= 1.0:
        return 0.0
    return round(min(1.0, math.log(evidence.evidence) / math.log(bound)), 4)


def together(figures: list[Figures]) -> Figures:
    """Return several services' figures as one."""
    whole = Figures()
    for each in figures:
        whole.requests += each.requests
        whole.failed += each.failed
        whole.refused += each.refused
        whole.judged += each.judged
        whole.timed += each.timed
        whole.slow += each.slow
        add_up(whole.latency, each.latency.items())
    return whole
