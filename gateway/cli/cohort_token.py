"""``gateway cohort-token``: a tester's override, signed here, on the operator's machine.

The secret never travels: the token is made from the file that the gateway reads too. What a
gateway is asked for is the id of the split in force, since a token is bound to it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Literal

import click

from gateway.cli.values import duration, in_seconds
from gateway.client.link import LinkOptions, link_options

MAX_TTL = 7 * 86_400


@click.command("cohort-token")
@click.argument("side", type=click.Choice(["stable", "candidate"]))
@click.option(
    "--host",
    default="localhost",
    show_default=True,
    metavar="NAME",
    help="The host name, without a port, that the token is good for.",
)
@click.option(
    "--ttl",
    type=duration,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How long it is good, up to 7d.",
)
@click.option(
    "--release", metavar="ID", help="The split it is good for. Without it: the one in force."
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The gateway's configuration: its traffic.cohort secret signs.",
)
@click.option(
    "--secret-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file with the secret, instead of --config.",
)
@link_options
def command(
    options: LinkOptions,
    side: Literal["stable", "candidate"],
    host: str,
    ttl: str,
    release: str | None,
    config: Path | None,
    secret_file: Path | None,
) -> None:
    """Mint a token that puts a tester on SIDE, whatever the weight.

    It goes into the query (?gw_override=TOKEN), a field or a cookie called gw_override.
    """
    from gateway.policy.override import mint

    seconds = in_seconds(ttl)
    if not 1 <= seconds <= MAX_TTL:
        raise click.BadParameter(f"{ttl}; expected 1s to 7d", param_hint="--ttl")
    secret = _secret(config, secret_file)
    if release is None:
        release = _release_in_force(options)
    expires = int(time.time() + seconds)
    try:
        token = mint(secret, host=host, release=release, side=side, expires=expires)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if options.as_json:
        answer = {"token": token, "side": side, "host": host, "release": release}
        click.echo(json.dumps({**answer, "expires": expires}))
    else:
        click.echo(token)


def _secret(config: Path | None, secret_file: Path | None) -> bytes:
    """Return the signing secret, from its own file or the one that a configuration names."""
    if (config is None) == (secret_file is None):
        raise click.UsageError("give exactly one of --config and --secret-file")
    if secret_file is not None:
        secret = secret_file.read_bytes().strip()
    else:
        secret = _configured(config) if config is not None else b""
    if not secret:
        raise click.UsageError(f"{secret_file or config}: no secret there (traffic.cohort)")
    return secret


def _configured(config: Path) -> bytes:
    """Return the secret that a configuration points to, empty where it has none.

    Its other secrets (admin tokens in variables) need not be there on a tester's machine.
    """
    from gateway.config.load import ConfigErrors, read_file

    try:
        cohort = read_file(config, os.environ, read_secrets=False).config.traffic.cohort
    except ConfigErrors as error:
        raise click.UsageError(f"--config has errors:\n{error}") from error
    if cohort.secret_env is not None:
        return os.environb.get(cohort.secret_env.encode(), b"").strip()
    if cohort.secret_file is None:
        return b""
    try:
        return Path(cohort.secret_file).read_bytes().strip()
    except OSError as error:
        raise click.UsageError(f"{cohort.secret_file}: {error.strerror}") from error


def _release_in_force(options: LinkOptions) -> str:
    """Ask the gateway for the id of the split in force."""
    import asyncio

    from gateway.cli.output import fail
    from gateway.client.api import AdminClient, AdminError

    async def ask() -> str:
        async with AdminClient(options.link()) as client:
            return (await client.status()).value.release or ""

    try:
        return asyncio.run(ask())
    except AdminError as error:
        fail(error)
