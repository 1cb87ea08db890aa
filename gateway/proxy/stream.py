"""What every downstream of a request is, in C's types: ``links.Stream`` says what else it does.

An exchange reads these attributes and makes these calls of every request. Compiled where a compiler
is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cython

if TYPE_CHECKING:
    from gateway.wire.head import Head


@cython.cclass
class ClientStream:
    """A request's downstream; see ``links.Stream``."""

    listener: cython.int = cython.declare(cython.int, visibility="public")
    peer: str = cython.declare(str, visibility="public")
    tls: cython.bint = cython.declare(cython.bint, visibility="public")
    sent: cython.longlong = cython.declare(cython.longlong, visibility="public")
    taken: cython.longlong = cython.declare(cython.longlong, visibility="public")
    memo: Any = cython.declare(object, visibility="public")

    @cython.ccall
    def expect(self, deadline: cython.double, between: cython.double) -> None:
        """Bound the exchange: ``deadline`` for the whole, ``between`` for each silence."""
        raise NotImplementedError

    @cython.ccall
    def respond(
        self, head: Head, drop: cython.ulonglong, extra: bytes, body: bytes, ended: cython.bint
    ) -> None:
        """Send a final head, with what there is of its body."""
        raise NotImplementedError
