"""Addresses as the plan has them, and sockets bound to them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.channel.unix import bind_unix, listened_to

#: What waits to be accepted at most; the kernel lowers it to its own bound (somaxconn).
BACKLOG: Final = 4096

#: Where a listening socket per worker spreads connections evenly. Elsewhere one is shared by all.
SOCKET_PER_WORKER: Final = sys.platform == "linux"

#: A public Unix socket's: a front server in our group may connect.
_PUBLIC_MODE: Final = 0o660
_ADMIN_MODE: Final = 0o600


class AddressError(Exception):
    """An address cannot be listened on; the text says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One address, resolved. ``text`` is canonical: equal for two spellings of one address."""

    text: str
    family: int
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def shared(self) -> bool:
        """Whether all workers accept on one socket."""
        return bool(self.path) or not SOCKET_PER_WORKER


def parse(text: str) -> Address:
    """Resolve ``host:port``, ``[v6]:port`` or ``unix:path``. Raises AddressError."""
    if text.startswith("unix:"):
        path = str(Path(text.removeprefix("unix:")).absolute())
        return Address(text=f"unix:{path}", family=socket.AF_UNIX, path=path)
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535 or not bare:
        raise AddressError(f"{text}: not an address, expected host:port, [v6]:port or unix:path")
    try:
        found = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressError(f"{text}: the host is unknown: {error}") from error
    # `localhost` may be both; IPv4 is what every client tries.
    family, *_, where = min(found, key=lambda each: each[0] != socket.AF_INET)
    canonical, number = str(where[0]), int(where[1])
    shown = f"[{canonical}]" if family == socket.AF_INET6 else canonical
    return Address(text=f"{shown}:{number}", family=family, host=canonical, port=number)


def refuse_if_taken(address: Address) -> None:
    """Raise AddressError where anybody listens at the address already.

    ``SO_REUSEPORT`` would let us bind beside another listener of the same user without a word, so
    a bind without it comes first. ``SO_REUSEADDR`` passes over connections in TIME-WAIT only.
    """
    if address.path:
        if listened_to(address.path):
            raise AddressError(f"{address.text}: in use by another process")
        return
    with socket.socket(address.family, socket.SOCK_STREAM) as probe:
        _bind(probe, address)


def listen(
    address: Address, *, beside_others: bool, admin: bool = False, later: bool = False
) -> socket.socket:
    """Return a non-blocking listening socket. Raises AddressError.

    ``beside_others``: with ``SO_REUSEPORT``, one of several for the same address. ``later``: it
    is bound only, and whoever accepts on it begins to listen.
    """
    if address.path:
        try:
            mode = _ADMIN_MODE if admin else _PUBLIC_MODE
            return bind_unix(address.path, mode=mode, backlog=BACKLOG)
        except OSError as error:
            raise AddressError(f"{address.text}: {error.strerror}") from error
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        if beside_others and SOCKET_PER_WORKER:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(listener, address)
        listener.settimeout(0.0)
        if not later:
            listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def bound_text(listener: socket.socket, address: Address) -> str:
    """Return the address with the port that the kernel chose where the plan says 0."""
    if address.path or address.port:
        return address.text
    host = address.text.rpartition(":")[0]
    return f"{host}:{listener.getsockname()[1]}"


def adopt(fd: int) -> socket.socket | None:
    """Return the listening socket behind a descriptor; None (and closed) where it is none."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(fd)
        return None
    listener.settimeout(0.0)
    option = getattr(socket, "SO_ACCEPTCONN", None)
    if option is not None and not listener.getsockopt(socket.SOL_SOCKET, option):
        listener.close()
        return None
    return listener


def beside_others(listener: socket.socket) -> bool:
    """Tell whether further sockets can be bound to the same address."""
    return SOCKET_PER_WORKER and (
        listener.family != socket.AF_UNIX
        and listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) != 0
    )


def _bind(listener: socket.socket, address: Address) -> None:
    """Bind, or raise AddressError in words."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address.family == socket.AF_INET6:
        # `0.0.0.0:80` and `[::]:80` can both be configured; each means its own family alone.
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind((address.host, address.port))
    except OSError as error:
        raise AddressError(f"{address.text}: {_in_words(error)}") from error


def _in_words(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "in use by another process"
    if error.errno == errno.EACCES:
        return "not permitted: ports below 1024 need the right to bind them"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has this address"
    return error.strerror or str(error)
