"""Sockets that a service manager has bound for us (``LISTEN_FDS``, sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from gateway.supervisor import addresses
from gateway.supervisor.addresses import AddressError

if TYPE_CHECKING:
    from gateway.supervisor.addresses import Address
    from gateway.supervisor.plan import Plan
    from gateway.supervisor.sockets import Taken

#: SD_LISTEN_FDS_START
FIRST: Final = 3
VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def activated() -> list[tuple[str, socket.socket]]:
    """Take the sockets that were passed to this very process, each with its name.

    The variables are taken out of the environment: they are no child's, and no later program's.
    Raises AddressError where a descriptor is no listening socket.
    """
    told = {name: os.environ.pop(name, "") for name in VARIABLES}
    if told["LISTEN_PID"] != str(os.getpid()) or not told["LISTEN_FDS"].isascii():
        return []
    count = int(told["LISTEN_FDS"]) if told["LISTEN_FDS"].isdigit() else 0
    names = told["LISTEN_FDNAMES"].split(":")
    found = []
    for at in range(count):
        name = names[at] if at < len(names) and names[at] else f"descriptor {FIRST + at}"
        try:
            os.set_inheritable(FIRST + at, False)  # noqa: FBT003 -- positional-only in os
        except OSError as error:
            raise AddressError(f"LISTEN_FDS: {name}: {error.strerror}") from error
        listener = addresses.adopt(FIRST + at)
        if listener is None:
            raise AddressError(f"LISTEN_FDS: {name}: not a listening socket")
        found.append((name, listener))
    return found


def place(given: list[tuple[str, socket.socket]], plan: Plan, taken: Taken) -> None:
    """Put each socket where the plan has its address.

    Raises AddressError for one that the configuration has no listener for: whoever connects there
    would wait for ever.
    """
    public = [addresses.parse(text) for text in plan.listen]
    admin = addresses.parse(plan.admin)
    for name, listener in given:
        found = [each for each in public if _is(listener, each)]
        found = found or [each for each in public if _covers(listener, each)]
        if found:
            taken.give(found[0].text, listener)
            public.remove(found[0])
        elif _is(listener, admin):
            taken.give(admin.text, listener, admin=True)
        else:
            raise AddressError(
                f"LISTEN_FDS: {name} listens on {_text(listener)}, which is no address of "
                "`listen` or `admin` in the configuration"
            )


def _is(listener: socket.socket, address: Address) -> bool:
    """Tell whether a socket is bound to just that address."""
    return listener.family == address.family and _text(listener) == address.text


def _covers(listener: socket.socket, address: Address) -> bool:
    """Tell whether a socket takes an IPv4 address's connections too (``ListenStream=80``)."""
    if listener.family != socket.AF_INET6 or address.family != socket.AF_INET:
        return False
    if listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return False
    host, port = listener.getsockname()[:2]
    return host == "::" and address.host == "0.0.0.0" and port == address.port  # noqa: S104


def _text(listener: socket.socket) -> str:
    """Return where a socket is bound, as ``Address.text`` has it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    host, port = name[:2]
    return f"[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{host}:{port}"
