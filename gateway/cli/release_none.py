"""No release yet: for who only looks, that is an answer and no refusal."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from gateway.cli.output import say
from gateway.client.api import AdminError
from gateway.client.exits import Exit
from gateway.client.link import Link


def none_yet(link: Link, ident: str) -> Callable[[AdminError], None]:
    """Return what ends the process where no release was named and there has been none.

    Programs get ``null``: a document in the place of the release.
    """

    def unless(error: AdminError) -> None:
        if ident != "current" or error.kind != "unknown-release":
            return
        if link.as_json:
            click.echo("null")
        else:
            say("There has been no release yet: `gateway release start` begins one.")
        sys.exit(Exit.DONE)

    return unless
