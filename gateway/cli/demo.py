"""``gateway demo``: the demo platform, and the knobs of its services."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Literal

import click
import msgspec

from gateway.cli.values import duration, in_seconds
from gateway.client import running_demo
from gateway.client.exits import Exit
from gateway.client.running_demo import ClientFile, Instance
from gateway.demo.knob import Change, Setting

_SERVICE = click.Choice(["website", "ivor", "events", "newsroom"])
_COLOR = click.Choice(["blue", "green"])


@click.group("demo", invoke_without_command=True)
@click.option(
    "--free-ports", is_flag=True, help="Take whatever ports are free instead of the usual ones."
)
@click.option("--check", is_flag=True, help="Start, visit everything through the gateway, stop.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=running_demo.FOLDER_FILE.parent,
    show_default=True,
    metavar="FOLDER",
    help="Where its configuration, token, state and logs go.",
)
@click.pass_context
def command(ctx: click.Context, free_ports: bool, check: bool, folder: Path) -> None:
    """Run four small services in both colors behind a gateway, until Ctrl-C.

    While it runs, the other verbs find its address and token by themselves.
    """
    if ctx.invoked_subcommand is not None:
        return
    from gateway.demo.children import DemoError
    from gateway.demo.run import Options, run_demo

    try:
        options = Options(folder=folder, free_ports=free_ports, check=check)
        ctx.exit(run_demo(options, click.echo))
    except DemoError as error:
        click.echo(f"gateway demo: {error}", err=True)
        ctx.exit(Exit.REFUSED)


@command.command("break")
@click.argument("service", type=_SERVICE)
@click.argument("color", type=_COLOR)
@click.option(
    "--fail",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Answer this share of requests with 500, from 0 to 1.",
)
@click.option("--slow", type=duration, metavar="DURATION", help="Wait before each answer.")
@click.option("--dead", is_flag=True, help="Close its port and reset its connections.")
@click.option("--unhealthy", is_flag=True, help="Answer health probes with 503.")
@click.option(
    "--replica", type=click.IntRange(min=1), metavar="N", help="Only the Nth process of the color."
)
def break_(
    service: str,
    color: Literal["blue", "green"],
    fail: float | None,
    slow: str | None,
    dead: bool,
    unhealthy: bool,
    replica: int | None,
) -> None:
    """Make SERVICE's COLOR slow, failing, unhealthy or dead. Health probes see the last two."""
    if fail is None and slow is None and not dead and not unhealthy:
        raise click.UsageError("say how: --fail, --slow, --dead or --unhealthy")
    change = Change(
        fail=msgspec.UNSET if fail is None else fail,
        slow_ms=msgspec.UNSET if slow is None else int(in_seconds(slow) * 1000),
        dead=True if dead else msgspec.UNSET,
        unhealthy=True if unhealthy else msgspec.UNSET,
    )
    _turn(_running(), change, service, color, replica)


@command.command("heal")
@click.argument("service", type=_SERVICE, required=False)
@click.argument("color", type=_COLOR, required=False)
def heal(service: str | None, color: Literal["blue", "green"] | None) -> None:
    """Undo what `break` did: to SERVICE's COLOR, to SERVICE, or to all."""
    healthy = Setting()
    change = Change(
        slow_ms=healthy.slow_ms,
        fail=healthy.fail,
        dead=healthy.dead,
        unhealthy=healthy.unhealthy,
    )
    _turn(_running(), change, service, color, None)


def _running() -> ClientFile:
    """Return the running demo's file. Raises click.UsageError where none runs."""
    found = running_demo.find(Path.cwd(), os.environ)
    if found is None:
        raise click.UsageError("no demo of yours is running: start one with `gateway demo`")
    return found


def _turn(
    demo: ClientFile, change: Change, service: str | None, color: str | None, replica: int | None
) -> None:
    """Turn the knob of every process that is meant, and say what is in force there now."""
    meant = [
        instance
        for instance in demo.instances
        if service in {None, instance.service}
        and color in {None, instance.color}
        and replica in {None, instance.replica}
    ]
    if not meant:
        raise click.UsageError(f"{service} {color} has no process {replica}")
    failures = 0
    for instance, said in zip(meant, asyncio.run(_post(meant, change)), strict=True):
        name = f"{instance.service}-{instance.color}-{instance.replica}"
        failures += said is None
        click.echo(f"{name}: {_words(said)}", err=said is None)
    if failures:
        raise SystemExit(Exit.UNREACHABLE)


async def _post(instances: list[Instance], change: Change) -> list[Setting | None]:
    """Post a change to each control port; None where nobody answers."""
    import aiohttp

    said: list[Setting | None] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        for instance in instances:
            try:
                async with session.post(
                    f"http://127.0.0.1:{instance.control}/_demo",
                    data=msgspec.json.encode(change),
                    headers={"Content-Type": "application/json"},
                ) as response:
                    said.append(msgspec.json.decode(await response.read(), type=Setting))
            except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
                said.append(None)
    return said


def _words(setting: Setting | None) -> str:
    """Say a setting in words."""
    if setting is None:
        return "its process does not answer"
    words = []
    if setting.dead:
        words.append("dead")
    if setting.fail:
        words.append(f"fails {setting.fail:.0%} of requests")
    if setting.slow_ms:
        words.append(f"waits {setting.slow_ms} ms before each answer")
    if setting.unhealthy:
        words.append("fails its health probes")
    return ", ".join(words) or "healthy"
