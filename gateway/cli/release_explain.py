"""``gateway release explain``: the ledger of a release as a story with its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from gateway.admin import release_models as models
from gateway.cli import release_words as words
from gateway.cli.output import percent
from gateway.cli.release_numbers import numbers, scopes_of
from gateway.cli.release_scopes import of_status, scope_name
from gateway.cli.release_waits import in_spans, outlook, waits

#: Decisions below which the scopes stand, whatever they say.
_WEIGHTY = frozenset({"rolling_back", "held", "ended"})
#: What an evaluation just before it has nothing to add to.
_FOLLOWS = frozenset({"step", "ended"})


def story(
    status: models.ReleaseStatus, page: models.DecisionsPage, *, verbose: bool = False
) -> Iterator[str]:
    """Give the lines: what it was to be, each decision, what can still be said, what comes next.

    Without ``verbose`` a decision is one line, with the scopes under it that say something.
    """
    yield from _preface(status)
    yield ""
    if not page.decisions:
        yield "No decision was made yet."
    if verbose:
        for decision in page.decisions:
            yield from _in_full(decision)
        yield from _tests(status)
    else:
        told: dict[str, str] = {}
        for decision in _folded(page.decisions):
            yield from _in_short(decision, told)
        yield from _telling_tests(status)
    yield from _next(status)


def _preface(status: models.ReleaseStatus) -> Iterator[str]:
    """Say what the release was to be, by whom and why."""
    why = f": {status.reason}" if status.reason else ""
    yield f"R{words.title(status)[1:]} of {words.services(status)}"
    yield f"  began {words.moment(status.began)} by {status.actor}{why}"
    yield f"  plan: {words.plan(status)}; finalize: {status.finalize}"
    yield (
        f"  a healthy release is taken back with a chance of {percent(status.alpha * 100)} at most"
    )
    for pool in status.pools:
        yield (
            f"  {pool.service}: {pool.color} generation {pool.generation} against "
            f"generation {pool.stable_generation}"
        )


# --- decisions ----------------------------------------------------------------------------------


def _folded(rows: Sequence[models.DecisionRow]) -> Iterator[models.DecisionRow]:
    """Give the decisions without evaluations that the next row says again."""
    for at, row in enumerate(rows):
        following = rows[at + 1] if at + 1 < len(rows) else None
        if (
            following is not None
            and row.what == "evaluation"
            and following.what in _FOLLOWS
            and row.numbers.get("scopes") == following.numbers.get("scopes")
        ):
            continue
        yield row


def _in_short(row: models.DecisionRow, told: dict[str, str]) -> Iterator[str]:
    """Say one decision in a line, and under it the scopes that say something.

    ``told`` has the last line about each scope: nothing is said twice.
    """
    share = percent(words.weight(row)) if row.step else "-"
    yield f"{words.moment(row.at)}  {share:>6}  {words.decided(row)}"
    for scope in scopes_of(row.numbers):
        line = scope.line()
        if (scope.tells or (row.what in _WEIGHTY and scope.seen)) and told.get(scope.name) != line:
            told[scope.name] = line
            yield f"    {line}"


def _in_full(row: models.DecisionRow) -> Iterator[str]:
    """Say one decision with every number that it was made by."""
    step = f"step {row.step} {percent(words.weight(row))}" if row.step else "no step yet"
    state = row.state.replace("_", " ")
    yield f"{words.moment(row.at)}  {row.what.replace('_', ' ')}  ({state}, {step})"
    if row.text:
        yield f"  {in_spans(row.text)}"
    known = scopes_of(row.numbers)
    for scope in known:
        yield f"    {scope.line(full=True)}"
    rest: Mapping[str, JsonValue] = row.numbers
    if known:
        rest = {name: value for name, value in rest.items() if name != "scopes"}
    for each in numbers(rest):
        yield f"    {each}"
    yield ""


# --- tests --------------------------------------------------------------------------------------


def _telling_tests(status: models.ReleaseStatus) -> Iterator[str]:
    """Say what speaks against a release, and which tests cannot speak: once, for all scopes."""
    lines = []
    over = status.state in words.ENDED
    for scope in status.scopes:
        failing = [test for test in scope.tests if test.verdict == "fail"]
        if failing or (not over and of_status(scope).tells):
            lines.append(f"  {of_status(scope).line()}")
        lines += [f"    {test.name} fails: {_said(test)}" for test in failing]
    if not over:
        lines += _silent(status)
    if lines:
        yield ""
        yield "What the tests say"
        yield from lines


def _silent(status: models.ReleaseStatus) -> Iterator[str]:
    """Say which tests cannot speak, and why: services of which the same is true in one line."""
    why: dict[tuple[str, str], list[str]] = {}
    for scope in status.scopes:
        for test in scope.tests:
            if not test.speaks:
                text = re.sub(rf"\b{re.escape(scope.scope)}\b", "it", _said(test))
                why.setdefault((test.name, text), []).append(scope_name(scope.scope))
    for (name, text), names in why.items():
        alike = len(names) > words.FEW
        whose = f"{len(names)} scopes" if alike else ", ".join(names)
        yield f"  {name} cannot speak of {whose}: {text}"


def _said(test: models.TestStatus) -> str:
    """Return what a test says, without its name before it."""
    return in_spans(test.text.removeprefix(f"{test.name}: "))


def _tests(status: models.ReleaseStatus) -> Iterator[str]:
    """Say of each test whether it can speak at this traffic, and what it says."""
    scopes = [scope for scope in status.scopes if scope.tests or scope.candidate.requests]
    if not scopes:
        return
    yield "What each test can say at this traffic"
    over = status.state == "finalized"
    for scope in scopes:
        verdict = words.NOTHING if over and scope.verdict != "fail" else scope.verdict
        yield f"  {scope_name(scope.scope)}: {verdict}"
        yield f"    candidate {words.side(scope.candidate)}"
        yield f"    stable    {words.side(scope.stable)}"
        leading = f", most of it from {scope.leading}" if scope.leading else ""
        yield (
            f"    evidence  {words.number(scope.evidence)} of "
            f"{words.number(scope.threshold)}{leading}"
        )
        if scope.cold:
            yield "    stable has no history of latencies: only the fixed limit is tested"
        width = max((len(test.name) for test in scope.tests), default=0)
        for test in scope.tests:
            says: str = test.verdict if test.speaks else "cannot speak"
            if over and test.verdict != "fail":
                says = "said nothing against it"
            text = _said(test)
            yield f"    {test.name:<{width}}  {says}{': ' + text if text else ''}"


def _next(status: models.ReleaseStatus) -> Iterator[str]:
    """Say where it stands and what comes next."""
    yield ""
    if status.state == "finalized" and words.unopposed(status):
        yield f"It is over: finalized, the build has 100 %; {words.NOTHING}."
        return
    if status.state in words.ENDED:
        yield f"It is over: {words.line(status)}"
        return
    yield f"Now: {words.standing(status)}"
    if missing := waits(status):
        yield "Waits for"
        for wait in missing:
            yield f"  {wait}"
    if ahead := outlook(status):
        yield f"Outlook: {ahead}"
