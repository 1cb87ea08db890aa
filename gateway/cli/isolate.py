"""``gateway isolate SERVICE COLOR [--lift]``: take a color out until it is lifted."""

from __future__ import annotations

import click

from gateway.admin import models
from gateway.cli.output import talk
from gateway.cli.show import show_moved
from gateway.cli.values import SLOT, force_option, reason_option
from gateway.client.api import Slot
from gateway.client.link import Link, talks_to_gateway


@click.command("isolate")
@click.argument("service")
@click.argument("slot", type=SLOT, metavar="COLOR|ROLE")
@click.option("--lift", is_flag=True, help="Undo it: the color may be used again.")
@reason_option
@force_option("Even where the other color cannot take over, and stable of a release.")
@talks_to_gateway
def command(link: Link, service: str, slot: Slot, lift: bool, reason: str, force: bool) -> None:
    """Send nothing to one color of SERVICE until it is lifted, whatever the weight."""
    if lift:
        if force:
            raise click.UsageError("--force is for isolating, not for --lift")
        talk(link, lambda client: client.lift(service, slot, reason=reason), show_moved)
        return
    request = models.IsolateRequest(color=slot, reason=reason, force=force)
    talk(link, lambda client: client.isolate(service, request), show_moved)
