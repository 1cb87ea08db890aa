"""``gateway api-key``: a new API key, shown once, and the line that a keys file has of it."""

from __future__ import annotations

import secrets

import click


@click.command("api-key")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, help="What it may do; may be given repeatedly.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make an API key for NAME.

    The key is shown this once and kept nowhere; the line goes into the scheme's keys_file (or name
    and hash under its keys), and into force by a reload.
    """
    import json

    from gateway.config.schema.auth import NAME, SCOPE
    from gateway.policy.auth.apikeys import mint

    if NAME.fullmatch(name) is None:
        raise click.BadParameter(
            "expected up to 64 letters, digits, dots, hyphens and underscores", param_hint="NAME"
        )
    for scope in scopes:
        if SCOPE.fullmatch(scope) is None:
            raise click.BadParameter("expected such as orders:read", param_hint="--scope")
    key, hashed = mint(secrets.token_bytes(32))
    line = " ".join((name, hashed, *scopes))
    if as_json:
        click.echo(json.dumps({"name": name, "key": key, "hash": hashed, "scopes": list(scopes)}))
        return
    click.echo(f"key:   {key}")
    click.echo(f"line:  {line}")
