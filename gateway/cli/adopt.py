"""``gateway adopt``: say which color production is, where the state store was lost."""

from __future__ import annotations

from typing import Literal

import click

from gateway.admin import models
from gateway.cli.output import talk
from gateway.cli.show import show_moved
from gateway.cli.values import COLOR, chosen, reason_option, services_option
from gateway.client.link import Link, talks_to_gateway


@click.command("adopt")
@click.argument("color", type=COLOR)
@services_option
@reason_option
@talks_to_gateway
def command(
    link: Link, color: Literal["blue", "green"], services: tuple[str, ...], reason: str
) -> None:
    """Make COLOR stable without moving through a split.

    For a gateway whose state store was lost: the file's initial_stable may name the wrong color.
    """
    request = models.AdoptRequest(color=color, services=chosen(services), reason=reason)
    talk(link, lambda client: client.adopt(request), show_moved)
