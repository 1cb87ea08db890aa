"""What a check expects of an answer, and what it takes from it. Pure.

A place in a JSON document is written with dots (``items.0.name``) or, where a key has dots itself,
as a JSON pointer (RFC 6901: ``/items/0/name``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

import msgspec

from gateway.config.placeholders import filled

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Characters of one captured value.
MAX_CAPTURED: Final = 4096
_SHOWN = 60
_BY_FIELD = "field:"

Scalar = str | int | float | bool | None
Kind = Literal["equal", "not", "above", "below", "present"]


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class JsonRule:
    """One thing that must be so of the value at ``path``."""

    path: str
    kind: Kind
    value: Scalar = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an answer must be. ``status`` has statuses and classes; a field's final * is open."""

    status: tuple[str, ...] = ("200",)
    fields: tuple[tuple[str, str], ...] = ()
    json: tuple[JsonRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of a check. ``capture`` is (name, where from: a place in JSON or ``field:X``)."""

    method: str = "GET"
    path: str
    fields: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    expected: Expected = Expected()
    capture: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``fields`` by lower-case name, the last one of a name; ``body`` bounded."""

    status: int
    fields: Mapping[str, str]
    body: bytes


class UnfitError(Exception):
    """A value was not there, or cannot stand where it was to be put; the text says which."""


def judge(expected: Expected, answer: Answer) -> str:
    """Say what is wrong with an answer, ``""`` where nothing is."""
    status = str(answer.status)
    if status not in expected.status and f"{status[0]}xx" not in expected.status:
        return f"answered {status}, expected {' or '.join(expected.status)}"
    for name, pattern in expected.fields:
        found = answer.fields.get(name.lower())
        if found is None:
            return f"has no field {name}"
        if not _matches(pattern, found):
            return f"field {name} is {_quoted(found)}, expected {pattern}"
    if not expected.json:
        return ""
    document = decoded(answer.body)
    if document is ABSENT:
        return "is not JSON"
    faults = (_fault(rule, find(document, rule.path)) for rule in expected.json)
    return next((fault for fault in faults if fault), "")


def _matches(pattern: str, text: str) -> bool:
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text == pattern


def decoded(body: bytes) -> object:
    """Return a JSON document, ABSENT where it is none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ABSENT


def find(document: object, path: str) -> object:
    """Return the value at a place, ABSENT where there is none."""
    if path.startswith("/"):
        steps = [each.replace("~1", "/").replace("~0", "~") for each in path[1:].split("/")]
    else:
        steps = path.split(".")
    for step in steps:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and _index(step) < len(document):
            document = document[_index(step)]
        else:
            return ABSENT
    return document


def _index(step: str) -> int:
    """Return a list's position; one past every list's end where it is none (RFC 6901, 4)."""
    plain = step.isascii() and step.isdigit() and len(step) < 10
    return int(step) if plain and (step == "0" or step[0] != "0") else 10**10


def _fault(rule: JsonRule, found: object) -> str:
    if rule.kind == "present":
        if (found is not ABSENT) == rule.value:
            return ""
        return f"{rule.path} is {'missing' if found is ABSENT else 'there'}"
    if found is ABSENT:
        return f"{rule.path} is missing"
    good, expected = _holds(rule, found)
    return "" if good else f"{rule.path} is {_quoted(found)}, expected {expected}"


def _holds(rule: JsonRule, found: object) -> tuple[bool, str]:
    """Tell whether a value that is there is as it should be, and what that would be in words."""
    if rule.kind == "equal":
        return same(rule.value, found), _quoted(rule.value)
    if rule.kind == "not":
        return not same(rule.value, found), f"not {_quoted(rule.value)}"
    expected = f"a number {rule.kind} {rule.value}"
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return False, expected
    assert isinstance(rule.value, (int, float))
    return (found > rule.value if rule.kind == "above" else found < rule.value), expected


def same(wanted: object, found: object) -> bool:
    """Tell whether two scalars are one value in JSON: 1 is 1.0, true is not 1."""
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    return wanted == found


def _quoted(value: object) -> str:
    """Return a value as JSON has it, cut short: it comes from elsewhere."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


# --- values from one request to the next ----------------------------------------------------------


def captured(request: Request, answer: Answer) -> dict[str, str]:
    """Return the values that a request's answer gives later ones. Raises UnfitError."""
    document: object = ABSENT
    if any(not source.startswith(_BY_FIELD) for _, source in request.capture):
        document = decoded(answer.body)
    return {name: _taken(name, source, document, answer) for name, source in request.capture}


def _taken(name: str, source: str, document: object, answer: Answer) -> str:
    if source.startswith(_BY_FIELD):
        field = source.removeprefix(_BY_FIELD).strip().lower()
        value: object = answer.fields.get(field, ABSENT)
        if field == "set-cookie" and isinstance(value, str):
            value = value.partition(";")[0].strip()  # as it is sent back in a Cookie field
    else:
        value = ABSENT if document is ABSENT else find(document, source)
    if value is ABSENT or value is None or isinstance(value, (dict, list)):
        raise UnfitError(f"has no value at {source} for {{{name}}}")
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > MAX_CAPTURED:
        raise UnfitError(f"{{{name}}} is longer than {MAX_CAPTURED} characters")
    return text


@dataclass(frozen=True, slots=True)
class Filled:
    """A request as it is sent."""

    method: str
    path: str
    fields: tuple[tuple[str, str], ...]
    body: bytes | None


def fill(request: Request, values: Mapping[str, str]) -> Filled:
    """Return a request with captured values in place. Raises UnfitError.

    In a path they are percent-encoded; in a body that a field calls JSON they are escaped as in a
    string; in a field, characters that would end its line are refused.
    """
    fields = tuple((name, _field(name, filled(text, values))) for name, text in request.fields)
    as_json = any(
        name.lower() == "content-type" and "json" in text.lower() for name, text in fields
    )
    body = request.body
    if body is not None:
        body = filled(body, values, _in_json_string if as_json else str)
    path = filled(request.path, values, _in_path)
    return Filled(
        request.method, path, fields, None if body is None else body.encode("utf-8", "replace")
    )


def _in_path(value: str) -> str:
    # A value of dots alone would be a dot segment, which the gateway refuses; as it should be.
    return quote(value, safe="", errors="replace")


def _in_json_string(value: str) -> str:
    return json.dumps(value)[1:-1]


def _field(name: str, value: str) -> str:
    if any(character < " " or character > "~" for character in value):
        raise UnfitError(f"a captured value cannot stand in the field {name}")
    return value
