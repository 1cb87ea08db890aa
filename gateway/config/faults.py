"""What is wrong with a configuration's data: found, put into words, told by its place.

A fault names a place in the data; ``load`` turns that into a line and a column. Messages say what
was found and what is expected, and never quote a value that might be a secret.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gateway.config.keys import Place, known_keys
from gateway.config.schema import Config
from gateway.config.schema.types import TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_core import ErrorDetails

_FEW = 12
#: Characters that a secret has at least.
_SECRET = 16


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. ``at_key``: with the key itself, not with its value."""

    place: Place
    message: str
    at_key: bool = False

    @property
    def path(self) -> str:
        """The place as people write it: ``services.ivor.blue.endpoints[0]``."""
        return place_text(self.place)


def place_text(place: Place) -> str:
    """Return a place as people write it; empty for the root."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if step and not set(step) & set('.[]" :\n') else f'"{_clean(step)}"'
            text += f".{name}" if text else name
    return text


def _clean(name: str) -> str:
    """Return a key on one line and not endless."""
    return name.encode("unicode_escape").decode("ascii")[:60]


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return what to write instead of a name that is not known."""
    among = sorted(set(names))
    # `token` for `token_env` and `token_file`, `Workers` for `workers`, then what looks alike.
    close = [known for known in among if name and known.startswith(f"{name}_")]
    close = close or [known for known in among if known.lower() == name.lower()]
    close = close or difflib.get_close_matches(name.lower(), among, n=1, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f'"{known}"' for known in close) + "?"
    if not among:
        return "no keys are expected here"
    more = ", …" if len(among) > _FEW else ""
    return f"expected one of: {', '.join(among[:_FEW])}{more}"


def _found(value: object) -> str:
    """Return what kind of thing was found, never the thing itself: it may be a secret."""
    if value is None:
        return "found nothing"
    if isinstance(value, bool):
        return "found " + ("true" if value else "false")
    if isinstance(value, (int, float)):
        return "found a number"
    if isinstance(value, str):
        return "found text"
    return "found a list" if isinstance(value, (list, tuple)) else "found keys and values"


def _unknown(place: Place, error: ErrorDetails) -> Fault:
    del error
    return Fault(
        place, f"unknown key, {suggestion(str(place[-1]), known_keys(place[:-1]))}", at_key=True
    )


def _missing(place: Place, error: ErrorDetails) -> Fault:
    del error
    return Fault(place[:-1], f'the key "{place[-1]}" is missing')


def _literal(place: Place, error: ErrorDetails) -> Fault:
    expected = str(error.get("ctx", {}).get("expected", "")).replace("'", "")
    hint = ""
    value = error["input"]
    if expected == "off":
        expected = "off, or keys and values"
    if isinstance(value, bool):
        hint = " (true and false are no words: write on or off)" if "off" in expected else ""
    elif isinstance(value, str):
        words = re.split(r", | or ", expected)
        close = difflib.get_close_matches(value.lower(), words, n=1, cutoff=0.6)
        hint = f', did you mean "{close[0]}"?' if close else ""
    return Fault(place, f"{_named(value)}, expected {expected}{hint}")


def _named(value: object) -> str:
    """Return what was found where one of a few words should stand.

    The thing itself only where it is shorter than any secret.
    """
    if isinstance(value, str) and 0 < len(value) < _SECRET and value.isprintable():
        return f'found "{value}"'
    return _found(value)


def _boolean(place: Place, error: ErrorDetails) -> Fault:
    words = {"on", "off", "yes", "no", "y", "n"}
    value = error["input"]
    hint = " (on, off, yes and no are text in YAML 1.2)" if value in words else ""
    return Fault(place, f"{_found(value)}, expected true or false{hint}")


def _short(place: Place, error: ErrorDetails) -> Fault:
    del error
    return Fault(place, "is empty, expected at least one")


def _bound(place: Place, error: ErrorDetails) -> Fault:
    (bound,) = (value for name, value in error.get("ctx", {}).items() if name in _BOUNDS)
    words = _BOUNDS[next(name for name in error.get("ctx", {}) if name in _BOUNDS)]
    return Fault(place, f"{error['input']} is out of range, expected {words} {bound}")


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}

#: What is expected where the type itself is wrong.
_EXPECTED = {
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "dict_type": "keys and values",
    "tuple_type": "a list",
    "string_type": "text (in quotes where it looks like something else)",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_too_long": "fewer characters",
    "string_too_short": "at least one character",
}

_TABLE = {
    "extra_forbidden": _unknown,
    "missing": _missing,
    "literal_error": _literal,
    "bool_type": _boolean,
    "too_short": _short,
    "greater_than": _bound,
    "greater_than_equal": _bound,
    "less_than": _bound,
    "less_than_equal": _bound,
}


def _fault(error: ErrorDetails) -> Fault:
    """Return one of pydantic's errors in our words."""
    kind, steps = error["type"], error["loc"]
    # pydantic marks a map's key so; a key of the file itself may have that name too.
    at_key = kind == "value_error" and steps[-1:] == ("[key]",)
    if at_key:
        steps = steps[:-1]
    # Tags of unions are no part of the place; no key of a file begins as they do.
    place: Place = tuple(step for step in steps if str(step)[:1] != TAG)
    if kind == "value_error":
        return Fault(place, str(error.get("ctx", {}).get("error", "not valid")), at_key=at_key)
    if kind in _TABLE:
        return _TABLE[kind](place, error)
    expected = _EXPECTED.get(kind)
    if expected is not None:
        return Fault(place, f"{_found(error['input'])}, expected {expected}", at_key=at_key)
    return Fault(place, f"{_found(error['input'])}: {error['msg']}", at_key=at_key)


def validate(data: Mapping[str, Any]) -> tuple[Config | None, list[Fault]]:
    """Return the configuration that ``data`` is, or None and everything that its types refuse.

    What one key says about another (an unknown service, a circle) is ``cross``'s to find.
    """
    try:
        return Config.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    return None, [_fault(one) for one in details if not _echo(one)]


def _echo(error: ErrorDetails) -> bool:
    """Tell whether a list is called empty only because what stands in it is wrong."""
    return error["type"] == "too_short" and bool(error["input"])
