"""Traffic as people read it: shared by the verbs that move it."""

from __future__ import annotations

from rich.text import Text

from gateway.admin import models
from gateway.cli.output import colored, console, percent, say, table


def show_traffic(answer: models.TrafficAnswer) -> None:
    """Print who carries what."""
    _table(answer)
    say(f"Traffic revision {answer.revision}.")


def show_moved(answer: models.TrafficAnswer) -> None:
    """Print who carries what after a write, and whether and how fast anything moved."""
    _table(answer)
    revision = f"raffic revision {answer.revision}"
    if not answer.changed:
        say(f"Nothing to change: t{revision}.")
    elif answer.applied_in_ms is None:
        say(f"T{revision}.")
    else:
        say(f"T{revision}, served by every worker after {answer.applied_in_ms:.1f} ms.")


def _table(answer: models.TrafficAnswer) -> None:
    """Print each service's colors and shares."""
    rows: list[list[str | Text]] = [
        [
            service.name,
            colored(service.stable),
            percent(100 - service.weight),
            colored(service.candidate),
            percent(service.weight),
            ", ".join(service.closed),
            "" if service.maintenance is None else f"{service.maintenance:g} s",
        ]
        for service in answer.services
    ]
    columns = ["service", "stable", "", "candidate", "", "closed", "maintenance"]
    if all(service.maintenance is None for service in answer.services):
        columns.pop()
        rows = [row[:-1] for row in rows]
    console().print(table(columns, rows))
