"""``gateway reload``: the configuration file, read again."""

from __future__ import annotations

import click

from gateway.admin import models
from gateway.cli.output import say, talk
from gateway.cli.values import reason_option
from gateway.client.link import Link, talks_to_gateway


@click.command("reload")
@reason_option
@talks_to_gateway
def command(link: Link, reason: str) -> None:
    """Make the gateway read its configuration file again.

    A file with errors changes nothing: all of them are listed, and the old one stays in force.
    """
    talk(
        link,
        lambda client: client.reload(reason=reason),
        _show,
        waiting="Reading the configuration again",
    )


def _show(answer: models.ReloadAnswer) -> None:
    """Print what changed, and where the state store outranks the file."""
    for change in answer.changes:
        say(f"changed: {change}")
    for drift in answer.drift:
        say(f"drift: {drift.service}: {drift.field} stays {drift.store}, the file has {drift.file}")
    if not answer.changed:
        say("Nothing changed.")
    say(f"Snapshot {answer.snapshot} is in force.")
