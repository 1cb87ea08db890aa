"""``gateway release explain``: the ledger of a release as a story with its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from gateway.admin import release_models as models
from gateway.cli import release_words as words
from gateway.cli.output import percent

#: Characters of a row of numbers before the next one begins.
WIDTH = 96


def story(status: models.ReleaseStatus, page: models.DecisionsPage) -> Iterator[str]:
    """Give the lines: what it was to be, each decision, what can still be said, what comes next."""
    yield from _preface(status)
    for decision in page.decisions:
        yield ""
        yield from _decision(decision)
    if not page.decisions:
        yield ""
        yield "No decision was made yet."
    yield from _tests(status)
    yield from _next(status)


def _preface(status: models.ReleaseStatus) -> Iterator[str]:
    """Say what the release was to be, by whom and why."""
    why = f": {status.reason}" if status.reason else ""
    yield f"R{words.title(status)[1:]} of {', '.join(status.services)}"
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


def _decision(decision: models.DecisionRow) -> Iterator[str]:
    """Say one decision: when, where, what, and under it the numbers that it was made by."""
    step = f"step {decision.step} {percent(decision.weight)}" if decision.step else "no step yet"
    state = decision.state.replace("_", " ")
    yield f"{words.moment(decision.at)}  {decision.what}  ({state}, {step})"
    if decision.text:
        yield f"  {decision.text}"
    for row in numbers(decision.numbers):
        yield f"    {row}"


def numbers(values: Mapping[str, JsonValue], path: str = "") -> Iterator[str]:
    """Give rows of numbers: what stands together in one row, what is nested under its name."""
    plain = [f"{_name(name)} {_plain(value)}" for name, value in values.items() if _is_plain(value)]
    lead = f"{path}: " if path else ""
    yield from _wrapped(lead, plain)
    for name, value in values.items():
        below = f"{path}, {_name(name)}" if path else _name(name)
        if isinstance(value, Mapping):
            yield from numbers(value, below)
        elif not _is_plain(value) and isinstance(value, Sequence):
            for position, item in enumerate(value, start=1):
                inner = item if isinstance(item, Mapping) else {"value": item}
                yield from numbers(inner, f"{below} {position}")


def _wrapped(lead: str, parts: Sequence[str]) -> Iterator[str]:
    """Give rows of at most ``WIDTH`` characters, where the parts allow it."""
    row = ""
    for part in parts:
        if row and len(lead) + len(row) + len(part) > WIDTH:
            yield lead + row
            lead, row = " " * len(lead), ""
        row += f" · {part}" if row else part
    if row:
        yield lead + row


def _is_plain(value: JsonValue) -> bool:
    """Tell whether a value fits into a row: no object, no list with one in it."""
    if isinstance(value, list):
        return not any(isinstance(item, (Mapping, list)) for item in value)
    return not isinstance(value, Mapping)


def _name(name: str) -> str:
    """Write a field's name as words; ``*`` is all services together."""
    return "all services" if name == "*" else name.replace("_", " ")


def _plain(value: JsonValue) -> str:
    """Write one value: numbers to four digits, an absent one as such."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return str(value)


def _tests(status: models.ReleaseStatus) -> Iterator[str]:
    """Say of each test whether it can speak at this traffic, and what it says."""
    scopes = [scope for scope in status.scopes if scope.tests or scope.candidate.requests]
    if not scopes:
        return
    yield ""
    yield "What each test can say at this traffic"
    for scope in scopes:
        name = "all services" if scope.scope == "*" else scope.scope
        yield f"  {name}: {scope.verdict}"
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
            says = test.verdict if test.speaks else "cannot speak"
            yield f"    {test.name:<{width}}  {says}{': ' + test.text if test.text else ''}"


def _next(status: models.ReleaseStatus) -> Iterator[str]:
    """Say where it stands and what comes next."""
    yield ""
    if status.state in {"finalized", "rolled_back", "aborted"}:
        yield f"It is over: {words.line(status)}"
        return
    yield f"Now: {words.line(status)}"
    if status.gate is not None and status.gate.waits:
        yield "Waits for"
        for wait in status.gate.waits:
            yield f"  {wait}"
    outlook = words.outlook(status.outlook) if status.outlook is not None else ""
    if outlook:
        yield f"Outlook: {outlook}"
