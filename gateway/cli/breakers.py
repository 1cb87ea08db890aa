"""``gateway breakers [open|reset]``: which endpoints are left alone, and by whom."""

from __future__ import annotations

import click
from click.core import ParameterSource
from rich.text import Text

from gateway.admin import breaker_models as models
from gateway.cli.output import colored, console, say, table, talk
from gateway.cli.values import force_option, reason_option
from gateway.client.link import Link, LinkOptions, link_options, talks_to_gateway


@click.group("breakers", invoke_without_command=True)
@link_options
def command(options: LinkOptions) -> None:
    """List every endpoint's breaker; open or reset one."""
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        talk(options.link(), lambda client: client.breakers(), _show)
        return
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"options go behind {context.invoked_subcommand}")


@command.command("open")
@click.argument("endpoint")
@reason_option
@force_option("Even where no other endpoint could take its requests.")
@talks_to_gateway
def open_(link: Link, endpoint: str, reason: str, force: bool) -> None:
    """Send ENDPOINT (its id) nothing until its breaker is reset, across restarts and reloads."""
    request = models.BreakerOpen(reason=reason, force=force)
    talk(link, lambda client: client.open_breaker(endpoint, request), _show_moved)


@command.command("reset")
@click.argument("endpoint")
@reason_option
@talks_to_gateway
def reset(link: Link, endpoint: str, reason: str) -> None:
    """Close ENDPOINT's breaker, whoever opened it; bring it back where it is an outlier."""
    request = models.BreakerReset(reason=reason)
    talk(link, lambda client: client.reset_breaker(endpoint, request), _show_moved)


def _show(answer: models.BreakersAnswer) -> None:
    """Print a row for each endpoint."""
    rows: list[list[str | Text]] = [
        [
            each.endpoint,
            each.service,
            colored(each.color),
            each.role,
            each.url,
            Text(_words(each), style="" if _words(each) == "closed" else "red"),
            str(each.failures),
            str(each.openings),
        ]
        for each in answer.breakers
    ]
    columns = ["endpoint", "service", "color", "role", "url", "breaker", "failures", "openings"]
    console().print(table(columns, rows))


def _words(breaker: models.BreakerStatus) -> str:
    """Return a breaker's state in a few words: ``open, tries in 12 s``."""
    words = {"half_open": "half open", "forced_open": "open by hand"}
    said = words.get(breaker.state, breaker.state)
    if breaker.next_try is not None:
        said += f", tries in {breaker.next_try:.0f} s" if breaker.next_try > 0 else ", tries next"
    if breaker.ejected_for is not None:
        said += f", ejected for {breaker.ejected_for:.0f} s"
    return said


def _show_moved(answer: models.BreakerAnswer) -> None:
    """Say how the breaker stands after a write."""
    breaker = answer.breaker
    changed = "" if answer.changed else " (it was so already)"
    say(f"The breaker of {breaker.endpoint} ({breaker.url}) is {_words(breaker)}{changed}.")
