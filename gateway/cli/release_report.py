"""How a watch is told: a line at a time for logs, a document for programs, a picture for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Protocol

import click

from gateway.admin import release_models as models
from gateway.cli import release_words as words
from gateway.cli.output import say, warn
from gateway.client.api import Reply

#: Seconds after which a log hears of a release to which nothing has happened.
HEARTBEAT = 10.0

Seen = Reply[models.ReleaseStatus]


class Reporter(Protocol):
    """What a watch tells of what it sees."""

    def seen(self, reply: Seen) -> None:
        """Tell of one answer."""

    def note(self, text: str) -> None:
        """Tell of something beside the release: a gateway that is away, a lease."""

    def close(self) -> None:
        """End: nothing more is told."""


class Lines:
    """A line for each change, and one now and then between them."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._last: object = None
        self._told = 0.0
        self._sick: object = ()

    def seen(self, reply: Seen) -> None:
        """Print a line where something has changed, or where the last one is long ago."""
        status = reply.value
        mark = words.fingerprint(status)
        if mark == self._last and self._clock() - self._told < HEARTBEAT:
            return
        self._last, self._told = mark, self._clock()
        say(f"{words.clock_time(self._wall())} {words.line(status)}")
        sick = words.sick(status)
        if sick != self._sick:
            self._sick = sick
            for ailment in words.ailments(status):
                say(f"          {ailment}")

    def note(self, text: str) -> None:
        """Print it with its time on standard error."""
        warn(f"{words.clock_time(self._wall())} {text}")

    def close(self) -> None:
        """Nothing is kept back."""


class Documents:
    """The API's answer in one line for each change; the last line is the last that was seen."""

    def __init__(self) -> None:
        self._mark: object = None
        self._printed = ""
        self._held_back = ""

    def seen(self, reply: Seen) -> None:
        """Print the answer where something has changed; else keep it for the end."""
        document = compact(reply.raw)
        mark = words.fingerprint(reply.value)
        self._held_back = document
        if mark != self._mark:
            self._mark = mark
            self._print()

    def note(self, text: str) -> None:
        """Print it on standard error."""
        warn(text)

    def close(self) -> None:
        """Print what was seen last, if that is not printed yet."""
        if self._held_back != self._printed:
            self._print()

    def _print(self) -> None:
        """Print one document."""
        click.echo(self._held_back)
        self._printed = self._held_back


def compact(raw: bytes) -> str:
    """Return an answer as one line: fields that this version does not know stay in it."""
    return json.dumps(json.loads(raw), separators=(",", ":"))


def for_people(clock: Callable[[], float], wall: Callable[[], float]) -> Reporter:
    """Return a picture where someone looks at a terminal, lines elsewhere.

    A pipeline's runner may pretend to be a terminal: ``CI`` says what it is.
    """
    alone = not sys.stdout.isatty() or os.environ.get("TERM") in {None, "", "dumb"}
    if alone or os.environ.get("CI"):
        return Lines(clock, wall)
    from gateway.cli.release_show import Picture

    return Picture(wall)
