"""Answers about releases: what is known of one now, as ``release_models`` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import orjson

from gateway.admin import release_models as models
from gateway.observe.exposition import ReleaseView
from gateway.release import account
from gateway.release.judgement import Judgement, Known
from gateway.release.machine import RUNNING
from gateway.release.outlook import outlook
from gateway.release.record import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.admin.pictures import Pictures
    from gateway.control.releasefacts import ReleaseFacts
    from gateway.control.releases import Releases
    from gateway.release.account import Gate
    from gateway.release.facts import Finding, Speaks
    from gateway.release.judgement import Figures, Sides
    from gateway.release.record import Decision, Part, Release

_RESTING = frozenset({"paused", "held"})


class ReleasePictures:
    """Makes answers. ``clock`` is CLOCK_MONOTONIC in seconds."""

    def __init__(
        self,
        releases: Releases,
        facts: ReleaseFacts,
        shown: Pictures,
        clock: Callable[[], float],
    ) -> None:
        self._releases = releases
        self._facts = facts
        self._shown = shown
        self._clock = clock

    async def kept(self, run: Release) -> Judgement | None:
        """Return what was seen of a release that is judged no more. Raises StoreError."""
        if self._judgement(run) is not None:
            return None
        found = await self._shown.switchboard.parts.store.progress(run.id)
        if found is None:
            return None
        try:
            return Judgement(run, msgspec.msgpack.decode(found[0], type=Known))
        except msgspec.DecodeError:
            return None  # another version's

    def _judgement(self, run: Release) -> Judgement | None:
        judgement = self._releases.judgement
        return judgement if judgement is not None and judgement.known.release == run.id else None

    def status(self, run: Release, kept: Judgement | None = None) -> models.ReleaseStatus:
        """Return everything that is known of a release now; ``kept``: what was seen of it."""
        judgement = self._judgement(run) or kept
        gate = self._releases.gate(run) if judgement is not None else None
        now = self._clock()
        scopes = [] if judgement is None else self._scopes(run, judgement, gate, now)
        return models.ReleaseStatus(
            **summary(run).model_dump(),
            plan=_plan(run),
            pools=[self._pool(part, running=run.running) for part in run.parts],
            gate=None if gate is None else _gate(gate, run),
            lease=_lease(run, judgement),
            scopes=scopes,
            outlook=_outlook(run, judgement, gate, now),
            verdict=_verdict(scopes),
            forward_only=run.plan.forward_only,
            finalize=run.plan.finalize,
            alpha=run.alpha,
        )

    def metrics(self, run: Release | None) -> ReleaseView:
        """Return what ``/metrics`` says of releases."""
        rollbacks = tuple(self._releases.rollbacks.items())
        if run is None:
            return ReleaseView(rollbacks=rollbacks)
        judgement = self._releases.judgement
        if run.over or judgement is None or judgement.known.release != run.id:
            return ReleaseView(state=run.state, rollbacks=rollbacks)
        known = judgement.known
        return ReleaseView(
            state=run.state,
            step=run.step + 1 if run.running else 0,
            scopes=tuple(
                (name, scope.evidence, judgement.bound(name))
                for name, scope in known.scopes.items()
            ),
            sides=tuple(
                (service, role, side.requests, side.failed)
                for service, sides in known.figures.items()
                for role, side in (("candidate", sides.candidate), ("stable", sides.stable))
            ),
            rollbacks=rollbacks,
        )

    def _scopes(
        self, run: Release, judgement: Judgement, gate: Gate | None, now: float
    ) -> list[models.ScopeStatus]:
        speaks = judgement.rules.speaks(now)
        enough = gate.enough if gate is not None else False
        return [
            _scope(
                run,
                judgement,
                name,
                [_rule(said, self._releases.findings) for said in speaks if said.service == name],
                enough,
                now,
            )
            for name in judgement.known.scopes
        ]

    def _pool(self, part: Part, *, running: bool) -> models.ReleasePool:
        monitors = self._facts.monitors(part.service, part.candidate) if running else []
        failing = [
            each for each in self._shown.evidence(monitors)
            if each.health != "up" or not all(probe.ok for probe in each.probes)
        ]  # fmt: skip
        states = {each.health.word for each in monitors}
        return models.ReleasePool(
            service=part.service,
            color=part.candidate,
            generation=part.generation,
            stable_generation=part.stable_generation,
            health="up" if "up" in states else "down" if "down" in states else "unknown",
            endpoints=failing,
        )


def summary(run: Release) -> models.ReleaseSummary:
    """Return one release in a list."""
    return models.ReleaseSummary(
        id=run.id,
        version=run.version,
        state=run.state,
        step=run.step + 1,
        steps=len(run.plan.steps),
        weight=run.weight / 100,
        services=list(run.names),
        began=run.began,
        moved=run.moved,
        actor=run.actor,
        reason=run.reason,
        because=run.because,
        trigger=run.trigger,
    )


def decision(row: Decision) -> models.DecisionRow:
    """Return one row of the ledger."""
    return models.DecisionRow(
        id=row.id,
        at=row.at,
        what=row.what,
        state=row.state,
        step=row.step + 1,
        weight=row.weight / 100,
        text=row.text,
        numbers=orjson.loads(row.numbers),
    )


def _plan(run: Release) -> list[models.StepStatus]:
    done = len(run.plan.steps) if run.state == "finalized" else run.step
    return [
        models.StepStatus(
            weight=step.weight / 100,
            hold=step.hold,
            early=step.early,
            state="done" if at < done else "current" if at == done else "ahead",
        )
        for at, step in enumerate(run.plan.steps)
    ]


def _gate(gate: Gate, run: Release) -> models.GateStatus:
    return models.GateStatus(
        held=round(gate.held, 1),
        hold=gate.hold,
        requests=gate.requests,
        min_requests=run.plan.min_requests,
        keys=gate.keys,
        min_keys=run.plan.min_keys,
        probes=gate.probes,
        waits=list(gate.waits),
    )


def _lease(run: Release, judgement: Judgement | None) -> models.LeaseStatus | None:
    if run.plan.lease is None:
        return None
    # Just begun, nothing was judged yet: it is full.
    left = judgement.known.lease if judgement is not None else run.plan.lease
    return models.LeaseStatus(
        seconds=run.plan.lease,
        left=round(max(0.0, left or 0.0), 1) if run.running else 0.0,
        on_lost=run.plan.on_lease_lost,
        rests=run.state in _RESTING or not run.running,
    )


def _outlook(
    run: Release, judgement: Judgement | None, gate: Gate | None, now: float
) -> models.Outlook | None:
    if judgement is None or gate is None or run.state not in RUNNING or run.step < 0:
        return None
    found = outlook(run, judgement, gate, now)
    return models.Outlook(pass_in=found.pass_in, fail_in=found.fail_in, text=found.text)


def _verdict(scopes: list[models.ScopeStatus]) -> models.Verdict:
    verdicts = {each.verdict for each in scopes}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "inconclusive"


def _scope(
    run: Release,
    judgement: Judgement,
    name: str,
    rules: list[models.TestStatus],
    enough: bool,
    now: float,
) -> models.ScopeStatus:
    evidence, bound = judgement.known.scopes[name], judgement.bound(name)
    part = run.part(name)
    candidate, stable = _figures(judgement, name)
    said = account.verdict(judgement, name, enough=enough, now=now)
    return models.ScopeStatus(
        scope=name,
        candidate=candidate,
        stable=stable,
        evidence=account.rounded(evidence.evidence),
        threshold=account.rounded(bound),
        progress=account.progress(evidence, bound),
        leading=account.leading(evidence),
        verdict=said,
        tests=[
            _regression(run, judgement, name, said),
            *_violations(run, judgement, name),
            *(rules if run.running else ()),
        ],
        cold=part.cold if part is not None else False,
        thresholds_ms={
            each.name: round(each.seconds * 1000, 1)
            for each in (part.thresholds if part is not None else ())
        },
    )


def _regression(
    run: Release, judgement: Judgement, name: str, said: models.Verdict
) -> models.TestStatus:
    """Say whether the sequential test can speak at all, and why not."""
    sides = _sides(judgement, name)
    judged = sum(each.candidate.judged + each.stable.judged for each in sides)
    requests = sum(each.candidate.requests + each.stable.requests for each in sides)
    evidence = judgement.known.scopes[name]
    text = (
        f"evidence {account.rounded(evidence.evidence):g} of "
        f"{account.rounded(judgement.bound(name)):g}, {judged} of {requests} requests compared"
    )
    if judgement.known.dropped:
        text += f"; {judgement.known.dropped} failures were beyond what is remembered"
    speaks = True
    if run.step < 0:
        speaks, text = False, "nobody is exposed yet"
    elif requests and not judged:
        speaks, text = False, "a cache might have answered every request: the rules speak instead"
    elif not requests:
        speaks, text = False, "no requests yet"
    return models.TestStatus(name="regression", speaks=speaks, verdict=said, text=text)


def _violations(run: Release, judgement: Judgement, name: str) -> list[models.TestStatus]:
    """Say what reported violations come to, where they are judged."""
    found = judgement.known.violations.get(name)
    if found is None:
        return []
    text, speaks = account.violations_in_words(judgement, name), True
    verdict: models.Verdict = "inconclusive" if judgement.violations_lean(name) else "pass"
    if name in judgement.violating():
        verdict = "fail"
    elif run.step < 0:
        speaks, verdict, text = False, "inconclusive", "nobody is exposed yet"
    elif run.full:
        text += "; at 100 % there is no stable to compare with"
        speaks = False
    return [models.TestStatus(name="csp_violations", speaks=speaks, verdict=verdict, text=text)]


def _rule(said: Speaks, findings: list[Finding]) -> models.TestStatus:
    """Say what a rule says: it is up, it is not, or it cannot speak at this traffic."""
    up = [each for each in findings if (each.trigger, each.service) == (said.trigger, said.service)]
    if up:
        text = "; ".join(each.text for each in up)
        return models.TestStatus(name=said.trigger, speaks=True, verdict="fail", text=text)
    return models.TestStatus(
        name=said.trigger,
        speaks=said.can,
        verdict="pass" if said.can else "inconclusive",
        text=said.why,
    )


def _sides(judgement: Judgement, name: str) -> list[Sides]:
    figures = judgement.known.figures
    return list(figures.values()) if name == WHOLE else [figures[name]]


def _figures(judgement: Judgement, name: str) -> tuple[models.SideFigures, models.SideFigures]:
    sides = _sides(judgement, name)
    return (
        _side([each.candidate for each in sides]),
        _side([each.stable for each in sides]),
    )


def _side(figures: list[Figures]) -> models.SideFigures:
    whole = account.together(figures)
    return models.SideFigures(
        requests=whole.requests,
        failed=whole.failed,
        error_rate=None if whole.error_rate is None else round(whole.error_rate, 6),
        refused=whole.refused,
        **whole.quantiles_ms(),
    )
