"""``gateway traffic get|set|finalize``: the split, by hand."""

from __future__ import annotations

from typing import Literal

import click

from gateway.admin import models
from gateway.cli.output import talk
from gateway.cli.show import show_moved, show_traffic
from gateway.cli.values import (
    COLOR,
    chosen,
    force_option,
    percentage,
    reason_option,
    revision_option,
    services_option,
)
from gateway.client.link import Link, talks_to_gateway


@click.group("traffic")
def command() -> None:
    """Read, set or finalize the split between stable and candidate."""


@command.command("get")
@talks_to_gateway
def get(link: Link) -> None:
    """Show each service's colors and shares."""
    talk(link, lambda client: client.traffic(), show_traffic)


@command.command("set")
@click.argument("percent", type=percentage, metavar="PERCENT")
@click.option(
    "--color",
    type=COLOR,
    help="PERCENT is this color's share; refused where it is not the candidate.",
)
@services_option
@reason_option
@revision_option
@force_option("Even where the candidate has no healthy endpoint.")
@talks_to_gateway
def set_(
    link: Link,
    percent: float,
    color: Literal["blue", "green"] | None,
    services: tuple[str, ...],
    reason: str,
    revision: int | None,
    force: bool,
) -> None:
    """Give the candidate PERCENT of the clients (0 to 100, steps of 0.01).

    Returns once every worker serves it.
    """
    change = models.TrafficChange.model_validate(
        {color or "candidate": percent, "services": chosen(services), "reason": reason}
        | ({"force": True} if force else {})
    )
    talk(link, lambda client: client.set_traffic(change, revision=revision), show_moved)


@command.command("finalize")
@services_option
@reason_option
@revision_option
@talks_to_gateway
def finalize(link: Link, services: tuple[str, ...], reason: str, revision: int | None) -> None:
    """Swap the roles where the candidate carries 100 %: it is stable from then on."""
    request = models.FinalizeRequest(services=chosen(services), reason=reason)
    talk(link, lambda client: client.finalize(request, revision=revision), show_moved)
