"""A whole ``release watch`` or ``release start --wait``: from its session to its exit status."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final, NoReturn

from gateway.admin import release_models as models
from gateway.cli import release_words as words
from gateway.cli.output import fail, say, warn
from gateway.cli.release_none import none_yet
from gateway.cli.release_report import Documents, Reporter, for_people
from gateway.cli.release_waits import span
from gateway.cli.release_watch import EXITS, PATIENCE, Renewal, Times, Watch, Watched
from gateway.client.api import AdminClient, AdminError, Reply
from gateway.client.exits import Exit
from gateway.client.link import Link

#: Decisions that are shown of a release that has not gone through.
LAST_DECISIONS: Final = 5

REAL = Times()


async def _follow(
    client: AdminClient,
    ident: str,
    watch: Watch,
    watched: Watched,
    renewal: Renewal | None,
) -> Exit:
    """Watch, and renew beside it: a look that hangs must not cost the lease."""
    if renewal is None:
        return await watch.until_over(ident, watched)
    error: AdminError | None = None
    ended = Exit.UNREACHABLE
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(renewal.keep(), name="renew")
        try:
            ended = await watch.until_over(ident, watched)
        except AdminError as gone:
            error = gone  # raised bare below, not in a group
        finally:
            keeping.cancel()
    if error is not None:
        raise error
    return ended


async def _session(
    link: Link,
    ident: str,
    request: models.ReleaseStart | None,
    reporter: Reporter,
    watched: Watched,
    stay: float | None,
) -> tuple[Exit, models.DecisionsPage | None]:
    """Start the release, where that is asked for, and watch it to its end."""
    end_on_sigterm()
    async with AdminClient(link, sleep=REAL.sleep) as client:
        watch = Watch(client, reporter, REAL, stay)
        renewal = None
        if request is not None:
            watched.asked = True
            reply = await client.start_release(request)
            ident = reply.value.id
            watched.last = Reply(reply.value, reply.raw)
            if link.as_json:
                reporter.seen(watched.last)
            else:
                say(began(reply.value))
            if reply.value.lease is not None:
                renewal = Renewal(client, ident, reply.value.lease, reporter.note, REAL)
                watched.renewing = True
        ended = await _follow(client, ident, watch, watched, renewal)
        return ended, await _ledger(client, ended, watched)


async def _ledger(
    client: AdminClient, ended: Exit, watched: Watched
) -> models.DecisionsPage | None:
    """Return the decisions of a release that has not gone through, where they can be had."""
    if watched.last is None or ended not in {Exit.ROLLED_BACK, Exit.HELD}:
        return None
    try:
        return (await client.decisions(watched.last.value.id, patience=PATIENCE)).value
    except AdminError:
        return None  # what is known is told all the same


def began(answer: models.ReleaseStatus) -> str:
    """Say that a release has begun, with what, and for how long."""
    lease = answer.lease
    kept = "" if lease is None else f"; lease {span(lease.seconds)}, lost: {lease.on_lost}"
    return (
        f"Release {words.title(answer)[8:]} of {', '.join(answer.services)} has begun: "
        f"{words.plan(answer)}{kept}."
    )


def end_on_sigterm() -> None:
    """Have SIGTERM do what Ctrl-C does: a runner that cancels a job sends it."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is None:
        return
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (NotImplementedError, RuntimeError, ValueError):
        return  # not in the main thread, or no such signals: the default it is


def follow(
    link: Link,
    ident: str,
    *,
    request: models.ReleaseStart | None = None,
    timeout: float | None = None,
) -> NoReturn:
    """Watch a release, or start one and watch it; end the process with how it ended."""
    reporter = Documents() if link.as_json else for_people(REAL.clock, REAL.wall)
    watched = Watched()
    try:
        ended, decisions = asyncio.run(_session(link, ident, request, reporter, watched, timeout))
    except AdminError as error:
        reporter.close()
        if request is None and watched.last is None:
            none_yet(link, ident)(error)
        _leave(watched)
        fail(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        reporter.close()
        _interrupted(watched)
        sys.exit(Exit.INTERRUPTED)
    except BaseException:
        reporter.close()  # the terminal is given back whatever happens
        raise
    reporter.close()
    _conclude(link, ended, watched, decisions)
    sys.exit(ended)


def _leave(watched: Watched) -> None:
    """Say what becomes of the release, where there is one."""
    if watched.last is not None and watched.last.value.state not in EXITS:
        for each in words.left_behind(watched.last.value, renewing=watched.renewing):
            warn(each)


def _interrupted(watched: Watched) -> None:
    """Say what an interrupted watch leaves behind."""
    warn("interrupted")
    if watched.last is None and watched.asked:
        warn("  the gateway had not answered yet: the release may have begun")
        warn("  look: gateway release show")
    _leave(watched)


def _conclude(
    link: Link, ended: Exit, watched: Watched, decisions: models.DecisionsPage | None
) -> None:
    """Say how it ended: a line where it is through, all that is known where it is not."""
    last = watched.last
    if ended is Exit.WAIT_RAN_OUT:
        warn("the wait ran out (--timeout)")
        _leave(watched)
        if last is None:
            warn("  the gateway did not answer in that time")
        return
    if last is None:
        raise AssertionError("a watch that saw nothing has no end")
    if ended is Exit.DONE:
        if not link.as_json:
            say(words.success(last.value))
        return
    for each in words.ending(last.value):
        warn(each)
    rows = decisions.decisions[-LAST_DECISIONS:] if decisions is not None else []
    if rows:
        warn("  the last decisions:")
    for row in rows:
        warn(f"    {words.clock_time(row.at)} {words.decided(row)}")
    warn(f"  every decision with its numbers: gateway release explain {last.value.id}")
