"""``gateway schema``: the configuration's JSON Schema, for editors."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> None:
    """Print the configuration's JSON Schema.

    Editors with a YAML language server take it from the file's first line:
    # yaml-language-server: $schema=gateway.schema.json
    """
    from gateway.config.editor import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
