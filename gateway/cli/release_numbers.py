"""The numbers of a decision as the ledger has them, laid out for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue, ValidationError

from gateway.admin import release_models as models
from gateway.cli.release_scopes import Scope, scope_name

#: Characters of a row of numbers before the next one begins.
WIDTH = 96


def scopes_of(values: Mapping[str, JsonValue]) -> list[Scope]:
    """Return the scopes among a decision's numbers, those first that say most."""
    scopes = values.get("scopes")
    if not isinstance(scopes, Mapping):
        return []
    found = [_scope(name, scope) for name, scope in scopes.items() if isinstance(scope, Mapping)]
    return sorted(found, key=lambda scope: scope.evidence, reverse=True)


def _scope(name: str, values: Mapping[str, JsonValue]) -> Scope:
    """Read one scope; what is not there is not told."""
    leading, failures = values.get("leading"), values.get("failures")
    sides = failures if isinstance(failures, Mapping) else {}
    return Scope(
        name=name,
        evidence=_figure(values, "evidence"),
        threshold=_figure(values, "threshold"),
        leading=leading if isinstance(leading, str) else "",
        failures=_figure(sides, "candidate") + _figure(sides, "stable"),
        candidate=_side(values.get("candidate")),
        stable=_side(values.get("stable")),
    )


def _figure(values: Mapping[str, JsonValue], name: str) -> float:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _side(value: JsonValue) -> models.SideFigures | None:
    try:
        return models.SideFigures.model_validate(value)
    except ValidationError:
        return None


def numbers(values: Mapping[str, JsonValue], path: str = "") -> Iterator[str]:
    """Give rows of numbers: what stands together in one row, what is nested under its name."""
    plain = [
        f"{_name(name)} {_plain(value)}"
        for name, value in values.items()
        if _is_plain(value) and value != ""
    ]
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
    return scope_name(name.replace("_", " "))


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
