"""Every key of the configuration, walked from its types: for suggestions, docs and tests.

A key's *pattern* names its place whatever the names and positions in a file are:
``services.*.blue.endpoints``, ``listen[].tls.certificates[].key``.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from gateway.config.schema import Config
from gateway.config.schema.types import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A place in a file's data: keys and positions from the root.
Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """One key that the file may have."""

    pattern: str
    description: str
    required: bool
    #: As the file would write it; None also where the default is null.
    default: object


def _join(pattern: str, name: str) -> str:
    return f"{pattern}.{name}" if pattern else name


def _sections(annotation: Any) -> Iterator[tuple[str, type[Section]]]:
    """Yield the sections within a type, each with the pattern's suffix that leads to it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _sections(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for member in get_args(annotation):
            yield from _sections(member)
    elif origin is tuple:
        for suffix, section in _sections(get_args(annotation)[0]):
            yield "[]" + suffix, section
    elif origin is dict:
        for suffix, section in _sections(get_args(annotation)[1]):
            yield ".*" + suffix, section
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield "", annotation


def _walk(section: type[Section], pattern: str) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        here = _join(pattern, field.alias or name)
        default = None if field.is_required() else field.default
        yield Key(here, field.description or "", field.is_required(), default)
        for suffix, inner in _sections(field.annotation):
            yield from _walk(inner, here + suffix)


@cache
def all_keys() -> tuple[Key, ...]:
    """Return every key, parents before children."""
    return tuple(_walk(Config, ""))


@cache
def _children() -> dict[str, tuple[str, ...]]:
    """Return the names of the keys under each pattern."""
    found: dict[str, list[str]] = {}
    for key in all_keys():
        parent, _, name = key.pattern.rpartition(".")
        found.setdefault(parent, []).append(name)
    return {parent: tuple(names) for parent, names in found.items()}


@cache
def _maps() -> frozenset[str]:
    """Return the patterns whose keys are names of the user's own."""
    return frozenset(key.pattern.rpartition(".*")[0] for key in all_keys() if ".*" in key.pattern)


def pattern_of(place: Place) -> str:
    """Return the pattern of a place in a file."""
    pattern = ""
    for step in place:
        if isinstance(step, int):
            pattern += "[]"
        elif pattern in _maps():
            pattern += ".*"
        else:
            pattern = _join(pattern, step)
    return pattern


def known_keys(place: Place) -> tuple[str, ...]:
    """Return the keys that may stand at a place; none where it takes names of the user's own."""
    return _children().get(pattern_of(place), ())
