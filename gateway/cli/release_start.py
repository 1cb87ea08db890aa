"""``gateway release start``: begin a release, and with ``--wait`` see it through."""

from __future__ import annotations

import re
from typing import Any

import click
from pydantic import ValidationError

from gateway.admin import release_models as models
from gateway.admin.models import hundredths
from gateway.cli.output import say, talk
from gateway.cli.release_follow import began, follow
from gateway.cli.values import (
    chosen,
    duration,
    force_option,
    in_seconds,
    lease,
    percentage,
    reason_option,
    services_option,
)
from gateway.client.link import Link, talks_to_gateway
from gateway.release.plan import PlanError, Step, check_steps


def step(text: str) -> models.ReleaseStep:
    """Read ``WEIGHT:HOLD`` or ``WEIGHT:HOLD:early``. Raises click.BadParameter."""
    weight, colon, rest = text.partition(":")
    hold, _, early = rest.partition(":")
    if not colon or early not in {"", "early"} or text.endswith(":"):
        expected = "expected WEIGHT:HOLD or WEIGHT:HOLD:early, like 5:5m or 20:10m:early"
        raise click.BadParameter(f"{text!r}; {expected}")
    try:
        return models.ReleaseStep(weight=percentage(weight), hold=duration(hold), early=bool(early))
    except ValidationError as error:
        raise click.BadParameter(f"{text!r}: {_first(error)}") from error


def pool(text: str) -> tuple[str, int]:
    """Read ``SERVICE=GENERATION``. Raises click.BadParameter."""
    service, sign, generation = text.partition("=")
    if not service or not sign or not re.fullmatch(r"[0-9]{1,16}", generation):
        raise click.BadParameter(f"{text!r}; expected SERVICE=GENERATION, like ivor=7")
    return service, int(generation)


@click.command("start")
@services_option
@click.option("--version", default="", metavar="TEXT", help="What people know the build by.")
@click.option(
    "--pool",
    "pools",
    type=pool,
    multiple=True,
    metavar="SERVICE=GENERATION",
    help="The generation that the candidate must be; refused otherwise. May be repeated.",
)
@click.option(
    "--step",
    "steps",
    type=step,
    multiple=True,
    metavar="WEIGHT:HOLD[:early]",
    help="A step instead of the configured ones, like 5:5m; may be repeated, the last at 100.",
)
@click.option(
    "--lease",
    type=lease,
    metavar="DURATION",
    help="Undo or hold it unless it is renewed this often, up to 99m; --wait does that by itself.",
)
@click.option(
    "--on-lease-lost",
    type=click.Choice(["rollback", "hold"]),
    help="What a lost lease does.",
)
@click.option(
    "--finalize",
    type=click.Choice(["auto", "manual"]),
    help="After the last hold: swap the roles, or wait for `gateway release finalize`.",
)
@click.option(
    "--forward-only/--no-forward-only",
    default=None,
    help="It cannot go back (a migration): hold and alert instead.",
)
@reason_option
@force_option("Even a generation that was rolled back before.")
@click.option("--wait", is_flag=True, help="Stay and watch until it is over; renew its lease.")
@click.option(
    "--timeout",
    type=duration,
    metavar="DURATION",
    help="With --wait: how long to stay. The release goes on without.",
)
@talks_to_gateway
def start(link: Link, /, wait: bool, timeout: str | None, **wish: Any) -> None:
    """Start a release: from stable to the candidate in steps, each judged by its requests.

    What is not said is as the configuration says. With --wait it ends with 0 where the release is
    finalized, with 1 where it was rolled back or aborted, with 5 where it is held.
    """
    request = _request(**wish)
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    if wait:
        follow(link, "", request=request, timeout=None if timeout is None else in_seconds(timeout))
    talk(link, lambda client: client.start_release(request), _show)


def _request(
    *,
    services: tuple[str, ...],
    pools: tuple[tuple[str, int], ...],
    steps: tuple[models.ReleaseStep, ...],
    **rest: Any,
) -> models.ReleaseStart:
    """Return the request. Raises click.UsageError for what the API would not take either."""
    generations = dict(pools)
    if len(generations) < len(pools):
        raise click.BadParameter("a service is named twice", param_hint="--pool")
    if steps:
        planned = tuple(Step(weight=hundredths(each.weight), hold=0.0) for each in steps)
        try:
            check_steps(planned)
        except PlanError as error:
            raise click.BadParameter(error.detail, param_hint="--step") from error
    body = {
        "services": chosen(services),
        "pools": generations or None,
        "steps": list(steps) or None,
        **rest,
    }
    # What was not said is left out: the configuration decides.
    said = {name: value for name, value in body.items() if value not in (None, "", False)}
    if rest.get("forward_only") is False:
        said["forward_only"] = False
    try:
        return models.ReleaseStart.model_validate(said)
    except ValidationError as error:
        raise click.UsageError(_first(error)) from error


def _first(error: ValidationError) -> str:
    """Say the first fault of a body."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


def _show(answer: models.ReleaseAnswer) -> None:
    """Say that it has begun, and how to follow it."""
    say(began(answer))
    say(f"Follow it: gateway release watch {answer.id}")
