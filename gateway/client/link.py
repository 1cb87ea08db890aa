"""How a verb finds its gateway and proves itself: options, environment, a running demo.

A token is never an argument: those are in everybody's process list and in shell histories.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import click

from gateway.client import running_demo

#: RFC 6750 section 2.1: what a bearer token is made of.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_ADMIN = "http://127.0.0.1:9090"
TOKEN_VARIABLE = "GATEWAY_TOKEN"  # noqa: S105  the variable's name, not a token


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the admin API is: a base URL, and the Unix socket that it is spoken through."""

    base: str
    socket: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a verb needs to talk to a gateway: PEM files are for ``https`` addresses.

    ``ca`` holds authorities; ``client_cert`` the caller's own certificate, whose key is in
    ``client_key`` or, where that is None, in the same file.
    """

    address: Address
    token: str
    ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    as_json: bool = False

    def __repr__(self) -> str:
        """Say everything but the token."""
        return f"Link({self.address}, json={self.as_json})"


def parse_admin(text: str) -> Address:
    """Read ``http://…``, ``https://…``, ``host:port`` or ``unix:PATH``.

    Raises click.BadParameter for anything else, and for ``http`` to another machine: the token
    would travel in the clear, and a gateway asks for TLS there anyway.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path:
            raise click.BadParameter("unix: needs a path", param_hint="--admin")
        return Address(base="http://localhost", socket=path)
    url = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = url.port
    except ValueError:
        port = -1
    if url.scheme not in {"http", "https"} or not url.hostname or port == -1:
        expected = "http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:PATH"
        raise click.BadParameter(f"{text!r}; expected {expected}", param_hint="--admin")
    if url.username or url.query or url.fragment or url.path not in {"", "/"}:
        raise click.BadParameter(
            f"{text!r} has more than a scheme, a host and a port", param_hint="--admin"
        )
    if url.scheme == "http" and not _loopback(url.hostname):
        raise click.BadParameter(
            f"{text!r} is another machine: its token needs https://", param_hint="--admin"
        )
    return Address(base=f"{url.scheme}://{url.netloc}")


def _loopback(host: str) -> bool:
    """Tell whether a host is this machine by its name or address alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def resolve(
    admin: str | None, token_file: Path | None, folder: Path, environment: Mapping[str, str]
) -> tuple[Address, str]:
    """Return the admin address and the token to use.

    A running demo fills in what nobody said: both, or the token of exactly its own address. Raises
    click.UsageError where there is no token.
    """
    token = _token(token_file, environment)
    if token is None:
        demo = running_demo.find(folder, environment)
        if demo is not None and (admin is None or parse_admin(admin) == parse_admin(demo.admin)):
            return parse_admin(demo.admin), demo.token
        raise click.UsageError(
            f"no token: set {TOKEN_VARIABLE}, or give --token-file FILE"
            " (no demo of yours is running that could be meant)"
        )
    return parse_admin(admin or DEFAULT_ADMIN), token


def _token(token_file: Path | None, environment: Mapping[str, str]) -> str | None:
    """Return the token that was given by a file or by the environment, None where none was."""
    if token_file is None:
        token = environment.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return None
        where, hint = TOKEN_VARIABLE, TOKEN_VARIABLE
    else:
        where, hint = str(token_file), "--token-file"
        try:
            token = token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise click.BadParameter(f"{where}: {reason}", param_hint=hint) from error
    if not _BEARER.fullmatch(token):
        # Not quoted: it may be a secret with a typing error in it.
        expected = "expected letters, digits and -._~+/="
        raise click.BadParameter(f"{where}: holds no token, {expected}", param_hint=hint)
    return token


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """What was said on the command line, before anything is looked for."""

    admin: str | None
    token_file: Path | None
    ca: Path | None
    client_cert: Path | None
    client_key: Path | None
    as_json: bool

    def link(self) -> Link:
        """Find the gateway and the token. Raises click.UsageError where there is no token."""
        if self.client_key is not None and self.client_cert is None:
            raise click.UsageError("--client-key is a certificate's: give --client-cert, too")
        address, token = resolve(self.admin, self.token_file, Path.cwd(), os.environ)
        return Link(
            address=address,
            token=token,
            ca=self.ca,
            client_cert=self.client_cert,
            client_key=self.client_key,
            as_json=self.as_json,
        )


def link_options(verb: Callable[Concatenate[LinkOptions, P], R]) -> Callable[P, R]:
    """Give a verb the options of those that may talk to a gateway, as one ``LinkOptions``."""

    def linked(*args: P.args, **kwargs: P.kwargs) -> R:
        rest: dict[str, Any] = dict(kwargs)
        options = LinkOptions(**{name: rest.pop(name) for name in LinkOptions.__slots__})
        return verb(options, *args, **rest)  # P less these: no type says that

    update_wrapper(linked, verb)  # with the options that ``verb`` has so far
    for option in reversed(_OPTIONS):
        linked = option(linked)
    return linked


def talks_to_gateway(verb: Callable[Concatenate[Link, P], R]) -> Callable[P, R]:
    """Give a verb those options and the ``Link`` that they lead to."""

    def linked(options: LinkOptions, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return verb(options.link(), *args, **kwargs)

    update_wrapper(linked, verb)
    return link_options(linked)


#: Looked at where it is used, by ``AdminClient``: what an environment names and nobody needs (over
#: a Unix socket, for a rollback without control) must not be in the way.
_PEM = click.Path(readable=False, path_type=Path)

_OPTIONS = (
    click.option(
        "--admin",
        envvar="GATEWAY_ADMIN",
        metavar="ADDRESS",
        help="The admin API: http://, https://, HOST:PORT or unix:PATH. [env: GATEWAY_ADMIN]",
    ),
    click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A file with the token, instead of GATEWAY_TOKEN.",
    ),
    click.option(
        "--ca",
        envvar="GATEWAY_CA",
        type=_PEM,
        metavar="FILE",
        help="Authorities (PEM) that an https:// admin address is checked against. "
        "[env: GATEWAY_CA]",
    ),
    click.option(
        "--client-cert",
        envvar="GATEWAY_CLIENT_CERT",
        type=_PEM,
        metavar="FILE",
        help="Your certificate (PEM), where the admin API asks for one. [env: GATEWAY_CLIENT_CERT]",
    ),
    click.option(
        "--client-key",
        envvar="GATEWAY_CLIENT_KEY",
        type=_PEM,
        metavar="FILE",
        help="Its private key (PEM), where that is not in the same file. [env: GATEWAY_CLIENT_KEY]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the API's answer as it came."),
)
