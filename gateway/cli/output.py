"""What verbs print: tables for people, the API's answer for programs, errors for both.

Text from elsewhere (a backend's last words in a probe, somebody's reason) is shown with its
control characters written out: it must not move anybody's cursor.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NoReturn, TypeVar

import click
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.admin import models
from gateway.cli.hints import in_verbs
from gateway.client.api import AdminClient, AdminError, Reply
from gateway.client.exits import Exit
from gateway.client.link import Link

T = TypeVar("T", bound=BaseModel)

#: Columns where no terminal says how many: nothing is cut for a pipe.
PIPE_WIDTH = 240

#: What errors mean as exit statuses, by their kind; a kind that is not here is a refusal.
_EXITS: dict[str, Exit] = {
    "unreachable": Exit.UNREACHABLE,
    "not-a-gateway": Exit.UNREACHABLE,
    "timeout": Exit.WAIT_RAN_OUT,
    "still-in-flight": Exit.WAIT_RAN_OUT,
    "pool-unhealthy": Exit.WAIT_RAN_OUT,
    "workers-lagging": Exit.WAIT_RAN_OUT,
    "bad-ca": Exit.USAGE,
    "bad-certificate": Exit.USAGE,
    "invalid-body": Exit.USAGE,
    "invalid-parameter": Exit.USAGE,
}


def console(*, stderr: bool = False) -> Console:
    """Return a console: colors on a terminal without NO_COLOR, never elsewhere."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def safe(text: str) -> str:
    """Return ``text`` with everything that is not printable written out."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table without lines around it."""
    made = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(safe(cell)) for cell in row))
    return made


def colored(color: str) -> Text:
    """Return a color's name in its color."""
    return Text(color, style=color if color in {"blue", "green"} else "")


def percent(value: float) -> str:
    """Write a percentage without needless digits: ``5 %``, ``0.05 %``."""
    return f"{value:.2f}".rstrip("0").rstrip(".") + " %"


def duration(seconds: float) -> str:
    """Write an uptime: ``42 s``, ``3 m``, ``5 h``, ``9 d``."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size * 2:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def say(text: str) -> None:
    """Print one line to standard output."""
    click.echo(safe(text))


def warn(text: str) -> None:
    """Print one line to standard error."""
    click.echo(f"gateway: {safe(text)}", err=True)


def exit_of(error: AdminError) -> Exit:
    """Return the exit status that an error means."""
    return _EXITS.get(error.kind, Exit.REFUSED)


def fail(error: AdminError) -> NoReturn:
    """Say what, where, and what to do, on standard error; end with its exit status."""
    field = f"{error.field}: " if error.field else ""
    said = f" ({error.status} {error.kind})" if error.status else ""
    detail, services = _told_once(error)
    warn(f"{field}{detail}{said}")
    problem = error.problem
    if problem is not None:
        for item in problem.errors or ():
            warn(f"  {item.field + ': ' if item.field else ''}{item.detail}")
        for each in services:
            warn(f"  {each}")
        for worker in problem.lagging or ():
            warn(f"  not yet confirmed by {worker}")
        for endpoint in problem.endpoints or ():
            warn(f"  {ailing(endpoint)}")
    if hint := error.hint or _HINTS.get(error.kind):
        warn(f"  {in_verbs(hint)}")
    sys.exit(exit_of(error))


def _told_once(error: AdminError) -> tuple[str, list[str]]:
    """Return what was refused, and a line for each service, none of them in both.

    A program reads the services from their list, so the API's detail has them too.
    """
    refused = (error.problem.services if error.problem is not None else None) or []
    lines = [f"{each.service}: {each.detail}" for each in refused]
    if len(lines) == 1 and lines[0] in error.detail:
        return error.detail, []
    for listed in ("; ".join(lines), ", ".join(f"{r.service} is {r.detail}" for r in refused)):
        if listed and error.detail.endswith(listed):
            head = error.detail.removesuffix(listed).rstrip(": ")
            return head or f"{len(lines)} services stay as they are", lines
    return error.detail, lines


_HINTS = {
    "unreachable": "is it running, and is --admin (GATEWAY_ADMIN) its admin address?",
    "not-a-gateway": "is --admin (GATEWAY_ADMIN) the admin address, not the public one?",
    "timeout": "it may still be done: look at `gateway status` and `gateway audit`",
}


def ailing(endpoint: models.EndpointEvidence) -> str:
    """Say how an endpoint is and what its failed probes saw; one alone makes none go down."""
    saw = last_words(endpoint.probes)
    if endpoint.health == "up" and saw:
        return f"{endpoint.url} is still up after failed probes{saw}"
    return f"{endpoint.url} is {endpoint.health}{saw}"


def last_words(probes: Sequence[models.Probe]) -> str:
    """Say what an endpoint's failed probes last saw: ``: L2 503 … 'its body'``, or nothing."""
    parts = []
    for probe in probes:
        if not probe.ok:
            status = f" {probe.status}" if probe.status is not None else ""
            body = f" {probe.body!r}" if probe.body else ""
            parts.append(f"{probe.level}{status} {probe.detail}{body}".rstrip())
    return ": " + "; ".join(parts) if parts else ""


def talk(
    link: Link,
    ask: Callable[[AdminClient], Awaitable[Reply[T]]],
    show: Callable[[T], None],
    *,
    waiting: str = "",
    unless: Callable[[AdminError], None] = lambda error: None,
) -> T:
    """Ask one thing and show the answer, for people or as it came; end the process on errors.

    ``waiting`` is shown on a terminal meanwhile, for work that takes its time. ``unless`` sees an
    error first, and ends the process where it is none to the verb.
    """

    async def exchange() -> Reply[T]:
        async with AdminClient(link) as client:
            return await ask(client)

    try:
        if waiting and sys.stderr.isatty():
            with console(stderr=True).status(waiting):
                reply = asyncio.run(exchange())
        else:
            reply = asyncio.run(exchange())
    except AdminError as error:
        unless(error)
        fail(error)
    if link.as_json:
        click.echo(reply.raw)
    else:
        show(reply.value)
    return reply.value
