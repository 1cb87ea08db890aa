"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


# Plain functions, not click.ParamType: that is generic in some versions of click and not in others.


def percentage(text: str) -> float:
    """Read a percentage, 0 to 100 in steps of 0.01, with or without its sign."""
    number = text.strip().removesuffix("%").strip()
    if not re.fullmatch(r"\d{1,3}(\.\d{1,2})?", number, re.ASCII) or float(number) > 100:
        expected = "expected 0 to 100 in steps of 0.01, like 20 or 0.05"
        raise click.BadParameter(f"{text!r}; {expected}")
    return float(number)


def duration(text: str) -> str:
    """Check a duration like ``500ms``, ``30s``, ``1h``; it stays text, the API reads it too."""
    if not re.fullmatch(r"\d{1,7}(ms|s|m|h|d)", text, re.ASCII):
        raise click.BadParameter(f"{text!r}; expected a duration like 500ms, 30s, 2m, 1h")
    return text


def lease(text: str) -> str:
    """Check how often a release is to be renewed: from a second to ``99m``."""
    if not re.fullmatch(r"[1-9]\d{3,5}ms|[1-9]\d{0,2}s|[1-9]\d?m", text, re.ASCII):
        raise click.BadParameter(f"{text!r}; expected 1s up to 99m, like 30s, 2m")
    return text


def in_seconds(duration: str) -> float:
    """Return the seconds of what ``duration`` let through."""
    number = duration.rstrip("mshd")
    return int(number) * _UNITS[duration[len(number) :]]


COLOR = click.Choice(["blue", "green"])
SLOT = click.Choice(["blue", "green", "stable", "candidate"])


def config_option(says: str, *, required: bool = True) -> Callable[[F], F]:
    """Add ``--config``, as the argument ``file``."""
    return click.option(
        "--config",
        "file",
        required=required,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=says,
    )


def reason_option(verb: F) -> F:
    """Add ``--reason``."""
    return click.option("--reason", default="", metavar="TEXT", help="Why; kept in the audit log.")(
        verb
    )


def services_option(verb: F) -> F:
    """Add ``--service``, as often as wanted."""
    return click.option(
        "--service",
        "services",
        multiple=True,
        metavar="NAME",
        help="Only this service; may be repeated. Without it: all of them.",
    )(verb)


def revision_option(verb: F) -> F:
    """Add ``--if-revision``."""
    return click.option(
        "--if-revision",
        "revision",
        type=click.IntRange(min=0),
        metavar="N",
        help="Only if N is the traffic revision in force (see status); refused otherwise.",
    )(verb)


def force_option(about: str) -> Callable[[F], F]:
    """Add ``--force`` with what it overrides."""
    return click.option("--force", is_flag=True, help=about)


def chosen(services: tuple[str, ...]) -> list[str] | None:
    """Return the services as the API has them: None for all."""
    return list(services) or None
