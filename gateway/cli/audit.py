"""``gateway audit``: who changed what, when, from where and why."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from gateway.admin import models
from gateway.cli.difference import difference
from gateway.cli.output import console, say, table, talk
from gateway.client.link import Link, talks_to_gateway

MAX_ROWS = 500
#: Characters of a change that a table shows; --json has all of them.
SHORT = 120


@click.command("audit")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_ROWS),
    default=20,
    show_default=True,
    metavar="N",
    help="At most this many rows.",
)
@click.option(
    "--before",
    type=click.IntRange(min=1),
    metavar="ID",
    help="Rows older than the one with this id: the next page.",
)
@talks_to_gateway
def command(link: Link, limit: int, before: int | None) -> None:
    """List the writes to the gateway, newest first."""
    talk(link, lambda client: client.audit(limit=limit, before=before), _show)


def _show(page: models.AuditPage) -> None:
    """Print the rows and how to see older ones."""
    rows = [
        [
            str(row.id),
            datetime.fromtimestamp(row.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            row.actor,
            row.address,
            row.action,
            _short(difference(row.before, row.after)),
            row.reason,
        ]
        for row in page.rows
    ]
    console().print(table(["id", "when", "who", "from", "what", "changed", "why"], rows))
    if page.next is not None:
        say(f"Older rows: gateway audit --before {page.next}")


def _short(text: str) -> str:
    """Return what a table can hold of a text."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
