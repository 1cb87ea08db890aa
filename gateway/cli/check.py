"""``gateway check``: is this configuration right? Starts nothing and writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gateway.cli.values import config_option
from gateway.client.exits import Exit


@click.command("check")
@config_option("The configuration file.")
@click.option(
    "--without-secrets",
    is_flag=True,
    help="Look neither at environment variables nor at files that hold secrets and certificates: "
    "for a machine that does not have them.",
)
@click.pass_context
def command(ctx: click.Context, file: Path, *, without_secrets: bool) -> None:
    """Check a configuration file and tell everything that is wrong with it.

    One line for each error: FILE:LINE:COLUMN: path.to.key: what is wrong, what is expected. What
    does nothing as it stands, or is hardly meant, is warned of ([warning]); what is weak and meant
    for a first day only is a [notice]. Exits with 0 where the file is right, with warnings too,
    and with 2 where it is wrong.
    """
    from gateway.config.build import routes_of
    from gateway.config.load import ConfigErrors, read_file

    try:
        loaded = read_file(file, os.environ, read_secrets=not without_secrets, read_pages=True)
    except ConfigErrors as errors:
        click.echo(str(errors), err=True)
        ctx.exit(Exit.USAGE)
    for warning in loaded.warnings:
        click.echo(f"{warning} [warning]", err=True)
    for notice in loaded.notices:
        click.echo(f"{notice} [notice]", err=True)
    services, routes = len(loaded.config.services), len(routes_of(loaded.config))
    click.echo(f"{file}: ok ({_count(services, 'service')}, {_count(routes, 'route')})")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
