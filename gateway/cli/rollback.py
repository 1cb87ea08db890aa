"""``gateway rollback``: everything to stable, by the API or, without it, on the machine itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from gateway.admin import models
from gateway.cli.output import say, talk, warn
from gateway.cli.show import show_moved
from gateway.cli.values import chosen, force_option, reason_option, services_option
from gateway.client.exits import Exit
from gateway.client.link import LinkOptions, link_options


@click.command("rollback")
@click.option(
    "--to",
    type=click.Choice(["stable", "previous"]),
    default="stable",
    show_default=True,
    help="previous: after a finalize, what was stable before it.",
)
@services_option
@reason_option
@force_option("Even where stable has no healthy endpoint and the candidate has.")
@click.option(
    "--local",
    is_flag=True,
    help="On the gateway's machine, by a flag file: works with the control process dead.",
)
@click.option("--undo", is_flag=True, help="With --local: lift the flag.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --local: the file that the gateway runs with.",
)
@link_options
def command(
    options: LinkOptions,
    to: Literal["stable", "previous"],
    services: tuple[str, ...],
    reason: str,
    force: bool,
    local: bool,
    undo: bool,
    config: Path | None,
) -> None:
    """Send everything back to stable at once.

    Exits with 4 where some service was refused; the others have gone back then.
    """
    if local:
        if config is None:
            raise click.UsageError("--local needs --config FILE")
        if services or force or to != "stable":
            raise click.UsageError(
                "--local puts every service on stable: no --service, --to, --force"
            )
        from gateway.cli.rollback_local import rollback_local

        sys.exit(rollback_local(config, undo))
    if undo or config is not None:
        raise click.UsageError("--undo and --config go with --local")
    request = models.RollbackRequest(reason=reason, to=to, services=chosen(services), force=force)
    answer = talk(options.link(), lambda client: client.rollback(request), _show)
    if not answer.persisted:
        warn("it is in force but not on disk: look at the state folder before the next restart")
    if answer.refused:
        for refused in answer.refused:
            warn(f"{refused.service} stays as it was: {refused.detail} ({refused.type})")
        sys.exit(Exit.REFUSED)


def _show(answer: models.RollbackAnswer) -> None:
    """Print where everything is now and what has moved."""
    show_moved(answer)
    if answer.rolled_back:
        say(f"Rolled back: {', '.join(answer.rolled_back)}.")
