"""Dialling a backend: the one asynchronous step on a request's way, taken once a connection.

Names are never resolved here: control does that and tells the addresses (``core.addresses``).
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from typing import TYPE_CHECKING

from gateway.proxy.errors import Failure
from gateway.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from gateway.proxy.endpoint import Endpoint
    from gateway.proxy.links import Answered, Dialler

#: What this machine lacks, not the backend: descriptors, memory for sockets, local ports.
SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)


async def dial(core: Dialler, endpoint: Endpoint, attempt: Answered, within: float) -> None:
    """Connect to ``endpoint`` within ``within`` seconds and tell the attempt how it went."""
    try:
        connection = await _connect(core, endpoint, within)
    except Failure as failure:
        _let_go(failure)
        attempt.on_dial_failed(failure)
        return
    except asyncio.CancelledError:
        attempt.on_dial_failed(Failure("draining"))
        raise
    except Exception as error:
        # Whatever it is (a name that TLS cannot take, say): the request must not wait for it.
        attempt.on_dial_failed(Failure("connect", repr(error), cause=error))
        raise
    made(endpoint, attempt, connection)


def _let_go(failure: BaseException) -> None:
    """Forget the frames that a failure came through.

    They hold the attempt, which holds the failure, and the loop's own hold their error: in an
    outage these cycles, each with its request, would wait for a collector that hardly ever runs.
    """
    each: BaseException | None = failure
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__


def made(endpoint: Endpoint, attempt: Answered, connection: UpstreamConnection) -> None:
    """Hand a new connection to the attempt that wanted it."""
    if not connection.closed:  # it may be lost again by the time that this task goes on
        endpoint.connections.add(connection)
    attempt.on_connected(connection)


async def _connect(core: Dialler, endpoint: Endpoint, within: float) -> UpstreamConnection:
    addresses = core.addresses_of(endpoint.host)
    if not addresses:
        raise Failure("unresolved", endpoint.host)
    first: Failure | None = None
    try:
        async with asyncio.timeout(within):
            for address in addresses:
                try:
                    return await _connect_to(core, endpoint, address)
                except ssl.SSLError as error:
                    raise Failure("tls", str(error), cause=error) from error
                except OSError as error:
                    if first is None:
                        kind = "exhausted" if error.errno in SHORTAGES else "connect"
                        first = Failure(kind, f"{address}: {error}", cause=error)
    except TimeoutError as error:
        raise Failure("connect-timeout", f"{within} s", cause=error) from error
    assert first is not None
    raise first


async def _connect_to(core: Dialler, endpoint: Endpoint, address: str) -> UpstreamConnection:
    _, connection = await core.loop.create_connection(  # type: ignore[type-var]
        # uvloop and asyncio take any object with a protocol's methods; a compiled class cannot
        # inherit from asyncio.Protocol.
        lambda: UpstreamConnection(core, endpoint),
        address,
        endpoint.port,
        ssl=endpoint.tls,
        server_hostname=endpoint.host if endpoint.tls is not None else None,
    )
    return connection
