"""The reference part of docs/configuration.md, made from the types, so that it is never wrong.

    python -m gateway.config.reference docs/configuration.md

writes the part between its two marks anew; a test fails where it is not as it would be written.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.config.editor import json_schema
from gateway.config.keys import Key, all_keys
from gateway.config.notyet import NOT_YET

if TYPE_CHECKING:
    from collections.abc import Mapping

BEGIN = "<!-- reference: begin (made by python -m gateway.config.reference) -->"
END = "<!-- reference: end -->"

_STEP = re.compile(r"\.?([^.\[\]]+)|(\[\])")

Schema = dict[str, Any]

_LIST = {"items"}
_KEYS = {"properties", "additionalProperties", "patternProperties"}


def _inner(schema: Schema, definitions: Mapping[str, Schema], below: set[str]) -> Schema:
    """Return the branch of a schema that has what is looked for below it."""
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for branch in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        inner = _inner(branch, definitions, below)
        if inner.keys() & below:
            return inner
    return schema


def _schema_of(pattern: str, whole: Schema) -> Schema:
    """Return the schema of a key's value."""
    definitions = whole["$defs"]
    schema = whole
    for step in _STEP.finditer(pattern):
        inner = _inner(schema, definitions, _LIST if step[2] else _KEYS)
        if step[2]:
            schema = inner["items"]
        else:
            schema = _values(inner) if step[1] == "*" else inner["properties"][step[1]]
    return schema


def _values(schema: Schema) -> Schema:
    """Return the schema of what stands under names of the user's own."""
    patterns = schema.get("patternProperties")
    values: Schema = next(iter(patterns.values())) if patterns else schema["additionalProperties"]
    return values


def _type(schema: Schema) -> str:
    """Return a schema in a word or two."""
    if "$ref" in schema:
        return "keys"
    if "title" in schema:
        return str(schema["title"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return " or ".join(_type(branch) for branch in branches)
    return _plain_type(schema)


def _plain_type(schema: Schema) -> str:
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if kind == "object":
        return f"names, each with {_type(_values(schema))}"
    words = {"string": "text", "boolean": "`true` or `false`", "integer": "whole number"}
    return words.get(kind, str(kind))


def _flow(value: object) -> str:
    """Return a default as the file would have it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./:%-]*|-", value)
        return value if plain else json.dumps(value)
    return json.dumps(value)


def _default(key: Key) -> str:
    if key.required:
        return "required"
    # A section's default is the defaults of its keys, which stand in its own table.
    return "" if key.default == {} else f"`{_flow(key.default)}`"


def _not_yet(pattern: str) -> str | None:
    """Return why a key is not in force, for itself or for one above it."""
    for row, why in NOT_YET.items():
        if pattern == row or pattern.startswith((f"{row}.", f"{row}[")):
            return why
    return None


def _row(key: Key, whole: Schema) -> str:
    name = re.split(r"[.]", key.pattern)[-1]
    why = _not_yet(key.pattern)
    cells = (
        f"`{name}`",
        _type(_schema_of(key.pattern, whole)),
        _default(key),
        key.description,
        "yes" if why is None else f"not yet: {why.removeprefix('has no effect yet: ')}",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def render() -> str:
    """Return the reference: a table of keys for each section of the file."""
    whole = json_schema()
    sections: dict[str, list[Key]] = {}
    for key in all_keys():
        sections.setdefault(key.pattern.rpartition(".")[0], []).append(key)
    lines: list[str] = []
    for section, keys in sections.items():
        lines += [f"### `{section}`" if section else "### The file's top level", ""]
        lines += ["| key | type | default | meaning | in force |", "|---|---|---|---|---|"]
        lines += [_row(key, whole) for key in keys]
        lines.append("")
    return "\n".join(lines)


def rewrite(text: str) -> str:
    """Return a page with its reference written anew. Raises ValueError where marks are missing."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError("the page has no marks for the reference")
    return f"{before}{BEGIN}\n\n{render()}\n{END}{after}"


def main(arguments: list[str]) -> None:
    """Rewrite the page that is named."""
    page = Path(arguments[0])
    page.write_text(rewrite(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
