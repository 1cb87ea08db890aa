"""``gateway pool set|reset|drain|isolate|lift``: what stands in a slot, and whether it is used."""

from __future__ import annotations

import json

import click
from pydantic import ValidationError

from gateway.admin import models
from gateway.cli.output import console, say, table, talk
from gateway.cli.show import show_moved
from gateway.cli.values import SLOT, duration, force_option, reason_option
from gateway.client.api import Slot
from gateway.client.link import Link, talks_to_gateway


@click.group("pool")
def command() -> None:
    """Set, reset, drain or isolate a service's pool."""


@command.command("set")
@click.argument("service")
@click.argument("slot", type=SLOT, metavar="COLOR|ROLE")
@click.argument("endpoints", nargs=-1, required=True, metavar="URL...")
@click.option(
    "--wait",
    type=duration,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="How long the new endpoints may take to become healthy; 0s: do not wait.",
)
@click.option(
    "--expect",
    metavar="JSON",
    help='What the health answer must say, like \'{"version": "1.9.0"}\'.',
)
@reason_option
@talks_to_gateway
def set_(
    link: Link,
    service: str,
    slot: Slot,
    endpoints: tuple[str, ...],
    wait: str,
    expect: str | None,
    reason: str,
) -> None:
    """Put a new build's URLs into SERVICE's slot: a new generation, waited for until healthy.

    Refused for stable, and for a pool that carries traffic. Where it stays unhealthy, each
    endpoint's last probe is shown.
    """
    change = _change(endpoints, wait, expect, reason)
    talk(
        link,
        lambda client: client.set_pool(service, slot, change),
        _show_pool,
        waiting=f"Waiting up to {wait} for {service} {slot} to become healthy",
    )


def _change(
    endpoints: tuple[str, ...], wait: str, expect: str | None, reason: str
) -> models.PoolChange:
    """Return the request. Raises click.BadParameter for what the API would not take either."""
    body: dict[str, object] = {
        "endpoints": list(endpoints),
        "wait": None if wait.rstrip("mshd").strip("0") == "" else wait,
        "reason": reason,
    }
    if expect is not None:
        try:
            body["expect"] = {"json": json.loads(expect)}
        except ValueError as error:
            raise click.BadParameter(f"not JSON: {error}", param_hint="--expect") from error
    try:
        change = models.PoolChange.model_validate(body)
        if change.wait:
            models.seconds(change.wait)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise click.UsageError(f"{where}: {first['msg']}") from error
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--wait") from error
    return change


def _show_pool(answer: models.PoolAnswer) -> None:
    """Print a pool's endpoints as they are now."""
    rows = [[endpoint.id, endpoint.url, endpoint.health] for endpoint in answer.pool.endpoints]
    console().print(table(["endpoint", "url", "health"], rows))
    pool = answer.pool
    changed = "" if answer.changed else " (it was so already)"
    say(
        f"{answer.service} {pool.color} ({pool.role}) is generation {pool.generation}, "
        f"from {pool.source}{changed}."
    )


@command.command("reset")
@click.argument("service")
@click.argument("slot", type=SLOT, metavar="COLOR|ROLE")
@reason_option
@talks_to_gateway
def reset(link: Link, service: str, slot: Slot, reason: str) -> None:
    """Return SERVICE's slot to the endpoints of the configuration file."""
    talk(link, lambda client: client.reset_pool(service, slot, reason=reason), _show_pool)


@command.command("drain")
@click.argument("service")
@click.argument("slot", type=SLOT, metavar="COLOR|ROLE")
@click.option(
    "--timeout",
    type=duration,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long requests in flight may take.",
)
@reason_option
@talks_to_gateway
def drain(link: Link, service: str, slot: Slot, timeout: str, reason: str) -> None:
    """Send nothing new to SERVICE's slot; return once nothing is in flight there.

    Call it before the processes behind it are stopped.
    """
    try:
        models.seconds(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from error
    request = models.DrainRequest(timeout=timeout, reason=reason)
    talk(
        link,
        lambda client: client.drain_pool(service, slot, request),
        _show_drain,
        waiting=f"Waiting up to {timeout} for {service} {slot} to become empty",
    )


def _show_drain(answer: models.DrainAnswer) -> None:
    """Say that the pool is empty."""
    say(f"{answer.service} {answer.color} is drained, after {answer.waited_ms:.0f} ms.")


@command.command("isolate")
@click.argument("service")
@click.argument("slot", type=SLOT, metavar="COLOR|ROLE")
@reason_option
@force_option("Even where the other color cannot take over, and stable of a release.")
@talks_to_gateway
def isolate(link: Link, service: str, slot: Slot, reason: str, force: bool) -> None:
    """Send nothing to SERVICE's slot until it is lifted, whatever the weight."""
    request = models.IsolateRequest(color=slot, reason=reason, force=force)
    talk(link, lambda client: client.isolate(service, request), show_moved)


@command.command("lift")
@click.argument("service")
@click.argument("slot", type=SLOT, metavar="COLOR|ROLE")
@reason_option
@talks_to_gateway
def lift(link: Link, service: str, slot: Slot, reason: str) -> None:
    """Undo `isolate`: SERVICE's slot may be used again."""
    talk(link, lambda client: client.lift(service, slot, reason=reason), show_moved)
