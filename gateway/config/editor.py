"""The configuration's JSON Schema, for editors: completion, descriptions, and most errors.

It comes from the same types as the check; what one key says about another is the check's alone.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from gateway.config.schema import Config

TITLE = "Configuration of the release gateway"


class _Generator(GenerateJsonSchema):
    """Leaves out the titles that are made of the keys' own names: an editor shows these anyway."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file."""
    schema = Config.model_json_schema(mode="validation", schema_generator=_Generator)
    for definition in [schema, *schema.get("$defs", {}).values()]:
        definition.pop("title", None)
        for value in definition.get("properties", {}).values():
            if "patternProperties" in value:  # else names of another form would pass
                value["additionalProperties"] = False
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        **schema,
    }
