"""``gateway release``: start, look at and steer releases that judge themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from gateway.admin import release_models as models
from gateway.cli import release_words as words
from gateway.cli.output import console, percent, say, table, talk, warn
from gateway.cli.release_none import none_yet
from gateway.cli.release_start import start
from gateway.cli.release_waits import span
from gateway.cli.values import duration, force_option, in_seconds, percentage, reason_option
from gateway.client.api import AdminClient, Reply
from gateway.client.exits import Exit
from gateway.client.link import Link, talks_to_gateway
from gateway.client.releases import Verb

F = TypeVar("F", bound=Callable[..., Any])

MAX_ROWS = 500


@click.group("release")
def command() -> None:
    """Start, look at and steer releases. ID is `current` where it is not said."""


def _ident(verb: F) -> F:
    """Add the optional ID."""
    return click.argument("ident", default="current", metavar="[ID]")(verb)


command.add_command(start)


# --- looking ------------------------------------------------------------------------------------


@command.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_ROWS),
    default=20,
    show_default=True,
    metavar="N",
    help="At most this many.",
)
@click.option(
    "--before",
    type=click.IntRange(min=1),
    metavar="N",
    help="Older ones: the next page, as the last one's end says.",
)
@talks_to_gateway
def list_(link: Link, limit: int, before: int | None) -> None:
    """List releases, newest first."""
    talk(link, lambda client: client.releases(limit=limit, before=before), _show_list)


def _show_list(page: models.ReleasesPage) -> None:
    """Print a row for each release and how to see older ones."""
    rows = [
        [
            each.id,
            each.version,
            each.state.replace("_", " "),
            f"{each.step}/{each.steps}",
            percent(words.weight(each)),
            ", ".join(each.services),
            words.moment(each.began),
            each.actor,
            words.because(each),
        ]
        for each in page.releases
    ]
    columns = ["id", "version", "state", "step", "weight", "services", "began", "who", "because"]
    console().print(table(columns, rows))
    if page.next is not None:
        say(f"Older ones: gateway release list --before {page.next}")


@command.command("show")
@_ident
@talks_to_gateway
def show(link: Link, ident: str) -> None:
    """Show one release as it stands: its step, its gate, both sides' figures, the evidence."""
    talk(link, lambda client: client.release(ident), _show_one, unless=none_yet(link, ident))


def _show_one(status: models.ReleaseStatus) -> None:
    """Print the picture."""
    from gateway.cli.release_show import picture

    printer = console()
    printer.print(picture(status, printer.width))


@command.command("watch")
@_ident
@click.option(
    "--timeout", type=duration, metavar="DURATION", help="How long to stay; for good without it."
)
@talks_to_gateway
def watch(link: Link, ident: str, timeout: str | None) -> None:
    """Watch a release until it is over or held; end with how it ended.

    0 finalized, 1 rolled back or aborted, 5 held, 6 --timeout ran out, 3 the gateway was away for
    60 s. The release needs nobody who watches.
    """
    from gateway.cli.release_follow import follow

    follow(link, ident, timeout=None if timeout is None else in_seconds(timeout))


@command.command("explain")
@_ident
@click.option("-v", "--verbose", is_flag=True, help="Also every number that there is.")
@talks_to_gateway
def explain(link: Link, ident: str, verbose: bool) -> None:
    """Tell a release's story: each decision, what spoke for it, and what is next."""
    found: list[models.ReleaseStatus] = []

    async def ask(client: AdminClient) -> Reply[models.DecisionsPage]:
        status = (await client.release(ident)).value
        found.append(status)
        return await client.decisions(status.id)  # of the same one, should another begin

    def tell(page: models.DecisionsPage) -> None:
        from gateway.cli.release_explain import story

        for each in story(found[0], page, verbose=verbose):
            say(each)

    talk(link, ask, tell, unless=none_yet(link, ident))


# --- steering -----------------------------------------------------------------------------------


def _steer(link: Link, ident: str, verb: Verb, request: models.ReleaseVerb) -> None:
    """Make one of the calls that take a reason."""
    talk(link, lambda client: client.steer_release(ident, verb, request), _show_moved)


def _show_moved(answer: models.ReleaseAnswer) -> None:
    """Say where a release is after a write, and whether and how fast anything moved."""
    said = f"R{words.title(answer)[1:]}: {words.line(answer)}"
    if not answer.changed:
        say(f"Nothing to change. {said}")
    elif answer.applied_in_ms is None:
        say(said)
    else:
        say(f"{said} · served by every worker after {answer.applied_in_ms:.1f} ms")


@command.command("pause")
@_ident
@reason_option
@talks_to_gateway
def pause(link: Link, ident: str, reason: str) -> None:
    """Keep the step in force until `resume`. It is still judged, and goes back where it must."""
    _steer(link, ident, "pause", models.ReleaseVerb(reason=reason))


@command.command("resume")
@_ident
@reason_option
@talks_to_gateway
def resume(link: Link, ident: str, reason: str) -> None:
    """Go on with a release that is paused or held."""
    _steer(link, ident, "resume", models.ReleaseVerb(reason=reason))


@command.command("promote")
@_ident
@click.option(
    "--to",
    type=percentage,
    metavar="PERCENT",
    help="The first step that is at least this; the next one without it.",
)
@reason_option
@force_option("Even where the candidate cannot serve.")
@talks_to_gateway
def promote(link: Link, ident: str, to: float | None, reason: str, force: bool) -> None:
    """Go on to the next step at once, whatever the step in force still waits for."""
    request = models.ReleasePromote(to=to, reason=reason, force=force)
    talk(link, lambda client: client.promote_release(ident, request), _show_moved)


@command.command("abort")
@_ident
@reason_option
@force_option("Even where stable has no healthy endpoint and the candidate has.")
@talks_to_gateway
def abort(link: Link, ident: str, reason: str, force: bool) -> None:
    """Take a release back: everything to stable at once. Ends with 0 where that is done.

    Ends with 4 where some service stays, because its stable cannot serve while its candidate can;
    it goes back by itself as soon as it can.
    """
    request = models.ReleaseVerb(reason=reason, force=force)
    answer = talk(link, lambda client: client.steer_release(ident, "abort", request), _show_aborted)
    if answer.state == "held":
        for each in words.left_over(answer):
            warn(each)
        sys.exit(Exit.REFUSED)


def _show_aborted(answer: models.ReleaseAnswer) -> None:
    """Say where it is, unless that is not what was asked for: that goes to standard error."""
    if answer.state != "held":
        _show_moved(answer)


@command.command("finalize")
@_ident
@reason_option
@talks_to_gateway
def finalize(link: Link, ident: str, reason: str) -> None:
    """Swap the roles of a release that carries 100 %: its candidate is stable from then on."""
    _steer(link, ident, "finalize", models.ReleaseVerb(reason=reason))


@command.command("renew")
@_ident
@talks_to_gateway
def renew(link: Link, ident: str) -> None:
    """Renew a release's lease: for a pipeline that does not use --wait."""
    talk(link, lambda client: client.renew_release(ident), _show_renewed)


def _show_renewed(answer: models.ReleaseAnswer) -> None:
    """Say how long the lease has."""
    lease = answer.lease
    name = f"R{words.title(answer)[1:]}"
    if lease is None:
        say(f"{name} has no lease: nothing to renew.")
    elif lease.rests:
        say(f"{name}: its lease of {span(lease.seconds)} rests.")
    else:
        say(f"{name}: {span(lease.left)} until its lease is lost (then {lease.on_lost}).")
