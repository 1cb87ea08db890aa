"""What differs between the before and the after of an audit row, in a line a person can read."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import JsonValue

Path = tuple[str, ...]

#: Where a state names its services: what differs in the same way for several is said once.
_SERVICES = "services"
#: Differs by definition.
_REVISION = ("revision",)
#: Sentences, of what is no state (a reload, a renewal).
_CHANGES = "changes"


def difference(before: JsonValue, after: JsonValue) -> str:
    """Return what differs: ``events, ivor: weight 0 → 20; ivor: pools.green.generation 2 → 3``."""
    told: list[str] = []
    if isinstance(after, dict) and isinstance(sentences := after.get(_CHANGES), list):
        told = [str(each) for each in sentences]
        after = {name: value for name, value in after.items() if name != _CHANGES}
    old, new = dict(_leaves(before)), dict(_leaves(after))
    owners: dict[tuple[str, str, str], list[str]] = {}
    for path in {**old, **new}:
        was, is_now = old.get(path, ""), new.get(path, "")
        if was == is_now or path == _REVISION:
            continue
        owner, rest = ("", path)
        if path[:1] == (_SERVICES,) and len(path) > 1:
            owner, rest = path[1], path[2:]
        owners.setdefault((".".join(rest), was, is_now), []).append(owner)
    return "; ".join([*told, *(_said(names, *change) for change, names in owners.items())])


def _said(names: list[str], what: str, was: str, is_now: str) -> str:
    """Say one change and whose it is."""
    whose = ", ".join(filter(None, names))
    words = [what, was, "→" if was else "", is_now or "gone"]
    return (f"{whose}: " if whose else "") + " ".join(filter(None, words))


def _leaves(value: JsonValue, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield what is no object, as JSON, with the way to it; a list is one leaf."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif isinstance(value, float) and value.is_integer():
        yield path, str(int(value))
    elif isinstance(value, str):
        yield path, value
    elif value is not None:
        yield path, json.dumps(value, ensure_ascii=False)
