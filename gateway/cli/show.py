"""Traffic as people read it: shared by the verbs that move it."""

from __future__ import annotations

from rich.text import Text

from gateway.admin import models
from gateway.cli.output import colored, console, percent, say, table


def show_traffic(answer: models.TrafficAnswer) -> None:
    """Print who carries what, and whether and how fast anything moved."""
    rows: list[list[str | Text]] = [
        [
            service.name,
            colored(service.stable),
            percent(100 - service.weight),
            colored(service.candidate),
            percent(service.weight),
            ", ".join(service.closed),
        ]
        for service in answer.services
    ]
    console().print(table(["service", "stable", "", "candidate", "", "closed"], rows))
    say(_moved(answer))


def _moved(answer: models.TrafficAnswer) -> str:
    """Say in a line what became of a call."""
    revision = f"Traffic revision {answer.revision}"
    if answer.applied_in_ms is not None:
        return f"{revision}, served by every worker after {answer.applied_in_ms:.1f} ms."
    return f"{revision}."
