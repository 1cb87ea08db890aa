"""Free ports that stay free until they are bound.

What the operating system gives for port 0 comes from the range that it takes outgoing connections'
ports from: by the time that a service binds it, a connection may have it. So these come from below.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

HOST = "127.0.0.1"

#: Where ports are looked for, up to the range of outgoing connections.
LOWEST = 20_000
_USUAL_HIGHEST = 32_767
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def highest() -> int:
    """Return the port below the range that outgoing connections take theirs from."""
    try:
        return int(_RANGE_FILE.read_text("ascii").split()[0]) - 1
    except (OSError, ValueError, IndexError):
        return _USUAL_HIGHEST


def free_ports(count: int) -> list[int]:
    """Return different ports that nobody listens on now. Raises OSError where there are too few."""
    found: list[int] = []
    top = highest()
    tried = list(range(LOWEST, top + 1)) if top - LOWEST > count else [0] * count
    random.shuffle(tried)
    with ExitStack() as held:
        for port in tried:
            # Held until all are known: the same one is not given twice.
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found.append(int(probe.getsockname()[1]))
            if len(found) == count:
                return found
    raise OSError(f"no {count} free ports from {LOWEST} to {top}")
