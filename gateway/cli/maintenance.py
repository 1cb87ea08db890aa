"""``gateway maintenance on|off``: answer 503 with Retry-After for a service, or end that."""

from __future__ import annotations

import click

from gateway.admin import models
from gateway.cli.output import talk
from gateway.cli.show import show_moved
from gateway.cli.values import reason_option
from gateway.client.link import Link, talks_to_gateway


@click.group("maintenance")
def command() -> None:
    """Put a service into maintenance, or end it."""


@command.command("on")
@click.argument("service")
@click.option(
    "--retry-after",
    default="5m",
    show_default=True,
    metavar="DURATION",
    help="When visitors shall come back: 30s, 5m, 2h.",
)
@reason_option
@talks_to_gateway
def on(link: Link, service: str, retry_after: str, reason: str) -> None:
    """Answer 503 with Retry-After for SERVICE until `gateway maintenance off`.

    It outlives restarts and reloads. Nothing is asked of the service's endpoints meanwhile, but
    by probes.
    """
    try:
        models.retry_seconds(retry_after)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--retry-after") from error
    request = models.MaintenanceRequest(retry_after=retry_after, reason=reason)
    talk(link, lambda client: client.maintain(service, request), show_moved)


@command.command("off")
@click.argument("service")
@reason_option
@talks_to_gateway
def off(link: Link, service: str, reason: str) -> None:
    """Let SERVICE answer again."""
    talk(link, lambda client: client.end_maintenance(service, reason=reason), show_moved)
